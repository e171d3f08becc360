//! The cmdlets, rule by rule.

use chrono::TimeDelta;
use psrp::{Command, PipelineEnd, Record, Secret, Value};

use super::*;
use crate::{
    bench::{Bench, Made, PASSWORD, answer, assert_refused, error, import, stage, start, values, without},
    faults::{Calls, Fault},
    journal::EffectKind,
    organization::{Organization, Rule, Rules},
    pfx,
    server::{Export, Power, Provider},
};

const LEAD: TimeDelta = TimeDelta::hours(49);

fn set() -> Command {
    Command::new("Set-AuthConfig")
}

/// A bench on which the first certificate is in every store.
fn distributed() -> (Bench, Made) {
    let (mut bench, made) = (Bench::new(), Made::number(0));
    bench.import_everywhere(&made);
    (bench, made)
}

fn staged() -> (Bench, Made) {
    let (mut bench, made) = distributed();
    values(&bench.stage(&made, LEAD));
    (bench, made)
}

fn calls(cmdlet: &str) -> Calls {
    Calls { cmdlet: cmdlet.to_owned(), server: None, skip: 0, times: 1 }
}

#[test]
fn auth_config_has_the_shape_of_the_captures() {
    let mut bench = Bench::new();
    let answer = &values(&bench.exchange("EX03", Command::new("Get-AuthConfig")))[0];
    assert_eq!(answer.property("PreviousCertificateThumbprint"), Some(&Value::from("")));
    assert_eq!(answer.property("NextCertificateEffectiveDate"), Some(&Value::Null));
    assert_eq!(answer.property("OriginatingServer"), Some(&Value::from("dc02.contoso.example")));
    assert_eq!(answer.text(), "Auth Configuration");
    let pinned = Command::new("Get-AuthConfig").with("DomainController", "dc01.contoso.example");
    let answer = &values(&bench.exchange("EX03", pinned))[0];
    assert_eq!(answer.property("OriginatingServer"), Some(&Value::from("dc01.contoso.example")));
}

#[test]
fn an_unknown_domain_controller_is_refused() {
    let command = Command::new("Get-AuthConfig").with("DomainController", "dc09.contoso.example");
    assert_refused(&Bench::new().exchange("EX01", command), "dc09.contoso.example");
}

#[test]
fn a_new_certificate_needs_a_date() {
    let (mut bench, made) = distributed();
    let command = without(stage(&made.thumbprint(), start()), "NewCertificateEffectiveDate");
    assert_refused(&bench.exchange("EX01", command), "ErrorAuthSetNewEffectDate");
}

#[test]
fn a_date_more_than_five_minutes_ago_is_refused_by_the_servers_clock() {
    let (mut bench, made) = distributed();
    let six_minutes_ago = bench.world.now() - TimeDelta::minutes(6);
    let command = stage(&made.thumbprint(), six_minutes_ago).switch("Force");
    assert_refused(&bench.exchange("EX01", command.clone()), "ErrorAuthInvalidNewEffectiveDate");
    bench.world.apply(Fault::ClockSkew { server: "EX01".to_owned(), seconds: -360 }).unwrap();
    values(&bench.exchange("EX01", command));
}

#[test]
fn a_certificate_that_the_executing_server_lacks_cannot_be_staged() {
    let (mut bench, made) = (Bench::new(), Made::number(0));
    values(&bench.import("EX02", &made));
    assert_refused(&bench.stage(&made, LEAD), "ErrorThumbprintNotFound");
    let on_ex02 = stage(&made.thumbprint(), start() + LEAD).with("Server", "ex02.contoso.example");
    values(&bench.exchange("EX01", on_ex02));
}

#[test]
fn a_server_that_is_down_cannot_be_asked_for_its_certificate() {
    let (mut bench, made) = distributed();
    bench.world.apply(Fault::Power { server: "EX02".to_owned(), power: Power::Down }).unwrap();
    let command = stage(&made.thumbprint(), start() + LEAD).with("Server", "EX02");
    assert_refused(&bench.exchange("EX01", command), "ErrorCannotContactServerForCert");
}

