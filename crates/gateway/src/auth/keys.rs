//! The static keys, each with the algorithms it may be used with.

use jsonwebtoken::{Algorithm, DecodingKey};
use secrecy::{ExposeSecret, SecretString};

use crate::GatewayError;

/// Shortest secret in bytes: the output length of SHA-256.
const MIN_SECRET_BYTES: usize = 32;

const HMAC: &[Algorithm] = &[Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
const RSA: &[Algorithm] = &[
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];

/// A key and what it may be used with.
#[derive(Clone)]
pub(crate) struct Key {
    pub key: DecodingKey,
    pub algorithms: Vec<Algorithm>,
}

impl Key {
    /// Whether a token with this algorithm may be checked with this key.
    pub fn takes(&self, algorithm: Algorithm) -> bool {
        self.algorithms.contains(&algorithm)
    }
}

/// Whether an algorithm works with a shared secret.
pub(crate) fn is_hmac(algorithm: Algorithm) -> bool {
    HMAC.contains(&algorithm)
}

/// All RSA algorithms.
pub(crate) fn rsa() -> Vec<Algorithm> {
    RSA.to_vec()
}

/// Reads secrets and public keys.
pub(crate) fn read(
    secrets: &[SecretString],
    public_keys: &[SecretString],
) -> Result<Vec<Key>, GatewayError> {
    let mut keys = Vec::new();
    for secret in secrets {
        let bytes = secret.expose_secret().as_bytes();
        if bytes.len() < MIN_SECRET_BYTES {
            return Err(GatewayError::WeakSecret(bytes.len()));
        }
        keys.push(Key {
            key: DecodingKey::from_secret(bytes),
            algorithms: HMAC.to_vec(),
        });
    }
    for pem in public_keys {
        keys.push(public_key(pem.expose_secret().as_bytes())?);
    }
    Ok(keys)
}

fn public_key(pem: &[u8]) -> Result<Key, GatewayError> {
    if let Ok(key) = DecodingKey::from_rsa_pem(pem) {
        return Ok(Key {
            key,
            algorithms: rsa(),
        });
    }
    if let Ok(key) = DecodingKey::from_ed_pem(pem) {
        return Ok(Key {
            key,
            algorithms: vec![Algorithm::EdDSA],
        });
    }
    match DecodingKey::from_ec_pem(pem) {
        Ok(key) => Ok(Key {
            key,
            algorithms: vec![Algorithm::ES256, Algorithm::ES384],
        }),
        Err(error) => Err(GatewayError::PublicKey(error.to_string())),
    }
}
