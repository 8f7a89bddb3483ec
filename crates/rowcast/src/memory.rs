//! How much memory the process may take: the sum of all budgets, as a figure that an operator can plan with.
//!
//! Owns the sum. Promises that every part of the process that a client, the log or the number of sockets can
//! fill is a line of it; `tests/promises/promise_11_ceiling.rs` holds the process to it.

use std::fs;

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric},
    metrics::gauge::ConstGauge,
    registry::Unit,
};
use rowcast_gateway::{
    COUNTED_BYTES, COUNTED_USERS, GATE_BYTES, HEAD_BYTES, INTERNAL_CONNECTIONS, MOST_PLANS,
    SENDER_BYTES, WAITING_TURNINGS,
};

use crate::config::Config;

/// Program, threads, TLS, catalog, what is staged for one batch, connections to the database.
const PROGRAM: u64 = 64 << 20;
/// A socket with its two first channels, its place in every index, and the buffer it is read into.
const SOCKET: u64 = 8 << 10;
/// A request that has not ended: its head, and what the HTTP server keeps beside it.
const REQUEST: u64 = 2 * HEAD_BYTES as u64;

/// What is remembered of an organization's plan.
const PLAN: usize = 1 << 10;
/// Somebody who came or left, besides his state.
const TURNING: u64 = 512;

/// One line of the sum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// What it is for.
    pub what: &'static str,
    /// The settings it comes from.
    pub settings: &'static str,
    /// Bytes.
    pub bytes: u64,
}

/// Sockets and HTTP connections that can be open at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Places {
    /// Sockets.
    pub sockets: usize,
    /// HTTP connections that are no sockets.
    pub requests: usize,
}

/// The lines of the sum, the largest that each can become.
pub fn parts(config: &Config, places: Places) -> Vec<Part> {
    let part = |what, settings, bytes| Part {
        what,
        settings,
        bytes,
    };
    let (limits, replication) = (&config.limits, &config.replication);
    let parts = vec![
        part("the program", "", PROGRAM),
        part(
            "past of all organizations",
            "history.bytes",
            config.history.bytes.0,
        ),
        part(
            "answers about what changed before that (kept, and the next one)",
            "history.invalidations_bytes",
            config.history.invalidations_bytes.0.saturating_mul(2),
        ),
        part(
            "what sockets have not taken",
            "limits.outboxes_bytes",
            limits.outboxes_bytes.0,
        ),
        part(
            "transaction being routed, and what is handed on of it",
            "replication.transaction_bytes, replication.batch_bytes",
            replication
                .transaction_bytes
                .0
                .saturating_add(replication.batch_bytes.0.saturating_mul(2)),
        ),
        part(
            "between reader and sockets",
            "replication.queue_bytes",
            replication.queue_bytes.0,
        ),
        part(
            "messages of clients that are not whole",
            "limits.incoming_bytes (a message in parts is kept twice for a moment)",
            limits.incoming_bytes.0.saturating_mul(2),
        ),
        part(
            "bodies of POST /broadcast, and what they become",
            "limits.broadcasts_bytes, five times",
            limits.broadcasts_bytes.0.saturating_mul(5),
        ),
        part(
            "client events that have no answer yet, and what they become",
            "limits.client_events_bytes, twice",
            limits.client_events_bytes.0.saturating_mul(2),
        ),
        part(
            "users whose client events are counted",
            "100,000 at a time",
            (COUNTED_USERS * COUNTED_BYTES) as u64,
        ),
        part(
            "claims of tokens",
            "application.claims_bytes",
            config.application.claims_bytes.0,
        ),
        part(
            "questions to the application, as texts and as requests",
            "application.questions_bytes, four times",
            config.application.questions_bytes.0.saturating_mul(4),
        ),
        part(
            "answers of the application",
            "application.answer_bytes, three times for each of application.connections and webhooks.<name>.connections",
            answers(config),
        ),
        part(
            "answers kept for idempotency keys",
            "limits.idempotency_bytes",
            limits.idempotency_bytes.0,
        ),
        part(
            "table lists and filters",
            "limits.subscriptions_bytes",
            limits.subscriptions_bytes.0,
        ),
        part(
            "counts and limits of users and organizations",
            "at most 65,536 of each are counted, 16,384 plans remembered, 16,384 senders without a socket",
            (GATE_BYTES + SENDER_BYTES + MOST_PLANS * PLAN) as u64,
        ),
        part(
            "members of channels",
            "presence.bytes",
            config.presence.bytes.0,
        ),
        part(
            "comings and goings that wait for their handlers",
            "4,096 with a state each (presence.state_bytes)",
            TURNING.saturating_add(config.presence.state_bytes.0) * WAITING_TURNINGS as u64,
        ),
        part(
            "sockets",
            "limits.connections, `ulimit -n`; 8 KiB each",
            SOCKET.saturating_mul(places.sockets as u64),
        ),
        part(
            "requests that are no sockets yet",
            "`ulimit -n`, at most 2,000 and 64 on the internal port; 32 KiB each",
            REQUEST.saturating_mul((places.requests + INTERNAL_CONNECTIONS) as u64),
        ),
    ];
    let sum = parts.iter().map(|part| part.bytes).sum::<u64>();
    let mut parts = parts;
    parts.push(part(
        "what the allocator keeps: a quarter of all that",
        "",
        sum / 4,
    ));
    parts
}

