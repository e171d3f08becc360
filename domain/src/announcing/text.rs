//! Announcements in words: the same sentences in mails, chats and work notes, each of which lays them out in its own way.

use chrono::{DateTime, SecondsFormat, Utc};

use super::{Announcement, News, Said};
use crate::{Gate, Phase, Renewal, RenewalId, renewal::Wait};

/// Where people reach the API: what links begin with.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PublicUrl(String);

/// Text that is not the beginning of links.
#[derive(Debug, thiserror::Error)]
#[error(
    "`{0}` is not a URL like https://rekey.contoso.example: http or https, a host, and no question mark or fragment"
)]
pub struct InvalidPublicUrl(String);

impl PublicUrl {
    /// Reads an http or https URL, with or without a path.
    pub fn parse(text: &str) -> Result<Self, InvalidPublicUrl> {
        let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or_default();
        let plain = |c: char| c.is_ascii_graphic() && !"?#<>\"\\^`{|}@".contains(c);
        if rest.is_empty() || rest.starts_with(['/', ':']) || !rest.chars().all(plain) {
            return Err(InvalidPublicUrl(text.chars().take(80).collect()));
        }
        Ok(Self(text.trim_end_matches('/').to_owned()))
    }

    /// Without an end.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A renewal.
    #[must_use]
    pub fn renewal(&self, id: RenewalId) -> String {
        format!("{}/v1/renewals/{id}", self.0)
    }

    /// Something of a renewal: its `plan`, `runbook`, `decisions`, `events` …
    #[must_use]
    pub fn of_renewal(&self, id: RenewalId, part: &str) -> String {
        format!("{}/v1/renewals/{id}/{part}", self.0)
    }
}

/// A place to go to.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Link {
    /// What is there.
    pub label: &'static str,
    /// Where it is.
    pub url: String,
}

/// An announcement in words. All of it is plain text; what lays it out must escape it. No part has control characters but line breaks, the title has
/// none at all.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Text {
    /// In one line.
    pub title: String,
    /// What happened, in sentences.
    pub message: String,
    /// What to do, if somebody has to do something.
    pub action: Option<String>,
    /// Names and values worth knowing.
    pub facts: Vec<(&'static str, String)>,
    /// Where to go.
    pub links: Vec<Link>,
}

impl Announcement {
    /// The announcement in words, with links that begin with `base`.
    #[must_use]
    pub fn text(&self, base: &PublicUrl) -> Text {
        let (what, message, action) = self.sentences();
        let of = self.organization_id.as_ref().map(|id| format!("{id}: ")).unwrap_or_default();
        Text {
            title: in_one_line(&format!("{of}{what}")),
            message: printable(&message),
            action: action.map(|action| printable(&action)),
            facts: self.facts(),
            links: self.renewal.as_ref().map(|renewal| links(renewal, &self.news, base)).unwrap_or_default(),
        }
    }

    /// What happened in a few words, in sentences, and what to do.
    fn sentences(&self) -> (String, String, Option<String>) {
        let only = |what: &str, message: String| (what.to_owned(), message, None);
        match &self.news {
            News::Requested => only(
                "renewal requested",
                format!(
                    "{} asks to renew the Exchange Auth certificate. Every server is looked at, and a plan is made; nothing is changed.",
                    self.actor
                ),
            ),
            News::AwaitingApproval { gate, plan_digest, ended } => {
                let done = ended.map(|phase| format!("{} is done. ", begun(phase))).unwrap_or_default();
                let message = format!("{done}{}", asked_at(*gate));
                let action = format!(
                    "Read the plan, then approve or reject it at the gate {gate} with its digest {plan_digest}."
                );
                (format!("approval needed ({gate})"), message, Some(action))
            }
            News::Approved(said) => self.decision(said, "approved"),
            News::DecisionRejected(said) => self.decision(said, "rejected"),
            News::Withdrawn(said) => self.decision(said, "withdrawn"),
            News::Escalated { why } => {
                let action = "Read the plan, then approve or reject it: who was asked first has not.".to_owned();
                ("approval overdue".to_owned(), format!("A gate was not decided in time. {why}"), Some(action))
            }
            News::BreakGlass { by, reason } => {
                let action =
                    "Review it: who has broken the glass, why, and what was done. The record has all of it.".to_owned();
                (
                    "break-glass used".to_owned(),
                    format!("{by} passes a gate without its approvals. Reason: {reason}"),
                    Some(action),
                )
            }
            News::TicketChanged { why } => only("ticket changed", format!("The ticket stands differently now. {why}")),
            News::Scheduled { until } => {
                only("scheduled", format!("The plan is approved. It is carried out from {}.", time(*until)))
            }
            News::PhaseBegan { phase, ended } => {
                let done = ended.map(|phase| format!("{} is done. ", begun(phase))).unwrap_or_default();
                (format!("{phase} has begun"), format!("{done}{} has begun.", begun(*phase)), None)
            }
            News::Waiting { phase, reason } => {
                only(&format!("{phase} waits"), format!("{} {}", begun(*phase), waits_for(reason)))
            }
            News::NeedsAttention { phase, target, trouble } => {
                let place = if target.is_empty() { String::new() } else { format!(" on {target}") };
                let message =
                    format!("{} needs a person{place}: {} ({})", begun(*phase), trouble.message, trouble.code);
                (format!("{phase} needs a person{place}"), message, Some(trouble.action.clone()))
            }
            News::Paused { by, reason } => only("paused", format!("{by} holds the renewal. Reason: {reason}")),
            News::Resumed { by } => only("resumed", format!("{by} lets the renewal go on.")),
            News::Succeeded => {
                only("renewed", "The Exchange Auth certificate is renewed; the evidence is complete.".to_owned())
            }
            News::Rejected { by, reason } => only(
                "rejected",
                format!("{by} rejected the plan, and the renewal is over. Nothing was changed. Reason: {reason}"),
            ),
            News::Expired => {
                let action = "Raise a new renewal if the certificate still has to be renewed.".to_owned();
                (
                    "expired".to_owned(),
                    "Nobody decided on the plan in time, and the renewal is over. Nothing was changed.".to_owned(),
                    Some(action),
                )
            }
            News::Cancelled => {
                only("cancelled", "The renewal is cancelled; what had been done is taken back.".to_owned())
            }
            News::Failed { trouble } => {
                let message = format!(
                    "The renewal cannot be carried out, and nothing was changed: {} ({})",
                    trouble.message, trouble.code
                );
                ("refused".to_owned(), message, Some(trouble.action.clone()))
            }
            News::RolledBack => only("rolled back", "The old certificate signs again; the renewal is over.".to_owned()),
            News::Test => {
                only("test", format!("This is a test that {} asked for: messages of rekey arrive here.", self.actor))
            }
        }
    }

