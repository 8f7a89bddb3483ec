//! The way to one who answers: so many at a time, a bounded time for each, and none while he fails.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rowcast_model::{AskError, Handler, Refusal};
use tokio::sync::Semaphore;

use crate::{
    circuit::{Circuit, End, State},
    metrics::Metrics,
};

/// What came instead of an answer; a name for metrics, and words for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The application says no.
    Refused(Refusal),
    /// The database says no, in words that are nobody's business.
    Denied(String),
    /// One question had no answer; the next may.
    Silent(&'static str, String),
    /// Nobody is there.
    Gone(&'static str, String),
    /// Nobody was there lately, so nobody was asked.
    Open,
    /// No room.
    Overloaded,
    /// Something is wrong inside, and will be the next time.
    Broken(&'static str, String),
}

impl Trouble {
    /// For metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Trouble::Refused(_) => "refused",
            Trouble::Denied(_) => "denied",
            Trouble::Silent(name, _) | Trouble::Gone(name, _) | Trouble::Broken(name, _) => name,
            Trouble::Open => "circuit_open",
            Trouble::Overloaded => "overloaded",
        }
    }

    /// What the caller is told.
    pub fn tell(self) -> AskError {
        match self {
            Trouble::Refused(refusal) => AskError::Refused(refusal),
            Trouble::Denied(_) => AskError::Refused(Refusal::new(
                "accessdenied",
                "the application does not allow this",
            )),
            Trouble::Silent(..) | Trouble::Gone(..) | Trouble::Open => AskError::Unavailable,
            Trouble::Overloaded => AskError::Overloaded,
            Trouble::Broken(..) => AskError::Failed,
        }
    }

    /// Tells the operator, who is not to be flooded by what users do.
    pub fn log(&self, handler: &Handler) {
        match self {
            Trouble::Refused(_) | Trouble::Open | Trouble::Overloaded => {}
            Trouble::Denied(words) => tracing::info!("{handler} is not allowed: {words}"),
            Trouble::Silent(_, words) => tracing::warn!("{handler} gave no answer: {words}"),
            Trouble::Gone(_, words) => tracing::warn!("{handler} cannot be reached: {words}"),
            Trouble::Broken(_, words) => tracing::warn!("{handler} failed: {words}"),
        }
    }

    /// How the question ended for whoever wants to ask next.
    fn end(&self) -> End {
        match self {
            Trouble::Gone(..) => End::Failed,
            _ => End::Answered,
        }
    }
}

/// The way.
pub(crate) struct Line {
    name: Arc<str>,
    circuit: Mutex<Circuit>,
    places: Semaphore,
    /// Most time for a question, waiting included.
    pub timeout: Duration,
    metrics: Metrics,
}

/// A question under way; says how it ended even when nobody waits for it any more.
struct UnderWay<'l>(&'l Line, End);

impl Line {
    pub fn new(
        name: Arc<str>,
        circuit: Circuit,
        places: usize,
        timeout: Duration,
        metrics: &Metrics,
    ) -> Line {
        metrics.circuit(&name, false);
        Line {
            name,
            circuit: Mutex::new(circuit),
            places: Semaphore::new(places.clamp(1, Semaphore::MAX_PERMITS)),
            timeout,
            metrics: metrics.clone(),
        }
    }

    /// Asks when there is a place; `asking` gets the moment by which it has to be over.
    pub async fn ask<T, F>(&self, asking: impl FnOnce(Instant) -> F) -> Result<T, Trouble>
    where
        F: Future<Output = Result<T, Trouble>>,
    {
        let until = Instant::now() + self.timeout;
        if self.circuit.lock().is_shut(Instant::now()) {
            return Err(Trouble::Open);
        }
        let place = tokio::time::timeout_at(until.into(), self.places.acquire()).await;
        let Ok(Ok(_place)) = place else {
            return Err(Trouble::Overloaded);
        };
        if !self.circuit.lock().admit(Instant::now()) {
            return Err(Trouble::Open);
        }
        let mut under_way = UnderWay(self, End::Dropped);
        let answer = tokio::time::timeout_at(until.into(), asking(until)).await;
        let answer = answer.unwrap_or_else(|_| {
            let words = format!("no answer within {} ms", self.timeout.as_millis());
            Err(Trouble::Gone("timeout", words))
        });
        under_way.1 = answer.as_ref().map_or_else(Trouble::end, |_| End::Answered);
        answer
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let UnderWay(line, end) = self;
        let mut circuit = line.circuit.lock();
        let before = circuit.state();
        circuit.note(*end, Instant::now());
        let after = circuit.state();
        let open = |state| !matches!(state, State::Closed(_));
        line.metrics.circuit(&line.name, open(after));
        if open(before) != open(after) {
            match open(after) {
                true => tracing::warn!("{} is not asked for a while", line.name),
                false => tracing::info!("{} answers again", line.name),
            }
        }
    }
}
