//! Rows per second through the source alone, on a backlog in a private cluster:
//! `cargo run --release -p rowcast-source --example drain [rows]`.

#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::time::{Duration, Instant};

use rowcast_embedded::{Cluster, Options};
use rowcast_model::SourceEvent;
use rowcast_source::{ConnInfo, Source, SourceConfig, SourceMetrics};

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let rows: u64 = std::env::args()
        .nth(1)
        .map_or(1_000_000, |text| text.parse().unwrap());
    let cluster = Cluster::start(Options::default()).unwrap();
    let info = ConnInfo::parse(&cluster.socket_url("postgres"), None).unwrap();
    let sql = info.connect("drain").await.unwrap();
    sql.batch_execute(
        "CREATE SCHEMA rowcast; CREATE TABLE rowcast.tables (x int);
         CREATE FUNCTION rowcast.note_slot(text, boolean, text, integer) RETURNS int LANGUAGE sql AS 'SELECT 1';
         CREATE TABLE t (id bigint PRIMARY KEY, a text, b text, c text, d timestamptz, e numeric, f bool, g text, h int, i int);
         CREATE PUBLICATION p FOR TABLE t",
    )
    .await
    .unwrap();
    let config = |slot: &str| SourceConfig {
        replication: info.clone(),
        sql: info.clone(),
        slot: slot.into(),
        publication: "p".into(),
        status_interval: Duration::from_secs(1),
        silence_limit: Duration::from_secs(9),
        max_message_bytes: 1 << 26,
        window: rowcast_source::Window::NOTHING,
    };
    let mut slots = Vec::new();
    for slot in ["a", "b", "c"] {
        let mut source = Source::new(config(slot), SourceMetrics::default());
        source.next().await.unwrap();
        source.close().await;
        slots.push(slot);
    }
    let insert = "INSERT INTO t SELECT n, 'some text', 'organization_12', 'more of it', now(), n, true, 'x', 1, 2
                  FROM generate_series($1::bigint, $1::bigint + 999) n";
    for first in (0..rows / 1000).map(|n| (n * 1000) as i64) {
        sql.execute(insert, &[&first]).await.unwrap();
    }
    sql.batch_execute("CHECKPOINT").await.unwrap();
    for slot in slots {
        let mut source = Source::new(config(slot), SourceMetrics::default());
        let (mut seen, mut begin) = (0, Instant::now());
        while seen < rows {
            match source.next().await.unwrap() {
                SourceEvent::Start { .. } => begin = Instant::now(),
                SourceEvent::Item { .. } => seen += 1,
                SourceEvent::Commit { end_lsn } => source.ack_handle().ack(end_lsn),
                _ => {}
            }
        }
        let rate = seen as f64 / begin.elapsed().as_secs_f64();
        println!("{rate:.0} rows/s");
        source.close().await;
    }
}
