//! What an operator is told of the same world, and what he does in it: why somebody gets an event or does not, who is
//! on which channel, and who gets what comes after he has closed and revoked. Compared with the same model.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Mutex,
};

use futures_util::{StreamExt, stream};
use serde_json::{Value, json};

use super::{
    Person,
    model::{Listens, Masked, Row},
};
use crate::{
    harness::{
        client::Frame,
        http::{Answer, call},
        rng::Rng,
        until_or,
        world::World,
    },
    mission::{
        admin::{TOKEN, admin},
        explain::gate,
    },
};

/// Questions that are under way at a time.
const AT_A_TIME: usize = 8;

/// Where each event stands, as somebody was told.
#[derive(Default)]
pub struct Cursors(BTreeMap<(usize, String), String>);

impl Cursors {
    pub fn note(&mut self, events: &[Frame]) {
        for event in events.iter().filter(|event| event.table() == "secrets") {
            let id = ["new", "old"].map(|image| event.json[image]["id"].as_u64());
            let id = id[0].or(id[1]).unwrap() as usize;
            let cursor = event.text_of("cursor").to_owned();
            let before = self.0.insert((id, event.event_type().to_owned()), cursor);
            let same = before.is_none_or(|before| before == event.text_of("cursor"));
            assert!(same, "one event stands in one place: {}", event.text);
        }
    }
}

async fn ask(world: &World, question: &Value, get: bool) -> Value {
    let bearer = format!("Bearer {TOKEN}");
    let headers = [("Authorization", bearer.as_str())];
    let address = world.server.public;
    let answer: Answer = if get {
        let fields = question.as_object().unwrap().iter();
        let fields: Vec<String> = fields
            .map(|(name, value)| format!("{name}={}", value.as_str().unwrap()))
            .collect();
        let path = format!("/admin/explain?{}", fields.join("&"));
        call(address, "GET", &path, &headers, "").await
    } else {
        let body = question.to_string();
        call(address, "POST", "/admin/explain", &headers, &body).await
    };
    assert_eq!(answer.status, 200, "{question}: {}", answer.json);
    answer.json
}

/// What is said of the masks.
fn says((new, old): Masked) -> String {
    let names = |masked: [bool; 2]| {
        let names = ["`a`", "`b`"].into_iter().zip(masked);
        let names: Vec<&str> = names.filter(|one| one.1).map(|one| one.0).collect();
        names.join(", ")
    };
    match (new.map(names), old.map(names)) {
        (Some(new), Some(old)) if new != old && new.is_empty() => {
            format!("masked for them in the row before: {old}")
        }
        (Some(new), Some(old)) if new != old && !old.is_empty() => {
            format!("masked for them: {new}; in the row before: {old}")
        }
        (Some(one), _) | (None, Some(one)) if !one.is_empty() => format!("masked for them: {one}"),
        _ => "every column that is sent is plain for them".into(),
    }
}

/// A question about a row for somebody: mostly where he listens, and on every kind of channel.
fn question(rng: &mut Rng, person: &Person, row: &Row) -> (String, &'static str) {
    let who = &person.who;
    let operations: Vec<&'static str> = row.operations().collect();
    let elsewhere = who.listens == Listens::Elsewhere;
    let first = who.channels().first().cloned().filter(|_| !elsewhere);
    let own = format!("user:{}", who.name);
    let channel = match rng.below(10) {
        0 => own,
        1 => "tenant:org_1:secrets".into(),
        2 => format!("user:u{}", (who.n + 1) % 100),
        3 => "org:org_2".into(),
        4 => "org:org_1".into(),
        // His own row, for once.
        5..7 if row.reader == who.name => own,
        _ => first.unwrap_or("org:org_1".into()),
    };
    let channel = match (elsewhere, channel.as_str()) {
        (true, "org:org_2") => "org:org_1".into(),
        _ => channel,
    };
    (channel, *rng.pick(&operations))
}

