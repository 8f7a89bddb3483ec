//! The configuration: one declared tree, from which reading, the reference in `docs/`, `rowcast config`
//! and the messages about mistakes are all made.
//!
//! Order of strength: defaults < file < known environment names < `ROWCAST__SECTION__KEY` < flags.

mod check;
mod load;
mod nearest;
mod reference;
mod setting;
mod tree;

pub use check::Purpose;
pub use load::{Sources, load};
pub use reference::{effective, reference};
pub use setting::{Secret, Setting, Span};
pub use tree::{AtLimit, Config, Entry, LogFormat, Webhook};

/// A mistake in the configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// There is no such key.
    #[error("{origin}: there is no key `{key}`{}", did_you_mean(.nearest))]
    UnknownKey {
        /// Where it was given.
        origin: String,
        /// The unknown name.
        key: String,
        /// The known name that is nearest.
        nearest: Option<String>,
    },
    /// The value does not fit.
    #[error("{origin}: `{key}` {why}")]
    Invalid {
        /// Where it was given.
        origin: String,
        /// Which key.
        key: String,
        /// What is wrong with the value; never the value itself, which may be secret.
        why: String,
    },
    /// The file cannot be read.
    #[error("the configuration file {path} {why}")]
    File {
        /// Which file.
        path: String,
        /// Why.
        why: String,
    },
    /// Something that is needed was not given.
    #[error("{what}; {mend}")]
    Missing {
        /// What is missing.
        what: &'static str,
        /// How to give it.
        mend: &'static str,
    },
    /// A value is known to everybody.
    #[error("{what}; {mend}")]
    Unsafe {
        /// What is unsafe.
        what: &'static str,
        /// What mends it.
        mend: &'static str,
    },
}

impl ConfigError {
    /// A stable code for programs.
    pub fn code(&self) -> &'static str {
        match self {
            ConfigError::UnknownKey { .. } => "config_unknown_key",
            ConfigError::Invalid { .. } => "config_invalid",
            ConfigError::File { .. } => "config_file",
            ConfigError::Missing { .. } => "config_missing",
            ConfigError::Unsafe { .. } => "config_unsafe",
        }
    }
}

fn did_you_mean(nearest: &Option<String>) -> String {
    match nearest {
        Some(name) => format!("; did you mean `{name}`?"),
        None => "; `rowcast config --reference` lists them all".to_owned(),
    }
}
