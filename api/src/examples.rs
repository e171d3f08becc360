//! The examples of the document: one small organization, its plan and its renewal, made by the same code that makes real ones.

use chrono::{DateTime, TimeDelta, Utc};
use domain::{
    CloudSettings, Decision, Gate, HybridObjects, Organization, OrganizationId, Outcome, Phase, Plan, Policy, Reason,
    Renewal, RenewalId, Request, Snapshot, State, Step, StepId, StepKind, StepStatus, Tenant, Thumbprint, Ticket,
    Trouble,
    announcing::{News, Said},
    audit::AuditEntry,
    cloud::{Application, Checked, CloudKey, CloudName, EXCHANGE_ONLINE, Principal, application_name},
    gate::Verb,
    hybrid::{AuthServer, IntraOrganizationConnector, OrganizationRelationship, PartnerApplication, SettingOverride},
    outbox::{OutboxMessage, OutboxStatus},
    renewal::Wait,
    snapshot::{AuthConfig, Certificate, Key, Server, Store, Version},
    step::{CheckResult, Evidence, Process},
};
use serde::Serialize;
use serde_json::{Value, json};
use uuid::Uuid;

/// Each schema's name with an example of it.
pub(crate) fn examples() -> Vec<(&'static str, Value)> {
    let (organization, request, snapshot) = (organization(), request(), snapshot());
    let plan = domain::planning::plan(&organization, &request, &snapshot, at(0)).expect("the example can be planned");
    let renewal = renewal(&request, &plan);
    let step = step(&renewal);
    vec![
        ("Application", json(&application())),
        ("AuditEntry", json(&audit_entry(&renewal, &plan))),
        ("AuthConfig", json(&snapshot.auth_config[0])),
        ("Certificate", json(&certificate())),
        ("CloudKey", json(&application().keys[0])),
        ("CloudSettings", json(&cloud_settings())),
        ("Decision", json(&decision(&renewal, &plan))),
        ("Evidence", json(&evidence())),
        ("HybridObjects", json(&hybrid_objects())),
        ("News", json(&news(&plan))),
        ("Observed", json(&plan.observed)),
        ("Organization", json(&organization)),
        ("OutboxMessage", json(&outbox_message(&renewal, &plan))),
        ("Outcome", json(&step.outcome)),
        ("PlannedCloud", json(&hybrid_plan(&organization, &request, &snapshot).cloud)),
        ("PlannedServer", json(&plan.servers[0])),
        ("PlannedStep", json(&plan.steps[1])),
        ("Policy", json(&organization.policy)),
        ("Process", json(&process())),
        ("Request", json(&request)),
        ("Said", json(&said(&plan))),
        ("Server", json(&snapshot.servers[0])),
        ("State", json(&renewal.state)),
        ("Step", json(&step)),
        ("Store", json(&snapshot.servers[0].store)),
        ("Tenant", json(&tenant())),
        ("Ticket", json(&request.ticket)),
        ("Wait", json(&wait())),
        ("Snapshot", json(&snapshot)),
        ("Renewal", json(&renewal)),
        ("Plan", json(&plan)),
    ]
}

fn news(plan: &Plan) -> News {
    News::AwaitingApproval { gate: Gate::Execute, plan_digest: plan.digest(), ended: None }
}

fn said(plan: &Plan) -> Said {
    let (by, reason) = ("bob@contoso.example".to_owned(), "Reviewed the plan with the mail team".to_owned());
    Said { gate: Gate::Execute, plan_digest: plan.digest(), by, reason }
}

fn outbox_message(renewal: &Renewal, plan: &Plan) -> OutboxMessage {
    OutboxMessage {
        id: Uuid::from_u128(0x0193_61b2_90aa_7d02_8d3e_5f1f_2d0c_9b77),
        target: "chat".to_owned(),
        lane: format!("chat/{}", domain::announcing::subject(renewal)),
        event: news(plan).word().to_owned(),
        organization_id: Some(renewal.organization_id.clone()),
        renewal_id: Some(renewal.id),
        sequence: 7,
        status: OutboxStatus::Pending,
        failures: 2,
        last_error: Some("hooks.slack.com answers 503 Service Unavailable".to_owned()),
        created_at: at(0),
        finished_at: None,
    }
}

fn json<T: Serialize>(value: &T) -> Value {
    json!(value)
}

/// So many hours after the example begins.
fn at(hours: i64) -> DateTime<Utc> {
    DateTime::from_timestamp(1_795_428_000, 0).unwrap_or_default() + TimeDelta::hours(hours)
}

fn thumbprint(text: &str) -> Thumbprint {
    Thumbprint::parse(text).expect("a thumbprint")
}

fn contoso() -> OrganizationId {
    OrganizationId::parse("contoso").expect("a name")
}

fn organization() -> Organization {
    let name = "Contoso Ltd".to_owned();
    Organization {
        id: contoso(),
        name,
        lab: false,
        windows: true,
        cloud: None,
        test_mailbox: None,
        policy: Policy::default(),
    }
}

