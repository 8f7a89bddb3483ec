//! What an organization may use, found out when one of its sockets comes. Owns what is known of each, for a short
//! time: everybody who asks meanwhile waits for one answer, and only those of that organization.
//!
//! What cannot be found out is what was known last, and otherwise what the service is configured with.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use rowcast_model::OrgId;
use tokio::sync::watch;

use super::quota::Quota;
use crate::metrics::GatewayMetrics;

/// Organizations whose limits are remembered at a time.
pub const MOST_PLANS: usize = 16_384;
/// What is known is asked again after this: the tables of an application change without being followed.
const KNOWN: Duration = Duration::from_secs(30);
/// The same when there was no answer.
const UNKNOWN: Duration = Duration::from_secs(5);
/// Most time that a socket waits for an answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// So often at most it is said that there is no answer.
const SAY_AGAIN: Duration = Duration::from_secs(10);

/// Whoever knows the plans.
pub trait PlanSource: Send + Sync + 'static {
    /// What an organization may use, as `rowcast.limits_for` says it in JSON; `None` when it says nothing. To be
    /// answered in bounded time.
    fn limits(
        self: Arc<Self>,
        organization: OrgId,
    ) -> BoxFuture<'static, Result<Option<String>, PlanError>>;
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PlanError(pub String);

/// The limits of organizations.
pub(crate) struct Plans {
    source: Option<Arc<dyn PlanSource>>,
    /// What holds where no plan says anything.
    platform: Arc<Quota>,
    metrics: GatewayMetrics,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    known: HashMap<OrgId, Known>,
    said: Option<Instant>,
}

type Answer = Option<Arc<Quota>>;

#[derive(Default)]
struct Known {
    /// The answer before, with the version of the plans that it was asked for.
    quota: Option<Arc<Quota>>,
    version: u64,
    until: Option<Instant>,
    /// A question under way, with its version.
    asking: Option<(u64, watch::Receiver<Answer>)>,
}

impl Known {
    fn is_fresh(&self, version: u64, now: Instant) -> bool {
        self.version >= version && self.until.is_some_and(|until| now < until)
    }
}

impl State {
    /// Makes room for one more; false when there is none.
    fn make_room(&mut self, now: Instant) -> bool {
        if self.known.len() >= MOST_PLANS {
            self.known.retain(|_, known| {
                known.asking.is_some() || known.until.is_some_and(|until| now < until)
            });
        }
        if self.known.len() >= MOST_PLANS {
            self.known.retain(|_, known| known.asking.is_some());
        }
        self.known.len() < MOST_PLANS
    }
}

impl Plans {
    pub(crate) fn new(
        source: Option<Arc<dyn PlanSource>>,
        platform: Quota,
        metrics: GatewayMetrics,
    ) -> Plans {
        Plans {
            source,
            platform: Arc::new(platform),
            metrics,
            state: Mutex::default(),
        }
    }

    /// What an organization may use, as of this version of the plans. Answers in bounded time.
    pub(crate) async fn of(self: &Arc<Self>, organization: &OrgId, version: u64) -> Arc<Quota> {
        let Some(source) = &self.source else {
            return self.platform.clone();
        };
        let mut answer = {
            let now = Instant::now();
            let mut state = self.state.lock();
            if !state.known.contains_key(organization) && !state.make_room(now) {
                drop(state);
                self.metrics.plan("no_room");
                return self.platform.clone();
            }
            let known = state.known.entry(organization.clone()).or_default();
            if known.is_fresh(version, now) {
                let quota = known.quota.as_ref().unwrap_or(&self.platform);
                return quota.clone();
            }
            match &known.asking {
                Some((asked, answer)) if *asked >= version => answer.clone(),
                _ => {
                    let (tell, answer) = watch::channel(None);
                    known.asking = Some((version, answer.clone()));
                    let (own, organization) = (Arc::clone(self), organization.clone());
                    let asking = source.clone().limits(organization.clone());
                    tokio::spawn(async move {
                        let said = asking.await;
                        let quota = own.answered(&organization, version, said);
                        // Nobody may wait any more.
                        let _ = tell.send(Some(quota));
                    });
                    answer
                }
            }
        };
        let told = tokio::time::timeout(PATIENCE, answer.wait_for(Option::is_some)).await;
        let told = match told {
            Ok(Ok(quota)) => quota.clone(),
            Ok(Err(_)) | Err(_) => None,
        };
        told.unwrap_or_else(|| {
            self.metrics.plan("late");
            let state = self.state.lock();
            let known = state.known.get(organization);
            let quota = known.and_then(|known| known.quota.clone());
            quota.unwrap_or_else(|| self.platform.clone())
        })
    }

    /// Takes an answer in.
    fn answered(
        &self,
        organization: &OrgId,
        version: u64,
        said: Result<Option<String>, PlanError>,
    ) -> Arc<Quota> {
        let quota = match said {
            Ok(Some(json)) => match self.platform.with(&json) {
                Ok(quota) => Ok(Some(Arc::new(quota))),
                Err(error) => Err(("not_understood", error.to_string())),
            },
            Ok(None) => Ok(None),
            Err(error) => Err(("no_answer", error.to_string())),
        };
        let now = Instant::now();
        let mut state = self.state.lock();
        let known = state.known.entry(organization.clone()).or_default();
        if (known.asking.as_ref()).is_some_and(|(asked, _)| *asked == version) {
            known.asking = None;
        }
        let problem = match quota {
            // A later question was answered first.
            _ if known.version > version => None,
            Ok(quota) => {
                self.metrics.plan(match quota {
                    Some(_) => "found",
                    None => "no_plan",
                });
                known.quota = quota;
                known.version = version;
                known.until = Some(now + KNOWN);
                None
            }
            Err((reason, problem)) => {
                self.metrics.plan(reason);
                known.version = version;
                known.until = Some(now + UNKNOWN);
                Some(problem)
            }
        };
        let quota = known.quota.as_ref().unwrap_or(&self.platform).clone();
        if let Some(problem) = problem
            && state.said.is_none_or(|said| now - said > SAY_AGAIN)
        {
            state.said = Some(now);
            tracing::warn!(%organization, "what the organization may use is not known, so what was known or configured counts: {problem}");
        }
        quota
    }
}

#[cfg(test)]
#[path = "plans_tests.rs"]
mod tests;
