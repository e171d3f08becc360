//! Starting and stopping the roles: API, worker, or both in one process.

use std::{
    fs::{DirBuilder, File, TryLockError},
    net::{SocketAddr, TcpListener},
    path::Path,
    sync::Arc,
    time::Instant,
};

use anyhow::{Context as _, bail, ensure};
use api::{State, Tokens};
use db::{Db, Schema};
use domain::Timeline;
use secrecy::ExposeSecret as _;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};
use worker::{
    Managed, Worker,
    connectors::cloud::{Cloud, Way},
    outbox::Outbox,
    sealing::Sealer,
    tickets::Tickets,
};

use crate::{
    config::{Clock, Config, Configured, Database, PostgresUrl},
    secrets,
};

/// Which parts of rekey a process is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Role {
    Api,
    /// API and worker, on a database of its own if it is SQLite.
    Serve,
    Worker,
}

/// A running service.
pub(crate) struct Service {
    /// Where the API listens, if it is one.
    pub(crate) address: Option<SocketAddr>,
    tasks: TaskTracker,
    stop: CancellationToken,
    /// Held as long as the process uses its SQLite file.
    _lock: Option<File>,
}

impl Service {
    /// Opens everything and starts the role. When it returns, requests are answered.
    pub(crate) async fn start(config: &Config, role: Role) -> anyhow::Result<Self> {
        let begun = Instant::now();
        make_data_dir(config)?;
        let timeline = timeline(config).await?;
        let (db, lock) = open(config, role, timeline).await?;
        let mut service =
            Self { address: None, tasks: TaskTracker::new(), stop: CancellationToken::new(), _lock: lock };
        service.watch(db.clone());
        if role != Role::Worker {
            service.start_api(config, &db, timeline)?;
        }
        if role != Role::Api {
            service.start_worker(config, db, timeline)?;
        }
        service.tasks.close();
        info!(role = ?role, "Ready after {} ms", begun.elapsed().as_millis());
        Ok(service)
    }

    /// Keeps in touch with the database as long as the service runs.
    fn watch(&self, db: Db) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            tokio::select! {
                () = db.watch() => {}
                () = stop.cancelled() => {}
            }
        });
    }

    fn start_api(&mut self, config: &Config, db: &Db, timeline: Timeline) -> anyhow::Result<()> {
        let listener = TcpListener::bind(config.listen).with_context(|| {
            format!("cannot listen on {}: set listen in the configuration or REKEY_LISTEN to another", config.listen)
        })?;
        listener.set_nonblocking(true)?;
        self.address = Some(listener.local_addr()?);
        let organizations = config.organizations.iter().map(|c| c.managed.organization.clone()).collect();
        let state = State::new(db.clone(), organizations, tokens(config)?, timeline)
            .with_identity(config.identity.clone())
            .context("identity")?
            .with_limits(config.limits)
            .with_sources(config.sources.clone());
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            if let Err(error) = api::serve(listener, state, stop.clone()).await {
                tracing::error!("The API has ended: {error}");
                stop.cancel();
            }
        });
        Ok(())
    }

    fn start_worker(&self, config: &Config, db: Db, timeline: Timeline) -> anyhow::Result<()> {
        let seal_key = secrets::key(config.seal_key.as_ref(), &config.data_dir, "seal.key")?;
        let organizations = config.organizations.iter().map(|c| managed(c, timeline)).collect::<anyhow::Result<_>>()?;
        self.start_outbox(config, &db, timeline);
        let mut worker = Worker::new(db, timeline, instance(), Sealer::new(&seal_key), organizations);
        worker.pace = config.pace;
        worker.tickets = Tickets::new(config.ticket_systems.clone());
        let worker = Arc::new(worker);
        self.tasks.spawn(worker::tickets::run(worker.clone(), self.stop.clone()));
        self.tasks.spawn(worker::engine::run(worker, config.concurrency, self.stop.clone()));
        Ok(())
    }

    /// Tells the targets what happens, beside the steps.
    fn start_outbox(&self, config: &Config, db: &Db, timeline: Timeline) {
        let mut subscriptions = config.outbound.subscriptions.clone();
        subscriptions.extend(config.ticket_systems.iter().map(|system| system.subscription(db)));
        let mut outbox = Outbox::new(db.clone(), timeline, config.outbound.public_url.clone(), subscriptions);
        outbox.pace = config.pace;
        self.tasks.spawn(worker::outbox::run(Arc::new(outbox), self.stop.clone()));
    }

    /// Resolves when the service ends by itself.
    pub(crate) async fn ended(&self) {
        self.stop.cancelled().await;
    }

    /// Ends open requests and steps under way, then returns.
    pub(crate) async fn shut_down(self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

/// An organization as a worker takes it: its tenant is asked in the time that runs live in.
pub(crate) fn managed(configured: &Configured, timeline: Timeline) -> anyhow::Result<Managed> {
    let way = configured.cloud.clone().map(|way| Way { timeline, ..way });
    let cloud = way.map(Cloud::new).transpose().context("the way to the tenant")?;
    Ok(Managed { cloud, ..configured.managed.clone() })
}

/// The folder of keys and database: for its owner only.
fn make_data_dir(config: &Config) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    let made = DirBuilder::new().recursive(true).mode(0o700).create(&config.data_dir);
    made.with_context(|| format!("cannot make data_dir {}", config.data_dir.display()))
}

