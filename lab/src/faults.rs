//! Knobs: what can be made to go wrong.

pub mod cloud;
pub mod wire;

use chrono::TimeDelta;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use self::{
    cloud::{CloudDisturbance, CloudRequests, KeyChange, PolicyScope, Side},
    wire::{Disturbance, Requests},
};
use crate::{
    hybrid::Class,
    itsm::{TicketDisturbance, TicketRequests},
    organization::{Permission, Region, Servicelet},
    server::Power,
};

/// One thing to go wrong, or to be put right again. Servers are named by full or short name.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind", deny_unknown_fields)]
pub enum Fault {
    /// Requests to the cloud, or their answers, are disturbed on the way.
    Cloud {
        /// Which.
        #[serde(flatten)]
        requests: CloudRequests,
        /// How.
        #[serde(rename = "do")]
        disturbance: CloudDisturbance,
    },
    /// Somebody else changes the keys of the application that the servers use, now.
    CloudKeys {
        /// What they do.
        change: KeyChange,
    },
    /// Grants or takes away something that rekey's application may do in the tenant. Tokens that are out keep their roles.
    CloudPermission {
        /// What.
        permission: Permission,
        /// Whether it may.
        granted: bool,
    },
    /// A server's clock is ahead by so many seconds (behind if negative).
    ClockSkew {
        /// Which.
        server: String,
        /// How far.
        seconds: i64,
    },
    /// A cmdlet fails.
    Fail {
        /// Which calls.
        #[serde(flatten)]
        calls: Calls,
        /// How.
        error: Failure,
        /// Before or after the cmdlet is carried out.
        #[serde(default = "before")]
        stage: Stage,
    },
    /// A cmdlet never ends, as for a client that is killed while it waits.
    Hold {
        /// Which calls.
        #[serde(flatten)]
        calls: Calls,
        /// Before or after the cmdlet is carried out.
        #[serde(default)]
        stage: Stage,
    },
    /// Somebody changes an object that joins the two halves of the organization, or takes it away.
    HybridObject {
        /// On which side.
        #[serde(default)]
        side: Side,
        /// What it is.
        class: Class,
        /// Its name, or the beginning of it and a `*`. The first of its class if none.
        #[serde(default)]
        name: Option<String>,
        /// Properties and what they become; it goes away if there are none.
        #[serde(default)]
        set: Map<String, Value>,
    },
    /// How long keys of applications may live from now on.
    KeyLifetime {
        /// An ISO-8601 duration such as `P365D`; no restriction if none.
        max: Option<String>,
        /// Which policy says so.
        #[serde(default)]
        scope: PolicyScope,
    },
    /// Keys that are imported on a server from now on land in this provider, and those of Auth certificates that are
    /// there move to it.
    KeyProvider {
        /// Which.
        server: String,
        /// The name of the provider; one with "Key Storage Provider" in it breaks token signing.
        provider: String,
    },
    /// A cmdlet's answer is lost: the connection is cut.
    LoseReply {
        /// Which calls.
        #[serde(flatten)]
        calls: Calls,
        /// Before or after the cmdlet is carried out.
        #[serde(default)]
        stage: Stage,
    },
    /// A cmdlet answers well without doing anything, as when a prompt was answered with No.
    NoChange {
        /// Which calls.
        #[serde(flatten)]
        calls: Calls,
    },
    /// Somebody else changes AuthConfig at the first domain controller, now.
    OperatorChange {
        /// What they do.
        #[serde(default)]
        change: Change,
    },
    /// Grants or takes away the right to run a cmdlet: without it the cmdlet does not exist.
    Permission {
        /// Which.
        cmdlet: String,
        /// Whether it may be run.
        granted: bool,
    },
    /// Where the front door of Exchange Online sends callers from now on.
    Region {
        /// Where.
        to: Region,
    },
    /// A server goes down or comes back.
    Power {
        /// Which.
        server: String,
        /// Up or down.
        power: Power,
    },
    /// How long changes take to another site from now on.
    ReplicationLag {
        /// In virtual seconds.
        seconds: i64,
    },
    /// How far the Certificate servicelet carries certificates from now on.
    Servicelet {
        /// How far.
        reach: Servicelet,
    },
    /// How slow the tenant is to learn from now on. What is not given stays as it is.
    TenantLag {
        /// How much later than the one before each replica takes in a write, in virtual seconds.
        #[serde(default)]
        replica_seconds: Option<i64>,
        /// How long the token service believes the keys that it read, in virtual seconds.
        #[serde(default)]
        cache_seconds: Option<i64>,
        /// How soon after a write another one is refused, in virtual seconds.
        #[serde(default)]
        write_gap_seconds: Option<i64>,
    },
    /// A server runs on another Windows than one would think.
    WindowsBuild {
        /// Which.
        server: String,
        /// Its build number, e.g. 14393 for Server 2016.
        build: u32,
    },
    /// A cmdlet is carried out at once, but takes its time to end.
    Slow {
        /// Which calls.
        #[serde(flatten)]
        calls: Calls,
        /// How long, in real time.
        milliseconds: u32,
    },
    /// Requests to the ticket systems, or their answers, are disturbed on the way.
    Ticket {
        /// Which.
        #[serde(flatten)]
        requests: TicketRequests,
        /// How.
        #[serde(rename = "do")]
        disturbance: TicketDisturbance,
    },
    /// The next messages that ticket systems send by themselves are lost.
    TicketHooks {
        /// How many.
        lose: u32,
    },
    /// ServiceNow takes no token any more that it has given out.
    TicketTokens,
    /// WS-Management requests, or their answers, are disturbed on the way.
    Wire {
        /// Which.
        #[serde(flatten)]
        requests: Requests,
        /// How.
        #[serde(rename = "do")]
        disturbance: Disturbance,
    },
}

