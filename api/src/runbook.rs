//! The runbook of a plan: what a person would do by hand, in order, with its gates and waits.

use std::fmt::Write;

use domain::{
    Phase, Plan, Renewal, StepKind,
    plan::{CertificateSource, EndpointKind, Finding, How, PlannedGate, PlannedStep, Reversibility},
};

/// The plan as Markdown.
pub(crate) fn markdown(renewal: &Renewal, plan: &Plan) -> String {
    let mut book = Book::default();
    head(&mut book, renewal, plan);
    let mut phase = None;
    for step in &plan.steps {
        if phase != Some(step.phase) {
            phase = Some(step.phase);
            if let Some(gate) = gate_before(plan, step.phase) {
                book.gate(gate);
            }
            book.line(&format!("## {}", title(step.phase, plan)));
        }
        book.step(step, plan);
    }
    way_back(&mut book, plan);
    book.text
}

/// Where the commands of a step go, in the order in which they are shown.
const ENDPOINTS: [EndpointKind; 5] = [
    EndpointKind::Exchange,
    EndpointKind::Windows,
    EndpointKind::Graph,
    EndpointKind::ExchangeOnline,
    EndpointKind::Person,
];

/// Markdown as it grows: blocks with an empty line between them.
#[derive(Default)]
struct Book {
    text: String,
}

impl Book {
    fn line(&mut self, text: &str) {
        if !self.text.is_empty() {
            self.text.push('\n');
        }
        writeln!(self.text, "{text}").expect("writing to a string does not fail");
    }

    fn code<'l>(&mut self, lines: impl IntoIterator<Item = &'l str>) {
        let lines: Vec<_> = lines.into_iter().collect();
        if !lines.is_empty() {
            self.line(&format!("```powershell\n{}\n```", lines.join("\n")));
        }
    }

    /// A request to Microsoft Graph: what is told in one line, as it is sent.
    fn request(&mut self, line: &str) {
        let (head, keys) = line.split_once(" keyCredentials: ").unwrap_or((line, "the whole list"));
        self.line(&format!(
            "```http\n{head} HTTP/1.1\nAuthorization: Bearer <token>\nContent-Type: application/json\n\n{{ \"keyCredentials\": [ <{}> ] }}\n```",
            keys.replace(['<', '>'], "")
        ));
    }

    fn list<'l>(&mut self, lines: impl IntoIterator<Item = &'l str>) {
        let lines: Vec<_> = (1..).zip(lines).map(|(number, line)| format!("{number}. {line}")).collect();
        if !lines.is_empty() {
            self.line(&lines.join("\n"));
        }
    }

    fn gate(&mut self, gate: &PlannedGate) {
        let needed = match gate.quorum {
            0 => "passed on evidence alone".to_owned(),
            1 => "one approval of this plan's digest".to_owned(),
            many => format!("{many} approvals of this plan's digest"),
        };
        self.line(&format!("## Gate `{}`: {needed}", gate.gate));
        self.line(&format!("{} Go on only when it is passed.", gate.meaning));
    }

    fn step(&mut self, step: &PlannedStep, plan: &Plan) {
        let place = if step.target.is_empty() { String::new() } else { format!(" on `{}`", step.target) };
        self.line(&format!("### {}. {}{place}", step.ordinal, step.kind));
        self.line(&format!("{} {}", step.description, reversibility(step.reversibility)));
        for endpoint in ENDPOINTS {
            let lines: Vec<_> = step.cmdlets.iter().filter(|c| c.endpoint == endpoint).collect();
            if !lines.is_empty() {
                self.line(shell(endpoint));
            }
            match endpoint {
                EndpointKind::Person => self.list(lines.iter().map(|c| c.line.as_str())),
                EndpointKind::Graph => lines.iter().for_each(|c| self.request(&c.line)),
                _ => self.code(lines.iter().map(|c| c.line.as_str())),
            }
        }
        self.code(by_hand(step, plan).iter().map(String::as_str));
        if let Some(wait) = after(step, plan) {
            self.line(&wait);
        }
    }
}