/// What mints and checks this service's tokens.
pub(crate) fn tokens(config: &Config) -> anyhow::Result<Tokens> {
    make_data_dir(config)?;
    Ok(Tokens::new(&*secrets::key(config.token_key.as_ref(), &config.data_dir, "token.key")?))
}

/// `worker:` and a name that no other process has.
fn instance() -> String {
    let mut bytes = [0; 4];
    // Only a name: without random numbers the process id tells processes of one machine apart.
    if aws_lc_rs::rand::fill(&mut bytes).is_err() {
        bytes = std::process::id().to_be_bytes();
    }
    format!("worker:{}", domain::ids::hex(&bytes))
}

async fn open(config: &Config, role: Role, timeline: Timeline) -> anyhow::Result<(Db, Option<File>)> {
    match &config.database {
        Database::Postgres(url) => {
            let db = open_postgres(url).await?;
            if role == Role::Serve {
                db.migrate().await?;
            }
            ensure!(db.is_migrated().await?, "the database's schema is not that of this version: run `rekey migrate`");
            tell_newer(&db).await?;
            Ok((db, None))
        }
        Database::Sqlite => {
            ensure!(
                role == Role::Serve,
                "SQLite serves one process: use `rekey serve`, or set database to a postgres:// URL"
            );
            let lock = lock(&config.data_dir)?;
            let db = open_sqlite(&config.data_dir).await?;
            tell_newer(&db).await?;
            // Nobody else can have a lease: those that are left are of a process that is no more.
            let now = timeline.at(db.now());
            let left = db.write(async |tx| tx.end_all_leases(now).await).await?;
            if left > 0 {
                info!("Taking up {left} steps that were under way when the service ended");
            }
            Ok((db, Some(lock)))
        }
    }
}

/// During a rolling upgrade that is so for a while.
async fn tell_newer(db: &Db) -> anyhow::Result<()> {
    if db.schema().await? == Schema::Newer {
        info!("The database's schema is newer than this version, which uses what it knows of it");
    }
    Ok(())
}

pub(crate) async fn open_postgres(url: &PostgresUrl) -> anyhow::Result<Db> {
    let db = Db::open(url.read()?.expose_secret()).await;
    db.context(
        "cannot open the database: start the server or mend the way to it, or correct `database` in the configuration",
    )
}

