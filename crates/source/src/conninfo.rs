//! Where the database is, parsed once, for both clients: SQL and replication. The password does not print.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use pgwire_replication::{ReplicationConfig, TlsConfig};
use tokio_postgres::{
    Client, Config,
    config::{Host, SslMode, TargetSessionAttrs},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::{
    address::{self, Address},
    error::{SourceError, classify},
    tls::{self, Verify},
};

/// How long one attempt to connect may take.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// After so much silence of a connection the system asks whether the other side still lives.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);

/// The address of a database.
#[derive(Clone)]
pub struct ConnInfo {
    config: Config,
    user: String,
    verify: Verify,
    ca_file: Option<PathBuf>,
}

impl fmt::Debug for ConnInfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnInfo")
            .field("hosts", &self.config.get_hosts())
            .field("user", &self.user)
            .finish_non_exhaustive()
    }
}

impl ConnInfo {
    /// Reads a libpq URI or `key=value` text, `sslmode` and `sslrootcert` included; `ca_file` is the file of
    /// certificates to trust where the text names none.
    ///
    /// # Errors
    /// [`SourceError::Address`], saying what cannot be understood.
    pub fn parse(url: &str, ca_file: Option<&Path>) -> Result<ConnInfo, SourceError> {
        let Address {
            mut config,
            mode_said,
            verify,
            ca_file: named,
        } = address::parse(url).map_err(SourceError::Address)?;
        if config.get_hosts().is_empty() && config.get_hostaddrs().is_empty() {
            config.host("localhost");
        }
        if config.get_hosts().len() > 1
            && config.get_target_session_attrs() == TargetSessionAttrs::Any
        {
            // A standby among them can neither make a slot nor tell what the primary shows.
            config.target_session_attrs(TargetSessionAttrs::ReadWrite);
        }
        config.connect_timeout(CONNECT_TIMEOUT);
        config.keepalives_idle(KEEPALIVE_IDLE);
        let ca_file = named.or_else(|| ca_file.map(Path::to_owned));
        // A named file of certificates is there to be checked against, unless `sslmode` says that it is not.
        let local = (config.get_hosts().iter()).any(|host| !matches!(host, Host::Tcp(_)));
        if ca_file.is_some() && !mode_said && !local {
            config.ssl_mode(SslMode::Require);
        }
        let verify = match (verify, config.get_ssl_mode(), &ca_file) {
            (Verify::Nothing, SslMode::Require, Some(_)) => Verify::Issuer,
            (verify, ..) => verify,
        };
        let user = match config.get_user() {
            Some(user) => user.to_owned(),
            None => std::env::var("USER").unwrap_or_else(|_| "postgres".to_owned()),
        };
        config.user(&user);
        Ok(ConnInfo {
            config,
            user,
            verify,
            ca_file,
        })
    }

    /// The role we connect as.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The database we connect to.
    pub fn database(&self) -> &str {
        self.config.get_dbname().unwrap_or(&self.user)
    }

    /// A new SQL connection; it ends when the client is dropped. Its task runs on the current runtime.
    ///
    /// # Errors
    /// Why it cannot be made.
    pub async fn connect(&self, application_name: &str) -> Result<Client, SourceError> {
        let mut config = self.config.clone();
        config.application_name(application_name);
        let tls =
            tls::client_config(self.verify, self.ca_file.as_deref()).map_err(SourceError::Tls)?;
        let connecting = config.connect(MakeRustlsConnect::new((*tls).clone()));
        let connected = tokio::time::timeout(CONNECT_TIMEOUT * 2, Box::pin(connecting)).await;
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
        if let Some(db) = error.as_db_error() {
            return classify(Some(db.code().code()), db.message(), "", "", self.user());
        }
        // The client keeps the kinds of its errors to itself; their texts are fixed.
        let kind = error.to_string();
        let text = match std::error::Error::source(error) {
            Some(cause) => format!("{kind}: {cause}"),
            None => kind.clone(),
        };
        match kind.as_str() {
            "authentication error" => SourceError::AuthFailed(text),
            "invalid configuration" if text.contains("password") => SourceError::AuthFailed(text),
            "invalid configuration" => SourceError::Address(text),
            "error performing TLS handshake" => SourceError::Tls(text),
            _ => SourceError::Connection(text),
        }
    }

