//! Warm sessions: runspace pools that are kept open between steps, and never more of them than allowed.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    ops::{Deref, DerefMut},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use psrp::session_key::SharedKeyExchange;
use tokio::{
    runtime::Handle,
    sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Endpoint, Session, WireError};

/// How long a session is kept that nobody uses. Servers drop theirs after three minutes, as they are asked to.
const IDLE: Duration = Duration::from_secs(45);
/// How long sessions that are opened anew share a key pair.
const KEY_AGE: Duration = Duration::from_secs(3600);

/// The sessions of one organization. Clones share them.
#[derive(Clone)]
pub struct Sessions {
    inner: Arc<Inner>,
}

struct Inner {
    limit: usize,
    /// One permit for each session in use.
    slots: Arc<Semaphore>,
    shelf: Mutex<Shelf>,
    /// The key pair of all sessions that are opened within [`KEY_AGE`], and since when.
    keys: Mutex<(Instant, SharedKeyExchange)>,
    /// Openings and farewells under way.
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Rung when a place may have become free.
    changed: Notify,
}

/// The sessions that nobody uses, and how many there are in all.
#[derive(Default)]
struct Shelf {
    /// By endpoint, the longest unused first.
    idle: HashMap<String, VecDeque<Idle>>,
    /// Open sessions, in use or not, and those being opened or closed.
    open: usize,
    /// Whether somebody looks after those that get old.
    attended: bool,
}

struct Idle {
    session: Session,
    since: Instant,
}

/// Somebody's session. Goes back on the shelf if it is still good, and is closed if not; also when its user is dropped.
pub struct Lease {
    session: Option<Session>,
    key: String,
    sessions: Sessions,
    _permit: OwnedSemaphorePermit,
}

