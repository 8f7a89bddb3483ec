//! A hub, sockets that remember, and events in few words.

use std::{
    io::{self, IoSlice},
    sync::{Arc, Mutex},
};

use bytes::BytesMut;
use prometheus_client::registry::Registry;
use rowcast_hub::{Connection, Hub, HubLimits, Identity, Sink, Subscription};
use rowcast_model::{
    Audience, Batch, Body, ColumnMeta, Cursor, Epoch, HubOp, JsonRow, JsonRowBuilder, KeyChange,
    KeyFacts, Kind, Lsn, MembershipChange, Operation, RoutedEvent, TableName, Timestamp, Topic,
};
use serde_json::Value;

pub fn hub() -> Hub {
    hub_with(HubLimits::default())
}

pub fn hub_with(limits: HubLimits) -> Hub {
    Hub::new(limits, &mut Registry::default())
}

/// A socket that takes `room` bytes and no more.
pub struct Socket {
    pub room: Mutex<usize>,
    bytes: Mutex<Vec<u8>>,
    pub writes: Mutex<usize>,
}

impl Socket {
    pub fn new(room: usize) -> Arc<Socket> {
        Arc::new(Socket {
            room: Mutex::new(room),
            bytes: Mutex::default(),
            writes: Mutex::default(),
        })
    }

    /// Frames that arrived since the last call, as JSON; panics on anything that is not.
    pub fn frames(&self) -> Vec<Value> {
        let mut bytes = self.bytes.lock().unwrap();
        let mut frames = Vec::new();
        let mut used = 0;
        while let Some((payload, rest)) = rowcast_wire::payload_of(&bytes[used..]) {
            frames.push(serde_json::from_slice(payload).unwrap());
            used = bytes.len() - rest.len();
        }
        bytes.drain(..used);
        frames
    }

    /// `type` of each frame, with the record id or channel that shows which it is.
    pub fn told(&self) -> Vec<String> {
        self.frames().iter().map(tell).collect()
    }

    /// Everything that arrived, and was not taken.
    pub fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.bytes.lock().unwrap())
    }

    pub fn raw(&self) -> Vec<u8> {
        self.bytes.lock().unwrap().clone()
    }
}

pub fn tell(frame: &Value) -> String {
    let kind = frame["type"].as_str().unwrap();
    let row = match &frame["new"] {
        Value::Null => &frame["old"],
        new => new,
    };
    let last = if frame["last"] == true { "!" } else { "" };
    match kind {
        "postgres_changes" => {
            let op = frame["eventType"].as_str().unwrap();
            format!(
                "{op} {} on {}{last}",
                row["id"],
                frame["channel"].as_str().unwrap()
            )
        }
        "broadcast" => format!(
            "{} {} on {}{last}",
            frame["event"].as_str().unwrap(),
            frame["payload"],
            frame["channel"].as_str().unwrap()
        ),
        "membership" => format!("membership {} {}", frame["organizationId"], frame["roles"]),
        _ => format!(
            "{kind} {}{last}",
            frame["channel"].as_str().unwrap_or_default()
        ),
    }
}

impl Sink for Socket {
    fn try_write_vectored(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        *self.writes.lock().unwrap() += 1;
        let mut room = self.room.lock().unwrap();
        let mut written = 0;
        for slice in slices {
            let part = slice.len().min(*room);
            self.bytes.lock().unwrap().extend_from_slice(&slice[..part]);
            *room -= part;
            written += part;
        }
        match written {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            written => Ok(written),
        }
    }
}

pub struct Client {
    pub socket: Arc<Socket>,
    pub connection: Arc<Connection>,
}

impl Client {
    pub fn new(hub: &Hub, identity: Identity) -> Client {
        let socket = Socket::new(usize::MAX);
        let connection = hub.connect(identity, socket.clone());
        Client { socket, connection }
    }

    /// A user who is a member of these organizations from here on, listening to `channels`.
    pub fn member(hub: &Hub, user: &str, organizations: &[&str], channels: &[&str]) -> Client {
        let ops = organizations
            .iter()
            .map(|org| member(user, org, Some("member")));
        hub.publish(batch(ops.collect()));
        let client = Client::new(hub, Identity::session(user));
        for channel in channels {
            hub.subscribe(&client.connection, to(channel)).unwrap();
        }
        client.socket.frames();
        client
    }

