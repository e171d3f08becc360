//! Requests and answers that are disturbed on the way.

use std::{sync::Arc, time::Duration};

use psrp::{
    server::Reply,
    wsman::{Fault, Header, Operation, Request, Response, ResponseBody, Stream},
};

use super::PowerShell;
use crate::{
    directory::is_named,
    faults::wire::{Action, Disturbance},
    http::Cut,
    journal::Requested,
};

impl PowerShell {
    /// Writes a request down, and says what is to go wrong with it.
    pub(super) fn meet(&self, request: &Request) -> Option<Disturbance> {
        let action = Action::from(request.body.operation());
        let endpoint = self.session.endpoint;
        self.running.with(|world| {
            let server = world.server(self.session.server).spec.fqdn.clone();
            let disturbance = world.disturbances.meet(endpoint, action, |name| is_named(&server, name));
            world.journal.requests.push(Requested { server, endpoint, action, disturbed: disturbance.is_some() });
            disturbance
        })
    }

    pub(super) async fn disturb(
        self: &Arc<Self>,
        disturbance: Disturbance,
        header: &Header,
        body: Vec<u8>,
    ) -> Result<Reply, Cut> {
        let refuse = |fault: &Fault| Ok(Reply::fault(fault, Some(header.message)));
        match disturbance {
            Disturbance::Delay(milliseconds) => {
                tokio::time::sleep(Duration::from_millis(milliseconds.into())).await;
                self.process(body).await
            }
            Disturbance::Drop => Err(Cut),
            Disturbance::DropAfter => {
                self.process(body).await?;
                Err(Cut)
            }
            Disturbance::Duplicate => Ok(rewrite(self.process(body).await?, twice)),
            Disturbance::Fault { code, subcode, reason } => {
                refuse(&Fault { code, subcode, message: reason, detail: None })
            }
            Disturbance::KillShell => {
                if let Some(shell) = header.shell {
                    self.change(&mut self.lock(), |shells| shells.server.close_shell(shell));
                }
                self.process(body).await
            }
            Disturbance::Malformed => {
                let mut reply = self.process(body).await?;
                reply.body.truncate(reply.body.len() / 2);
                Ok(reply)
            }
            Disturbance::OutOfOrder => Ok(rewrite(self.process(body).await?, reversed)),
            Disturbance::Status(status) => Ok(Reply { status, body: Vec::new() }),
            Disturbance::Timeout => refuse(&Fault::timed_out()),
        }
    }
}

/// Changes the fragments of an answer to Receive; any other answer has none.
fn rewrite(reply: Reply, change: impl FnOnce(Vec<Stream>) -> Vec<Stream>) -> Reply {
    let Ok(Ok(Response { relates_to, body })) = Response::parse(Operation::Receive, &reply.body) else { return reply };
    let ResponseBody::Received { streams, state } = body else { return reply };
    let body = ResponseBody::Received { streams: change(streams), state };
    Reply { body: Response { relates_to, body }.write(), ..reply }
}

fn twice(mut streams: Vec<Stream>) -> Vec<Stream> {
    if let Some(first) = streams.first().cloned() {
        streams.insert(0, first);
    }
    streams
}

fn reversed(mut streams: Vec<Stream>) -> Vec<Stream> {
    if let [only] = streams.as_slice() {
        streams = in_two(only);
    }
    streams.reverse();
    streams
}

/// A whole message as two fragments (MS-PSRP 2.2.4). Part of a message stays as it is.
fn in_two(whole: &Stream) -> Vec<Stream> {
    const FRAGMENT_ID: usize = 15;
    const FLAGS: usize = 16;
    const LENGTH: usize = 17;
    const BLOB: usize = 21;
    const START: u8 = 1;
    const END: u8 = 2;
    let piece = |id, flags, blob: &[u8]| {
        let mut data = whole.data[..LENGTH].to_vec();
        (data[FRAGMENT_ID], data[FLAGS]) = (id, flags);
        data.extend_from_slice(&u32::try_from(blob.len()).unwrap_or(u32::MAX).to_be_bytes());
        data.extend_from_slice(blob);
        Stream { data, ..whole.clone() }
    };
    match whole.data.split_at_checked(BLOB) {
        Some((header, blob)) if header[FLAGS] == START | END => {
            let (first, second) = blob.split_at(blob.len() / 2);
            vec![piece(0, START, first), piece(1, END, second)]
        }
        _ => vec![whole.clone()],
    }
}
