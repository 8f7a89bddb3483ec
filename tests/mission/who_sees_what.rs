//! More than a hundred people of mixed roles on the channels of one organization, random rows and rules, and a naive
//! model of who sees what: Q3, Q13, Q18 to Q20, Q23; live, resumed, as the latest, as server-sent events, and as an
//! operator is told. The pure twin of this is the matrix of the hub's tests.

pub mod model;
mod operator;

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{admin::TOKEN, sse};
use crate::harness::{
    client::{Client, Frame},
    events::Events,
    rng::Rng,
    world::{World, subscribe},
};
use model::{FENCES, Listens, ROLES, Row, Rule, Told, Who, some_roles};

pub const SUBSCRIBERS: usize = 120;
const ROUNDS: usize = 60;
/// Of the ways on which somebody gets the rows, that with one event of each record.
const LATEST: usize = 2;

/// Memberships in a table of the application, so that one may have several roles; and a room, of which it says who
/// may be there.
pub const TABLES: &str = "
    CREATE TABLE crew (who text, org text, role text, PRIMARY KEY (who, org, role));
    SELECT rowcast.use_memberships('crew', 'who', 'org', 'role');
    CREATE TABLE secrets (id int PRIMARY KEY, organization_id text, owner text, reader text, a text, b text);
    ALTER TABLE secrets REPLICA IDENTITY FULL;
    SELECT rowcast.track('secrets', owner_column => 'owner');
    SELECT rowcast.track('fences', organization_column => 'organization_id');
    DO $$ BEGIN CREATE ROLE app_user NOLOGIN; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$;
    CREATE SCHEMA app;
    GRANT USAGE ON SCHEMA app TO app_user;
    SELECT rowcast.grant_caller('app_user');
    CREATE TABLE app.room (who text PRIMARY KEY);
    GRANT SELECT ON app.room TO app_user;
    CREATE FUNCTION app.may(input jsonb, channel text, arguments jsonb, caller jsonb) RETURNS jsonb LANGUAGE sql
    AS $$ SELECT to_jsonb(EXISTS (SELECT FROM app.room WHERE who = caller ->> 'userId')) $$;
    SELECT rowcast.define_channel('room:{id}', 'authorized', authorizer => 'app.may', ttl_seconds => 3600);";

/// Somebody, his socket, and his event stream; both on the same channels, as long as they are open.
struct Person {
    who: Who,
    client: Option<Client>,
    stream: Option<Events>,
}

/// The people of the world, not connected yet.
pub fn people(rng: &mut Rng) -> Vec<Who> {
    let listens = |n: usize| match n {
        n if n >= SUBSCRIBERS + 4 => Listens::Nowhere,
        n if n >= SUBSCRIBERS => Listens::Elsewhere,
        n => {
            use Listens::{Both, Organization, Table, User};
            [Both, Organization, Both, User, Table][n / 5 % 5]
        }
    };
    let person = |n: usize| {
        let mut roles = some_roles(rng, 2);
        roles.insert(ROLES[n % 5]);
        let listens = listens(n);
        Who {
            n,
            name: format!("u{n}"),
            roles,
            room: n.is_multiple_of(3) && !matches!(listens, Listens::Elsewhere | Listens::Nowhere),
            listens,
        }
    };
    (0..SUBSCRIBERS + 8).map(person).collect()
}

fn address(who: &Who) -> String {
    let channels: Vec<String> = (who.channels().iter())
        .map(|channel| format!("&channel={channel}"))
        .collect();
    format!("?organization={}{}", who.organization(), channels.concat())
}

/// A socket on the channels of somebody, and on no other; `more` is said of each.
async fn socket(world: &World, who: &Who, more: Value) -> Client {
    let mut client = world.login(&who.name, who.organization()).await;
    let channels = who.channels();
    for begun in [
        format!("org:{}", who.organization()),
        format!("user:{}", who.name),
    ] {
        if !channels.contains(&begun) {
            let frame = json!({"type": "unsubscribe", "channel": begun});
            client.ask(frame).await;
        }
    }
    for channel in &channels {
        let reply = client.ask(subscribe(channel, more.clone())).await;
        assert!(reply.is("subscribed"), "{}", reply.text);
    }
    client
}

async fn connect(world: &World, who: Who) -> Person {
    let (mut client, mut stream) = (None, None);
    if who.listens != Listens::Nowhere {
        client = Some(socket(world, &who, json!({})).await);
        let mut events = sse::stream(world, &who.name, &address(&who)).await;
        if who.room {
            let there =
                |frame: &Frame| frame.is("subscribed") && frame.text_of("channel") == "room:1";
            events.until("the room", there).await;
        }
        stream = Some(events);
    }
    Person {
        who,
        client,
        stream,
    }
}