#[test]
fn a_certificate_without_its_key_cannot_be_staged() {
    let (mut bench, made) = distributed();
    let store = &mut bench.world.server_mut(0).store;
    store.find_mut(&made.thumbprint()).unwrap().key = None;
    assert_refused(&bench.stage(&made, LEAD), "PrivateKeyMissing");
}

#[test]
fn a_key_that_cannot_be_exported_needs_force() {
    let (mut bench, made) = (Bench::new(), Made::number(0));
    let command = without(import("EX01", made.pfx()), "PrivateKeyExportable");
    values(&bench.exchange("EX01", command));
    let command = stage(&made.thumbprint(), start() + LEAD);
    assert_refused(&bench.exchange("EX01", command.clone()), "ErrorCertificateNotExportable");
    values(&bench.exchange("EX01", command.switch("Force")));
}

#[test]
fn an_expired_certificate_cannot_be_staged() {
    let (mut bench, made) = (Bench::new(), Made::valid_for(TimeDelta::hours(1)));
    bench.import_everywhere(&made);
    bench.pass(TimeDelta::hours(2));
    assert_refused(&bench.stage(&made, LEAD), "ErrorAuthCertificateNotValid");
}

#[test]
fn a_certificate_that_expires_before_its_date_cannot_be_staged() {
    let (mut bench, made) = (Bench::new(), Made::valid_for(TimeDelta::days(2)));
    bench.import_everywhere(&made);
    assert_refused(&bench.stage(&made, LEAD), "ErrorAuthNewCertificateExpire");
}

#[test]
fn the_current_certificate_cannot_be_staged() {
    let mut bench = Bench::new();
    let current = bench.config(0).current.clone().unwrap();
    let command = stage(&current, start() + LEAD).switch("Force");
    assert_refused(&bench.exchange("EX01", command), "ErrorAuthSameAsCurrent");
}

#[test]
fn the_previous_certificate_can_be_staged_with_a_warning() {
    let mut bench = Bench::new();
    let old = bench.config(0).current.clone().unwrap();
    let made = Made::number(0);
    bench.import_everywhere(&made);
    values(&bench.stage(&made, LEAD));
    values(&bench.publish());
    let Answer { records, .. } = answer(&bench.exchange("EX01", stage(&old, start() + LEAD).switch("Force"))).clone();
    assert!(matches!(records.as_slice(), [Record::Warning(_)]));
    assert_eq!(bench.config(0).next, Some(old));
}

#[test]
fn staging_the_same_again_moves_only_its_date_and_does_not_prompt() {
    let (mut bench, made) = staged();
    values(&bench.exchange("EX01", stage(&made.thumbprint(), start() + LEAD * 2)));
    assert_eq!(bench.config(0).next_effective, Some(start() + LEAD * 2));
    assert_eq!(bench.world.journal.counts()[&EffectKind::SetAuthConfigNext].changed, 2);
}

#[test]
fn replacing_another_staged_certificate_prompts_unless_forced() {
    let (mut bench, _) = staged();
    let other = Made::number(1);
    bench.import_everywhere(&other);
    let command = stage(&other.thumbprint(), start() + LEAD);
    assert_refused(&bench.exchange("EX01", command.clone()), "Another certificate is staged");
    values(&bench.exchange("EX01", command.switch("Force")));
    assert_eq!(bench.config(0).next, Some(other.thumbprint()));
}

#[test]
fn a_date_in_less_than_48_hours_prompts_unless_forced() {
    let (mut bench, made) = distributed();
    let command = stage(&made.thumbprint(), start() + TimeDelta::hours(47));
    assert_refused(&bench.exchange("EX01", command.clone()), "less than 48 hours");
    assert_eq!(bench.config(0).next, None);
    values(&bench.exchange("EX01", command.switch("Force")));
    assert_eq!(bench.config(0).next, Some(made.thumbprint()));
}

