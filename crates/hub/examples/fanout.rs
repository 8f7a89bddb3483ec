//! What the hub costs above bare writes: one process, loopback sockets, both ways in turn.
//!
//! `cargo run --release -p rowcast-hub --example fanout [rounds] [scenario]`. Each round writes the same bytes
//! once with a plain loop over the sockets and once through [`Hub::publish`]; only the processor time of
//! the writing thread counts, and the sockets are empty before. Printed is the mean for each frame, and the
//! ratio bare / hub (1.0: as fast as the loop).
#![allow(clippy::print_stdout, clippy::unwrap_used)] // A tool for developers.

use std::{
    io::{self, IoSlice, Read, Write},
    net::{TcpListener, TcpStream},
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use prometheus_client::registry::Registry;
use rowcast_hub::{Hub, HubLimits, Identity, Sink, Subscription};
use rowcast_model::{
    Audience, Batch, Body, ColumnMeta, Cursor, Epoch, HubOp, JsonRow, JsonRowBuilder, Kind, Lsn,
    MembershipChange, Operation, RoutedEvent, TableName, Timestamp, Topic, View,
};
use rowcast_wire::{EventClass, Forms, encode_event};

const SOCKETS: usize = 1000;

struct Plain(TcpStream);

impl Sink for Plain {
    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match slices {
            [one] => (&self.0).write(one),
            many => (&self.0).write_vectored(many),
        }
    }
}

/// Sockets, their counterparts read by a thread that counts bytes.
struct Wires {
    ours: Vec<Arc<Plain>>,
    read: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
}

impl Wires {
    fn new() -> Wires {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let mut ours = Vec::new();
        let mut theirs = Vec::new();
        for _ in 0..SOCKETS {
            let client = TcpStream::connect(address).unwrap();
            let (server, _) = listener.accept().unwrap();
            client.set_nonblocking(true).unwrap();
            server.set_nonblocking(true).unwrap();
            server.set_nodelay(true).unwrap();
            theirs.push(client);
            ours.push(Arc::new(Plain(server)));
        }
        let (read, stop) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        thread::spawn({
            let (read, stop) = (read.clone(), stop.clone());
            move || {
                let mut buffer = vec![0; 1 << 18];
                while !stop.load(Ordering::Relaxed) {
                    for socket in &mut theirs {
                        if let Ok(bytes) = socket.read(&mut buffer) {
                            read.fetch_add(bytes, Ordering::Relaxed);
                        }
                    }
                    thread::sleep(Duration::from_millis(1));
                }
            }
        });
        Wires { ours, read, stop }
    }

    /// Time that `write` takes to hand on `bytes` bytes, which are read afterwards.
    fn time(&self, bytes: usize, write: impl FnOnce()) -> Duration {
        let before = self.read.load(Ordering::Relaxed);
        let start = on_cpu();
        write();
        let took = on_cpu() - start;
        while self.read.load(Ordering::Relaxed) < before + bytes {
            thread::sleep(Duration::from_micros(200));
        }
        took
    }
}

/// Time that this thread has run so far: not disturbed by whatever else the machine does. Where the
/// system does not tell, the time since the start.
fn on_cpu() -> Duration {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    // The count is brought up to date when the thread gives way.
    thread::yield_now();
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").ok();
    let nanos = told.and_then(|text| text.split(' ').next()?.parse().ok());
    nanos.map_or_else(|| START.elapsed(), Duration::from_nanos)
}

fn row(columns: &Arc<[ColumnMeta]>) -> JsonRow {
    let mut buffer = BytesMut::new();
    let mut builder = JsonRowBuilder::new(columns.clone(), &mut buffer);
    builder.column(|out| out.extend_from_slice(b"12345"));
    builder.column(|out| out.extend_from_slice(b"\"a row of about two hundred bytes\""));
    builder.finish()
}

struct Feed {
    columns: Arc<[ColumnMeta]>,
    table: Arc<TableName>,
    lsn: u64,
}

impl Feed {
    fn event(&mut self, organization: usize) -> RoutedEvent {
        self.lsn += 1;
        RoutedEvent {
            cursor: Cursor {
                epoch: Epoch(1),
                commit_lsn: Lsn((1 << 40) + self.lsn),
                index: 0,
            },
            commit_time: Timestamp(0),
            topic: Topic::Org(format!("org{organization:03}").into()),
            audience: Audience::default(),
            table: self.table.clone(),
            op: Operation::Insert,
            record_id: Some("12345".into()),
            old_record_id: None,
            body: Body::Change {
                new: Some(row(&self.columns)),
                old: None,
                unchanged: Arc::new([]),
            },
            last: true,
        }
    }

    fn batch(&mut self, organizations: std::ops::Range<usize>, each: usize) -> Batch {
        let mut ops = Vec::new();
        for organization in organizations {
            for _ in 0..each {
                let event = self.event(organization);
                let cursor = Cursor::after_commit(Epoch(1), event.cursor.commit_lsn);
                let commit_time = event.commit_time;
                ops.push(HubOp::from(event));
                ops.push(HubOp::Commit {
                    cursor,
                    commit_time,
                });
            }
        }
        Batch {
            ops,
            ..Batch::default()
        }
    }
}

