//! The examples of the document: one small organization, its plan and its renewal, made by the same code that makes real ones.

use chrono::{DateTime, TimeDelta, Utc};
use domain::{
    Decision, Gate, Organization, OrganizationId, Outcome, Phase, Plan, Policy, Reason, Renewal, RenewalId, Request,
    Snapshot, State, Step, StepId, StepKind, StepStatus, Thumbprint, Ticket, Trouble,
    audit::AuditEntry,
    gate::Verb,
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
        ("AuditEntry", json(&audit_entry(&renewal, &plan))),
        ("AuthConfig", json(&snapshot.auth_config[0])),
        ("Certificate", json(&certificate())),
        ("Decision", json(&decision(&renewal, &plan))),
        ("Evidence", json(&evidence())),
        ("Observed", json(&plan.observed)),
        ("Organization", json(&organization)),
        ("Outcome", json(&step.outcome)),
        ("PlannedServer", json(&plan.servers[0])),
        ("PlannedStep", json(&plan.steps[1])),
        ("Policy", json(&organization.policy)),
        ("Process", json(&process())),
        ("Request", json(&request)),
        ("Server", json(&snapshot.servers[0])),
        ("State", json(&renewal.state)),
        ("Step", json(&step)),
        ("Store", json(&snapshot.servers[0].store)),
        ("Ticket", json(&request.ticket)),
        ("Wait", json(&wait())),
        ("Snapshot", json(&snapshot)),
        ("Renewal", json(&renewal)),
        ("Plan", json(&plan)),
    ]
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
    Organization { id: contoso(), name, lab: false, windows: true, cloud: None, policy: Policy::default() }
}

fn request() -> Request {
    let sys_id = "0f4ac6c4b750230096c3e4f6ee11a9fe";
    Request {
        organization: contoso(),
        reason: Reason::Expiring,
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
        id: RenewalId(id(1)),
        organization_id: contoso(),
        requested_by: "alice@contoso.example".to_owned(),
        request: request.clone(),
        state: State::AwaitingApproval { gate: Gate::Execute, digest: plan.digest(), since: at(0) },
        plan_digest: Some(plan.digest()),
        version: 4,
        created_at: at(0),
        updated_at: at(0),
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
        outcome: Some(Outcome::Generated {
            thumbprint: thumbprint("9F3B6C1D2E4A5B60718293A4B5C6D7E8F9011223"),
            not_before: at(48),
            not_after: at(48) + TimeDelta::days(1826),
            adopted: false,
            certificate: None,
        }),
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
