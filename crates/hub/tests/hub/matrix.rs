//! Who sees what, in every combination: roles, owner, user, required roles, masks, what changed, and the path by
//! which somebody gets it. Many subscribers of all kinds at once, compared with a model that knows nothing of
//! the hub. To add a path, add it to [`Path`]; to add a kind of subscriber, to [`people`].

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::BytesMut;
use proptest::prelude::*;
use rowcast_hub::{Auth, Hub, Identity};
use rowcast_model::{
    Audience, Body, ColumnMeta, HubOp, JsonRow, JsonRowBuilder, KeyChange, KeyFacts, Kind, Mask,
    MaskKind, Masked, Masks, MembershipChange, Operation, RoutedEvent, Topic,
};
use serde_json::{Value, json};

use crate::{joins, support::*};

const ROLES: [&str; 3] = ["admin", "hr", "member"];
const COLUMNS: [&str; 4] = ["id", "a", "b", "c"];

/// A subscriber.
#[derive(Clone, Debug)]
struct Person {
    name: String,
    /// A user, not a machine.
    user: bool,
    roles: BTreeSet<&'static str>,
}

/// Three users and a machine of every set of roles.
fn people() -> Vec<Person> {
    let sets = (1..8).map(|set: usize| (0..3).filter(move |i| set & 1 << i != 0).map(|i| ROLES[i]));
    sets.enumerate()
        .flat_map(|(set, roles)| {
            let roles: BTreeSet<_> = roles.collect();
            (0..4).map(move |n| Person {
                name: format!("p{set}{n}"),
                user: n < 3,
                roles: roles.clone(),
            })
        })
        .collect()
}

/// How somebody gets events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Path {
    Live,
    Columns,
    Latest,
    Replay,
    ReplayLatest,
    /// A join of the Supabase protocol, with a binding to the rows and one to table events.
    Joined,
    /// The same with some columns.
    JoinedColumns,
}

const PATHS: [Path; 7] = [
    Path::Live,
    Path::Columns,
    Path::Latest,
    Path::Replay,
    Path::ReplayLatest,
    Path::Joined,
    Path::JoinedColumns,
];

impl Path {
    fn comes_later(self) -> bool {
        matches!(self, Path::Replay | Path::ReplayLatest)
    }

    fn is_joined(self) -> bool {
        matches!(self, Path::Joined | Path::JoinedColumns)
    }

    fn json(self) -> &'static str {
        match self {
            Path::Live | Path::Replay => {
                r#"{"type":"subscribe","channel":"org:acme","events":["changes","invalidations"]}"#
            }
            Path::Columns => {
                r#"{"type":"subscribe","channel":"org:acme","tables":[{"table":"tasks","columns":["id","b"]}]}"#
            }
            Path::Latest | Path::ReplayLatest => {
                r#"{"type":"subscribe","channel":"org:acme","mode":"latest"}"#
            }
            Path::Joined => {
                r#"[{"event":"*","schema":"public","table":"tasks"},{"event":"*","schema":"public","table":"realtime_table_events","filter":"organization_id=eq.acme"}]"#
            }
            Path::JoinedColumns => {
                r#"[{"event":"*","schema":"public","table":"tasks","select":["id","b"]}]"#
            }
        }
    }

    fn shows(self, column: &str) -> bool {
        !matches!(self, Path::Columns | Path::JoinedColumns) || matches!(column, "id" | "b")
    }
}

/// The mask of one column, as a person would write it down.
#[derive(Clone, Debug)]
struct Rule {
    kind: MaskKind,
    roles: BTreeSet<&'static str>,
    owner: bool,
}

/// One event.
#[derive(Clone, Debug)]
struct Case {
    op: Operation,
    required: BTreeSet<&'static str>,
    user: Option<usize>,
    /// Masks of `a`, `b` and `c`.
    rules: [Option<Rule>; 3],
    owner: Option<usize>,
    old_owner: Option<usize>,
    /// Nothing changed but these columns.
    only: Option<BTreeSet<usize>>,
    nulls: u8,
}

fn some_roles() -> impl Strategy<Value = BTreeSet<&'static str>> {
    prop::collection::btree_set(prop::sample::select(&ROLES[..]), 0..=2)
}