fn request() -> Request {
    let sys_id = "0f4ac6c4b750230096c3e4f6ee11a9fe";
    Request {
        organization: contoso(),
        reason: Reason::Expiring,
        change_type: None,
        risk: None,
        ticket: Some(Ticket {
            system: "servicenow".to_owned(),
            number: "CHG0030022".to_owned(),
            sys_id: Some(sys_id.to_owned()),
            url: Some(format!("https://acme.service-now.com/change_request.do?sys_id={sys_id}")),
        }),
        not_before: Some(at(48)),
        allow_absent: Vec::new(),
        note: Some("The Auth certificate expires on 2027-01-07".to_owned()),
    }
}

fn snapshot() -> Snapshot {
    Snapshot {
        organization: contoso(),
        taken_at: at(0),
        answered_by: "ex01.contoso.example".to_owned(),
        auth_config: vec![AuthConfig {
            domain_controller: "dc01.contoso.example".to_owned(),
            current: Some(certificate().thumbprint),
            previous: None,
            next: None,
            next_effective_at: None,
            changed_at: Some(at(-43_800)),
        }],
        servers: vec![Server {
            fqdn: "ex01.contoso.example".to_owned(),
            site: "Hamburg".to_owned(),
            version: Version { major: 15, minor: 2, build: 2562, revision: 17 },
            takes_part: true,
            domain_controller: Some("dc01.contoso.example".to_owned()),
            store: Store::Read { certificates: vec![certificate()] },
            clock_ahead_seconds: Some(0),
        }],
        hybrid: false,
        on_premises_hybrid: None,
        tenant: None,
    }
}

fn cloud_settings() -> CloudSettings {
    CloudSettings {
        cloud: CloudName::Global,
        graph_url: None,
        tenant_id: TENANT.to_owned(),
        application_id: None,
        exchange_online: true,
        test_mailbox: Some("oauth-test@contoso.example".to_owned()),
        cloud_test_mailbox: Some("oauth-test-cloud@contoso.example".to_owned()),
        purge_shared_principal: false,
    }
}

fn application() -> Application {
    let Certificate { thumbprint, not_before, not_after, .. } = certificate();
    Application {
        object_id: "5b3c7a52-2f6e-4f0e-8a55-2d4f8f1f7b11".to_owned(),
        app_id: "3f2504e0-4f89-41d3-9a0c-0305e82c3301".to_owned(),
        display_name: application_name(ORGANIZATION_GUID),
        keys: vec![CloudKey {
            key_id: "1a2b3c4d-5e6f-4a7b-8c9d-0e1f2a3b4c5d".to_owned(),
            thumbprint: Some(thumbprint),
            display_name: Some("Microsoft Exchange Server Auth Certificate".to_owned()),
            not_before: Some(not_before),
            not_after: Some(not_after),
        }],
    }
}

fn tenant() -> Tenant {
    let shared = Principal {
        object_id: "c2f1c9d0-6d67-4c0e-9a7e-6a1b3c2d4e5f".to_owned(),
        app_id: EXCHANGE_ONLINE.to_owned(),
        keys: Vec::new(),
    };
    Tenant::Read {
        application: Some(application()),
        shared_principal: Some(shared),
        max_key_lifetime_days: Some(1826),
        key_lifetime_not_read: None,
        exchange_online: Checked::NotChecked { reason: "exchange_online is not configured".to_owned() },
    }
}

fn hybrid_objects() -> HybridObjects {
    let discovery = "https://autodiscover-s.outlook.com/autodiscover/autodiscover.svc";
    let domains = vec!["contoso.mail.onmicrosoft.com".to_owned()];
    HybridObjects {
        organization_guid: Some(ORGANIZATION_GUID.to_owned()),
        auth_config_realm: String::new(),
        auth_config_service_name: EXCHANGE_ONLINE.to_owned(),
        auth_servers: vec![AuthServer {
            name: format!("EvoSts - {ORGANIZATION_GUID}"),
            kind: "AzureAD".to_owned(),
            enabled: true,
            realm: TENANT.to_owned(),
            application_id: Some(application().app_id),
            domain_names: domains.clone(),
            token_issuing_endpoint: format!("https://login.microsoftonline.com/{TENANT}/oauth2/v2.0/token"),
            auth_metadata_url:
                "https://login.windows.net/contoso.example/federationmetadata/2007-06/federationmetadata.xml".to_owned(),
        }],
        partner_applications: vec![PartnerApplication {
            name: "Exchange Online".to_owned(),
            application_id: EXCHANGE_ONLINE.to_owned(),
            enabled: true,
            realm: String::new(),
            use_auth_server: true,
            linked_account: Some("contoso.example/Users/Exchange Online-ApplicationAccount".to_owned()),
        }],
        intra_organization_connectors: vec![IntraOrganizationConnector {
            name: format!("HybridIOC - {ORGANIZATION_GUID}"),
            enabled: true,
            target_address_domains: domains.clone(),
            discovery_endpoint: Some(discovery.to_owned()),
            target_sharing_epr: None,
        }],
        organization_relationships: vec![OrganizationRelationship {
            name: format!("On-premises to O365 - {ORGANIZATION_GUID}"),
            enabled: true,
            domain_names: domains,
            target_application_uri: Some("outlook.com".to_owned()),
            target_autodiscover_epr: Some(format!("{discovery}/WSSecurity")),
            target_sharing_epr: None,
        }],
        setting_overrides: vec![SettingOverride { name: "EnableExchangeHybrid3PAppFeature".to_owned(), enabled: true }],
    }
}