fn head(book: &mut Book, renewal: &Renewal, plan: &Plan) {
    book.line(&format!("# Runbook: renew the Auth certificate of {}", plan.organization));
    let list = |items: &[String]| items.iter().map(|item| format!("`{item}`")).collect::<Vec<_>>().join(", ");
    let servers: Vec<_> = plan.servers.iter().map(|s| s.fqdn.clone()).collect();
    let current = plan.observed.current.as_ref().map_or_else(|| "none".to_owned(), |t| format!("`{t}`"));
    let until = plan.observed.current_not_after.map_or_else(String::new, |at| format!(", valid until {at}"));
    let start = plan.not_before.map_or_else(|| "when approved".to_owned(), |at| format!("not before {at}"));
    let facts = [
        format!("- Renewal: {}", renewal.id),
        format!("- Plan: `{}`", plan.digest()),
        format!("- Current certificate: {current}{until}"),
        format!("- Servers: {}", list(&servers)),
        format!("- Domain controllers: {}", list(&plan.observed.domain_controllers)),
        format!("- Start: {start}"),
    ];
    book.line(&facts.join("\n"));
    book.line(
        "The service does this by itself once it is approved; by hand it is done exactly so. `<…>` stands for what is not known beforehand or is \
         secret. Before each command read the state, and do nothing if it is right already; after each command read it again.",
    );
    if !plan.findings.is_empty() {
        book.line("## Know this first");
        book.line(&plan.findings.iter().map(finding).collect::<Vec<_>>().join("\n"));
    }
}

fn finding(finding: &Finding) -> String {
    let place = if finding.target.is_empty() { String::new() } else { format!("`{}`: ", finding.target) };
    let fix = finding.fix.as_ref().map_or_else(String::new, |fix| format!(" Put right by `{fix}`."));
    format!("- {place}{} (`{}`){fix}", finding.message, finding.code)
}

fn gate_before(plan: &Plan, phase: Phase) -> Option<&PlannedGate> {
    let gate = plan.gate_before(phase)?;
    plan.gates.iter().find(|planned| planned.gate == gate)
}

fn title(phase: Phase, plan: &Plan) -> &'static str {
    match phase {
        Phase::Preflight => "Look",
        Phase::Generate => "Make the certificate",
        Phase::Distribute => "Bring it to every server",
        Phase::TrustCloud => "Register its key in Microsoft Entra",
        Phase::Stage => "Stage it",
        Phase::Publish => "Publish it",
        Phase::Restart => "Restart what caches keys, one server of a site at a time",
        Phase::RefreshHybrid => "Test that the organization and the cloud trust each other",
        Phase::Soak => "Wait and look",
        Phase::ClearPrevious => "Give up the old certificate",
        Phase::Prune if plan.cloud.is_some() => {
            "Take the old key out of Microsoft Entra, and the old certificate off the servers"
        }
        Phase::Prune => "Remove the old certificate from the servers",
        Phase::Close => "Check once more",
        Phase::Undo => "Take back",
    }
}

fn reversibility(reversibility: Reversibility) -> &'static str {
    match reversibility {
        Reversibility::Free => "",
        Reversibility::Reversible => "Can be taken back.",
        Reversibility::PointOfNoReturn => "**Cannot be taken back.**",
    }
}

fn shell(endpoint: EndpointKind) -> &'static str {
    match endpoint {
        EndpointKind::Exchange => "In the Exchange Management Shell:",
        EndpointKind::ExchangeOnline => "In Exchange Online PowerShell:",
        EndpointKind::Graph => {
            "To Microsoft Graph, with the whole list of keys (those that are kept as they were read):"
        }
        EndpointKind::Person => "By hand, by somebody who may change the application in Microsoft Entra:",
        EndpointKind::Windows => "In Windows PowerShell on the server, as administrator:",
    }
}

/// Commands of steps that the service carries out without a cmdlet, and the read-backs of the others.
fn by_hand(step: &PlannedStep, plan: &Plan) -> Vec<String> {
    let first = plan.servers.first().map_or("<server>", |s| s.fqdn.as_str());
    match (step.kind, &plan.certificate) {
        (StepKind::Generate, CertificateSource::Generate { key_size, .. }) => vec![
            format!(
                "New-ExchangeCertificate -Server {first} -KeySize {key_size} -PrivateKeyExportable $true -SubjectName \"cn=Microsoft Exchange Server Auth Certificate\" -FriendlyName \"Microsoft Exchange Server Auth Certificate\" -Services None"
            ),
            format!(
                "Export-ExchangeCertificate -Server {first} -Thumbprint <new thumbprint> -BinaryEncoded -Password <one-time password>"
            ),
        ],
        (StepKind::Distribute, _) => vec![format!(
            "Get-ExchangeCertificate -Server {} -Thumbprint <new thumbprint> | Format-List Thumbprint,NotAfter,HasPrivateKey",
            step.target
        )],
        (StepKind::Stage | StepKind::Publish | StepKind::ClearPrevious, _) => {
            let ask =
                |dc: &String| format!("Get-AuthConfig -DomainController {dc} | Format-List *Thumbprint,*EffectiveDate");
            plan.observed.domain_controllers.iter().map(ask).collect()
        }
        (StepKind::TrustCloud, _) => match plan.cloud.as_ref().map(|cloud| &cloud.how) {
            Some(How::Automatic { application, .. }) => vec![format!(
                "(Get-MgApplication -ApplicationId {} -Property KeyCredentials).KeyCredentials | Format-Table KeyId,CustomKeyIdentifier,StartDateTime,EndDateTime",
                application.object_id
            )],
            _ => Vec::new(),
        },
        (StepKind::RefreshHybrid, _) => tests(plan),
        (StepKind::Soak | StepKind::Close, _) => {
            let ask = |s: &domain::plan::PlannedServer| {
                format!("Get-ExchangeCertificate -Server {} | Format-List Subject,Thumbprint,NotAfter", s.fqdn)
            };
            std::iter::once("Get-AuthConfig | Format-List *Thumbprint".to_owned())
                .chain(plan.servers.iter().map(ask))
                .collect()
        }
        _ => Vec::new(),
    }
}

