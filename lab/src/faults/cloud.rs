//! Faults of the cloud: what happens to some requests to it, or to their answers.

use serde::{Deserialize, Serialize};

use super::{due, once};

/// The services of the cloud.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CloudService {
    /// The token endpoint and what describes it.
    Token,
    /// Microsoft Graph.
    Graph,
    /// Exchange Online.
    ExchangeOnline,
    /// The metadata document of the tenant.
    Metadata,
}

/// Requests to the cloud, some of them.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub struct CloudRequests {
    /// Only those to this service. Any if none.
    #[serde(default)]
    pub service: Option<CloudService>,
    /// Only those of this method. Any if none.
    #[serde(default)]
    pub method: Option<String>,
    /// Only those whose path, or whose cmdlet, holds this text. Any if none.
    #[serde(default)]
    pub about: Option<String>,
    /// How many to let pass first.
    #[serde(default)]
    pub skip: u32,
    /// How many after that.
    #[serde(default = "once")]
    pub times: u32,
}

impl Default for CloudRequests {
    /// The next one.
    fn default() -> Self {
        Self { service: None, method: None, about: None, skip: 0, times: once() }
    }
}

/// What happens to a request or to its answer.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CloudDisturbance {
    /// The token endpoint answers with the error of this number (`AADSTS…`).
    Aadsts(u32),
    /// It is refused as one write too soon after another: 409 `Directory_ConcurrencyViolation`.
    Conflict,
    /// It is answered later, by so many milliseconds of real time.
    Delay(u32),
    /// The connection is cut before anything is done.
    Drop,
    /// It is carried out, then the connection is cut.
    DropAfter,
    /// Exchange Online fails with this exception.
    Exception {
        /// The HTTP status.
        status: u16,
        /// The .NET class.
        class: String,
        /// What it says.
        #[serde(default)]
        text: String,
    },
    /// Graph answers with this error.
    Graph {
        /// The HTTP status.
        status: u16,
        /// `error.code`.
        code: String,
        /// `error.message`.
        #[serde(default)]
        message: String,
    },
    /// It is never answered, as for a client that is killed while it waits; nothing is done.
    Hold,
    /// It is carried out, and never answered.
    HoldAfter,
    /// It is carried out; half of the answer is missing.
    Malformed,
    /// Exchange Online answers 403 with NUL bytes that claim to be gzip; the reason is in `x-ms-diagnostics`, if anywhere.
    NulBytes,
    /// It reads what was there before the last write.
    Stale,
    /// It is answered with this status, in the shape of its service; nothing is done.
    Status(u16),
    /// It is answered 429, with `Retry-After` in seconds; nothing is done.
    Throttle(u32),
}

/// The requests that are disturbed.
#[derive(Clone, Debug, Default)]
pub struct CloudDisturbances(Vec<(CloudRequests, CloudDisturbance)>);

impl CloudDisturbances {
    /// Adds one.
    pub fn add(&mut self, requests: CloudRequests, disturbance: CloudDisturbance) {
        self.0.push((requests, disturbance));
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Counts a request, and says what happens to it: the first disturbance that is due.
    pub fn meet(&mut self, service: CloudService, method: &str, about: &str) -> Option<CloudDisturbance> {
        let met = self.0.iter_mut().find_map(|(requests, disturbance)| {
            let meant = requests.matches(service, method, about);
            (meant && due(&mut requests.skip, &mut requests.times)).then(|| disturbance.clone())
        });
        self.0.retain(|(requests, _)| requests.times > 0);
        met
    }
}

impl CloudRequests {
    fn matches(&self, service: CloudService, method: &str, about: &str) -> bool {
        let about = about.to_ascii_lowercase();
        self.service.is_none_or(|wanted| wanted == service)
            && self.method.as_deref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(method))
            && self.about.as_deref().is_none_or(|wanted| about.contains(&wanted.to_ascii_lowercase()))
    }
}

/// Which policy on keys is meant.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PolicyScope {
    /// One that is assigned to the dedicated application.
    Application,
    /// The tenant's default.
    #[default]
    Default,
}

/// What somebody else does to the keys of the application that the servers use.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyChange {
    /// Adds a key of their own.
    Add,
    /// Takes away the key of the current certificate.
    RemoveCurrent,
    /// Takes away the newest key.
    RemoveNewest,
    /// Puts the key of the current certificate back, as it was.
    RestoreCurrent,
}

/// One half of the organization.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Side {
    /// The servers' directory.
    #[default]
    OnPremises,
    /// Exchange Online.
    ExchangeOnline,
}

#[cfg(test)]
mod tests {
    use super::{super::Fault, *};

    #[test]
    fn faults_of_the_cloud_read_as_they_are_documented() {
        let read = |text: &str| serde_json::from_str::<Fault>(text).unwrap();
        let requests = CloudRequests {
            service: Some(CloudService::Graph),
            method: Some("PATCH".to_owned()),
            about: Some("applications".to_owned()),
            skip: 1,
            times: 2,
        };
        assert_eq!(
            read(
                r#"{"kind":"cloud","service":"graph","method":"PATCH","about":"applications","skip":1,"times":2,"do":{"throttle":7}}"#
            ),
            Fault::Cloud { requests, disturbance: CloudDisturbance::Throttle(7) }
        );
        assert_eq!(
            read(r#"{"kind":"cloud","do":"stale"}"#),
            Fault::Cloud { requests: CloudRequests::default(), disturbance: CloudDisturbance::Stale }
        );
        assert!(serde_json::from_str::<Fault>(r#"{"kind":"cloud","do":"sing"}"#).is_err());
    }

    #[test]
    fn only_the_requests_that_are_meant_are_met() {
        let mut disturbances = CloudDisturbances::default();
        let requests = CloudRequests {
            service: Some(CloudService::ExchangeOnline),
            about: Some("test-oauth".to_owned()),
            skip: 1,
            ..CloudRequests::default()
        };
        disturbances.add(requests, CloudDisturbance::NulBytes);
        let mut meet = |about| disturbances.meet(CloudService::ExchangeOnline, "POST", about).is_some();
        let met = ["Test-OAuthConnectivity", "Get-AuthServer", "Test-OAuthConnectivity", "Test-OAuthConnectivity"]
            .map(&mut meet);
        assert_eq!(met, [false, false, true, false]);
    }
}
