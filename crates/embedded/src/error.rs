//! What can go wrong with a private cluster, and what mends it.

use std::{io, path::PathBuf};

/// A private cluster could not be made, started or stopped.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// No server binaries of the wanted version were found.
    #[error(
        "no PostgreSQL {wanted} was found (looked at $ROWCAST_PG_BIN, .cache/postgres/*/bin, \
         /usr/lib/postgresql/*/bin and $PATH); run `scripts/postgres.sh {install}`, or install the \
         package postgresql"
    )]
    NoBinaries {
        /// The wanted major version, or `server`.
        wanted: String,
        /// What to install.
        install: u32,
    },
    /// We are root, and there is no other user to run the server as.
    #[error("PostgreSQL does not run as root, and neither a user `postgres` nor `nobody` exists")]
    NoUser,
    /// A step of the file system or a process failed.
    #[error("{what} {path}: {source}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// A program ended with an error.
    #[error("{program} failed: {output}")]
    Program {
        /// Which program.
        program: &'static str,
        /// The end of what it said.
        output: String,
    },
    /// The server did not come up.
    #[error("PostgreSQL did not start: {reason}; end of its log:\n{log}")]
    NotStarted {
        /// Why we gave up.
        reason: String,
        /// The end of its log.
        log: String,
    },
    /// The server did not go down in time.
    #[error("PostgreSQL did not stop within {seconds} s")]
    NotStopped {
        /// How long we waited.
        seconds: u64,
    },
}

impl EmbeddedError {
    /// A stable code for programs.
    pub fn code(&self) -> &'static str {
        match self {
            EmbeddedError::NoBinaries { .. } => "no_binaries",
            EmbeddedError::NoUser => "no_user",
            EmbeddedError::Io { .. } => "io",
            EmbeddedError::Program { .. } => "program_failed",
            EmbeddedError::NotStarted { .. } => "not_started",
            EmbeddedError::NotStopped { .. } => "not_stopped",
        }
    }

    /// For `map_err`: names the step and the path.
    pub(crate) fn io(
        what: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(io::Error) -> EmbeddedError {
        let path = path.into();
        move |source| EmbeddedError::Io { what, path, source }
    }
}
