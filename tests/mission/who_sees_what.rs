//! More than a hundred sockets of mixed roles on one organization, random rows and rules, and a naive model of
//! who sees what: Q3, Q13, Q18 to Q20, Q23; live, resumed, as the latest, and as server-sent events. The pure twin of
//! this is the matrix of the hub's tests.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::sse;
use crate::harness::{
    client::{Client, Frame},
    events::Events,
    rng::Rng,
    world::{World, subscribe},
};

const ROLES: [&str; 5] = ["admin", "hr", "support", "editor", "member"];
const SUBSCRIBERS: usize = 120;
const ROUNDS: usize = 60;
const STREAM: &str = "?channel=org:org_1&organization=org_1";
/// Of the ways on which somebody gets the rows, that with one event of each record.
const LATEST: usize = 2;

/// Memberships in a table of the application, so that one may have several roles.
const TABLES: &str = "
    CREATE TABLE crew (who text, org text, role text, PRIMARY KEY (who, org, role));
    SELECT rowcast.use_memberships('crew', 'who', 'org', 'role');
    CREATE TABLE secrets (id int PRIMARY KEY, organization_id text, owner text, reader text, a text, b text);
    SELECT rowcast.track('fences', organization_column => 'organization_id');";

struct Person {
    name: String,
    roles: BTreeSet<&'static str>,
    client: Client,
    stream: Events,
}

/// One rule of the table.
#[derive(Clone, Debug)]
struct Rule {
    required: BTreeSet<&'static str>,
    /// Roles that see `a` and `b`, and whether the owner does; `None`: no mask.
    masks: [Option<(BTreeSet<&'static str>, bool)>; 2],
    for_reader: bool,
}

fn some_roles(rng: &mut Rng, most: usize) -> BTreeSet<&'static str> {
    let count = rng.below(most + 1);
    (0..count).map(|_| *rng.pick(&ROLES)).collect()
}

impl Rule {
    fn random(rng: &mut Rng) -> Rule {
        let mut mask = || (rng.below(4) > 0).then(|| (some_roles(rng, 2), rng.below(2) == 0));
        let masks = [mask(), mask()];
        let required = match rng.below(3) {
            0 => some_roles(rng, 3),
            _ => BTreeSet::new(),
        };
        Rule {
            required,
            masks,
            for_reader: rng.below(5) == 0,
        }
    }

