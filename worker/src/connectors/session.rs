//! A runspace pool on one endpoint: the sans-IO client of [`psrp`] driven over one connection.

use std::time::Duration;

use hyper::StatusCode;
use psrp::{
    ErrorRecord, Pipeline, PipelineEnd, Record, Value,
    client::{ClientError, Event, Operation, Options, Pool},
};
use tracing::debug;

use super::{Endpoint, WireError, http::Connection};

/// Half a MiB less nothing: what Exchange accepts by default (`MaxEnvelopeSizekb` 500).
const MAX_ENVELOPE_SIZE: usize = 500 * 1024;
/// How long an endpoint may hold a Receive.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(20);
/// How long the farewell may take.
const FAREWELL: Duration = Duration::from_secs(5);

/// An open runspace pool.
pub(crate) struct Session {
    connection: Connection,
    pool: Pool,
    address: String,
}

/// What a pipeline wrote and how it ended.
#[derive(Debug, Default)]
pub(crate) struct Answer {
    /// Its output.
    pub(crate) output: Vec<Value>,
    /// Its errors, the one that ended it last.
    pub(crate) errors: Vec<ErrorRecord>,
    /// Its warnings.
    pub(crate) warnings: Vec<String>,
}

/// What the driver waits for.
enum Until {
    Opened,
    Ended,
}

impl Session {
    /// Connects, logs on and opens a runspace pool. Nothing has been changed when it fails.
    pub(crate) async fn open(endpoint: &Endpoint) -> Result<Self, WireError> {
        let options = Options {
            to: endpoint.url.to_string(),
            configuration: endpoint.configuration,
            max_envelope_size: MAX_ENVELOPE_SIZE,
            operation_timeout: OPERATION_TIMEOUT,
        };
        let connection = Connection::open(endpoint).await?;
        let mut session = Self { connection, pool: Pool::new(options), address: endpoint.address() };
        let opened = session.drive(Until::Opened, &mut Answer::default()).await;
        opened.map_err(|error| match error {
            WireError::UnknownOutcome { host, why } => WireError::NotSent { host, why },
            error => error,
        })?;
        Ok(session)
    }

    /// Runs a pipeline to its end.
    pub(crate) async fn invoke(&mut self, pipeline: impl Into<Pipeline>) -> Result<Answer, WireError> {
        self.pool.start(pipeline.into()).map_err(|error| self.refused("protocol", error.to_string()))?;
        let mut answer = Answer::default();
        self.drive(Until::Ended, &mut answer).await?;
        Ok(answer)
    }

    /// Gives the runspace pool back. What cannot be given back, the server drops when it has been idle.
    pub(crate) async fn close(mut self) {
        self.pool.close();
        let farewell = async {
            while let Some(transmit) = self.pool.poll_transmit() {
                let answered = self.connection.post(transmit.body).await;
                let Ok(response) = answered else { return };
                if self.pool.handle_response(response.status.as_u16(), &response.body).is_err() {
                    return;
                }
            }
        };
        if tokio::time::timeout(FAREWELL, farewell).await.is_err() {
            debug!("{} did not take its runspace pool back in time", self.address);
        }
    }

    async fn drive(&mut self, until: Until, answer: &mut Answer) -> Result<(), WireError> {
        // Whether a command has left that may be carried out from now on.
        let mut sent = false;
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
            let response = self.connection.post(transmit.body).await.map_err(|error| settle(error, sent))?;
            self.check(response.status, sent)?;
            let handled = self.pool.handle_response(response.status.as_u16(), &response.body);
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
            Event::HostCall { method, answered, .. } => {
                debug!(method, answered, "{} asked something of the host", self.address);
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
                why: "it does not accept the user name and password (401)".to_owned(),
                action: "Correct username and password in the configuration, and allow Basic on the virtual directory; then retry",
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

    /// A fault on the Command itself says that it was not taken; later, only the pipeline's own end says what became of it.
    fn explain(&self, error: ClientError, operation: Operation, sent: bool) -> WireError {
        let why = error.to_string();
        match error {
            ClientError::Fault(_) | ClientError::PoolBroken(_)
                if matches!(operation, Operation::Create | Operation::Command) || !sent =>
            {
                self.refused("endpoint_refused", why)
            }
            _ if sent => WireError::UnknownOutcome { host: self.address.clone(), why },
            _ => WireError::NotSent { host: self.address.clone(), why },
        }
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
            Record::Output(value) => self.output.push(value),
            Record::Error(error) => self.errors.push(error),
            Record::Warning(text) => self.warnings.push(text),
            Record::Verbose(text) | Record::Debug(text) => debug!("{address}: {text}"),
            Record::Progress(_) | Record::Information(_) => {}
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

#[cfg(test)]
mod tests;