fn some_rule() -> impl Strategy<Value = Option<Rule>> {
    let kind = prop::sample::select(&MaskKind::ALL[..]);
    let rule = (kind, some_roles(), any::<bool>());
    prop::option::weighted(
        0.8,
        rule.prop_map(|(kind, roles, owner)| Rule { kind, roles, owner }),
    )
}

fn some_case() -> impl Strategy<Value = Case> {
    let op = prop::sample::select(vec![
        Operation::Insert,
        Operation::Update,
        Operation::Update,
        Operation::Delete,
    ]);
    let person = || prop::option::of(0..people().len());
    let only = prop::option::weighted(0.3, prop::collection::btree_set(0usize..3, 1..=2));
    let audience = (some_roles(), prop::option::weighted(0.2, 0..people().len()));
    let rules = [some_rule(), some_rule(), some_rule()];
    (op, audience, rules, person(), person(), only, any::<u8>()).prop_map(
        |(op, (required, user), rules, owner, old_owner, only, nulls)| Case {
            op,
            required,
            user,
            owner: owner.filter(|_| op != Operation::Delete),
            old_owner: old_owner.filter(|_| op != Operation::Insert),
            only: only.filter(|_| op == Operation::Update && rules.iter().any(Option::is_some)),
            rules,
            nulls,
        },
    )
}

/// A value that is found again wherever it comes out.
fn plain(case: usize, image: usize, column: usize) -> String {
    format!("zz{:06}zz@host.example", case * 10 + image * 3 + column)
}

fn is_null(case: &Case, image: usize, column: usize) -> bool {
    case.nulls & 1 << (image * 3 + column) != 0 && case.nulls.is_multiple_of(3)
}

/// What a mask makes of such a value.
fn starred(kind: MaskKind, value: &str) -> String {
    match kind {
        MaskKind::Email => "z*********@h***.example".into(),
        MaskKind::Phone | MaskKind::Ssn => format!("***{}", &value[5..8]),
        MaskKind::CreditCard => "**** **** **** ****".into(),
        MaskKind::Name => format!("z{}", "*".repeat(value.len() - 1)),
        MaskKind::Redact => "[REDACTED]".into(),
    }
}

/// The model.
impl Case {
    fn sees(&self, who: &Person, people: &[Person], owner: Option<usize>, column: usize) -> bool {
        let Some(rule) = &self.rules[column] else {
            return true;
        };
        let owns = owner.is_some_and(|owner| who.user && people[owner].name == who.name);
        !rule.roles.is_disjoint(&who.roles) || rule.owner && owns
    }

    fn tells(&self, who: &Person, people: &[Person]) -> bool {
        let required = self.required.is_empty() || !self.required.is_disjoint(&who.roles);
        let user = self
            .user
            .is_none_or(|user| who.user && people[user].name == who.name);
        let concerns = self.only.as_ref().is_none_or(|only| {
            only.iter().any(|column| {
                self.rules[*column].is_some()
                    && [self.owner, self.old_owner]
                        .into_iter()
                        .any(|owner| self.sees(who, people, owner, *column))
            })
        });
        required && user && concerns
    }

    /// One image of the row as somebody gets it.
    fn image(
        &self,
        number: usize,
        who: &Person,
        people: &[Person],
        image: usize,
        path: Path,
    ) -> Value {
        let (there, owner) = match image {
            0 => (self.op != Operation::Delete, self.owner),
            _ => (self.op != Operation::Insert, self.old_owner),
        };
        if !there {
            return Value::Null;
        }
        let mut object = serde_json::Map::new();
        object.insert("id".into(), json!(number));
        for column in 0..3 {
            let value = plain(number, image, column);
            let shown = match &self.rules[column] {
                _ if is_null(self, image, column) => Value::Null,
                Some(rule) if !self.sees(who, people, owner, column) => {
                    starred(rule.kind, &value).into()
                }
                _ => value.into(),
            };
            object.insert(COLUMNS[column + 1].into(), shown);
        }
        object.retain(|column, _| path.shows(column));
        object.into()
    }