    /// This address with one host only: the one that answers and is no standby. Replication goes to one server.
    pub(crate) async fn primary(&self) -> Result<ConnInfo, SourceError> {
        let hosts = self.config.get_hosts();
        if hosts.len() < 2 {
            return Ok(self.clone());
        }
        let mut last = SourceError::Connection("none of the hosts answers".into());
        for (i, host) in hosts.iter().enumerate() {
            let one = self.only(host, i);
            match one.connect("rowcast set-up").await {
                Ok(_) => return Ok(one),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn only(&self, host: &Host, i: usize) -> ConnInfo {
        let mut config = Config::new();
        config.user(&self.user).ssl_mode(self.config.get_ssl_mode());
        config.connect_timeout(CONNECT_TIMEOUT);
        config.target_session_attrs(self.config.get_target_session_attrs());
        match host {
            Host::Tcp(name) => config.host(name),
            #[cfg(unix)]
            Host::Unix(directory) => config.host_path(directory),
        };
        let ports = self.config.get_ports();
        if let Some(port) = ports.get(i).or_else(|| ports.first()) {
            config.port(*port);
        }
        if let Some(password) = self.config.get_password() {
            config.password(password);
        }
        if let Some(name) = self.config.get_dbname() {
            config.dbname(name);
        }
        if let Some(options) = self.config.get_options() {
            config.options(options);
        }
        ConnInfo {
            config,
            ..self.clone()
        }
    }

    /// The same address for the replication client, with `options` after those of the address.
    pub(crate) fn replication(
        &self,
        slot: &str,
        publication: &str,
        options: &str,
    ) -> Result<ReplicationConfig, SourceError> {
        let password = self
            .config
            .get_password()
            .map(String::from_utf8_lossy)
            .unwrap_or_default();
        let port = self.config.get_ports().first().copied().unwrap_or(5432);
        // The names go into a command as they are, so they are quoted here.
        let publication = format!("\"{}\"", publication.replace('"', "\"\""));
        let user = self.user.as_str();
        let config = match self.config.get_hosts().first() {
            #[cfg(unix)]
            Some(Host::Unix(directory)) => {
                let directory = directory.display().to_string();
                ReplicationConfig::unix(
                    directory,
                    port,
                    user,
                    password,
                    self.database(),
                    slot,
                    publication,
                )
            }
            host => {
                let host = match (host, self.config.get_hostaddrs().first()) {
                    (Some(Host::Tcp(host)), _) => host.clone(),
                    (_, Some(address)) => address.to_string(),
                    _ => return Err(SourceError::Address("no host".into())),
                };
                ReplicationConfig::new(host, user, password, self.database(), slot, publication)
                    .with_port(port)
                    .with_tls(self.replication_tls())
            }
        };
        Ok(config.with_options(match self.config.get_options() {
            Some(theirs) => format!("{theirs} {options}"),
            None => options.to_owned(),
        }))
    }

    fn replication_tls(&self) -> TlsConfig {
        match (self.config.get_ssl_mode(), self.verify) {
            (SslMode::Disable, _) => TlsConfig::disabled(),
            (_, Verify::Host) => TlsConfig::verify_full(self.ca_file.clone()),
            (_, Verify::Issuer) => TlsConfig::verify_ca(self.ca_file.clone()),
            (SslMode::Require, Verify::Nothing) => TlsConfig::require(),
            _ => TlsConfig {
                mode: pgwire_replication::SslMode::Prefer,
                ..TlsConfig::disabled()
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_does_not_print() {
        let info = ConnInfo::parse("postgres://me:geheim@host/db", None).unwrap();
        let printed = format!("{info:?}");
        assert!(
            printed.contains("me") && !printed.contains("geheim"),
            "{printed}"
        );
    }

    #[test]
    fn a_file_of_certificates_is_used() {
        let checked = |url: &str| {
            ConnInfo::parse(url, Some(Path::new("/ca.pem")))
                .unwrap()
                .verify
        };
        assert_eq!(checked("postgres://a@b/c"), Verify::Issuer);
        assert_eq!(checked("postgres://a@b/c?sslmode=require"), Verify::Issuer);
        assert_eq!(
            checked("postgres://a@b/c?sslmode=verify-full"),
            Verify::Host
        );
        assert_eq!(checked("postgres://a@b/c?sslmode=prefer"), Verify::Nothing);
        assert_eq!(checked("host=/run/pg user=a"), Verify::Nothing);
    }

    #[test]
    fn both_clients_get_the_same() {
        let info = ConnInfo::parse(
            "postgres://me:p@a,b:6000/db?options=-c%20work_mem%3D4MB&sslmode=verify-full",
            Some(Path::new("/ca.pem")),
        )
        .unwrap();
        let config = info
            .only(&Host::Tcp("b".into()), 1)
            .replication("s", "P\"q", "-c x=y");
        let config = config.unwrap();
        assert_eq!((config.host.as_str(), config.user.as_str()), ("b", "me"));
        assert_eq!((config.port, config.database.as_str()), (6000, "db"));
        assert_eq!(config.options.as_deref(), Some("-c work_mem=4MB -c x=y"));
        assert_eq!(config.tls, TlsConfig::verify_full(Some("/ca.pem".into())));
        let unix = ConnInfo::parse("host=/run/x user=me", None).unwrap();
        let config = unix.replication("s", "p", "").unwrap();
        assert!(config.is_unix_socket());
        assert_eq!(config.database, "me");
    }
}
