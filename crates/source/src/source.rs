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
use rowcast_model::{Epoch, Lsn, SourceEvent};
use tokio::sync::watch;

use crate::{
    ack::AckHandle,
    conninfo::ConnInfo,
    error::SourceError,
    live::Live,
    liveness::{Farewell, Liveness, Verdict},
    metrics::SourceMetrics,
    setup::{self, Standing},
    stream::{PgWire, WalEvent, WalSource},
    trail::{Trail, Window},
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
    /// How far acknowledgements stay behind, so that a process that starts again can read the past.
    pub window: Window,
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
    /// Somebody else reads from the slot; it is taken over when it is free.
    Standby {
        /// Who, for people.
        reason: Arc<str>,
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

/// The log, as an endless row of events.
pub struct Source {
    config: SourceConfig,
    metrics: SourceMetrics,
    ack: AckHandle,
    acked: watch::Receiver<Lsn>,
    trail: Trail,
    /// Where the log began for us: nothing before it was told.
    floor: Lsn,
    /// How far the log was written when the stream began.
    written: Lsn,
    status: watch::Sender<SourceStatus>,
    epoch: Option<Epoch>,
    /// Why the slot has to be made anew.
    renew: Option<Arc<str>>,
    /// Why it was made anew, until it is told with a start.
    renewed: Option<Arc<str>>,
    connected: Option<Connected>,
    backoff: backon::ExponentialBackoff,
}

/// A stream that runs.
struct Connected {
    stream: PgWire,
    /// It was said that it streams.
    said: bool,
    live: Live,
    liveness: Liveness,
    /// Something came since the clock was read last.
    heard: bool,
    farewell: Farewell,
    /// When acknowledgements were passed on last.
    passed: Instant,
    /// When the publication was last seen to be there.
    checked: Instant,
    since: Instant,
}

/// A stream that lasted so long was good: the next failure begins with short pauses again.
const GOOD_STREAM: Duration = Duration::from_secs(1);
/// Longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Longest pause while somebody else has the slot.
const STANDBY_PAUSE: Duration = Duration::from_secs(1);
/// Acknowledgements follow the time, too: so often it is looked at while nothing is handed on.
const PASS_ON: Duration = Duration::from_millis(500);

fn backoff() -> backon::ExponentialBackoff {
    ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(200))
        .with_max_delay(LONGEST_PAUSE)
        .with_jitter()
        .without_max_times()
        .build()
}

impl Source {
    /// A source that is not connected yet.
    pub fn new(config: SourceConfig, metrics: SourceMetrics) -> Source {
        let (ack, acked) = AckHandle::new();
        Source {
            trail: Trail::new(config.window, Lsn::ZERO),
            config,
            metrics,
            ack,
            acked,
            floor: Lsn::ZERO,
            written: Lsn::ZERO,
            status: watch::channel(SourceStatus::Connecting).0,
            epoch: None,
            renew: None,
            renewed: None,
            connected: None,
            backoff: backoff(),
        }
    }

    /// Where to say what was handed on.
    pub fn ack_handle(&self) -> AckHandle {
        self.ack.clone()
    }

    /// Where the log began: what committed from here on was or will be told. Zero before the first start.
    pub fn floor(&self) -> Lsn {
        self.floor
    }

    /// How far the log was written when the stream was started last.
    pub fn written(&self) -> Lsn {
        self.written
    }

    /// Follows what the source is doing.
    pub fn status(&self) -> watch::Receiver<SourceStatus> {
        self.status.subscribe()
    }

    /// The next event; waits as long as it takes, through lost connections. Drop the future only to close the
    /// source: a description of a table may be on its way.
    ///
    /// # Errors
    /// What somebody has to mend ([`SourceError::retry`] is false); calling again tries again.
    pub async fn next(&mut self) -> Result<SourceEvent, SourceError> {
        loop {
            let failed = match &mut self.connected {
                None => match Box::pin(self.connect()).await {
                    Ok(start) => return Ok(start),
                    Err(error) => error,
                },
                // Said when the start was taken in: whoever reads it knows by then how far he has to come.
                Some(connected) if !connected.said => match self.say_streaming().await {
                    Ok(()) => continue,
                    Err(error) => error,
                },
                // Most events have arrived already: no timer, no clock, no waker for those.
                Some(connected) => match connected.stream.arrived() {
                    Some(Ok(event)) => match self.take(event).await {
                        Ok(Some(event)) => return Ok(event),
                        Ok(None) => continue,
                        Err(error) => error,
                    },
                    Some(Err(error)) => error,
                    None => match self.wait().await {
                        Ok(Some(event)) => return Ok(event),
                        Ok(None) => continue,
                        Err(error) => error,
                    },
                },
            };
            // The set-up found the publication, so the log is of a time without it, and cannot be read or was
            // read with holes. The set-up looks again and says so if it is still missing.
            let holes =
                self.connected.is_some() && matches!(failed, SourceError::PublicationMissing(_));
            if holes {
                self.renew = Some("the publication was missing for a while".into());
            }
            self.failed(&failed);
            if !failed.retry() && !holes {
                return Err(failed);
            }
            let pause = match failed {
                SourceError::SlotInUse(..) => STANDBY_PAUSE,
                _ => LONGEST_PAUSE,
            };
            tokio::time::sleep(self.backoff.next().unwrap_or(pause).min(pause)).await;
        }
    }

    /// For whoever cannot take events for a while, from time to time: gives the stream up when the server has ended
    /// the SQL connection beside it. A server that shuts down does that first, and then waits until all is
    /// read. [`Source::next`] connects again, and nothing is lost.
    pub fn let_go(&mut self) {
        if self
            .connected
            .as_ref()
            .is_some_and(|connected| connected.live.is_alone())
        {
            self.failed(&SourceError::ShuttingDown);
        }
    }

    /// Ends the stream in bounded time (a few seconds), telling the server what may be forgotten. That trails
    /// as ever: the next process reads the past from there.
    pub async fn close(mut self) {
        self.pass_on_acknowledgement();
        if let Some(connected) = self.connected.take() {
            connected.stream.close().await;
        }
    }

    fn failed(&mut self, error: &SourceError) {
        let stream = self.connected.take();
        if stream.is_some_and(|stream| stream.since.elapsed() > GOOD_STREAM) {
            self.backoff = backoff();
        }
        self.metrics.failed(error.code());
        let reason: Arc<str> = format!("{error} ({})", error.code()).into();
        if matches!(error, SourceError::SlotInUse(..)) {
            self.stand_by(reason);
        } else if error.retry() {
            tracing::warn!(code = error.code(), "{error}");
            self.status.send_replace(SourceStatus::Waiting { reason });
        } else {
            self.status.send_replace(SourceStatus::Failed { reason });
        }
    }

    fn stand_by(&self, reason: Arc<str>) {
        self.status.send_if_modified(|now| {
            let news = !matches!(now, SourceStatus::Standby { .. });
            if news {
                tracing::info!("{reason}");
                *now = SourceStatus::Standby { reason };
            }
            news
        });
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
        let Standing {
            epoch,
            reason,
            confirmed,
            written,
            ..
        } = setup::prepare(
            &config.sql,
            &config.slot,
            &config.publication,
            self.renew.clone(),
        )
        .await?;
        self.renew = None;
        self.renewed = reason.or(self.renewed.take());
        let changed = self.epoch.is_some_and(|before| before != epoch);
        if changed {
            // Positions of before are of another numbering: what was acknowledged there says nothing here.
            self.ack.forget();
        }
        let handed_on = *self.acked.borrow_and_update();
        // What we acknowledge is never ahead of what was handed on here: somebody else has read from the slot.
        let skipped = self.epoch == Some(epoch) && confirmed > handed_on.max(self.floor);
        if self.epoch != Some(epoch) || skipped {
            self.floor = confirmed;
            self.trail = Trail::new(self.config.window, confirmed);
        }
        let from = handed_on.max(confirmed);
        let acknowledged = self.trail.acknowledge(Instant::now());
        let stream = PgWire::start(
            &config.replication.primary().await?,
            &config.slot,
            &config.publication,
            (from, acknowledged),
            config.status_interval,
            config.max_message_bytes,
        )
        .await?;
        let live = Live::new(config.sql.clone()).await?;
        let now = Instant::now();
        self.connected = Some(Connected {
            stream,
            said: false,
            live,
            liveness: Liveness::new(config.silence_limit, now),
            heard: false,
            farewell: Farewell::default(),
            passed: now,
            checked: now,
            since: now,
        });
        self.epoch = Some(epoch);
        self.written = written;
        self.metrics.connected();
        tracing::info!(slot = %self.config.slot, %epoch, "streaming");
        let renewed = self.renewed.take();
        let reason = match (changed, skipped) {
            (true, _) => Some(
                renewed.unwrap_or_else(|| "the replication slot or the timeline is another".into()),
            ),
            (_, true) => Some("another process has read from the replication slot".into()),
            (false, false) => None,
        };
        if let Some(reason) = &reason {
            tracing::warn!(
                code = "epoch_changed",
                "every client is told to fetch anew: {reason}"
            );
        }
        Ok(SourceEvent::Start { epoch, reason })
    }

    /// Says that it streams, and writes what will come behind everything that was written so far: an idle
    /// server would leave us in doubt about that for a while.
    async fn say_streaming(&mut self) -> Result<(), SourceError> {
        let (Some(connected), Some(epoch)) = (&mut self.connected, self.epoch) else {
            return Ok(());
        };
        connected.said = true;
        self.status.send_replace(SourceStatus::Streaming { epoch });
        let (written, walsender) = connected.live.heartbeat(&self.config.slot).await?;
        let now = Instant::now();
        connected.liveness.asked(now, written, walsender);
        Ok(())
    }

    fn pass_on_acknowledgement(&mut self) {
        if let Some(connected) = &mut self.connected {
            let progress = &mut connected.live.progress;
            progress.handed_on(*self.acked.borrow_and_update());
            let now = Instant::now();
            connected.passed = now;
            let window = self.config.window;
            self.trail.window(Window {
                bytes: window.bytes.min(self.ack.most()),
                ..window
            });
            self.trail.handed_on(now, progress.acknowledged());
            connected.stream.acknowledge(self.trail.acknowledge(now));
            self.metrics
                .unacknowledged(progress.pending_bytes(), self.trail.left());
        }
    }

    async fn take(&mut self, event: WalEvent) -> Result<Option<SourceEvent>, SourceError> {
        let Some(connected) = &mut self.connected else {
            return Ok(None);
        };
        connected.heard = true;
        if let WalEvent::KeepAlive {
            asked: Some(at), ..
        } = event
            && connected.farewell.asked(at)
        {
            // It waits until all is acknowledged, which is not to be: it goes when we do.
            return Err(SourceError::ShuttingDown);
        }
        let event = connected.live.take(event).await?;
        match &event {
            Some(SourceEvent::Commit { .. }) => {
                self.metrics.transaction();
                // Under load there is never a pause to wait in, so it is done here as well.
                if self.acked.has_changed().unwrap_or(false) {
                    self.pass_on_acknowledgement();
                }
            }
            Some(SourceEvent::Item { bytes, .. }) => self.metrics.item(*bytes),
            _ => {}
        }
        Ok(event)
    }

    /// One wait: an event, an acknowledgement to pass on, or the time for a heartbeat.
    async fn wait(&mut self) -> Result<Option<SourceEvent>, SourceError> {
        let Some(connected) = &mut self.connected else {
            return Ok(None);
        };
        if std::mem::take(&mut connected.heard) {
            let now = Instant::now();
            connected.liveness.heard(now);
            if now.duration_since(connected.checked) > self.config.silence_limit {
                connected.checked = now;
                connected
                    .live
                    .check_publication(&self.config.publication)
                    .await?;
            }
            self.busy(false);
        }
        if self
            .connected
            .as_ref()
            .is_some_and(|connected| connected.passed.elapsed() > PASS_ON)
        {
            self.pass_on_acknowledgement();
        }
        let Some(connected) = &mut self.connected else {
            return Ok(None);
        };
        let ask_at = connected.liveness.ask_at().into();
        let event = tokio::select! {
            biased;
            event = connected.stream.next() => event?,
            _ = self.acked.changed() => {
                self.pass_on_acknowledgement();
                return Ok(None);
            }
            () = tokio::time::sleep_until(ask_at) => {
                let (written, walsender) = connected.live.heartbeat(&self.config.slot).await?;
                match connected.liveness.asked(Instant::now(), written, walsender) {
                    Verdict::Wait => {}
                    Verdict::Busy => self.busy(true),
                    Verdict::Dead => {
                        return Err(SourceError::Silent(self.config.silence_limit.as_secs()));
                    }
                }
                return Ok(None);
            }
        };
        self.take(event).await
    }

    /// Says that the server is late with good reason, or no longer.
    fn busy(&mut self, busy: bool) {
        let Some(epoch) = self.epoch else { return };
        self.status.send_if_modified(|now| {
            let streaming = matches!(now, SourceStatus::Streaming { .. });
            if streaming == busy {
                *now = match busy {
                    true => SourceStatus::Waiting {
                        reason: "the server reads through much log before it has more to tell"
                            .into(),
                    },
                    false => SourceStatus::Streaming { epoch },
                };
            }
            streaming == busy
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_may_be_read_on_any_thread() {
        fn is_send<T: Send>(_: &T) {}
        let info = ConnInfo::parse("postgres://a@b/c", None).unwrap();
        let mut source = Source::new(
            SourceConfig {
                replication: info.clone(),
                sql: info,
                slot: "s".into(),
                publication: "p".into(),
                status_interval: Duration::from_secs(1),
                silence_limit: Duration::from_secs(9),
                max_message_bytes: 1 << 20,
                window: Window::NOTHING,
            },
            SourceMetrics::default(),
        );
        is_send(&source.next());
        let ack = source.ack_handle();
        ack.ack(Lsn(5));
        ack.ack(Lsn(3));
        assert_eq!(*source.acked.borrow(), Lsn(5));
        is_send(&source.close());
    }
}
