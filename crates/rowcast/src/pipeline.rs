//! The way of every row, and the only file that sees rows and sockets both:
//! log -> source -> router -> queue -> barrier -> hub -> acknowledgement.
//!
//! Reading and publishing each have a thread of their own, so that neither waits for the other while
//! the queue has room. Nothing is acknowledged before it was handed to the hub. While there is little to
//! do, the reader publishes by itself ([`outlet`]).

mod outlet;

use std::{
    pin::pin,
    sync::Arc,
    thread::JoinHandle,
    time::{Duration, Instant},
};

use rowcast_hub::Hub;
use rowcast_model::{Batch, HubOp, SourceEvent};
use rowcast_routing::{Limits, Router};
use rowcast_source::{ConnInfo, Source, SourceError, VisibilityGate};
use tokio_util::sync::CancellationToken;

use self::outlet::{Direct, Outlet, waits_for};
use crate::{
    beginning::{self, Known},
    durable::Seen,
    metrics::PipelineMetrics,
    progress::Progress,
    queue::{self, Receiver, Sender},
};

/// What the pipeline is made of.
pub struct Parts {
    /// Where rows come from.
    pub source: Source,
    /// For the questions asked beside the log.
    pub sql: ConnInfo,
    /// Memory of routing.
    pub limits: Limits,
    /// Bytes between reader and publisher.
    pub queue_bytes: usize,
    /// Whether to wait until transactions are visible.
    pub barrier: bool,
    /// Where events go.
    pub hub: Arc<Hub>,
    /// How far we are, for readiness.
    pub progress: Arc<Progress>,
    /// Who waits for a transaction to be told.
    pub seen: Arc<Seen>,
    /// What is counted.
    pub metrics: PipelineMetrics,
    /// Ends both threads.
    pub stop: CancellationToken,
}

/// Between attempts, and between looks at the server while nobody reads the stream.
const AGAIN: Duration = Duration::from_millis(500);
/// Pause after an error that somebody has to mend.
const MENDING: Duration = Duration::from_secs(15);

/// Starts both threads. The reader ends with an error only when its very first attempt needs mending:
/// later the service stays, says that it is not ready, and tries again.
pub fn start(parts: Parts) -> std::io::Result<[JoinHandle<Result<(), SourceError>>; 2]> {
    let (sender, receiver) = queue::bounded(parts.queue_bytes);
    let ack = parts.source.ack_handle();
    let outlet = Outlet {
        hub: parts.hub,
        ack,
        progress: Arc::clone(&parts.progress),
        seen: parts.seen,
    };
    let publisher = Publisher {
        gate: parts
            .barrier
            .then(|| VisibilityGate::new(parts.sql.clone())),
        outlet: outlet.clone(),
        metrics: parts.metrics.clone(),
    };
    let reader = Reader {
        source: parts.source,
        sql: parts.sql,
        limits: parts.limits,
        router: None,
        start: None,
        reload: false,
        known_members: None,
        known_keys: None,
        queue: sender,
        barrier: parts.barrier,
        direct: Direct::default(),
        outlet,
        metrics: parts.metrics,
    };
    let stop = parts.stop.clone();
    let reading = on_own_thread("rowcast-reader", async move || {
        let result = Box::pin(reader.run(&stop)).await;
        if result.is_err() {
            stop.cancel();
        }
        result
    })?;
    let stop = parts.stop;
    let publishing = on_own_thread("rowcast-publisher", async move || {
        Box::pin(publisher.run(receiver, &stop)).await;
        Ok(())
    })?;
    Ok([reading, publishing])
}

fn on_own_thread<T: Send + 'static>(
    name: &str,
    work: impl AsyncFnOnce() -> T + Send + 'static,
) -> std::io::Result<JoinHandle<T>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || runtime.block_on(work()))
}

struct Reader {
    source: Source,
    sql: ConnInfo,
    limits: Limits,
    router: Option<Router>,
    /// The start of the stream, until it was taken in.
    start: Option<SourceEvent>,
    /// Memberships have to be read again.
    reload: bool,
    /// What was read by SELECT and comes by the log once more.
    known_members: Option<Known>,
    known_keys: Option<Known>,
    queue: Sender,
    barrier: bool,
    direct: Direct,
    outlet: Outlet,
    metrics: PipelineMetrics,
}

