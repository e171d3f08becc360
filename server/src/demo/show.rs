//! What the demo prints.

use serde_json::Value as Json;

use crate::output::say;

pub(super) fn title(text: &str) {
    say!("\n== {text}");
}

/// One line for each entry that tells of progress; cmdlets are shown as they were sent.
pub(super) fn entry(entry: &Json) {
    let detail = &entry["detail"];
    let text = |name: &str| detail[name].as_str().unwrap_or_default();
    let place = match text("target") {
        "" => String::new(),
        target => format!(" on {target}"),
    };
    let line = match entry["action"].as_str().unwrap_or_default() {
        "step.started" => format!("{:<16} begins{place}", text("step")),
        "step.succeeded" => format!("{:<16} done{place}{}", text("step"), outcome(detail)),
        "step.skipped" => format!("{:<16} skipped{place}: {}", text("step"), text("reason")),
        "step.retried" => format!("{:<16} is tried again{place}: {}", text("step"), detail["trouble"]["message"]),
        "step.continues" => format!("{:<16} goes on{place}{}", text("step"), outcome(detail)),
        // Some name their server themselves.
        "cmdlet.intended" if text("cmdlet").contains(text("target")) => {
            format!("{:<16} > {}", text("step"), text("cmdlet"))
        }
        "cmdlet.intended" => format!("{:<16} > {}{place}", text("step"), text("cmdlet")),
        "decision.approved" => {
            format!("{} approved {}: {}", entry["actor"].as_str().unwrap_or_default(), text("gate"), text("reason"))
        }
        "renewal.awaiting_approval" => {
            format!("-- gate {} is open", detail["state"]["gate"].as_str().unwrap_or_default())
        }
        "renewal.waiting" => format!("-- waiting: {}", waiting(&detail["state"]["reason"])),
        "renewal.soaking" => format!("-- soaking until {}", minutes(&detail["state"]["until"])),
        "renewal.succeeded" => "-- succeeded".to_owned(),
        _ => return,
    };
    say!("  {}  {line}", minutes(&entry["at"]));
}

/// An instant to the minute.
fn minutes(at: &Json) -> String {
    at.as_str().unwrap_or_default().chars().take(16).collect::<String>().replace('T', " ")
}

fn waiting(reason: &Json) -> String {
    match reason["waiting_for"].as_str() {
        Some("effective_date") => format!("for the effective date, {}", minutes(&reason["until"])),
        _ => reason["trouble"]["message"].as_str().unwrap_or_default().to_owned(),
    }
}

fn outcome(detail: &Json) -> String {
    let short = |name: &str| detail[name].as_str().unwrap_or_default().chars().take(8).collect::<String>();
    match detail["outcome"].as_str() {
        Some("generated") => format!(": {} valid until {}", short("thumbprint"), minutes(&detail["not_after"])),
        Some("distributed") => {
            let pfx = detail["pfx"].as_str().unwrap_or("was there already");
            format!(": {} ({pfx}), key in {}", short("thumbprint"), detail["key"].as_str().unwrap_or_default())
        }
        Some("trusted_cloud") => {
            let kept = detail["kept"].as_array().map_or(0, Vec::len);
            format!(": {} in Entra beside {kept}, accepted when used", short("thumbprint"))
        }
        Some("refreshed_hybrid") => checks(detail, "checks"),
        Some("staged") => format!(": effective {}", minutes(&detail["effective_at"])),
        Some("postponed") => format!(": date pushed out to {}", minutes(&detail["exchange_publishes_at"])),
        Some("published") => format!(": by {}", detail["by"].as_str().unwrap_or_default()),
        Some("soaked") => format!(": {} checks green", detail["checks"]),
        Some("closed") => format!(": {} checks", detail["evidence"].as_array().map_or(0, Vec::len)),
        _ => String::new(),
    }
}

fn checks(detail: &Json, word: &str) -> String {
    let evidence = detail["evidence"].as_array().map_or(&[][..], Vec::as_slice);
    let made = evidence.iter().filter(|check| check["result"] != "not_made").count();
    let left = evidence.len() - made;
    if left == 0 { format!(": {made} {word}") } else { format!(": {made} {word}, {left} not made") }
}

/// What the trust probe saw, leg by leg; nothing to add where there is only one.
pub(super) fn legs(trust: &lab::trust::Trust) {
    if trust.legs.len() < 2 {
        return;
    }
    for (leg, total) in &trust.legs {
        say!("  {:<40}{:>9} checked, {} refused", leg.name(), total.checked, total.refused);
    }
}

/// The plan as approvers read it.
pub(super) fn plan(plan: &Json) {
    title("Plan");
    for step in plan["steps"].as_array().into_iter().flatten() {
        say!("  {:>2}. {}", step["ordinal"].to_string(), step["description"].as_str().unwrap_or_default());
        for cmdlet in step["cmdlets"].as_array().into_iter().flatten() {
            say!("        {}", cmdlet["line"].as_str().unwrap_or_default());
        }
    }
    for finding in plan["findings"].as_array().into_iter().flatten() {
        say!("  !   {}", finding["message"].as_str().unwrap_or_default());
    }
    for gate in plan["gates"].as_array().into_iter().flatten() {
        let (name, meaning) = (gate["gate"].as_str().unwrap_or_default(), gate["meaning"].as_str().unwrap_or_default());
        say!("  gate {name} needs {} approval(s): {meaning}", gate["quorum"]);
    }
}

/// Which server holds which certificate, and what `AuthConfig` calls it.
pub(super) fn matrix(matrix: &Json) {
    let rows: Vec<&Json> = matrix["items"].as_array().into_iter().flatten().collect();
    let cells = |row: &Json| row["servers"].as_array().cloned().unwrap_or_default();
    let heads: Vec<String> = rows.first().map(|row| cells(row)).unwrap_or_default().iter().map(host).collect();
    say!("  {:<42}{:<18}{:<18}{}", "thumbprint", "AuthConfig", "valid until", heads.join(""));
    for row in rows {
        let named: Vec<&str> = row["named"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
        let named = if named.is_empty() { "-".to_owned() } else { named.join(", ") };
        let thumbprint = row["thumbprint"].as_str().unwrap_or_default();
        let held: String = cells(row).iter().map(held).collect();
        say!("  {thumbprint:<42}{named:<18}{:<18}{held}", minutes(&row["not_after"]));
    }
}

fn host(cell: &Json) -> String {
    let name = cell["fqdn"].as_str().unwrap_or_default();
    format!("{:<12}", name.split('.').next().unwrap_or_default())
}

fn held(cell: &Json) -> String {
    let text = match (cell["presence"].as_str(), cell["key"].as_str()) {
        (Some("present"), Some(key)) => key,
        (Some("present"), None) => "yes",
        (Some("absent"), _) => "-",
        _ => "?",
    };
    format!("{text:<12}")
}
