//! Masks on the Supabase path: MISSION Q17 to Q22, and that what is hidden cannot be found out otherwise.

use serde_json::{Value, json};

use super::{
    client::{EACH, Js, filtered, table, told},
    raw::{self, Raw},
};
use crate::{
    harness::token,
    mission::masks::{JOHN, MASKED, john, masked, shown, world},
};

/// MISSION Q17, Q18, Q19, Q21: each type, in `new` and in `old`, by role and by owner; on the wire not a byte more.
#[tokio::test]
async fn q17_q18_q19_q21_supabase_each_sees_what_the_configuration_shows() {
    let options = format!(
        "{}, columns => '{{id,organization_id,owner,email,phone,ssn,card,name,note}}'",
        masked()
    );
    let world = world(&options).await;
    world.exec("ALTER TABLE people REPLICA IDENTITY FULL").await;
    let roles = [
        ("member", "member", &[][..]),
        ("admin", "admin", &[0, 1, 4, 5]),
        ("support", "support", &[1]),
        ("hr", "hr", &[2]),
        ("anna", "member", &[0, 4]),
    ];
    let values = [
        "john@yourdomain.com",
        "5551234567",
        "123-45-6789",
        "4111111111111111",
        "John",
        "a long note",
    ];
    for (name, role, _) in roles {
        drop(world.member_with_role(name, "org_1", role).await);
    }
    for (id, library) in EACH.into_iter().enumerate() {
        let (mut clients, mut raws) = (Vec::new(), Vec::new());
        for (name, _, plain) in roles {
            let mut js = Js::of(&world, library, name).await;
            js.listen("org:org_1", &[("people", table("people"))]).await;
            clients.push((js, plain));
            for vsn in raw::EACH {
                let mut raw = Raw::open(world.server.public, vsn).await;
                let changes = json!([table("fences"), table("people")]);
                raw.joined("realtime:x", &token::session(name), changes)
                    .await;
                raws.push((raw, plain));
            }
        }
        world
            .exec(&format!(
                "INSERT INTO people VALUES ({id}, 'org_1', 'anna', {JOHN}, 'never-shown');
                 UPDATE people SET owner = 'anna', email = email || '', id = id + 100; DELETE FROM people;"
            ))
            .await;
        let fence = world.fence("org_1").await;
        for (js, plain) in &mut clients {
            let events = js.until_fence(fence).await;
            assert_eq!(events.len(), 3, "{events:?}");
            let images = events
                .iter()
                .flat_map(|event| [&event.1["new"], &event.1["old"]]);
            let images: Vec<&Value> = images.filter(|row| row.get("name").is_some()).collect();
            assert_eq!(images.len(), 4);
            for row in images {
                assert_eq!(shown(row), john(plain), "{plain:?} {library:?}");
                assert_eq!(row.get("secret"), None);
            }
        }
        for (raw, plain) in &mut raws {
            raw.until_fence(fence).await;
            let text = String::from_utf8_lossy(&raw.bytes).into_owned();
            assert!(
                !text.contains("never-shown") && !text.contains("secret"),
                "{text}"
            );
            for (at, value) in values.iter().enumerate() {
                assert_eq!(
                    text.contains(value),
                    plain.contains(&at),
                    "{value} {plain:?} {}",
                    raw.vsn
                );
                assert_eq!(
                    text.contains(MASKED[at]),
                    !plain.contains(&at),
                    "{value} {plain:?} {}",
                    raw.vsn
                );
            }
        }
    }
}

