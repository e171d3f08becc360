//! Mails over SMTP: plain text that a person wants to read.

use std::{fmt, time::Duration};

use domain::{
    announcing::{PublicUrl, Text},
    storable::storable,
};
use futures_util::future::BoxFuture;
use lettre::{
    AsyncSmtpTransport, AsyncTransport as _, Message as Mail, Tokio1Executor,
    message::{
        Mailbox,
        header::{ContentTransferEncoding, ContentType, HeaderName, HeaderValue},
    },
    transport::smtp::{
        authentication::Credentials,
        client::{Certificate, CertificateStore, Tls, TlsParameters},
        extension::ClientId,
    },
};
use secrecy::{ExposeSecret as _, SecretString};

use super::{
    Delivered, Message, Target,
    allow::{AllowList, Unresolved},
};

/// The longest that the server may be silent.
const ANSWER: Duration = Duration::from_secs(60);
/// Columns of a line.
const WIDTH: usize = 76;

/// How the connection to a mail server is protected.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum MailTls {
    /// From the beginning (port 465).
    Implicit,
    /// Not at all. Never with a login.
    None,
    /// After STARTTLS (port 587 or 25), which must be there.
    #[default]
    Starttls,
}

/// Who logs on to a mail server.
#[derive(Clone, Debug)]
pub struct MailLogin {
    /// The user.
    pub username: String,
    /// The password.
    pub password: SecretString,
}

/// A mail server with the people who are written to.
pub struct MailTarget {
    /// What may be connected to.
    pub allow: AllowList,
    /// The server's name.
    pub server: String,
    /// Its port.
    pub port: u16,
    /// How the connection is protected.
    pub tls: MailTls,
    /// Trusted certificate authorities in PEM; those of the system if there are none.
    pub ca: Option<Vec<u8>>,
    /// Who logs on, if somebody must.
    pub login: Option<MailLogin>,
    /// Who writes.
    pub from: Mailbox,
    /// Who is written to.
    pub to: Vec<Mailbox>,
    /// Where people reach the API: its host stands in message ids.
    pub public_url: PublicUrl,
}

impl fmt::Debug for MailTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MailTarget").field("server", &self.server).field("port", &self.port).finish_non_exhaustive()
    }
}

impl Target for MailTarget {
    fn deliver<'a>(&'a self, message: &'a Message) -> BoxFuture<'a, Delivered> {
        Box::pin(async move {
            let mail = match self.mail(message) {
                Ok(mail) => mail,
                Err(error) => return Delivered::dead(format!("The mail cannot be written: {error}")),
            };
            let mut last = Delivered::retry(format!("{} has no address", self.server));
            let found = match self.allow.resolve(&self.server, Some(self.port)).await {
                Ok(found) => found,
                Err(error @ Unresolved::NotFound(..)) => return Delivered::retry(error.to_string()),
                Err(error @ Unresolved::NotAllowed(_)) => return Delivered::retry(error.to_string()),
            };
            // What was checked is what is connected to; the certificate must be the name's all the same.
            for address in found {
                last = match self.transport(&address.ip().to_string()) {
                    Err(error) => {
                        return Delivered::retry(format!("The connection to {} cannot be made: {error}", self.server));
                    }
                    Ok(transport) => match transport.send(mail.clone()).await {
                        Ok(_) => return Delivered::Done,
                        Err(error) if error.status().is_none() => Delivered::retry(self.told(&error)),
                        Err(error) => return self.refused(&error),
                    },
                };
            }
            last
        })
    }
}

impl MailTarget {
    fn transport(&self, address: &str) -> Result<AsyncSmtpTransport<Tokio1Executor>, lettre::transport::smtp::Error> {
        let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(address)
            .port(self.port)
            .timeout(Some(ANSWER))
            .hello_name(ClientId::Domain(self.host().to_owned()))
            .tls(match self.tls {
                MailTls::Implicit => Tls::Wrapper(self.tls_parameters()?),
                MailTls::Starttls => Tls::Required(self.tls_parameters()?),
                MailTls::None => Tls::None,
            });
        if let Some(login) = &self.login {
            let password = login.password.expose_secret().to_owned();
            builder = builder.credentials(Credentials::new(login.username.clone(), password));
        }
        Ok(builder.build())
    }

