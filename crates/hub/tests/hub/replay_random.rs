//! Coming back at any moment, in any order of publishing, reading and reconnecting: no gap, nothing twice.

use proptest::prelude::*;
use rowcast_hub::{Connection, Hub, HubLimits, Identity};
use rowcast_model::{Cursor, HubOp, Operation, RoutedEvent, Topic, UserId};

use crate::{replay::end, support::*};

/// What a client knows of one channel.
#[derive(Clone)]
struct Follower {
    channel: &'static str,
    subscription: &'static str,
    at: Option<Cursor>,
    live: bool,
}

/// Positions of a channel's events, as they should be.
type Expected = fn(&RoutedEvent) -> bool;

const SHAPES: [(&str, &str, Expected); 4] = [
    (
        "org:acme",
        r#"{"type":"subscribe","channel":"org:acme"}"#,
        |event| is_of(event, "acme") && for_anna(event),
    ),
    (
        "tenant:acme:tasks",
        r#"{"type":"subscribe","channel":"tenant:acme:tasks","tables":
            [{"table":"tasks","filter":{"column":"id","op":"lt","value":50}}]}"#,
        |event| is_of(event, "acme") && for_anna(event) && is_low(event),
    ),
    (
        "user:anna",
        r#"{"type":"subscribe","channel":"user:anna"}"#,
        |event| {
            event.topic == Topic::Org("other".into())
                && event.audience.user == Some(UserId::from("anna"))
        },
    ),
    (
        "org:third",
        r#"{"type":"subscribe","channel":"org:third"}"#,
        |event| is_of(event, "third") && for_anna(event),
    ),
];

fn is_of(event: &RoutedEvent, organization: &str) -> bool {
    event.topic == Topic::AllOrgs || event.topic == Topic::Org(organization.into())
}

fn for_anna(event: &RoutedEvent) -> bool {
    let user = &event.audience.user;
    user.is_none() || *user == Some(UserId::from("anna"))
}

fn is_low(event: &RoutedEvent) -> bool {
    let id = event.record_id.as_ref().and_then(|id| id.parse().ok());
    event.topic == Topic::AllOrgs || id.is_some_and(|id: u32| id < 50)
}

#[derive(Clone, Debug)]
enum Step {
    Publish {
        org: u8,
        id: u32,
        user: u8,
        begins: bool,
    },
    Idle,
    Replay,
    Reconnect,
    Subscribe(usize),
    Position,
    Room(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..5_u8, 0..100_u32, 0..4_u8, any::<bool>())
            .prop_map(|(org, id, user, begins)| Step::Publish { org, id, user, begins }),
        1 => Just(Step::Idle),
        6 => Just(Step::Replay),
        1 => Just(Step::Reconnect),
        3 => (0..SHAPES.len()).prop_map(Step::Subscribe),
        1 => Just(Step::Position),
        2 => (0..3000_usize).prop_map(Step::Room),
    ]
}

struct World {
    hub: Hub,
    client: Client,
    followers: Vec<Follower>,
    events: Vec<RoutedEvent>,
}

impl World {
    /// Nothing that `follower` should have had lies between where he was and `to`, which he has now.
    fn no_hole(&self, shape: usize, to: Cursor, including: bool) {
        let Some(from) = self.followers[shape].at else {
            return;
        };
        let missed = self.events.iter().find(|event| {
            let behind = event.cursor.compare(&from) == Some(std::cmp::Ordering::Greater);
            let before = match event.cursor.compare(&to).unwrap() {
                std::cmp::Ordering::Less => true,
                std::cmp::Ordering::Equal => including,
                std::cmp::Ordering::Greater => false,
            };
            behind && before && SHAPES[shape].2(event)
        });
        let channel = self.followers[shape].channel;
        assert!(missed.is_none(), "{channel} missed {missed:?} up to {to}");
    }

    /// Takes in what arrived.
    fn listen(&mut self) {
        for frame in self.client.socket.frames() {
            let cursor: Option<Cursor> = frame["cursor"].as_str().map(|text| text.parse().unwrap());
            let of = frame["channel"].as_str();
            let shape = SHAPES.iter().position(|(channel, ..)| of == Some(channel));
            match (frame["type"].as_str().unwrap(), shape, cursor) {
                ("subscribed", Some(shape), Some(cursor)) => {
                    let follower = &mut self.followers[shape];
                    follower.at.get_or_insert(cursor);
                    follower.live = true;
                }
                ("resync", Some(shape), Some(cursor)) => self.followers[shape].at = Some(cursor),
                ("postgres_changes" | "invalidate", Some(shape), Some(cursor)) => {
                    let event = self.events.iter().find(|event| event.cursor == cursor);
                    assert!(SHAPES[shape].2(event.unwrap()), "not for him: {frame}");
                    let at = self.followers[shape].at.unwrap();
                    assert_eq!(
                        cursor.compare(&at),
                        Some(std::cmp::Ordering::Greater),
                        "again: {frame}"
                    );
                    self.no_hole(shape, cursor, false);
                    self.followers[shape].at = Some(cursor);
                }
                ("commit", Some(shape), Some(cursor)) => {
                    self.no_hole(shape, cursor, true);
                    self.followers[shape].at = Some(cursor);
                }
                ("position", None, Some(cursor)) => {
                    for shape in 0..SHAPES.len() {
                        if self.followers[shape].live {
                            self.no_hole(shape, cursor, true);
                            self.followers[shape].at = Some(cursor);
                        }
                    }
                }
                _ => panic!("{frame}"),
            }
        }
    }

