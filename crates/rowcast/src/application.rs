//! Connects whoever asks with the application: the configuration becomes the crate's, the gateway's trait its.

use std::sync::Arc;

use anyhow::Context;
use futures_util::{FutureExt, future::BoxFuture};
use prometheus_client::registry::Registry;
use rowcast_application::{Application, ApplicationConfig, FunctionsConfig, WebhookConfig};
use rowcast_model::{AskError, Question};
use rowcast_source::ConnInfo;
use secrecy::SecretString;
use serde_json::value::RawValue;

use crate::{
    config::{Config, Secret, Webhook},
    db,
};

/// The application, as the gateway wants it.
pub struct Asked(pub Arc<Application>);

impl rowcast_gateway::Application for Asked {
    fn ask(
        self: Arc<Self>,
        question: Question,
    ) -> BoxFuture<'static, Result<Box<RawValue>, AskError>> {
        async move { self.0.ask(&question).await }.boxed()
    }
}

/// Makes it as the configuration says.
pub fn build(
    config: &Config,
    sql: &ConnInfo,
    registry: &mut Registry,
) -> anyhow::Result<Arc<Application>> {
    let application = &config.application;
    let database = match &application.database_url {
        Some(url) => db::parse(config, url).context("application.database_url")?,
        None => sql.clone(),
    };
    let webhooks = config.webhooks.iter();
    let config = ApplicationConfig {
        functions: FunctionsConfig {
            database,
            role: application.role.clone(),
            api_key_role: application.api_key_role.clone(),
            claim_roles: application.claim_roles.clone(),
            connections: application.connections as usize,
            timeout: application.timeout.0,
        },
        webhooks: webhooks
            .map(|(name, webhook)| Ok((name.clone(), webhook_config(name, webhook)?)))
            .collect::<anyhow::Result<_>>()?,
        questions_bytes: application.questions_bytes.as_usize(),
        answer_bytes: application.answer_bytes.as_usize(),
    };
    Ok(Arc::new(Application::new(config, registry)?))
}

fn webhook_config(name: &str, webhook: &Webhook) -> anyhow::Result<WebhookConfig> {
    let secret = |secret: &Secret| SecretString::from(secret.expose().to_owned());
    let url = webhook.url.as_ref();
    let url = url.with_context(|| format!("webhooks.{name}.url is missing"))?;
    let key = webhook.secret.as_ref().with_context(|| {
        format!("webhooks.{name}.secret is missing; make one: openssl rand -hex 32")
    })?;
    Ok(WebhookConfig {
        url: url.expose().to_owned(),
        secret: secret(key),
        secret_previous: webhook.secret_previous.as_ref().map(secret),
        timeout: webhook.timeout.0,
        connections: webhook.connections as usize,
        failures: webhook.failures,
        pause: webhook.pause.0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn webhooks_need_an_address_and_a_key_of_32_bytes() {
        let sql = ConnInfo::parse("postgres://x@localhost/x", None).unwrap();
        let made = |url: Option<&str>, key: Option<&str>| {
            let mut config = Config::default();
            let webhook = config.webhooks.entry("rooms".into()).or_default();
            let secret = |text: &str| Secret::from(text.to_owned());
            (webhook.url, webhook.secret) = (url.map(secret), key.map(secret));
            let made = build(&config, &sql, &mut Registry::default());
            made.map(drop).map_err(|error| error.to_string())
        };
        let key = "k".repeat(32);
        assert_eq!(
            made(Some("https://app.example.com/rooms"), Some(&key)),
            Ok(())
        );
        for (url, key) in [
            (None, Some(&*key)),
            (Some("https://a"), None),
            (Some("https://a"), Some("short")),
            (Some("ftp://a"), Some(&*key)),
            (Some("a/b"), Some(&*key)),
        ] {
            let error = made(url, key).unwrap_err();
            assert!(error.starts_with("webhooks.rooms."), "{error}");
        }
    }
}