    fn sql(&self, rng: &mut Rng) -> String {
        let mut masks = json!({});
        for (column, mask) in ["a", "b"].iter().zip(&self.masks) {
            if let Some((roles, owner)) = mask {
                masks[*column] = json!({ "type": "redact", "show": { "roles": roles } });
                if *owner {
                    masks[*column]["show"]["or"] = "owner".into();
                }
            }
        }
        let reader = if self.for_reader { "'reader'" } else { "NULL" };
        let required: Vec<&str> = self.required.iter().copied().collect();
        // Both ways to change a rule.
        match rng.below(2) {
            0 => format!(
                "SELECT rowcast.track('secrets', owner_column => 'owner', mask => '{masks}', required_roles => '{{{}}}', user_column => {reader}, storage => '{}')",
                required.join(","),
                rng.pick(&["table", "log"]),
            ),
            _ => format!(
                "UPDATE rowcast.tables SET mask = '{masks}', required_roles = '{{{}}}', user_column = {reader} WHERE table_name = 'secrets'",
                required.join(","),
            ),
        }
    }
}

/// An event as somebody should get it, in few words.
fn expected(
    rule: &Rule,
    who: &Person,
    id: usize,
    owner: &str,
    reader: &str,
) -> Option<[String; 2]> {
    let required = rule.required.is_empty() || !rule.required.is_disjoint(&who.roles);
    if !required || (rule.for_reader && reader != who.name) {
        return None;
    }
    Some([0, 1].map(|column| {
        let plain = format!("{}-{id}-secret", ["a", "b"][column]);
        match &rule.masks[column] {
            Some((roles, of_owner))
                if roles.is_disjoint(&who.roles) && !(*of_owner && owner == who.name) =>
            {
                "[REDACTED]".into()
            }
            _ => plain,
        }
    }))
}

fn got(events: &[Frame], image: &str) -> Vec<(u64, [String; 2])> {
    let row = |event: &Frame| {
        let row = &event.json[image];
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        (
            row["id"].as_u64().unwrap(),
            [text(&row["a"]), text(&row["b"])],
        )
    };
    events.iter().map(row).collect()
}

/// MISSION Q3, Q13, Q18, Q19, Q20, Q23.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn q18_q19_q23_everybody_of_many_gets_what_a_naive_model_says() {
    let mut rng = Rng::new(4);
    let first = "SELECT rowcast.track('secrets', owner_column => 'owner')";
    let world = World::prepared(&format!("{TABLES} {first};"), &[]).await;
    world
        .exec("ALTER TABLE secrets REPLICA IDENTITY FULL")
        .await;
    let mut crew: Vec<(String, BTreeSet<&'static str>)> = Vec::new();
    for n in 0..SUBSCRIBERS {
        let mut roles = some_roles(&mut rng, 2);
        roles.insert(ROLES[n % 5]);
        for role in &roles {
            world
                .exec(&format!(
                    "INSERT INTO crew VALUES ('u{n}', 'org_1', '{role}')"
                ))
                .await;
        }
        crew.push((format!("u{n}"), roles));
    }
    let mut people = Vec::new();
    for (name, roles) in crew {
        let client = world.login(&name, "org_1").await;
        let stream = sse::stream(&world, &name, STREAM).await;
        people.push(Person {
            name,
            roles,
            client,
            stream,
        });
    }
    let fence = world.fence("org_1").await;
    for who in &mut people {
        who.client.until_fence(fence).await;
        who.stream.until_fence(fence).await;
    }
    let cursor = people[0]
        .client
        .events()
        .last()
        .unwrap()
        .text_of("cursor")
        .to_owned();

    let mut written = Vec::new();
    for id in 0..ROUNDS {
        let rule = Rule::random(&mut rng);
        world.exec(&rule.sql(&mut rng)).await;
        let owner = format!("u{}", rng.below(SUBSCRIBERS + 5));
        let reader = format!("u{}", rng.below(SUBSCRIBERS));
        world
            .exec(&format!(
                "INSERT INTO secrets VALUES ({id}, 'org_1', '{owner}', '{reader}', 'a-{id}-secret', 'b-{id}-secret');
                 DELETE FROM secrets WHERE id = {id}"
            ))
            .await;
        written.push((rule, owner, reader));
    }
    let fence = world.fence("org_1").await;
    let mut checked = 0;
    for who in &mut people {
        let live = who.client.until_fence(fence).await;
        let expected: Vec<(u64, [String; 2])> = written
            .iter()
            .enumerate()
            .filter_map(|(id, (rule, owner, reader))| {
                Some((id as u64, expected(rule, who, id, owner, reader)?))
            })
            .collect();
        let shown: BTreeSet<&String> = expected.iter().flat_map(|(_, row)| row).collect();
        // The same past once more, whole and as the latest.
        let mut paths = vec![live];
        for mode in ["all", "latest"] {
            let mut back = world.login(&who.name, "org_1").await;
            back.ask(subscribe(
                "org:org_1",
                json!({ "cursor": cursor, "mode": mode }),
            ))
            .await;
            paths.push(world.events_so_far(&mut back, "org_1").await);
        }
        paths.push(who.stream.until_fence(fence).await);
        let mut back = sse::resumed(&world, &who.name, STREAM, &cursor).await;
        paths.push(back.until_fence(fence).await);
        for (path, events) in paths.iter().enumerate() {
            let (inserts, deletes): (Vec<Frame>, Vec<Frame>) = events
                .iter()
                .cloned()
                .partition(|event| event.event_type() == "INSERT");
            // Of a record that is gone, the latest is that it is gone.
            if path != LATEST {
                assert_eq!(
                    got(&inserts, "new"),
                    expected,
                    "{} {:?} {path}",
                    who.name,
                    who.roles
                );
            }
            assert_eq!(
                got(&deletes, "old"),
                expected,
                "{} {:?} {path}",
                who.name,
                who.roles
            );
            checked += expected.len();
            for id in 0..ROUNDS {
                for column in ["a", "b"] {
                    let plain = format!("{column}-{id}-secret");
                    if !shown.contains(&plain) {
                        assert!(
                            events.iter().all(|event| !event.text.contains(&plain)),
                            "{plain} for {}",
                            who.name
                        );
                    }
                }
            }
        }
    }
    assert!(checked > 1000, "{checked}");
}