/// The same organization, if it were a hybrid one.
fn hybrid_plan(organization: &Organization, request: &Request, snapshot: &Snapshot) -> Plan {
    let organization = Organization { cloud: Some(cloud_settings()), ..organization.clone() };
    let (on_premises_hybrid, tenant) = (Some(hybrid_objects()), Some(tenant()));
    let snapshot = Snapshot { hybrid: true, on_premises_hybrid, tenant, ..snapshot.clone() };
    domain::planning::plan(&organization, request, &snapshot, at(0)).expect("the example can be planned")
}

const TENANT: &str = "7c9e6679-7425-40de-944b-e07fc1f90ae7";

const ORGANIZATION_GUID: &str = "8f14e45f-ceea-467f-a8a5-3f3d5a1f7a10";

fn certificate() -> Certificate {
    Certificate {
        thumbprint: thumbprint("1D5C8F0B7A6E4D3C2B1A0F9E8D7C6B5A49382716"),
        not_before: at(-42_750),
        not_after: at(1_074),
        key: Key::Csp,
        findings: Vec::new(),
    }
}

fn renewal(request: &Request, plan: &Plan) -> Renewal {
    Renewal {
        state: State::awaiting(Gate::Execute, plan.digest(), at(0)),
        plan_digest: Some(plan.digest()),
        version: 4,
        ..Renewal::requested(RenewalId(id(1)), "alice@contoso.example", request.clone(), at(0))
    }
}

fn step(renewal: &Renewal) -> Step {
    Step {
        id: StepId(id(2)),
        renewal_id: renewal.id,
        ordinal: 1,
        phase: Phase::Generate,
        kind: StepKind::Generate,
        target: String::new(),
        site: String::new(),
        status: StepStatus::Succeeded,
        attempt: 1,
        failures: 0,
        due_at: None,
        trouble: None,
        outcome: Some(Box::new(Outcome::Generated {
            thumbprint: thumbprint("9F3B6C1D2E4A5B60718293A4B5C6D7E8F9011223"),
            not_before: at(48),
            not_after: at(48) + TimeDelta::days(1826),
            adopted: false,
            certificate: Some("MIIDXTCCAkWgAwIBAgIQ…".to_owned()),
            exchange_publishes_at: None,
        })),
        started_at: Some(at(48)),
        finished_at: Some(at(48)),
    }
}

fn decision(renewal: &Renewal, plan: &Plan) -> Decision {
    Decision {
        id: id(3),
        renewal_id: renewal.id,
        gate: Gate::Execute,
        plan_digest: plan.digest(),
        verb: Verb::Approve,
        decided_by: "bob@contoso.example".to_owned(),
        reason: "Reviewed the plan with the mail team".to_owned(),
        decided_at: at(2),
        decided_groups: Vec::new(),
        break_glass: false,
        voided_by: None,
    }
}

fn audit_entry(renewal: &Renewal, plan: &Plan) -> AuditEntry {
    AuditEntry {
        id: id(4),
        renewal_id: Some(renewal.id),
        organization_id: Some(contoso()),
        sequence: 6,
        at: at(2),
        actor: "bob@contoso.example".to_owned(),
        action: "decision.approved".to_owned(),
        detail: json!({
            "gate": "execute",
            "plan_digest": plan.digest(),
            "reason": "Reviewed the plan with the mail team"
        }),
    }
}

fn wait() -> Wait {
    let trouble = Trouble::new(
        domain::progress::SERVER_UNREACHABLE,
        "ex03.contoso.example did not accept a connection on port 443: connection refused",
        "Start the server or its network path; the step is retried by itself",
    );
    Wait::Retry { target: "ex03.contoso.example".to_owned(), trouble }
}

fn process() -> Process {
    Process { name: "MSExchangeOWAAppPool".to_owned(), started_at: at(98) }
}

fn evidence() -> Evidence {
    Evidence {
        check: "certificate_on_server".to_owned(),
        target: "ex01.contoso.example".to_owned(),
        result: CheckResult::Passed,
        detail: "current 9F3B6C1D, key in a CSP".to_owned(),
    }
}

/// A UUIDv7 of the example's time.
fn id(number: u8) -> Uuid {
    let millis = u64::try_from(at(0).timestamp_millis()).unwrap_or_default();
    let random = [0x0c, 0x61, 0x1a, 0x55, 0x0c, 0x7b, 0xe3, 0xb0, 0xf4, number];
    uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
}
