//! Against the lab's tenant, over its wire: with replicas that learn late, throttling, policies and a front door that sends callers away.

use std::time::Duration;

use chrono::TimeDelta;
use domain::Timeline;
use lab::{
    Lab, Options,
    faults::{
        Fault,
        cloud::{CloudDisturbance, CloudRequests, CloudService, KeyChange, PolicyScope},
    },
    organization::{Permission, Region},
};

use tokio_util::sync::CancellationToken;

use super::{
    super::{change::READS, *},
    peer::pair,
};
use crate::{connectivity::Verdict, connectors::Trust};

async fn tenant() -> (Lab, Cloud) {
    let lab = Lab::start(Options { hybrid: true, ..Options::default() }).await.unwrap();
    let cloud = again(&lab);
    (lab, cloud)
}

/// Signed in anew: a token that is out keeps its roles.
fn again(lab: &Lab) -> Cloud {
    let told = lab.cloud().unwrap();
    let way = Way {
        endpoints: CloudEndpoints::custom(&told.url, &told.url, &told.url).unwrap(),
        tenant: told.tenant_id.to_string(),
        credentials: AppCredentials {
            client_id: told.client_id.to_string(),
            signer: Signer::from_pem(told.certificate_pem.as_bytes(), told.key_pem.expose().as_bytes()).unwrap(),
        },
        tls: Trust::ca(lab.ca_pem().as_bytes()).build().unwrap(),
        connect_to: BTreeMap::new(),
        anchor: None,
        timeline: Timeline::real(),
        patience: Patience {
            tries: 5,
            first: Duration::from_millis(5),
            longest: Duration::from_secs(3),
            apart: Duration::from_millis(1),
        },
    };
    Cloud::new(way).unwrap()
}

fn disturb(lab: &Lab, method: &str, disturbance: CloudDisturbance) {
    let requests = CloudRequests {
        service: Some(CloudService::Graph),
        method: Some(method.to_owned()),
        ..CloudRequests::default()
    };
    lab.apply(Fault::Cloud { requests, disturbance }).unwrap();
}

async fn dedicated(lab: &Lab, cloud: &Cloud) -> Application {
    let name = lab.state().tenant.unwrap().objects[0].display_name.clone();
    cloud.application_named(&name).await.unwrap().unwrap()
}

async fn change(cloud: &Cloud, holder: &Holder, change: &Change) -> Result<Changed, ChangeError<()>> {
    cloud.change(holder, change, async |_| Ok::<_, ()>(())).await
}

