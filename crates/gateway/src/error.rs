//! Why the gateway cannot start. What goes wrong on a socket is told there, with numbers of the wire crate.

/// Why the gateway cannot start.
#[derive(Debug, thiserror::Error)]
pub enum GatewayError {
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {why}; choose another port (PORT, ROWCAST_INTERNAL_PORT)")]
    Listen {
        /// Which.
        address: std::net::SocketAddr,
        /// What the system said.
        why: std::io::Error,
    },
    /// A public key cannot be read.
    #[error("JWT_PUBLIC_KEY is not a PEM of an RSA, EC or Ed25519 public key: {0}")]
    PublicKey(String),
    /// A secret is too short.
    #[error(
        "JWT_SECRET has {0} bytes; use at least 32 random ones, for example from: openssl rand -base64 48"
    )]
    WeakSecret(usize),
    /// No way to check a token was configured.
    #[error("no key to check tokens with: set JWT_SECRET, JWT_PUBLIC_KEY or JWKS_URL")]
    NoKey,
    /// The JWKS address is not one.
    #[error("JWKS_URL cannot be used: {0}")]
    Jwks(String),
}

impl GatewayError {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            GatewayError::Listen { .. } => "listen_failed",
            GatewayError::PublicKey(_) => "public_key_invalid",
            GatewayError::WeakSecret(_) => "secret_too_short",
            GatewayError::NoKey => "no_jwt_key",
            GatewayError::Jwks(_) => "jwks_url_invalid",
        }
    }
}
