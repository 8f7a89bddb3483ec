//! Who gets which rows: organizations, memberships that come and go, roles, users. Promises 6 and 7, MISSION Q3, Q13, T8 to T10.

use serde_json::{Value, json};

use super::{
    client::{EACH, Js, NEW, filtered, table, told},
    raw::{self, Raw},
};
use crate::harness::{
    fixture::{PROJECT_1, PROJECT_2, TRACK},
    token,
    world::World,
};

/// Promise 6: three people of two organizations listen to everything there is, on topics of any name; nobody is
/// told a row of the other organization, DELETEs and rows that move included.
#[tokio::test]
async fn t08_t09_supabase_promise_06_nobody_sees_the_others_rows() {
    let world = World::prepared(
        &format!("{TRACK} ALTER TABLE orders REPLICA IDENTITY FULL;"),
        &[],
    )
    .await;
    for (round, library) in EACH.into_iter().enumerate() {
        let mut people = Vec::new();
        for (name, organization) in [("anna", "org_1"), ("bert", "org_1"), ("carl", "org_2")] {
            let user = format!("{name}-{}", library.version);
            let mut js = Js::member(&world, library, &user, organization).await;
            // The names of topics give nobody anything; nor do filters.
            js.listen(
                "org:org_1",
                &[("all", json!({"event": "*", "schema": "*", "table": "*"}))],
            )
            .await;
            let own = filtered("materials", "organization_id=eq.org_1");
            js.listen("org:org_2", &[("of-1", own), ("orders", table("orders"))])
                .await;
            people.push((organization, js));
        }
        let mark = format!("r{round}");
        world
            .exec(&format!(
                "INSERT INTO materials VALUES ('{mark}-1', 'org_1', 'secret-of-org_1'), ('{mark}-2', 'org_2', 'secret-of-org_2');
                 UPDATE materials SET status = 'secret-of-' || organization_id;
                 INSERT INTO projects VALUES ('{PROJECT_1}', 'org_1', 'secret-of-org_1'), ('{PROJECT_2}', 'org_2', 'secret-of-org_2');
                 INSERT INTO tasks VALUES (1, '{PROJECT_1}', 'secret-of-org_1'), (2, '{PROJECT_2}', 'secret-of-org_2');
                 UPDATE tasks SET done = true;
                 INSERT INTO orders VALUES (1, 'org_1', 1111), (2, 'org_2', 2222);
                 UPDATE orders SET organization_id = 'org_2', total = 2223 WHERE id = 1;
                 UPDATE materials SET organization_id = 'org_1', title = 'secret-of-org_1', status = NULL WHERE id = '{mark}-2';
                 DELETE FROM orders; DELETE FROM materials; DELETE FROM projects",
            ))
            .await;
        let fences = [world.fence("org_1").await, world.fence("org_2").await];
        for (organization, js) in &mut people {
            let [own, other] = match *organization {
                "org_1" => [0, 1],
                _ => [1, 0],
            };
            let events = js.until_fence(fences[own]).await;
            let text: String = events.iter().map(|event| event.1.to_string()).collect();
            let foreign = ["secret-of-org_1", "secret-of-org_2"][other];
            assert!(
                !text.contains(foreign),
                "{library:?} {organization}: {text}"
            );
            assert!(!js.has(|event| event["payload"]["new"]["id"] == json!(fences[other])));
            let all: Vec<(String, Value)> = events
                .iter()
                .filter(|event| event.0 == "all")
                .cloned()
                .collect();
            let right = match own {
                0 => vec![
                    format!("all INSERT {mark}-1"),
                    format!("all UPDATE {mark}-1"),
                    format!("all INSERT {PROJECT_1}"),
                    "all INSERT 1".into(),
                    "all UPDATE 1".into(),
                    "all INSERT 1".into(),
                    "all DELETE 1".into(),
                    format!("all INSERT {mark}-2"),
                ],
                _ => vec![
                    format!("all INSERT {mark}-2"),
                    format!("all UPDATE {mark}-2"),
                    format!("all INSERT {PROJECT_2}"),
                    "all INSERT 2".into(),
                    "all UPDATE 2".into(),
                    "all INSERT 2".into(),
                    "all INSERT 1".into(),
                    format!("all DELETE {mark}-2"),
                ],
            };
            assert_eq!(
                told(&all)[..right.len()],
                right,
                "{library:?} {organization}"
            );
            // A row that moved away left with nothing but its key.
            let left = all
                .iter()
                .find(|event| event.1["eventType"] == "DELETE")
                .unwrap();
            assert_eq!(left.1["old"].as_object().unwrap().len(), 1, "{left:?}");
            let mut deleted: Vec<String> = told(&all)[right.len()..].to_vec();
            deleted.sort_unstable();
            let mut gone = match own {
                0 => vec![
                    format!("all DELETE {mark}-1"),
                    format!("all DELETE {mark}-2"),
                    format!("all DELETE {PROJECT_1}"),
                    "all DELETE 1".into(),
                ],
                _ => vec![
                    "all DELETE 1".into(),
                    "all DELETE 2".into(),
                    format!("all DELETE {PROJECT_2}"),
                    "all DELETE 2".into(),
                ],
            };
            gone.sort_unstable();
            assert_eq!(deleted, gone, "{library:?} {organization}");
        }
    }
}

