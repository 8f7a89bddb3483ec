//! What this crate is told.

use std::{collections::BTreeMap, time::Duration};

use rowcast_source::ConnInfo;
use secrecy::SecretString;

/// The whole of it.
#[derive(Clone, Debug)]
pub struct ApplicationConfig {
    /// How functions are called.
    pub functions: FunctionsConfig,
    /// Webhooks by name.
    pub webhooks: BTreeMap<String, WebhookConfig>,
    /// Bytes of all questions that wait or are under way.
    pub questions_bytes: usize,
    /// Largest answer, in bytes.
    pub answer_bytes: usize,
}

/// How functions of the database are called.
#[derive(Clone, Debug)]
pub struct FunctionsConfig {
    /// Where.
    pub database: ConnInfo,
    /// The database role of people; `None`: their questions are not asked.
    pub role: Option<String>,
    /// The database role of API keys; `None`: their questions are not asked.
    pub api_key_role: Option<String>,
    /// Values of the claim `role` that are taken as the database role instead.
    pub claim_roles: Vec<String>,
    /// Connections at a time.
    pub connections: usize,
    /// Most time for a question, waiting included.
    pub timeout: Duration,
}

/// One webhook.
#[derive(Clone, Debug)]
pub struct WebhookConfig {
    /// Its address.
    pub url: String,
    /// The key that requests are signed with.
    pub secret: SecretString,
    /// The key of before: requests are signed with both while the other side changes over.
    pub secret_previous: Option<SecretString>,
    /// Most time for a question, waiting included.
    pub timeout: Duration,
    /// Requests at a time.
    pub connections: usize,
    /// Failures in a row after which it is left alone for a while.
    pub failures: u32,
    /// For how long.
    pub pause: Duration,
}
