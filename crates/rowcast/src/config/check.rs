//! What a configuration must have before anything is started: closed by default.

use super::{Config, ConfigError, Secret};

/// The key of insecure development: known to everybody, so good for nothing else.
pub const DEVELOPMENT_SECRET: &str = "rowcast-insecure-development-only-key";

/// Secrets that stand in documents and examples.
const KNOWN_TO_ALL: [&str; 4] = [
    DEVELOPMENT_SECRET,
    "your-super-secret-jwt-token-with-at-least-32-characters-long",
    "super-secret-jwt-token-with-at-least-32-characters-long",
    "your-internal-secret-token",
];

/// Shortest HMAC key (RFC 7518 asks for the size of the hash).
const SHORTEST_SECRET: usize = 32;

/// What the configuration is wanted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To run the service.
    Serve,
    /// To talk to the database.
    Database,
    /// To sign tokens.
    Sign,
}

impl Config {
    /// Refuses what is missing or unsafe for the purpose.
    pub fn check(&self, purpose: Purpose) -> Result<(), ConfigError> {
        match purpose {
            Purpose::Database => self.database_url().map(drop),
            Purpose::Sign => self.signing_secret().map(drop),
            Purpose::Serve => {
                self.database_url()?;
                self.keys_are_safe()
            }
        }
    }

    /// The address of the database.
    pub fn database_url(&self) -> Result<&Secret, ConfigError> {
        self.database.url.as_ref().ok_or(ConfigError::Missing {
            what: "the address of the database is missing",
            mend: "set DATABASE_URL=postgres://user:password@host:5432/name (or database.url)",
        })
    }

    /// The key for development tokens.
    pub fn signing_secret(&self) -> Result<Secret, ConfigError> {
        match &self.auth.jwt_secret {
            Some(secret) => Ok(secret.clone()),
            None if self.auth.insecure_development => {
                Ok(Secret::from(DEVELOPMENT_SECRET.to_owned()))
            }
            None => Err(ConfigError::Missing {
                what: "there is no key to sign with",
                mend: "set JWT_SECRET as the service has it, or say --insecure-development",
            }),
        }
    }

    /// Where to listen: on this machine only when everybody knows the key.
    pub fn listen_host(&self) -> &str {
        match &self.server.host {
            Some(host) => host,
            None if self.keyless() => "127.0.0.1",
            None => "0.0.0.0",
        }
    }

    /// No key of the user's own.
    fn keyless(&self) -> bool {
        let auth = &self.auth;
        auth.jwt_secret.is_none() && auth.jwt_public_key.is_none() && auth.jwks_url.is_none()
    }

    fn keys_are_safe(&self) -> Result<(), ConfigError> {
        let auth = &self.auth;
        if auth.insecure_development {
            return Ok(());
        }
        if self.keyless() {
            return Err(ConfigError::Missing {
                what: "there is no key to check tokens with",
                mend: "set JWT_SECRET (openssl rand -hex 32), JWT_PUBLIC_KEY or JWKS_URL; for \
                       development on one machine, say --insecure-development",
            });
        }
        for secret in [&auth.jwt_secret, &auth.jwt_secret_previous]
            .into_iter()
            .flatten()
        {
            if KNOWN_TO_ALL.contains(&secret.expose()) {
                return Err(ConfigError::Unsafe {
                    what: "JWT_SECRET is an example that everybody knows",
                    mend: "make your own: openssl rand -hex 32",
                });
            }
            if secret.expose().len() < SHORTEST_SECRET {
                return Err(ConfigError::Unsafe {
                    what: "JWT_SECRET is shorter than 32 bytes",
                    mend: "make a longer one: openssl rand -hex 32",
                });
            }
        }
        match &auth.access_token {
            Some(token) if KNOWN_TO_ALL.contains(&token.expose()) => Err(ConfigError::Unsafe {
                what: "ACCESS_TOKEN is an example that everybody knows",
                mend: "make your own: openssl rand -hex 32",
            }),
            Some(token) if token.expose().len() < 16 => Err(ConfigError::Unsafe {
                what: "ACCESS_TOKEN is shorter than 16 bytes",
                mend: "make a longer one: openssl rand -hex 32",
            }),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(secret: Option<&str>) -> Config {
        let mut config = Config::default();
        config.database.url = Some(Secret::from("postgres://x".to_owned()));
        config.auth.jwt_secret = secret.map(|text| Secret::from(text.to_owned()));
        config
    }

    #[test]
    fn closed_by_default() {
        let code = |config: Config| config.check(Purpose::Serve).map_err(|error| error.code());
        assert_eq!(code(config(None)), Err("config_missing"));
        assert_eq!(code(config(Some("short"))), Err("config_unsafe"));
        assert_eq!(code(config(Some(KNOWN_TO_ALL[1]))), Err("config_unsafe"));
        assert_eq!(code(config(Some(&"k".repeat(32)))), Ok(()));
        assert_eq!(code(Config::default()), Err("config_missing"));
    }

    #[test]
    fn insecure_development_stays_on_this_machine() {
        let mut development = config(None);
        assert_eq!(development.listen_host(), "127.0.0.1");
        development.auth.insecure_development = true;
        assert!(development.check(Purpose::Serve).is_ok());
        assert_eq!(
            development.signing_secret().unwrap().expose(),
            DEVELOPMENT_SECRET
        );
        assert_eq!(config(Some("x")).listen_host(), "0.0.0.0");
    }
}
