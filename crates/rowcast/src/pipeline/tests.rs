//! The whole way of a row, from a real Postgres to a sink in memory.

use std::{io, io::IoSlice, time::Instant};

use parking_lot::Mutex;
use prometheus_client::registry::Registry;
use rowcast_embedded::{Cluster, Options};
use rowcast_hub::{HubLimits, Identity, Sink, Subscription};
use rowcast_source::{SourceConfig, SourceMetrics};

use super::*;
use crate::{demo::actions::SCHEMA, migrations};

#[derive(Default)]
struct Memory(Mutex<Vec<u8>>);

impl Sink for Memory {
    fn try_write_vectored(&self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut bytes = self.0.lock();
        let before = bytes.len();
        parts.iter().for_each(|part| bytes.extend_from_slice(part));
        Ok(bytes.len() - before)
    }
}

impl Memory {
    async fn until(&self, words: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let text = String::from_utf8_lossy(&self.0.lock()).into_owned();
            if text.contains(words) {
                return;
            }
            assert!(Instant::now() < deadline, "no `{words}` in {text}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

#[tokio::test]
async fn a_row_travels_from_the_log_to_the_sink_of_its_organization() {
    let cluster = Cluster::start(Options::default()).unwrap();
    let sql = ConnInfo::parse(&cluster.url("postgres"), None).unwrap();
    let mut client = sql.connect("test").await.unwrap();
    migrations::apply(&mut client, |_, _| {}).await.unwrap();
    client.batch_execute(SCHEMA).await.unwrap();

    let mut registry = Registry::default();
    let hub = Arc::new(Hub::new(HubLimits::default(), &mut registry));
    let config = SourceConfig {
        replication: sql.clone(),
        sql: sql.clone(),
        slot: "rowcast".into(),
        publication: "rowcast".into(),
        status_interval: Duration::from_secs(1),
        silence_limit: Duration::from_secs(9),
        max_message_bytes: 1 << 26,
        window: rowcast_source::Window::NOTHING,
    };
    let (progress, stop) = (Progress::new(), CancellationToken::new());
    let threads = start(Parts {
        source: Source::new(config, SourceMetrics::new(&mut registry)),
        sql,
        limits: Limits::default(),
        queue_bytes: 1 << 20,
        barrier: true,
        hub: hub.clone(),
        progress: progress.clone(),
        seen: Arc::default(),
        metrics: PipelineMetrics::new(&mut registry),
        stop: stop.clone(),
    })
    .unwrap();
    let mut watching = progress.watch();
    while !progress.is_current() {
        watching.changed().await.unwrap();
    }

    let sink = |user: &str, channel: &str| {
        let sink = Arc::new(Memory::default());
        let connection = hub.connect(Identity::session(user), sink.clone());
        let wanted = Subscription::to(channel.parse().unwrap());
        hub.subscribe(&connection, wanted).unwrap();
        (sink, connection)
    };
    let (alice, _first) = sink("alice", "org:acme");
    let (greta, _second) = sink("greta", "org:globex");
    let insert = "INSERT INTO demo.tasks (project_id, title)
                  SELECT id, 'for ' || organization_id FROM demo.projects";
    client.batch_execute(insert).await.unwrap();
    alice.until("for acme").await;
    greta.until("for globex").await;
    client
        .batch_execute("DELETE FROM demo.tasks")
        .await
        .unwrap();
    alice.until("DELETE").await;
    greta.until("DELETE").await;
    assert!(!String::from_utf8_lossy(&alice.0.lock()).contains("for globex"));
    assert!(!String::from_utf8_lossy(&greta.0.lock()).contains("for acme"));

    stop.cancel();
    for thread in threads {
        thread.join().unwrap().unwrap();
    }
}
