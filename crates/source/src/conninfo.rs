//! Where the database is, parsed once, for both clients: SQL and replication. The password does not print.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use pgwire_replication::{ReplicationConfig, TlsConfig};
use tokio_postgres::{
    Client, Config,
    config::{Host, SslMode},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::{
    error::{SourceError, classify},
    tls::{self, Verify},
};

/// How long one attempt to connect may take.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The address of a database.
#[derive(Clone)]
pub struct ConnInfo {
    config: Config,
    verify: Verify,
    ca_file: Option<PathBuf>,
}

impl fmt::Debug for ConnInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnInfo")
            .field("hosts", &self.config.get_hosts())
            .field("user", &self.user())
            .finish()
    }
}

impl ConnInfo {
    /// Reads a libpq URI or `key=value` text, `sslmode` and `sslrootcert` included.
    pub fn parse(url: &str, ca_file: Option<&Path>) -> Result<ConnInfo, SourceError> {
        let (mut config, verify) = tls::parse(url).map_err(SourceError::Address)?;
        if config.get_hosts().is_empty() {
            config.host("localhost");
        }
        config.connect_timeout(CONNECT_TIMEOUT);
        // A named file of certificates is there to be checked against, as libpq has it too.
        let verify = match (verify, ca_file) {
            (Verify::Nothing, Some(_)) => Verify::Issuer,
            (verify, _) => verify,
        };
        Ok(ConnInfo {
            config,
            verify,
            ca_file: ca_file.map(Path::to_owned),
        })
    }

    /// The role we connect as.
    pub fn user(&self) -> &str {
        self.config.get_user().unwrap_or("postgres")
    }

    /// A new SQL connection; it ends when the client is dropped.
    pub async fn connect(&self, application_name: &str) -> Result<Client, SourceError> {
        let mut config = self.config.clone();
        config.application_name(application_name);
        let tls =
            tls::client_config(self.verify, self.ca_file.as_deref()).map_err(SourceError::Tls)?;
        let connecting = config.connect(MakeRustlsConnect::new((*tls).clone()));
        let connected = tokio::time::timeout(CONNECT_TIMEOUT * 2, connecting).await;
        let (client, connection) = match connected {
            Ok(Ok(connected)) => connected,
            Ok(Err(error)) => return Err(self.explain(&error)),
            Err(_) => return Err(SourceError::Connection("no answer within 20 s".into())),
        };
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a database connection ended");
            }
        });
        Ok(client)
    }

    /// What an error of the SQL client means.
    pub fn explain(&self, error: &tokio_postgres::Error) -> SourceError {
        match error.as_db_error() {
            Some(db) => classify(Some(db.code().code()), db.message(), "", "", self.user()),
            None => SourceError::Connection(match std::error::Error::source(error) {
                Some(cause) => format!("{error}: {cause}"),
                None => error.to_string(),
            }),
        }
    }

    /// The same address for the replication client.
    pub(crate) fn replication(
        &self,
        slot: &str,
        publication: &str,
    ) -> Result<ReplicationConfig, SourceError> {
        let database = self.config.get_dbname().unwrap_or(self.user());
        let password = self
            .config
            .get_password()
            .map(String::from_utf8_lossy)
            .unwrap_or_default();
        let port = self.config.get_ports().first().copied().unwrap_or(5432);
        // The names go into a command as they are, so they are quoted here.
        let publication = format!("\"{}\"", publication.replace('"', "\"\""));
        match self.config.get_hosts().first() {
            Some(Host::Unix(directory)) => Ok(ReplicationConfig::unix(
                directory.display().to_string(),
                port,
                self.user(),
                password,
                database,
                slot,
                publication,
            )),
            Some(Host::Tcp(host)) => {
                let tls = match (self.config.get_ssl_mode(), self.verify) {
                    (SslMode::Disable, _) => TlsConfig::disabled(),
                    (_, Verify::Host) => TlsConfig::verify_full(self.ca_file.clone()),
                    (_, Verify::Issuer) => TlsConfig::verify_ca(self.ca_file.clone()),
                    (SslMode::Require, Verify::Nothing) => TlsConfig::require(),
                    _ => TlsConfig {
                        mode: pgwire_replication::SslMode::Prefer,
                        ..TlsConfig::disabled()
                    },
                };
                Ok(ReplicationConfig::new(
                    host.as_str(),
                    self.user(),
                    password,
                    database,
                    slot,
                    publication,
                )
                .with_port(port)
                .with_tls(tls))
            }
            _ => Err(SourceError::Address("no host".into())),
        }
    }
}