    pub fn told(&self) -> Vec<String> {
        self.socket.told()
    }
}

pub fn to(channel: &str) -> Subscription {
    Subscription::to(channel.parse().unwrap())
}

/// A subscription as a client writes it.
pub fn wanted(json: &str) -> Subscription {
    match rowcast_wire::parse(json.as_bytes(), &rowcast_wire::Limits::default()) {
        Ok(rowcast_wire::ClientFrame::Subscribe(subscribe)) => *subscribe,
        other => panic!("{other:?}"),
    }
}

pub fn batch(ops: Vec<HubOp>) -> Batch {
    Batch {
        ops,
        ..Batch::default()
    }
}

pub fn member(user: &str, org: &str, role: Option<&str>) -> HubOp {
    HubOp::Membership(MembershipChange {
        key: format!("{user}@{org}").into(),
        now: role.map(|role| (user.into(), org.into(), Some(role.into()))),
    })
}

pub fn key(id: &str, org: Option<&str>) -> HubOp {
    HubOp::ApiKey(KeyChange {
        id: id.into(),
        now: org.map(|org| key_of(id, org)),
    })
}

/// A key as [`machine`] shows it.
pub fn key_of(id: &str, org: &str) -> KeyFacts {
    KeyFacts::new(&format!("hash of {id}"), org, vec!["member".into()])
}

pub fn machine(id: &str) -> Identity {
    Identity::api_key(id, format!("hash of {id}"))
}

pub fn at(lsn: u64, index: u32) -> Cursor {
    Cursor {
        epoch: Epoch(1),
        commit_lsn: Lsn(lsn),
        index,
    }
}

pub fn commit(lsn: u64) -> HubOp {
    HubOp::Commit {
        cursor: Cursor::after_commit(Epoch(1), Lsn(lsn)),
        commit_time: Timestamp(0),
    }
}

/// Columns of all rows in these tests.
pub fn columns() -> Arc<[ColumnMeta]> {
    [
        ("id", Kind::Number),
        ("n", Kind::Number),
        ("s", Kind::Text),
        ("big", Kind::Text),
    ]
    .map(|(name, kind)| ColumnMeta::new(name.into(), kind))
    .into()
}

/// JSON values by column; a column without one is not there.
pub fn row(values: &[(&str, &str)]) -> JsonRow {
    let columns = columns();
    let mut buffer = BytesMut::new();
    let mut builder = JsonRowBuilder::new(columns.clone(), &mut buffer);
    for column in columns.iter() {
        let value = values.iter().find(|(name, _)| *name == &*column.name);
        builder.column(|out| out.extend_from_slice(value.map_or("", |(_, json)| json).as_bytes()));
    }
    builder.finish()
}

pub fn event(org: &str, cursor: Cursor, id: u32) -> RoutedEvent {
    let id_text = id.to_string();
    RoutedEvent {
        cursor,
        commit_time: Timestamp(0),
        topic: Topic::Org(org.into()),
        audience: Audience::default(),
        table: Arc::new(TableName {
            schema: "public".into(),
            name: "tasks".into(),
        }),
        op: Operation::Insert,
        record_id: Some(id_text.as_str().into()),
        old_record_id: None,
        body: Body::Change {
            new: Some(row(&[("id", &id_text)])),
            old: None,
            unchanged: Arc::new([]),
        },
        last: false,
    }
}

/// One inserted row in a transaction of its own.
pub fn single(org: &str, lsn: u64, id: u32) -> Batch {
    let mut event = event(org, at(lsn, 0), id);
    event.last = true;
    batch(vec![HubOp::from(event), commit(lsn)])
}

pub fn change(
    op: Operation,
    new: Option<JsonRow>,
    old: Option<JsonRow>,
) -> impl Fn(RoutedEvent) -> RoutedEvent {
    move |event| RoutedEvent {
        op,
        body: Body::Change {
            new: new.clone(),
            old: old.clone(),
            unchanged: Arc::new([]),
        },
        ..event
    }
}