#[test]
fn a_thumbprint_with_spaces_in_lower_case_is_understood() {
    let (mut bench, made) = distributed();
    let pasted = made
        .thumbprint()
        .as_str()
        .to_lowercase()
        .as_bytes()
        .chunks(2)
        .fold(String::new(), |text, pair| format!("{text} {}", std::str::from_utf8(pair).unwrap()));
    let command = set().with("NewCertificateThumbprint", pasted).with("NewCertificateEffectiveDate", start() + LEAD);
    values(&bench.exchange("EX01", command));
    assert_eq!(bench.config(0).next, Some(made.thumbprint()));
}

#[test]
fn a_date_alone_moves_the_date_of_a_staged_certificate_and_needs_one() {
    let (mut bench, _) = staged();
    let later = start() + TimeDelta::hours(100);
    values(&bench.exchange("EX01", set().with("NewCertificateEffectiveDate", later)));
    assert_eq!(bench.config(0).next_effective, Some(later));
    let command = set().with("NewCertificateEffectiveDate", later);
    assert_refused(&Bench::new().exchange("EX01", command), "ErrorAuthSetNewEffectDate");
}

#[test]
fn a_null_thumbprint_clears_the_staged_certificate() {
    let (mut bench, _) = staged();
    let command = set().with("NewCertificateThumbprint", Value::Null);
    assert_refused(&bench.exchange("EX01", command.clone()), "Remove the staged certificate");
    values(&bench.exchange("EX01", command.switch("Force")));
    assert_eq!((bench.config(0).next.clone(), bench.config(0).next_effective), (None, None));
}

#[test]
fn publishing_without_a_staged_certificate_is_an_invalid_argument() {
    let reaction = Bench::new().publish();
    assert_refused(&reaction, "NoNextCertificateException");
    assert_eq!((error(&reaction).category, error(&reaction).reason.as_str()), (5, "NoNextCertificateException"));
}

#[test]
fn publishing_before_the_date_prompts_unless_forced_and_asks_nobody_whether_they_have_the_key() {
    let (mut bench, made) = staged();
    let old = bench.config(0).current.clone();
    let command = set().switch("PublishCertificate");
    assert_refused(&bench.exchange("EX01", command), "not effective yet");
    values(&bench.publish());
    let config = bench.config(0);
    assert_eq!((&config.current, &config.previous), (&Some(made.thumbprint()), &old));
    assert_eq!((&config.next, config.next_effective), (&None, None));
}

#[test]
fn publishing_after_the_date_does_not_prompt() {
    let (mut bench, made) = distributed();
    values(&bench.stage(&made, TimeDelta::zero()));
    values(&bench.exchange("EX01", set().switch("PublishCertificate")));
    assert_eq!(bench.config(0).current, Some(made.thumbprint()));
}

#[test]
fn publishing_and_clearing_in_one_go_leaves_no_previous() {
    let (mut bench, made) = staged();
    let command = set().switch("PublishCertificate").switch("ClearPreviousCertificate").switch("Force");
    values(&bench.exchange("EX01", command));
    assert_eq!((&bench.config(0).current, &bench.config(0).previous), (&Some(made.thumbprint()), &None));
}

#[test]
fn clearing_the_previous_certificate_twice_is_no_error_but_changes_nothing() {
    let (mut bench, _) = staged();
    values(&bench.publish());
    let clear = || set().switch("ClearPreviousCertificate").switch("Force");
    values(&bench.exchange("EX01", clear()));
    let when_changed = bench.config(0).when_changed;
    bench.pass(TimeDelta::minutes(1));
    values(&bench.exchange("EX01", clear()));
    assert_eq!((bench.config(0).previous.clone(), bench.config(0).when_changed), (None, when_changed));
    let count = bench.world.journal.counts()[&EffectKind::ClearPrevious];
    assert_eq!((count.total, count.changed), (2, 1));
}

#[test]
fn a_staged_certificate_cannot_be_made_current_directly() {
    let (mut bench, made) = staged();
    let command = set().with("CertificateThumbprint", made.thumbprint().as_str()).switch("Force");
    assert_refused(&bench.exchange("EX01", command), "ErrorCertificateAlreadyinPublish");
}

