//! One cluster per process, one database and one slot per test.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use rowcast_embedded::{Cluster, Options};
use rowcast_model::{Lsn, RowChange, SourceEvent, Tuple, Value, WalItem};
use rowcast_source::{
    AckHandle, ConnInfo, Source, SourceConfig, SourceError, SourceMetrics, SourceStatus,
};
use tokio::sync::watch;
use tokio_postgres::Client;

/// Nothing that is waited for takes longer, unless it never comes.
pub const DEADLINE: Duration = Duration::from_secs(30);
/// Needs quotes, as odd names do.
pub const PUBLICATION: &str = "Odd \"Publication\"";

pub fn options() -> Options {
    let major = std::env::var("ROWCAST_TEST_PG").ok();
    Options {
        major: major.and_then(|text| text.parse().ok()),
        ..Options::default()
    }
}

pub fn cluster(settings: &[(&str, &str)]) -> Cluster {
    let options = settings
        .iter()
        .fold(options(), |options, (name, value)| options.set(name, value));
    Cluster::start(options).unwrap()
}

fn shared() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        cluster(&[
            ("max_replication_slots", "40"),
            ("max_wal_senders", "40"),
            ("max_connections", "200"),
        ])
    })
}

/// A database with the migrations and a publication of all its tables.
pub struct World {
    pub sql: Client,
    pub info: ConnInfo,
    pub url: String,
    pub slot: String,
}

impl World {
    pub async fn new() -> World {
        World::on(shared()).await
    }

    pub async fn on(cluster: &Cluster) -> World {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("source_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let admin = ConnInfo::parse(&cluster.url("postgres"), None).unwrap();
        let admin = admin.connect("test").await.unwrap();
        exec(&admin, &format!("CREATE DATABASE {name}")).await;
        let url = cluster.url(&name);
        let info = ConnInfo::parse(&url, None).unwrap();
        let sql = info.connect("test").await.unwrap();
        exec(&sql, "SET client_min_messages = error").await;
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../sql");
        let mut files: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|end| end == "sql"))
            .collect();
        files.sort();
        for file in files {
            exec(&sql, &std::fs::read_to_string(file).unwrap()).await;
        }
        let quoted = PUBLICATION.replace('"', "\"\"");
        exec(
            &sql,
            &format!("CREATE PUBLICATION \"{quoted}\" FOR ALL TABLES WITH (publish_via_partition_root = true)"),
        )
        .await;
        World {
            sql,
            info,
            url,
            slot: name,
        }
    }

    pub async fn exec(&self, sql: &str) {
        exec(&self.sql, sql).await;
    }

    pub async fn text(&self, sql: &str) -> String {
        text(&self.sql, sql).await
    }

    pub fn config(&self) -> SourceConfig {
        SourceConfig {
            replication: self.info.clone(),
            sql: self.info.clone(),
            slot: self.slot.clone(),
            publication: PUBLICATION.into(),
            status_interval: Duration::from_millis(200),
            silence_limit: Duration::from_secs(9),
            max_message_bytes: 64 << 20,
            window: rowcast_source::Window::NOTHING,
        }
    }

    pub fn source(&self) -> Stream {
        Stream::new(self.config())
    }

    /// A source that has started.
    pub async fn started(&self) -> Stream {
        let mut source = self.source();
        source.start().await;
        source
    }

    /// How far the slot was told.
    pub async fn confirmed(&self) -> Lsn {
        let query = format!(
            "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = '{}'",
            self.slot
        );
        self.text(&query).await.parse().unwrap_or(Lsn::ZERO)
    }

    /// Ends the process that sends to our slot.
    pub async fn terminate(&self) {
        let query = format!(
            "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '{}'",
            self.slot
        );
        self.text(&query).await;
    }
}

pub async fn exec(sql: &Client, statement: &str) {
    if let Err(error) = sql.batch_execute(statement).await {
        let text: String = statement.chars().take(300).collect();
        panic!("{error:?}\nin: {text}");
    }
}

/// The first column of the first row.
pub async fn text(sql: &Client, query: &str) -> String {
    let rows = sql.simple_query(query).await.unwrap();
    let text = rows.iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("").to_owned()),
        _ => None,
    });
    text.unwrap_or_default()
}

/// Waits for a condition.
pub async fn until(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !check().await {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A source and what it said of itself.
pub struct Stream {
    pub source: Source,
    pub ack: AckHandle,
    pub status: watch::Receiver<SourceStatus>,
}

impl Stream {
    pub fn new(config: SourceConfig) -> Stream {
        let source = Source::new(config, SourceMetrics::default());
        Stream {
            ack: source.ack_handle(),
            status: source.status(),
            source,
        }
    }

    pub async fn try_next(&mut self) -> Result<SourceEvent, SourceError> {
        tokio::time::timeout(DEADLINE, self.source.next())
            .await
            .expect("the source says nothing")
    }

    pub async fn next(&mut self) -> SourceEvent {
        self.try_next().await.unwrap()
    }

    /// The first event: the start; returns the epoch and the reason for a new one.
    pub async fn start(&mut self) -> (u32, Option<Arc<str>>) {
        match self.next().await {
            SourceEvent::Start { epoch, reason } => (epoch.0, reason),
            other => panic!("{other:?}"),
        }
    }

    /// The next event that is not news about positions.
    pub async fn news(&mut self) -> SourceEvent {
        loop {
            match self.next().await {
                SourceEvent::Idle { .. } => {}
                other => return other,
            }
        }
    }

    /// Reads until another start.
    pub async fn restart(&mut self) -> (u32, Option<Arc<str>>) {
        loop {
            if let SourceEvent::Start { epoch, reason } = self.next().await {
                return (epoch.0, reason);
            }
        }
    }

    /// The items of the next transaction that has any, and its end.
    pub async fn transaction(&mut self) -> (Vec<WalItem>, Lsn) {
        loop {
            let SourceEvent::Begin(header) = self.news().await else {
                panic!("no transaction begins");
            };
            let mut items = Vec::new();
            loop {
                match self.next().await {
                    SourceEvent::Item { item, .. } => items.push(item),
                    SourceEvent::Commit { end_lsn } => {
                        assert!(end_lsn > header.commit_lsn);
                        if items.is_empty() {
                            break;
                        }
                        return (items, end_lsn);
                    }
                    other => panic!("{other:?} inside a transaction"),
                }
            }
        }
    }

    /// The rows changed by the next transaction.
    pub async fn changes(&mut self) -> Vec<RowChange> {
        let (items, _) = self.transaction().await;
        items
            .into_iter()
            .map(|item| match item {
                WalItem::Change(change) => change,
                other => panic!("{other:?}"),
            })
            .collect()
    }
}

/// `null`, `unchanged` or the text.
pub fn shown(value: &Value) -> &str {
    match value {
        Value::Null => "null",
        Value::Unchanged => "unchanged",
        Value::Text(text) => std::str::from_utf8(text).unwrap(),
    }
}

pub fn row(tuple: &Tuple) -> Vec<&str> {
    tuple.0.iter().map(shown).collect()
}
