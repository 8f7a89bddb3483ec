//! The receiving side of the fan-out benchmarks: many plain sockets in one thread, read and counted.
//!
//! Frames are not parsed: what arrives is counted in bytes, since every frame of a run has one length.

use std::{
    io::Read,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// Counts the bytes that arrive on all sockets after their handshake.
#[derive(Clone, Default)]
pub struct Counter(Arc<AtomicU64>);

impl Counter {
    /// Bytes so far.
    pub fn bytes(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How often [`sweep`] looks at every socket.
const SWEEP: Duration = Duration::from_millis(5);

/// Reads all `sockets` to their ends on a thread of its own, counting: looks at each every 5 ms.
///
/// The kernel takes a socket whose first replies were quick for one of a conversation, and acknowledges only every
/// second piece on it, which costs the sender's processor and not the reader's: a tenth of a send. Which sockets
/// that becomes is chance, so it is taken back on all of them.
///
/// # Errors
/// When a socket cannot be taken from the runtime.
pub fn sweep(sockets: Vec<TcpStream>, counter: &Counter) -> Result<()> {
    let mut sockets = sockets
        .into_iter()
        .map(|socket| {
            #[cfg(target_os = "linux")]
            socket.set_quickack(true)?;
            socket.into_std()
        })
        .collect::<Result<Vec<_>, _>>()?;
    let counter = counter.clone();
    std::thread::spawn(move || {
        let mut buffer = vec![0u8; 64 * 1024];
        while !sockets.is_empty() {
            let begun = Instant::now();
            let mut got = 0;
            sockets.retain_mut(|socket| match socket.read(&mut buffer) {
                Ok(read) => {
                    got += read as u64;
                    read > 0
                }
                Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
            });
            counter.0.fetch_add(got, Ordering::Relaxed);
            std::thread::sleep(SWEEP.saturating_sub(begun.elapsed()));
        }
    });
    Ok(())
}

/// Connects to `address`, makes the WebSocket handshake and authenticates; the socket is then subscribed
/// to its organization.
pub async fn subscribe(address: &str, token: &str, organization: &str) -> Result<TcpStream> {
    let mut socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    let request = format!(
        "GET /realtime/v1/websocket HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await?;
    read_until(&mut socket, b"\r\n\r\n")
        .await
        .context("handshake")?;
    let auth = serde_json::json!({"type": "auth", "token": token, "organizationId": organization})
        .to_string();
    socket.write_all(&masked_text(auth.as_bytes())).await?;
    let answer = read_until(&mut socket, b"}").await.context("auth")?;
    if !String::from_utf8_lossy(&answer).contains("auth_success") {
        bail!("not authenticated: {}", String::from_utf8_lossy(&answer));
    }
    Ok(socket)
}

async fn read_until(socket: &mut TcpStream, end: &[u8]) -> Result<Vec<u8>> {
    let mut got = Vec::new();
    let mut buffer = [0u8; 4096];
    while !got.windows(end.len()).any(|window| window == end) {
        match tokio::time::timeout(Duration::from_secs(20), socket.read(&mut buffer)).await?? {
            0 => bail!("closed: {}", String::from_utf8_lossy(&got)),
            read => got.extend_from_slice(&buffer[..read]),
        }
    }
    Ok(got)
}

/// A client's text frame; the mask of zeros is allowed and cheap.
pub fn masked_text(payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0x81];
    match payload.len() {
        len @ 0..=125 => frame.push(0x80 | len as u8),
        len => {
            frame.push(0x80 | 126);
            frame.extend_from_slice(&(len as u16).to_be_bytes());
        }
    }
    frame.extend_from_slice(&[0; 4]);
    frame.extend_from_slice(payload);
    frame
}

/// A token for `user`, signed with `secret`, good for a day.
pub fn token(secret: &str, user: &str) -> Result<String> {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)?
        .as_secs();
    let claims = serde_json::json!({"sub": user, "iat": now, "exp": now + 86_400});
    let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
    Ok(jsonwebtoken::encode(
        &jsonwebtoken::Header::default(),
        &claims,
        &key,
    )?)
}