/// For everybody and many of the rows, what is explained is what the model says: whether the event comes on a channel,
/// which gate stops it, which of its columns come masked, and which event it is. How often each gate was the one.
pub async fn explains(
    world: &World,
    people: &[Person],
    rows: &[Row],
    cursors: &Cursors,
) -> BTreeMap<String, usize> {
    let mut rng = Rng::new(rows.len() as u64);
    let mut questions = Vec::new();
    for (i, person) in people.iter().enumerate() {
        for (j, row) in rows.iter().enumerate() {
            // The one whom it is for is always asked about.
            if (i + j).is_multiple_of(4) || row.reader == person.who.name {
                questions.push((person, row, question(&mut rng, person, row)));
            }
        }
    }
    let seen: Mutex<BTreeMap<String, usize>> = Mutex::default();
    let all = questions.len();
    stream::iter(questions.into_iter().enumerate())
        .for_each_concurrent(AT_A_TIME, |(n, (person, row, (channel, op)))| {
            let seen = &seen;
            async move {
                let who = &person.who;
                let expected = row.gate(who, &channel, op);
                let table = ["secrets", "public.secrets"][n % 2];
                let asked = json!({"user": who.name, "organization": "org_1", "channel": channel,
                    "table": table, "record": row.id.to_string(), "operation": op});
                let answer = ask(world, &asked, n.is_multiple_of(3)).await;
                let context = || format!("{who:?} {row:?} {asked}: {answer:#}");
                let stops = answer["stops"].as_str();
                assert_eq!(stops, expected.err(), "{}", context());
                assert_eq!(answer["delivered"], expected.is_ok(), "{}", context());
                let counted = stops.unwrap_or("nothing").to_owned();
                *seen.lock().unwrap().entry(counted).or_default() += 1;
                if channel == "org:org_2" {
                    return;
                }
                assert_eq!(answer["event"]["operation"], op, "{}", context());
                if let Some(cursor) = cursors.0.get(&(row.id, op.to_owned())) {
                    assert_eq!(answer["event"]["cursor"], **cursor, "{}", context());
                }
                let masks = gate(&answer, "masks");
                match row.judge(who, op) {
                    Ok(masked) if masks["verdict"] == "yes" => {
                        assert_eq!(masks["says"], says(masked), "{}", context());
                    }
                    Ok(_) => assert!(
                        matches!(expected, Err("membership" | "channel" | "carries")),
                        "{}",
                        context()
                    ),
                    Err(_) => assert_ne!(answer["delivered"], true),
                }
            }
        })
        .await;
    let connections = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'rowcast explain' AND datname = current_database()";
    let connections: i64 = world.sql.query_one(connections, &[]).await.unwrap().get(0);
    assert!((1..=4).contains(&connections), "{connections}");
    let seen = seen.into_inner().unwrap();
    assert!(seen["nothing"] * 8 > all, "{seen:?}");
    seen
}

/// The same of what was said on the room.
pub async fn explains_the_room(world: &World, people: &[Person]) {
    for (n, Person { who, .. }) in people.iter().enumerate() {
        let asked = json!({"user": who.name, "organization": "org_1", "channel": "room:1"});
        let answer = ask(world, &asked, n.is_multiple_of(2)).await;
        let expected = match who.listens {
            Listens::Elsewhere => Some("membership"),
            Listens::Nowhere => Some("socket"),
            _ if who.room => None,
            _ => Some("subscription"),
        };
        assert_eq!(answer["stops"].as_str(), expected, "{who:?}: {answer:#}");
        assert_eq!(answer["delivered"], expected.is_none(), "{answer:#}");
    }
}

type Connections = BTreeMap<String, Vec<BTreeSet<String>>>;

/// Exactly those are listed who are there, on exactly the channels that they are on; and of each channel how many.
pub async fn lists(world: &World, people: &[Person]) {
    let mut expected = Connections::new();
    let mut on: BTreeMap<String, u64> = BTreeMap::new();
    for person in people {
        let there = usize::from(person.client.is_some()) + usize::from(person.stream.is_some());
        let channels: BTreeSet<String> = person.who.channels().into_iter().collect();
        for _ in 0..there {
            for channel in &channels {
                *on.entry(channel.clone()).or_default() += 1;
            }
            let name = person.who.name.clone();
            expected.entry(name).or_default().push(channels.clone());
        }
    }
    let get = async |path: String| {
        let answer = admin(world, "GET", &path, Value::Null).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.json);
        answer.json
    };
    let last: Mutex<Connections> = Mutex::default();
    let wrong = || {
        let found = last.lock().unwrap();
        let names: BTreeSet<&String> = found.keys().chain(expected.keys()).collect();
        let differ = names
            .iter()
            .filter(|name| found.get(**name) != expected.get(**name));
        let differ = differ.map(|name| (name, found.get(*name), expected.get(*name)));
        format!("found and expected: {:#?}", differ.collect::<Vec<_>>())
    };
    // Those who have just left may be seen for a moment.
    until_or("the connections of the model", wrong, async || {
        let (mut found, mut after, mut open) = (Connections::new(), json!(0), json!(0));
        while !after.is_null() {
            let page = get(format!("connections?limit=70&after={after}")).await;
            for connection in page["connections"].as_array().unwrap() {
                let channels = connection["channels"].as_array().unwrap().iter();
                let channels = channels.map(|one| one["channel"].as_str().unwrap().to_owned());
                let user = connection["userId"].as_str().unwrap().to_owned();
                found.entry(user).or_default().push(channels.collect());
            }
            (after, open) = (page["next"].clone(), page["open"].clone());
        }
        let count: usize = found.values().map(Vec::len).sum();
        let same = found == expected && open == count;
        *last.lock().unwrap() = found;
        same
    })
    .await;
    let answer = get("channels?limit=1000".into()).await;
    let listed = answer["channels"].as_array().unwrap().iter();
    let listed: BTreeMap<String, u64> = listed
        .map(|one| {
            let name = one["channel"].as_str().unwrap().to_owned();
            let (kind, of) = name.split_once(':').unwrap();
            let of = match kind {
                "user" => Value::Null,
                "room" => json!("org_1"),
                _ => json!(of.split(':').next()),
            };
            assert_eq!(one["organizationId"], of, "{one}");
            (name, one["connections"].as_u64().unwrap())
        })
        .collect();
    assert_eq!(listed, on);
    assert_eq!(
        (&answer["all"], &answer["complete"]),
        (&json!(on.len()), &json!(true))
    );
}