/// MISSION Q20: a masked or hidden column cannot be asked for: the binding is refused with words, the others work; the
/// same for a rule or a role that changes later.
#[tokio::test]
async fn q20_supabase_masked_columns_are_refused_in_filters() {
    let options = format!(
        "{}, columns => '{{id,organization_id,owner,email,phone,ssn,card,name,note}}'",
        masked()
    );
    let world = world(&options).await;
    for library in EACH {
        let [m, a] = ["m", "a"].map(|name| format!("{name}-{}", library.version));
        let mut member = Js::member(&world, library, &m, "org_1").await;
        let mut admin = Js::member_as(&world, library, &a, "org_1", "admin").await;
        for (n, column) in ["name", "email", "card", "secret"].into_iter().enumerate() {
            let topic = format!("t{n}");
            let value = ["John", "john@yourdomain.com", "4111111111111111", "x"][n];
            let bindings = [
                ("lost", filtered("people", &format!("{column}=eq.{value}"))),
                ("rows", table("people")),
            ];
            member.channel(&topic, json!({}), &bindings).await;
            member.subscribe(&topic).await;
            let said = [member.system().await, member.system().await];
            let error = said.iter().find(|said| said.0 == "error");
            let error = error.unwrap_or_else(|| panic!("{column}: {said:?}"));
            assert!(error.1.contains(column), "{said:?}");
            world
                .exec(&format!(
                    "INSERT INTO people VALUES ({n}, 'org_1', 'o', {JOHN}, 'x')"
                ))
                .await;
            let events = member.so_far(&world, "org_1").await;
            assert_eq!(told(&events), [format!("rows INSERT {n}")], "{column}");
            world.exec("DELETE FROM people").await;
            member.so_far(&world, "org_1").await;
            member
                .call(json!({"do": "unsubscribe", "channel": topic}))
                .await;
        }
        // Who sees a column may ask for it, until he does not.
        admin
            .listen(
                "x",
                &[
                    ("name", filtered("people", "name=eq.John")),
                    ("rows", table("people")),
                ],
            )
            .await;
        world
            .exec(&format!(
                "INSERT INTO people VALUES (9, 'org_1', 'o', {JOHN})"
            ))
            .await;
        let mut events = told(&admin.so_far(&world, "org_1").await);
        events.sort_unstable();
        assert_eq!(events, ["name INSERT 9", "rows INSERT 9"], "{library:?}");
        let demote =
            format!("UPDATE rowcast.memberships SET role = 'member' WHERE user_id = '{a}'");
        world.exec(&demote).await;
        world.exec("DELETE FROM people").await;
        world
            .exec(&format!(
                "INSERT INTO people VALUES (10, 'org_1', 'o', {JOHN})"
            ))
            .await;
        let events = told(&admin.so_far(&world, "org_1").await);
        assert_eq!(events, ["rows DELETE 9", "rows INSERT 10"], "{library:?}");
        let lost = admin
            .take("that the binding has ended", |event| {
                event["name"] == "system" && event["payload"]["status"] == "error"
            })
            .await;
        let message = lost["payload"]["message"].as_str().unwrap();
        assert!(message.contains("name"), "{message}");
        world.exec("DELETE FROM people").await;
    }
}

/// A change of columns that somebody does not see is, for him, no change.
#[tokio::test]
async fn supabase_a_change_of_hidden_columns_tells_nothing() {
    let options = format!(
        "columns => '{{id,organization_id,email,ssn}}', {}",
        masked()
    );
    let world = world(&options).await;
    for (id, library) in EACH.into_iter().enumerate() {
        let [m, h, o] = ["m", "h", "o"].map(|name| format!("{name}-{}", library.version));
        let mut people = [
            Js::member(&world, library, &m, "org_1").await,
            Js::member_as(&world, library, &h, "org_1", "hr").await,
            Js::member(&world, library, &o, "org_1").await,
        ];
        world
            .exec(&format!("INSERT INTO people (id, organization_id, owner, email, ssn) VALUES ({id}, 'org_1', '{o}', 'a@b.org', '1')"))
            .await;
        for js in &mut people {
            js.listen("org:org_1", &[("people", table("people"))]).await;
        }
        for (what, counts) in [
            ("secret = 'x'", [0, 0, 0]),
            ("email = 'plain@d.org'", [0, 0, 1]),
            ("ssn = '2'", [0, 1, 0]),
            ("id = id + 100", [1, 1, 1]),
        ] {
            world.exec(&format!("UPDATE people SET {what}")).await;
            let fence = world.fence("org_1").await;
            let mut got = [0; 3];
            for (js, got) in people.iter_mut().zip(&mut got) {
                *got = js.until_fence(fence).await.len();
            }
            assert_eq!(got, counts, "{what} {library:?}");
        }
        world.exec("DELETE FROM people").await;
    }
}