    /// The event as it goes to the hub.
    fn event(&self, number: usize, people: &[Person]) -> RoutedEvent {
        let masks = self.rules.iter().zip(&COLUMNS[1..]);
        let masks = masks.filter_map(|(rule, column)| {
            let rule = rule.as_ref()?;
            Some(Mask {
                column: (*column).into(),
                kind: rule.kind,
                roles: rule.roles.iter().map(|role| (*role).into()).collect(),
                owner: rule.owner,
            })
        });
        let masks = Arc::new(Masks::new(masks.collect()).unwrap());
        let user = |at: Option<usize>| at.map(|at| people[at].name.as_str().into());
        let only = self.only.as_ref().map(|only| {
            let of = |column: &usize| masks.of(COLUMNS[column + 1]);
            only.iter()
                .filter_map(of)
                .fold(0, |bits, (i, _)| bits | 1 << i)
        });
        let masked = (!masks.columns().is_empty()).then(|| {
            Arc::new(Masked {
                owner: user(self.owner),
                old_owner: user(self.old_owner),
                masks: masks.clone(),
                only,
            })
        });
        let columns: Arc<[ColumnMeta]> = COLUMNS
            .map(|name| ColumnMeta::new(name.into(), Kind::Text))
            .into();
        let row = |image: usize| -> JsonRow {
            let mut buffer = BytesMut::new();
            let mut builder = JsonRowBuilder::new(columns.clone(), &mut buffer);
            builder.column(|out| out.extend_from_slice(number.to_string().as_bytes()));
            for column in 0..3 {
                let json = match is_null(self, image, column) {
                    true => "null".into(),
                    false => format!("\"{}\"", plain(number, image, column)),
                };
                builder.column(|out| out.extend_from_slice(json.as_bytes()));
            }
            builder.finish()
        };
        let lsn = number as u64 + 10;
        let of = event("acme", at(lsn, 0), u32::try_from(number).unwrap());
        RoutedEvent {
            audience: Audience {
                required_roles: self.required.iter().map(|role| (*role).into()).collect(),
                user: user(self.user),
                masked,
            },
            op: self.op,
            topic: Topic::Org("acme".into()),
            body: Body::Change {
                new: (self.op != Operation::Delete).then(|| row(0)),
                old: (self.op != Operation::Insert).then(|| row(1)),
                unchanged: Arc::new([]),
            },
            last: true,
            ..of
        }
    }
}

/// Plain values anywhere in these bytes.
fn found(bytes: &[u8]) -> BTreeSet<String> {
    let is_one = |window: &&[u8]| {
        window.starts_with(b"zz")
            && window.ends_with(b"zz")
            && window[2..8].iter().all(u8::is_ascii_digit)
    };
    let all = bytes.windows(10).filter(is_one);
    all.map(|one| String::from_utf8_lossy(one).into_owned())
        .collect()
}

fn join(hub: &Hub, people: &[Person]) {
    let members = people.iter().flat_map(|who| {
        who.roles.iter().map(|role| match who.user {
            true => HubOp::Membership(MembershipChange {
                key: format!("{}/{role}", who.name).into(),
                now: Some((
                    who.name.as_str().into(),
                    "acme".into(),
                    Some((*role).into()),
                )),
            }),
            false => HubOp::ApiKey(KeyChange {
                id: who.name.as_str().into(),
                now: Some(KeyFacts::new(
                    &format!("hash of {}", who.name),
                    "acme",
                    who.roles.iter().map(|role| (*role).into()).collect(),
                )),
            }),
        })
    });
    hub.publish(batch(members.collect()));
}

fn connect(hub: &Hub, who: &Person, path: Path) -> Client {
    let identity = match who.user {
        true => Identity::session(&*who.name),
        false => Identity::api_key(&*who.name, format!("hash of {}", who.name)),
    };
    assert_eq!(matches!(identity.auth, Auth::Session { .. }), who.user);
    if path.is_joined() {
        let socket = Socket::new(usize::MAX);
        let connection = hub.connect_phoenix(identity, socket.clone());
        return Client { socket, connection };
    }
    Client::new(hub, identity)
}

