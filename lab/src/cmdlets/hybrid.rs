//! What joins the organization to its tenant (domain.md 1.10, 3.4, 3.6). Without a tenant there is none of it.

use chrono::{DateTime, Utc};
use psrp::{Object, Value};
use serde_json::{Map, Value as Json};

use super::{
    Call, Cmdlet, Output, Refusal,
    refusal::{self, Category},
    shapes,
};
use crate::{
    hybrid::{
        Class, Field, Thing,
        connectivity::{self, Question, Tested, Verdict},
    },
    journal::EffectKind,
    server::{KeySet, ProcessKind},
    world::Outcome,
};

#[cfg(test)]
mod tests;

const READ: &[&str] = &["Identity", "DomainController"];
const RELATIONSHIP: &[&str] = &[
    "Identity",
    "DomainController",
    "DomainNames",
    "Enabled",
    "Force",
    "FreeBusyAccessEnabled",
    "FreeBusyAccessLevel",
    "MailTipsAccessEnabled",
    "MailTipsAccessLevel",
    "OAuthApplicationId",
    "PhotosEnabled",
    "TargetApplicationUri",
    "TargetAutodiscoverEpr",
    "TargetOwaURL",
    "TargetSharingEpr",
];

pub(super) const CMDLETS: &[Cmdlet] = &[
    Cmdlet {
        name: "Get-AuthServer",
        task: "Microsoft.Exchange.Management.SystemConfigurationTasks.GetAuthServer",
        parameters: READ,
        run: |call| read(call, Class::AuthServer),
    },
    Cmdlet {
        name: "Get-HybridConfiguration",
        task: "Microsoft.Exchange.Management.SystemConfigurationTasks.GetHybridConfiguration",
        parameters: &["DomainController"],
        run: |call| read(call, Class::HybridConfiguration),
    },
    Cmdlet {
        name: "Get-IntraOrganizationConnector",
        task: "Microsoft.Exchange.Management.SystemConfigurationTasks.GetIntraOrganizationConnector",
        parameters: READ,
        run: |call| read(call, Class::IntraOrganizationConnector),
    },
    Cmdlet {
        name: "Get-OrganizationRelationship",
        task: "Microsoft.Exchange.Management.SystemConfigurationTasks.GetOrganizationRelationship",
        parameters: READ,
        run: |call| read(call, Class::OrganizationRelationship),
    },
    Cmdlet {
        name: "Get-PartnerApplication",
        task: "Microsoft.Exchange.Management.SystemConfigurationTasks.GetPartnerApplication",
        parameters: READ,
        run: |call| read(call, Class::PartnerApplication),
    },
    Cmdlet {
        name: "Get-SettingOverride",
        task: "Microsoft.Exchange.Management.SystemConfigurationTasks.GetSettingOverride",
        parameters: READ,
        run: |call| read(call, Class::SettingOverride),
    },
    Cmdlet {
        name: "Set-OrganizationRelationship",
        task: "Microsoft.Exchange.Management.SystemConfigurationTasks.SetOrganizationRelationship",
        parameters: RELATIONSHIP,
        run: set_relationship,
    },
    Cmdlet {
        name: "Test-OAuthConnectivity",
        task: "Microsoft.Exchange.Monitoring.TestOAuthConnectivityTask",
        parameters: &[
            "Service",
            "TargetUri",
            "Mailbox",
            "AppOnly",
            "ReloadConfig",
            "UseCachedToken",
            "OrganizationDomain",
        ],
        run: test_connectivity,
    },
];

fn read(call: &mut Call<'_>, class: Class) -> Result<Output, Refusal> {
    let controller = &call.world_ref().directory().controllers()[call.controller()?];
    let Some(cloud) = &call.world_ref().cloud else { return Output::none() };
    let identity = call.text("Identity").filter(|_| class != Class::HybridConfiguration);
    let wanted = |thing: &&Thing| identity.as_deref().is_none_or(|name| thing.is_called(name));
    let shape = |thing: &Thing| shape(thing, &controller.fqdn);
    let found: Vec<_> = cloud.on_premises.of(class).filter(wanted).map(shape).collect();
    match identity {
        Some(name) if found.is_empty() && !name.contains('*') => Err(refusal::object_not_found(&name)),
        _ => Output::of(found),
    }
}

fn shape(thing: &Thing, controller: &str) -> Value {
    let value = |field: &Field| match field {
        Field::Address(url) if url.is_empty() => Value::Null,
        Field::Address(url) => Value::Uri(url.clone()),
        Field::Flag(value) => Value::from(*value),
        Field::Id(id) => Value::from(*id),
        Field::Text(text) => Value::from(text.as_str()),
        Field::Texts(texts) => Value::from(texts.iter().map(|text| Value::from(text.as_str())).collect::<Vec<_>>()),
    };
    let object = shapes::typed(thing.class.type_name()).shown_as(thing.name());
    let object = thing.fields.iter().fold(object, |object, (name, field)| object.with(name, value(field)));
    object.with("Identity", thing.name()).with("IsValid", true).with("OriginatingServer", controller).into()
}

