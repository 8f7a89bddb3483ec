//! Joins under everything at once, in any order: whoever is no member hears nothing, whoever is hears everything once,
//! every frame is one of the protocol, and nothing is kept when all is over.

use std::collections::{BTreeMap, BTreeSet};

use prometheus_client::registry::Registry;
use proptest::prelude::*;
use rowcast_hub::{Asked, Auth, Hub, HubLimits, Identity, StreamState};
use rowcast_model::{
    Authorizer, ChannelChange, Epoch, Handler, HubOp, KeyChange, KeyFacts, Mask, MaskKind, Masks,
    Message, Operation, Revocation, RoutedEvent, Shown, Timestamp, Topic, Who,
};
use rowcast_wire::{
    ClientPresence, CloseCode, PresenceAction,
    phoenix::{self, Version},
};
use serde_json::Value;

use crate::{
    joins::{room_rule, tracked},
    joins_edges::{asked_about, metric, no, yes},
    joins_steps::*,
    support::*,
};

struct Person {
    who: usize,
    version: Version,
    granted: Option<usize>,
    client: Client,
    /// The topics of joins with a binding to all rows.
    all_rows: BTreeMap<usize, bool>,
}

struct Play {
    hub: Hub,
    people: Vec<Person>,
    members: BTreeSet<(usize, usize)>,
    asked: Vec<Asked>,
    lsn: u64,
    epoch: u32,
    next: u32,
}

impl Play {
    fn identity(&self, who: usize, granted: Option<usize>) -> Identity {
        match WHO[who] {
            "key" => machine("key"),
            user => {
                let granted = granted.map(|org| (ORGS[org].into(), ["member".into()].into()));
                Identity {
                    auth: Auth::Session {
                        granted: granted.into_iter().collect(),
                    },
                    ..Identity::session(user)
                }
            }
        }
    }

    fn come(&self, at: usize) -> Person {
        let who = at % WHO.len();
        let socket = Socket::new(usize::MAX);
        let client = match at {
            // One about whom the application can be asked.
            0 => asked_about(&self.hub, "anna"),
            _ => {
                let identity = self.identity(who, None);
                let connection = self.hub.connect_phoenix(identity, socket.clone());
                Client { socket, connection }
            }
        };
        Person {
            who,
            version: [Version::V1, Version::V2][at % 2],
            granted: None,
            client,
            all_rows: BTreeMap::new(),
        }
    }

    fn publish(&self, ops: Vec<HubOp>) {
        self.hub.publish(batch(ops));
    }

    fn cursor(&mut self) -> rowcast_model::Cursor {
        self.lsn += 1;
        rowcast_model::Cursor {
            epoch: Epoch(self.epoch),
            ..at(self.lsn, 0)
        }
    }

    fn is_in(&self, person: &Person, org: usize) -> bool {
        self.members.contains(&(person.who, org)) || person.granted == Some(org)
    }

    fn set_key(&self) {
        let of = |org: &usize| self.members.contains(&(2, *org));
        let organizations: Vec<_> = (0..3).filter(of).map(|org| ORGS[org].into()).collect();
        let facts = KeyFacts {
            organizations,
            ..key_of("key", "acme")
        };
        self.publish(vec![HubOp::ApiKey(KeyChange {
            id: "key".into(),
            now: Some(facts),
        })]);
    }

