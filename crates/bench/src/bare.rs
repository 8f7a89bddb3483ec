//! The reference of the fan-out benchmarks: writes given bytes to plain sockets and does nothing else.
//!
//! Run as a process of its own, pinned to one core, with the same accept-then-write shape as a server
//! has, so that CPU time can be compared process by process. Its sockets begin as ours do, with a request
//! and an answer, twice: the kernel acknowledges on a socket that has talked both ways in another manner
//! than on one that only listens, which is worth a third of the cost of a send.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

use crate::{fanout::Load, process};

/// Accepts `load.sockets` plain sockets, waits for `go` on standard input, writes, prints what it did.
pub async fn serve(load: Load) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    load.say(&format!("ready {} 0", listener.local_addr()?));
    let mut sockets = Vec::with_capacity(load.sockets);
    let mut greetings = tokio::task::JoinSet::new();
    while greetings.len() + sockets.len() < load.sockets {
        while let Some(socket) = greetings.try_join_next() {
            sockets.push(socket??);
        }
        let (mut socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        // What is written is as long as what a gateway answers, and nobody looks at the rest.
        let welcome = [b"HTTP/1.1 101 ".as_slice(), &[b'.'; 110], b"\r\n\r\n"].concat();
        let admitted = [b"auth_success".as_slice(), &[b'.'; 400], b"}"].concat();
        greetings.spawn(async move {
            let mut buffer = [0; 4096];
            for answer in [welcome, admitted] {
                if socket.read(&mut buffer).await? == 0 {
                    bail!("a reader is gone");
                }
                socket.write_all(&answer).await?;
            }
            Ok(socket)
        });
    }
    while let Some(socket) = greetings.join_next().await {
        sockets.push(socket??);
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
        // The sockets of a channel came one by one between others, on both sides.
        for socket in sockets.iter().skip(channel).step_by(load.channels) {
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
