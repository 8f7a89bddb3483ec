//! Our side of the fan-out benchmarks: the real gateway and the real hub, fed with events.
//!
//! Sockets connect, authenticate and subscribe as clients do. The publisher hands over the next batch when
//! nothing waits for any socket any more (the reference waits for its sockets in the same way).

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use bytes::BytesMut;
use prometheus_client::registry::Registry;
use rowcast_gateway::{
    AuthConfig, BroadcastConfig, GatewayConfig, GatewayMetrics, Readiness, Services, SocketLimits,
    serve,
};
use rowcast_hub::{Hub, HubLimits};
use rowcast_model::{
    Audience, Batch, Body, ColumnMeta, Cursor, Epoch, HubOp, JsonRow, JsonRowBuilder, Kind, Lsn,
    Mask, MaskKind, Masked, Masks, MembershipChange, Operation, OrgId, RoutedEvent, TableName,
    Timestamp, Topic, View,
};
use rowcast_wire::{EventClass, Forms, encode_event};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::{
    fanout::{Load, PAYLOAD_BYTES, rowcast_fanout_secret},
    process,
};

/// The first position: large enough that its text never gets longer.
const FIRST_LSN: u64 = 0x1000_0000;
/// Publishing waits while more than this waits for all sockets together.
const MOST_QUEUED: usize = 4 << 20;

/// Columns with a mask, in rows that have them. A mask of this kind keeps the length of a value, so that all
/// frames have one length.
const MASKED: [&str; 6] = ["m0", "m1", "m2", "m3", "m4", "m5"];
const MASKED_VALUE: &[u8] = b"\"abcdefgh\"";

fn row(more: &[&str]) -> JsonRow {
    let names = ["id", "title"].iter().chain(more);
    let columns: Arc<[ColumnMeta]> = names
        .map(|name| match *name {
            "id" => ColumnMeta::new("id".into(), Kind::Number),
            name => ColumnMeta::new(name.into(), Kind::Text),
        })
        .collect();
    let mut buffer = BytesMut::new();
    let mut row = JsonRowBuilder::new(columns, &mut buffer);
    let column = |name: &&str| r#","":"#.len() + name.len() + MASKED_VALUE.len();
    let around = r#"{"id":1000000,"title":""}"#.len() + more.iter().map(column).sum::<usize>();
    row.column(|out| out.extend_from_slice(b"1000000"));
    row.column(|out| {
        out.extend_from_slice(b"\"");
        out.extend_from_slice(&vec![b'x'; PAYLOAD_BYTES - around]);
        out.extend_from_slice(b"\"");
    });
    for _ in more {
        row.column(|out| out.extend_from_slice(MASKED_VALUE));
    }
    row.finish()
}

fn role(class: usize) -> String {
    format!("role_{class:02}")
}

/// Masks that so many roles see in as many ways: by the digits of the role's number.
fn masks(classes: usize) -> Masks {
    let masks = MASKED.iter().enumerate().map(|(i, column)| Mask {
        column: (*column).into(),
        kind: MaskKind::Name,
        roles: (0..classes)
            .filter(|class| class & 1 << i != 0)
            .map(|class| role(class).into())
            .collect(),
        owner: false,
    });
    Masks::new(masks.collect()).unwrap_or_else(|| unreachable!("six masks"))
}

struct Events {
    row: JsonRow,
    table: Arc<TableName>,
    // Routing hands the same name on for every event of an organization, so it is made once here, too.
    organizations: Vec<OrgId>,
    record_id: Arc<str>,
    unchanged: Arc<[Arc<str>]>,
    masked: Option<Arc<Masked>>,
    lsn: u64,
}

impl Events {
    fn new(channels: usize, classes: Option<usize>) -> Events {
        let table = Arc::new(TableName {
            schema: "public".into(),
            name: "tasks".into(),
        });
        Events {
            row: row(if classes.is_some() { &MASKED } else { &[] }),
            table,
            organizations: (0..channels).map(|i| organization(i).into()).collect(),
            record_id: "1000000".into(),
            unchanged: Arc::new([]),
            masked: classes.filter(|classes| *classes > 0).map(|classes| {
                Arc::new(Masked {
                    masks: Arc::new(masks(classes)),
                    owner: None,
                    old_owner: None,
                    only: None,
                })
            }),
            lsn: FIRST_LSN,
        }
    }

    fn next(&mut self, channel: usize, index: u32, last: bool) -> RoutedEvent {
        RoutedEvent {
            cursor: Cursor {
                epoch: Epoch(1),
                commit_lsn: Lsn(self.lsn),
                index,
            },
            commit_time: Timestamp(1_700_000_000_000_000),
            topic: Topic::Org(self.organizations[channel].clone()),
            audience: Audience {
                masked: self.masked.clone(),
                ..Audience::default()
            },
            table: self.table.clone(),
            op: Operation::Insert,
            record_id: Some(self.record_id.clone()),
            old_record_id: None,
            body: Body::Change {
                new: Some(self.row.clone()),
                old: None,
                unchanged: self.unchanged.clone(),
            },
            last,
        }
    }

