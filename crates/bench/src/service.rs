//! The real program as a process of its own, found beside this one.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::process::Guard;

/// The secret that tokens of a benchmark are signed with.
pub const SECRET: &str = "only for this benchmark, on this machine";

/// A running `rowcast serve`; killed when dropped.
pub struct Service {
    child: Child,
    /// Before `child` is waited for, so that it kills nobody else.
    guard: Option<Guard>,
    /// Where clients connect.
    pub public: String,
    internal: String,
}

impl Service {
    /// Starts the program on `url` with more environment and waits until it is ready.
    pub async fn start(url: &str, more: &[(&str, &str)]) -> Result<Service> {
        let program = std::env::current_exe()?.with_file_name("rowcast");
        let mut child = Command::new(&program)
            .arg("serve")
            .env_clear()
            .env("DATABASE_URL", url)
            .env("PORT", "0")
            .env("ROWCAST_INTERNAL_PORT", "0")
            .env("JWT_SECRET", SECRET)
            .env("LOG_LEVEL", "info")
            .envs(more.iter().copied())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| {
                format!("{}: build it with cargo build --release", program.display())
            })?;
        let log = child.stderr.take().context("stderr")?;
        let (tell, told) = tokio::sync::oneshot::channel();
        // Reads to the end, so that the service never waits for a full pipe.
        std::thread::spawn(move || {
            let mut tell = Some(tell);
            for line in BufReader::new(log).lines().map_while(Result::ok) {
                if let Some(at) = line.find("listening public=")
                    && let Some(tell) = tell.take()
                {
                    let _ = tell.send(line[at..].to_owned());
                }
            }
        });
        let line = tokio::time::timeout(Duration::from_secs(30), told)
            .await
            .context("the service does not listen")??;
        let field = |name: &str| {
            line.split(' ')
                .find_map(|word| word.strip_prefix(name))
                .map(str::to_owned)
                .context("listening line")
        };
        let service = Service {
            public: field("public=")?,
            internal: field("internal=")?,
            guard: Some(Guard::of(child.id())?),
            child,
        };
        for _ in 0..600 {
            if service.ready().await.unwrap_or(false) {
                return Ok(service);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        bail!("the service did not get ready");
    }

    async fn ready(&self) -> Result<bool> {
        let mut socket = TcpStream::connect(&self.internal).await?;
        socket
            .write_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .await?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await?;
        Ok(answer.starts_with("HTTP/1.1 200"))
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        self.guard = None;
        let _ = self.child.wait();
    }
}
