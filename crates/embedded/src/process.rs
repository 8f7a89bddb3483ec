//! Ports, signals, and the watchdog that ends a server whose owner is gone.

use std::{
    io::Write,
    net::TcpListener,
    os::unix::process::CommandExt,
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use crate::{EmbeddedError, StopMode};

pub(crate) fn free_port() -> Result<u16, EmbeddedError> {
    TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(EmbeddedError::io(
            "could not find a free port on",
            "127.0.0.1",
        ))
}

pub(crate) fn unique() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("{}-{number}", std::process::id())
}

/// The shell's own `kill` is everywhere, a program of that name is not.
pub(crate) fn signal(name: &str, pid: u32) {
    let _ = Command::new("sh")
        .args(["-c", &format!("kill -{name} {pid}")])
        .stderr(Stdio::null())
        .status();
}

/// Whether a process of this number lives, whoever's it is.
pub(crate) fn is_alive(pid: u32) -> bool {
    Command::new("ps")
        .args(["-p", &pid.to_string()])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .map_or_else(
            |_| Path::new("/proc").join(pid.to_string()).exists(),
            |status| status.success(),
        )
}

/// A shell that waits on a pipe of ours. When this process ends, however it ends, the pipe closes and
/// the shell stops the server and removes what is left. Statics are never dropped, so test binaries
/// rely on it.
pub(crate) fn watchdog(pid: u32, base: &Path, sockets: &Path, keep: bool) -> Option<Child> {
    let script = r#"
        trap '' INT TERM HUP
        read -r order && exit 0
        kill -"$1" "$2" 2>/dev/null
        left=100
        while kill -0 "$2" 2>/dev/null && [ $left -gt 0 ]; do sleep 0.1; left=$((left - 1)); done
        rm -rf -- "$3"
        [ "$5" = keep ] || rm -rf -- "$4""#;
    let (mode, fate) = match keep {
        true => (StopMode::Fast, "keep"),
        false => (StopMode::Immediate, "remove"),
    };
    Command::new("sh")
        .args(["-c", script, "rowcast-embedded", mode.signal()])
        .arg(pid.to_string())
        .arg(sockets)
        .arg(base)
        .arg(fate)
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .ok()
}

pub(crate) fn call_off(mut dog: Child) {
    if let Some(mut order) = dog.stdin.take() {
        let _ = order.write_all(b"done\n");
    }
    let _ = dog.wait();
}