/// A user, a socket, a stream and an organization are closed: those, with the reason, and nobody else.
pub async fn closes(world: &World, people: &mut [Person]) {
    let id = |first: &Frame| -> u64 { first.text_of("connectionId").parse().unwrap() };
    let socket = id(&people[9].client.as_ref().unwrap().seen[0]);
    let stream = id(&people[12].stream.as_ref().unwrap().seen[0].frame);
    for (body, count) in [
        (json!({"user": "u6"}), 2),
        (json!({"user": "u127"}), 0),
        (json!({"connection": socket}), 1),
        (json!({"connection": stream}), 1),
        (json!({"organization": "org_2"}), 8),
    ] {
        let answer = admin(world, "POST", "disconnect", body.clone()).await;
        assert_eq!(answer.json, json!({ "disconnected": count }), "{body}");
    }
    for (
        n,
        Person {
            who,
            client,
            stream,
        },
    ) in people.iter_mut().enumerate()
    {
        let all = n == 6 || who.listens == Listens::Elsewhere;
        if let Some(mut gone) = client.take_if(|_| all || n == 9) {
            assert_eq!(gone.until_closed().await.0, 4507);
        }
        if let Some(mut gone) = stream.take_if(|_| all || n == 12) {
            assert_eq!(gone.until_closed().await.json["code"], 4507);
        }
        if n == 6 {
            (who.listens, who.room) = (Listens::Nowhere, false);
        }
    }
}

fn of_the_room(kind: &'static str) -> impl Fn(&Frame) -> bool {
    move |frame| frame.is(kind) && frame.text_of("channel") == "room:1"
}

/// The application takes some off its list and revokes: those are told so, the others notice nothing.
pub async fn revokes(world: &World, people: &mut [Person]) {
    let leaves = |person: &&mut Person| person.who.room && person.who.n % 2 == 1;
    for person in people.iter_mut().filter(leaves) {
        let name = &person.who.name;
        let statement = format!("DELETE FROM app.room WHERE who = '{name}'");
        world.exec(&statement).await;
    }
    let body = json!({"channel": "room:1", "organization": "org_1", "reason": "left"});
    let answer = admin(world, "POST", "revoke", body).await;
    assert_eq!(answer.status, 200, "{}", answer.json);
    assert!(answer.json["cursor"].is_string(), "{}", answer.json);
    for person in people.iter_mut().filter(leaves) {
        let gone = of_the_room("unsubscribed");
        if let Some(client) = &mut person.client {
            let told = client.until("the end", &gone).await;
            assert_eq!(told.text_of("reason"), "left");
        }
        if let Some(stream) = &mut person.stream {
            let told = stream.until("the end", &gone).await;
            assert_eq!(told.frame.text_of("reason"), "left");
        }
        person.who.room = false;
    }
}

/// Those who are on the room still, on sockets and streams, have heard what was said; nobody else has.
pub async fn hears_the_room(people: &mut [Person]) {
    let said = of_the_room("broadcast");
    let mut heard = 0;
    for Person {
        who,
        client,
        stream,
    } in people
    {
        if let Some(client) = client {
            let mut has = client.seen.iter().any(&said);
            if who.room && !has {
                // Those who stayed were behind it for a moment.
                client.until("what was said", &said).await;
                has = true;
            }
            assert_eq!(has, who.room, "{who:?}");
            heard += usize::from(has);
        }
        if let Some(stream) = stream {
            let mut has = stream.seen.iter().any(|event| said(&event.frame));
            if who.room && !has {
                stream.until("what was said", &said).await;
                has = true;
            }
            assert_eq!(has, who.room, "{who:?}");
            heard += usize::from(has);
        }
    }
    assert!(heard > 20, "{heard}");
}
