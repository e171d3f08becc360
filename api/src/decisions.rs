//! `/v1/renewals/{id}/decisions`: what people say to a plan.

use actix_web::{
    HttpResponse, get,
    http::header,
    post,
    web::{Data, Json, Path},
};
use chrono::{DateTime, Utc};
use db::LoadedRun;
use domain::{Decision, Digest, Gate, GateRule, Plan, Renewal, RenewalId, Verdict, gate::Verb};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use crate::{
    Problem, Role, State,
    caller::{Caller, Decide, May, Read},
    input::{Body, IfMatch, IfMatchHeader, Why},
    renewals::etag,
};

/// A decision to be made.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(example = json!({
    "gate": "execute",
    "verb": "approve",
    "plan_digest": "sha256:2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
    "reason": "Reviewed the plan with the mail team"
}))]
pub(crate) struct NewDecision {
    /// The gate to decide on. A gate that the run has not met yet may be decided in advance; `trust_cloud` once the new certificate is made.
    gate: Gate,
    /// What to say.
    verb: Verb,
    /// The digest of the plan that was read: `Plan-Digest` of `/plan`.
    plan_digest: Digest,
    /// Why.
    reason: Why,
    /// Pass the gate alone, in an emergency: needs the role `break_glass` and a reason of at least 20 characters. An auditor reviews it.
    #[serde(default)]
    break_glass: bool,
}

/// A decision that was taken, and the renewal after it.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct TakenDecision {
    /// The decision.
    decision: Decision,
    /// The renewal, with everything that followed.
    renewal: Renewal,
}

/// Decide at a gate.
///
/// Everybody's last word on a gate of the current plan counts. Who asked for the renewal cannot approve it, but may reject it.
#[utoipa::path(tag = "decisions", request_body = NewDecision, params(("id" = RenewalId, Path), IfMatchHeader), responses(
    (status = 201, body = TakenDecision, headers(("ETag" = String, description = "The renewal's version"))),
    (status = 403, description = "You lack the role, or asked for the renewal yourself (`self_approval`)"),
    (status = 409, description = "`stale_digest`, `gate_not_open`, `gate_passed` or `nothing_to_withdraw`"),
    (status = 412, description = "The renewal has changed since the version in `If-Match`")
))]
#[post("/v1/renewals/{id}/decisions")]
pub(crate) async fn create_decision(
    caller: May<Decide>,
    state: Data<State>,
    id: Path<RenewalId>,
    expected: IfMatch,
    Body(new): Body<NewDecision>,
) -> Result<HttpResponse, Problem> {
    may_decide(caller.caller(), new.break_glass)?;
    let decision = Decision {
        id: Uuid::now_v7(),
        renewal_id: *id,
        gate: new.gate,
        plan_digest: new.plan_digest,
        verb: new.verb,
        decided_by: caller.subject().to_owned(),
        reason: new.reason.into(),
        decided_at: state.now(),
        decided_groups: caller.groups().to_vec(),
        break_glass: new.break_glass,
        voided_by: None,
    };
    let at = decision.decided_at;
    let renewal = state.db.write(async |tx| tx.decide(&decision, expected.0, at).await).await?;
    let etag = (header::ETAG, etag(renewal.version));
    Ok(HttpResponse::Created().insert_header(etag).json(TakenDecision { decision, renewal }))
}

/// An administrator decides like an approver, but breaks the glass only with the role for it.
fn may_decide(caller: &Caller, break_glass: bool) -> Result<(), Problem> {
    if !break_glass {
        return caller.require(&[Role::Approver]);
    }
    if caller.holds(Role::BreakGlass) {
        return Ok(());
    }
    Err(Problem::forbidden(
        "Breaking the glass needs the role break_glass, which an administrator does not have by itself.",
    ))
}

/// Every decision on a renewal, and where its gates stand.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Decisions {
    /// Oldest first, also those on former plans.
    items: Vec<Decision>,
    /// Where the gates of the current plan stand; empty before there is one.
    gates: Vec<GateStanding>,
}

/// Where a gate stands.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct GateStanding {
    /// The gate.
    gate: Gate,
    /// How many people must approve; 0 passes it on evidence alone.
    #[schema(example = 1)]
    quorum: u32,
    /// The verdict on the current plan.
    verdict: VerdictWord,
    /// Who approved the current plan, without the requester.
    #[schema(example = json!(["bob@contoso.example"]))]
    approved_by: Vec<String>,
    /// What is missing, in words.
    #[schema(example = json!(["one more approval of group exchange-admins"]))]
    missing: Vec<String>,
    /// Whose approvals no longer count because they are too old.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(example = json!([]))]
    lapsed: Vec<String>,
    /// Whether somebody broke the glass.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    broken_glass: bool,
    /// What the gate asks for beyond its quorum.
    #[serde(skip_serializing_if = "GateRule::is_empty")]
    rule: GateRule,
    /// Who rejected the current plan and has not withdrawn it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "carol@contoso.example")]
    rejected_by: Option<String>,
}

/// What the decisions amount to.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(example = "approved")]
pub(crate) enum VerdictWord {
    /// The quorum is reached and nobody stands against it.
    Approved,
    /// More approvals are needed.
    Open,
    /// Somebody stands against it.
    Rejected,
}

/// List the decisions on a renewal, and where its gates stand.
#[utoipa::path(tag = "decisions", params(("id" = RenewalId, Path)), responses((status = 200, body = Decisions)))]
#[get("/v1/renewals/{id}/decisions")]
pub(crate) async fn list_decisions(
    _: May<Read>,
    state: Data<State>,
    id: Path<RenewalId>,
) -> Result<Json<Decisions>, Problem> {
    let run = state.db.read(async |tx| tx.load_run(*id).await).await?;
    Ok(Json(Decisions { gates: standings(&run, state.now()), items: run.decisions }))
}

/// Where the gates of the current plan stand.
pub(crate) fn standings(run: &LoadedRun, now: DateTime<Utc>) -> Vec<GateStanding> {
    let Some(plan) = &run.plan else { return Vec::new() };
    plan.gates_in_order().map(|gate| standing(run, plan, gate, now)).collect()
}

fn standing(run: &LoadedRun, plan: &Plan, gate: Gate, now: DateTime<Utc>) -> GateStanding {
    let (rule, digest) = (plan.rule(gate), run.renewal.plan_digest.clone().unwrap_or_else(|| plan.digest()));
    let view = run.as_run();
    let asked = view.asked(plan, gate, &digest, &rule, now);
    let people = |decisions: Vec<&Decision>| decisions.iter().map(|d| d.decided_by.clone()).collect();
    let (verdict, missing, rejected_by, broken_glass) = match asked.verdict(&run.decisions) {
        Verdict::Approved { broken_glass, .. } => (VerdictWord::Approved, Vec::new(), None, broken_glass),
        Verdict::Open { missing, .. } => (VerdictWord::Open, missing, None, false),
        Verdict::Rejected { by, .. } => (VerdictWord::Rejected, Vec::new(), Some(by), false),
    };
    let (approved_by, lapsed) = (people(asked.approvals(&run.decisions)), people(asked.lapsed(&run.decisions)));
    let missing = missing.iter().map(ToString::to_string).collect();
    GateStanding {
        gate,
        quorum: plan.quorum(gate),
        verdict,
        approved_by,
        missing,
        lapsed,
        broken_glass,
        rule: rule.clone(),
        rejected_by,
    }
}
