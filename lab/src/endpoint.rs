//! A PowerShell endpoint of a server: HTTP in front of [`psrp::server`], the cmdlets behind it.

mod disturbed;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use psrp::{
    PipelineEnd,
    client::Configuration,
    server::{Handled, Language, Reply, RunId, Server, ServerEvent, ServerOptions, Waiting},
    wsman::Request,
};
use tokio::{sync::Notify, time::Instant};
use uuid::Uuid;

use crate::{
    cmdlets::{Answer, Endpoint, Reaction, Session},
    http::{Cut, Tasks, blocking},
    running::Running,
};

/// One endpoint of one server, with its shells.
pub(crate) struct PowerShell {
    running: Arc<Running>,
    session: Session,
    max_shells: usize,
    shells: Mutex<Shells>,
    /// Rung when a pipeline has written something.
    news: Notify,
    tasks: Tasks,
}

/// The shells, and when anything was last asked of those in which something ran.
struct Shells {
    server: Server,
    used: HashMap<Uuid, Instant>,
}

/// What both sides agree on: Exchange allows half a megabyte (MaxEnvelopeSizeKb 500).
pub(crate) const MAX_ENVELOPE: usize = 500 * 1024;
/// How long a shell lives of which nothing is asked, in real time. Exchange allows 15 minutes, but the clients of a lab
/// are killed more often.
const IDLE: Duration = Duration::from_secs(120);

impl PowerShell {
    pub(crate) fn new(running: Arc<Running>, session: Session, max_shells: usize, tasks: Tasks) -> Self {
        let shells = Mutex::new(Shells::none(session.endpoint, max_shells));
        Self { running, session, max_shells, shells, news: Notify::new(), tasks }
    }

    /// Whether the server runs.
    pub(crate) fn is_open(&self) -> bool {
        let up = self.running.is_up(self.session.server);
        if !up {
            // The shells of a machine that goes down are gone.
            self.change(&mut self.lock(), |shells| *shells = Shells::none(self.session.endpoint, self.max_shells));
        }
        up
    }

    /// Answers a SOAP envelope, or does with it what was asked to go wrong.
    pub(crate) async fn answer(self: &Arc<Self>, body: Vec<u8>) -> Result<Reply, Cut> {
        match Request::parse(&body) {
            Ok(request) => match self.meet(&request) {
                Some(disturbance) => self.disturb(disturbance, &request.header, body).await,
                None => self.process(body).await,
            },
            Err(_) => self.process(body).await,
        }
    }

    /// Answers a SOAP envelope; that may take until there is something to tell.
    async fn process(self: &Arc<Self>, body: Vec<u8>) -> Result<Reply, Cut> {
        let endpoint = self.clone();
        match blocking(move || endpoint.handle(&body)).await?? {
            Handled::Reply(reply) => Ok(reply),
            Handled::Wait(waiting) => self.wait(&waiting).await,
        }
    }

    fn handle(self: &Arc<Self>, body: &[u8]) -> Result<Handled, Cut> {
        let mut shells = self.lock();
        let handled = self.change(&mut shells, |shells| {
            shells.close_idle();
            shells.server.handle(body)
        });
        if let Handled::Wait(waiting) = &handled {
            shells.use_now(waiting.shell);
        }
        while let Some(event) = shells.server.poll_event() {
            self.react(&mut shells, event)?;
        }
        drop(shells);
        self.news.notify_waiters();
        Ok(handled)
    }

    fn react(self: &Arc<Self>, shells: &mut Shells, event: ServerEvent) -> Result<(), Cut> {
        match event {
            ServerEvent::Start { run, pipeline } => {
                shells.use_now(run.shell);
                match self.running.run(&self.session, &pipeline) {
                    Reaction::Answer(answer) if answer.lasts.is_zero() => finish(&mut shells.server, run, *answer),
                    Reaction::Answer(answer) => self.finish_later(run, *answer),
                    Reaction::Held => {}
                    Reaction::Lost => return Err(Cut),
                }
            }
            ServerEvent::Stop { run } => shells.server.finish(run, PipelineEnd::Stopped),
            ServerEvent::Closed { shell } => drop(shells.used.remove(&shell)),
        }
        Ok(())
    }

    fn finish_later(self: &Arc<Self>, run: RunId, answer: Answer) {
        let endpoint = self.clone();
        self.tasks.spawn(async move {
            tokio::time::sleep(answer.lasts).await;
            finish(&mut endpoint.lock().server, run, answer);
            endpoint.news.notify_waiters();
        });
    }

    /// Holds a Receive until there is something to tell, its time is up, or the server goes down.
    async fn wait(&self, waiting: &Waiting) -> Result<Reply, Cut> {
        let deadline = Instant::now() + waiting.operation_timeout.saturating_sub(HEAD_START);
        let mut faults = self.running.faults();
        loop {
            let news = self.news.notified();
            if !self.is_open() {
                return Err(Cut);
            }
            if let Some(reply) = self.lock().server.receive(waiting) {
                return Ok(reply);
            }
            tokio::select! {
                () = news => {}
                // The sender lives as long as the lab.
                _ = faults.changed() => {}
                () = tokio::time::sleep_until(deadline) => return Ok(self.lock().server.time_out(waiting)),
            }
        }
    }

    /// Does what may open or close shells, and counts those that are open then.
    fn change<R>(&self, shells: &mut Shells, change: impl FnOnce(&mut Shells) -> R) -> R {
        let before = shells.server.shells();
        let result = change(shells);
        self.running.count_shells(before, shells.server.shells());
        result
    }

    /// A request that panicked has at worst lost its own shell.
    fn lock(&self) -> MutexGuard<'_, Shells> {
        self.shells.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for PowerShell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PowerShell").field("session", &self.session).finish_non_exhaustive()
    }
}

/// A server tells that nothing happened a little before the client gives up.
const HEAD_START: Duration = Duration::from_millis(100);

impl Shells {
    fn none(endpoint: Endpoint, max_shells: usize) -> Self {
        let (configuration, language) = match endpoint {
            Endpoint::Exchange => (Configuration::Exchange, Language::NoLanguage),
            Endpoint::Windows => (Configuration::Windows, Language::FullLanguage),
        };
        let options = ServerOptions { configuration, max_envelope_size: MAX_ENVELOPE, max_shells, language };
        Self { server: Server::new(options), used: HashMap::new() }
    }

    fn use_now(&mut self, shell: Uuid) {
        self.used.insert(shell, Instant::now());
    }

    fn close_idle(&mut self) {
        let idle = |(shell, used): (&Uuid, &Instant)| (used.elapsed() > IDLE).then_some(*shell);
        for shell in self.used.iter().filter_map(idle).collect::<Vec<_>>() {
            self.server.close_shell(shell);
        }
    }
}

fn finish(server: &mut Server, run: RunId, answer: Answer) {
    for record in answer.records {
        server.push(run, record);
    }
    server.finish(run, answer.end);
}
