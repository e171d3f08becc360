//! Changes of the keys that an application or service principal holds.
//!
//! Graph has no version of a list of keys, and each change replaces the whole list: whoever writes what a stale replica has told erases what somebody else
//! registered meanwhile (cloud.md 2.4). So nothing is sent before several reads have said the same, for longer than replicas are known to be behind; and what
//! is read after it is searched for keys that nobody had shown before.

use std::convert::Infallible;

use domain::{Thumbprint, Trouble};
use reqwest::Method;
use serde_json::{Value as Json, json};

use super::{
    Cloud, CloudError, Credential, Difference, Holder,
    error::Result,
    graph::{REFUSED, failed, known},
    keys::{desired, difference, key_id_of, same_id},
};

/// How many reads in a row must say the same before it is believed, and how many are made after a change.
pub(crate) const READS: usize = 5;
/// How many reads are made at most until so many say the same.
const MOST_READS: usize = 3 * READS;

/// What is to become of a holder's keys. Everything that is not named stays as it is.
#[derive(Clone, Debug)]
pub enum Change {
    /// A certificate's public key beside the others.
    Add {
        /// X.509, DER.
        certificate_der: Vec<u8>,
        /// What people see it by.
        display_name: String,
        /// Key ids that must be there before: a read that lacks one is stale, or somebody has removed it.
        beside: Vec<String>,
    },
    /// These keys, by their ids, are to go.
    Remove {
        /// Key ids.
        key_ids: Vec<String>,
        /// Key ids that must be there before, as with [`Change::Add`].
        beside: Vec<String>,
    },
}

/// What a change came to.
#[derive(Clone, Debug)]
pub struct Changed {
    /// Whether everything was already so, and nothing was sent.
    pub already: bool,
    /// The keys before.
    pub before: Vec<Credential>,
    /// The keys after.
    pub after: Vec<Credential>,
}

/// Why a change was not made, or was made and cannot be vouched for.
#[derive(Debug)]
pub enum ChangeError<E> {
    /// The intent could not be put on record: nothing was sent.
    Intent(E),
    /// The tenant.
    Cloud(CloudError),
    /// The change was made, and has erased keys that somebody else registered just before it: no read had shown them.
    Lost {
        /// What to tell people.
        error: CloudError,
        /// Those keys, as a replica that was behind has shown them afterwards.
        keys: Vec<Credential>,
    },
}

impl<E> From<CloudError> for ChangeError<E> {
    fn from(error: CloudError) -> Self {
        Self::Cloud(error)
    }
}

impl ChangeError<Infallible> {
    fn widened<E>(self) -> ChangeError<E> {
        match self {
            Self::Intent(never) => match never {},
            Self::Cloud(error) => ChangeError::Cloud(error),
            Self::Lost { error, keys } => ChangeError::Lost { error, keys },
        }
    }
}

impl Change {
    fn added(&self) -> Option<Credential> {
        match self {
            Self::Add { certificate_der, display_name, .. } => Some(Credential::new(certificate_der, display_name)),
            Self::Remove { .. } => None,
        }
    }

    fn removed(&self) -> &[String] {
        match self {
            Self::Add { .. } => &[],
            Self::Remove { key_ids, .. } => key_ids,
        }
    }

    /// Whether there is nothing to do.
    fn is_made(&self, held: &[Credential]) -> bool {
        match self {
            Self::Add { certificate_der, .. } => {
                let ours = Thumbprint::of_der(certificate_der);
                held.iter().any(|credential| credential.thumbprint().as_ref() == Some(&ours))
            }
            Self::Remove { key_ids, .. } => !held.iter().any(|c| key_ids.iter().any(|id| same_id(id, c.key_id()))),
        }
    }

    /// Whether one read is enough to know that it is made: a key that is missing may not have been there yet, unless it was seen before.
    fn is_proven(&self, held: &[Credential], sent: bool) -> bool {
        self.is_made(held) && (sent || matches!(self, Self::Add { .. }))
    }

