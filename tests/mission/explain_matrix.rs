//! What is explained is what sockets get: a matrix of people, channels and rules, compared with delivery.

use std::collections::BTreeMap;

use serde_json::json;

use super::{
    admin::{admin, world},
    explain::{explain, gate},
};
use crate::harness::{
    client::{Client, Frame},
    world::subscribe,
};

/// One person of the matrix: what he is, and what he listens to.
struct Person {
    name: String,
    channel: String,
    client: Client,
}

/// Roles x required roles x user column x kind of channel x membership: for every person and every row, what is
/// explained is what the socket got.
#[tokio::test]
async fn explain_agrees_with_delivery() {
    let mut tables = String::new();
    for (table, required, reader) in [
        ("t00", "{}", false),
        ("t10", "{hr,boss}", false),
        ("t01", "{}", true),
        ("t11", "{hr}", true),
    ] {
        let reader = if reader {
            ", user_column => 'reader'"
        } else {
            ""
        };
        tables.push_str(&format!(
            "CREATE TABLE {table} (id int PRIMARY KEY, organization_id text, reader text, grade int);
             SELECT rowcast.track('{table}', required_roles => '{required}'{reader});"
        ));
    }
    let world = world(&tables).await;
    let mut people = Vec::new();
    for (kind, organization, role) in [
        ("member", "org_1", "member"),
        ("hr", "org_1", "hr"),
        ("other", "org_2", "hr"),
    ] {
        for (n, channel) in [
            "org:{o}",
            "user:{u}",
            "tenant:{o}:t01",
            "org:{o}",
            "org:{o}",
            "user:{u}",
        ]
        .iter()
        .enumerate()
        {
            let name = format!("{kind}{n}");
            let mut client = world.member_with_role(&name, organization, role).await;
            let channel = channel.replace("{o}", organization).replace("{u}", &name);
            // The last one hears on the channel of the organization what is for him alone.
            if n < 5 {
                for all in [format!("org:{organization}"), format!("user:{name}")] {
                    client
                        .ask(json!({"type": "unsubscribe", "channel": all}))
                        .await;
                }
                let more = match n {
                    3 => {
                        let graded = json!({"column": "grade", "op": "gt", "value": 5});
                        let of = |table: &str| json!({"table": table, "filter": graded});
                        json!({"tables": [of("t00"), of("t01"), of("t11")]})
                    }
                    4 => {
                        json!({"events": ["broadcasts", "invalidations"], "tables": [{"table": "t10"}]})
                    }
                    _ => json!({}),
                };
                let reply = client.ask(subscribe(&channel, more)).await;
                assert!(reply.is("subscribed"), "{}", reply.text);
            }
            people.push(Person {
                name,
                channel,
                client,
            });
        }
    }
    let mut rows = Vec::new();
    let mut statements = String::new();
    for table in ["t00", "t10", "t01", "t11"] {
        let readers: Vec<Option<String>> = match table {
            "t00" | "t10" => vec![None],
            _ => people
                .iter()
                .map(|person| Some(person.name.clone()))
                .chain([Some("nobody".into())])
                .collect(),
        };
        for (n, reader) in readers.iter().enumerate() {
            for grade in [3, 7] {
                let id = (10 * n + grade).to_string();
                let quoted = reader
                    .as_ref()
                    .map_or("NULL".to_owned(), |reader| format!("'{reader}'"));
                statements.push_str(&format!(
                    "INSERT INTO {table} VALUES ({id}, 'org_1', {quoted}, {grade});"
                ));
                rows.push((table, id));
            }
        }
    }
    world.exec(&statements).await;
    let mut got: BTreeMap<String, Vec<(String, String, String)>> = BTreeMap::new();
    for person in &mut people {
        // Everybody is at the present when he is told his position, whatever he listens to.
        let cursor = |frame: &Frame| {
            frame.json["cursor"]
                .as_str()
                .and_then(|text| text.parse::<rowcast_model::Cursor>().ok())
        };
        let goal = admin(
            &world,
            "POST",
            "explain",
            json!({"user": person.name, "channel": person.channel}),
        )
        .await;
        let says = gate(&goal.json, "stream")["says"]
            .as_str()
            .unwrap()
            .to_owned();
        let goal: rowcast_model::Cursor = says.rsplit(' ').next().unwrap().parse().unwrap();
        person
            .client
            .until("the present", |frame| {
                frame.is("position")
                    && cursor(frame)
                        .is_some_and(|at| at.compare(&goal).is_some_and(|order| order.is_ge()))
            })
            .await;
        let events = person
            .client
            .events()
            .filter(|frame| frame.is("postgres_changes") || frame.is("invalidate"));
        let of = |frame: &Frame| {
            let id = frame.json["new"]["id"].as_i64().map(|id| id.to_string());
            let id = id.unwrap_or_else(|| frame.text_of("recordId").to_owned());
            (
                frame.text_of("channel").to_owned(),
                frame.table().to_owned(),
                id,
            )
        };
        let mut told: Vec<(String, String, String)> = events.map(of).collect();
        told.sort();
        told.dedup();
        got.insert(person.name.clone(), told);
    }
    assert!(
        got.values().filter(|told| !told.is_empty()).count() > 8,
        "{got:#?}"
    );
    let (mut yes, mut instead, mut no) = (0, 0, BTreeMap::new());
    for person in &people {
        for (table, id) in &rows {
            let question = json!({"user": person.name, "channel": person.channel, "table": table, "record": id});
            let answer = explain(&world, question).await;
            let on = |channel: &str| {
                let event = (channel.to_owned(), (*table).to_owned(), id.clone());
                got[&person.name].contains(&event)
            };
            let there = on(&person.channel);
            assert_eq!(
                answer["delivered"] == true,
                there,
                "{} {table} {id}: {answer:#}",
                person.name
            );
            // What comes on the channel of the organization instead is told there.
            let says = gate(&answer, "filter")["says"].as_str().unwrap_or_default();
            assert!(
                !says.contains("same socket") || on("org:org_1"),
                "{answer:#}"
            );
            instead += usize::from(says.contains("same socket"));
            match answer["stops"].as_str() {
                None => yes += 1,
                Some(stops) => *no.entry(stops.to_owned()).or_insert(0) += 1,
            }
        }
    }
    for gate in ["carries", "required_roles", "user_column", "filter"] {
        assert!(no.contains_key(gate), "{gate} never says no: {no:?}");
    }
    assert!(yes > 20 && instead > 2, "{yes}, {instead}");
}