#[test]
fn making_a_certificate_current_directly_keeps_the_old_one_as_previous() {
    let (mut bench, made) = distributed();
    let old = bench.config(0).current.clone();
    let command = set().with("CertificateThumbprint", made.thumbprint().as_str());
    assert_refused(&bench.exchange("EX01", command.clone()), "at once");
    values(&bench.exchange("EX01", command.switch("Force")));
    assert_eq!((&bench.config(0).current, &bench.config(0).previous), (&Some(made.thumbprint()), &old));
}

#[test]
fn parameters_of_two_sets_do_not_go_together() {
    let command = set().switch("PublishCertificate").with("NewCertificateEffectiveDate", start());
    assert_refused(&Bench::new().exchange("EX01", command), "AmbiguousParameterSet");
}

#[test]
fn a_waived_rule_is_not_enforced() {
    let rules = Rules::all().without(Rule::InStore).without(Rule::PromptEarlyDate);
    let mut bench = Bench::of(Organization { rules, ..Organization::contoso() });
    values(&bench.exchange("EX01", stage(&Made::number(0).thumbprint(), start() + TimeDelta::hours(1))));
}

#[test]
fn staging_deploys_within_the_site_unless_it_is_told_not_to() {
    let (mut bench, made) = (Bench::new(), Made::number(0));
    values(&bench.import("EX01", &made));
    let command = stage(&made.thumbprint(), start() + LEAD);
    values(&bench.exchange("EX01", command.clone().switch("SkipImmediateCertificateDeployment")));
    assert!(!bench.has("EX02", &made.thumbprint()));
    values(&bench.exchange("EX01", command));
    assert!(bench.has("EX02", &made.thumbprint()) && !bench.has("EX03", &made.thumbprint()));
}

#[test]
fn an_exchange_certificate_travels_as_its_bytes_only() {
    let (mut bench, made) = distributed();
    let command = Command::new("Get-ExchangeCertificate")
        .with("Server", "EX03")
        .argument(made.thumbprint().as_str())
        .with("ErrorAction", "Stop");
    let answer = &values(&bench.exchange("EX01", command))[0];
    let object = answer.as_object().unwrap();
    assert_eq!(object.properties, [("RawData".to_owned(), Value::Bytes(made.certificate.der.clone()))]);
    assert_eq!(answer.property("PSComputerName"), Some(&Value::from("ex01.contoso.example")));
    let all = Command::new("Get-ExchangeCertificate").with("Server", "ex02.contoso.example");
    assert_eq!(values(&bench.exchange("EX01", all)).len(), 2);
}

#[test]
fn a_missing_certificate_and_a_server_that_is_down_differ_in_their_reason() {
    let (mut bench, made) = (Bench::new(), Made::number(0));
    let command = |server| {
        let thumbprint = made.thumbprint().as_str().to_owned();
        Command::new("Get-ExchangeCertificate").with("Server", server).with("Thumbprint", thumbprint)
    };
    let missing = error(&bench.exchange("EX01", command("EX02")));
    assert_eq!((missing.category, missing.reason.as_str()), (0, "InvalidOperationException"));
    assert!(missing.fully_qualified_error_id.contains("[FailureCategory=Cmdlet-InvalidOperationException] "));
    assert!(
        missing
            .fully_qualified_error_id
            .ends_with(",Microsoft.Exchange.Management.SystemConfigurationTasks.GetExchangeCertificate")
    );
    bench.world.apply(Fault::Power { server: "EX02".to_owned(), power: Power::Down }).unwrap();
    assert_eq!(error(&bench.exchange("EX01", command("EX02"))).reason, "RpcException");
}

#[test]
fn an_error_leaves_the_pipeline_completed_unless_it_is_to_stop() {
    let mut bench = Bench::new();
    let command = Command::new("Get-ExchangeServer").with("Identity", "EX09");
    let Answer { end, .. } = answer(&bench.exchange("EX01", command.clone())).clone();
    assert_eq!(end, PipelineEnd::Completed);
    let Answer { end, .. } = answer(&bench.exchange("EX01", command.with("ErrorAction", "Stop"))).clone();
    assert!(matches!(end, PipelineEnd::Failed(_)));
}

