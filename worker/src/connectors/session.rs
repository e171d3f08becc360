//! A runspace pool on one endpoint: the sans-IO client of [`psrp`] driven over one connection.

use std::time::Duration;

use hyper::StatusCode;
use psrp::{
    ErrorRecord, Pipeline, PipelineEnd, Record, Value,
    client::{ClientError, Event, HostAnswer, Operation, Options, Pool},
};
use tracing::debug;

use super::{
    Endpoint, WireError,
    connection::{Connection, LoggedOn},
    http::Response,
};

/// How long an endpoint may hold a Receive.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(20);
/// What all answers to one pipeline may take together. Those of a renewal take kilobytes.
const ALL_ANSWERS: usize = 64 << 20;
/// How long a pipeline may run. Cmdlets of a renewal take seconds; one that hangs must not hold its step for ever.
const PATIENCE: Duration = Duration::from_secs(600);
/// What servers took before Windows Server 2012, and what those still take that were upgraded (`MaxEnvelopeSizekb` 150).
const SMALL_ENVELOPE: usize = 150 * 1024;
/// The code of a refused envelope.
const TOO_LARGE: &str = "envelope_too_large";
/// How long the farewell may take.
const FAREWELL: Duration = Duration::from_secs(5);

/// An open runspace pool.
pub struct Session {
    connection: Connection,
    pool: Pool,
    address: String,
    /// Whether something is under way, or came to no known end.
    busy: bool,
    /// Whether it has been on the shelf since it was last used.
    rested: bool,
    /// How long a pipeline may run.
    patience: Duration,
    /// Whether the endpoint has refused the logon: one more try would only count against the account.
    locked_out: bool,
}

/// What a pipeline wrote and how it ended.
#[derive(Debug, Default)]
pub struct Answer {
    /// Its output.
    pub output: Vec<Value>,
    /// Its errors, the one that ended it last.
    pub errors: Vec<ErrorRecord>,
    /// Its warnings.
    pub warnings: Vec<String>,
}

/// What the driver waits for.
enum Until {
    Opened,
    Ended,
}

impl Session {
    /// Connects, logs on and opens a runspace pool. Nothing has been changed when it fails.
    pub async fn open(endpoint: &Endpoint) -> Result<Self, WireError> {
        let options = Options {
            to: endpoint.url.to_string(),
            configuration: endpoint.configuration,
            max_envelope_size: endpoint.max_envelope_size,
            operation_timeout: OPERATION_TIMEOUT,
            key_exchange: endpoint.sessions.key_exchange(),
        };
        let connection = Connection::open(endpoint).await?;
        let address = endpoint.address();
        let pool = Pool::new(options);
        let mut session =
            Self { connection, pool, address, busy: true, rested: false, patience: PATIENCE, locked_out: false };
        match session.drive(Until::Opened, &mut Answer::default()).await {
            Ok(()) => {
                session.busy = false;
                debug!("{}: a session is open{}", session.address, session.how());
                Ok(session)
            }
            Err(error) => {
                // The shell may be there although nobody said so.
                session.close().await;
                Err(match error {
                    WireError::UnknownOutcome { host, why } => WireError::NotSent { host, why },
                    error => error,
                })
            }
        }
    }

    /// How the connection logged on; `None` before the first answer.
    pub(crate) const fn logged_on(&self) -> Option<&LoggedOn> {
        self.connection.logged_on()
    }

    fn how(&self) -> String {
        self.logged_on().map(|how| format!(", {how}")).unwrap_or_default()
    }

    /// Whether it can be used for something else now.
    pub(super) const fn is_good(&self) -> bool {
        !self.busy
    }

    /// The same, taken from the shelf.
    pub(super) const fn warm(mut self) -> Self {
        self.rested = true;
        self
    }

    /// Runs a pipeline to its end. A session that was lost while nobody used it is opened anew, and so is one whose envelopes are too large for the
    /// server: the pipeline has not left then.
    pub async fn invoke(&mut self, pipeline: impl Into<Pipeline>) -> Result<Answer, WireError> {
        let pipeline = pipeline.into();
        let rested = std::mem::take(&mut self.rested);
        let mut endpoint = self.connection.endpoint().clone();
        match self.run(pipeline.clone()).await {
            Err(WireError::NotSent { why, .. }) if rested => {
                debug!("{}: the warm session is lost ({why})", self.address);
            }
            Err(WireError::Refused { code: TOO_LARGE, .. }) if endpoint.max_envelope_size > SMALL_ENVELOPE => {
                debug!("{}: it takes only smaller envelopes; trying {} KiB", self.address, SMALL_ENVELOPE / 1024);
                endpoint.max_envelope_size = SMALL_ENVELOPE;
            }
            done => return done,
        }
        self.say_farewell().await;
        *self = Self::open(&endpoint).await?;
        Box::pin(self.invoke(pipeline)).await
    }