    /// The first key that must be there and is not.
    fn lacks(&self, held: &[Credential]) -> Option<&str> {
        let (Self::Add { beside, .. } | Self::Remove { beside, .. }) = self;
        beside.iter().find(|id| !held.iter().any(|c| same_id(id, c.key_id()))).map(String::as_str)
    }

    /// Whether this and nothing else has changed.
    fn is(&self, seen: &Difference, before: &[Credential]) -> bool {
        if !seen.altered.is_empty() {
            return false;
        }
        match self {
            Self::Add { certificate_der, .. } => {
                seen.removed.is_empty()
                    && matches!(seen.added.as_slice(), [id] if same_id(id, &key_id_of(certificate_der)))
            }
            Self::Remove { key_ids, .. } => {
                let asked = before.iter().filter(|c| key_ids.iter().any(|id| same_id(id, c.key_id())));
                let gone = |c: &Credential| seen.removed.iter().any(|id| same_id(id, c.key_id()));
                seen.added.is_empty() && asked.clone().all(gone) && seen.removed.len() == asked.count()
            }
        }
    }
}

impl Cloud {
    /// The keys of an application or principal, when several reads in a row have said the same. What one replica lacks another shows.
    pub async fn settled_keys(&self, holder: &Holder) -> Result<Vec<Credential>> {
        self.settled(holder, |_| false).await
    }

    /// The same, or what a single read shows when that is enough.
    async fn settled(&self, holder: &Holder, is_enough: impl Fn(&[Credential]) -> bool) -> Result<Vec<Credential>> {
        let mut held = self.keys(holder).await?;
        let mut alike = 1;
        for _ in 1..MOST_READS {
            if alike == READS || is_enough(&held) {
                return Ok(held);
            }
            self.let_pass(self.shared.patience.apart).await?;
            let read = self.keys(holder).await?;
            alike = if difference(holder, &held, &read).is_none() { alike + 1 } else { 1 };
            held = read;
        }
        Err(unsettled(holder))
    }

    /// What is sent for a change, in one line.
    #[must_use]
    pub fn describe(&self, holder: &Holder, change: &Change, held: usize) -> String {
        let url = format!("{}v1.0/{}", self.endpoints().graph, holder.path());
        match change {
            Change::Add { certificate_der, .. } => {
                format!("PATCH {url} keyCredentials: {held} kept + {}", Thumbprint::of_der(certificate_der))
            }
            Change::Remove { key_ids, .. } => {
                format!(
                    "PATCH {url} keyCredentials: {} kept, without {}",
                    held.saturating_sub(key_ids.len()),
                    key_ids.join(", ")
                )
            }
        }
    }

    /// Makes a change of keys, unless it is made already, and looks whether that and nothing else has changed.
    ///
    /// `intend` is called with [`Cloud::describe`] before anything is sent, each time that it is to be. Nothing is sent before the keys have settled, and
    /// not if they are others than those when the intent was put on record; after trouble that may pass, and after an answer that was lost, all of that is
    /// done again.
    pub async fn change<E>(
        &self,
        holder: &Holder,
        change: &Change,
        intend: impl AsyncFn(String) -> std::result::Result<(), E>,
    ) -> std::result::Result<Changed, ChangeError<E>> {
        let mut tried = 0;
        let mut sent: Option<Sent> = None;
        loop {
            let was_sent = sent.is_some();
            let held = self.settled(holder, |read| change.is_proven(read, was_sent)).await?;
            let error = if change.is_made(&held) {
                let Some(sent) = &mut sent else {
                    return Ok(Changed { already: true, before: held.clone(), after: held });
                };
                match self.read_back(holder, change, sent).await.map_err(ChangeError::widened)? {
                    Some(changed) => return Ok(changed),
                    None => not_visible(holder),
                }
            } else if let Some(id) = change.lacks(&held) {
                lacking(holder, id)
            } else {
                let list = self.whole_list(holder, change, &held)?;
                intend(self.describe(holder, change, held.len())).await.map_err(ChangeError::Intent)?;
                match self.replace(holder, &held, &list).await? {
                    Replaced::NotSent => unsettled(holder),
                    Replaced::Sent(answered) => {
                        let earlier = sent.take();
                        let now = sent.insert(Sent::instead_of(held, earlier));
                        match answered {
                            Err(error) => error,
                            Ok(()) => match self.read_back(holder, change, now).await.map_err(ChangeError::widened)? {
                                Some(changed) => return Ok(changed),
                                None => not_visible(holder),
                            },
                        }
                    }
                }
            };
            tried += 1;
            if !self.rest(tried, &error).await {
                return Err(error.into());
            }
        }
    }

