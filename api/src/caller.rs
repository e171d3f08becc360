//! Who calls, and what they may do. Each handler names the permission that it needs in its signature.

use std::{
    collections::BTreeSet,
    future::{Ready, ready},
    marker::PhantomData,
};

use actix_web::{FromRequest, HttpMessage, HttpRequest, dev::Payload, web::Data};
use chrono::{DateTime, Utc};
use domain::{OrganizationId, RenewalId};
use futures_util::future::LocalBoxFuture;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{Problem, Role, State, credentials::Cause};

/// Somebody whose credential was accepted, whatever their roles. The same, whatever the credential is.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) subject: String,
    pub(crate) grants: Grants,
    pub(crate) credential: Credential,
    /// Until when the credential is good, in real time; absent when it has no end of its own.
    pub(crate) expires_at: Option<DateTime<Utc>>,
    /// What they should know of their credential.
    pub(crate) notice: Option<&'static str>,
}

/// What a credential allows.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Grants {
    /// What they may do.
    pub roles: Vec<Role>,
    /// The groups that they belong to.
    pub groups: Vec<String>,
    /// The only organizations that they reach; all when absent.
    pub organizations: Option<BTreeSet<OrganizationId>>,
}

/// What kind of credential somebody has shown.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(example = "oidc")]
pub(crate) enum Credential {
    /// An API key of this service.
    ApiKey,
    /// A name and a password of the configuration.
    Basic,
    /// A client certificate that a trusted proxy has checked.
    ClientCertificate,
    /// A token of an OpenID Connect issuer.
    Oidc,
    /// A token of this service.
    Token,
}

impl Credential {
    fn as_str(self) -> &'static str {
        match self {
            Self::ApiKey => "api_key",
            Self::Basic => "basic",
            Self::ClientCertificate => "client_certificate",
            Self::Oidc => "oidc",
            Self::Token => "token",
        }
    }
}

/// What came of the credential of a request, if it carries one; the frame keeps it with the request.
#[derive(Clone, Debug)]
pub(crate) struct Authenticated(pub(crate) Result<Option<Caller>, Problem>);

/// Who a credential says that it belongs to, when it can be believed; kept with the request so that a refusal can be recorded with its name.
#[derive(Clone, Debug)]
pub(crate) struct KnownSubject(pub(crate) String);

impl Caller {
    /// Who sent a request. An error when its credential is not accepted or there is none.
    pub(crate) fn of(request: &HttpRequest) -> Result<Self, Problem> {
        Self::offered(request)?.ok_or_else(|| Problem::unauthenticated(Cause::Missing.to_string()))
    }

    /// Who sent a request that need not carry a credential. An error when it carries one that is not accepted.
    pub(crate) fn offered(request: &HttpRequest) -> Result<Option<Self>, Problem> {
        let found = request.extensions().get::<Authenticated>().cloned();
        found.map_or(Ok(None), |Authenticated(caller)| caller)
    }

    /// The name in decisions and in the audit.
    pub(crate) fn subject(&self) -> &str {
        &self.subject
    }

    /// The groups that they belong to.
    pub(crate) fn groups(&self) -> &[String] {
        &self.grants.groups
    }

    /// Whether they may know of an organization.
    pub(crate) fn reaches(&self, organization: &OrganizationId) -> bool {
        self.grants.organizations.as_ref().is_none_or(|reached| reached.contains(organization))
    }

    /// What its requests are counted by: the kind of credential and whose it is.
    pub(crate) fn counted_as(&self) -> String {
        format!("{}:{}", self.credential.as_str(), self.subject)
    }

    /// Whether they hold one of these roles, or are an administrator.
    pub(crate) fn require(&self, roles: &[Role]) -> Result<(), Problem> {
        self.clone().holding_any(roles).map(drop)
    }

    /// Whether they hold just this role.
    pub(crate) fn holds(&self, role: Role) -> bool {
        self.grants.roles.contains(&role)
    }

    /// Themselves, if one of these roles is theirs.
    pub(crate) fn holding_any(self, roles: &[Role]) -> Result<Self, Problem> {
        let held = &self.grants.roles;
        if held.contains(&Role::Administrator) || roles.iter().any(|role| held.contains(role)) {
            return Ok(self);
        }
        let list = |roles: &[Role]| roles.iter().map(Role::to_string).collect::<Vec<_>>().join(", ");
        let held = if held.is_empty() { "none".to_owned() } else { list(held) };
        let needed: Vec<Role> = roles.iter().copied().filter(|role| *role != Role::Administrator).collect();
        let needed = if needed.is_empty() { String::new() } else { format!("{}, ", list(&needed)) };
        let notice = self.notice.map(|notice| format!(" {notice}")).unwrap_or_default();
        Err(Problem::forbidden(format!(
            "This needs one of the roles {needed}administrator; your credential has {held}.{notice}"
        )))
    }
}

impl FromRequest for Caller {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(Self::of(request))
    }
}

/// Somebody whose roles hold a permission, and who reaches the organization that the path is about.
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
    /// The name in decisions and in the audit.
    pub(crate) fn subject(&self) -> &str {
        self.caller.subject()
    }

    /// The groups that they belong to.
    pub(crate) fn groups(&self) -> &[String] {
        self.caller.groups()
    }

    /// Who it is.
    pub(crate) fn caller(&self) -> &Caller {
        &self.caller
    }
}

impl<P: Permission> FromRequest for May<P> {
    type Error = Problem;
    type Future = LocalBoxFuture<'static, Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move {
            let caller = Caller::of(&request)?.holding_any(P::ROLES)?;
            within_reach(&caller, &request).await?;
            Ok(Self { caller, permission: PhantomData })
        })
    }
}

/// Where handlers themselves look at what a caller reaches. Somebody who is limited to organizations gets nowhere else.
const LOOKING_THEMSELVES: [&str; 3] = ["/v1/renewals", "/v1/renewals/from-servicenow", "/v1/organizations"];

/// Whether a caller reaches the organization of the renewal, or the organization, that the path names. What is beyond their reach is not there.
async fn within_reach(caller: &Caller, request: &HttpRequest) -> Result<(), Problem> {
    if caller.grants.organizations.is_none() {
        return Ok(());
    }
    let state = request.app_data::<Data<State>>().expect("the state is registered with the application");
    let pattern = request.match_pattern().unwrap_or_default();
    let named = request.match_info().get("id").unwrap_or_default();
    if pattern.starts_with("/v1/renewals/{id}") {
        // What is not an id is for the handler to refuse.
        let Ok(id) = named.parse::<RenewalId>() else { return Ok(()) };
        let renewal = state.db.read(async |tx| tx.renewal(id).await).await?;
        let there = caller.reaches(&renewal.organization_id);
        return if there { Ok(()) } else { Err(Problem::from(db::Error::NotFound("renewal")).concealing()) };
    }
    if pattern.starts_with("/v1/organizations/{id}") {
        let Ok(id) = OrganizationId::parse(named) else { return Ok(()) };
        return if caller.reaches(&id) { Ok(()) } else { Err(Problem::no_organization(&id).concealing()) };
    }
    if LOOKING_THEMSELVES.contains(&pattern.as_str()) { Ok(()) } else { Err(Problem::beyond_organizations()) }
}

/// To make and revoke API keys.
#[derive(Debug)]
pub(crate) enum Administer {}
impl Permission for Administer {
    const ROLES: &'static [Role] = &[Role::Administrator];
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