/// The same with sockets that take everything at no cost: what the hub itself takes.
fn without_sockets(
    organizations: usize,
    each: usize,
    rounds: usize,
    feed: &mut Feed,
) -> Vec<Duration> {
    let hub = Hub::new(HubLimits::default(), &mut Registry::default());
    for i in 0..SOCKETS {
        connect(&hub, i, organizations, Arc::new(()));
    }
    let batches = (0..rounds).map(|_| feed.batch(0..organizations, each));
    batches
        .map(|batch| {
            let start = on_cpu();
            hub.publish(batch);
            on_cpu() - start
        })
        .collect()
}

/// A member of one of the organizations, listening to it; the bytes that greet him.
fn connect(hub: &Hub, i: usize, organizations: usize, sink: Arc<dyn Sink>) -> usize {
    let organization = format!("org{:03}", i * organizations / SOCKETS);
    let user = format!("user{i}");
    hub.publish(Batch {
        ops: vec![HubOp::Membership(MembershipChange {
            key: user.as_str().into(),
            now: Some((user.as_str().into(), organization.as_str().into(), None)),
        })],
        ..Batch::default()
    });
    let connection = hub.connect(Identity::session(user), sink);
    let channel = format!("org:{organization}");
    let wanted = Subscription::to(channel.parse().unwrap());
    let reply = hub.subscribe(&connection, wanted).unwrap();
    rowcast_wire::server::subscribed(None, &channel, &reply.cursor).len()
}

fn scenario(organizations: usize, each: usize, rounds: usize) {
    let wires = Wires::new();
    let hub = Hub::new(HubLimits::default(), &mut Registry::default());
    let mut feed = Feed {
        columns: ["id", "title"]
            .map(|name| ColumnMeta::new(name.into(), Kind::Text))
            .into(),
        table: Arc::new(TableName {
            schema: "public".into(),
            name: "tasks".into(),
        }),
        lsn: 0,
    };
    let mut greeted = 0;
    for (i, sink) in wires.ours.iter().enumerate() {
        greeted += connect(&hub, i, organizations, sink.clone());
    }
    while wires.read.load(Ordering::Relaxed) < greeted {
        thread::sleep(Duration::from_millis(1));
    }
    // What each organization gets, as bytes: as many different ones as the hub writes.
    let pieces: Vec<Vec<u8>> = (0..organizations)
        .map(|organization| {
            let organization = format!("org{organization:03}");
            let class = EventClass {
                channel: &format!("org:{organization}"),
                organization: &organization,
                forms: Forms::default(),
                columns: None,
                view: View::PLAIN,
                mark_last: true,
                voice: rowcast_wire::phoenix::Voice::NATIVE,
            };
            encode_event(&feed.event(0), &class).repeat(each)
        })
        .collect();
    let frame = pieces[0].len() / each;
    let bytes = pieces[0].len() * SOCKETS;
    let (mut bare, mut hubs) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        bare.push(wires.time(bytes, || {
            for (i, sink) in wires.ours.iter().enumerate() {
                let mut left = &pieces[i * organizations / SOCKETS][..];
                while !left.is_empty() {
                    match (&sink.0).write(left) {
                        Ok(written) => left = &left[written..],
                        Err(_) => thread::yield_now(),
                    }
                }
            }
        }));
        let batch = feed.batch(0..organizations, each);
        hubs.push(wires.time(bytes, || hub.publish(batch)));
    }
    wires.stop.store(true, Ordering::Relaxed);
    let alone = without_sockets(organizations, each, rounds, &mut feed);
    let mean = |times: &[Duration]| {
        let sum: Duration = times.iter().sum();
        sum.as_secs_f64() * 1e9 / (SOCKETS * each * times.len()) as f64
    };
    let (bare, hub, alone) = (mean(&bare), mean(&hubs), mean(&alone));
    println!(
        "{organizations:>3} channels x {:>4}, {each:>2} frames of {} bytes a batch: bare {bare:>6.0} ns, hub {hub:>6.0} ns a frame, ratio {:.2}; hub without sockets {alone:.0} ns",
        SOCKETS / organizations,
        frame,
        bare / hub,
    );
}

fn main() {
    let rounds = std::env::args().nth(1).and_then(|n| n.parse().ok());
    let rounds = rounds.unwrap_or(200);
    let only = std::env::args().nth(2).and_then(|n| n.parse().ok());
    let scenarios = [(1, 1), (1, 16), (100, 1), (100, 16)];
    for (organizations, each) in only.map_or(&scenarios[..], |i: usize| &scenarios[i..=i]) {
        let (organizations, each) = (*organizations, *each);
        scenario(organizations, each, rounds);
    }
}