    /// Tells an event and looks who got it: nobody but those who may, and they as often as they should.
    fn tell(&mut self, topic: Topic, user: Option<usize>, op: Operation, s: &str) {
        let cursor = self.cursor();
        self.next += 1;
        let id = self.next;
        let id_text = id.to_string();
        let image = row(&[("id", &id_text), ("s", s), ("n", "4711")]);
        let mut event = event("acme", cursor, id);
        let (new, old) = match op {
            Operation::Delete => (None, Some(image)),
            Operation::Update => (Some(image.clone()), Some(image)),
            _ => (Some(image), None),
        };
        event = change(op, new, old)(event);
        event.audience.user = user.map(|user| WHO[user].into());
        event.topic = topic.clone();
        event.last = true;
        let end = rowcast_model::Cursor::after_commit(cursor.epoch, cursor.commit_lsn);
        self.look();
        self.publish(vec![
            HubOp::from(event),
            HubOp::Commit {
                cursor: end,
                commit_time: Timestamp(0),
            },
        ]);
        for at in 0..self.people.len() {
            let person = &self.people[at];
            if person.client.connection.closed().is_some() {
                continue;
            }
            let orgs = match &topic {
                Topic::Org(of) => usize::from(
                    (0..3).any(|org| *of == ORGS[org].into() && self.is_in(person, org)),
                ),
                _ => usize::from((0..3).any(|org| self.is_in(person, org))),
            };
            let own = user.is_none_or(|user| user == person.who && person.who != 2);
            let may = orgs > 0 && own;
            let frames = frames(person);
            let rows: Vec<(&str, &Value)> = frames
                .iter()
                .filter(|(_, event, _)| event == "postgres_changes")
                .map(|(topic, _, payload)| (&**topic, &payload["data"]))
                .collect();
            assert!(may || rows.is_empty(), "{at} {topic:?}: {rows:?}");
            let joined = self.hub.joined(&person.client.connection);
            for (at, plain) in &person.all_rows {
                let there = joined.iter().any(|topic| &**topic == TOPICS[*at]);
                let tasks = rows.iter().filter(|(topic, data)| {
                    *topic == TOPICS[*at] && data["table"] == "tasks" && data["type"] == op.as_str()
                });
                if there && may && *plain {
                    assert!(tasks.count() > 0, "{} {:?}", TOPICS[*at], person.who);
                }
            }
            let mut seen: BTreeSet<(&str, String)> = BTreeSet::new();
            for (topic, event, payload) in &frames {
                if event == "postgres_changes" && payload["data"]["table"] == "tasks" {
                    let key = (&**topic, payload["ids"].to_string());
                    assert!(seen.insert(key), "twice: {topic} {payload}");
                }
            }
        }
    }

    /// Reads what has come to everybody.
    fn look(&self) {
        for person in &self.people {
            while person.client.connection.work().replay {
                self.hub.replay(&person.client.connection);
            }
            for (topic, event, payload) in frames(person) {
                assert_ne!(event, "postgres_changes", "{topic} {payload}");
            }
        }
    }

