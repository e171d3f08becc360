//! What is read from the shapes that ticket systems send.

use chrono::TimeZone as _;
use serde_json::json;

use super::*;

fn organizations() -> Vec<OrganizationId> {
    ["contoso", "fabrikam"].map(|id| OrganizationId::parse(id).unwrap()).to_vec()
}

fn now() -> DateTime<Utc> {
    Utc.with_ymd_and_hms(2026, 11, 23, 10, 0, 0).unwrap()
}

fn source(kind: SourceKind) -> Source {
    let organization = OrganizationId::parse("contoso").ok();
    Source { id: "acme".to_owned(), kind, organization, ticket_system: "acme".to_owned(), ..Source::servicenow() }
}

fn read(source: &Source, body: &Value) -> Result<Intake, Vec<Fault>> {
    let organizations = organizations();
    source.read(body, &organizations.iter().collect::<Vec<_>>(), now())
}

const SYS_ID: &str = "0f4ac6c4b750230096c3e4f6ee11a9fe";

fn change(members: Value) -> Value {
    let mut change = json!({"sys_id": SYS_ID, "number": "CHG0030022"});
    change.as_object_mut().unwrap().extend(members.as_object().unwrap().clone());
    change
}

fn word(source: &Source, body: &Value) -> Option<TicketWord> {
    read(source, body).unwrap().standing(None).map(|standing| standing.word)
}

#[test]
fn a_change_means_what_its_state_approval_and_hold_say_together() {
    let source = source(SourceKind::ServiceNow);
    let cases = [
        (json!({}), None),
        (json!({"on_hold": "false"}), None),
        (json!({"state": "-5"}), Some(TicketWord::NotReady)),
        (json!({"state": {"display_value": "New", "value": -5}}), Some(TicketWord::NotReady)),
        (json!({"state": "-3", "approval": "approved"}), Some(TicketWord::NotReady)),
        (json!({"state": "-2", "approval": "approved"}), Some(TicketWord::Ready)),
        (json!({"state": "Scheduled", "approval": "approved", "on_hold": true}), Some(TicketWord::OnHold)),
        (json!({"state": "-2", "approval": "requested"}), Some(TicketWord::NotReady)),
        (json!({"state": "-2", "approval": "not requested"}), Some(TicketWord::NotReady)),
        (json!({"state": "-2"}), Some(TicketWord::NotReady)),
        (json!({"state": "-1", "approval": "approved"}), Some(TicketWord::Ready)),
        (json!({"state": "Implement"}), Some(TicketWord::Ready)),
        (json!({"state": "-1", "approval": "requested"}), Some(TicketWord::NotReady)),
        (json!({"state": "-1", "approval": "approved", "on_hold": true}), Some(TicketWord::OnHold)),
        (json!({"on_hold": "1"}), Some(TicketWord::OnHold)),
        (json!({"state": "-3", "approval": "rejected", "on_hold": "true"}), Some(TicketWord::ApprovalVoided)),
        (json!({"state": "0", "approval": "approved"}), Some(TicketWord::NotReady)),
        (json!({"state": "3", "on_hold": "true"}), Some(TicketWord::Closed)),
        (json!({"state": "4", "approval": "rejected"}), Some(TicketWord::Cancelled)),
        (json!({"state": "something of our own", "approval": "approved"}), Some(TicketWord::NotReady)),
        (json!({"approval": "approved"}), Some(TicketWord::Ready)),
    ];
    for (members, expected) in cases {
        assert_eq!(word(&source, &change(members.clone())), expected, "{members}");
    }
    let standing = read(&source, &change(json!({"state": "-1", "approval": "approved", "on_hold": "true"}))).unwrap();
    assert_eq!(standing.standing(None).unwrap().detail, "state Implement (-1), approval approved, on hold");
}

#[test]
fn the_configuration_says_what_states_of_its_own_mean() {
    let mut source = source(SourceKind::ServiceNow);
    let ready = ["build", "-2"].map(|state| (state.to_owned(), TicketWord::Ready));
    source.states = BTreeMap::from(ready);
    source.states.insert("-1".to_owned(), TicketWord::NotReady);
    assert_eq!(word(&source, &change(json!({"state": "-2"}))), Some(TicketWord::Ready), "with whatever approval");
    assert_eq!(word(&source, &change(json!({"state": "Build"}))), Some(TicketWord::Ready));
    assert_eq!(word(&source, &change(json!({"state": "-1"}))), Some(TicketWord::NotReady));
    assert_eq!(word(&source, &change(json!({"state": "4"}))), Some(TicketWord::Cancelled));
}

#[test]
fn a_change_that_is_reverted_to_new_voids_its_approvals() {
    let source = source(SourceKind::ServiceNow);
    let reverted = read(&source, &change(json!({"state": "-5", "approval": "not requested"}))).unwrap();
    for (before, expected) in [
        (None, TicketWord::NotReady),
        (Some("not requested"), TicketWord::NotReady),
        (Some("requested"), TicketWord::ApprovalVoided),
        (Some("approved"), TicketWord::ApprovalVoided),
    ] {
        assert_eq!(reverted.standing(before).unwrap().word, expected, "{before:?}");
    }
}

#[test]
fn a_record_that_came_late_is_known_by_its_count_or_its_time() {
    let at = |minute| Utc.with_ymd_and_hms(2026, 11, 23, 10, minute, 0).single();
    let revision = |mod_count, updated_at| Revision { mod_count, updated_at };
    assert!(revision(Some(6), at(9)).is_before(revision(Some(7), at(1))), "the count decides");
    assert!(!revision(Some(7), None).is_before(revision(Some(7), at(1))), "the same is not late");
    assert!(revision(None, at(0)).is_before(revision(Some(7), at(1))));
    assert!(!revision(None, None).is_before(revision(Some(7), at(1))));
    assert_eq!(revision(Some(6), at(9)).newest(revision(Some(7), at(1))), revision(Some(7), at(9)));
}

