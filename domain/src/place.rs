//! Where `AuthConfig` stands in a run: told from its thumbprints alone.

use crate::{Thumbprint, plan::Observed, snapshot::AuthConfig};

/// A state of `AuthConfig` that this run knows. Anything else was done by somebody else. In the order of a run.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Place {
    /// As the plan found it.
    Before,
    /// The new certificate is next.
    Staged,
    /// The new certificate is current, the old one previous.
    Published,
    /// The new certificate is current, and there is no previous one.
    Cleared,
    /// On the way back: the new certificate is current, the old one is staged again.
    Restaged,
    /// On the way back: the old certificate is current again.
    Restored,
}

impl Place {
    /// Whether a run comes here only when it is taken back.
    #[must_use]
    pub fn is_way_back(self) -> bool {
        matches!(self, Self::Restaged | Self::Restored)
    }

    /// The furthest known state that these thumbprints fit; `None` when somebody else changed them.
    #[must_use]
    pub fn of(seen: &AuthConfig, observed: &Observed, new: Option<&Thumbprint>) -> Option<Self> {
        let (old, before) = (observed.current.as_ref(), observed.previous.as_ref());
        let is = |current, previous, next| seen.thumbprints() == [current, previous, next];
        let Some(new) = new else {
            return is(old, before, observed.next.as_ref()).then_some(Self::Before);
        };
        let new = Some(new);
        let places = [
            (Self::Restored, is(old, new, None)),
            (Self::Restaged, old.is_some() && is(new, old, old)),
            (Self::Cleared, is(new, None, None)),
            (Self::Published, is(new, old, None)),
            (Self::Staged, is(old, before, new)),
            (Self::Before, is(old, before, observed.next.as_ref()) || is(old, before, None)),
        ];
        places.into_iter().find(|(_, fits)| *fits).map(|(place, _)| place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thumbprint(digit: char) -> Thumbprint {
        Thumbprint::parse(&digit.to_string().repeat(40)).unwrap()
    }

    fn seen(current: Option<char>, previous: Option<char>, next: Option<char>) -> AuthConfig {
        AuthConfig {
            domain_controller: "dc01.contoso.example".to_owned(),
            current: current.map(thumbprint),
            previous: previous.map(thumbprint),
            next: next.map(thumbprint),
            next_effective_at: None,
            changed_at: None,
        }
    }

    fn observed(next: Option<char>) -> Observed {
        Observed {
            current: Some(thumbprint('A')),
            current_not_after: None,
            previous: Some(thumbprint('0')),
            next: next.map(thumbprint),
            domain_controllers: Vec::new(),
        }
    }

    #[test]
    fn the_thumbprints_tell_how_far_a_run_is() {
        let cases = [
            ((Some('A'), Some('0'), None), Some(Place::Before)),
            ((Some('A'), Some('0'), Some('B')), Some(Place::Staged)),
            ((Some('B'), Some('A'), None), Some(Place::Published)),
            ((Some('B'), None, None), Some(Place::Cleared)),
            ((Some('B'), Some('A'), Some('A')), Some(Place::Restaged)),
            ((Some('A'), Some('B'), None), Some(Place::Restored)),
            ((Some('A'), Some('0'), Some('C')), None),
            ((Some('C'), Some('A'), None), None),
            ((Some('A'), None, None), None),
        ];
        for ((current, previous, next), place) in cases {
            let found = Place::of(&seen(current, previous, next), &observed(None), Some(&thumbprint('B')));
            assert_eq!(found, place, "{current:?} {previous:?} {next:?}");
        }
    }

    #[test]
    fn before_there_is_a_new_certificate_only_what_the_plan_found_is_known() {
        assert_eq!(Place::of(&seen(Some('A'), Some('0'), None), &observed(None), None), Some(Place::Before));
        assert_eq!(Place::of(&seen(Some('A'), Some('0'), Some('B')), &observed(None), None), None);
    }

    #[test]
    fn a_staged_certificate_that_is_not_fit_may_be_replaced_or_taken_out() {
        let observed = observed(Some('C'));
        for next in [Some('C'), None] {
            let found = Place::of(&seen(Some('A'), Some('0'), next), &observed, Some(&thumbprint('B')));
            assert_eq!(found, Some(Place::Before));
        }
    }

    #[test]
    fn without_a_current_certificate_publication_leaves_no_previous_one() {
        let observed = Observed { current: None, previous: None, ..observed(None) };
        let found = Place::of(&seen(Some('B'), None, None), &observed, Some(&thumbprint('B')));
        assert_eq!(found, Some(Place::Cleared));
    }
}
