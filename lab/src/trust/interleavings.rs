//! A renewal in the right order under any lag, cache, outage and pause is refused nowhere; one in a wrong order is seen. So whoever is
//! refused in a lab has done something wrong.
//!
//! `REKEY_INTERLEAVINGS=5000 cargo test -p lab interleavings` tries so many.

use chrono::TimeDelta;
use proptest::{collection::vec, prelude::*, test_runner::TestRunner};
use psrp::Command;

use super::Leg;
use crate::{
    bench::{Bench, Made, values},
    faults::Fault,
    organization::{Hybrid, Organization, PartnerRules},
    server::{Power, ProcessKind},
};

/// Everything that is left to chance.
#[derive(Clone, Debug)]
struct Circumstances {
    replicas: u16,
    /// Virtual seconds, each.
    replica_lag: i64,
    key_cache: i64,
    replication_lag: i64,
    partner_refresh: i64,
    /// Minutes that go by before each step.
    pauses: Vec<i64>,
    /// Before which step which server is down, and for how many minutes.
    outages: Vec<(usize, usize, i64)>,
    /// In which order servers are restarted.
    restarts: Vec<usize>,
}

fn any_circumstances() -> impl Strategy<Value = Circumstances> {
    let lags = (1..5_u16, 0..3600_i64, 0..3600_i64, 0..4 * 3600_i64, 3600..72 * 3600_i64);
    let pauses = vec(prop_oneof![Just(0), 0..90_i64, 0..1500_i64], STEPS);
    let outages = vec((0..STEPS, 0..3_usize, 1..900_i64), 0..4);
    let restarts = Just(vec![0, 1, 2]).prop_shuffle();
    (lags, pauses, outages, restarts).prop_map(|(lags, pauses, outages, restarts)| {
        let (replicas, replica_lag, key_cache, replication_lag, partner_refresh) = lags;
        Circumstances { replicas, replica_lag, key_cache, replication_lag, partner_refresh, pauses, outages, restarts }
    })
}

/// What a renewal does, in the right order.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    Distribute,
    TrustCloud,
    Stage,
    Publish,
    Restart,
    ClearPrevious,
    Prune,
}

const RIGHT: [Step; 7] =
    [Step::Distribute, Step::TrustCloud, Step::Stage, Step::Publish, Step::Restart, Step::ClearPrevious, Step::Prune];
const STEPS: usize = RIGHT.len();
const LEAD: TimeDelta = TimeDelta::hours(49);
const SOAK: TimeDelta = TimeDelta::hours(24);

/// Who renews.
struct Pilot {
    bench: Bench,
    made: Made,
    circumstances: Circumstances,
}

impl Pilot {
    fn new(circumstances: Circumstances) -> Self {
        let hybrid = Hybrid {
            replicas: circumstances.replicas,
            replica_lag: TimeDelta::seconds(circumstances.replica_lag),
            key_cache: TimeDelta::seconds(circumstances.key_cache),
            partner: PartnerRules {
                refresh: TimeDelta::seconds(circumstances.partner_refresh),
                ..PartnerRules::default()
            },
            ..Hybrid::contoso()
        };
        let replication_lag = TimeDelta::seconds(circumstances.replication_lag);
        let organization = Organization { hybrid: Some(hybrid), replication_lag, ..Organization::contoso() };
        Self { bench: Bench::of(organization), made: Made::number(0), circumstances }
    }

    fn run(&mut self, steps: &[Step]) {
        for (number, step) in steps.iter().enumerate() {
            self.chance(number);
            self.take(*step);
            self.settle();
        }
        self.bench.pass(TimeDelta::hours(3));
    }

