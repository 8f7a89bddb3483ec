//! Signs the tokens that the tests show to the service.

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};

/// The key that every tested service is started with.
pub const SECRET: &str = "a-test-secret-of-at-least-thirty-two-bytes";

/// Seconds since 1970.
pub fn now() -> u64 {
    std::time::SystemTime::UNIX_EPOCH
        .elapsed()
        .unwrap()
        .as_secs()
}

/// A session token of `user`, good for an hour.
pub fn session(user: &str) -> String {
    sign(&json!({ "sub": user, "exp": now() + 3600 }))
}

/// Any claims, signed with the right key.
pub fn sign(claims: &Value) -> String {
    sign_with(claims, SECRET)
}

/// Any claims, signed with any key.
pub fn sign_with(claims: &Value, secret: &str) -> String {
    let key = EncodingKey::from_secret(secret.as_bytes());
    encode(&Header::new(Algorithm::HS256), claims, &key).unwrap()
}

/// An unsigned token (`alg: none`), as an attacker would write it.
pub fn unsigned(user: &str) -> String {
    // {"alg":"none","typ":"JWT"}
    let signed = session(user);
    let claims = signed.split('.').nth(1).unwrap();
    format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{claims}.")
}