/// MISSION T10, promise 7: a membership that is gained or lost counts from its place in the log on, without a rejoin.
#[tokio::test]
async fn t10_supabase_promise_07_memberships_are_followed_live() {
    let world = World::start().await;
    for (round, library) in EACH.into_iter().enumerate() {
        let user = format!("u-{}", library.version);
        let mut js = Js::member(&world, library, &user, "org_1").await;
        js.listen("all", &[("labels", table("labels"))]).await;
        let base = round * 10;
        let label = |n: usize, organization: &str| {
            format!(
                "INSERT INTO labels VALUES ({}, '{organization}', 'x');",
                base + n
            )
        };
        let gain = format!(
            "INSERT INTO rowcast.memberships (user_id, organization_id, role) VALUES ('{user}', 'org_2', 'member');"
        );
        let lose = format!(
            "DELETE FROM rowcast.memberships WHERE user_id = '{user}' AND organization_id = 'org_2';"
        );
        // Each of its own transaction, one right after the other.
        for statement in [
            label(1, "org_2"),
            gain.clone(),
            label(2, "org_2"),
            label(3, "org_1"),
            lose.clone(),
            label(4, "org_2"),
            gain,
            label(5, "org_2"),
            lose,
            label(6, "org_2"),
            label(7, "org_1"),
        ] {
            world.exec(&statement).await;
        }
        let events = js.so_far(&world, "org_1").await;
        let right = [2, 3, 5, 7].map(|n| format!("labels INSERT {}", base + n));
        assert_eq!(told(&events), right, "{library:?}");
        // The last one goes, and comes back: the channel stays.
        let own = format!("DELETE FROM rowcast.memberships WHERE user_id = '{user}';");
        world.exec(&own).await;
        world.exec(&label(8, "org_1")).await;
        world.add_member(&user, "org_1", "member").await;
        world.exec(&label(9, "org_1")).await;
        let events = js.so_far(&world, "org_1").await;
        assert_eq!(
            told(&events),
            [format!("labels INSERT {}", base + 9)],
            "{library:?}"
        );
        let left = |event: &Value| event["event"] == "status";
        assert!(!js.has(left), "{library:?}");
    }
}

/// Somebody who is a member of nothing yet is told so; his client tries again, and comes in once he is one.
#[tokio::test]
async fn t10_supabase_a_user_without_organizations_waits_for_one() {
    let world = World::start().await;
    for (n, library) in EACH.into_iter().enumerate() {
        let user = format!("new-{}", library.version);
        let mut js = Js::of(&world, library, &user).await;
        let rows = [("labels", table("labels"))];
        js.channel("mine", json!({}), &rows).await;
        js.begin_subscribe("mine").await;
        let (status, error) = js.status("mine").await;
        assert_eq!(status, "CHANNEL_ERROR", "{library:?}");
        assert!(
            error.contains("Unauthorized: ") && error.contains("member"),
            "{error}"
        );
        drop(world.member(&user, "org_1").await);
        js.retry("mine", &rows).await;
        world
            .exec(&format!("INSERT INTO labels VALUES ({n}, 'org_1', 'x')"))
            .await;
        let events = js.so_far(&world, "org_1").await;
        assert_eq!(told(&events), [format!("labels INSERT {n}")], "{library:?}");
    }
}