/// The tests of trust between the servers and the cloud. The server that runs the session gets the token, so each server runs its own.
fn tests(plan: &Plan) -> Vec<String> {
    let (here, there) = match plan.cloud.as_ref().map(|cloud| &cloud.how) {
        Some(How::Automatic { test_mailbox, cloud_test_mailbox, .. }) => {
            (test_mailbox.as_deref(), cloud_test_mailbox.as_deref())
        }
        Some(How::ByHand { test_mailbox, .. }) => (test_mailbox.as_deref(), None),
        None => (None, None),
    };
    let here = here.unwrap_or("<mailbox on the servers>");
    let there = there.unwrap_or("<mailbox in the cloud>");
    let test = |server: &domain::plan::PlannedServer| {
        format!(
            "# In a session on {}\nTest-OAuthConnectivity -Service EWS -TargetUri https://outlook.office365.com/ews/exchange.asmx -Mailbox {here} -ReloadConfig | Format-List ResultType,Detail",
            server.fqdn
        )
    };
    let back = format!(
        "# In Exchange Online PowerShell\nTest-OAuthConnectivity -Service EWS -TargetUri https://<public name of the servers>/ews/exchange.asmx -Mailbox {there} -ReloadConfig | Format-List ResultType,Detail"
    );
    plan.servers.iter().map(test).chain([back]).collect()
}

/// What to wait for when a step is done.
fn after(step: &PlannedStep, plan: &Plan) -> Option<String> {
    match step.kind {
        StepKind::TrustCloud => Some(
            "**Wait until Entra accepts the new key**: what can be read back is not accepted everywhere at once. Nothing is staged before."
                .to_owned(),
        ),
        StepKind::Stage if plan.staging_lead_hours > 0 => Some(format!(
            "**Wait {} hours**, until the effective date: every server reads the new certificate in this time. Exchange publishes it by itself at that \
             date; push the date out if nobody has approved by then.",
            plan.staging_lead_hours
        )),
        StepKind::Soak => Some(format!(
            "**Wait at least {} hours** after the publication and look every {} minutes; after a failed check the time starts again.",
            plan.soak_hours, plan.soak_check_minutes
        )),
        StepKind::Restart => {
            Some("Go on to the next server of the site when this one answers requests again.".to_owned())
        }
        _ => None,
    }
}

fn way_back(book: &mut Book, plan: &Plan) {
    let dc = plan.observed.domain_controllers.first().map_or("<domain controller>", String::as_str);
    let old = plan.observed.current.as_ref().map_or("<old thumbprint>", |t| t.as_str());
    book.line("## The way back");
    book.line(
        "Before publication: take the staged certificate out of AuthConfig (clear its thumbprint and date), then remove it from the servers. An operator \
         may skip a server that is gone for good.",
    );
    if plan.cloud.is_some() {
        book.line("Then, when no server can sign with it any more, take the key of the new certificate out of the application in Microsoft Entra; never the old one.");
    }
    book.line("After publication and before the old certificate is given up, publish the old one again, then restart as above:");
    book.code([
        format!(
            "Set-AuthConfig -NewCertificateThumbprint {old} -NewCertificateEffectiveDate <now> -Force -DomainController {dc}"
        )
        .as_str(),
        format!("Set-AuthConfig -PublishCertificate -Force -DomainController {dc}").as_str(),
    ]);
}
