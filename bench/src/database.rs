//! The PostgreSQL that all sides share, and SQL that fills its databases. In the product nobody but `db` writes SQL; here it stands in for months of
//! use.

use anyhow::Context as _;
use db::Db;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

/// A server. Every side gets databases of its own there.
#[derive(Debug)]
pub(crate) struct Server {
    url: String,
}

/// A database, gone with [`Server::drop`].
#[derive(Clone, Debug)]
pub(crate) struct Database {
    name: String,
    pub(crate) url: String,
}

impl Server {
    pub(crate) async fn new(url: &str) -> anyhow::Result<Self> {
        anyhow::ensure!(!url.is_empty(), "no PostgreSQL is named: start this by bench/run");
        let server = Self { url: url.to_owned() };
        server.version().await?;
        Ok(server)
    }

    pub(crate) async fn version(&self) -> anyhow::Result<String> {
        let mut connection = PgConnection::connect(&self.url).await.context("PostgreSQL does not answer")?;
        let version: String = sqlx::query_scalar("SHOW server_version").fetch_one(&mut connection).await?;
        connection.close().await?;
        Ok(version)
    }

    /// An empty database. Everything that came before is on the disk then: nobody pays for what others wrote.
    pub(crate) async fn create(&self, name: &str) -> anyhow::Result<Database> {
        let (base, _) = self.url.rsplit_once('/').context("the URL names a database")?;
        let database = Database { name: format!("bench_{name}"), url: format!("{base}/bench_{name}") };
        self.drop(&database).await?;
        self.run(format!("CREATE DATABASE {}", database.name)).await?;
        self.settle().await?;
        Ok(database)
    }

    /// An empty database of rekey.
    pub(crate) async fn create_ours(&self, name: &str) -> anyhow::Result<(Database, Db)> {
        let database = self.create(name).await?;
        let db = Db::open(&database.url).await?;
        db.migrate().await?;
        Ok((database, db))
    }

    /// Writes everything to the disk that is to be written.
    pub(crate) async fn settle(&self) -> anyhow::Result<()> {
        self.run("CHECKPOINT".to_owned()).await
    }

    pub(crate) async fn drop(&self, database: &Database) -> anyhow::Result<()> {
        self.run(format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", database.name)).await
    }

    async fn run(&self, statement: String) -> anyhow::Result<()> {
        let mut connection = PgConnection::connect(&self.url).await?;
        connection.execute(AssertSqlSafe(statement)).await?;
        connection.close().await?;
        Ok(())
    }
}

impl Database {
    /// Runs statements on one connection, each as a transaction of its own.
    pub(crate) async fn run(&self, statements: &str) -> anyhow::Result<()> {
        let mut connection = PgConnection::connect(&self.url).await?;
        for statement in statements.split(";\n").map(str::trim).filter(|statement| !statement.is_empty()) {
            let done = connection.execute(AssertSqlSafe(statement.to_owned())).await;
            done.with_context(|| statement.to_owned())?;
        }
        connection.close().await?;
        Ok(())
    }

    pub(crate) async fn number(&self, query: &str) -> anyhow::Result<i64> {
        let mut connection = PgConnection::connect(&self.url).await?;
        let number = sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_one(&mut connection).await;
        connection.close().await?;
        number.with_context(|| query.to_owned())
    }

    pub(crate) async fn texts(&self, query: &str) -> anyhow::Result<Vec<String>> {
        let mut connection = PgConnection::connect(&self.url).await?;
        let texts = sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_all(&mut connection).await;
        connection.close().await?;
        texts.with_context(|| query.to_owned())
    }
}