/// MISSION Q3, Q13: required roles and the column of a user count here as everywhere; a role that is given or taken counts
/// from its place in the log.
#[tokio::test]
async fn q03_q13_supabase_required_roles_and_user_column() {
    let world = World::prepared(
        &format!(
            "{TRACK} CREATE TABLE salaries (id int PRIMARY KEY, organization_id text);
             SELECT rowcast.track('salaries', organization_column => 'organization_id', required_roles => '{{hr}}');"
        ),
        &[],
    )
    .await;
    for (round, library) in EACH.into_iter().enumerate() {
        let [anna, hans] = ["anna", "hans"].map(|name| format!("{name}-{}", library.version));
        let mut member = Js::member(&world, library, &anna, "org_1").await;
        let mut hr = Js::member_as(&world, library, &hans, "org_1", "hr").await;
        for js in [&mut member, &mut hr] {
            js.listen(
                "org:org_1",
                &[
                    ("salaries", table("salaries")),
                    ("notes", table("notifications")),
                ],
            )
            .await;
        }
        let base = round * 10;
        let [one, two, three] = [base + 1, base + 2, base + 3];
        world
            .exec(&format!(
                "INSERT INTO salaries VALUES ({one}, 'org_1');
                 INSERT INTO notifications VALUES ({one}, 'org_1', '{anna}', 'a'), ({two}, 'org_1', '{hans}', 'h'), ({three}, 'org_1', NULL, 'nobody');
                 DELETE FROM salaries; DELETE FROM notifications"
            ))
            .await;
        let fence = world.fence("org_1").await;
        let right = |own: usize| [format!("notes INSERT {own}"), format!("notes DELETE {own}")];
        let got = told(&member.until_fence(fence).await);
        assert_eq!(got, right(one), "{library:?}");
        let got = told(&hr.until_fence(fence).await);
        let [insert, delete] = right(two);
        let salaries = [
            format!("salaries INSERT {one}"),
            format!("salaries DELETE {one}"),
        ];
        assert_eq!(
            got,
            [salaries[0].clone(), insert, salaries[1].clone(), delete],
            "{library:?}"
        );
        // Roles follow the log.
        let set = |role: &str| {
            format!("UPDATE rowcast.memberships SET role = '{role}' WHERE user_id = '{anna}'")
        };
        for (role, id) in [("hr", one), ("member", two), ("hr", three)] {
            world.exec(&set(role)).await;
            world
                .exec(&format!("INSERT INTO salaries VALUES ({id}, 'org_1')"))
                .await;
        }
        let got = told(&member.so_far(&world, "org_1").await);
        assert_eq!(
            got,
            [one, three].map(|id| format!("salaries INSERT {id}")),
            "{library:?}"
        );
        world.exec("DELETE FROM salaries").await;
    }
}

/// Two organizations of one user: the rows of both, each once, in the order of the log; the same on the wire, where
/// no byte of a third one comes.
#[tokio::test]
async fn supabase_rows_of_two_organizations_come_on_one_channel() {
    let world = World::start().await;
    world.add_member("u1", "org_2", "member").await;
    let mut js = Js::member(&world, NEW, "u1", "org_1").await;
    js.listen("both", &[("labels", table("labels"))]).await;
    let mut raws = Vec::new();
    for vsn in raw::EACH {
        let mut raw = Raw::open(world.server.public, vsn).await;
        let changes = json!([table("labels"), table("fences"), table("materials")]);
        raw.joined("realtime:both", &token::session("u1"), changes)
            .await;
        raws.push(raw);
    }
    let mut right = Vec::new();
    for n in 0..30 {
        let organization = 1 + n % 3;
        world
            .exec(&format!(
                "INSERT INTO labels VALUES ({n}, 'org_{organization}', 'of-org_{organization}')"
            ))
            .await;
        if organization < 3 {
            right.push(format!("labels INSERT {n}"));
        }
    }
    world
        .exec("DELETE FROM labels WHERE organization_id = 'org_3'")
        .await;
    let fence = world.fence("org_1").await;
    assert_eq!(told(&js.until_fence(fence).await), right);
    for raw in &mut raws {
        let rows = raw.until_fence(fence).await;
        assert_eq!(rows.len(), right.len(), "{}", raw.vsn);
        let text = String::from_utf8_lossy(&raw.bytes);
        assert!(text.contains("of-org_2") && !text.contains("of-org_3") && !text.contains("org_3"));
    }
}

/// The hook of the document for somebody in two organizations: a channel for each on one socket, and the words that
/// are said on each.
#[tokio::test]
async fn t08_supabase_channels_of_several_organizations_on_one_socket() {
    let world = World::start().await;
    for library in EACH {
        let user = format!("u-{}", library.version);
        world.add_member(&user, "org_2", "member").await;
        let mut js = Js::member(&world, library, &user, "org_1").await;
        for organization in ["org_1", "org_2"] {
            let topic = format!("org:{organization}");
            let filter = format!("organization_id=eq.{organization}");
            js.channel(
                &topic,
                json!({}),
                &[(organization, filtered("labels", &filter))],
            )
            .await;
            js.on(&topic, &topic, "broadcast", json!({"event": "*"}))
                .await;
            js.subscribe(&topic).await;
        }
        world
            .exec(
                "INSERT INTO labels VALUES (1, 'org_1', 'x'), (2, 'org_2', 'x'), (3, 'org_3', 'x');
                 SELECT rowcast.broadcast('org_1', 'one', '{}'); SELECT rowcast.broadcast('org_2', 'two', '{}'); SELECT rowcast.broadcast('org_3', 'three', '{}')",
            )
            .await;
        assert_eq!(js.callback("org_1").await["new"]["id"], 1, "{library:?}");
        assert_eq!(js.callback("org_2").await["new"]["id"], 2, "{library:?}");
        assert_eq!(
            js.callback("org:org_1").await["event"],
            "one",
            "{library:?}"
        );
        assert_eq!(
            js.callback("org:org_2").await["event"],
            "two",
            "{library:?}"
        );
        let events = js.so_far(&world, "org_2").await;
        assert!(events.is_empty(), "{events:?}");
        world.exec("DELETE FROM labels").await;
    }
}
