//! The matrix of `tests/mission/who_sees_what.rs` on the Supabase path: more than a hundred people of mixed roles,
//! random rows and rules, and the naive model of who sees what; each byte that a socket received is looked at.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{
    client::{EACH, Js, table},
    raw::{self, Raw, Said},
};
use crate::{
    harness::{client::Frame, rng::Rng, token, world::World},
    mission::who_sees_what::{
        TABLES, compare, fence,
        model::{FENCES, Listens, Row, Told, Who},
        people, write,
    },
};

const ROUNDS: usize = 60;

/// Whoever it is, all his rows come on one channel of any name.
fn on_one_channel(who: Who) -> Who {
    let listens = match who.listens {
        Listens::Elsewhere => Listens::Elsewhere,
        _ => Listens::Organization,
    };
    Who {
        listens,
        room: false,
        ..who
    }
}

/// Whether this is somebody's own row of a fence.
fn is_fence(data: &Value, who: &Who, base: usize) -> bool {
    let id = data["record"]["id"].as_u64();
    match who.listens {
        Listens::Elsewhere => data["table"] == "fences" && id == Some(base as u64),
        _ => data["table"] == "secrets" && id == Some((base + who.n) as u64),
    }
}

/// A frame in the words of our own protocol, which the model reads.
fn native(said: &Said, who: &Who) -> Frame {
    let data = &said.payload["data"];
    let image = |name: &str| data.get(name).cloned().unwrap_or_default();
    let json = json!({
        "type": "postgres_changes", "table": data["table"], "eventType": data["type"],
        "new": image("record"), "old": image("old_record"), "channel": who.channels()[0],
    });
    Frame {
        text: said.text.clone(),
        json,
    }
}

/// Reads up to a fence; the rows that are none of a fence.
async fn read(raw: &mut Raw, who: &Who, base: usize) -> Vec<Frame> {
    let start = raw.seen.len();
    let done = |said: &Said| is_fence(&said.payload["data"], who, base);
    if !raw.seen.iter().any(done) {
        raw.until("the fence", done).await;
    }
    let rows = raw.seen[start..]
        .iter()
        .filter(|said| said.event == "postgres_changes");
    let rows = rows.map(|said| native(said, who));
    let fenced = |frame: &Frame| frame.json["new"]["id"].as_u64() >= Some(FENCES as u64);
    rows.filter(|frame| !fenced(frame)).collect()
}

/// Each value that is anywhere in the text, such as `a-17-secret-2`.
fn values(text: &str) -> BTreeSet<&str> {
    let ends = text.match_indices("-secret-");
    let value = |(at, _): (usize, &str)| {
        let start = text[..at].rfind(['a', 'b']).unwrap();
        &text[start..at + "-secret-1".len()]
    };
    ends.map(value).collect()
}

/// MISSION Q3, Q13, Q18, Q19, Q20, promises 6 and 12: everybody gets what the naive model says, in both versions of the
/// protocol and by both libraries; and no value that is masked for somebody is in any byte that he received.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn q18_q19_q20_supabase_everybody_gets_what_a_naive_model_says() {
    let mut rng = Rng::new(17);
    let env = [("ROWCAST__APPLICATION__ROLE", "app_user")];
    let world = World::prepared(TABLES, &env).await;
    let crew = people(&mut rng).into_iter();
    let crew = crew.filter(|who| who.listens != Listens::Nowhere);
    let crew: Vec<Who> = crew.map(on_one_channel).collect();
    let mut members = String::new();
    for who in &crew {
        for role in &who.roles {
            let (name, organization) = (&who.name, who.organization());
            members.push_str(&format!(
                "INSERT INTO crew VALUES ('{name}', '{organization}', '{role}');"
            ));
        }
    }
    world.exec(&members).await;
    let last = crew.last().unwrap();
    drop(world.login(&last.name, last.organization()).await);
    let mut sockets = Vec::new();
    for who in &crew {
        let vsn = raw::EACH[who.n % 2];
        let mut raw = Raw::open(world.server.public, vsn).await;
        let bindings = json!([table("secrets"), table("fences")]);
        let topic = [
            "realtime:org:org_1",
            "realtime:anything",
            "realtime:user:u1",
        ][who.n % 3];
        raw.joined(topic, &token::session(&who.name), bindings)
            .await;
        sockets.push(raw);
    }
    // And some by the libraries themselves.
    let mut libraries = Vec::new();
    for (n, library) in EACH.into_iter().cycle().take(6).enumerate() {
        let who = &crew[n * 7];
        let mut js = Js::of(&world, library, &who.name).await;
        js.listen("all", &[("secrets", table("secrets"))]).await;
        libraries.push((who, js));
    }
    let rows = write(&world, &mut rng, 0..ROUNDS).await;
    let base = fence(&world, &mut rng, 1).await;
    let mut checked = 0;
    for (who, raw) in crew.iter().zip(&mut sockets) {
        let got = read(raw, who, base).await;
        checked += compare(who, 0, &got, &rows);
        bytes(who, raw, &rows);
    }
    assert!(checked > 1000, "{checked}");
    for (who, js) in &mut libraries {
        let mine = |event: &Value| {
            event["name"] == "secrets" && event["payload"]["new"]["id"] == json!(base + who.n)
        };
        js.take("the fence", mine).await;
        let mut got = Vec::new();
        while js.has(|event| event["name"] == "secrets") {
            let payload = js.callback("secrets").await;
            let image = |name: &str| match payload[name].get("id") {
                Some(_) => payload[name].clone(),
                None => Value::Null,
            };
            let json = json!({
                "type": "postgres_changes", "table": payload["table"], "eventType": payload["eventType"],
                "new": image("new"), "old": image("old"), "channel": who.channels()[0],
            });
            let text = payload.to_string();
            got.push(Frame { text, json });
        }
        got.retain(|frame| frame.json["new"]["id"].as_u64() < Some(FENCES as u64));
        compare(who, 0, &got, &rows);
    }
}

/// What is anywhere in the bytes of a socket is what the model shows, and nothing of it is missing.
fn bytes(who: &Who, raw: &Raw, rows: &[Row]) {
    let told: Vec<Told> = rows.iter().flat_map(|row| row.all_told(who)).collect();
    let images = told.iter().flat_map(|told| [&told.new, &told.old]);
    let right: BTreeSet<&str> = images.flatten().flatten().map(String::as_str).collect();
    let right: BTreeSet<&str> = right
        .into_iter()
        .filter(|value| *value != "[REDACTED]")
        .collect();
    let text = String::from_utf8_lossy(&raw.bytes);
    assert_eq!(values(&text), right, "{who:?} {}", raw.vsn);
}
