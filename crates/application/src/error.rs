//! Why the application cannot be asked as configured.

/// A mistake in the configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplicationError {
    /// The address of a webhook.
    #[error("webhooks.{name}.url {why}")]
    Address {
        /// Which webhook.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// A key that is too short to sign with.
    #[error(
        "webhooks.{0}.secret is shorter than 32 bytes; make a longer one: openssl rand -hex 32"
    )]
    Secret(String),
    /// The HTTP client cannot be made.
    #[error("no HTTP client for webhooks: {0}")]
    Client(String),
}

impl ApplicationError {
    /// A stable code for programs.
    pub fn code(&self) -> &'static str {
        match self {
            ApplicationError::Address { .. } => "webhook_address",
            ApplicationError::Secret(_) => "webhook_secret",
            ApplicationError::Client(_) => "webhook_client",
        }
    }
}
