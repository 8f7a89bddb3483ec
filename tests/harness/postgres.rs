//! Postgres for the tests: one private cluster per process, a fresh database per test.
//!
//! Under `cargo test` all tests share the process and so the cluster; under nextest every test is a
//! process of its own. Tests that need special settings start their own cluster.

use std::{
    ops::Deref,
    sync::{
        Mutex, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
};

use rowcast_embedded::{Cluster, Options};
use tokio_postgres::NoTls;

/// The major version that `ROWCAST_TEST_PG` asks for; the newest one without it.
pub fn major() -> Option<u32> {
    std::env::var("ROWCAST_TEST_PG")
        .ok()
        .filter(|text| !text.is_empty())
        .map(|text| {
            text.parse()
                .expect("ROWCAST_TEST_PG is a major version such as 15")
        })
}

/// Starts a cluster of its own, with further lines of `postgresql.conf`.
pub fn own_cluster(settings: &[(&str, &str)]) -> Cluster {
    let options = settings.iter().fold(
        Options {
            major: major(),
            ..Options::default()
        }
        // Compiling a query takes longer than any of a test does.
        .set("jit", "off"),
        |options, (name, value)| options.set(name, value),
    );
    Cluster::start(options).unwrap_or_else(|error| panic!("no Postgres to test with: {error}"))
}

/// The cluster that all tests of this process share. It ends with the process.
pub fn shared_cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        own_cluster(&[
            ("max_replication_slots", "60"),
            ("max_wal_senders", "60"),
            ("max_connections", "300"),
        ])
    })
}

/// A database of one test.
#[derive(Clone, Debug)]
pub struct Database {
    pub name: String,
    pub url: String,
    /// The address with `{db}` for the name.
    admin: String,
}

impl Database {
    /// A new, empty database in the shared cluster.
    pub async fn fresh() -> Database {
        Database::clear_finished().await;
        Database::fresh_in(shared_cluster()).await
    }

    /// A new, empty database in `cluster`.
    pub async fn fresh_in(cluster: &Cluster) -> Database {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("t{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let admin = cluster.url("postgres");
        let database = Database {
            url: cluster.url(&name),
            admin,
            name,
        };
        connect(&database.admin)
            .await
            .exec(&format!("CREATE DATABASE {}", database.name))
            .await;
        database
    }

    pub async fn connect(&self) -> Sql {
        connect(&self.url).await
    }

    /// The slot of this database's service; slots are shared by the whole cluster.
    pub fn slot(&self) -> String {
        format!("rowcast_{}", self.name)
    }

    /// Lets the next test take the database and its slot away: under `cargo test` all tests share one
    /// cluster, and slots are few.
    pub fn finished(&self) {
        FINISHED.lock().unwrap().push(self.clone());
    }

    async fn clear_finished() {
        let finished = std::mem::take(&mut *FINISHED.lock().unwrap());
        for database in finished {
            // A cluster of its own may be gone already.
            let Ok((client, connection)) = tokio_postgres::connect(&database.admin, NoTls).await
            else {
                continue;
            };
            tokio::spawn(connection);
            let slots = format!(
                "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = '{}'",
                database.name
            );
            let drop = format!("DROP DATABASE {} WITH (FORCE)", database.name);
            // Its walsender may need a moment to notice that the service is gone: then next time.
            if client.batch_execute(&slots).await.is_err()
                || client.batch_execute(&drop).await.is_err()
            {
                FINISHED.lock().unwrap().push(database);
            }
        }
    }
}

static FINISHED: Mutex<Vec<Database>> = Mutex::new(Vec::new());

/// A connection whose failures end the test with their text.
pub struct Sql(tokio_postgres::Client);

impl Deref for Sql {
    type Target = tokio_postgres::Client;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl Sql {
    /// Runs one or more statements.
    pub async fn exec(&self, sql: &str) {
        if let Err(error) = self.0.batch_execute(sql).await {
            let said = error
                .as_db_error()
                .map(|e| format!("{e} ({:?} {:?})", e.detail(), e.where_()));
            panic!("{}\nin: {sql}", said.unwrap_or_else(|| error.to_string()));
        }
    }

    /// The SQLSTATE and message with which a statement fails.
    pub async fn fails(&self, sql: &str) -> (String, String) {
        let error = self.0.batch_execute(sql).await.expect_err(sql);
        let error = error
            .as_db_error()
            .unwrap_or_else(|| panic!("{error}: {sql}"));
        (error.code().code().to_owned(), error.message().to_owned())
    }

    /// The first column of the first row, as text.
    pub async fn text(&self, sql: &str) -> String {
        let rows = self
            .0
            .simple_query(sql)
            .await
            .unwrap_or_else(|error| panic!("{error:?}: {sql}"));
        rows.iter()
            .find_map(|message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => {
                    Some(row.get(0).unwrap_or("").to_owned())
                }
                _ => None,
            })
            .unwrap_or_default()
    }

    /// Waits until a query answers `t`.
    pub async fn until_true(&self, what: &str, sql: &str) {
        super::until(what, async || self.text(sql).await == "t").await;
    }
}

/// Connects with times in UTC, as everything in Rowcast speaks of them.
pub async fn connect(url: &str) -> Sql {
    let (client, connection) = tokio_postgres::connect(url, NoTls)
        .await
        .unwrap_or_else(|error| panic!("cannot connect to {url}: {error:?}"));
    tokio::spawn(connection);
    let sql = Sql(client);
    sql.exec("SET timezone = 'UTC'").await;
    sql
}