#[test]
fn an_imported_key_is_exportable_only_if_asked_for() {
    let (mut bench, made) = (Bench::new(), Made::number(0));
    values(&bench.import("EX01", &made));
    values(&bench.exchange("EX01", without(import("EX02", made.pfx()), "PrivateKeyExportable")));
    let export = |server: usize| {
        let entry = bench.world.server(server).store.find(&made.thumbprint()).unwrap();
        entry.key.as_ref().unwrap().export
    };
    assert_eq!((export(0), export(1)), (Export::Allowed, Export::Refused));
    let command = Command::new("Export-ExchangeCertificate")
        .with("Server", "EX02")
        .with("Thumbprint", made.thumbprint().as_str())
        .with_secret("Password", Secret::new("p"))
        .switch("BinaryEncoded");
    assert_refused(&bench.exchange("EX01", command), "isn't exportable");
}

#[test]
fn a_wrong_password_and_a_damaged_file_are_refused_alike() {
    let (mut bench, made) = (Bench::new(), Made::number(0));
    let mut damaged = made.pfx();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    let wrong = without(import("EX02", made.pfx()), "Password").with_secret("Password", Secret::new("wrong"));
    for command in [wrong, import("EX02", damaged), import("EX02", b"no PFX".to_vec())] {
        let error = error(&bench.exchange("EX01", command));
        assert_eq!(
            error.message,
            "A special Rpc error occurs on server EX02: The source data cannot be imported or the wrong password was specified."
        );
        assert_eq!(error.category, 22);
        assert!(error.fully_qualified_error_id.ends_with("ImportExchangeCertificate"));
    }
}

#[test]
fn a_second_import_says_that_the_certificate_exists() {
    let (mut bench, made) = distributed();
    assert_refused(&bench.import("EX02", &made), "already exists.");
    assert_eq!(bench.world.journal.counts()[&EffectKind::Import].total, 3);
}

#[test]
fn a_password_in_plain_text_does_not_bind() {
    let command = without(import("EX01", vec![1]), "Password").with("Password", PASSWORD);
    assert_refused(&Bench::new().exchange("EX01", command), "Password");
}

#[test]
fn what_is_exported_can_be_imported() {
    let mut bench = Bench::new();
    let current = bench.config(0).current.clone().unwrap();
    bench.world.server_mut(2).store.remove(&current);
    let command = Command::new("Export-ExchangeCertificate")
        .with("Server", "EX02")
        .with("Thumbprint", current.as_str())
        .with_secret("Password", Secret::new(PASSWORD))
        .switch("BinaryEncoded");
    let answer = values(&bench.exchange("EX01", command));
    let file = answer[0].property("FileData").and_then(Value::as_bytes).unwrap().to_vec();
    values(&bench.exchange("EX01", import("EX03", file)));
    assert!(bench.has("EX03", &current));
}

#[test]
fn removing_a_certificate_must_be_confirmed_beforehand() {
    let (mut bench, made) = distributed();
    let command = Command::new("Remove-ExchangeCertificate")
        .with("Server", "EX02")
        .with("Thumbprint", made.thumbprint().as_str());
    assert_refused(&bench.exchange("EX01", command.clone()), "Are you sure");
    values(&bench.exchange("EX01", command.clone().with("Confirm", false)));
    assert!(!bench.has("EX02", &made.thumbprint()));
    assert_refused(&bench.exchange("EX01", command.with("Confirm", false)), "was not found.");
}

#[test]
fn a_new_certificate_with_smtp_and_force_becomes_the_default_of_smtp() {
    let mut bench = Bench::new();
    let command = Command::new("New-ExchangeCertificate")
        .with("SubjectName", "cn=Microsoft Exchange Server Auth Certificate")
        .with("PrivateKeyExportable", true)
        .with("KeySize", 2048);
    values(&bench.exchange("EX01", command.clone().with("Services", "None")));
    assert_eq!(bench.world.server(0).default_smtp, None);
    let made = values(&bench.exchange("EX01", command.switch("Force")));
    let made =
        crate::certificate::Certificate::parse(made[0].property("RawData").unwrap().as_bytes().unwrap()).unwrap();
    assert_eq!((made.subject.as_str(), made.unfit), ("CN=Microsoft Exchange Server Auth Certificate", None));
    assert_eq!(bench.world.server(0).default_smtp, Some(made.thumbprint));
}