    fn whole_list(&self, holder: &Holder, change: &Change, held: &[Credential]) -> Result<Vec<Json>> {
        desired(holder, held, change.removed(), change.added().as_ref()).map_err(|id| {
            CloudError::refused(
                "key_not_told",
                format!("Graph does not tell the key of entry {id} of {holder}, so it could not be kept"),
                "Remove that entry by hand, or leave the principal's keys as they are (skip the step)",
            )
        })
    }

    /// Sends the list if the keys are still those that it was made from: what is left of the time in which somebody else's key can be erased is that
    /// between this read and its request.
    async fn replace(&self, holder: &Holder, held: &[Credential], list: &[Json]) -> Result<Replaced> {
        let read = self.keys(holder).await?;
        if !difference(holder, held, &read).is_none() {
            return Ok(Replaced::NotSent);
        }
        let body = json!({ "keyCredentials": list });
        let asked = self.ask(Method::PATCH, self.url(&holder.path(), ""), Some(&body)).await;
        let error = match asked {
            Ok(reply) if reply.status.is_success() => return Ok(Replaced::Sent(Ok(()))),
            Ok(reply) => known(failed(&reply, &holder.to_string())),
            Err(error) => error,
        };
        // An entry that is kept is sent without its key. If somebody has taken it out meanwhile, it is a new one without a key, which is refused.
        let outdated = error.trouble.code == REFUSED && self.has_moved(holder, held).await?;
        Ok(Replaced::Sent(Err(if outdated { unsettled(holder) } else { error })))
    }

    /// Whether one of several reads shows other keys than these.
    async fn has_moved(&self, holder: &Holder, held: &[Credential]) -> Result<bool> {
        for _ in 0..READS {
            if !difference(holder, held, &self.keys(holder).await?).is_none() {
                return Ok(true);
            }
            self.let_pass(self.shared.patience.apart).await?;
        }
        Ok(false)
    }

    /// What the change came to, when it shows; `None` when no replica that answered has it yet. Several reads, one after another: a replica that is behind
    /// shows what was there just before, and so what no read had shown.
    async fn read_back(
        &self,
        holder: &Holder,
        change: &Change,
        sent: &mut Sent,
    ) -> std::result::Result<Option<Changed>, ChangeError<Infallible>> {
        let mut shown = None;
        let (mut reads, mut tried) = (0, 0);
        loop {
            let read = self.keys(holder).await?;
            reads += 1;
            let seen = difference(holder, &sent.before, &read);
            if change.is(&seen, &sent.before) {
                shown = Some(read);
            } else if change.is_made(&read) {
                return Err(surprise(holder, &seen).into());
            } else {
                sent.meet(&seen, read);
            }
            if reads < READS {
                self.let_pass(self.shared.patience.apart).await?;
                continue;
            }
            if let Some(after) = shown {
                return sent.vouch(holder, after).map(Some);
            }
            tried += 1;
            if !self.rest(tried, &not_visible(holder)).await {
                return Ok(None);
            }
        }
    }
}

enum Replaced {
    /// The keys were others by then.
    NotSent,
    Sent(Result<()>),
}

/// A list that was sent.
struct Sent {
    /// What was read before it.
    before: Vec<Credential>,
    /// Keys that no read had shown before it, of a time when it was not there yet.
    unseen: Vec<Credential>,
}

impl Sent {
    fn instead_of(before: Vec<Credential>, earlier: Option<Self>) -> Self {
        Self { before, unseen: earlier.map(|earlier| earlier.unseen).unwrap_or_default() }
    }

