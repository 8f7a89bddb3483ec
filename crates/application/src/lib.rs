//! Asks the application: calls a function of its database as the caller's role, or one of its webhooks.
//!
//! Owns the connections and requests this takes. Promises: whom it asks comes from the configuration alone, an
//! address never from a question; who asks is what the service found out; every question ends in bounded time,
//! and takes bounded memory; what is wrong inside the application is logged and not told to the caller, while
//! a refusal in the application's own words is.

mod answer;
mod budget;
mod circuit;
mod config;
mod error;
mod functions;
mod line;
mod meaning;
mod metrics;
mod signature;
mod untold;
mod webhook;

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use prometheus_client::registry::Registry;
use rowcast_model::{AskError, Handler, Question};
use serde_json::value::RawValue;

pub use config::{ApplicationConfig, FunctionsConfig, WebhookConfig};
pub use error::ApplicationError;

use budget::Budget;
use functions::Functions;
use line::Trouble;
use metrics::Metrics;
use webhook::Webhook;

/// The way to the application.
pub struct Application {
    functions: Functions,
    webhooks: BTreeMap<Arc<str>, Webhook>,
    budget: Arc<Budget>,
    metrics: Metrics,
}

impl Application {
    /// Nothing is connected before something is asked.
    ///
    /// # Errors
    /// [`ApplicationError`] when a webhook cannot be used as configured.
    pub fn new(
        config: ApplicationConfig,
        registry: &mut Registry,
    ) -> Result<Application, ApplicationError> {
        let metrics = Metrics::register(registry);
        let webhooks = config.webhooks.into_iter().map(|(name, webhook)| {
            let name: Arc<str> = name.into();
            Ok((
                name.clone(),
                Webhook::new(name, webhook, config.answer_bytes, &metrics)?,
            ))
        });
        Ok(Application {
            webhooks: webhooks.collect::<Result<_, ApplicationError>>()?,
            functions: Functions::new(config.functions, config.answer_bytes, &metrics),
            budget: Arc::new(Budget::new(
                config.questions_bytes,
                metrics.questions.clone(),
            )),
            metrics,
        })
    }

    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// [`AskError`]: a refusal of the application, or why there is no answer.
    pub async fn ask(&self, question: &Question) -> Result<Box<RawValue>, AskError> {
        let began = Instant::now();
        let (kind, answer) = match &question.handler {
            Handler::Function(name) => {
                let answered = match self.budget.take(question.bytes()) {
                    Some(_room) => self.functions.call(name, question).await,
                    None => Err(Trouble::Overloaded),
                };
                ("function", answered)
            }
            Handler::Webhook(name) => {
                let answered = match (self.budget.take(question.bytes()), self.webhooks.get(name)) {
                    (None, _) => Err(Trouble::Overloaded),
                    (_, None) => Err(Trouble::Broken(
                        "not_configured",
                        format!(
                            "there is no webhook `{name}`; set webhooks.{name}.url and webhooks.{name}.secret"
                        ),
                    )),
                    (Some(_room), Some(webhook)) => webhook.call(question).await,
                };
                ("webhook", answered)
            }
        };
        let outcome = match &answer {
            Ok(_) => "ok",
            Err(trouble) => trouble.name(),
        };
        self.metrics
            .answered(kind, question.asking, outcome, began.elapsed());
        answer.map_err(|trouble| {
            trouble.log(&question.handler);
            trouble.tell()
        })
    }

    /// Longest time that a question takes, whoever is asked.
    pub fn patience(&self) -> Duration {
        let webhooks = self.webhooks.values().map(Webhook::timeout);
        webhooks.fold(self.functions.timeout(), Duration::max)
    }
}
