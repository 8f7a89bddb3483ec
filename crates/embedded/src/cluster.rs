//! One running cluster: its directory, its process, its end.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use crate::{
    Binaries, EmbeddedError, Options, StopMode,
    process::{call_off, free_port, is_alive, signal, unique, watchdog},
    system::{self, RunAs},
    template,
};

const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);

/// A private cluster. Dropping it stops the server at once and removes its directory.
#[derive(Debug)]
pub struct Cluster {
    binaries: Binaries,
    user: Option<RunAs>,
    base: PathBuf,
    sockets: PathBuf,
    port: u16,
    password: Option<String>,
    keep: bool,
    server: Option<Running>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    /// Ends the server when this process is gone; see [`watchdog`].
    watchdog: Option<Child>,
}

impl Cluster {
    /// Makes and starts a cluster and waits until it takes connections.
    pub fn start(options: Options) -> Result<Cluster, EmbeddedError> {
        let user = system::run_as()?;
        let binaries = Binaries::find(options.major)?.for_user(user)?;
        let own = format!("rcpg-{}", unique());
        let base = match &options.dir {
            Some(dir) => std::path::absolute(dir).map_err(EmbeddedError::io("no such", dir))?,
            None => system::temp_root().join(&own),
        };
        let sockets = match &options.dir {
            // A socket's path may have 107 bytes; a short one of our own is safe everywhere.
            Some(_) => system::temp_root().join(own),
            None => base.join("s"),
        };
        // Before there is a `Cluster`, since dropping one removes the directory.
        if let Some(pid) = running_in(&base.join("data")) {
            return Err(EmbeddedError::NotStarted {
                reason: format!("process {pid} already serves {}", base.display()),
                log: String::new(),
            });
        }
        let mut cluster = Cluster {
            binaries,
            user,
            port: options.port.unwrap_or(0),
            base,
            sockets,
            password: options.password.clone(),
            keep: options.keep,
            server: None,
        };
        cluster.prepare()?;
        cluster.start_on_free_port(&options)?;
        Ok(cluster)
    }

    fn prepare(&self) -> Result<(), EmbeddedError> {
        system::private_dir(&self.base, self.user)?;
        system::private_dir(&self.sockets, self.user)?;
        let data = self.data_dir();
        if data.join("PG_VERSION").exists() {
            if self.keep {
                return Ok(());
            }
            // Left over by a machine that went down: `cp` would copy into it.
            fs::remove_dir_all(&data).map_err(EmbeddedError::io("could not remove", &data))?;
        }
        let template = template::template(&self.binaries, self.password.as_deref(), self.user)?;
        copy(&template, &data, self.user, &self.base)
    }

    /// The free port is only known by taking it and letting it go: another process may be faster.
    fn start_on_free_port(&mut self, options: &Options) -> Result<(), EmbeddedError> {
        let mut tries = 0;
        loop {
            tries += 1;
            if options.port.is_none() {
                self.port = free_port()?;
            }
            self.write_settings(options, &[])?;
            match self.launch() {
                Err(EmbeddedError::NotStarted { log, .. })
                    if options.port.is_none() && tries < 5 && log.contains("could not bind") => {}
                other => return other,
            }
        }
    }

    fn write_settings(
        &self,
        options: &Options,
        more: &[(&str, String)],
    ) -> Result<(), EmbeddedError> {
        let mut lines: Vec<(String, String)> = [
            ("listen_addresses", "127.0.0.1".to_owned()),
            ("port", self.port.to_string()),
            (
                "unix_socket_directories",
                self.sockets.display().to_string(),
            ),
            ("wal_level", "logical".to_owned()),
            ("max_wal_senders", "20".to_owned()),
            ("max_replication_slots", "20".to_owned()),
            ("max_connections", "100".to_owned()),
            ("shared_buffers", "64MB".to_owned()),
            ("logging_collector", "off".to_owned()),
            ("log_line_prefix", "%m [%p] ".to_owned()),
            ("autovacuum_naptime", "10s".to_owned()),
        ]
        .into_iter()
        .chain(more.iter().cloned())
        .map(|(name, value)| (name.to_owned(), value))
        .collect();
        // `full_page_writes` stays on: without it PostgreSQL 18, once a standby, does not survive a killed backend.
        if !options.fsync {
            lines.push(("fsync".to_owned(), "off".to_owned()));
        }
        lines.extend(options.settings.iter().cloned());
        let text: String = lines
            .iter()
            .map(|(name, value)| format!("{name} = '{}'\n", value.replace('\'', "''")))
            .collect();
        self.write_data_file("postgresql.auto.conf", &text)?;
        let method = match self.password {
            Some(_) => "scram-sha-256",
            None => "trust",
        };
        let hba: String = ["local all", "local replication"]
            .map(|kind| format!("{kind} all {method}\n"))
            .into_iter()
            .chain(
                ["all", "replication"].map(|db| format!("host {db} all 127.0.0.1/32 {method}\n")),
            )
            .collect();
        self.write_data_file("pg_hba.conf", &hba)
    }

