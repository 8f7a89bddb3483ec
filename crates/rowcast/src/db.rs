//! Plain connections to the database for commands and housekeeping, with TLS as libpq has it:
//! `prefer` and `require` encrypt without checking who answers, `verify-ca` and `verify-full` check.

mod tls;

use std::{path::Path, sync::Arc, time::Duration};

use tokio_postgres::{Client, config::SslMode};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::{
    config::{Config, Secret},
    migrations::explain,
};

pub use tls::Verify;

/// No connection to the database.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// The address cannot be understood.
    #[error(
        "DATABASE_URL cannot be understood: {0}; it looks like postgres://user:password@host:5432/name"
    )]
    Address(String),
    /// The certificates cannot be used.
    #[error("the certificates of {path}: {why}")]
    Certificates {
        /// Which file.
        path: String,
        /// Why.
        why: String,
    },
    /// The server does not let us in, or there is none.
    #[error("cannot connect to the database: {0}")]
    Connect(String),
}

/// How long one attempt to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Connects as the configuration says.
pub async fn connect(config: &Config) -> anyhow::Result<Client> {
    let url = config.database_url()?;
    Ok(connect_to(url, config.database.tls_ca_file.as_deref()).await?)
}

/// Connects to an address; the connection ends when the client is dropped.
pub async fn connect_to(url: &Secret, ca_file: Option<&Path>) -> Result<Client, DbError> {
    let (mut config, verify) = tls::parse(url.expose()).map_err(DbError::Address)?;
    config
        .application_name("rowcast")
        .connect_timeout(CONNECT_TIMEOUT);
    let connector = connector(verify, ca_file)?;
    let wanted = config.get_ssl_mode() != SslMode::Disable;
    tracing::trace!(tls = wanted, "connecting");
    let connecting = tokio::time::timeout(CONNECT_TIMEOUT * 2, config.connect(connector));
    let (client, connection) = match connecting.await {
        Ok(Ok(connected)) => connected,
        Ok(Err(error)) => return Err(DbError::Connect(explain(&error))),
        Err(_) => return Err(DbError::Connect("no answer within 20 s".to_owned())),
    };
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(error = %explain(&error), "a database connection ended");
        }
    });
    Ok(client)
}

fn connector(verify: Verify, ca_file: Option<&Path>) -> Result<MakeRustlsConnect, DbError> {
    let failed = |why: String| DbError::Certificates {
        path: ca_file.map_or("the built-in list".to_owned(), |path| {
            path.display().to_string()
        }),
        why,
    };
    // A named file of certificates is there to be checked against, as libpq has it too.
    let verify = match (verify, ca_file) {
        (Verify::Nothing, Some(_)) => Verify::Issuer,
        (verify, _) => verify,
    };
    let config = tls::client_config(verify, ca_file).map_err(failed)?;
    Ok(MakeRustlsConnect::new(Arc::unwrap_or_clone(config)))
}