    async fn run(&mut self, pipeline: Pipeline) -> Result<Answer, WireError> {
        self.busy = true;
        self.pool.start(pipeline).map_err(|error| self.refused("protocol", error.to_string()))?;
        let mut answer = Answer::default();
        match tokio::time::timeout(self.patience, self.drive(Until::Ended, &mut answer)).await {
            Ok(driven) => driven?,
            Err(_) => return Err(self.stop().await),
        }
        self.busy = false;
        Ok(answer)
    }

    /// Has the server stop the pipeline, over a connection of its own: the other one may hold a Receive. What the pipeline has done by then is not known.
    async fn stop(&mut self) -> WireError {
        let (host, seconds) = (self.address.clone(), self.patience.as_secs());
        let Some(transmit) = self.pool.stop_transmit() else {
            return WireError::NotSent { host, why: format!("it took no command within {seconds} s") };
        };
        let stopping = async {
            let mut aside = Connection::open(self.connection.endpoint()).await?;
            aside.post(transmit.body).await
        };
        let told = match tokio::time::timeout(FAREWELL, stopping).await {
            Ok(Ok(response)) if response.status.is_success() => "it was told to stop",
            _ => "it could not be told to stop",
        };
        WireError::UnknownOutcome { host, why: format!("the command had not ended after {seconds} s; {told}") }
    }

    /// Gives the runspace pool back. What cannot be given back, the server drops when it has been idle.
    pub async fn close(mut self) {
        self.say_farewell().await;
    }

    async fn say_farewell(&mut self) {
        let farewell = async {
            if self.give_back().await {
                return;
            }
            // Saying it twice does no harm. On a new connection: the old one may be what failed.
            if let Ok(connection) = Connection::open(self.connection.endpoint()).await {
                self.connection = connection;
                self.give_back().await;
            }
        };
        if tokio::time::timeout(FAREWELL, farewell).await.is_err() {
            debug!("{} did not take its runspace pool back in time", self.address);
        }
    }

    /// Whether there is nothing left to give back, or no way to.
    async fn give_back(&mut self) -> bool {
        self.pool.close();
        let Some(transmit) = self.pool.poll_transmit().filter(|_| !self.locked_out) else { return true };
        let Ok(response) = self.post(transmit.body).await else { return false };
        self.pool.handle_response(response.status.as_u16(), &response.body).is_ok()
    }

    async fn post(&mut self, body: Vec<u8>) -> Result<Response, WireError> {
        let answered = self.connection.post(body).await;
        self.locked_out |= match &answered {
            Ok(response) => response.status == StatusCode::UNAUTHORIZED,
            Err(error) => matches!(error, WireError::Refused { .. }),
        };
        answered
    }

    async fn drive(&mut self, until: Until, answer: &mut Answer) -> Result<(), WireError> {
        // Whether a command has left that may be carried out from now on.
        let mut sent = false;
        let mut left = ALL_ANSWERS;
        loop {
            while let Some(event) = self.pool.poll_event() {
                if self.take(event, &until, answer) {
                    return Ok(());
                }
            }
            let Some(transmit) = self.pool.poll_transmit() else {
                return Err(self.refused("protocol", "the session has come to an end by itself".to_owned()));
            };
            sent |= transmit.operation == Operation::Command;
            let response = self.post(transmit.body).await.map_err(|error| settle(error, sent))?;
            left = left.checked_sub(response.body.len()).ok_or_else(|| self.talks_too_much(sent))?;
            let handled = self.pool.handle_response(response.status.as_u16(), &response.body);
            self.check(response.status, sent)?;
            handled.map_err(|error| self.explain(error, transmit.operation, sent))?;
        }
    }

    fn take(&self, event: Event, until: &Until, answer: &mut Answer) -> bool {
        match event {
            Event::Opened => matches!(until, Until::Opened),
            Event::Record { record, .. } => {
                answer.take(record, &self.address);
                false
            }
            Event::Ended { end, .. } => {
                answer.end(end);
                matches!(until, Until::Ended)
            }
            Event::HostCall { method, answer: asked, .. } => {
                answer.asked(&method, asked, &self.address);
                false
            }
            Event::Closed => false,
        }
    }

    /// Whether the endpoint talks to us at all. Once a command has been taken, a refusal of the next request does not undo it.
    fn check(&self, status: StatusCode, sent: bool) -> Result<(), WireError> {
        match status {
            _ if sent => Ok(()),
            StatusCode::UNAUTHORIZED => Err(WireError::Refused {
                host: self.address.clone(),
                code: "credentials_refused",
                why: format!("it does not accept the logon (401{})", self.how()),
                action: "Correct username and password or the certificate in the configuration, and see that the virtual directory \
                         allows this authentication; then retry",
            }),
            StatusCode::FORBIDDEN => Err(WireError::Refused {
                host: self.address.clone(),
                code: "access_denied",
                why: "the account may not use remote PowerShell there (403)".to_owned(),
                action: "Allow the account remote PowerShell (Set-User -RemotePowerShellEnabled $true); then retry",
            }),
            StatusCode::NOT_FOUND => Err(self.refused("no_endpoint", "there is no such path (404)".to_owned())),
            _ => Ok(()),
        }
    }

