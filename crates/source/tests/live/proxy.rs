//! A TCP proxy that can swallow what goes through it without closing anything.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// What may still pass from the server; [`i64::MAX`] is "everything".
type Left = Arc<AtomicI64>;

pub struct Proxy {
    port: u16,
    left: Left,
}

impl Proxy {
    pub async fn start(server: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let left: Left = Arc::new(AtomicI64::new(i64::MAX));
        let shared = left.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else {
                    continue;
                };
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                tokio::spawn(pass(from_client, to_server, shared.clone(), false));
                tokio::spawn(pass(from_server, to_client, shared.clone(), true));
            }
        });
        Proxy { port, left }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// After so many more bytes from the server, nothing passes in either direction.
    pub fn swallow_after(&self, bytes: i64) {
        self.left.store(bytes, Ordering::SeqCst);
    }

    /// Everything passes again; what was swallowed is gone.
    pub fn heal(&self) {
        self.left.store(i64::MAX, Ordering::SeqCst);
    }
}

async fn pass(
    mut from: impl AsyncReadExt + Unpin,
    mut to: impl AsyncWriteExt + Unpin,
    left: Left,
    counts: bool,
) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let allowed = left.load(Ordering::SeqCst);
        let passes = usize::try_from(allowed).unwrap_or(0).min(read);
        if counts && allowed != i64::MAX {
            left.store(allowed - passes as i64, Ordering::SeqCst);
        }
        if to.write_all(&buffer[..passes]).await.is_err() {
            return;
        }
    }
}
