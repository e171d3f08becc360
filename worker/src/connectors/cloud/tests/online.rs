use serde_json::{Value as Json, json};

use super::{super::*, peer::*};
use crate::connectivity::Verdict;

const GET: &str = "Get-OrganizationRelationship";

fn relationship(name: &str) -> Json {
    json!({
        "DomainNames@odata.type": "#Collection(String)", "DomainNames": ["contoso.example"], "Guid@odata.type": "#Guid",
        "Guid": "6b1f5b5e-7a0d-4f57-9a1d-0d7c8a3f2b11", "Name": name, "Enabled": true, "TargetSharingEpr": null,
        "TargetAutodiscoverEpr": "https://autodiscover.contoso.example/autodiscover/autodiscover.svc"
    })
}

async fn with(pages: Json) -> (Peer, Cloud) {
    let peer = Peer::start().await;
    peer.tell("/cmdlets", json!({ "name": GET, "pages": pages })).await;
    let cloud = peer.cloud();
    (peer, cloud)
}

fn detailed(status: u16, detail: &str) -> Json {
    let internal = json!({ "message": "Exception of type 'DirectInvokeCmdletExecutionException' was thrown.", "type": "x", "stacktrace": "y" });
    json!({ "on": "online", "status": status, "body": { "error": {
        "code": "NotFound", "message": "Error executing cmdlet", "details": [{ "code": "Client", "target": "", "message": detail }],
        "innererror": { "message": "Error executing cmdlet", "type": "x", "stacktrace": "y", "internalexception": internal }
    } } })
}