#[test]
fn servers_tell_their_version_site_and_domain_controller() {
    let mut bench = Bench::new();
    let servers = values(&bench.exchange("EX01", Command::new("Get-ExchangeServer").switch("Status")));
    let told = |index: usize, name| servers[index].property(name).unwrap().text();
    assert_eq!(told(0, "AdminDisplayVersion"), "Version 15.1 (Build 2507.61)");
    assert_eq!(told(2, "Site"), "contoso.example/Configuration/Sites/Berlin");
    assert_eq!(told(2, "CurrentConfigDomainController"), "dc02.contoso.example");
}

#[test]
fn the_status_of_a_server_that_is_down_is_an_error_beside_its_object() {
    let mut bench = Bench::new();
    bench.world.apply(Fault::Power { server: "EX03".to_owned(), power: Power::Down }).unwrap();
    let reaction = bench.exchange("EX01", Command::new("Get-ExchangeServer").switch("Status"));
    let records = &answer(&reaction).records;
    assert_eq!(records.iter().filter(|record| matches!(record, Record::Output(_))).count(), 3);
    assert_eq!(error(&reaction).reason, "RpcException");
    assert_eq!(values(&bench.exchange("EX01", Command::new("Get-ExchangeServer"))).len(), 3);
}

#[test]
fn a_cmdlet_that_the_account_may_not_run_does_not_exist() {
    let mut bench = Bench::new();
    bench.world.apply(Fault::Permission { cmdlet: "set-authconfig".to_owned(), granted: false }).unwrap();
    let reaction = bench.publish();
    assert_eq!(error(&reaction).fully_qualified_error_id, "CommandNotFoundException");
    assert!(matches!(answer(&reaction).end, PipelineEnd::Failed(_)));
    let asked = |bench: &mut Bench| {
        let names = vec![Value::from("Get-AuthConfig"), Value::from("Set-AuthConfig")];
        bench.exchange("EX01", Command::new("Get-Command").with("Name", Value::from(names)))
    };
    let Answer { records, .. } = answer(&asked(&mut bench)).clone();
    assert!(matches!(records.as_slice(), [Record::Output(_), Record::Error(_)]));
    bench.world.heal();
    assert_eq!(values(&asked(&mut bench)).len(), 2);
}

#[test]
fn an_unknown_parameter_does_not_bind() {
    let command = Command::new("Get-AuthConfig").with("Identity", "x");
    let error = error(&Bench::new().exchange("EX01", command));
    assert_eq!((error.fully_qualified_error_id.as_str(), error.category), ("NamedParameterNotFound", 5));
}

