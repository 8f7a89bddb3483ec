//! Where the database is, parsed once, for both clients: SQL and replication. The password does not print.

use std::{
    fmt,
    net::IpAddr,
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
    reach::{self, ADDRESS_TIMEOUT, Answered},
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
    answered: Answered,
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
            answered: Answered::default(),
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
        let (client, _) = self.connect_in_time(application_name).await?;
        Ok(client)
    }

    async fn connect_in_time(
        &self,
        application_name: &str,
    ) -> Result<(Client, Option<IpAddr>), SourceError> {
        let connecting = Box::pin(self.connect_somewhere(application_name));
        tokio::time::timeout(CONNECT_TIMEOUT * 2, connecting)
            .await
            .unwrap_or_else(|_| Err(SourceError::Connection("no answer within 20 s".into())))
    }

    /// A connection, and to which of several addresses.
    async fn connect_somewhere(
        &self,
        application_name: &str,
    ) -> Result<(Client, Option<IpAddr>), SourceError> {
        let addresses = reach::addresses(&self.config, self.answered.get()).await;
        if addresses.is_empty() {
            let client = self.connect_with(self.config.clone(), application_name);
            return Ok((client.await?, None));
        }
        let mut said = None;
        for address in addresses {
            match self.at(address).connect_at(application_name).await {
                Ok(client) => {
                    self.answered.set(address);
                    return Ok((client, Some(address)));
                }
                // What a server says is worth more than that nobody is there.
                Err(error) => match &said {
                    Some(before) if !matches!(before, SourceError::Connection(_)) => {}
                    _ => said = Some(error),
                },
            }
        }
        Err(said.unwrap_or_else(|| SourceError::Connection("no address answers".into())))
    }

    async fn connect_at(&self, application_name: &str) -> Result<Client, SourceError> {
        let mut config = self.config.clone();
        config.connect_timeout(ADDRESS_TIMEOUT);
        self.connect_with(config, application_name).await
    }

    async fn connect_with(
        &self,
        mut config: Config,
        application_name: &str,
    ) -> Result<Client, SourceError> {
        config.application_name(application_name);
        let tls =
            tls::client_config(self.verify, self.ca_file.as_deref()).map_err(SourceError::Tls)?;
        let connected = config.connect(MakeRustlsConnect::new((*tls).clone()));
        let (client, connection) = connected.await.map_err(|error| self.explain(&error))?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a database connection ended");
            }
        });
        Ok(client)
    }

    /// Has the server give up what this client asked for; says nothing when that fails, as the question may just have
    /// been answered.
    pub async fn cancel(&self, client: &Client) {
        let Ok(tls) = tls::client_config(self.verify, self.ca_file.as_deref()) else {
            return;
        };
        let token = client.cancel_token();
        let cancelled = token.cancel_query(MakeRustlsConnect::new((*tls).clone()));
        if let Err(error) = cancelled.await {
            tracing::debug!(%error, "a statement could not be cancelled");
        }
    }

    /// The same host at one of its addresses.
    fn at(&self, address: IpAddr) -> ConnInfo {
        let mut one = self.clone();
        one.config.hostaddr(address);
        one
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

    /// This address with one host only, at one address: the one that answers and is no standby. Replication goes to
    /// one server, and its client waits for each address as long as the system likes.
    pub(crate) async fn primary(&self) -> Result<ConnInfo, SourceError> {
        let hosts = self.config.get_hosts();
        if hosts.len() < 2 {
            let choice = reach::addresses(&self.config, None).await;
            return match choice.is_empty() {
                true => Ok(self.clone()),
                false => self.clone().answering().await,
            };
        }
        let mut last = SourceError::Connection("none of the hosts answers".into());
        for (i, host) in hosts.iter().enumerate() {
            match self.only(host, i).answering().await {
                Ok(one) => return Ok(one),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// The one host, at the address that answers where it has several.
    async fn answering(self) -> Result<ConnInfo, SourceError> {
        Ok(match self.connect_in_time("rowcast set-up").await? {
            (_, Some(address)) => self.at(address),
            (_, None) => self,
        })
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
        if let Some(address) = self.config.get_hostaddrs().get(i) {
            config.hostaddr(*address);
        }
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
            answered: Answered::default(),
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
                // The name is what the certificate is for, the address is where to go.
                let tls = self.replication_tls();
                let (host, tls) = match (host, self.config.get_hostaddrs().first()) {
                    (Some(Host::Tcp(name)), Some(address)) => {
                        (address.to_string(), tls.with_sni_hostname(name))
                    }
                    (Some(Host::Tcp(name)), None) => (name.clone(), tls),
                    (_, Some(address)) => (address.to_string(), tls),
                    _ => return Err(SourceError::Address("no host".into())),
                };
                ReplicationConfig::new(host, user, password, self.database(), slot, publication)
                    .with_port(port)
                    .with_tls(tls)
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
        let config = info
            .only(&Host::Tcp("b".into()), 1)
            .at([10, 0, 0, 1].into())
            .replication("s", "p", "")
            .unwrap();
        assert_eq!((config.host.as_str(), config.port), ("10.0.0.1", 6000));
        assert_eq!(config.tls.sni_hostname.as_deref(), Some("b"));
        let unix = ConnInfo::parse("host=/run/x user=me", None).unwrap();
        let config = unix.replication("s", "p", "").unwrap();
        assert!(config.is_unix_socket());
        assert_eq!(config.database, "me");
    }
}