#[tokio::test]
async fn all_pages_are_read_by_posting_again_without_annotations() {
    let (peer, cloud) = with(json!([[relationship("a")], [relationship("b")], []])).await;
    let read = cloud.online_relationships().await.unwrap();
    assert_eq!(read.iter().map(|r| r.name.as_str()).collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!((read[0].enabled, read[0].domain_names.as_slice()), (true, &["contoso.example".to_owned()][..]));
    assert_eq!(read[0].target_sharing_epr, None);
    let asked = peer.asked("online", "POST").await;
    assert_eq!(asked.len(), 3);
    let expected = json!({ "CmdletInput": { "CmdletName": GET, "Parameters": {} } });
    assert!(asked.iter().all(|one| one["body"] == expected));
    assert_eq!(asked[0]["path"], format!("/adminapi/beta/{TENANT}/InvokeCommand"));
}

#[tokio::test]
async fn a_list_that_is_cut_off_is_an_error() {
    let (peer, cloud) = with(json!([[relationship("a")], [relationship("b")]])).await;
    let mut fault = detailed(500, "Ex1|Microsoft.Exchange.X.YException|It broke.");
    fault["skip"] = 1.into();
    peer.fault(fault).await;
    let error = cloud.online_relationships().await.unwrap_err();
    assert!(error.trouble.message.contains("cut off after 1 pages"), "{error}");
    // Trouble that passes is waited for there, too.
    peer.fault(json!({ "on": "online", "skip": 1, "status": 503, "body": "" })).await;
    assert_eq!(cloud.online_relationships().await.unwrap().len(), 2);
    let same = json!({ "@odata.nextLink": format!("https://outlook.example/adminapi/beta/{TENANT}/InvokeCommand") });
    peer.tell("/cmdlets", json!({ "name": GET, "pages": [[]], "extra": same })).await;
    assert!(cloud.online_relationships().await.is_err(), "a page that is its own next one");
}

#[tokio::test]
async fn a_redirect_to_a_regional_host_is_followed_and_remembered() {
    let (peer, cloud) = with(json!([[relationship("a")], [relationship("b")]])).await;
    peer.tell("/region", json!({ "host": "eur01.outlook.example", "port": 446 })).await;
    assert_eq!(cloud.online_relationships().await.unwrap().len(), 2);
    let hosts = |asked: &[Json]| asked.iter().map(|one| one["host"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    let asked = peer.asked("online", "POST").await;
    assert_eq!(hosts(&asked)[..2], ["outlook.example", "eur01.outlook.example"]);
    assert!(asked[1]["authorized"] == true && asked[1]["body"] == asked[0]["body"]);
    assert_eq!(asked[1]["cookie"], "exchangecookie=abc");
}

#[tokio::test]
async fn neither_token_nor_request_goes_to_a_host_of_somebody_else() {
    let (peer, cloud) = with(json!([[]])).await;
    for host in ["elsewhere.example", "notoutlook.example"] {
        peer.tell("/region", json!({ "host": host })).await;
        let error = cloud.online_relationships().await.unwrap_err();
        assert_eq!((error.failure, error.trouble.code.as_str()), (Failure::Refused, "cloud_redirected"), "{host}");
    }
    let place = json!({ "Location": "http://eur01.outlook.example/adminapi" });
    peer.tell("/region", json!({})).await;
    peer.fault(json!({ "on": "online", "status": 302, "headers": place })).await;
    assert_eq!(cloud.online_relationships().await.unwrap_err().trouble.code, "cloud_redirected", "not over plain HTTP");
    let circle = json!({ "Location": format!("https://outlook.example/adminapi/beta/{TENANT}/InvokeCommand") });
    peer.fault(json!({ "on": "online", "status": 302, "headers": circle })).await;
    assert!(cloud.online_relationships().await.unwrap_err().trouble.message.contains("in circles"));
    let asked = peer.asked("online", "POST").await;
    assert!(asked.iter().all(|one| one["host"] == "outlook.example"));
}

#[tokio::test]
async fn a_failure_means_what_its_exception_says_whatever_the_status() {
    let (peer, cloud) = with(json!([[]])).await;
    let missing = "Ex6F9304|Microsoft.Exchange.Configuration.Tasks.ManagementObjectNotFoundException|The operation couldn't be performed because object 'x' couldn't be found on 'DC'.";
    for status in [404, 400, 500] {
        peer.fault(detailed(status, missing)).await;
        let error = cloud.online_relationships().await.unwrap_err();
        assert_eq!(
            (error.failure, error.trouble.code.as_str()),
            (Failure::NotFound, "exchange_online_object_missing"),
            "{status}"
        );
        assert!(error.trouble.message.contains("couldn't be found on 'DC'"));
    }
    // With an empty id.
    peer.fault(detailed(400, "|Microsoft.Exchange.Configuration.Tasks.ManagementObjectNotFoundException|x")).await;
    assert_eq!(cloud.online_relationships().await.unwrap_err().failure, Failure::NotFound);
    peer.fault(detailed(400, "")).await;
    let error = cloud.online_relationships().await.unwrap_err();
    assert!(
        error.trouble.message.contains("DirectInvokeCmdletExecutionException"),
        "the next text that says something: {error}"
    );
}

#[tokio::test]
async fn trouble_of_exchanges_own_is_waited_for() {
    let (peer, cloud) = with(json!([[relationship("a")]])).await;
    for name in [
        "DCOverloadedException",
        "SuitabilityDirectoryException",
        "ServerInMMException",
        "ADServerSettingsChangedException",
        "StorageTransientException",
    ] {
        peer.fault(detailed(400, &format!("Ex1|Microsoft.Exchange.Data.{name}|Later."))).await;
        assert_eq!(cloud.online_relationships().await.unwrap().len(), 1, "{name}");
    }
    for status in [503, 504] {
        peer.fault(json!({ "on": "online", "status": status, "body": "" })).await;
        assert_eq!(cloud.online_relationships().await.unwrap().len(), 1, "{status}");
    }
    let begun = std::time::Instant::now();
    peer.fault(json!({ "on": "online", "status": 429, "headers": { "Retry-After": "1" }, "body": "" })).await;
    cloud.online_relationships().await.unwrap();
    assert!(begun.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn missing_roles_are_told_with_the_little_that_exchange_online_says() {
    let (peer, cloud) = with(json!([[]])).await;
    let error = cloud.online_connectors().await.unwrap_err();
    assert_eq!((error.failure, error.trouble.code.as_str()), (Failure::Refused, "exchange_online_permission_missing"));
    assert!(error.trouble.message.contains("no reason given (request "), "zeros that claim to be gzip: {error}");
    let why = "2000008;reason=\"The role assigned to application is not supported.\";error_category=\"invalid_grant\"";
    peer.fault(json!({ "on": "online", "status": 403, "headers": { "x-ms-diagnostics": why }, "body": "" })).await;
    let error = cloud.online_relationships().await.unwrap_err();
    assert!(error.trouble.message.contains("The role assigned"), "{error}");
    peer.fault(json!({ "on": "online", "count": 2, "status": 401, "body": "" })).await;
    assert_eq!(cloud.online_relationships().await.unwrap_err().trouble.code, "exchange_online_token_refused");
    peer.tell("/tokens", json!({})).await;
    cloud.online_relationships().await.expect("a token that has ended is replaced");
}

#[tokio::test]
async fn errors_beside_a_success_are_a_failure() {
    let peer = Peer::start().await;
    let error = "Ex1|Microsoft.Exchange.X.YException|Half of it failed.";
    peer.tell("/cmdlets", json!({ "name": GET, "pages": [[]], "extra": { "@adminapi.errors": [error] } })).await;
    let error = peer.cloud().online_relationships().await.unwrap_err();
    assert!(error.trouble.message.contains("Half of it failed"), "{error}");
}

#[tokio::test]
async fn a_test_from_the_cloud_is_interpreted() {
    let peer = Peer::start().await;
    let detail = "Exception:\r\n, diagnostics: 2000005;reason=\"The user specified by the user-context in the token does not exist.\";error_category=\"invalid_user\"";
    let written = json!([[{
        "Task": "Checking EWS API Call Under Oauth", "Detail": detail, "ResultType": { "Value": "Error" }, "IsValid": true, "ObjectState": "New"
    }]]);
    peer.tell("/cmdlets", json!({ "name": "Test-OAuthConnectivity", "pages": written })).await;
    let test = OnlineTest {
        service: ServiceUnderTest::Ews,
        target: "https://mail.contoso.example/EWS/Exchange.asmx",
        mailbox: "cloud@contoso.example",
    };
    assert_eq!(peer.cloud().test_from_cloud(&test).await.unwrap().verdict, Verdict::OtherMailbox);
    let parameters = &peer.asked("online", "POST").await[0]["body"]["CmdletInput"]["Parameters"];
    assert_eq!(parameters["Service"], "EWS");
    assert_eq!(parameters["ReloadConfig"], true);
    peer.tell("/cmdlets", json!({ "name": "Test-OAuthConnectivity", "pages": [[]] })).await;
    assert!(peer.cloud().test_from_cloud(&test).await.is_err());
}