/// What all that the application can answer at a time takes: read, as text, and as what is made of it.
fn answers(config: &Config) -> u64 {
    let webhooks = config.webhooks.values().map(|webhook| webhook.connections);
    let at_once = u64::from(config.application.connections) + webhooks.map(u64::from).sum::<u64>();
    let most = config.application.answer_bytes.0.saturating_mul(3);
    most.saturating_mul(at_once)
}

/// The process stays below this.
pub fn ceiling(config: &Config, places: Places) -> u64 {
    parts(config, places).iter().map(|part| part.bytes).sum()
}

/// The sum as a table, for people.
pub fn table(config: &Config, places: Places) -> String {
    let mib = |bytes: u64| format!("{:>8.1} MiB", bytes as f64 / f64::from(1 << 20));
    let mut out = String::new();
    for Part {
        what,
        settings,
        bytes,
    } in parts(config, places)
    {
        let from = if settings.is_empty() { "" } else { "  # " };
        out.push_str(&format!("{}  {what}{from}{settings}\n", mib(bytes)));
    }
    let sum = mib(ceiling(config, places));
    out.push_str(&format!("{sum}  the process stays below this\n"));
    out
}

/// Memory that this process, or its container, may use at most; `None`: not known.
pub fn available() -> Option<u64> {
    let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let meminfo = fs::read_to_string("/proc/meminfo").ok();
    let total = meminfo.and_then(|text| {
        let line = text.lines().find(|line| line.starts_with("MemTotal:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    });
    [
        number("/sys/fs/cgroup/memory.max"),
        number("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        total.map(|kib| kib.saturating_mul(1024)),
    ]
    .into_iter()
    .flatten()
    .min()
}

/// Resident memory of this process, as the system sees it.
fn resident() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages.saturating_mul(rustix::param::page_size() as u64))
}

/// Exports the ceiling and what is in use, read when somebody asks.
#[derive(Debug)]
pub struct MemoryMetrics {
    /// See [`ceiling`].
    pub ceiling: u64,
}

impl Collector for MemoryMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let figures = [
            (
                "memory_ceiling",
                "The process stays below this",
                Some(self.ceiling),
            ),
            (
                "memory_resident",
                "Memory that the process has from the system",
                resident(),
            ),
        ];
        for (name, help, bytes) in figures {
            let Some(bytes) = bytes else { continue };
            let gauge = ConstGauge::new(i64::try_from(bytes).unwrap_or(i64::MAX));
            let metric =
                encoder.encode_descriptor(name, help, Some(&Unit::Bytes), gauge.metric_type())?;
            gauge.encode(metric)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use serde_json::json;

    const PLACES: Places = Places {
        sockets: 1000,
        requests: 100,
    };

    /// Every setting of bytes that something is kept by is in the sum; those that are a part of another, or
    /// are of the server's disk, are not.
    #[test]
    fn every_budget_is_a_line() {
        let part_of_another = [
            "history.organization_bytes",
            "limits.broadcast_bytes",
            "limits.message_bytes",
            "limits.outbox_bytes",
            "limits.subscription_bytes",
        ];
        let on_disk = ["history.wal_bytes", "replication.wal_limit"];
        let a_second = ["presence.rate"];
        let sum = ceiling(&Config::default(), PLACES);
        for entry in Config::entries() {
            if !entry.kind.starts_with("bytes") {
                continue;
            }
            let key = entry.key();
            let mut config = Config::default();
            config.set(&key, &json!("3 GiB")).unwrap();
            let counted = ceiling(&config, PLACES) > sum;
            let other = part_of_another.contains(&&*key) || on_disk.contains(&&*key);
            let other = other || a_second.contains(&&*key);
            assert_eq!(counted, !other, "{key}");
        }
    }

    #[test]
    fn the_table_ends_with_the_sum() {
        let config = Config::default();
        let table = table(&config, PLACES);
        let sum = ceiling(&config, PLACES);
        assert!(
            sum > parts(&config, PLACES)
                .iter()
                .map(|part| part.bytes)
                .max()
                .unwrap()
        );
        let last = table.lines().last().unwrap();
        assert!(
            last.contains(&format!("{:.1} MiB", sum as f64 / 1_048_576.0)),
            "{last}"
        );
    }

    #[test]
    fn this_process_has_some_memory() {
        assert!(resident().unwrap() > 1 << 20);
        assert!(available().unwrap() > resident().unwrap());
    }
}
