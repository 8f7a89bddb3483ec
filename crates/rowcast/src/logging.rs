//! Sets up the log: to standard error, for people or for machines.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, fmt};

use crate::config::{ConfigError, LogFormat, Setting};

/// Starts logging; a filter that cannot be understood is an error.
pub fn start(level: &str, format: LogFormat) -> Result<(), ConfigError> {
    let filter = EnvFilter::try_new(level).map_err(|error| ConfigError::Invalid {
        origin: "configuration".to_owned(),
        key: "log.level".to_owned(),
        why: format!("must be a level such as `info`, or a filter: {error}"),
    })?;
    let builder = fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    let done = match format {
        LogFormat::Text => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    // Only tests start it twice.
    if let Err(error) = done {
        tracing::debug!(%error, format = %format.show(), "the log was started before");
    }
    Ok(())
}