    /// Has the hub keep so many bytes of rows: a service that runs for a while has a past that is full, and forgets
    /// something for everything that it keeps.
    fn fill(&mut self, hub: &Hub, bytes: usize) {
        const AT_ONCE: usize = 64;
        for i in 0..bytes.div_ceil(PAYLOAD_BYTES * AT_ONCE) {
            hub.publish(self.batch(i % self.organizations.len(), AT_ONCE));
        }
    }

    /// A transaction of `burst` rows of one organization.
    fn batch(&mut self, channel: usize, burst: usize) -> Batch {
        let mut ops = Vec::with_capacity(burst + 1);
        let burst = u32::try_from(burst).unwrap_or(u32::MAX);
        for index in 0..burst {
            ops.push(HubOp::from(self.next(channel, index, index + 1 == burst)));
        }
        let cursor = Cursor::after_commit(Epoch(1), Lsn(self.lsn));
        ops.push(HubOp::Commit {
            cursor,
            commit_time: Timestamp(1_700_000_000_000_000),
        });
        self.lsn += 8;
        Batch {
            ops,
            ..Batch::default()
        }
    }
}

/// Names of one length, so that all frames have one length.
pub fn organization(channel: usize) -> String {
    format!("org_{channel:03}")
}

/// Bytes of the frames of a burst, all together, as every subscriber gets them.
pub fn burst_bytes(burst: usize, classes: Option<usize>) -> usize {
    let mut events = Events::new(1, classes);
    let (organization, channel) = (organization(0), format!("org:{}", organization(0)));
    let class = EventClass {
        channel: &channel,
        organization: &organization,
        forms: Forms::default(),
        columns: None,
        view: View::PLAIN,
        mark_last: true,
        voice: rowcast_wire::phoenix::Voice::NATIVE,
    };
    let ops = events.batch(0, burst).ops;
    let frames = ops.iter().map(|op| match op {
        HubOp::Event(event) => encode_event(event, &class).len(),
        _ => 0,
    });
    frames.sum()
}

/// Serves until standard input says stop.
pub async fn run(load: Load) -> Result<()> {
    let mut registry = Registry::default();
    let limits = HubLimits {
        outbox_bytes: 64 << 20,
        total_outbox_bytes: 1 << 30,
        ..HubLimits::default()
    };
    let hub = Arc::new(Hub::new(limits, &mut registry));
    let metrics = GatewayMetrics::register(&mut registry);
    let (_ready, readiness) = tokio::sync::watch::channel(Readiness::Ready);
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = GatewayConfig {
        public: any,
        internal: any,
        proxies: Vec::new(),
        allowed_origins: Vec::new(),
        limits: SocketLimits {
            unauthenticated: 10_000,
            ..SocketLimits::default()
        },
        auth: AuthConfig {
            secrets: vec![rowcast_fanout_secret().into()],
            ..AuthConfig::default()
        },
        grants: rowcast_gateway::GrantConfig::default(),
        broadcast: BroadcastConfig::default(),
    };
    let gateway = serve(
        config,
        hub.clone(),
        readiness,
        metrics,
        Arc::new(registry),
        Services::default(),
    )
    .await?;
    let mut ops = vec![HubOp::NewEpoch {
        epoch: Epoch(1),
        reason: "start".into(),
    }];
    ops.extend((0..load.sockets).map(|i| {
        let user = format!("user_{i}");
        let organization = organization(i % load.channels);
        let class = load.classes.map(|classes| role(i % classes.max(1)).into());
        let now = Some((user.as_str().into(), organization.into(), class));
        HubOp::Membership(MembershipChange {
            key: user.as_str().into(),
            now,
        })
    }));
    hub.publish(Batch {
        ops,
        ..Batch::default()
    });
    let mut events = Events::new(load.channels, load.classes);
    let past = limits.history_organization_bytes * load.channels;
    events.fill(&hub, past.min(limits.history_bytes));
    load.say(&format!("ready {}", gateway.public));
    while hub.subscriptions() < 2 * load.sockets {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    load.say("connected");
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    lines.next_line().await?;

    let (publishing, measured) = (hub.clone(), load.clone());
    // On a thread of its own, as in the service.
    tokio::task::spawn_blocking(move || publish(&publishing, &measured, events)).await??;
    lines.next_line().await?;
    Ok(())
}

fn publish(hub: &Hub, load: &Load, mut events: Events) -> Result<()> {
    let (start, cpu) = (Instant::now(), process::cpu_seconds(std::process::id())?);
    let window = Duration::from_secs_f64(load.seconds);
    let per_channel = load.sockets / load.channels;
    let (mut frames, mut channel) = (0u64, 0usize);
    while start.elapsed() < window {
        hub.publish(events.batch(channel, load.burst));
        frames += (per_channel * load.burst) as u64;
        channel = (channel + 1) % load.channels;
        while hub.queued_bytes() > MOST_QUEUED {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
    while hub.queued_bytes() > 0 {
        std::thread::sleep(Duration::from_micros(200));
    }
    load.report(
        frames,
        start.elapsed(),
        process::cpu_seconds(std::process::id())? - cpu,
    );
    Ok(())
}
