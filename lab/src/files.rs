//! The files by which rekey finds a lab.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
};

use crate::{Authentication, Lab, LabCloud, LabTickets};

/// Where they are.
#[derive(Clone, Debug)]
pub struct Files {
    /// `rekey.toml`.
    pub config: PathBuf,
    /// The password, readable by its owner only.
    pub password: PathBuf,
    /// The certificate of the authority, PEM.
    pub ca: PathBuf,
    /// What rekey signs in to the tenant with; only of a hybrid lab.
    pub cloud: Option<CloudFiles>,
}

/// A certificate and its key.
#[derive(Clone, Debug)]
pub struct CloudFiles {
    /// PEM.
    pub certificate: PathBuf,
    /// PEM, readable by its owner only.
    pub key: PathBuf,
}

/// How rekey is to log on, for its configuration.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    pub(crate) authentication: Authentication,
    pub(crate) kdc: Option<String>,
}

/// Writes them into a folder, which is made if need be.
pub(crate) fn write(lab: &Lab, folder: &Path) -> anyhow::Result<Files> {
    fs::create_dir_all(folder)?;
    let cloud = lab.cloud().map(|cloud| write_cloud(cloud, folder)).transpose()?;
    let files =
        Files { config: folder.join("rekey.toml"), password: folder.join(PASSWORD), ca: folder.join(CA), cloud };
    fs::write(&files.ca, lab.ca_pem())?;
    write_secret(&files.password, lab.password().expose())?;
    if let Some(tickets) = lab.tickets() {
        write_secret(&folder.join(SERVICENOW), tickets.servicenow_password.expose())?;
        write_secret(&folder.join(JIRA), tickets.jira_token.expose())?;
    }
    fs::write(&files.config, configuration(lab))?;
    Ok(files)
}

fn write_cloud(cloud: &LabCloud, folder: &Path) -> anyhow::Result<CloudFiles> {
    let files = CloudFiles { certificate: folder.join(CLOUD_CERTIFICATE), key: folder.join(CLOUD_KEY) };
    fs::write(&files.certificate, &cloud.certificate_pem)?;
    write_secret(&files.key, cloud.key_pem.expose())?;
    Ok(files)
}

fn write_secret(path: &Path, text: &str) -> anyhow::Result<()> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    #[cfg(unix)]
    file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
    Ok(file.write_all(text.as_bytes())?)
}

fn configuration(lab: &Lab) -> String {
    let Way { authentication, kdc } = &lab.way;
    let (scheme, windows_port) =
        if *authentication == Authentication::Basic { ("https", 5986) } else { ("http", 5985) };
    let url = |fqdn: &str| format!("    \"{scheme}://{fqdn}/PowerShell/\",\n");
    let urls: String = lab.servers().iter().map(|server| url(&server.fqdn)).collect();
    let places: String = lab
        .servers()
        .iter()
        .map(|s| {
            let ports = [(443, s.https), (80, s.http), (5986, s.windows), (5985, s.windows_http)];
            ports.map(|(port, place)| format!("\"{}:{port}\" = \"{place}\"\n", s.fqdn)).concat()
        })
        .collect();
    let kdc = kdc.as_ref().map(|kdc| format!("kdc = {kdc:?}\n")).unwrap_or_default();
    let authentication = authentication.name();
    let cloud = lab.cloud().map(cloud_section).unwrap_or_default();
    let tickets = lab.tickets().map(tickets_section).unwrap_or_default();
    let (id, control, user) = (lab.organization_id(), lab.control_url(), lab.username());
    format!(
        r#"# Written by the lab. Everything that is not here has its default: see `rekey config --help`.
listen = "127.0.0.1:8080"
data_dir = "rekey-data"
# Time runs as in the lab. Refused unless every organization is a lab.
clock = "lab"
{tickets}
[[organization]]
id = "{id}"
name = "Contoso (lab)"
# The lab's control address: its clock, its state, its knobs.
lab = "{control}"

[organization.exchange]
urls = [
{urls}]
authentication = "{authentication}"
{kdc}username = "{user}"
# Relative to the folder of this file.
password = "file:{PASSWORD}"
ca_file = "{CA}"

[organization.windows]
# The same credentials unless given.
url = "{scheme}://{{fqdn}}:{windows_port}/wsman"

# Where these names are really found: host:port as in the URL, and the address.
[organization.connect_to]
{places}{cloud}
# Rules of this organization: quorum, waiting times, key size. The defaults are good.
[organization.policy]
"#
    )
}

/// Its ticket systems.
fn tickets_section(tickets: &LabTickets) -> String {
    let LabTickets { servicenow_url, servicenow_user, jira_url, jira_user, .. } = tickets;
    format!(
        r#"
# Its ticket systems. They are on this machine, where messages go only if that is said.
[outbound]
allow = ["127.0.0.0/8:*"]

[[ticket_system]]
id = "servicenow"
kind = "servicenow"
url = "{servicenow_url}"
client_id = "{servicenow_user}"
client_secret = "file:{SERVICENOW}"
ca_file = "{CA}"
query = "u_organizationISNOTEMPTY"
poll_seconds = 1
fresh_seconds = 0

[[ticket_system]]
id = "jira"
kind = "jira"
url = "{jira_url}"
username = "{jira_user}"
password = "file:{JIRA}"
ca_file = "{CA}"
fields = {{ organization = "/fields/customfield_10050" }}
query = "project = CHG AND labels = rekey"
poll_seconds = 1
fresh_seconds = 0
"#
    )
}

/// The tenant of a hybrid organization.
fn cloud_section(cloud: &LabCloud) -> String {
    let LabCloud { url, tenant_id, client_id, test_mailbox, cloud_test_mailbox, .. } = cloud;
    format!(
        r#"
# Its tenant: where tokens, Graph and Exchange Online are, and what rekey signs in with.
[organization.cloud]
cloud = "custom"
tenant_id = "{tenant_id}"
client_id = "{client_id}"
certificate = "file:{CLOUD_CERTIFICATE}"
certificate_key = "file:{CLOUD_KEY}"
exchange_online = true
login_url = "{url}"
graph_url = "{url}"
outlook_url = "{url}"
ca_file = "{CA}"
test_mailbox = "{test_mailbox}"
cloud_test_mailbox = "{cloud_test_mailbox}"
"#
    )
}

const SERVICENOW: &str = "lab-servicenow-secret";
const JIRA: &str = "lab-jira-token";
const CLOUD_CERTIFICATE: &str = "lab-cloud.pem";
const CLOUD_KEY: &str = "lab-cloud-key.pem";
const PASSWORD: &str = "lab-password";
const CA: &str = "lab-ca.pem";