fn added(beside: Vec<String>) -> (Change, Signer) {
    let new = pair();
    let signer = Signer::from_pair(&new).unwrap();
    (Change::Add { certificate_der: new.certificate_der, display_name: "new".to_owned(), beside }, signer)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_added_is_accepted_when_every_replica_has_learned_of_it_and_is_taken_away() {
    let (lab, cloud) = tenant().await;
    let application = dedicated(&lab, &cloud).await;
    assert_eq!(application.key_credentials.len(), 2);
    let (add, signer) = added(application.key_credentials.iter().map(|key| key.key_id().to_owned()).collect());
    let holder = Holder::Application(application.id.clone());
    disturb(&lab, "PATCH", CloudDisturbance::Throttle(1));
    let changed = change(&cloud, &holder, &add).await.unwrap();
    assert!(!changed.already && changed.after.len() == 3, "{changed:?}");
    let mut first = Vec::new();
    for _ in 0..3 {
        first.push(matches!(cloud.accepts(&application.app_id, &signer).await.unwrap(), Acceptance::Accepted));
    }
    assert!(first.contains(&false), "a replica has not learned of it yet: {first:?}");
    lab.advance(TimeDelta::minutes(12));
    for _ in 0..3 {
        assert_eq!(cloud.accepts(&application.app_id, &signer).await.unwrap(), Acceptance::Accepted);
    }

    let ours = changed.after.iter().find(|key| key.display_name() == "new").unwrap().key_id().to_owned();
    disturb(&lab, "PATCH", CloudDisturbance::DropAfter);
    let gone = change(&cloud, &holder, &Change::Remove { key_ids: vec![ours], beside: Vec::new() }).await;
    assert!(gone.is_ok(), "an answer that is lost is looked for: {gone:?}");
    lab.advance(TimeDelta::minutes(12));
    assert_eq!(cloud.keys(&holder).await.unwrap().len(), 2);
    lab.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_is_read_and_the_tenant_refuses_what_it_says() {
    let (lab, cloud) = tenant().await;
    let application = dedicated(&lab, &cloud).await;
    assert_eq!(cloud.key_lifetime(&application).await.unwrap(), KeyLifetime::Unlimited);
    lab.apply(Fault::KeyLifetime { max: Some("P365D".to_owned()), scope: PolicyScope::default() }).unwrap();
    assert_eq!(cloud.key_lifetime(&application).await.unwrap(), KeyLifetime::Days(365));
    let refused = change(&cloud, &Holder::Application(application.id.clone()), &added(Vec::new()).0).await;
    assert!(matches!(refused, Err(ChangeError::Cloud(CloudError { failure: Failure::Refused, .. }))), "{refused:?}");
    lab.apply(Fault::CloudPermission { permission: Permission::PolicyReadAll, granted: false }).unwrap();
    let cloud = again(&lab);
    let unread = cloud.key_lifetime(&application).await.unwrap();
    assert!(matches!(unread, KeyLifetime::NotChecked(_)), "{unread:?}");
    assert!(cloud.shared_principal().await.unwrap().unwrap().key_credentials.is_empty());
    lab.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn exchange_online_is_read_and_asked_to_test_wherever_it_sends_us_within_its_own_hosts() {
    let (lab, cloud) = tenant().await;
    for region in [Region::Here, Region::Elsewhere] {
        lab.apply(Fault::Region { to: region }).unwrap();
        assert_eq!(cloud.online_relationships().await.unwrap().len(), 1);
    }
    assert_eq!(cloud.online_connectors().await.unwrap().len(), 1);
    let mailbox = lab.cloud().unwrap().cloud_test_mailbox.clone();
    for (mailbox, verdict) in [(mailbox.as_str(), Verdict::Works), ("nobody@contoso.example", Verdict::OtherMailbox)] {
        let target = "https://mail.contoso.example/EWS/Exchange.asmx";
        let tested = cloud.test_from_cloud(&OnlineTest { service: ServiceUnderTest::Ews, target, mailbox }).await;
        let tested = tested.unwrap();
        assert_eq!(tested.verdict, verdict, "{tested:?}");
    }
    lab.apply(Fault::CloudPermission { permission: Permission::ExchangeAdministrator, granted: false }).unwrap();
    let refused = again(&lab).online_relationships().await.unwrap_err();
    assert_eq!(refused.failure, Failure::Refused, "{refused}");
    lab.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_front_door_that_sends_us_to_others_or_round_in_circles_gets_neither_token_nor_question() {
    for region in [Region::Foreign, Region::Loop] {
        let (lab, cloud) = tenant().await;
        lab.apply(Fault::Region { to: region }).unwrap();
        let refused = cloud.online_relationships().await.unwrap_err();
        assert_eq!(refused.trouble.code, "cloud_redirected", "{region:?}: {refused}");
        lab.shutdown().await;
    }
}

/// Reads of single objects show what was there before the last write, so many of them, after some that do not.
fn stale_reads(lab: &Lab, skip: u32, times: u32) {
    let requests = CloudRequests {
        service: Some(CloudService::Graph),
        method: Some("GET".to_owned()),
        about: Some("applications/".to_owned()),
        skip,
        times,
    };
    lab.apply(Fault::Cloud { requests, disturbance: CloudDisturbance::Stale }).unwrap();
}

/// Every replica takes in what is written at once.
fn no_lag(lab: &Lab) {
    lab.apply(Fault::TenantLag { replica_seconds: Some(0), cache_seconds: None, write_gap_seconds: Some(0) }).unwrap();
}

fn somebody_registers_a_key(lab: &Lab) {
    lab.apply(Fault::CloudKeys { change: KeyChange::Add }).unwrap();
}

async fn names(cloud: &Cloud, holder: &Holder) -> Vec<String> {
    cloud.keys(holder).await.unwrap().iter().map(|key| key.display_name().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_only_some_replicas_show_yet_is_not_erased() {
    let (lab, cloud) = tenant().await;
    let application = dedicated(&lab, &cloud).await;
    let beside: Vec<String> = application.key_credentials.iter().map(|key| key.key_id().to_owned()).collect();
    let holder = Holder::Application(application.id);
    no_lag(&lab);
    somebody_registers_a_key(&lab);
    // The first read comes from a replica that is behind.
    stale_reads(&lab, 0, 1);
    let (add, _) = added(beside.clone());
    change(&cloud, &holder, &add).await.unwrap();
    assert!(names(&cloud, &holder).await.contains(&"Somebody else".to_owned()));

    // And so does the last one before the list is sent.
    somebody_registers_a_key(&lab);
    stale_reads(&lab, READS as u32, 1);
    let (add, _) = added(beside);
    change(&cloud, &holder, &add).await.unwrap();
    let left = names(&cloud, &holder).await;
    assert_eq!(left.iter().filter(|name| *name == "Somebody else").count(), 2, "{left:?}");
    lab.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_list_is_sent_while_replicas_disagree() {
    let (lab, cloud) = tenant().await;
    let holder = Holder::Application(dedicated(&lab, &cloud).await.id);
    lab.apply(Fault::TenantLag { replica_seconds: Some(86_400), cache_seconds: None, write_gap_seconds: None })
        .unwrap();
    somebody_registers_a_key(&lab);
    let (add, _) = added(Vec::new());
    let refused = change(&cloud, &holder, &add).await.unwrap_err();
    let ChangeError::Cloud(error) = refused else { panic!("{refused:?}") };
    assert_eq!((error.may_pass(), error.trouble.code.as_str()), (true, "cloud_keys_unsettled"));
    assert!(!lab.report().cloud.iter().any(|asked| asked.method == "PATCH"));
    lab.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_no_read_had_shown_and_that_was_erased_is_told_with_its_certificate() {
    let (lab, cloud) = tenant().await;
    let holder = Holder::Application(dedicated(&lab, &cloud).await.id);
    no_lag(&lab);
    somebody_registers_a_key(&lab);
    // Everything that is read before the list is sent is old, and one of the reads after it.
    stale_reads(&lab, 0, READS as u32 + 1);
    stale_reads(&lab, 1, 1);
    let (add, _) = added(Vec::new());
    let refused = change(&cloud, &holder, &add).await.unwrap_err();
    let ChangeError::Lost { error, keys } = refused else { panic!("{refused:?}") };
    assert_eq!((error.may_pass(), error.trouble.code.as_str()), (false, "cloud_key_lost"));
    assert!(error.trouble.message.contains("\"Somebody else\""), "{error}");
    assert_eq!(keys.len(), 1);
    assert!(keys[0].certificate().is_some(), "its owner gets it back");
    // When that is settled, the run goes on with the key that is there.
    let again = change(&cloud, &holder, &add).await.unwrap();
    assert!(again.already);
    lab.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_refused_because_somebody_took_a_key_out_meanwhile_is_made_anew() {
    let (lab, cloud) = tenant().await;
    let application = dedicated(&lab, &cloud).await;
    let holder = Holder::Application(application.id);
    no_lag(&lab);
    lab.apply(Fault::CloudKeys { change: KeyChange::RemoveCurrent }).unwrap();
    // Everything that is read before the list is sent is old.
    stale_reads(&lab, 0, READS as u32 + 1);
    let (add, _) = added(Vec::new());
    let changed = change(&cloud, &holder, &add).await.unwrap();
    let statuses: Vec<_> =
        lab.report().cloud.iter().filter(|asked| asked.method == "PATCH").map(|a| a.status).collect();
    assert_eq!(statuses, [400, 204]);
    assert_eq!((changed.before.len(), changed.after.len()), (1, 2), "the key that was taken out stays out");
    // What the run has to keep is not given up: that is tried again by itself, and told if it stays.
    let beside = application.key_credentials.iter().map(|key| key.key_id().to_owned()).collect();
    let lacking = change(&cloud, &holder, &added(beside).0).await.unwrap_err();
    let ChangeError::Cloud(error) = lacking else { panic!("{lacking:?}") };
    assert_eq!((error.may_pass(), error.trouble.code.as_str()), (true, "cloud_keys_changed"));
    lab.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_refused_though_nothing_has_changed_calls_a_person() {
    let (lab, cloud) = tenant().await;
    let holder = Holder::Application(dedicated(&lab, &cloud).await.id);
    let (code, message) = ("Request_BadRequest".to_owned(), "No.".to_owned());
    disturb(&lab, "PATCH", CloudDisturbance::Graph { status: 400, code, message });
    let refused = change(&cloud, &holder, &added(Vec::new()).0).await.unwrap_err();
    let ChangeError::Cloud(error) = refused else { panic!("{refused:?}") };
    assert_eq!((error.may_pass(), error.trouble.code.as_str()), (false, "cloud_refused"));
    lab.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_be_waited_for_is_not_when_the_worker_stops() {
    let (lab, cloud) = tenant().await;
    let holder = Holder::Application(dedicated(&lab, &cloud).await.id);
    let stop = CancellationToken::new();
    let stopping = cloud.until(stop.clone());
    stop.cancel();
    let error = stopping.settled_keys(&holder).await.unwrap_err();
    assert_eq!((error.may_pass(), error.trouble.code.as_str()), (true, "worker_stops"));
    disturb(&lab, "GET", CloudDisturbance::Throttle(3));
    let error = stopping.keys(&holder).await.unwrap_err();
    assert_eq!(error.failure, Failure::Again { after: Some(Duration::from_secs(3)) });
    lab.shutdown().await;
}
