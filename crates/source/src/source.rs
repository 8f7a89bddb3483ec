//! The supervisor: connects, streams, notices silence, connects again.
//!
//! [`Source::next`] waits as long as it takes and returns an error only for what somebody has to mend.
//! After every (re)connection it says [`SourceEvent::Start`]; transactions may then be repeated from the
//! acknowledged position.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use backon::{BackoffBuilder, ExponentialBuilder};
use prometheus_client::{metrics::counter::Counter, registry::Registry};
use rowcast_model::{Epoch, Lsn, SourceEvent};
use tokio::sync::watch;

use crate::{
    conninfo::ConnInfo,
    error::SourceError,
    live::{HEARTBEAT_PREFIX, Live},
    setup::{self, Standing},
    stream::{PgWire, WalSource},
};

/// How the source reads.
#[derive(Clone, Debug)]
pub struct SourceConfig {
    /// For replication.
    pub replication: ConnInfo,
    /// For set-up and catalog questions.
    pub sql: ConnInfo,
    /// The slot.
    pub slot: String,
    /// The publication.
    pub publication: String,
    /// How often the server is told where we are.
    pub status_interval: Duration,
    /// The stream is given up when a heartbeat has not come back for so long.
    pub silence_limit: Duration,
    /// Largest single message of the log in bytes.
    pub max_message_bytes: usize,
}

/// What the source is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceStatus {
    /// On the way.
    Connecting,
    /// The log flows.
    Streaming {
        /// The epoch of its positions.
        epoch: Epoch,
    },
    /// Trying again after a while.
    Waiting {
        /// Why.
        reason: Arc<str>,
    },
    /// Somebody has to mend something.
    Failed {
        /// What.
        reason: Arc<str>,
    },
}

/// Says what was handed on; may be cloned and used from any thread.
#[derive(Clone, Debug)]
pub struct AckHandle(Arc<watch::Sender<Lsn>>);

impl AckHandle {
    /// Everything that ends at or before `lsn` was handed on. Never goes backwards.
    pub fn ack(&self, lsn: Lsn) {
        self.0.send_if_modified(|now| {
            let newer = lsn > *now;
            if newer {
                *now = lsn;
            }
            newer
        });
    }
}

/// Counters of the source.
#[derive(Clone, Debug, Default)]
pub struct SourceMetrics {
    transactions: Counter,
    items: Counter,
    bytes: Counter,
    connections: Counter,
}

impl SourceMetrics {
    /// Makes and registers the counters.
    pub fn new(registry: &mut Registry) -> SourceMetrics {
        let metrics = SourceMetrics::default();
        registry.register(
            "source_transactions",
            "Transactions read from the log",
            metrics.transactions.clone(),
        );
        registry.register(
            "source_items",
            "Changes and messages read from the log",
            metrics.items.clone(),
        );
        registry.register(
            "source_bytes",
            "Bytes of changes and messages read from the log",
            metrics.bytes.clone(),
        );
        registry.register(
            "source_connections",
            "Times the log stream was started",
            metrics.connections.clone(),
        );
        metrics
    }
}

/// The log, as an endless row of events.
pub struct Source {
    config: SourceConfig,
    metrics: SourceMetrics,
    ack: AckHandle,
    acked: watch::Receiver<Lsn>,
    status: watch::Sender<SourceStatus>,
    epoch: Option<Epoch>,
    connected: Option<(PgWire, Live)>,
    backoff: backon::ExponentialBackoff,
    heard: Instant,
    /// When a heartbeat was asked for first and last, since something was heard.
    asked: Option<(Instant, Instant)>,
}

fn backoff() -> backon::ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(200))
        .with_max_delay(Duration::from_secs(15))
        .with_jitter()
        .without_max_times()
        .build()
}

impl Source {
    /// A source that is not connected yet.
    pub fn new(config: SourceConfig, metrics: SourceMetrics) -> Source {
        let (ack, acked) = watch::channel(Lsn::ZERO);
        Source {
            config,
            metrics,
            ack: AckHandle(Arc::new(ack)),
            acked,
            status: watch::channel(SourceStatus::Connecting).0,
            epoch: None,
            connected: None,
            backoff: backoff(),
            heard: Instant::now(),
            asked: None,
        }
    }

    /// Where to say what was handed on.
    pub fn ack_handle(&self) -> AckHandle {
        self.ack.clone()
    }

    /// Follows what the source is doing.
    pub fn status(&self) -> watch::Receiver<SourceStatus> {
        self.status.subscribe()
    }

