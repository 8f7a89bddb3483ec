//! Plain connections to the database for commands and housekeeping.

use anyhow::Context;
use rowcast_source::{ConnInfo, SourceError};
use tokio_postgres::Client;

use crate::config::{Config, Secret};

/// The address of the database.
pub fn sql(config: &Config) -> anyhow::Result<ConnInfo> {
    parse(config, config.database_url()?)
}

/// The address for replication: the server itself, where the other goes through a pooler.
pub fn replication(config: &Config) -> anyhow::Result<ConnInfo> {
    match &config.database.replication_url {
        Some(url) => parse(config, url),
        None => sql(config),
    }
}

/// Another address, with the same files of certificates.
pub fn parse(config: &Config, url: &Secret) -> anyhow::Result<ConnInfo> {
    let ca_file = config.database.tls_ca_file.as_deref();
    ConnInfo::parse(url.expose(), ca_file).context("the address of the database")
}

/// Connects as the configuration says; the connection ends when the client is dropped.
pub async fn connect(config: &Config) -> anyhow::Result<Client> {
    let info = sql(config)?;
    let client = info.connect("rowcast").await?;
    // Idempotent migrations would have much to notice.
    client
        .batch_execute("SET client_min_messages = warning")
        .await
        .map_err(|error| -> SourceError { info.explain(&error) })?;
    Ok(client)
}