    /// Takes note of what a read shows that does not show the change.
    fn meet(&mut self, seen: &Difference, read: Vec<Credential>) {
        let unseen = |key: &Credential| seen.added.iter().any(|id| key.is(id));
        let met = |known: &[Credential], key: &Credential| known.iter().any(|other| other.is(key.key_id()));
        for key in read.into_iter().filter(unseen) {
            if !met(&self.unseen, &key) {
                self.unseen.push(key);
            }
        }
    }

    /// Nothing that was there is missing after it.
    fn vouch(&self, holder: &Holder, after: Vec<Credential>) -> std::result::Result<Changed, ChangeError<Infallible>> {
        let same = |held: &Credential, key: &Credential| {
            held.is(key.key_id()) || key.thumbprint().is_some_and(|one| held.thumbprint() == Some(one))
        };
        let is_gone = |key: &&Credential| !after.iter().any(|held| same(held, key));
        let keys: Vec<Credential> = self.unseen.iter().filter(is_gone).cloned().collect();
        if keys.is_empty() {
            return Ok(Changed { already: false, before: self.before.clone(), after });
        }
        Err(ChangeError::Lost { error: lost(holder, &keys), keys })
    }
}

fn lacking(holder: &Holder, id: &str) -> CloudError {
    CloudError::again(
        "cloud_keys_changed",
        format!("Key {id}, which the run has seen, is not among the keys of {holder}"),
        "If nobody has removed it, Graph answers from a stale replica: it is tried again by itself. Else cancel, and raise a new renewal, whose plan sees the keys as they are",
    )
}

fn unsettled(holder: &Holder) -> CloudError {
    CloudError::again(
        "cloud_keys_unsettled",
        format!(
            "Graph shows now these and now those keys of {holder}: somebody has just changed them, and not every replica knows"
        ),
        "Nothing to do: nothing is sent before they all say the same, and it is tried again by itself. Let nobody else change keys there meanwhile",
    )
}

fn not_visible(holder: &Holder) -> CloudError {
    CloudError::again(
        "cloud_key_not_visible",
        format!("Graph took the keys of {holder}, and does not show them yet"),
        "Nothing to do: it is looked at again by itself",
    )
}

fn lost(holder: &Holder, keys: &[Credential]) -> CloudError {
    let named: Vec<String> = keys.iter().map(Credential::told).collect();
    CloudError {
        failure: super::Failure::Refused,
        trouble: Trouble::new(
            "cloud_key_lost",
            format!(
                "Somebody registered a key with {holder} while this run changed its keys, and Graph has replaced the list without it: {}",
                named.join("; ")
            ),
            "Tell its owner, by the name of the key: what signs with it is refused until they upload the same certificate again (Entra admin center > App registrations > Certificates & secrets). Its public certificate is in the audit of this renewal, cloud_key.lost. Then retry",
        ),
    }
}

fn surprise(holder: &Holder, seen: &Difference) -> CloudError {
    let Difference { added, removed, altered } = seen;
    CloudError::refused(
        "cloud_keys_changed",
        format!(
            "Somebody else has changed the keys of {holder} at the same time: added {}, removed {}, altered {}",
            shown(added),
            shown(removed),
            shown(altered)
        ),
        "Find out who did it and whether a key is missing now, which its owner must add again; then retry",
    )
}

fn shown(ids: &[String]) -> String {
    if ids.is_empty() { "none".to_owned() } else { ids.join(" and ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_changed_besides_is_a_surprise() {
        let der = b"new".to_vec();
        let change = Change::Add { certificate_der: der.clone(), display_name: String::new(), beside: vec![] };
        let seen = |added: &[&str], removed: &[&str]| {
            let owned = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect();
            Difference { added: owned(added), removed: owned(removed), altered: Vec::new() }
        };
        let ours = key_id_of(&der);
        assert!(change.is(&seen(&[&ours], &[]), &[]));
        assert!(!change.is(&seen(&[&ours, "b"], &[]), &[]));
        assert!(!change.is(&seen(&[&ours], &["a"]), &[]));
        assert!(!change.is(&seen(&["b"], &[]), &[]));
    }
}
