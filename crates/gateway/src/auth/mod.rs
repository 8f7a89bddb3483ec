//! Who is it? A token or an API key to an identity.
//!
//! Keys, algorithms and addresses come from the configuration, never from the token. Expired, not yet valid
//! and invalid are different answers. Nothing here logs a token.

mod api_key;
mod claims;
mod jwks;
mod keys;

use std::{sync::Arc, time::Duration};

use rowcast_hub::{Hub, Identity};
use rowcast_wire::{ErrorCode, server::AuthMethod};

pub use api_key::{KeysUsed, MOST_USED_KEYS};

use crate::{AuthConfig, GatewayError};

use claims::{Claims, Rules};
use jwks::Jwks;
use keys::Key;

/// A proved identity.
#[derive(Clone, Debug)]
pub struct Verified {
    /// Who.
    pub identity: Identity,
    /// How.
    pub method: AuthMethod,
    /// The organizations of an API key; the first is meant when none is named.
    pub organizations: Option<Vec<rowcast_model::OrgId>>,
    /// When the token ends, in seconds since 1970.
    pub expires_at: Option<u64>,
}

/// Why a token was refused. The words never hold any of the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The number for the client.
    pub code: ErrorCode,
    /// What is wrong.
    pub message: &'static str,
}

impl Refused {
    pub(crate) fn new(code: ErrorCode, message: &'static str) -> Refused {
        Refused { code, message }
    }

    /// The fault is ours, or of a service that we ask.
    pub(crate) fn unavailable() -> Refused {
        Refused::new(
            ErrorCode::AuthUnavailable,
            "the token cannot be checked at the moment",
        )
    }
}

/// Checks tokens and keys.
pub struct Verifier {
    keys: Vec<Key>,
    jwks: Vec<Jwks>,
    rules: Rules,
    keys_used: Arc<KeysUsed>,
}

/// Whether this wants to be an API key.
pub(crate) fn is_api_key(token: &str) -> bool {
    token.starts_with(api_key::PREFIX)
}

/// A token longer than this is refused unread.
const MAX_TOKEN_BYTES: usize = 16 * 1024;

impl Verifier {
    /// Reads the keys.
    ///
    /// # Errors
    /// [`GatewayError`] when a key cannot be used or there is none.
    pub fn new(config: &AuthConfig) -> Result<Verifier, GatewayError> {
        let keys = keys::read(&config.secrets, &config.public_keys)?;
        let jwks = config
            .jwks
            .iter()
            .map(|url| Jwks::new(url, config.issuer.as_deref()));
        let jwks = jwks.collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() && jwks.is_empty() {
            return Err(GatewayError::NoKey);
        }
        Ok(Verifier {
            keys,
            jwks,
            rules: Rules::from(config),
            keys_used: Arc::default(),
        })
    }

    /// The same, saying there which API keys are used.
    pub fn noting(mut self, keys_used: Arc<KeysUsed>) -> Verifier {
        self.keys_used = keys_used;
        self
    }

    /// Checks a token or an API key.
    ///
    /// # Errors
    /// [`Refused`] with the number and sentence for the client.
    pub async fn verify(&self, token: &str, hub: &Hub) -> Result<Verified, Refused> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(Refused::new(
                ErrorCode::TokenInvalid,
                "the token is longer than 16 KiB",
            ));
        }
        if is_api_key(token) {
            return api_key::verify(token, hub, &self.keys_used, since_1970());
        }
        self.verify_jwt(token)
            .await
            .map(|claims| self.identify(claims, hub))
    }

    async fn verify_jwt(&self, token: &str) -> Result<Claims, Refused> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| {
            Refused::new(
                ErrorCode::TokenInvalid,
                "the token is not a JWT with a known algorithm",
            )
        })?;
        let mut refused = Refused::new(
            ErrorCode::TokenInvalid,
            "no key of this service has signed the token",
        );
        for key in self.keys.iter().filter(|key| key.takes(header.alg)) {
            match claims::check(token, key, &self.rules) {
                Ok(claims) => return Ok(claims),
                Err(error) => refused = worse(refused, error),
            }
        }
        // Shared secrets do not come from key sets, so these are not asked for them.
        for set in self.jwks.iter().filter(|_| !keys::is_hmac(header.alg)) {
            match set.keys_for(header.kid.as_deref(), header.alg).await {
                Err(error) => refused = worse(refused, error),
                Ok(keys) => {
                    for key in keys {
                        match claims::check(token, &key, &self.rules) {
                            Ok(claims) => return Ok(claims),
                            Err(error) => refused = worse(refused, error),
                        }
                    }
                }
            }
        }
        Err(refused)
    }

    fn identify(&self, mut claims: Claims, hub: &Hub) -> Verified {
        let granted = match self.rules.trust_claims {
            true => claims.granted(),
            false => Arc::new([]),
        };
        let user = claims.sub.as_str().into();
        Verified {
            identity: Identity {
                user,
                auth: rowcast_hub::Auth::Session { granted },
                claims: claims.all.take().and_then(|all| hub.keep_claims(all)),
            },
            method: AuthMethod::Session,
            organizations: None,
            expires_at: Some(self.rules.end_of(&claims, since_1970())),
        }
    }
}

/// Of two refusals the one that says more: that the signature fits no key says least.
fn worse(a: Refused, b: Refused) -> Refused {
    match a.code {
        ErrorCode::TokenInvalid => b,
        _ => a,
    }
}

/// What the clock on the wall says.
pub(crate) fn since_1970() -> Duration {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.unwrap_or(Duration::ZERO)
}