/// Calls of a cmdlet, some of them.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct Calls {
    /// The cmdlet; `*` for any.
    pub cmdlet: String,
    /// Only those that concern this server: the one named by `-Server`, else that of the runspace. Any if none.
    #[serde(default)]
    pub server: Option<String>,
    /// How many to let pass first.
    #[serde(default)]
    pub skip: u32,
    /// How many after that.
    #[serde(default = "once")]
    pub times: u32,
}

pub(crate) fn once() -> u32 {
    1
}

fn before() -> Stage {
    Stage::Before
}

/// How a cmdlet fails.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Failure {
    /// The account may not.
    AccessDenied,
    /// The source data cannot be imported or the wrong password was specified.
    PfxRefused,
    /// The RPC server is not available.
    RpcUnavailable,
}

/// When it goes wrong.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// After the cmdlet was carried out.
    #[default]
    After,
    /// Before it was.
    Before,
}

/// What somebody else does.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// Gives up the staged certificate.
    ClearNext,
    /// Gives up the previous certificate.
    ClearPrevious,
    /// Publishes the staged certificate.
    Publish,
    /// Makes a certificate, puts it on every running server and stages it for 50 hours from now.
    #[default]
    Stage,
    /// The same, for so many hours from now.
    StageFor(u16),
}

/// What happens to a call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Interference {
    /// It fails.
    Fail(Failure, Stage),
    /// It never ends.
    Hold(Stage),
    /// Its answer is lost.
    LoseReply(Stage),
    /// It does nothing.
    NoChange,
    /// It takes so many milliseconds of real time.
    Slow(u32),
}

/// The calls that are interfered with.
#[derive(Clone, Debug, Default)]
pub struct Interceptors(Vec<(Calls, Interference)>);

impl Interceptors {
    /// Adds one.
    pub fn add(&mut self, calls: Calls, interference: Interference) {
        self.0.push((calls, interference));
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Counts a call, and says what happens to it: the first interference that is due.
    pub fn meet(&mut self, cmdlet: &str, concerns: impl Fn(&str) -> bool) -> Option<Interference> {
        let due = self.0.iter_mut().find_map(|(calls, interference)| {
            calls.matches(cmdlet, &concerns).then(|| calls.count().then_some(*interference))?
        });
        self.0.retain(|(calls, _)| calls.times > 0);
        due
    }
}

impl Calls {
    fn matches(&self, cmdlet: &str, concerns: impl Fn(&str) -> bool) -> bool {
        let named = self.cmdlet == "*" || self.cmdlet.eq_ignore_ascii_case(cmdlet);
        named && self.server.as_deref().is_none_or(concerns)
    }

    fn count(&mut self) -> bool {
        due(&mut self.skip, &mut self.times)
    }
}

/// Counts one, and says whether it is among those that are meant: some pass first, some are met after that.
pub(crate) fn due(skip: &mut u32, times: &mut u32) -> bool {
    if *skip > 0 {
        *skip -= 1;
        return false;
    }
    let due = *times > 0;
    *times = times.saturating_sub(1);
    due
}

/// The lag that a fault asks for.
#[must_use]
pub(crate) fn lag(seconds: i64) -> TimeDelta {
    TimeDelta::seconds(seconds.max(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_read_as_they_are_documented() {
        let fault: Fault =
            serde_json::from_str(r#"{"kind":"lose_reply","cmdlet":"Set-AuthConfig","server":"EX01","skip":2}"#)
                .unwrap();
        let calls = Calls { cmdlet: "Set-AuthConfig".to_owned(), server: Some("EX01".to_owned()), skip: 2, times: 1 };
        assert_eq!(fault, Fault::LoseReply { calls, stage: Stage::After });
        let fault: Fault = serde_json::from_str(r#"{"kind":"operator_change"}"#).unwrap();
        assert_eq!(fault, Fault::OperatorChange { change: Change::Stage });
        assert!(serde_json::from_str::<Fault>(r#"{"kind":"power","server":"EX01","power":"sideways"}"#).is_err());
        assert!(serde_json::from_str::<Fault>(r#"{"kind":"power","server":"EX01"}"#).is_err());
    }

    #[test]
    fn an_interference_lets_some_calls_pass_and_meets_the_next_ones() {
        let mut interceptors = Interceptors::default();
        let calls = Calls { cmdlet: "*".to_owned(), server: Some("EX02".to_owned()), skip: 1, times: 2 };
        interceptors.add(calls, Interference::NoChange);
        let here = |name: &str| name == "EX02";
        assert_eq!(interceptors.meet("Get-AuthConfig", |_| false), None);
        let met: Vec<bool> = (0..4).map(|_| interceptors.meet("Get-AuthConfig", here).is_some()).collect();
        assert_eq!(met, [false, true, true, false]);
    }
}