    /// Time goes by, and servers go down and come back.
    fn chance(&mut self, number: usize) {
        self.bench.pass(TimeDelta::minutes(self.circumstances.pauses[number]));
        for (_, server, minutes) in self.circumstances.outages.clone().into_iter().filter(|(at, ..)| *at == number) {
            let name = self.bench.world.server(server).spec.name.clone();
            let switch = |power| Fault::Power { server: name.clone(), power };
            self.bench.world.apply(switch(Power::Down)).unwrap();
            self.bench.pass(TimeDelta::minutes(minutes));
            self.bench.world.apply(switch(Power::Up)).unwrap();
        }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Distribute => self.bench.import_everywhere(&self.made),
            Step::TrustCloud => {
                let before = self.bench.cloud_keys();
                self.bench.write_cloud_keys(&before, Some(&self.made));
                self.wait(Self::is_trusted);
            }
            Step::Stage => drop(values(&self.bench.stage(&self.made, LEAD))),
            Step::Publish => self.publish(),
            Step::Restart => self.restart(),
            Step::ClearPrevious => {
                self.bench.pass(SOAK);
                let command = Command::new("Set-AuthConfig").switch("ClearPreviousCertificate").switch("Force");
                values(&self.bench.exchange("EX01", command));
            }
            Step::Prune => {
                // Not too soon after another write.
                self.bench.pass(TimeDelta::minutes(1));
                let mut keys = self.bench.cloud_keys();
                keys.retain(|key| key.display_name.as_deref() != Some("Exchange Server Auth Certificate"));
                self.bench.write_cloud_keys(&keys, None);
            }
        }
    }

    /// At its time; AuthAdmin may have been faster.
    fn publish(&mut self) {
        self.bench.pass(LEAD);
        if self.bench.config(0).current != Some(self.made.thumbprint()) {
            values(&self.bench.publish());
        }
    }

    fn restart(&mut self) {
        for server in self.circumstances.restarts.clone() {
            ProcessKind::ALL.into_iter().for_each(|kind| self.bench.world.restart(server, kind));
            self.bench.pass(TimeDelta::minutes(7));
        }
    }

    /// Until the domain controllers say the same.
    fn settle(&mut self) {
        self.wait(|pilot| pilot.bench.config(0).says_the_same_as(pilot.bench.config(1)));
    }

    fn is_trusted(&self) -> bool {
        let (tenant, now) = (self.bench.tenant(), self.bench.world.now());
        let knows = |replica| {
            let (keys, _) = tenant.trusted_keys(self.bench.application(), replica, now);
            keys.iter().any(|key| key.certificate.thumbprint == self.made.thumbprint())
        };
        (0..tenant.replicas()).all(knows)
    }

    fn wait(&mut self, until: impl Fn(&Self) -> bool) {
        for _ in 0..1000 {
            if until(self) {
                return;
            }
            self.bench.pass(TimeDelta::minutes(1));
        }
        panic!("it never happens");
    }

    fn refused(&self, leg: Leg) -> u64 {
        self.bench.world.trust().legs.get(&leg).map_or(0, |total| total.refused)
    }
}

/// How many are tried: a sample, or as many as the environment says.
fn runner() -> TestRunner {
    let cases = std::env::var("REKEY_INTERLEAVINGS").ok().and_then(|cases| cases.parse().ok()).unwrap_or(25);
    TestRunner::new(ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() })
}

#[test]
fn the_right_order_is_refused_nowhere() {
    let tried = runner().run(&any_circumstances(), |circumstances| {
        let mut pilot = Pilot::new(circumstances);
        pilot.run(&RIGHT);
        let trust = pilot.bench.world.trust();
        prop_assert_eq!(trust.refused, 0, "{:#?}", trust.refusals);
        prop_assert_eq!(trust.legs.len(), 4);
        Ok(())
    });
    tried.unwrap();
}

#[test]
fn an_order_in_which_entra_lacks_what_servers_sign_with_is_refused_there() {
    let publish_first =
        [Step::Distribute, Step::Stage, Step::Publish, Step::Restart, Step::TrustCloud, Step::ClearPrevious];
    let prune_first = [Step::Distribute, Step::TrustCloud, Step::Prune, Step::Stage, Step::Publish, Step::Restart];
    for wrong in [publish_first, prune_first] {
        let tried = runner().run(&any_circumstances(), |circumstances| {
            let mut pilot = Pilot::new(circumstances);
            pilot.run(&wrong);
            prop_assert!(pilot.refused(Leg::Dedicated) > 0);
            prop_assert_eq!(pilot.refused(Leg::FromCloud), 0);
            Ok(())
        });
        tried.unwrap();
    }
}
