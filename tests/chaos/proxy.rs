//! A line that can be cut, held, delayed and throttled: a TCP proxy inside the test.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

/// How a line is at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weather {
    Clear,
    /// Open connections break, new ones are closed at once.
    Cut,
    /// Nothing passes, nobody is told.
    Hung,
    /// Each part waits so long.
    Delayed(Duration),
    /// So many bytes a second in each direction.
    Throttled(u64),
}

/// Where a line leads; nowhere while nobody can serve.
#[derive(Clone, Debug, Default)]
pub struct Target(Arc<Mutex<Option<SocketAddr>>>);

impl Target {
    pub fn at(address: SocketAddr) -> Target {
        Target(Arc::new(Mutex::new(Some(address))))
    }

    pub fn set(&self, address: Option<SocketAddr>) {
        *self.0.lock().unwrap() = address;
    }

    pub fn get(&self) -> Option<SocketAddr> {
        *self.0.lock().unwrap()
    }
}

#[derive(Clone, Copy, Debug)]
struct Sky {
    weather: Weather,
    since: Instant,
    /// How often everything was cut so far.
    cuts: u64,
}

/// A listening address whose connections lead to a [`Target`].
#[derive(Debug)]
pub struct Proxy {
    pub address: SocketAddr,
    sky: watch::Sender<Sky>,
    acceptor: JoinHandle<()>,
}

impl Proxy {
    pub async fn to(target: Target) -> Proxy {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (sky, now) = watch::channel(Sky {
            weather: Weather::Clear,
            since: Instant::now(),
            cuts: 0,
        });
        let acceptor = tokio::spawn(async move {
            while let Ok((inbound, _)) = listener.accept().await {
                let (target, now) = (target.clone(), now.clone());
                tokio::spawn(async move {
                    // A line that breaks is what this is for.
                    let _ = carry(inbound, &target, now).await;
                });
            }
        });
        Proxy {
            address,
            sky,
            acceptor,
        }
    }

    pub fn set(&self, weather: Weather) {
        self.sky.send_modify(|sky| {
            sky.weather = weather;
            sky.since = Instant::now();
            sky.cuts += u64::from(weather == Weather::Cut);
        });
    }

    /// Breaks all connections; new ones get through.
    pub fn flap(&self) {
        let now = self.sky.borrow().weather;
        self.set(Weather::Cut);
        self.set(now);
    }

    /// Since when nothing stands in the way.
    pub fn clear_since(&self) -> Option<Instant> {
        let sky = *self.sky.borrow();
        (sky.weather == Weather::Clear).then_some(sky.since)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.acceptor.abort();
        self.set(Weather::Cut);
    }
}

type Now = watch::Receiver<Sky>;

async fn carry(inbound: TcpStream, target: &Target, mut now: Now) -> io::Result<()> {
    let gone = |_| io::Error::other("the line is gone");
    let begin = *now
        .wait_for(|sky| sky.weather != Weather::Hung)
        .await
        .map_err(gone)?;
    let open = begin.weather != Weather::Cut;
    let Some(address) = target.get().filter(|_| open) else {
        return Ok(());
    };
    let outbound = TcpStream::connect(address).await?;
    inbound.set_nodelay(true)?;
    outbound.set_nodelay(true)?;
    let (from_client, to_client) = inbound.into_split();
    let (from_server, to_server) = outbound.into_split();
    let there = pump(from_client, to_server, now.clone());
    let back = pump(from_server, to_client, now.clone());
    tokio::select! {
        done = async { tokio::try_join!(there, back) } => done.map(|_| ()),
        _ = now.wait_for(|sky| sky.cuts != begin.cuts) => Ok(()),
    }
}

/// Passes one direction on until its end, under the weather of each moment.
async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut now: Now) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let length = from.read(&mut buffer).await?;
        loop {
            let weather = now.borrow_and_update().weather;
            match weather {
                Weather::Hung => now.changed().await.map_err(io::Error::other)?,
                Weather::Delayed(time) => {
                    tokio::time::sleep(time).await;
                    break;
                }
                Weather::Throttled(rate) => {
                    let time = Duration::from_secs_f64(length as f64 / rate as f64);
                    tokio::time::sleep(time).await;
                    break;
                }
                Weather::Clear | Weather::Cut => break,
            }
        }
        if length == 0 {
            return to.shutdown().await;
        }
        to.write_all(&buffer[..length]).await?;
    }
}

#[tokio::test]
async fn a_line_does_what_the_weather_says() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let target = Target::at(listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    let proxy = Proxy::to(target.clone()).await;
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    let mut four = [0; 4];
    stream.write_all(b"echo").await.unwrap();
    stream.read_exact(&mut four).await.unwrap();
    assert_eq!(&four, b"echo");

    proxy.set(Weather::Hung);
    stream.write_all(b"held").await.unwrap();
    let short = Duration::from_millis(50);
    assert!(
        tokio::time::timeout(short, stream.read_exact(&mut four))
            .await
            .is_err()
    );
    proxy.set(Weather::Delayed(Duration::from_millis(20)));
    stream.read_exact(&mut four).await.unwrap();
    assert_eq!(&four, b"held");

    proxy.flap();
    assert!(matches!(stream.read(&mut four).await, Ok(0) | Err(_)));
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    stream.write_all(b"more").await.unwrap();
    stream.read_exact(&mut four).await.unwrap();
    target.set(None);
    let mut stream = TcpStream::connect(proxy.address).await.unwrap();
    assert!(matches!(stream.read(&mut four).await, Ok(0) | Err(_)));
}
