//! Join storms: a thousand and ten thousand subscribe to one channel with presence and join it at the same moment.
//!
//! What counts is that the traffic grows with their number and not with its square, and that what the service does
//! besides writing to sockets stays small. So there are three figures of each storm: bytes for each member, against
//! what it would take to tell each member of every other by a line of its own; time until all know of all; and the
//! CPU time of the service, both against a loop that writes as many bytes in as many frames to as many plain sockets.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rowcast_wire::payload_of;
use tokio::net::TcpStream;

use crate::{
    database::Database,
    fanout::{self, Load},
    process,
    report::{Figure, Goal},
    service::{SECRET, Service},
    sockets,
};

/// Members of a storm, and the most that it may take: bytes against a line of each for each, time and CPU time
/// against the loop.
const STORMS: [(usize, [f64; 3]); 2] = [(1_000, [0.15, 20.0, 8.0]), (10_000, [0.02, 15.0, 8.0])];
/// A line that says of one member that he came: a short one.
const LINE_BYTES: f64 = 150.0;
/// Most time for a storm.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a storm came to.
struct Storm {
    seconds: f64,
    cpu: f64,
    frames: f64,
    bytes: f64,
}

/// Measures each storm, `rounds` times; only those of at most so many members.
pub async fn run(rounds: usize, most: usize) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (members, goals) in STORMS.into_iter().filter(|(members, _)| *members <= most) {
        let (mut bytes, mut times, mut costs) = (Vec::new(), Vec::new(), Vec::new());
        let mut frames = Vec::new();
        for _ in 0..rounds {
            let storm = storm(members).await?;
            let each = storm.bytes / members as f64;
            let bare = fanout::side(Load {
                side: "bare".into(),
                sockets: members,
                channels: 1,
                burst: 1,
                burst_bytes: (storm.bytes / storm.frames) as usize,
                seconds: 2.0,
                classes: None,
            })
            .await?;
            frames.push(storm.frames / members as f64);
            bytes.push((each / 1024.0, LINE_BYTES * members as f64 / 1024.0));
            times.push((storm.seconds, storm.frames / bare.frames_per_second));
            costs.push((storm.cpu, storm.frames / bare.frames_per_cpu_second));
        }
        let frames = crate::report::median(&frames);
        let method = format!(
            "{members} sockets subscribe to one channel with presence and join it, each with a state of some 60 bytes; \
             until the last of them was told of all; {frames:.1} frames for each"
        );
        let loop_of = "a loop that writes as many bytes in as many frames to as many plain sockets";
        let [most_bytes, most_time, most_cpu] = goals.map(Goal::AtMost);
        let name = |what: &str| format!("presence_storm_{members}_{what}");
        let reference = format!(
            "{method}; reference: a line of {LINE_BYTES} bytes for each member to each member"
        );
        figures.push(Figure::of(
            &name("bytes"),
            "KiB a member",
            most_bytes,
            &reference,
            &bytes,
        ));
        let reference = format!("{method}; reference: {loop_of}");
        figures.push(Figure::of(
            &name("time"),
            "s",
            most_time,
            &reference,
            &times,
        ));
        let reference = format!("{method}; CPU time of the service; reference: that of {loop_of}");
        figures.push(Figure::of(
            &name("cpu"),
            "CPU s",
            most_cpu,
            &reference,
            &costs,
        ));
    }
    Ok(figures)
}

async fn storm(members: usize) -> Result<Storm> {
    let db = Database::start(&[]).await?;
    let sql = db.client().await?;
    sql.batch_execute(&format!(
        "select rowcast.define_channel('room:*', 'public', presence => true);
         insert into rowcast.memberships (user_id, organization_id)
         select 'user_' || i, 'org_1' from generate_series(0, {members} - 1) i",
    ))
    .await?;
    let limits = [
        ("ROWCAST__LIMITS__CONNECTIONS", "20000"),
        ("ROWCAST__LIMITS__CONNECTIONS_PER_ORGANIZATION", "20000"),
        ("ROWCAST__LIMITS__UNAUTHENTICATED", "20000"),
    ];
    let service = Service::start(&db.url(), &limits).await?;
    let mut open = Vec::with_capacity(members);
    for at in 0..members {
        let token = sockets::token(SECRET, &format!("user_{at}"))?;
        let socket = sockets::subscribe(&service.public, &token, "org_1").await?;
        open.push(Follower {
            socket,
            unread: Vec::new(),
            knows: false,
        });
    }
    let cpu = process::cpu_seconds(service.pid())?;
    let began = Instant::now();
    for (at, follower) in open.iter_mut().enumerate() {
        let subscribe = r#"{"type":"subscribe","channel":"room:1","presence":true}"#;
        let join = format!(
            r#"{{"type":"presence","channel":"room:1","action":"join","state":{{"name":"User number {at}","cursor":{{"x":120,"y":48}}}}}}"#
        );
        let both = [
            sockets::masked_text(subscribe.as_bytes()),
            sockets::masked_text(join.as_bytes()),
        ];
        write(&follower.socket, &both.concat()).await?;
    }
    let all = format!("\"users\":{members},");
    let mut storm = Storm {
        seconds: 0.0,
        cpu: 0.0,
        frames: 0.0,
        bytes: 0.0,
    };
    let mut buffer = vec![0; 64 << 10];
    while !open.iter().all(|follower| follower.knows) {
        for follower in &mut open {
            follower.read(&mut buffer, &all, &mut storm)?;
        }
        if began.elapsed() > PATIENCE {
            let knowing = open.iter().filter(|follower| follower.knows).count();
            bail!("after {PATIENCE:?} only {knowing} of {members} know of all");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    storm.seconds = began.elapsed().as_secs_f64();
    storm.cpu = process::cpu_seconds(service.pid())? - cpu;
    Ok(storm)
}

async fn write(socket: &TcpStream, mut bytes: &[u8]) -> Result<()> {
    while !bytes.is_empty() {
        match socket.try_write(bytes) {
            Ok(written) => bytes = bytes.get(written..).unwrap_or_default(),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                socket.writable().await?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// One socket, and whether it was told of all.
struct Follower {
    socket: TcpStream,
    unread: Vec<u8>,
    knows: bool,
}

impl Follower {
    /// Takes what has come; counts the frames about presence.
    fn read(&mut self, buffer: &mut [u8], all: &str, storm: &mut Storm) -> Result<()> {
        loop {
            match self.socket.try_read(buffer) {
                Ok(0) => bail!("the service closed a socket"),
                Ok(read) => self
                    .unread
                    .extend_from_slice(buffer.get(..read).context("read")?),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error.into()),
            }
        }
        let mut left = &self.unread[..];
        while let Some((payload, rest)) = payload_of(left) {
            if payload.starts_with(br#"{"type":"presence_"#) {
                storm.frames += 1.0;
                storm.bytes += (left.len() - rest.len()) as f64;
                self.knows |= memchr::memmem::find(payload, all.as_bytes()).is_some();
            }
            left = rest;
        }
        let done = self.unread.len() - left.len();
        self.unread.drain(..done);
        Ok(())
    }
}
