//! A database of its own for every world: a SQLite file, or one on the PostgreSQL server that `TEST_POSTGRES_URL` names.

use std::env;

use db::{Db, Kind};
use domain::{Digest, RenewalId};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection, SqliteConnection};
use tempfile::TempDir;
use uuid::Uuid;

pub(crate) struct Database {
    url: String,
    place: Place,
}

enum Place {
    Folder { _folder: TempDir },
    Server { url: String, name: String },
}

impl Database {
    /// Makes one, with the schema in it. There must be a server if it is to be on PostgreSQL.
    pub(crate) async fn new(kind: Kind) -> Self {
        let database = match kind {
            Kind::Postgres => Self::on_server(server().unwrap()).await,
            Kind::Sqlite => Self::in_folder(),
        };
        let db = database.open().await;
        db.migrate().await.unwrap();
        db.close().await;
        database
    }

    fn in_folder() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            url: format!("sqlite:{}", folder.path().join("rekey.db").display()),
            place: Place::Folder { _folder: folder },
        }
    }

    async fn on_server(server: String) -> Self {
        let name = format!("rekey_{}", Uuid::new_v4().simple());
        administer(&server, format!("CREATE DATABASE {name}")).await;
        let url = format!("{}/{name}", server.rsplit_once('/').unwrap().0);
        Self { url, place: Place::Server { url: server, name } }
    }

    /// A copy of it as it is now, made as an administrator makes a backup. On PostgreSQL nobody may be connected.
    pub(crate) async fn copy(&self, ours: &Db) -> Self {
        match &self.place {
            Place::Folder { .. } => {
                let copy = Self::in_folder();
                ours.back_up(copy.url.trim_start_matches("sqlite:").as_ref()).await.unwrap();
                copy
            }
            Place::Server { url: server, name: source } => {
                let name = format!("rekey_{}", Uuid::new_v4().simple());
                administer(server, format!("CREATE DATABASE {name} TEMPLATE {source}")).await;
                let url = format!("{}/{name}", server.rsplit_once('/').unwrap().0);
                Self { url, place: Place::Server { url: server.clone(), name } }
            }
        }
    }

    pub(crate) fn kind(&self) -> Kind {
        match self.place {
            Place::Folder { .. } => Kind::Sqlite,
            Place::Server { .. } => Kind::Postgres,
        }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    pub(crate) async fn open(&self) -> Db {
        Db::open(&self.url).await.unwrap()
    }

    /// Changes by hand which plan a renewal is at.
    pub(crate) async fn put_at(&self, id: RenewalId, digest: &Digest) {
        let sql = "UPDATE renewal SET plan_digest = $2 WHERE id = $1";
        match self.kind() {
            Kind::Postgres => {
                let mut connection = PgConnection::connect(&self.url).await.unwrap();
                sqlx::query(sql).bind(id).bind(digest).execute(&mut connection).await.unwrap();
                connection.close().await.unwrap();
            }
            Kind::Sqlite => {
                let mut connection = SqliteConnection::connect(&self.url).await.unwrap();
                sqlx::query(sql).bind(id).bind(digest).execute(&mut connection).await.unwrap();
                connection.close().await.unwrap();
            }
        }
    }

    /// From now on it takes no snapshot, whoever brings one how often.
    pub(crate) async fn refuse_snapshots(&self) {
        self.run(match self.kind() {
            Kind::Postgres => "ALTER TABLE snapshot ADD CONSTRAINT refused CHECK (false) NOT VALID",
            Kind::Sqlite => {
                "CREATE TRIGGER refused BEFORE INSERT ON snapshot BEGIN SELECT RAISE(ABORT, 'refused'); END"
            }
        })
        .await;
    }

    /// It takes them again.
    pub(crate) async fn take_snapshots(&self) {
        self.run(match self.kind() {
            Kind::Postgres => "ALTER TABLE snapshot DROP CONSTRAINT refused",
            Kind::Sqlite => "DROP TRIGGER refused",
        })
        .await;
    }

    async fn run(&self, sql: &'static str) {
        match self.kind() {
            Kind::Postgres => {
                let mut connection = PgConnection::connect(&self.url).await.unwrap();
                connection.execute(sql).await.unwrap();
                connection.close().await.unwrap();
            }
            Kind::Sqlite => {
                let mut connection = SqliteConnection::connect(&self.url).await.unwrap();
                connection.execute(sql).await.unwrap();
                connection.close().await.unwrap();
            }
        }
    }

    /// Takes it away, whoever still has it open.
    pub(crate) async fn remove(self) {
        if let Place::Server { url, name } = self.place {
            administer(&url, format!("DROP DATABASE {name} WITH (FORCE)")).await;
        }
    }
}

/// The kinds that there are here.
pub(crate) fn kinds() -> Vec<Kind> {
    [Kind::Sqlite].into_iter().chain(server().map(|_| Kind::Postgres)).collect()
}

/// Where databases can be made on PostgreSQL, if anywhere.
pub(crate) fn server() -> Option<String> {
    env::var("TEST_POSTGRES_URL").ok()
}

async fn administer(server: &str, statement: String) {
    let mut connection = PgConnection::connect(server).await.unwrap();
    connection.execute(AssertSqlSafe(statement)).await.unwrap();
    connection.close().await.unwrap();
}