/// Writes a row for each reader: who has his own has read everything before. The number of the fence.
pub async fn fence(world: &World, rng: &mut Rng, number: usize) -> usize {
    let base = FENCES * number;
    world.exec(&Rule::fence().sql(rng)).await;
    world
        .exec(&format!(
            "INSERT INTO secrets SELECT {base} + n, 'org_1', NULL, 'u' || n, '', '' FROM generate_series(0, {SUBSCRIBERS}) n;
             INSERT INTO fences VALUES ({base}, 'org_2')"
        ))
        .await;
    base
}

/// Whether this is somebody's own row of a fence.
fn is_fence(frame: &Frame, who: &Who, base: usize) -> bool {
    let id = frame.json["new"]["id"].as_u64();
    match who.listens {
        Listens::Elsewhere => frame.table() == "fences" && id == Some(base as u64),
        _ => frame.table() == "secrets" && id == Some((base + who.n) as u64),
    }
}

/// What a socket gets from here up to a fence.
async fn read_socket(client: &mut Client, who: &Who, base: usize) -> Vec<Frame> {
    let start = client.seen.len();
    until_fence(client, who, base).await;
    events(&client.seen[start..])
}

async fn until_fence(client: &mut Client, who: &Who, base: usize) {
    let fence = |frame: &Frame| is_fence(frame, who, base);
    // It may have come before a reply.
    if !client.seen.iter().any(fence) {
        client.until("the fence", fence).await;
    }
}

/// What a stream gets from here up to a fence.
async fn read_stream(stream: &mut Events, who: &Who, base: usize) -> Vec<Frame> {
    let start = stream.seen.len();
    stream
        .until("the fence", |frame| is_fence(frame, who, base))
        .await;
    let frames: Vec<Frame> = (stream.seen[start..].iter())
        .map(|event| event.frame.clone())
        .collect();
    events(&frames)
}

fn events(frames: &[Frame]) -> Vec<Frame> {
    let fenced = |frame: &&Frame| frame.json["new"]["id"].as_u64() >= Some(FENCES as u64);
    let events = frames
        .iter()
        .filter(|frame| frame.is_event() && !fenced(frame));
    events.cloned().collect()
}

/// Events of rows, as the model has them.
fn told(events: &[Frame]) -> Vec<Told> {
    let rows = events.iter().filter(|frame| frame.table() == "secrets");
    let one = |frame: &Frame| {
        let image = |name: &str| {
            let row = frame.json[name].as_object()?;
            Some(["a", "b"].map(|column| row[column].as_str().unwrap().to_owned()))
        };
        let row = ["new", "old"].map(|name| frame.json[name]["id"].as_u64());
        let ops = ["INSERT", "UPDATE", "DELETE"];
        Told {
            op: ops.iter().find(|op| **op == frame.event_type()).unwrap(),
            id: row[0].or(row[1]).unwrap() as usize,
            new: image("new"),
            old: image("old"),
        }
    };
    rows.map(one).collect()
}

/// The rows that somebody was told are those of the model, on the one channel that they come on; and no other value
/// of them is anywhere in what he got.
pub fn compare(who: &Who, path: usize, got: &[Frame], rows: &[Row]) -> usize {
    let expected: Vec<Told> = rows.iter().flat_map(|row| row.all_told(who)).collect();
    let wanted = |told: &Told| path != LATEST || told.op == "DELETE";
    // Of a record that is gone, the latest is that it is gone.
    let all = told(got);
    let all: Vec<&Told> = all.iter().filter(|told| wanted(told)).collect();
    let right: Vec<&Told> = expected.iter().filter(|told| wanted(told)).collect();
    let differs = (0..all.len().max(right.len())).find(|i| all.get(*i) != right.get(*i));
    if let Some(at) = differs {
        let (got, right) = (all.get(at), right.get(at));
        panic!(
            "{who:?} on path {path}: got {got:?}, not {right:?}, of {:#?}",
            rows[right.or(got).unwrap().id % ROUNDS]
        );
    }
    let channels = who.channels();
    for event in got.iter().filter(|event| event.table() == "secrets") {
        assert_eq!(event.text_of("channel"), channels[0], "{who:?} {path}");
    }
    let images = expected.iter().flat_map(|told| [&told.new, &told.old]);
    let shown: BTreeSet<&str> = images.flatten().flatten().map(String::as_str).collect();
    for event in got {
        for (at, _) in event.text.match_indices("-secret-") {
            let start = event.text[..at].rfind(['a', 'b']).unwrap();
            let value = &event.text[start..at + "-secret-1".len()];
            assert!(shown.contains(value), "{value} for {who:?}");
        }
    }
    expected.len()
}

