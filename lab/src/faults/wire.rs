//! Faults of the wire: what happens to some WS-Management requests or to their answers.

use psrp::wsman::Operation;
use serde::{Deserialize, Serialize};

use super::{due, once};
use crate::cmdlets::Endpoint;

/// Requests, some of them.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Requests {
    /// Only those to this server. Any if none.
    #[serde(default)]
    pub server: Option<String>,
    /// Only those to this endpoint. Any if none.
    #[serde(default)]
    pub endpoint: Option<Endpoint>,
    /// Only those that ask for this. Any if none.
    #[serde(default)]
    pub action: Option<Action>,
    /// How many to let pass first.
    #[serde(default)]
    pub skip: u32,
    /// How many after that.
    #[serde(default = "once")]
    pub times: u32,
}

impl Default for Requests {
    /// The next one.
    fn default() -> Self {
        Self { server: None, endpoint: None, action: None, skip: 0, times: once() }
    }
}

/// What a request asks for, as [`Operation`] has it.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "each is the operation of that name")]
pub enum Action {
    Create,
    Command,
    Send,
    Receive,
    Signal,
    Delete,
}

impl From<Operation> for Action {
    fn from(operation: Operation) -> Self {
        match operation {
            Operation::Create => Self::Create,
            Operation::Command => Self::Command,
            Operation::Send => Self::Send,
            Operation::Receive => Self::Receive,
            Operation::Signal => Self::Signal,
            Operation::Delete => Self::Delete,
        }
    }
}

/// What happens to a request or to its answer.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Disturbance {
    /// It is answered later, by so many milliseconds of real time.
    Delay(u32),
    /// The connection is cut before anything is done.
    Drop,
    /// It is carried out, then the connection is cut.
    DropAfter,
    /// The first fragment of its answer comes twice.
    Duplicate,
    /// It is answered with a fault; nothing is done.
    Fault {
        /// `Code` of the WSManFault.
        code: u32,
        /// The SOAP subcode with its prefix.
        #[serde(default)]
        subcode: String,
        /// What it says.
        #[serde(default)]
        reason: String,
    },
    /// Its shell is forgotten first.
    KillShell,
    /// It is carried out; half of the answer is missing.
    Malformed,
    /// The fragments of its answer come in reverse order. A single one is cut in two for that.
    OutOfOrder,
    /// It is answered with a bare HTTP status; nothing is done.
    Status(u16),
    /// It is answered that the OperationTimeout is over; nothing is done.
    Timeout,
}

/// The requests that are disturbed.
#[derive(Clone, Debug, Default)]
pub struct Disturbances(Vec<(Requests, Disturbance)>);

impl Disturbances {
    /// Adds one.
    pub fn add(&mut self, requests: Requests, disturbance: Disturbance) {
        self.0.push((requests, disturbance));
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Counts a request, and says what happens to it: the first disturbance that is due.
    pub fn meet(&mut self, endpoint: Endpoint, action: Action, is_to: impl Fn(&str) -> bool) -> Option<Disturbance> {
        let due = self.0.iter_mut().find_map(|(requests, disturbance)| {
            let meant = requests.matches(endpoint, action, &is_to);
            (meant && due(&mut requests.skip, &mut requests.times)).then(|| disturbance.clone())
        });
        self.0.retain(|(requests, _)| requests.times > 0);
        due
    }
}

impl Requests {
    fn matches(&self, endpoint: Endpoint, action: Action, is_to: impl Fn(&str) -> bool) -> bool {
        self.server.as_deref().is_none_or(is_to)
            && self.endpoint.is_none_or(|wanted| wanted == endpoint)
            && self.action.is_none_or(|wanted| wanted == action)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Fault, *};

    #[test]
    fn faults_of_the_wire_read_as_they_are_documented() {
        let read = |text: &str| serde_json::from_str::<Fault>(text).unwrap();
        assert_eq!(
            read(r#"{"kind":"wire","do":"drop_after"}"#),
            Fault::Wire { requests: Requests::default(), disturbance: Disturbance::DropAfter }
        );
        let requests = Requests {
            server: Some("EX01".to_owned()),
            endpoint: Some(Endpoint::Windows),
            action: Some(Action::Receive),
            skip: 3,
            times: 2,
        };
        assert_eq!(
            read(
                r#"{"kind":"wire","server":"EX01","endpoint":"windows","action":"receive","skip":3,"times":2,
                    "do":{"status":503}}"#
            ),
            Fault::Wire { requests, disturbance: Disturbance::Status(503) }
        );
        let Fault::Wire { disturbance, .. } = read(r#"{"kind":"wire","do":{"fault":{"code":5}}}"#) else {
            panic!("another kind")
        };
        assert_eq!(disturbance, Disturbance::Fault { code: 5, subcode: String::new(), reason: String::new() });
        assert!(serde_json::from_str::<Fault>(r#"{"kind":"wire","do":"sing"}"#).is_err());
        assert!(serde_json::from_str::<Fault>(r#"{"kind":"wire"}"#).is_err());
    }

    #[test]
    fn the_nth_request_of_all_is_met_and_one_of_a_kind_is_counted_among_its_kind() {
        let mut wire = Disturbances::default();
        wire.add(Requests { skip: 2, ..Requests::default() }, Disturbance::Drop);
        let only = Requests { action: Some(Action::Receive), skip: 1, ..Requests::default() };
        wire.add(only, Disturbance::Malformed);
        let mut meet = |action| wire.meet(Endpoint::Exchange, action, |_| true);
        assert_eq!(meet(Action::Create), None);
        assert_eq!(meet(Action::Receive), None);
        assert_eq!(meet(Action::Command), Some(Disturbance::Drop));
        assert_eq!(meet(Action::Receive), Some(Disturbance::Malformed));
        assert_eq!(meet(Action::Receive), None);
    }
}