fn subscribe(hub: &Hub, client: &Client, path: Path) {
    if path.is_joined() {
        let bindings = serde_json::from_str(path.json()).unwrap();
        let join = joins::join("realtime:db", "1", bindings, false);
        hub.join(&client.connection, join).unwrap();
        assert_eq!(joins::told(client), ["1 ok", joins::SUBSCRIBED]);
        return;
    }
    let mut subscription = wanted(path.json());
    subscription.cursor = path.comes_later().then(|| at(5, 0));
    let reply = hub.subscribe(&client.connection, subscription).unwrap();
    assert_eq!(reply.resync, None);
    while client.connection.work().replay {
        hub.replay(&client.connection);
    }
    client.connection.flush_latest();
}

/// What somebody was told.
struct Received {
    rows: BTreeMap<u64, (Value, Value)>,
    records: BTreeSet<u64>,
    tokens: BTreeSet<String>,
}

/// The rows that somebody was told, by number, and every plain value in any byte he got.
fn received(client: &Client) -> Received {
    let tokens = found(&client.socket.raw());
    let (mut rows, mut records) = (BTreeMap::new(), BTreeSet::new());
    for mut frame in client.socket.frames() {
        if frame.is_array() {
            assert_eq!(frame[3], "postgres_changes", "{frame}");
            let data = frame[4]["data"].take();
            if data["table"] == "realtime_table_events" {
                let record = data["record"]["record_id"].as_str().unwrap();
                records.insert(record.parse().unwrap());
                continue;
            }
            frame = json!({
                "type": "postgres_changes",
                "new": data["record"].clone(),
                "old": data["old_record"].clone(),
            });
        }
        match frame["type"].as_str().unwrap() {
            "postgres_changes" => {
                let there = ["new", "old"]
                    .into_iter()
                    .find(|image| !frame[*image].is_null());
                let number = frame[there.unwrap()]["id"].as_u64().unwrap();
                rows.insert(number, (frame["new"].clone(), frame["old"].clone()));
            }
            "invalidate" => {
                records.insert(frame["recordId"].as_str().unwrap().parse().unwrap());
            }
            "subscribed" | "position" | "commit" => {}
            other => panic!("{other}"),
        }
    }
    Received {
        rows,
        records,
        tokens,
    }
}

fn matrix(cases: &[Case]) {
    let hub = hub();
    let people = people();
    hub.publish(batch(vec![HubOp::LogBegins {
        floor: at(5, 0),
        target: at(5, 0),
    }]));
    join(&hub, &people);
    hub.publish(batch(vec![joins::tracked()]));
    let mut clients: Vec<(usize, Path, Client)> = Vec::new();
    for (at, who) in people.iter().enumerate() {
        for path in PATHS {
            let client = connect(&hub, who, path);
            if !path.comes_later() {
                subscribe(&hub, &client, path);
            }
            clients.push((at, path, client));
        }
    }
    assert!(clients.len() > 100);
    for (number, case) in cases.iter().enumerate() {
        let ops = vec![
            HubOp::Event(case.event(number, &people).into()),
            commit(number as u64 + 10),
        ];
        hub.publish(batch(ops));
    }
    for (at, path, client) in &clients {
        let (who, path) = (&people[*at], *path);
        if path.comes_later() {
            subscribe(&hub, client, path);
        }
        client.connection.flush_latest();
        let Received {
            rows,
            records,
            tokens,
        } = received(client);
        let told = cases.iter().enumerate();
        let told = told.filter(|(_, case)| case.tells(who, &people));
        let image =
            |number: usize, case: &Case, image| case.image(number, who, &people, image, path);
        let expected: BTreeMap<u64, (Value, Value)> = told
            .map(|(n, case)| (n as u64, (image(n, case, 0), image(n, case, 1))))
            .collect();
        assert_eq!(rows, expected, "{who:?} {path:?}");
        if matches!(path, Path::Live | Path::Replay | Path::Joined) {
            assert!(records.iter().eq(expected.keys()), "{who:?} {path:?}");
        }
        // What the model shows, and nothing else, is anywhere in the bytes.
        let shown = serde_json::to_vec(&expected.values().collect::<Vec<_>>()).unwrap();
        assert_eq!(tokens, found(&shown), "{who:?} {path:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4, max_shrink_iters: 200, ..ProptestConfig::default() })]

    /// MISSION Q13 to Q20 and Q23: several hundred events for 140 subscribers.
    #[test]
    fn q18_q19_everybody_gets_what_a_naive_model_says(cases in prop::collection::vec(some_case(), 60..90)) {
        matrix(&cases);
    }
}
