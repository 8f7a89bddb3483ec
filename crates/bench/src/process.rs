//! What the kernel says of a process: CPU time and resident memory.

use std::{
    fs,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result};

/// User and system CPU seconds of process `pid` so far.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .context("stat")?
        .split_whitespace()
        .collect();
    let ticks: f64 = [11, 12]
        .iter()
        .filter_map(|&i| fields.get(i)?.parse::<f64>().ok())
        .sum();
    // USER_HZ is 100 on every Linux that Rust runs on.
    Ok(ticks / 100.0)
}

/// Resident bytes of process `pid`.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .context("VmRSS")?;
    let kib: u64 = line.split_whitespace().nth(1).context("VmRSS")?.parse()?;
    Ok(kib * 1024)
}

/// Ends a process with this one, also when this one is killed.
pub struct Guard(Child);

impl Guard {
    /// Waits beside the process `pid` for the pipe that only we hold to close.
    pub fn of(pid: u32) -> Result<Guard> {
        let guard = Command::new("sh")
            .args(["-c", "read -r _; kill -9 \"$0\"", &pid.to_string()])
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("sh")?;
        Ok(Guard(guard))
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        // First of all: it must not kill whoever has the number next.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A command pinned to one core where `taskset` is there; otherwise the command as it is.
pub fn pinned(core: usize, program: &std::path::Path) -> Command {
    if Command::new("taskset")
        .arg("-V")
        .output()
        .is_ok_and(|out| out.status.success())
    {
        let mut command = Command::new("taskset");
        command.arg("-c").arg(core.to_string()).arg(program);
        return command;
    }
    Command::new(program)
}

/// Keeps all threads of this process on one core, where `taskset` is there, until the answer is dropped.
pub fn stay_on(core: usize) -> Pinned {
    let before = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let allowed = before
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"))
        .map(|list| list.trim().to_owned());
    let pinned = Pinned(allowed);
    Pinned::set(&core.to_string());
    pinned
}

/// See [`stay_on`].
pub struct Pinned(Option<String>);

impl Pinned {
    fn set(cores: &str) {
        // Without it the figures are noisier, and that is all.
        let _ = Command::new("taskset")
            .args(["-a", "-p", "-c", cores, &std::process::id().to_string()])
            .output();
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            Pinned::set(before);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper() -> Child {
        Command::new("sleep").arg("1000").spawn().unwrap()
    }

    #[test]
    fn whoever_is_guarded_ends_with_the_pipe() {
        let mut child = sleeper();
        let mut guard = Guard::of(child.id()).unwrap();
        // As when this process is killed.
        drop(guard.0.stdin.take());
        assert!(!child.wait().unwrap().success());
        assert!(guard.0.wait().unwrap().success());
    }

    #[test]
    fn a_guard_that_goes_harms_nobody() {
        let mut child = sleeper();
        drop(Guard::of(child.id()).unwrap());
        assert!(child.try_wait().unwrap().is_none());
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
