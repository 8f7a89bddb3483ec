//! One webhook: a signed POST to the address of the configuration, which alone says where it goes.
//!
//! No redirect is followed, no proxy of the environment is used, no cookie is kept.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use reqwest::{Client, Url, redirect::Policy};
use rowcast_model::{Caller, Question};
use secrecy::ExposeSecret;
use serde::Serialize;
use serde_json::{Map, Value, value::RawValue};

use crate::{
    ApplicationError, WebhookConfig,
    answer::answer,
    circuit::Circuit,
    line::{Line, Trouble},
    metrics::Metrics,
    signature,
};

/// Shortest key to sign with, in bytes.
const SHORTEST_SECRET: usize = 32;

/// One webhook.
pub(crate) struct Webhook {
    url: Url,
    config: WebhookConfig,
    client: Client,
    answer_bytes: usize,
    line: Line,
}

/// The body of a request.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'q> {
    v: u8,
    asking: &'static str,
    channel: &'q str,
    arguments: &'q Map<String, Value>,
    input: &'q RawValue,
    caller: &'q Caller,
}

impl Webhook {
    pub fn new(
        name: Arc<str>,
        config: WebhookConfig,
        answer_bytes: usize,
        metrics: &Metrics,
    ) -> Result<Webhook, ApplicationError> {
        let wrong = |why: &str| ApplicationError::Address {
            name: name.to_string(),
            why: why.to_owned(),
        };
        let url = Url::parse(&config.url)
            .map_err(|error| wrong(&format!("is not an address: {error}")))?;
        if !matches!(url.scheme(), "https" | "http") || !url.has_host() {
            return Err(wrong(
                "must begin with https:// (or http://, in a network of your own)",
            ));
        }
        let secrets = [Some(&config.secret), config.secret_previous.as_ref()];
        if (secrets.iter().flatten()).any(|key| key.expose_secret().len() < SHORTEST_SECRET) {
            return Err(ApplicationError::Secret(name.to_string()));
        }
        let client = Client::builder()
            .redirect(Policy::none())
            .no_proxy()
            .pool_max_idle_per_host(config.connections)
            .user_agent(concat!("rowcast/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| ApplicationError::Client(error.to_string()))?;
        let circuit = Circuit::new(config.failures, config.pause);
        let line = Line::new(name, circuit, config.connections, config.timeout, metrics);
        Ok(Webhook {
            url,
            config,
            client,
            answer_bytes,
            line,
        })
    }

    pub fn timeout(&self) -> Duration {
        self.line.timeout
    }

    pub async fn call(&self, question: &Question) -> Result<Box<RawValue>, Trouble> {
        let asked = self.line.ask(|_| Box::pin(self.post(question)));
        asked.await
    }

    async fn post(&self, question: &Question) -> Result<Box<RawValue>, Trouble> {
        let body = Body {
            v: 1,
            asking: question.asking.name(),
            channel: &question.channel,
            arguments: &question.arguments,
            input: &question.input,
            caller: &question.caller,
        };
        let body = serde_json::to_vec(&body)
            .map_err(|error| Trouble::Broken("question", error.to_string()))?;
        let keys = [
            Some(&self.config.secret),
            self.config.secret_previous.as_ref(),
        ];
        let signed = signature::sign(keys.into_iter().flatten(), now(), &body);
        let request = self
            .client
            .post(self.url.clone())
            .header("content-type", "application/json")
            .header("accept", "application/json")
            .header(signature::HEADER, signed)
            .body(body);
        let gone =
            |error: reqwest::Error| Trouble::Gone("connection", because(&error.without_url()));
        let mut response = request.send().await.map_err(gone)?;
        let status = response.status().as_u16();
        let mut read = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(gone)? {
            if read.len() + chunk.len() > self.answer_bytes {
                return Err(Trouble::Broken(
                    "answer",
                    format!("it is longer than {} bytes", self.answer_bytes),
                ));
            }
            read.extend_from_slice(&chunk);
        }
        answer(status, &read)
    }
}

/// An error with what is behind it, and without the address, which may hold a secret.
fn because(error: &reqwest::Error) -> String {
    let mut words = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        words.push_str(": ");
        words.push_str(&error.to_string());
        cause = error.source();
    }
    words
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}