#[test]
fn every_form_in_which_jira_sends_an_issue_is_read() {
    let mut source = source(SourceKind::Jira);
    source.fields = BTreeMap::from([
        (Name::Organization, "/fields/customfield_10050".to_owned()),
        (Name::Start, "/fields/customfield_10051".to_owned()),
    ]);
    let issue = json!({
        "id": "10002", "key": "CHG-17", "self": "https://acme.atlassian.net/rest/api/2/issue/10002",
        "fields": {
            "summary": "Renew the Auth certificate", "updated": "2026-11-23T10:15:02.000+0100",
            "status": {"name": "Implementing"}, "reporter": {"accountId": "5b10a", "emailAddress": "dana@acme.example"},
            "customfield_10050": {"value": "fabrikam", "id": "1"}, "customfield_10051": "2026-12-01T20:00:00.000+0000"
        }
    });
    let mut automation = issue.clone();
    automation["id"] = json!(10002);
    for body in [
        json!({"timestamp": 1_795_000_000_000_i64, "webhookEvent": "jira:issue_updated", "issue": issue, "user": {}}),
        json!({"issue": issue, "timestamp": 1_795_000_000_000_i64}),
        automation,
    ] {
        let intake = read(&source, &body).unwrap();
        assert_eq!(intake.key(), "10002");
        assert_eq!(intake.ticket.number, "CHG-17");
        assert_eq!(intake.ticket.url.as_deref(), Some("https://acme.atlassian.net/browse/CHG-17"));
        assert_eq!(intake.requested_by.as_deref(), Some("dana@acme.example"));
        assert_eq!(intake.revision.updated_at, Some(Utc.with_ymd_and_hms(2026, 11, 23, 9, 15, 2).unwrap()));
        let request = intake.request.as_ref().unwrap();
        assert_eq!(request.organization.as_str(), "fabrikam");
        assert_eq!(request.not_before, Some(Utc.with_ymd_and_hms(2026, 12, 1, 20, 0, 0).unwrap()));
        assert_eq!(intake.standing(None).unwrap().word, TicketWord::Ready);
    }
    let deleted = json!({"webhookEvent": "jira:issue_deleted", "issue": issue});
    assert_eq!(word(&source, &deleted), Some(TicketWord::Cancelled));
    assert_eq!(read(&source, &json!({"webhookEvent": "comment_created"})).unwrap_err()[0].pointer, "/key");
}

#[test]
fn any_json_and_cloud_events_are_read_where_the_configuration_says() {
    let plain = json!({"number": "R-1", "organization": "fabrikam", "reason": "compromised", "state": "on_hold"});
    let intake = read(&source(SourceKind::Generic), &plain).unwrap();
    assert_eq!((intake.key(), intake.not_begun()), ("R-1", Some(TicketWord::OnHold)));
    assert_eq!(intake.request.unwrap().reason, Reason::Compromised);
    let event = json!({"specversion": "1.0", "type": "change.approved", "id": "1", "source": "/x", "data": plain});
    let intake = read(&source(SourceKind::Generic), &event).unwrap();
    assert_eq!(intake.event.as_deref(), Some("change.approved"));
    let mut mapped = source(SourceKind::Generic);
    mapped.fields = BTreeMap::from([(Name::Number, "/change/ref".to_owned()), (Name::Key, "/change/uuid".to_owned())]);
    let body = json!({"change": {"ref": "C 7", "uuid": 77}, "number": "not this one"});
    assert_eq!(read(&mapped, &body).unwrap().ticket.number, "C 7");
    let faults = read(&mapped, &json!({"change": {"uuid": []}})).unwrap_err();
    let pointers: Vec<_> = faults.iter().map(|fault| fault.pointer.as_str()).collect();
    assert_eq!(pointers, ["/change/uuid", "/change/ref"]);
}

#[test]
fn what_a_ticket_says_is_heard_also_where_its_request_cannot_be_used() {
    let body = change(json!({"state": "-1", "on_hold": "true", "start_date": "next week", "inputs": {"reason": "?"}}));
    let intake = read(&source(SourceKind::ServiceNow), &body).unwrap();
    assert_eq!(intake.not_begun(), Some(TicketWord::OnHold));
    let faults = intake.request.unwrap_err();
    let pointers: Vec<_> = faults.iter().map(|fault| fault.pointer.as_str()).collect();
    assert_eq!(pointers, ["/inputs/reason", "/start_date"]);
}

#[test]
fn a_fault_is_named_where_it_stands_in_what_was_sent() {
    let source = source(SourceKind::ServiceNow);
    let faults = |body: Value| read(&source, &body).unwrap_err();
    let nested = faults(json!({"result": [{"sys_id": "x", "number": "CHG1"}]}));
    assert_eq!(nested[0].pointer, "/result/0/sys_id");
    assert_eq!(faults(json!({"records": []}))[0].pointer, "/records");
    assert_eq!(faults(json!({"result": "x"}))[0].pointer, "/result");
    assert_eq!(faults(change(json!({"sys_mod_count": "many"})))[0].pointer, "/sys_mod_count");
    assert_eq!(faults(change(json!({"sys_updated_on": "01.12.2026"})))[0].pointer, "/sys_updated_on");
    assert_eq!(faults(change(json!({"on_hold": "perhaps"})))[0].pointer, "/on_hold");
}
