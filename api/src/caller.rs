//! Who calls, and what they may do. Each handler names the permission that it needs in its signature.

use std::{
    future::{Ready, ready},
    marker::PhantomData,
};

use actix_web::{FromRequest, HttpMessage, HttpRequest, dev::Payload, http::header::AUTHORIZATION, web::Data};
use chrono::Utc;

use crate::{
    Claims, Problem, Role, State,
    tokens::{Cause, Rejected},
};

/// Somebody with a valid token, whatever their roles.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) claims: Claims,
}

/// The subject of a token that this service signed; kept with the request so that a refusal can be recorded with its name.
#[derive(Clone, Debug)]
pub(crate) struct KnownSubject(pub(crate) String);

impl Caller {
    fn of(request: &HttpRequest) -> Result<Self, Problem> {
        let state = request.app_data::<Data<State>>().expect("the state is registered with the application");
        match bearer(request).and_then(|token| state.tokens.verify(token, Utc::now())) {
            Ok(claims) => {
                request.extensions_mut().insert(KnownSubject(claims.sub.clone()));
                Ok(Self { claims })
            }
            Err(Rejected { cause, subject }) => {
                if let Some(subject) = subject {
                    request.extensions_mut().insert(KnownSubject(subject));
                }
                Err(Problem::unauthenticated(cause.to_string()))
            }
        }
    }

    /// The subject of their token.
    pub(crate) fn subject(&self) -> &str {
        &self.claims.sub
    }

    /// The groups that they belong to, as their token says.
    pub(crate) fn groups(&self) -> &[String] {
        &self.claims.groups
    }

    /// Whether they hold one of these roles, or are an administrator.
    pub(crate) fn require(&self, roles: &[Role]) -> Result<(), Problem> {
        self.clone().holding_any(roles).map(drop)
    }

    /// Whether they hold just this role.
    pub(crate) fn holds(&self, role: Role) -> bool {
        self.claims.roles.contains(&role)
    }

    fn holding_any(self, roles: &[Role]) -> Result<Self, Problem> {
        let held = &self.claims.roles;
        if held.contains(&Role::Administrator) || roles.iter().any(|role| held.contains(role)) {
            return Ok(self);
        }
        let list = |roles: &[Role]| roles.iter().map(Role::to_string).collect::<Vec<_>>().join(", ");
        let held = if held.is_empty() { "none".to_owned() } else { list(held) };
        Err(Problem::forbidden(format!(
            "This needs one of the roles {}, administrator; your token has {held}.",
            list(roles)
        )))
    }
}

fn bearer(request: &HttpRequest) -> Result<&str, Rejected> {
    let mut headers = request.headers().get_all(AUTHORIZATION);
    let header = headers.next().ok_or_else(|| Rejected::unsigned(Cause::Missing))?;
    let one = headers.next().is_none();
    let parts = header.to_str().ok().filter(|_| one).and_then(|text| text.split_once(' '));
    match parts {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() => Ok(token),
        _ => Err(Rejected::unsigned(Cause::NotBearer)),
    }
}

impl FromRequest for Caller {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Self::of(request))
    }
}

/// Somebody whose roles hold a permission.
#[derive(Debug)]
pub(crate) struct May<P> {
    caller: Caller,
    permission: PhantomData<P>,
}

/// What roles allow.
pub(crate) trait Permission {
    /// Any of these suffices; an administrator has every permission.
    const ROLES: &'static [Role];
}

impl<P: Permission> May<P> {
    /// Who they are.
    pub(crate) fn caller(&self) -> &Caller {
        &self.caller
    }

    /// The subject of their token.
    pub(crate) fn subject(&self) -> &str {
        self.caller.subject()
    }

    /// The groups that they belong to, as their token says.
    pub(crate) fn groups(&self) -> &[String] {
        self.caller.groups()
    }
}

impl<P: Permission> FromRequest for May<P> {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let allowed = Caller::of(request).and_then(|caller| caller.holding_any(P::ROLES));
        ready(allowed.map(|caller| Self { caller, permission: PhantomData }))
    }
}

/// To read the audit of everything.
#[derive(Debug)]
pub(crate) enum Audit {}
impl Permission for Audit {
    const ROLES: &'static [Role] = &[Role::Auditor];
}

/// To cancel, pause, resume, retry and roll back.
#[derive(Debug)]
pub(crate) enum Control {}
impl Permission for Control {
    const ROLES: &'static [Role] = &[Role::Operator];
}

/// To decide at gates.
#[derive(Debug)]
pub(crate) enum Decide {}
impl Permission for Decide {
    const ROLES: &'static [Role] = &[Role::Approver, Role::BreakGlass];
}

/// To raise renewals.
#[derive(Debug)]
pub(crate) enum Raise {}
impl Permission for Raise {
    const ROLES: &'static [Role] = &[Role::Requester];
}

/// To have a plan made anew.
#[derive(Debug)]
pub(crate) enum Replan {}
impl Permission for Replan {
    const ROLES: &'static [Role] = &[Role::Requester, Role::Operator];
}

/// To read renewals and organizations: everybody with a role.
#[derive(Debug)]
pub(crate) enum Read {}
impl Permission for Read {
    const ROLES: &'static [Role] = &Role::ALL;
}