impl Reader {
    async fn run(mut self, stop: &CancellationToken) -> Result<(), SourceError> {
        loop {
            let step = tokio::select! {
                step = self.step() => step,
                () = stop.cancelled() => break,
            };
            match step {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) if self.router.is_none() => return Err(error),
                Err(error) => {
                    tracing::error!(code = error.code(), "the stream stands still: {error}");
                    tokio::select! {
                        () = tokio::time::sleep(MENDING) => {}
                        () = stop.cancelled() => break,
                    }
                }
            }
        }
        self.source.close().await;
        Ok(())
    }

    /// One event on its way; `false`: the publisher is gone. After an error, call it again: what was
    /// begun is begun again.
    async fn step(&mut self) -> Result<bool, SourceError> {
        if let Some(start) = self.start.clone() {
            let beginning =
                patiently(&mut self.source, async || beginning::load(&self.sql).await).await?;
            self.outlet.progress.expect(beginning.written);
            (self.known_members, self.known_keys) = (beginning.known(), beginning.known());
            let mut ops = beginning.ops;
            if let SourceEvent::Start { epoch, .. } = start {
                let floor = self.source.floor();
                ops.insert(0, beginning::log_begins(epoch, floor, beginning.written));
            }
            self.router = Some(Router::new(self.limits, beginning.catalog));
            self.start = None;
            return Ok(self.route(start).await && self.push(ops).await);
        }
        if self.reload {
            let now = patiently(&mut self.source, async || {
                beginning::memberships(&self.sql).await
            })
            .await?;
            self.known_members = now.known();
            self.reload = false;
            return Ok(self.push(now.ops).await);
        }
        let event = self.source.next().await?;
        // The log starts, or starts anew: what it does not tell is read by SELECT, now that it flows.
        let anew = matches!(&event, SourceEvent::Start { reason, .. }
            if reason.is_some() || self.router.is_none());
        if matches!(event, SourceEvent::Start { .. }) {
            // What was written while there was no stream comes first.
            self.outlet.progress.expect(self.source.written());
        }
        if anew {
            self.start = Some(event);
            return Ok(true);
        }
        Ok(self.route(event).await)
    }

    async fn route(&mut self, event: SourceEvent) -> bool {
        let Some(router) = &mut self.router else {
            return true;
        };
        router.apply(event);
        let mut handed_on = false;
        while let Some(mut batch) = router.take_batch() {
            handed_on = true;
            beginning::forget_known(&mut batch, &mut self.known_members, &mut self.known_keys);
            // Nothing is used: nothing waits, and the publisher works on nothing.
            let free = self.queue.used() == 0 && !(self.barrier && waits_for(&batch).is_some());
            let begun = Instant::now();
            if free && self.direct.allowed(begun) {
                self.outlet.publish(batch);
                self.direct.took(begun, Instant::now());
            } else if !hand_over(&self.queue, &mut self.source, batch).await {
                return false;
            }
        }
        if handed_on {
            self.metrics.routed(&router.stats(), self.queue.used());
        }
        for problem in router.take_problems() {
            tracing::warn!(code = problem.code(), "{problem}");
        }
        self.reload |= router.take_reload().is_some();
        true
    }

    async fn push(&mut self, ops: Vec<HubOp>) -> bool {
        hand_over(&self.queue, &mut self.source, beginning::batch(ops)).await
    }
}

/// Waits until there is room in the queue; `false`: the publisher is gone. Nobody reads the stream meanwhile, so
/// a server that shuts down is let go.
async fn hand_over(queue: &Sender, source: &mut Source, batch: Batch) -> bool {
    let mut pushing = pin!(queue.push(batch));
    loop {
        match tokio::time::timeout(AGAIN, &mut pushing).await {
            Ok(pushed) => return pushed.is_ok(),
            Err(_) => source.let_go(),
        }
    }
}

/// Tries until it works or somebody has to mend something. The source keeps the stream alive meanwhile, except to
/// a server that shuts down.
async fn patiently<T>(
    source: &mut Source,
    ask: impl AsyncFn() -> Result<T, SourceError>,
) -> Result<T, SourceError> {
    loop {
        match ask().await {
            Err(error) if error.retry() => {
                tracing::warn!(code = error.code(), "reading the configuration: {error}");
                source.let_go();
                tokio::time::sleep(AGAIN).await;
            }
            other => return other,
        }
    }
}

struct Publisher {
    gate: Option<VisibilityGate>,
    outlet: Outlet,
    metrics: PipelineMetrics,
}

impl Publisher {
    async fn run(mut self, mut queue: Receiver, stop: &CancellationToken) {
        if let Some(gate) = &mut self.gate {
            // Nothing is published, and nobody told "ready", before there was an attempt.
            tokio::select! {
                () = gate.prepare() => {}
                () = stop.cancelled() => return,
            }
        }
        loop {
            let batch = tokio::select! {
                batch = queue.pop() => batch,
                () = stop.cancelled() => None,
            };
            let Some(batch) = batch else { return };
            if let (Some(gate), Some(xid)) = (&mut self.gate, waits_for(&batch)) {
                let since = Instant::now();
                tokio::select! {
                    () = gate.wait(xid) => self.metrics.barrier(since),
                    () = stop.cancelled() => return,
                }
            }
            self.outlet.publish(batch);
        }
    }
}

#[cfg(test)]
mod tests;
