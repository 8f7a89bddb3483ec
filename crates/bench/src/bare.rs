//! The reference of the fan-out benchmarks: writes given bytes to plain sockets and does nothing else.
//!
//! Run as a process of its own, pinned to one core, with the same accept-then-write shape as a server
//! has, so that CPU time can be compared process by process.

use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    net::{TcpListener, TcpStream},
};

use crate::{fanout::Load, process};

/// Accepts `load.sockets` plain sockets, waits for `go` on standard input, writes, prints what it did.
pub async fn serve(load: Load) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    load.say(&format!("ready {} 0", listener.local_addr()?));
    let mut sockets = Vec::with_capacity(load.sockets);
    while sockets.len() < load.sockets {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        sockets.push(socket);
    }
    load.say("connected");
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    lines.next_line().await?;

    let burst = vec![b'x'; load.burst_bytes];
    let (start, cpu) = (Instant::now(), process::cpu_seconds(std::process::id())?);
    let window = Duration::from_secs_f64(load.seconds);
    let per_channel = load.sockets / load.channels;
    let (mut frames, mut channel) = (0u64, 0usize);
    while start.elapsed() < window {
        let range = channel * per_channel..(channel + 1) * per_channel;
        for socket in &sockets[range] {
            write_all(socket, &burst).await?;
        }
        frames += (per_channel * load.burst) as u64;
        channel = (channel + 1) % load.channels;
        // As a server does: let the runtime look at its sockets now and then.
        tokio::task::yield_now().await;
    }
    load.report(
        frames,
        start.elapsed(),
        process::cpu_seconds(std::process::id())? - cpu,
    );
    lines.next_line().await?;
    Ok(())
}

async fn write_all(socket: &TcpStream, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        match socket.try_write(bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                socket.writable().await?
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
