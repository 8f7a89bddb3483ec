//! What a cluster is to be like, and how it is told to stop.

use std::path::PathBuf;

/// What a cluster is to be like. The default is what tests want: any version, logical decoding on,
/// no fsync, no passwords, gone when dropped.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The wanted major version; `None` is the newest there is.
    pub major: Option<u32>,
    /// Lines of `postgresql.conf`, name and value; they win over ours.
    pub settings: Vec<(String, String)>,
    /// Where the cluster lives; `None` is a new directory among the temporary ones.
    pub dir: Option<PathBuf>,
    /// Keeps the directory when the cluster ends, and goes on with what is in it when it starts.
    pub keep: bool,
    /// Waits for the disk like a real server.
    pub fsync: bool,
    /// The password of `postgres`; with one, connections need SCRAM, without, none.
    pub password: Option<String>,
    /// The TCP port; `None` is a free one.
    pub port: Option<u16>,
}

impl Options {
    /// Adds a line of `postgresql.conf`.
    pub fn set(mut self, name: &str, value: &str) -> Options {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }
}

/// How a server is told to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// Waits until every client is gone.
    Smart,
    /// Ends the sessions, then a clean shutdown.
    Fast,
    /// Ends at once and recovers at the next start.
    Immediate,
}

impl StopMode {
    pub(crate) fn signal(self) -> &'static str {
        match self {
            StopMode::Smart => "TERM",
            StopMode::Fast => "INT",
            StopMode::Immediate => "QUIT",
        }
    }
}