    /// The next event. An error says what somebody has to mend; calling again tries again.
    pub async fn next(&mut self) -> Result<SourceEvent, SourceError> {
        loop {
            let failed = match &self.connected {
                None => match self.connect().await {
                    Ok(start) => return Ok(start),
                    Err(error) => error,
                },
                Some(_) => match self.step().await {
                    Ok(Some(event)) => return Ok(event),
                    Ok(None) => continue,
                    Err(error) => error,
                },
            };
            self.connected = None;
            let reason: Arc<str> = format!("{} ({})", failed, failed.code()).into();
            if !failed.retry() {
                self.status.send_replace(SourceStatus::Failed { reason });
                return Err(failed);
            }
            let delay = self.backoff.next().unwrap_or(Duration::from_secs(15));
            tracing::warn!(code = failed.code(), ?delay, "{failed}");
            self.status.send_replace(SourceStatus::Waiting { reason });
            tokio::time::sleep(delay).await;
        }
    }

    /// Ends the stream in bounded time.
    pub async fn close(mut self) {
        if let Some((stream, mut live)) = self.connected.take() {
            live.progress.handed_on(*self.acked.borrow());
            stream.acknowledge(live.progress.acknowledged());
            stream.close().await;
        }
    }

    async fn connect(&mut self) -> Result<SourceEvent, SourceError> {
        self.status.send_if_modified(|now| {
            let fresh = matches!(now, SourceStatus::Streaming { .. });
            if fresh {
                *now = SourceStatus::Connecting;
            }
            fresh
        });
        let config = &self.config;
        let Standing { epoch, reason, .. } =
            setup::prepare(&config.sql, &config.slot, &config.publication).await?;
        let stream = PgWire::start(
            &config.replication,
            &config.slot,
            &config.publication,
            config.status_interval,
            config.max_message_bytes,
        )
        .await?;
        let live = Live::new(config.sql.connect("rowcast catalog").await?);
        let changed = self.epoch.is_some_and(|before| before != epoch);
        if changed {
            // Positions of before are of another numbering: what was acknowledged there says nothing here.
            self.ack.0.send_replace(Lsn::ZERO);
        }
        self.epoch = Some(epoch);
        self.connected = Some((stream, live));
        self.backoff = backoff();
        self.heard = Instant::now();
        self.asked = None;
        self.metrics.connections.inc();
        self.status.send_replace(SourceStatus::Streaming { epoch });
        tracing::info!(slot = %self.config.slot, %epoch, "streaming");
        let reason = changed.then(|| {
            reason.unwrap_or_else(|| "the replication slot or the timeline is another".into())
        });
        Ok(SourceEvent::Start { epoch, reason })
    }

    /// One wait: an event, an acknowledgement to pass on, or the time to listen for a heartbeat.
    async fn step(&mut self) -> Result<Option<SourceEvent>, SourceError> {
        let Some((stream, live)) = &mut self.connected else {
            return Ok(None);
        };
        let beat = self.config.silence_limit / 3;
        let event = tokio::select! {
            biased;
            event = stream.next() => event?,
            changed = self.acked.changed() => {
                // The sender lives in this very struct, so it is never gone.
                let _ = changed;
                live.progress.handed_on(*self.acked.borrow_and_update());
                stream.acknowledge(live.progress.acknowledged());
                return Ok(None);
            }
            () = tokio::time::sleep_until((self.asked.map_or(self.heard, |(_, last)| last) + beat).into()) => {
                let first = self.asked.map_or_else(Instant::now, |(first, _)| first);
                if first.elapsed() > self.config.silence_limit {
                    return Err(SourceError::Silent(self.config.silence_limit.as_secs()));
                }
                // An idle server says nothing by itself: have it write something that must come back. It also
                // moves the slot of a database where nothing happens.
                self.asked = Some((first, Instant::now()));
                let beat = live.sql.execute("SELECT pg_logical_emit_message(false, $1, '')", &[&HEARTBEAT_PREFIX]);
                match tokio::time::timeout(Duration::from_secs(5), beat).await {
                    Ok(Ok(_)) => return Ok(None),
                    Ok(Err(error)) => return Err(self.config.sql.explain(&error)),
                    Err(_) => return Err(SourceError::Connection("no answer to a heartbeat".into())),
                }
            }
        };
        self.heard = Instant::now();
        self.asked = None;
        let event = live.take(event).await?;
        match &event {
            Some(SourceEvent::Commit { .. }) => drop(self.metrics.transactions.inc()),
            Some(SourceEvent::Item { bytes, .. }) => {
                self.metrics.items.inc();
                self.metrics.bytes.inc_by(u64::from(*bytes));
            }
            _ => {}
        }
        Ok(event)
    }
}