    fn write_data_file(&self, name: &str, text: &str) -> Result<(), EmbeddedError> {
        let path = self.data_dir().join(name);
        fs::write(&path, text).map_err(EmbeddedError::io("could not write", &path))?;
        system::own(&path, self.user)
    }

    fn launch(&mut self) -> Result<(), EmbeddedError> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            match self.launch_once(deadline) {
                // After `kill` the last backends need a moment to let go of the shared memory.
                Err(EmbeddedError::NotStarted { log, .. })
                    if Instant::now() < deadline
                        && (log.contains("pre-existing shared memory block")
                            || log.contains("lock file \"postmaster.pid\" already exists")) =>
                {
                    thread::sleep(POLL);
                }
                other => return other,
            }
        }
    }

    fn launch_once(&mut self, deadline: Instant) -> Result<(), EmbeddedError> {
        let log_path = self.log_file();
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&log_path)
            .map_err(EmbeddedError::io("could not open", &log_path))?;
        let start_of_log = log.metadata().map_or(0, |meta| meta.len());
        let to_log = |log: &fs::File| {
            log.try_clone()
                .map_err(EmbeddedError::io("could not share", &log_path))
        };
        let postgres = self.binaries.dir.join("postgres");
        let mut child = system::command(&postgres, self.user, &self.base)
            .arg("-D")
            .arg(self.data_dir())
            .stdin(Stdio::null())
            .stdout(to_log(&log)?)
            .stderr(to_log(&log)?)
            .spawn()
            .map_err(EmbeddedError::io("could not run", &postgres))?;
        let pid = child.id();
        loop {
            if self.says_ready(pid) {
                break;
            }
            let ended = child
                .try_wait()
                .map_err(EmbeddedError::io("could not wait for", &postgres))?;
            let late = Instant::now() > deadline;
            if ended.is_some() || late {
                let reason = match ended {
                    Some(status) => format!("it ended with {status}"),
                    None => {
                        let _ = child.kill();
                        let _ = child.wait();
                        format!("not ready within {} s", START_LIMIT.as_secs())
                    }
                };
                return Err(EmbeddedError::NotStarted {
                    reason,
                    log: self.log_since(start_of_log),
                });
            }
            thread::sleep(POLL);
        }
        let watchdog = watchdog(pid, &self.base, &self.sockets, self.keep);
        self.server = Some(Running { child, watchdog });
        Ok(())
    }

    /// The server writes its state into the eighth line of its pid file.
    fn says_ready(&self, pid: u32) -> bool {
        let text = fs::read_to_string(self.data_dir().join("postmaster.pid")).unwrap_or_default();
        let mut lines = text.lines();
        let first = lines.next().and_then(|line| line.trim().parse().ok());
        let state = lines.nth(6).map(str::trim);
        first == Some(pid) && matches!(state, Some("ready" | "standby"))
    }

    fn log_since(&self, start: u64) -> String {
        let bytes = fs::read(self.log_file()).unwrap_or_default();
        let start = usize::try_from(start).unwrap_or(0).min(bytes.len());
        system::tail(&String::from_utf8_lossy(&bytes[start..]), 20)
    }

    /// Stops the server and waits until it is gone; nothing happens when it does not run.
    pub fn stop(&mut self, mode: StopMode) -> Result<(), EmbeddedError> {
        let Some(mut running) = self.server.take() else {
            return Ok(());
        };
        if let Some(dog) = running.watchdog.take() {
            call_off(dog);
        }
        signal(mode.signal(), running.child.id());
        let deadline = Instant::now() + STOP_LIMIT;
        while Instant::now() < deadline {
            match running.child.try_wait() {
                Ok(None) => thread::sleep(POLL),
                Ok(Some(_)) => return Ok(()),
                Err(error) => {
                    return Err(EmbeddedError::io("could not wait for", "postgres")(error));
                }
            }
        }
        self.server = Some(running);
        Err(EmbeddedError::NotStopped {
            seconds: STOP_LIMIT.as_secs(),
        })
    }

    /// Starts the server again after [`Cluster::stop`] or [`Cluster::kill`], on the same port.
    pub fn start_again(&mut self) -> Result<(), EmbeddedError> {
        match self.server {
            Some(_) => Ok(()),
            None => self.launch(),
        }
    }

    /// Stops the server and starts it again on the same port.
    pub fn restart(&mut self, mode: StopMode) -> Result<(), EmbeddedError> {
        self.stop(mode)?;
        self.start_again()
    }

    /// Ends the server as `kill -9` does.
    pub fn kill(&mut self) {
        if let Some(mut running) = self.server.take() {
            if let Some(dog) = running.watchdog.take() {
                call_off(dog);
            }
            let _ = running.child.kill();
            let _ = running.child.wait();
        }
    }

    /// Makes and starts a streaming standby of this cluster, which connects as `name`; this server is
    /// stopped and started for the copy. Like every base backup it has no replication slots. Set
    /// `synchronous_standby_names` on this server to make it synchronous.
    pub fn start_standby(
        &mut self,
        name: &str,
        options: Options,
    ) -> Result<Cluster, EmbeddedError> {
        self.stop(StopMode::Fast)?;
        let base = system::temp_root().join(format!("rcpg-{}", unique()));
        let mut standby = Cluster {
            binaries: self.binaries.clone(),
            user: self.user,
            sockets: base.join("s"),
            base,
            port: 0,
            password: self.password.clone(),
            keep: false,
            server: None,
        };
        system::private_dir(&standby.base, self.user)?;
        system::private_dir(&standby.sockets, self.user)?;
        let copied = copy(
            &self.data_dir(),
            &standby.data_dir(),
            self.user,
            &standby.base,
        );
        self.start_again()?;
        copied?;
        let slots = standby.data_dir().join("pg_replslot");
        for slot in fs::read_dir(&slots).map_err(EmbeddedError::io("could not read", &slots))? {
            let slot = slot
                .map_err(EmbeddedError::io("could not read", &slots))?
                .path();
            fs::remove_dir_all(&slot).map_err(EmbeddedError::io("could not remove", &slot))?;
        }
        let primary = format!(
            "host=127.0.0.1 port={} user=postgres application_name={name}{}",
            self.port,
            self.password
                .as_ref()
                .map_or(String::new(), |word| format!(" password={word}"))
        );
        standby.write_data_file("standby.signal", "")?;
        standby.port = free_port()?;
        standby.write_settings(&options, &[("primary_conninfo", primary)])?;
        standby.launch()?;
        Ok(standby)
    }

    /// Whether the server process lives.
    pub fn is_running(&mut self) -> bool {
        self.server
            .as_mut()
            .is_some_and(|running| matches!(running.child.try_wait(), Ok(None)))
    }

    /// The address of a database over TCP, as user `postgres`.
    pub fn url(&self, database: &str) -> String {
        self.url_as("postgres", self.password.as_deref(), database)
    }

    /// The address of a database over TCP as another user.
    pub fn url_as(&self, user: &str, password: Option<&str>, database: &str) -> String {
        let word = password.map_or(String::new(), |word| format!(":{}", percent(word)));
        format!(
            "postgres://{}{word}@127.0.0.1:{}/{}",
            percent(user),
            self.port,
            percent(database)
        )
    }

    /// The address of a database over the unix socket, as user `postgres`.
    pub fn socket_url(&self, database: &str) -> String {
        let word = self
            .password
            .as_ref()
            .map_or(String::new(), |word| format!(":{}", percent(word)));
        format!(
            "postgres://postgres{word}@{}:{}/{}",
            percent(&self.sockets.display().to_string()),
            self.port,
            percent(database)
        )
    }

    /// The TCP port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The directory of the unix socket.
    pub fn socket_dir(&self) -> &Path {
        &self.sockets
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.base.join("data")
    }

    /// The log of the server.
    pub fn log_file(&self) -> PathBuf {
        self.base.join("postgres.txt")
    }

    /// The binaries it runs from.
    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    /// A command that runs as the user of the server (client programs that read its files).
    pub fn command(&self, program: &Path) -> Command {
        system::command(program, self.user, &self.base)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let mode = match self.keep {
            true => StopMode::Fast,
            false => StopMode::Immediate,
        };
        if self.stop(mode).is_err() {
            self.kill();
        }
        if !self.keep {
            let _ = fs::remove_dir_all(&self.base);
        }
        let _ = fs::remove_dir_all(&self.sockets);
    }
}

/// The server that has this data directory open, if one lives.
fn running_in(data: &Path) -> Option<u32> {
    let text = fs::read_to_string(data.join("postmaster.pid")).ok()?;
    let pid = text.lines().next()?.trim().parse().ok()?;
    is_alive(pid).then_some(pid)
}

fn copy(from: &Path, to: &Path, user: Option<RunAs>, dir: &Path) -> Result<(), EmbeddedError> {
    let mut command = system::command(Path::new("cp"), user, dir);
    system::run("cp", command.arg("-a").arg("--").arg(from).arg(to))
}

/// For parts of a URL: everything but the plain characters is escaped.
fn percent(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => {
                char::from(byte).to_string()
            }
            other => format!("%{other:02X}"),
        })
        .collect()
}
