//! What people do in the ticket systems, and a look at them: the part of the control API under `/tickets`.

use std::collections::BTreeMap;

use anyhow::Context as _;
use hyper::{Method, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{TicketSystem, hooks::Hook};
use crate::{
    http::{Answer, json as answer, status},
    world::World,
};

/// What somebody does with a ticket.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Act {
    #[serde(rename = "do")]
    pub(super) what: What,
    /// The number, key or id of the ticket; none to create one.
    #[serde(default)]
    pub(super) ticket: String,
    /// Who; for approvals, one of those who are asked: all of them if none.
    #[serde(default)]
    pub(super) by: Option<String>,
    /// Fields and what they become.
    #[serde(default)]
    pub(super) fields: BTreeMap<String, Value>,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "snake_case")]
pub(super) enum What {
    /// Give the approvals that are asked for now.
    Approve,
    /// End it without doing it.
    Cancel,
    /// A new ticket.
    Create,
    /// Put it on hold.
    Hold,
    /// Refuse the approvals that are asked for now.
    Reject,
    /// Take it off hold.
    Resume,
    /// Back to the beginning: approvals are asked for anew.
    Revert,
    /// Write fields.
    Update,
}

/// Answers a request under `/tickets`; none if it is for somebody else.
pub(crate) fn route(world: &mut World, method: &Method, path: &str, body: &[u8]) -> Option<Answer> {
    let rest = path.strip_prefix("/tickets")?;
    let done = match (method.as_str(), rest) {
        ("GET", "") => return Some(answer(StatusCode::OK, &state(world))),
        ("POST", "/servicenow") => act(world, TicketSystem::Servicenow, body),
        ("POST", "/jira") => act(world, TicketSystem::Jira, body),
        ("POST", "/hooks") => add_hook(world, body),
        (_, "" | "/servicenow" | "/jira" | "/hooks") => return Some(status(StatusCode::METHOD_NOT_ALLOWED)),
        _ => return Some(status(StatusCode::NOT_FOUND)),
    };
    Some(match done {
        Ok(told) => answer(StatusCode::OK, &told),
        Err(error) => answer(StatusCode::BAD_REQUEST, &json!({ "error": format!("{error:#}") })),
    })
}

fn state(world: &World) -> Value {
    let tickets = &world.tickets;
    json!({
        "servicenow": tickets.servicenow.state(),
        "jira": tickets.jira.state(),
        "asked": tickets.asked,
        "sent": tickets.hooks.sent,
    })
}

fn add_hook(world: &mut World, body: &[u8]) -> anyhow::Result<Value> {
    let hook: Hook = serde_json::from_slice(body)?;
    world.tickets.hooks.add(hook);
    Ok(json!({}))
}

fn act(world: &mut World, system: TicketSystem, body: &[u8]) -> anyhow::Result<Value> {
    let act: Act = serde_json::from_slice(body)?;
    let now = world.now();
    let tickets = &mut world.tickets;
    let told = match system {
        TicketSystem::Servicenow => in_servicenow(tickets, &act, now),
        TicketSystem::Jira => tickets.jira.act(&act, now),
    }?;
    tickets.announce(now);
    Ok(told)
}

fn in_servicenow(tickets: &mut super::Tickets, act: &Act, now: chrono::DateTime<chrono::Utc>) -> anyhow::Result<Value> {
    let servicenow = &mut tickets.servicenow;
    let by = act.by.as_deref().unwrap_or("alice");
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let mut fields: BTreeMap<_, _> = act.fields.iter().map(|(name, value)| (name.clone(), text(value))).collect();
    let refused = |refusal| anyhow::anyhow!("{refusal:?}");
    if act.what == What::Create {
        let id = servicenow.add_change(fields, by, now);
        return Ok(servicenow.told(&id));
    }
    let id = servicenow.named(&act.ticket).with_context(|| format!("there is no change {}", act.ticket))?;
    let mut set = |name: &str, value: &str| fields.insert(name.to_owned(), value.to_owned());
    let verdict = match act.what {
        What::Approve => Some("approved"),
        What::Reject => Some("rejected"),
        _ => None,
    };
    if let Some(verdict) = verdict {
        let asked = servicenow.approvals_of(&id, act.by.as_deref());
        anyhow::ensure!(!asked.is_empty(), "nobody is asked to approve {}", act.ticket);
        for approval in asked {
            let written = [("state".to_owned(), verdict.to_owned())].into();
            servicenow.update("sysapproval_approver", &approval, written, by, now, false).map_err(refused)?;
        }
        return Ok(servicenow.told(&id));
    }
    match act.what {
        What::Hold => {
            set("on_hold", "true");
            set("on_hold_reason", "Somebody looks into it");
        }
        What::Resume => {
            set("on_hold", "false");
            set("on_hold_reason", "");
        }
        What::Cancel => drop(set("state", "4")),
        What::Revert => drop(set("state", "-5")),
        What::Approve | What::Create | What::Reject | What::Update => {}
    }
    servicenow.update("change_request", &id, fields, by, now, false).map_err(refused)?;
    Ok(servicenow.told(&id))
}