    fn subscribe(&mut self, shape: usize) {
        let mut wanted = wanted(self.followers[shape].subscription);
        // What is still on its way would be told twice to somebody who asks again before it arrived.
        self.drain();
        wanted.cursor = self.followers[shape].at;
        self.hub.subscribe(&self.client.connection, wanted).unwrap();
        self.listen();
    }

    fn drain(&mut self) {
        let room = std::mem::replace(&mut *self.client.socket.room.lock().unwrap(), usize::MAX);
        self.client.connection.drain();
        *self.client.socket.room.lock().unwrap() = room;
        self.listen();
    }

    fn reconnect(&mut self) {
        self.hub.disconnect(&self.client.connection);
        self.client = Client::new(&self.hub, Identity::session("anna"));
        for shape in 0..SHAPES.len() {
            if std::mem::take(&mut self.followers[shape].live) {
                self.subscribe(shape);
            }
        }
    }

    fn connection(&self) -> &Connection {
        &self.client.connection
    }
}

fn follow(limits: HubLimits, steps: Vec<Step>) {
    let hub = hub_with(limits);
    hub.publish(batch(vec![HubOp::LogBegins {
        floor: at(0, 0),
        target: at(0, 0),
    }]));
    let client = Client::member(&hub, "anna", &["acme", "other", "third"], &[]);
    let follower = |(channel, subscription, _): &(&'static str, &'static str, Expected)| Follower {
        channel,
        subscription,
        at: None,
        live: false,
    };
    let mut world = World {
        hub,
        client,
        followers: SHAPES.iter().map(follower).collect(),
        events: Vec::new(),
    };
    let (mut lsn, mut index) = (1, 0);
    for step in steps {
        match step {
            Step::Publish {
                org,
                id,
                user,
                begins,
            } => {
                let mut ops = Vec::new();
                if begins && index > 0 {
                    ops.push(commit(lsn));
                    (lsn, index) = (lsn + 1, 0);
                }
                let name = ["acme", "acme", "other", "third", ""][usize::from(org)];
                let mut event = event(name, at(lsn, index), id);
                index += 1;
                match name {
                    "" => {
                        event.topic = Topic::AllOrgs;
                        event.op = Operation::Truncate;
                        event.record_id = None;
                        event.body = rowcast_model::Body::Invalidate;
                    }
                    "other" if user == 0 => event.audience.user = Some("anna".into()),
                    _ if user < 2 => event.audience.user = Some("bert".into()),
                    _ => {}
                }
                world.events.push(event.clone());
                ops.push(HubOp::from(event));
                world.hub.publish(batch(ops));
            }
            Step::Idle => {
                world.hub.publish(batch(vec![commit(lsn)]));
                (lsn, index) = (lsn + 1, 0);
                world.hub.publish(batch(vec![HubOp::Position(end(lsn))]));
                lsn += 1;
            }
            Step::Replay if world.connection().work().replay => {
                world.hub.replay(&world.client.connection);
            }
            Step::Replay => {}
            Step::Reconnect => world.reconnect(),
            Step::Subscribe(shape) => world.subscribe(shape),
            Step::Position => world.hub.tell_position(&world.client.connection),
            Step::Room(room) => {
                *world.client.socket.room.lock().unwrap() = room;
                world.connection().drain();
            }
        }
        world.listen();
        if world.connection().closed().is_some() {
            world.reconnect();
        }
    }
    *world.client.socket.room.lock().unwrap() = usize::MAX;
    world.connection().drain();
    while world.connection().work().replay {
        world.hub.replay(&world.client.connection);
    }
    world.listen();
    for shape in 0..SHAPES.len() {
        if world.followers[shape].live {
            world.no_hole(shape, world.hub.position(), true);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever happens between the steps of coming back: no gap and nothing twice.
    #[test]
    fn no_gap_and_nothing_twice(
        steps in prop::collection::vec(step(), 0..120),
        replay_bytes in 1..2000_usize,
    ) {
        follow(HubLimits { replay_bytes, ..HubLimits::default() }, steps);
    }

    /// The same where the past is short: what is missing is told.
    #[test]
    fn no_gap_without_news_of_it(
        steps in prop::collection::vec(step(), 0..120),
        replay_bytes in 1..600_usize,
        history_bytes in 0..6000_usize,
    ) {
        let limits = HubLimits {
            replay_bytes,
            history_bytes,
            history_organization_bytes: history_bytes / 2,
            outbox_bytes: 8000,
            remembered_organizations: 1,
            ..HubLimits::default()
        };
        follow(limits, steps);
    }
}