pub async fn write(world: &World, rng: &mut Rng, ids: std::ops::Range<usize>) -> Vec<Row> {
    let mut rows = Vec::new();
    for id in ids {
        let row = Row::random(rng, id, SUBSCRIBERS);
        world.exec(&row.rule.sql(rng)).await;
        for transaction in row.transactions(rng) {
            world.exec(&transaction).await;
        }
        rows.push(row);
    }
    rows
}

/// MISSION Q3, Q13, Q18, Q19, Q20, Q23.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn q18_q19_q23_everybody_of_many_gets_what_a_naive_model_says() {
    let mut rng = Rng::new(4);
    let env = [
        ("ACCESS_TOKEN", TOKEN),
        ("ROWCAST__APPLICATION__ROLE", "app_user"),
        // Sockets that nobody reads while questions are asked are to stay.
        ("ROWCAST__LIMITS__SILENCE", "10 min"),
    ];
    let world = World::prepared(TABLES, &env).await;
    let crew = people(&mut rng);
    let mut members = String::new();
    for who in &crew {
        for role in &who.roles {
            let (name, organization) = (&who.name, who.organization());
            members.push_str(&format!(
                "INSERT INTO crew VALUES ('{name}', '{organization}', '{role}');"
            ));
        }
        if who.room {
            members.push_str(&format!("INSERT INTO app.room VALUES ('{}');", who.name));
        }
    }
    world.exec(&members).await;
    let mut people = Vec::new();
    for who in crew {
        people.push(connect(&world, who).await);
    }
    let mut places = Vec::new();
    let base = fence(&world, &mut rng, 1).await;
    for Person {
        who,
        client,
        stream,
    } in &mut people
    {
        let (Some(client), Some(stream)) = (client, stream) else {
            places.push(Default::default());
            continue;
        };
        read_socket(client, who, base).await;
        read_stream(stream, who, base).await;
        let cursor = client.events().last().unwrap().text_of("cursor");
        places.push((cursor.to_owned(), stream.last_id.clone().unwrap()));
    }

    let rows = write(&world, &mut rng, 0..ROUNDS).await;
    let base = fence(&world, &mut rng, 2).await;
    let mut checked = 0;
    let mut cursors = operator::Cursors::default();
    for (person, (cursor, last)) in people.iter_mut().zip(&places) {
        let who = &person.who;
        let (Some(client), Some(stream)) = (&mut person.client, &mut person.stream) else {
            continue;
        };
        let mut paths = vec![read_socket(client, who, base).await];
        // The same past once more, whole and as the latest.
        for mode in ["all", "latest"] {
            let alone = Who {
                room: false,
                ..who.clone()
            };
            let more = json!({ "cursor": cursor, "mode": mode });
            let mut back = socket(&world, &alone, more).await;
            until_fence(&mut back, who, base).await;
            paths.push(events(&back.seen));
        }
        paths.push(read_stream(stream, who, base).await);
        let mut back = sse::resumed(&world, &who.name, &address(who), last).await;
        paths.push(read_stream(&mut back, who, base).await);
        for (path, events) in paths.iter().enumerate() {
            checked += compare(who, path, events, &rows);
        }
        cursors.note(&paths[0]);
    }
    assert!(checked > 1000, "{checked}");

    operator::lists(&world, &people).await;
    let stops = operator::explains(&world, &people, &rows, &cursors).await;
    let gates = [
        "membership",
        "channel",
        "carries",
        "required_roles",
        "user_column",
        "masks",
        "socket",
        "subscription",
        "filter",
    ];
    let all: Vec<&str> = stops.keys().map(String::as_str).collect();
    let right = gates.into_iter().chain(["nothing"]);
    assert_eq!(
        all,
        BTreeSet::from_iter(right).into_iter().collect::<Vec<_>>()
    );
    assert!(stops.values().sum::<usize>() > 1500, "{stops:?}");
    operator::closes(&world, &mut people).await;
    operator::revokes(&world, &mut people).await;

    let more = write(&world, &mut rng, ROUNDS..ROUNDS + 12).await;
    world
        .exec("SELECT rowcast.send('room:1', 'said', '1', 'org_1')")
        .await;
    let base = fence(&world, &mut rng, 3).await;
    for Person {
        who,
        client,
        stream,
    } in &mut people
    {
        if let Some(client) = client {
            let got = read_socket(client, who, base).await;
            compare(who, 0, &got, &more);
        }
        if let Some(stream) = stream {
            let got = read_stream(stream, who, base).await;
            compare(who, 3, &got, &more);
        }
    }
    operator::hears_the_room(&mut people).await;
    operator::lists(&world, &people).await;
    operator::explains(&world, &people, &more, &operator::Cursors::default()).await;
    operator::explains_the_room(&world, &people).await;
}