    fn step(&mut self, number: usize, step: &Step) {
        let reference = number.to_string();
        match *step {
            Step::Join(at, topic, kind, private) => {
                let person = &mut self.people[at];
                let wanted = join(person.version, TOPICS[topic], &reference, kind, private);
                let result = self.hub.join(&person.client.connection, wanted);
                if result.is_ok() {
                    // A room of which the application decides is joined later, and the one of before counts meanwhile.
                    let plain = kind % 2 == 0 && TOPICS[topic] != "realtime:room:1";
                    person.all_rows.insert(topic, plain);
                }
            }
            Step::Leave(at, topic) => {
                let person = &self.people[at];
                let (own, topic) = (Some(&*reference), TOPICS[topic]);
                let answer = phoenix::reply(person.version, own, own, topic, Ok("{}"));
                self.hub.leave(&person.client.connection, topic, answer);
            }
            Step::Expel(at, topic) => {
                let connection = &self.people[at].client.connection;
                self.hub.expel(connection, TOPICS[topic], "the token");
            }
            Step::Confirm(at) => {
                let connection = &self.people[at].client.connection;
                self.hub.confirm(connection, TOPICS[0]);
                self.hub.tell_joins(connection, "be quick");
            }
            Step::Member(who, org, role) => {
                match role {
                    Some(_) => self.members.insert((who, org)),
                    None => self.members.remove(&(who, org)),
                };
                match WHO[who] {
                    "key" => self.set_key(),
                    user => self.publish(vec![member(user, ORGS[org], role)]),
                }
            }
            Step::Granted(at, org) => {
                let person = &mut self.people[at];
                if at != 0 && WHO[person.who] != "key" {
                    person.granted = org;
                    let (who, connection) = (person.who, person.client.connection.clone());
                    let identity = self.identity(who, org);
                    self.hub.renew(&connection, identity).unwrap();
                }
            }
            Step::Cleared(keeps) => {
                let keeps = |pair: &(usize, usize)| keeps || pair.0 == 2;
                self.members.retain(keeps);
                let now = self.members.iter().filter(|(who, _)| WHO[*who] != "key");
                let now = now.map(|(who, org)| member(WHO[*who], ORGS[*org], Some("member")));
                self.publish(
                    std::iter::once(HubOp::MembershipsCleared)
                        .chain(now)
                        .collect(),
                );
            }
            Step::Rule(kind) => {
                let HubOp::Rule { table, .. } = tracked() else {
                    unreachable!()
                };
                let mask = Mask {
                    column: "s".into(),
                    kind: MaskKind::Redact,
                    roles: ["admin".into()].into(),
                    owner: false,
                };
                let now = match kind {
                    0 => Some(Shown::default()),
                    1 => Some(Shown {
                        masks: Some(Masks::new(vec![mask]).unwrap().into()),
                        ..Shown::default()
                    }),
                    2 => Some(Shown {
                        columns: Some(["id".into(), "n".into()].into()),
                        ..Shown::default()
                    }),
                    _ => None,
                };
                self.publish(vec![HubOp::Rule { table, now }]);
            }
            Step::Room(kind) => {
                let asks = Authorizer {
                    handler: Some(Handler::Webhook("rooms".into())),
                    ttl_seconds: 300,
                    grants: false,
                };
                let rule = match kind {
                    0 => room_rule(Who::Public),
                    1 | 2 => room_rule(Who::Authorized(asks.into())),
                    _ => HubOp::Channel(ChannelChange {
                        pattern: "room:{roomId}".into(),
                        now: None,
                    }),
                };
                self.publish(vec![rule]);
            }
            Step::Revoke => self.publish(vec![HubOp::Revoke(Revocation {
                organization: Some("acme".into()),
                channel: "room:1".into(),
                epoch: None,
                reason: None,
            })]),
            Step::Answer(says) => {
                self.asked.extend(self.hub.questions(10).0);
                for asked in self.asked.drain(..) {
                    match says {
                        true => self.hub.answered(asked.ticket, Ok(&yes())),
                        false => self.hub.answered(asked.ticket, Err(&no())),
                    }
                }
            }
            Step::Row(org, op) => {
                let op = [Operation::Insert, Operation::Update, Operation::Delete][op];
                self.tell(Topic::Org(ORGS[org].into()), None, op, r#""x""#);
            }
            Step::Everybodys => self.tell(Topic::AllOrgs, None, Operation::Insert, r#""y""#),
            Step::Users(user, org) => {
                let topic = Topic::Org(ORGS[org].into());
                self.tell(topic, Some(user), Operation::Update, r#""x""#);
            }
            Step::Said(to) => self.say(to),
            Step::Epoch => {
                self.epoch += 1;
                let (epoch, reason) = (Epoch(self.epoch), "a new slot".into());
                let start = self.cursor();
                self.publish(vec![
                    HubOp::NewEpoch { epoch, reason },
                    HubOp::LogBegins {
                        floor: start,
                        target: start,
                    },
                ]);
                // Clients join again by themselves; here they do not.
                self.people
                    .iter_mut()
                    .for_each(|person| person.all_rows.clear());
            }
            Step::Stream(live) => self.hub.announce(match live {
                true => StreamState::Live,
                false => StreamState::Stale {
                    since: Timestamp(0),
                    reason: "the database is away".into(),
                },
            }),
            Step::Present(at, here) => {
                let action = match here {
                    true => PresenceAction::Join(r#"{"a":1}"#.to_owned().into()),
                    false => PresenceAction::Leave,
                };
                let wanted = ClientPresence {
                    reference: None,
                    channel: "room:1".parse().unwrap(),
                    organization: Some("acme".into()),
                    action,
                };
                // Whoever is not there is refused.
                let _ = self
                    .hub
                    .present(&self.people[at].client.connection, &wanted);
            }
            Step::Presence => drop(self.hub.keep_presence()),
            Step::Position(at) => {
                let connection = &self.people[at].client.connection;
                self.hub.tell_position(connection);
            }
            Step::Again(at) => {
                self.hub.disconnect(&self.people[at].client.connection);
                self.people[at] = self.come(at);
            }
            Step::Vacate(at) => {
                let connection = &self.people[at].client.connection;
                self.hub.vacate(connection, at % 2 == 0);
            }
        }
    }

    /// A broadcast: to organizations, a room, a table, a user, everybody.
    fn say(&mut self, to: usize) {
        let (topic, org) = match to {
            0 => (Topic::Org("acme".into()), Some(0)),
            1 => (Topic::Org("blue".into()), Some(1)),
            2 => (
                Topic::Channel(Some("acme".into()), "room:1".into()),
                Some(0),
            ),
            3 => (
                Topic::Channel(Some("acme".into()), "tenant:acme:tasks".into()),
                Some(0),
            ),
            4 => (Topic::User("anna".into()), None),
            _ => (Topic::AllOrgs, None),
        };
        let names: &[&str] = match to {
            0 => &["realtime:org:acme"],
            1 => &["realtime:org:blue"],
            2 => &["realtime:room:1"],
            3 => &["realtime:tenant:acme:tasks"],
            4 => &["realtime:user:anna"],
            _ => &["realtime:org:acme", "realtime:org:blue"],
        };
        let cursor = self.cursor();
        let message = Message::broadcast("e", "1".to_owned().into_bytes().into());
        let audience = rowcast_model::Audience {
            user: (to == 4).then(|| "anna".into()),
            ..Default::default()
        };
        let mut event = RoutedEvent::message(cursor, Timestamp(0), topic, audience, message.into());
        event.last = true;
        self.look();
        self.publish(vec![HubOp::Event(event.into())]);
        for person in &self.people {
            for (topic, event, _) in frames(person) {
                assert_eq!(event, "broadcast");
                assert!(
                    names.contains(&&*topic),
                    "{topic} got what is for {names:?}"
                );
                let may = org.is_none_or(|org| self.is_in(person, org));
                assert!(
                    may && (to != 4 || person.who == 0),
                    "{topic} {:?}",
                    person.who
                );
            }
        }
    }
}

/// What has come: topic, event and payload of each frame; anything that is not of the protocol fails.
fn frames(person: &Person) -> Vec<(String, String, Value)> {
    let raw = person.client.socket.take();
    let (mut rest, mut found) = (&raw[..], Vec::new());
    while let Some((payload, next)) = rowcast_wire::payload_of(rest) {
        rest = next;
        if person.version == Version::V2 && payload.first() == Some(&4) {
            let size = usize::from(payload[1]);
            let topic = String::from_utf8(payload[5..5 + size].to_vec()).unwrap();
            found.push((topic, "broadcast".to_owned(), Value::Null));
            continue;
        }
        let frame: Value = serde_json::from_slice(payload).unwrap();
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let (topic, event, payload) = match person.version {
            Version::V1 => (&frame["topic"], &frame["event"], &frame["payload"]),
            Version::V2 => (&frame[2], &frame[3], &frame[4]),
        };
        let (Some(topic), Some(event)) = (text(topic), text(event)) else {
            panic!("no frame of the protocol: {frame}");
        };
        assert!(topic.starts_with("realtime:"), "{frame}");
        found.push((topic, event, payload.clone()));
    }
    assert!(rest.is_empty());
    found
}

fn play(steps: &[Step]) {
    let mut registry = Registry::default();
    let hub = Hub::new(HubLimits::default(), &mut registry);
    let mut play = Play {
        hub,
        people: Vec::new(),
        members: BTreeSet::from([(0, 0), (0, 1), (1, 1), (2, 0)]),
        asked: Vec::new(),
        lsn: 10,
        epoch: 1,
        next: 0,
    };
    play.publish(vec![
        HubOp::LogBegins {
            floor: at(5, 0),
            target: at(5, 0),
        },
        tracked(),
        room_rule(Who::Public),
    ]);
    for (who, org) in play.members.clone() {
        if WHO[who] != "key" {
            play.publish(vec![member(WHO[who], ORGS[org], Some("member"))]);
        }
    }
    play.set_key();
    play.people = (0..SOCKETS).map(|at| play.come(at)).collect();
    for (number, step) in steps.iter().enumerate() {
        play.step(number, step);
    }
    // What no connection holds is held by nobody.
    for (at, person) in play.people.iter().enumerate() {
        let connection = &person.client.connection;
        for topic in play.hub.joined(connection) {
            if at % 2 == 0 {
                let answer = phoenix::reply(person.version, None, None, &topic, Ok("{}"));
                play.hub.leave(connection, &topic, answer);
            }
        }
        if at % 2 == 0 {
            assert!(play.hub.joined(connection).is_empty());
        } else {
            connection.close(CloseCode::Restarting);
            play.hub.disconnect(connection);
        }
    }
    assert_eq!(play.hub.subscriptions(), 0);
    play.hub.questions(1);
    assert_eq!(metric(&registry, "hub_subscriptions_bytes"), 0);
    for person in &play.people {
        frames(person);
        play.hub.disconnect(&person.client.connection);
    }
    assert_eq!(metric(&registry, "hub_subscriptions_bytes"), 0);
    assert_eq!(metric(&registry, "hub_connections"), 0);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, max_shrink_iters: 2000, ..ProptestConfig::default() })]

    /// Promises 1, 6, 7 and 11 for sockets of the Supabase protocol.
    #[test]
    fn promise_06_whatever_happens(steps in prop::collection::vec(some_step(), 1..120)) {
        play(&steps);
    }
}