async fn open_sqlite(data_dir: &Path) -> anyhow::Result<Db> {
    let path = data_dir.join("rekey.db");
    keep_from_others(&path)?;
    let db = Db::open(&format!("sqlite:{}", path.display())).await;
    let db = db.with_context(|| format!("cannot open {}", path.display()))?;
    db.migrate().await?;
    Ok(db)
}

/// Sees to it that only the owner reads the record and the sealed keys, also where data_dir was made by somebody else. What SQLite lays beside the file
/// has the permissions of the file.
fn keep_from_others(database: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
    let opened = File::options().append(true).create(true).mode(0o600).open(database);
    let file = opened.with_context(|| format!("cannot open {}", database.display()))?;
    let mode = file.metadata()?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        warn!(
            "{} can be read by others (mode {mode:o}): it holds the record and sealed keys; chmod 600 keeps it for its owner",
            database.display()
        );
    }
    Ok(())
}

fn lock(data_dir: &Path) -> anyhow::Result<File> {
    let path = data_dir.join("rekey.lock");
    let file = File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            bail!("another rekey uses {}: end it, or set data_dir to another folder", data_dir.display())
        }
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

/// Brings the schema of the configured database up to date.
pub(crate) async fn migrate(config: &Config) -> anyhow::Result<Schema> {
    let (db, _lock) = match &config.database {
        Database::Postgres(url) => (open_postgres(url).await?, None),
        Database::Sqlite => {
            make_data_dir(config)?;
            let lock = lock(&config.data_dir)?;
            (open_sqlite(&config.data_dir).await?, Some(lock))
        }
    };
    Ok(db.migrate().await?)
}

/// Writes a copy of the SQLite database, for its owner only. Takes no lock: the service may run.
pub(crate) async fn back_up(config: &Config, file: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    ensure!(matches!(config.database, Database::Sqlite), "this is for SQLite: use pg_dump, as docs/operations.md says");
    let database = config.data_dir.join("rekey.db");
    ensure!(database.exists(), "there is no {}", database.display());
    let made = File::options().write(true).create_new(true).mode(0o600).open(file);
    let copy = made.with_context(|| format!("cannot make {}", file.display()))?;
    let written = async {
        let db = Db::open(&format!("sqlite:{}", database.display())).await?;
        db.back_up(file).await?;
        db.close().await;
        anyhow::Ok(copy.sync_all()?)
    };
    // Half a backup is worse than none.
    written.await.inspect_err(|_| drop(std::fs::remove_file(file))).context("cannot write the backup")
}

/// The time that runs live in: real, or that of the labs if there is nothing else.
pub(crate) async fn timeline(config: &Config) -> anyhow::Result<Timeline> {
    if config.clock == Clock::Real {
        return Ok(Timeline::real());
    }
    ensure!(!config.organizations.is_empty(), "clock is \"lab\", but there is no organization: use \"real\"");
    let mut found: Option<Timeline> = None;
    for configured in &config.organizations {
        let id = &configured.managed.organization.id;
        let Some(url) = &configured.lab else {
            bail!("clock is \"lab\", but organization {id} is not a lab: a scaled clock is refused, use \"real\"");
        };
        let told =
            ask_clock(url).await.with_context(|| format!("organization {id}: its lab does not tell the time"))?;
        ensure!(found.is_none_or(|other| other == told), "the labs' clocks differ: they must be one lab's");
        found = Some(told);
    }
    found.context("no lab told the time")
}

async fn ask_clock(lab: &str) -> anyhow::Result<Timeline> {
    let url = format!("{}/clock", lab.trim_end_matches('/'));
    let client = reqwest::Client::builder().no_proxy().build()?;
    let timeline: Timeline = client.get(&url).send().await?.error_for_status()?.json().await?;
    ensure!(timeline.scale >= 1.0 && timeline.scale <= 1_000_000.0, "its scale is {}", timeline.scale);
    Ok(timeline)
}