    /// What an error means for the pipeline. A fault on the Command itself, but for a timeout, says that it was not taken; later, only the pipeline's
    /// own end says what became of it.
    fn explain(&self, error: ClientError, operation: Operation, sent: bool) -> WireError {
        let host = self.address.clone();
        let why = error.to_string();
        let taken = sent && operation != Operation::Command;
        match error {
            _ if taken => WireError::UnknownOutcome { host, why },
            ClientError::ShellGone => WireError::NotSent { host, why },
            // What took too long may come to an end all the same.
            ClientError::Fault(fault) if fault.is_timeout() && sent => WireError::UnknownOutcome { host, why },
            ClientError::Fault(fault) if fault.is_timeout() => WireError::NotSent { host, why },
            ClientError::Fault(fault) if fault.is_quota() => WireError::NotSent {
                host,
                why: format!("{why} Sessions that were left behind end by themselves after 3 minutes"),
            },
            ClientError::Fault(fault) if fault.is_access_denied() => WireError::Refused {
                host,
                code: "access_denied",
                why,
                action: "Allow the account remote PowerShell there (Set-User -RemotePowerShellEnabled $true); then retry",
            },
            ClientError::Fault(fault) if fault.is_too_large() => WireError::Refused {
                host,
                code: TOO_LARGE,
                why,
                action: "Set max_envelope_kb to the server's MaxEnvelopeSizekb (winrm get winrm/config); then retry",
            },
            ClientError::Fault(_) | ClientError::PoolBroken(_) => self.refused("endpoint_refused", why),
            _ if sent => WireError::UnknownOutcome { host, why },
            _ => WireError::NotSent { host, why },
        }
    }

    fn talks_too_much(&self, sent: bool) -> WireError {
        let (host, why) = (self.address.clone(), format!("it answered more than {} MiB", ALL_ANSWERS >> 20));
        settle(WireError::UnknownOutcome { host, why }, sent)
    }

    fn refused(&self, code: &'static str, why: String) -> WireError {
        WireError::Refused {
            host: self.address.clone(),
            code,
            why,
            action: "Check the URL and the endpoint on the server; then retry",
        }
    }
}

/// Before the command has left, a lost answer changes nothing.
fn settle(error: WireError, sent: bool) -> WireError {
    match error {
        WireError::UnknownOutcome { host, why } if !sent => WireError::NotSent { host, why },
        WireError::NotSent { host, why } if sent => WireError::UnknownOutcome { host, why },
        error => error,
    }
}

impl Answer {
    fn take(&mut self, record: Record, address: &str) {
        match record {
            // Never logged: it may hold what nobody else may have.
            Record::Output(value) => self.output.push(value),
            Record::Error(error) => {
                debug!(stream = "error", "{address}: {} ({})", error.message, error.fully_qualified_error_id);
                self.errors.push(error);
            }
            Record::Warning(text) => {
                debug!(stream = "warning", "{address}: {text}");
                self.warnings.push(text);
            }
            Record::Verbose(text) => debug!(stream = "verbose", "{address}: {text}"),
            Record::Debug(text) => debug!(stream = "debug", "{address}: {text}"),
            Record::Progress(value) => debug!(stream = "progress", "{address}: {}", progress(&value)),
            Record::Information(value) => debug!(stream = "information", "{address}: {}", information(&value)),
        }
    }

    /// A question stands among the warnings: it explains why nothing was changed.
    fn asked(&mut self, method: &str, answer: HostAnswer, address: &str) {
        match answer {
            HostAnswer::Ignored => debug!("{address}: {method} was not shown to anybody"),
            HostAnswer::Refused => self.warnings.push(format!("It called {method} and was refused: nobody is there.")),
            HostAnswer::No { question } => self.warnings.push(format!("It asked `{question}` and was answered No.")),
        }
    }

    fn end(&mut self, end: PipelineEnd) {
        match end {
            PipelineEnd::Completed => {}
            PipelineEnd::Failed(error) => self.errors.push(error),
            PipelineEnd::Stopped => {
                self.errors
                    .push(ErrorRecord { message: "the pipeline was stopped".to_owned(), ..ErrorRecord::default() });
            }
        }
    }
}

/// What a progress record says (MS-PSRP 2.2.2.25).
fn progress(value: &Value) -> String {
    let part = |name| value.property(name).map(Value::text).unwrap_or_default();
    format!("{} {} {}%", part("Activity"), part("StatusDescription"), part("PercentComplete"))
}

/// What an information record says (MS-PSRP 2.2.2.26).
fn information(value: &Value) -> String {
    value.property("MessageData").unwrap_or(value).text()
}

#[cfg(test)]
mod tests;