#[test]
fn the_windows_endpoint_shows_processes_the_clock_and_the_build() {
    let mut bench = Bench::new();
    bench.world.apply(Fault::ClockSkew { server: "EX01".to_owned(), seconds: 90 }).unwrap();
    let command = |class: &str| Command::new("Get-CimInstance").with("ClassName", class);
    let pools = values(&bench.windows("EX01", command("Win32_Process").with("Filter", "Name = 'w3wp.exe'")));
    assert_eq!(pools.len(), 2);
    assert!(pools[0].property("CommandLine").unwrap().text().contains(r#" -ap "MSExchangeOWAAppPool" "#));
    let system = &values(&bench.windows("EX01", command("Win32_OperatingSystem")))[0];
    assert_eq!(system.property("Version"), Some(&Value::from("10.0.14393")));
    let clock = system.property("LocalDateTime").and_then(Value::as_date_time);
    assert_eq!(clock, Some(bench.world.now() + TimeDelta::seconds(90)));
}

#[test]
fn the_windows_endpoint_shows_what_holds_a_key() {
    let (mut bench, made) = distributed();
    let provider = "Microsoft Software Key Storage Provider".to_owned();
    bench.world.apply(Fault::KeyProvider { server: "EX02".to_owned(), provider }).unwrap();
    let item =
        |thumbprint: &str| Command::new("Get-Item").with("LiteralPath", format!(r"Cert:\LocalMachine\My\{thumbprint}"));
    let key_type = |bench: &mut Bench, server| {
        let found = values(&bench.windows(server, item(made.thumbprint().as_str())));
        found[0].property("PrivateKey").unwrap().as_object().unwrap().type_names[0].clone()
    };
    assert!(key_type(&mut bench, "EX01").ends_with(".RSACryptoServiceProvider"));
    assert!(key_type(&mut bench, "EX02").ends_with(".RSACng"));
    let missing = error(&bench.windows("EX01", item(&"0".repeat(40))));
    assert_eq!(missing.fully_qualified_error_id, "PathNotFound,Microsoft.PowerShell.Commands.GetItemCommand");
    assert_eq!((missing.category, missing.reason.as_str()), (13, "ItemNotFoundException"));
}

#[test]
fn a_restart_is_seen_in_the_start_time_of_its_process_only() {
    let mut bench = Bench::new();
    let started = |bench: &Bench| bench.world.server(0).processes.each_ref().map(|process| process.started);
    let before = started(&bench);
    values(&bench.windows("EX01", Command::new("Restart-WebAppPool").with("Name", "MSExchangeOWAAppPool")));
    assert_eq!(started(&bench), [before[0], bench.world.now(), before[2]]);
    let command = Command::new("Restart-Service").with("Name", "MSExchangeTransport");
    assert_refused(&bench.windows("EX01", command), "NoServiceFoundForGivenName");
}

#[test]
fn a_lost_reply_is_lost_after_the_cmdlet_was_carried_out() {
    let (mut bench, made) = (Bench::new(), Made::number(0));
    let calls = Calls { server: Some("ex02".to_owned()), ..calls("Import-ExchangeCertificate") };
    bench.world.apply(Fault::LoseReply { calls, stage: Stage::After }).unwrap();
    values(&bench.import("EX01", &made));
    assert_eq!(bench.import("EX02", &made), Reaction::Lost);
    assert!(bench.has("EX02", &made.thumbprint()));
    assert_refused(&bench.import("EX02", &made), "already exists");
}

#[test]
fn a_cmdlet_can_fail_after_it_was_carried_out() {
    let (mut bench, made) = (Bench::new(), Made::number(0));
    let calls = calls("Import-ExchangeCertificate");
    bench.world.apply(Fault::Fail { calls, error: Failure::RpcUnavailable, stage: Stage::After }).unwrap();
    assert_refused(&bench.import("EX02", &made), "RPC");
    assert!(bench.has("EX02", &made.thumbprint()));
}

#[test]
fn a_cmdlet_that_never_ends_is_carried_out_or_not() {
    let made = Made::number(0);
    for stage in [Stage::Before, Stage::After] {
        let mut bench = Bench::new();
        bench.world.apply(Fault::Hold { calls: calls("Import-ExchangeCertificate"), stage }).unwrap();
        assert_eq!(bench.import("EX02", &made), Reaction::Held);
        assert_eq!(bench.has("EX02", &made.thumbprint()), stage == Stage::After);
    }
}

#[test]
fn an_answer_without_effect_looks_like_success() {
    let (mut bench, _) = staged();
    bench.world.apply(Fault::NoChange { calls: calls("Set-AuthConfig") }).unwrap();
    values(&bench.publish());
    assert!(bench.config(0).next.is_some());
    values(&bench.publish());
    assert!(bench.config(0).next.is_none());
}

#[test]
fn the_journal_holds_no_secret_and_no_bytes() {
    let (bench, _) = distributed();
    let told = serde_json::to_string(&bench.world.journal).unwrap();
    assert!(told.contains(r#""Password":"***""#) && !told.contains(PASSWORD));
    assert!(told.contains(r#" bytes""#) && !format!("{:?}", bench.world).contains(PASSWORD));
}

#[test]
fn a_key_lands_where_its_file_says_unless_windows_is_told_otherwise() {
    let (bench, made) = distributed();
    let entry = bench.world.server(0).store.find(&made.thumbprint()).unwrap();
    assert_eq!(entry.key.as_ref().unwrap().provider, Provider::legacy_default());
    assert_eq!(pfx::read(&made.pfx(), PASSWORD, 14393).unwrap().provider, None);
}