    fn tls_parameters(&self) -> Result<TlsParameters, lettre::transport::smtp::Error> {
        let mut builder = TlsParameters::builder(self.server.clone());
        if let Some(ca) = &self.ca {
            builder =
                builder.certificate_store(CertificateStore::None).add_root_certificate(Certificate::from_pem(ca)?);
        }
        builder.build()
    }

    /// Why no answer came, or what it was. What a server says of a login may repeat it, so of that only the code is told.
    fn told(&self, error: &lettre::transport::smtp::Error) -> String {
        let sources = std::iter::successors(std::error::Error::source(error), |error| error.source());
        let why = sources.last().map_or_else(|| error.to_string(), ToString::to_string);
        match error.status() {
            Some(code) if matches!(u16::from(code), 334 | 432 | 454 | 500..=504 | 530 | 534 | 535 | 538) => {
                format!("{} answers {code}", self.server)
            }
            Some(code) => format!("{} answers {code} {}", self.server, one_line(&why)),
            None => format!("{}: {}", self.server, one_line(&why)),
        }
    }

    fn refused(&self, error: &lettre::transport::smtp::Error) -> Delivered {
        let code = error.status().map_or(0, u16::from);
        let why = self.told(error);
        // The server does not take this mail. Everything else is about the way there, which a person may put right meanwhile.
        if error.is_permanent() && matches!(code, 550..=554) { Delivered::dead(why) } else { Delivered::retry(why) }
    }

    /// The host of the links: what message ids end in, and who says hello.
    fn host(&self) -> &str {
        let rest = self.public_url.as_str().split("://").nth(1).unwrap_or_default();
        let host = rest.split(['/', ':']).next().unwrap_or_default();
        if host.is_empty() || host.starts_with('[') { "localhost" } else { host }
    }

    fn mail(&self, message: &Message) -> Result<Mail, lettre::error::Error> {
        let host = self.host();
        let mut mail = Mail::builder()
            .from(self.from.clone())
            .subject(format!("[rekey] {}", message.text.title))
            .message_id(Some(format!("<{}@{host}>", message.id)))
            .date(message.announcement.at.into());
        for to in &self.to {
            mail = mail.to(to.clone());
        }
        if let Some(renewal) = &message.announcement.renewal {
            // Mails about a renewal are one conversation.
            mail = mail.references(format!("<{}@{host}>", renewal.id));
        }
        for (name, value) in [("Auto-Submitted", "auto-generated"), ("X-Auto-Response-Suppress", "All")] {
            mail = mail.raw_header(HeaderValue::new(HeaderName::new_from_ascii_str(name), value.to_owned()));
        }
        mail.header(ContentType::TEXT_PLAIN).header(ContentTransferEncoding::QuotedPrintable).body(body(message))
    }
}

fn body(message: &Message) -> String {
    let Text { message: what, action, facts, links, .. } = &message.text;
    let mut body = format!("{}\n", wrapped(what));
    if let Some(action) = action {
        body += &format!("\nWhat to do:\n{}\n", wrapped(action));
    }
    body.push('\n');
    let width =
        facts.iter().map(|(name, _)| name.len()).chain(links.iter().map(|link| link.label.len())).max().unwrap_or(0)
            + 1;
    for (name, value) in facts {
        body += &format!("{:width$} {value}\n", format!("{name}:"));
    }
    body.push('\n');
    for link in links {
        let url: String = link.url.chars().filter(|c| !c.is_control() && !c.is_whitespace()).collect();
        body += &format!("{:width$} {url}\n", format!("{}:", link.label));
    }
    body += &format!("\n-- \nrekey, message {} ({})\n", message.id, message.announcement.news.word());
    body
}

/// Lines that are short enough to read; a word that is longer stays whole.
fn wrapped(text: &str) -> String {
    let mut lines = Vec::new();
    for paragraph in text.lines() {
        let mut line = String::new();
        for word in paragraph.split_whitespace() {
            if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > WIDTH {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line += word;
        }
        lines.push(line);
    }
    lines.join("\n")
}

fn one_line(text: &str) -> String {
    storable(text).split_whitespace().collect::<Vec<_>>().join(" ").chars().take(300).collect()
}
