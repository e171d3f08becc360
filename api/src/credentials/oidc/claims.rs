//! What the claims of a token, whose signature is right, make of its owner.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use serde_json::{Map, Value};

use super::{Cause, Claim, Issuer};
use crate::{
    Grants, Role,
    caller::{Caller, Credential},
    tokens::check_subject,
};

type Claims = Map<String, Value>;

/// The owner of a token that may be used at `now`.
pub(super) fn caller(issuer: &Issuer, claims: &Claims, now: DateTime<Utc>) -> Result<Caller, Cause> {
    check_addressee(issuer, claims)?;
    let expires = check_times(issuer, claims, now)?;
    if claims.contains_key("cnf") {
        return Err(Cause::Bound);
    }
    let subject = subject(issuer, claims)?;
    let groups = groups(issuer, claims);
    let grants = Grants { roles: roles(issuer, &groups), organizations: organizations(issuer, &groups), groups };
    let notice = is_overage(claims).then_some(OVERAGE);
    Ok(Caller { subject, grants, credential: Credential::Oidc, expires_at: Some(expires), notice })
}

/// Entra leaves groups out of a token when they are more than 200, and says where they could be asked for.
const OVERAGE: &str = "Your token does not hold your groups, because you are in more than its issuer puts into one: let the issuer put only the groups \
                       assigned to the application into tokens, or use its application roles (claim `roles`).";

fn check_addressee(issuer: &Issuer, claims: &Claims) -> Result<(), Cause> {
    if claims.get("iss").and_then(Value::as_str) != Some(&issuer.issuer) {
        return Err(Cause::Issuer);
    }
    let addressed = |audience: &Value| audience.as_str().is_some_and(|text| issuer.audiences.iter().any(|a| a == text));
    let good = match claims.get("aud") {
        Some(Value::Array(audiences)) => audiences.iter().any(addressed),
        Some(audience) => addressed(audience),
        None => false,
    };
    if good { Ok(()) } else { Err(Cause::Audience(issuer.audiences.join("` or `"))) }
}

/// When the token ends, if it may be used now.
fn check_times(issuer: &Issuer, claims: &Claims, now: DateTime<Utc>) -> Result<DateTime<Utc>, Cause> {
    let leeway = chrono::TimeDelta::from_std(issuer.leeway).unwrap_or_default();
    let expires = instant(claims, "exp")?.ok_or_else(|| Cause::Claims("`exp` is missing".to_owned()))?;
    if expires + leeway <= now {
        return Err(Cause::Expired(expires));
    }
    match instant(claims, "nbf")? {
        Some(begins) if begins - leeway > now => Err(Cause::NotYetValid(begins)),
        _ => Ok(expires),
    }
}

/// A `NumericDate` (RFC 7519, 2), which may have a fraction.
fn instant(claims: &Claims, name: &str) -> Result<Option<DateTime<Utc>>, Cause> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let wrong = || Cause::Claims(format!("`{name}` is not a time"));
    let seconds = value.as_f64().filter(|seconds| (0.0..1e11).contains(seconds)).ok_or_else(wrong)?;
    DateTime::from_timestamp(seconds as i64, 0).map(Some).ok_or_else(wrong)
}

/// The name for the record. What rekey calls its own parts nobody may be called.
pub(super) fn subject(issuer: &Issuer, claims: &Claims) -> Result<String, Cause> {
    let claim = &issuer.subject_claim;
    let name =
        claim.of(claims).and_then(Value::as_str).ok_or_else(|| Cause::Claims(format!("`{claim}` is missing")))?;
    check_subject(name).map_err(|error| Cause::Claims(error.to_string()))?;
    if ["worker:", "api_key:"].iter().any(|reserved| name.starts_with(reserved)) || name == crate::refusals::ANONYMOUS {
        return Err(Cause::Claims(format!("`{claim}` is a name of rekey's own")));
    }
    if claim.0 == "email" && claims.get("email_verified") == Some(&Value::Bool(false)) {
        return Err(Cause::Claims("`email` is not verified".to_owned()));
    }
    Ok(name.to_owned())
}

fn groups(issuer: &Issuer, claims: &Claims) -> Vec<String> {
    let values = issuer.groups_claims.iter().filter_map(|claim: &Claim| claim.of(claims));
    let names = values.flat_map(|value| match value {
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
        Value::String(name) => vec![name.as_str()],
        _ => Vec::new(),
    });
    let mut seen = BTreeSet::new();
    names.filter(|name| seen.insert(*name)).map(str::to_owned).collect()
}

fn roles(issuer: &Issuer, groups: &[String]) -> Vec<Role> {
    let roles: BTreeSet<Role> = groups.iter().filter_map(|group| issuer.roles.get(group)).flatten().copied().collect();
    roles.into_iter().collect()
}

fn organizations(issuer: &Issuer, groups: &[String]) -> Option<BTreeSet<domain::OrganizationId>> {
    let table = issuer.organizations.as_ref()?;
    Some(groups.iter().filter_map(|group| table.get(group)).flatten().cloned().collect())
}

fn is_overage(claims: &Claims) -> bool {
    let elsewhere = claims.get("_claim_names").and_then(|names| names.get("groups")).is_some();
    elsewhere || claims.get("hasgroups").is_some_and(|value| *value == true || *value == "true")
}

#[cfg(test)]
mod tests;