impl Sessions {
    /// At most `limit` open sessions, at least one. Exchange allows an account 18 on a server (`PowerShellMaxConcurrency`).
    #[must_use]
    pub fn new(limit: usize) -> Self {
        let limit = limit.max(1);
        let slots = Arc::new(Semaphore::new(limit));
        let inner = Inner {
            limit,
            slots,
            shelf: Mutex::default(),
            keys: Mutex::new((Instant::now(), SharedKeyExchange::default())),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
            changed: Notify::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The key pair for a new session. Making one takes fifty times as long as using it.
    pub(super) fn key_exchange(&self) -> SharedKeyExchange {
        let (since, keys) = &mut *self.inner.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if since.elapsed() > KEY_AGE {
            (*since, *keys) = (Instant::now(), SharedKeyExchange::default());
        }
        keys.clone()
    }

    /// A session on this endpoint: a warm one, or a new one as soon as one more may be open.
    pub(super) async fn lease(&self, endpoint: &Endpoint) -> Result<Lease, WireError> {
        let slots = self.inner.slots.clone();
        let gone = |_| WireError::NotSent { host: endpoint.address(), why: "the worker stops".to_owned() };
        let permit = slots.acquire_owned().await.map_err(gone)?;
        let place = self.place(&endpoint.key()).await;
        let session = match place {
            Place::Warm(session) => session.warm(),
            Place::Free => self.open_one(endpoint, None).await?,
            Place::Taken(by) => self.open_one(endpoint, Some(by)).await?,
        };
        Ok(Lease { session: Some(session), key: endpoint.key(), sessions: self.clone(), _permit: permit })
    }

    /// Waits for a place: all may be taken by sessions that are being closed.
    async fn place(&self, key: &str) -> Place {
        loop {
            let changed = self.inner.changed.notified();
            let place = self.shelf().place(key, self.inner.limit);
            match place {
                Some(place) => return place,
                None => changed.await,
            }
        }
    }

    /// Opens the session that was counted already, in the place of another one. Goes on when nobody waits any more: a shell that nobody knows of could not be closed.
    async fn open_one(&self, endpoint: &Endpoint, in_the_way: Option<Session>) -> Result<Session, WireError> {
        let (tell, told) = oneshot::channel();
        let (sessions, endpoint) = (self.clone(), endpoint.clone());
        let host = endpoint.address();
        self.inner.tasks.spawn(async move {
            if let Some(session) = in_the_way {
                session.close().await;
            }
            let opened = Session::open(&endpoint).await;
            if opened.is_err() {
                sessions.count_off();
            }
            if let Err(Ok(unwanted)) = tell.send(opened) {
                sessions.say_goodbye(unwanted).await;
            }
        });
        told.await.unwrap_or_else(|_| {
            self.count_off();
            Err(WireError::NotSent { host, why: "opening the session failed".to_owned() })
        })
    }

    /// Closes the sessions that nobody uses and those that come back, and waits for what is under way. No new ones are given out.
    pub async fn close(&self) {
        self.inner.stop.cancel();
        self.inner.slots.close();
        while let Some(session) = self.take_oldest() {
            self.say_goodbye(session).await;
        }
        self.inner.tasks.close();
        self.inner.tasks.wait().await;
    }

    /// How many sessions are open.
    #[cfg(test)]
    pub(super) fn open(&self) -> usize {
        self.shelf().open
    }

    fn put_back(&self, key: String, session: Session) {
        let attended = {
            let mut shelf = self.shelf();
            shelf.idle.entry(key).or_default().push_back(Idle { session, since: Instant::now() });
            std::mem::replace(&mut shelf.attended, true)
        };
        self.inner.changed.notify_waiters();
        if !attended {
            let sessions = self.clone();
            self.inner.tasks.spawn(async move { sessions.attend().await });
        }
    }

    /// Closes what gets old, as long as there is something on the shelf.
    async fn attend(&self) {
        while let Some(age) = self.age_of_oldest() {
            if let Some(rest) = IDLE.checked_sub(age) {
                let slept = self.inner.stop.run_until_cancelled(tokio::time::sleep(rest)).await;
                if slept.is_none() {
                    return;
                }
            } else if let Some(session) = self.take_oldest() {
                self.say_goodbye(session).await;
            }
        }
    }

    /// `None` when the shelf is empty, which from then on nobody attends.
    fn age_of_oldest(&self) -> Option<Duration> {
        let mut shelf = self.shelf();
        let oldest = shelf.oldest();
        shelf.attended = oldest.is_some();
        oldest.map(|since| since.elapsed())
    }

    async fn say_goodbye(&self, session: Session) {
        session.close().await;
        self.count_off();
    }

    fn count_off(&self) {
        self.shelf().open -= 1;
        self.inner.changed.notify_waiters();
    }

    fn take_oldest(&self) -> Option<Session> {
        self.shelf().take_oldest()
    }

    /// Says goodbye in the background.
    fn dismiss(&self, session: Session) {
        let sessions = self.clone();
        match Handle::try_current() {
            Ok(runtime) => {
                self.inner.tasks.spawn_on(async move { sessions.say_goodbye(session).await }, &runtime);
            }
            // The program ends; the server drops the session when it has been idle.
            Err(_) => self.count_off(),
        }
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.inner.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").field("limit", &self.inner.limit).field("open", &self.shelf().open).finish()
    }
}

/// Where a session comes from.
enum Place {
    /// It is there.
    Warm(Session),
    /// One more may be opened; it is counted already.
    Free,
    /// One may be opened when this one is closed, whose count it takes over.
    Taken(Session),
}

impl Shelf {
    fn place(&mut self, key: &str, limit: usize) -> Option<Place> {
        if let Some(warm) = self.take(key) {
            return Some(Place::Warm(warm));
        }
        if self.open < limit {
            self.open += 1;
            return Some(Place::Free);
        }
        self.take_oldest().map(Place::Taken)
    }

    /// The one used last: the likeliest to be alive.
    fn take(&mut self, key: &str) -> Option<Session> {
        let found = self.idle.get_mut(key)?.pop_back()?;
        self.tidy();
        Some(found.session)
    }

    fn take_oldest(&mut self) -> Option<Session> {
        let oldest = self.oldest()?;
        let shelf = self.idle.values_mut().find(|idle| idle.front().is_some_and(|i| i.since == oldest))?;
        let found = shelf.pop_front()?;
        self.tidy();
        Some(found.session)
    }

    fn oldest(&self) -> Option<Instant> {
        self.idle.values().filter_map(|idle| idle.front().map(|i| i.since)).min()
    }

    fn tidy(&mut self) {
        self.idle.retain(|_, idle| !idle.is_empty());
    }
}

impl Deref for Lease {
    type Target = Session;

    fn deref(&self) -> &Session {
        self.session.as_ref().expect("a lease has its session until it is dropped")
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut Session {
        self.session.as_mut().expect("a lease has its session until it is dropped")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(session) = self.session.take() else { return };
        if session.is_good() && !self.sessions.inner.stop.is_cancelled() && Handle::try_current().is_ok() {
            self.sessions.put_back(std::mem::take(&mut self.key), session);
        } else {
            self.sessions.dismiss(session);
        }
    }
}
