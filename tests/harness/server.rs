//! The real program, as a process of its own.

use std::{
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use super::{postgres::Database, token};

/// A command of the program with nothing but the given environment.
pub fn command(arguments: &[&str], env: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rowcast"));
    command
        .args(arguments)
        .env_clear()
        .envs(env.iter().copied())
        .stdin(Stdio::null());
    command
}

/// Runs a command of the program to its end; kills it when that does not come.
pub async fn run(arguments: &[&str], env: &[(&str, &str)]) -> Finished {
    let mut command = tokio::process::Command::from(command(arguments, env));
    command
        .kill_on_drop(true)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let output = tokio::time::timeout(Duration::from_secs(40), command.output())
        .await
        .unwrap_or_else(|_| panic!("rowcast {arguments:?} does not end"))
        .unwrap();
    Finished::from(output)
}

/// What a finished command left.
#[derive(Debug)]
pub struct Finished {
    pub code: Option<i32>,
    pub said: String,
}

impl From<Output> for Finished {
    fn from(output: Output) -> Self {
        let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
        said.push_str(&String::from_utf8_lossy(&output.stderr));
        Finished {
            code: output.status.code(),
            said,
        }
    }
}

/// A running service. Dropping it kills it.
pub struct Server {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    pub public: SocketAddr,
    pub internal: SocketAddr,
}

impl Server {
    /// The environment of a service on `database`.
    pub fn env(database: &Database) -> Vec<(String, String)> {
        [
            ("DATABASE_URL", database.url.as_str()),
            ("PORT", "0"),
            ("ROWCAST_INTERNAL_PORT", "0"),
            ("JWT_SECRET", token::SECRET),
            ("ROWCAST_SLOT", &database.slot()),
            ("LOG_LEVEL", "info"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
    }

    /// Starts a service, with more environment, and waits until it is ready.
    pub async fn start(database: &Database, more: &[(&str, &str)]) -> Server {
        let server = Server::launch(database, more).await;
        server.until_ready().await;
        server
    }

    /// Starts a service and waits only until it listens.
    pub async fn launch(database: &Database, more: &[(&str, &str)]) -> Server {
        let mut server = Server::launch_any(database, more);
        server.until_listening().await;
        server
    }

    /// The same as `start` for a process that may open only so many files.
    pub async fn start_with_files(
        database: &Database,
        more: &[(&str, &str)],
        files: u32,
    ) -> Server {
        let mut server = Server::launch_by(database, more, |program| {
            let mut limited = Command::new("/bin/sh");
            limited.args(["-c", &format!("ulimit -n {files}; exec {program} serve")]);
            limited.env_clear().stdin(Stdio::null());
            limited
        });
        server.until_listening().await;
        server.until_ready().await;
        server
    }

    /// Starts a service that may never get as far as listening.
    pub fn launch_any(database: &Database, more: &[(&str, &str)]) -> Server {
        Server::launch_by(database, more, |_| command(&["serve"], &[]))
    }

    /// The same, as the command of somebody else: a program that runs it in surroundings of its own.
    pub fn launch_by(
        database: &Database,
        more: &[(&str, &str)],
        make: impl FnOnce(&str) -> Command,
    ) -> Server {
        let mut env = Server::env(database);
        env.extend(
            more.iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        );
        let mut child = make(env!("CARGO_BIN_EXE_rowcast"))
            .envs(env)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = Arc::new(Mutex::new(Vec::new()));
        collect(child.stdout.take().unwrap(), lines.clone());
        collect(child.stderr.take().unwrap(), lines.clone());
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        Server {
            child,
            lines,
            public: nowhere,
            internal: nowhere,
        }
    }

    pub async fn until_listening(&mut self) {
        let lines = self.lines.clone();
        let log = || lines.lock().unwrap().join("\n");
        super::until_or("the service listens", log, async || {
            assert!(
                self.child.try_wait().unwrap().is_none(),
                "it ended:\n{}",
                self.log()
            );
            self.found_addresses()
        })
        .await;
    }

    /// Whether the service has said where it listens; if so, both addresses are known from here on.
    pub fn found_addresses(&mut self) -> bool {
        let found = self.listens_on();
        if let Some((public, internal)) = found {
            (self.public, self.internal) = (public, internal);
        }
        found.is_some()
    }

    /// The public and the internal address, once its log names them.
    fn listens_on(&self) -> Option<(SocketAddr, SocketAddr)> {
        let lines = self.lines.lock().unwrap();
        lines.iter().find_map(|line| addresses(line))
    }

    /// How the process ended, if it did.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().unwrap()
    }

    /// `kill -TERM`.
    pub fn terminate(&self) {
        let pid = self.pid().to_string();
        let sent = Command::new("kill").args(["-TERM", &pid]).status();
        assert!(sent.unwrap().success(), "there is no process {pid}");
    }

    /// Whether `/readyz` says 200 at this moment; a service that does not listen is not ready.
    pub async fn is_ready(&self) -> bool {
        match self.listens_on() {
            Some((_, internal)) => get(internal, "/readyz")
                .await
                .is_some_and(|(status, _)| status == 200),
            None => false,
        }
    }

    /// Waits until `/readyz` says 200.
    pub async fn until_ready(&self) {
        super::until_or(
            "the service is ready",
            || self.log(),
            async || {
                self.get("/readyz")
                    .await
                    .is_some_and(|(status, _)| status == 200)
            },
        )
        .await;
    }

    /// Status and body of a page on the internal port.
    pub async fn get(&self, path: &str) -> Option<(u16, String)> {
        get(self.internal, path).await
    }

    /// One figure of `/metrics`, by its name without `rowcast_`, with its label if it has one: 0 before it
    /// was counted for the first time.
    pub async fn metric(&self, name: &str) -> f64 {
        let (_, text) = self.get("/metrics").await.unwrap();
        let figure = text.lines().find_map(|line| {
            let rest = line.strip_prefix("rowcast_")?.strip_prefix(name)?;
            rest.strip_prefix(' ')?.parse().ok()
        });
        figure.unwrap_or_default()
    }

    /// Waits until the service has closed a socket for this reason.
    pub async fn until_closed_a_socket(&self, reason: &str) {
        let name = format!("socket_closes_total{{reason=\"{reason}\"}}");
        super::until("a socket is closed", async || {
            self.metric(&name).await >= 1.0
        })
        .await;
    }

    /// All that the service wrote so far.
    pub fn log(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Resident memory of the process in KiB (`VmRSS`) and its highest mark (`VmHWM`).
    pub fn memory_kib(&self) -> (u64, u64) {
        let status = std::fs::read_to_string(
            Path::new("/proc")
                .join(self.pid().to_string())
                .join("status"),
        );
        let status = status.unwrap();
        let field = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        (field("VmRSS:"), field("VmHWM:"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            eprintln!("--- what the service wrote ---\n{}", self.log());
        }
    }
}

/// Status and body of a page.
pub async fn get(address: SocketAddr, path: &str) -> Option<(u16, String)> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    Some((status, body.to_owned()))
}

/// Both addresses of the line `listening public=… internal=…`.
fn addresses(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    let after = |name: &str| {
        let rest = line.split_once(name)?.1.trim_start_matches('"');
        let end = rest.find(|c: char| !(c.is_ascii_hexdigit() || ".:[]".contains(c)));
        rest[..end.unwrap_or(rest.len())].parse().ok()
    };
    Some((after("public=")?, after("internal=")?))
}

fn collect(from: impl Read + Send + 'static, lines: Arc<Mutex<Vec<String>>>) {
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            lines.lock().unwrap().push(line);
        }
    });
}

#[test]
fn finds_the_addresses_in_the_log() {
    assert_eq!(
        addresses("INFO listening public=127.0.0.1:80 internal=127.0.0.1:90 more=1"),
        Some((([127, 0, 0, 1], 80).into(), ([127, 0, 0, 1], 90).into()))
    );
}