fn set_relationship(call: &mut Call<'_>) -> Result<Output, Refusal> {
    let controller = call.controller()?;
    let place = call.world_ref().directory().controllers()[controller].fqdn.clone();
    let name = call.text("Identity").ok_or_else(|| refusal::missing_parameter("Identity"))?;
    let changes = changes(call);
    let cloud = call.world().cloud.as_mut();
    let thing = cloud.and_then(|cloud| cloud.on_premises.find_mut(Class::OrganizationRelationship, &name));
    let thing = thing.ok_or_else(|| refusal::object_not_found(&name))?;
    let changed = thing.set(&changes).map_err(|name| refusal::bad_value(&name))?;
    let by = call.session().user.clone();
    let outcome = Outcome::of(changed);
    call.world().record_with(EffectKind::SetOrganizationRelationship, &place, None, outcome, &by, &name);
    if !changed {
        call.warn(format!("The command completed successfully but no settings of '{name}' have been modified."));
    }
    Output::none()
}

/// The parameters that are properties, as JSON has them.
fn changes(call: &Call<'_>) -> Map<String, Json> {
    let json = |value: &Value| match value {
        Value::Bool(value) => Json::from(*value),
        Value::Null => Json::Null,
        value => match value.as_list() {
            Some(items) => items.iter().map(|item| Json::from(item.text())).collect(),
            None => Json::from(value.text()),
        },
    };
    let given = |name: &&str| call.value(name).map(|value| ((*name).to_owned(), json(value)));
    let all = RELATIONSHIP.iter().filter(|name| !["Identity", "DomainController", "Force"].contains(name));
    all.filter_map(given).collect()
}

fn test_connectivity(call: &mut Call<'_>) -> Result<Output, Refusal> {
    let text = |name| call.text(name).ok_or_else(|| refusal::missing_parameter(name));
    let (service, target, mailbox) = (text("Service")?, text("TargetUri")?, text("Mailbox")?);
    if !["EWS", "AutoD", "Generic"].iter().any(|known| known.eq_ignore_ascii_case(&service)) {
        return Err(refusal::bad_value("Service"));
    }
    let question =
        Question { service: &service, target: &target, mailbox: &mailbox, reloads: call.is_set("ReloadConfig") };
    let keys = known_keys(call, &question);
    let (server, now) = (call.session().server, call.world_ref().now());
    let replica = call.world().cloud.as_mut().map(|cloud| cloud.tenant.next_replica());
    let (Some(cloud), Some(replica)) = (&call.world_ref().cloud, replica) else {
        let message = "There is no authentication server to ask for a token.";
        return Err(refusal::task("OAuthNotConfigured", Category::InvalidOperation, message));
    };
    if !mailbox.to_ascii_lowercase().ends_with("@contoso.example") {
        return Err(refusal::object_not_found(&mailbox));
    }
    let tested = connectivity::to_cloud(cloud, call.world_ref().server(server), &keys, &question, replica, now);
    Output::of([node(&question.task(), &tested, now)])
}

/// What the process knows that runs the test: what it read last, or reads now.
fn known_keys(call: &Call<'_>, question: &Question<'_>) -> KeySet {
    let (world, server) = (call.world_ref(), call.session().server);
    if question.reloads {
        let config = &world.directory().controllers()[world.controller_of(server)].auth_config;
        call.here().usable_keys(config, world.now())
    } else {
        call.here().process(ProcessKind::Owa).keys.clone()
    }
}

/// `IsValid` and `ObjectState` are the same whatever comes of it (cloud.md 1.6).
fn node(task: &str, tested: &Tested, now: DateTime<Utc>) -> Value {
    let number = match tested.verdict {
        Verdict::Success => 0,
        Verdict::Error => 2,
    };
    let detail: Object = shapes::typed("Microsoft.Exchange.Data.LocalizedString")
        .shown_as(tested.detail.as_str())
        .with("FullId", tested.detail.as_str());
    let identity = "Microsoft.Exchange.Security.OAuth.ValidationResultNodeId";
    shapes::typed("Microsoft.Exchange.Security.OAuth.ValidationResultNode")
        .with("Task", task)
        .with("Detail", detail)
        .with(
            "ResultType",
            shapes::enumeration("Microsoft.Exchange.Security.OAuth.ResultType", tested.verdict.name(), number),
        )
        .with("Identity", shapes::typed(identity).shown_as(identity))
        .with("IsValid", true)
        .with("ObjectState", shapes::enumeration("Microsoft.Exchange.Data.ObjectState", "New", 0))
        .with("WhenRun", now)
        .into()
}