    fn decision(&self, said: &Said, what: &str) -> (String, String, Option<String>) {
        let verb = match &self.news {
            News::Approved(_) => "approves",
            News::Withdrawn(_) => "takes back what they said about",
            _ => "rejects",
        };
        let message = format!("{} {verb} the plan at the gate {}. Reason: {}", said.by, said.gate, said.reason);
        (format!("{} {what}", said.gate), message, None)
    }

    fn facts(&self) -> Vec<(&'static str, String)> {
        let mut facts = Vec::new();
        let mut add = |name, value: String| facts.push((name, in_one_line(&value)));
        if let Some(organization) = &self.organization_id {
            add("Organization", organization.to_string());
        }
        if let Some(renewal) = &self.renewal {
            if let Some(ticket) = &renewal.request.ticket {
                add("Ticket", ticket.number.clone());
            }
            add("Renewal", renewal.id.to_string());
            add("State", renewal.state.status().replace('_', " "));
            add("Requested by", renewal.requested_by.clone());
            renewal.plan_digest.iter().for_each(|digest| add("Plan", digest.to_string()));
        }
        add("Time", time(self.at));
        facts
    }
}

fn links(renewal: &Renewal, news: &News, base: &PublicUrl) -> Vec<Link> {
    let mut links = vec![Link { label: "Renewal", url: base.renewal(renewal.id) }];
    if renewal.plan_digest.is_some() {
        links.push(Link { label: "Plan", url: base.of_renewal(renewal.id, "plan") });
        links.push(Link { label: "Runbook", url: base.of_renewal(renewal.id, "runbook") });
    }
    if news.close_code().is_some() && renewal.plan_digest.is_some() {
        links.push(Link { label: "Evidence", url: base.of_renewal(renewal.id, "evidence") });
    }
    if let Some(url) = renewal.request.ticket.as_ref().and_then(|ticket| ticket.url.clone()) {
        links.push(Link { label: "Ticket", url });
    }
    links
}

fn asked_at(gate: Gate) -> &'static str {
    match gate {
        Gate::Execute => {
            "There is a plan for renewing the Exchange Auth certificate. Nothing is changed before it is approved."
        }
        Gate::TrustCloud => {
            "The new certificate has to be registered in Microsoft Entra by a person, who says here that it is done."
        }
        Gate::Publish => "Every server has the new certificate. With approval it becomes the one that signs.",
        Gate::ClearPrevious => {
            "The new certificate has signed long enough. With approval the previous one is given up: after that there is no way back."
        }
    }
}

/// A phase as the beginning of a sentence.
fn begun(phase: Phase) -> &'static str {
    match phase {
        Phase::Preflight => "The preflight",
        Phase::Generate => "Making the new certificate",
        Phase::Distribute => "Bringing it to every server",
        Phase::TrustCloud => "Registering it in Microsoft Entra",
        Phase::Stage => "Announcing it in AuthConfig",
        Phase::Publish => "Publishing it",
        Phase::Restart => "Restarting what caches keys",
        Phase::RefreshHybrid => "Testing trust between the servers and the cloud",
        Phase::Soak => "Waiting with the old certificate still trusted (soak)",
        Phase::ClearPrevious => "Giving up the previous certificate",
        Phase::Prune => "Removing what is no longer used",
        Phase::Close => "The final check",
        Phase::Undo => "Taking back what was done",
    }
}

fn waits_for(reason: &Wait) -> String {
    match reason {
        Wait::EffectiveDate { until } => {
            format!("waits for the effective date, {}. It goes on by itself.", time(*until))
        }
        Wait::Attention { trouble, .. } | Wait::Retry { trouble, .. } => format!("waits: {trouble}"),
        Wait::Window { until: Some(until) } => format!("waits for its window, which opens {}.", time(*until)),
        Wait::Window { until: None } => "waits for a window, and none opens any more.".to_owned(),
        Wait::TicketOnHold { detail } => format!("waits: the ticket is on hold ({detail})."),
        Wait::TicketNotReady { detail } => format!("waits: the ticket is not ready ({detail})."),
    }
}

fn time(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// Without what could end the line, or be taken for something else than text.
fn in_one_line(text: &str) -> String {
    text.split(|c: char| c.is_control() || c.is_whitespace())
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Without control characters other than line breaks.
fn printable(text: &str) -> String {
    text.chars().filter(|c| *c == '\n' || !c.is_control()).collect()
}
