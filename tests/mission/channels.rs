//! Channels of the application: X3 to X7, X9, X20, X21, G22, G23, G27, and that nobody hears what is not his.

use serde_json::{Value, json};

use crate::harness::{
    client::{Client, Frame},
    fixture::TRACK,
    rng::Rng,
    world::{World, subscribe},
};

async fn with(channels: &str) -> World {
    World::prepared(&format!("{TRACK} {channels}"), &[]).await
}

/// The reply to a subscription: `subscribed`, or the name of the error.
async fn asked(client: &mut Client, channel: &str, more: Value) -> String {
    let reply = client.ask(subscribe(channel, more)).await;
    match reply.is("error") {
        true => reply.text_of("name").to_owned(),
        false => reply.text_of("type").to_owned(),
    }
}

fn told(events: &[Frame]) -> Vec<String> {
    let tell = |event: &Frame| format!("{} {}", event.text_of("channel"), event.text_of("event"));
    events.iter().map(tell).collect()
}

/// X1 to X7, X9, X20, X21: every kind of channel of the document, subscribed by clients, sent to from SQL.
#[tokio::test]
async fn x01_x09_channels_of_every_kind() {
    let world = with(
        "SELECT rowcast.define_channel('announcements', 'public', scope => 'global');
         SELECT rowcast.define_channel('global', 'public', scope => 'global');
         SELECT rowcast.define_channel('orders', 'role', roles => '{sales}');
         SELECT rowcast.define_channel('document:*', 'public');
         SELECT rowcast.define_channel('dashboard:metrics', 'public');
         SELECT rowcast.define_channel('shop:{organization}:orders', 'tenant');
         SELECT rowcast.define_channel('inbox:{id}', 'user');",
    )
    .await;
    let mut anna = world.member_with_role("anna", "org_1", "sales").await;
    let mut bert = world.member("bert", "org_2").await;
    let channels = [
        "announcements",
        "global",
        "orders",
        "document:7",
        "dashboard:metrics",
        "shop:org_1:orders",
        "inbox:anna",
        "tenant:org_1:orders",
    ];
    for channel in channels {
        assert_eq!(
            asked(&mut anna, channel, json!({})).await,
            "subscribed",
            "{channel}"
        );
    }
    let of_bert = [
        ("announcements", "subscribed"),
        ("global", "subscribed"),
        ("orders", "channel_forbidden"),
        ("document:7", "subscribed"),
        ("shop:org_1:orders", "not_member"),
        ("inbox:anna", "channel_forbidden"),
        ("tenant:org_1:orders", "not_member"),
        ("user:anna", "channel_forbidden"),
        ("secrets", "unknown_channel"),
        ("document:", "unknown_channel"),
    ];
    for (channel, expected) in of_bert {
        assert_eq!(
            asked(&mut bert, channel, json!({})).await,
            expected,
            "{channel}"
        );
    }
    world
        .exec(
            r#"SET LOCAL rowcast.organization = 'org_1';
               SELECT rowcast.send('announcements', 'system_update', '{"message": "Maintenance in 10 minutes"}');
               SELECT rowcast.send('global', 'broadcast', '{"message": "hello"}');
               SELECT rowcast.send('orders', 'new_order', '{"order_id": 1, "total": 9.5, "customer": "c"}');
               SELECT rowcast.send('document:7', 'content_updated', '{"updated_by": "anna"}');
               SELECT rowcast.send('dashboard:metrics', 'update', '{"orders_last_hour": 3}');
               SELECT rowcast.send('shop:org_1:orders', 'order_created', '{"id": 1}');
               SELECT rowcast.send('inbox:anna', 'admin_alert');
               SELECT rowcast.send('tenant:org_1:orders', 'order_created', '{"id": 1}')"#,
        )
        .await;
    let events = world.events_so_far(&mut anna, "org_1").await;
    assert_eq!(
        told(&events),
        [
            "announcements system_update",
            "global broadcast",
            "orders new_order",
            "document:7 content_updated",
            "dashboard:metrics update",
            "shop:org_1:orders order_created",
            "inbox:anna admin_alert",
            "tenant:org_1:orders order_created",
        ]
    );
    assert_eq!(
        events[0].json["payload"],
        json!({ "message": "Maintenance in 10 minutes" })
    );
    assert_eq!(events[0].json["organizationId"], Value::Null);
    assert_eq!(events[2].json["organizationId"], "org_1");
    let events = world.events_so_far(&mut bert, "org_2").await;
    assert_eq!(
        told(&events),
        ["announcements system_update", "global broadcast"]
    );
}

/// One name in two organizations is two channels: nothing crosses, live, from the past, or on one socket
/// that is on both.
#[tokio::test]
async fn channels_never_cross_organizations() {
    let world = with("SELECT rowcast.define_channel('room:*', 'public');").await;
    let mut anna = world.member("anna", "org_1").await;
    let mut bert = world.member("bert", "org_2").await;
    let mut both = world.member("carl", "org_1").await;
    world.add_member("carl", "org_2", "member").await;
    both.until("the second membership", |frame| frame.is("membership"))
        .await;
    let first = anna.ask(subscribe("room:1", json!({}))).await;
    asked(&mut bert, "room:1", json!({})).await;
    for organization in ["org_1", "org_2"] {
        let more = json!({ "organizationId": organization });
        assert_eq!(asked(&mut both, "room:1", more).await, "subscribed");
    }
    let more = json!({ "organizationId": "org_2" });
    assert_eq!(asked(&mut anna, "room:1", more).await, "not_member");
    world
        .exec(
            "SELECT rowcast.send('room:1', 'one', organization => 'org_1');
             SELECT rowcast.send('room:1', 'two', organization => 'org_2')",
        )
        .await;
    let of_anna = world.events_so_far(&mut anna, "org_1").await;
    assert_eq!(told(&of_anna), ["room:1 one"]);
    let of_bert = world.events_so_far(&mut bert, "org_2").await;
    assert_eq!(told(&of_bert), ["room:1 two"]);
    let of_both = world.events_so_far(&mut both, "org_1").await;
    let organizations = of_both.iter().map(|event| event.text_of("organizationId"));
    assert_eq!(organizations.collect::<Vec<_>>(), ["org_1", "org_2"]);
    let mut back = world.login("bert", "org_2").await;
    let cursor = first.text_of("cursor");
    let reply = back
        .ask(subscribe("room:1", json!({ "cursor": cursor })))
        .await;
    assert!(reply.is("subscribed"), "{}", reply.text);
    let past = world.events_so_far(&mut back, "org_2").await;
    assert_eq!(told(&past), ["room:1 two"]);
}

/// Rules are followed from the log: defined, changed and dropped while sockets are open. The most specific
/// counts; a role that is lost takes its channels with it.
#[tokio::test]
async fn rules_of_channels_are_followed_live() {
    let world = with("").await;
    let mut anna = world.member("anna", "org_1").await;
    assert_eq!(
        asked(&mut anna, "room:1", json!({})).await,
        "unknown_channel"
    );
    world
        .exec(
            "SELECT rowcast.define_channel('room:*', 'public');
             SELECT rowcast.define_channel('room:staff', 'role', roles => '{admin}')",
        )
        .await;
    world.events_so_far(&mut anna, "org_1").await;
    assert_eq!(asked(&mut anna, "room:1", json!({})).await, "subscribed");
    assert_eq!(
        asked(&mut anna, "room:staff", json!({})).await,
        "channel_forbidden"
    );
    let role = |role: &str| {
        format!("UPDATE rowcast.memberships SET role = '{role}' WHERE user_id = 'anna'")
    };
    world.exec(&role("admin")).await;
    world.events_so_far(&mut anna, "org_1").await;
    assert_eq!(
        asked(&mut anna, "room:staff", json!({})).await,
        "subscribed"
    );
    // In one transaction: what comes after the loss is not heard, what comes before is.
    world
        .exec(&format!(
            "BEGIN; SELECT rowcast.send('room:staff', 'before', organization => 'org_1'); {};
             SELECT rowcast.send('room:staff', 'after', organization => 'org_1'); COMMIT",
            role("member")
        ))
        .await;
    let events = world.events_so_far(&mut anna, "org_1").await;
    assert_eq!(told(&events), ["room:staff before"]);
    let ended = |anna: &Client, channel: &str| {
        let ended =
            |frame: &&Frame| frame.is("unsubscribed") && frame.text_of("channel") == channel;
        let frame = anna.seen.iter().rfind(ended);
        frame.map(|frame| frame.text_of("reason").to_owned())
    };
    assert_eq!(ended(&anna, "room:staff").as_deref(), Some("not_admitted"));
    world
        .exec(
            "SELECT rowcast.drop_channel('room:*'); SELECT pg_logical_emit_message(true, 'x', '')",
        )
        .await;
    world.events_so_far(&mut anna, "org_1").await;
    assert_eq!(
        ended(&anna, "room:1").as_deref(),
        Some("channel_rule_changed")
    );
}

/// G22, G23: parameters with types and lengths; the same names are refused by SQL and by the socket.
#[tokio::test]
async fn g22_g23_parameters_are_checked() {
    let world = with(
        "SELECT rowcast.define_channel('workspace:{workspaceId}:conversation:{conversationId}', 'public',
             parameters => '{\"workspaceId\": \"uuid\", \"conversationId\": {\"type\": \"text\", \"maxLength\": 3}}');",
    )
    .await;
    let mut anna = world.member("anna", "org_1").await;
    let uuid = "11111111-1111-4111-8111-111111111111";
    let names = [
        (format!("workspace:{uuid}:conversation:abc"), true),
        (format!("workspace:{uuid}:conversation:abcd"), false),
        ("workspace:7:conversation:abc".to_owned(), false),
    ];
    for (channel, fits) in &names {
        let reply = anna.ask(subscribe(channel, json!({}))).await;
        assert_eq!(reply.is("subscribed"), *fits, "{}", reply.text);
        if !fits {
            assert_eq!(reply.text_of("name"), "unknown_channel");
            let message = reply.text_of("message");
            assert!(message.contains("must be"), "{}", reply.text);
        }
    }
    for (channel, fits) in &names {
        let send = format!("SELECT rowcast.send('{channel}', 'e', organization => 'org_1')");
        if *fits {
            world.exec(&send).await;
        } else {
            let (_, message) = world.sql.fails(&send).await;
            assert!(message.contains("must be"), "{message}");
        }
    }
    let events = world.events_so_far(&mut anna, "org_1").await;
    assert_eq!(events.len(), 1);
}

/// G27: a revocation travels in the log. Who is on the channel is taken off; who still may comes back with his
/// cursor and loses nothing.
#[tokio::test]
async fn g27_revoke_in_log_order() {
    let world = with("SELECT rowcast.define_channel('room:*', 'public');").await;
    let mut anna = world.member("anna", "org_1").await;
    assert_eq!(asked(&mut anna, "room:1", json!({})).await, "subscribed");
    world
        .exec(
            "BEGIN; SELECT rowcast.send('room:1', 'before', organization => 'org_1');
             SELECT rowcast.revoke('room:1', 8, 'membership_changed', organization => 'org_1');
             SELECT rowcast.send('room:1', 'after', organization => 'org_1'); COMMIT",
        )
        .await;
    let events = world.events_so_far(&mut anna, "org_1").await;
    assert_eq!(told(&events), ["room:1 before"]);
    let ended = anna
        .seen
        .iter()
        .find(|frame| frame.is("unsubscribed"))
        .unwrap();
    assert_eq!(ended.json["reason"], "membership_changed");
    assert_eq!(ended.json["epoch"], 8);
    let cursor = events[0].text_of("cursor");
    asked(&mut anna, "room:1", json!({ "cursor": cursor })).await;
    let after = world.events_so_far(&mut anna, "org_1").await;
    assert_eq!(told(&after), ["room:1 after"]);
}

/// Ambiguous patterns and rules that make no sense are refused when they are defined.
#[tokio::test]
async fn what_is_ambiguous_or_makes_no_sense_is_not_defined() {
    let world = with("SELECT rowcast.define_channel('room:*', 'public');").await;
    for (bad, says) in [
        ("'room:{id}', 'public'", "neither is the more specific"),
        ("'tenant:{id}', 'tenant'", "without being defined"),
        ("'a:**', 'public'", "no part of a pattern"),
        ("'a::b', 'public'", "no part of a pattern"),
        ("'a:{x}:{x}', 'public'", "twice"),
        ("'a', 'user'", "needs the parameter"),
        ("'a:{x}', 'role'", "needs roles"),
        ("'a:{x}', 'nobody'", "rule must be"),
        ("'a:{x}', 'public', roles => '{admin}'", "no roles"),
        ("'a:{x}', 'tenant', scope => 'global'", "cannot be global"),
        (
            "'key:a', 'public', scope => 'organization'",
            "no organization",
        ),
        (
            "'a:{x}', 'public', parameters => '{\"y\": \"int\"}'",
            "has no parameter",
        ),
        (
            "'a:{x}', 'public', parameters => '{\"x\": \"float\"}'",
            "must be",
        ),
        ("'a:{x}', 'public', events => '{\"\"}'", "each of events"),
    ] {
        let define = format!("SELECT rowcast.define_channel({bad})");
        let (code, message) = world.sql.fails(&define).await;
        assert_eq!(code, "22023", "{bad}: {message}");
        assert!(message.contains(says), "{bad}: {message}");
    }
    // Again, with another rule: it is replaced.
    world
        .exec("SELECT rowcast.define_channel('room:*', 'role', roles => '{x}')")
        .await;
    let rule = "SELECT rule FROM rowcast.channels";
    assert_eq!(world.sql.text(rule).await, "role");
}

/// SQL and the service read patterns the same way.
#[tokio::test]
async fn patterns_mean_the_same_in_sql_and_in_the_service() {
    let world = with("").await;
    let mut rng = Rng::new(crate::harness::from_env("ORACLE_SEED", 7));
    let parts = ["a", "ab", "a*", "ab*", "*", "{x}", "a.b", "a.*", "é*"];
    let texts = ["a", "ab", "abc", "a.b", "aXb", "é", "éa", "a*", "{x}", ""];
    let mut join = |from: &[&str]| {
        let count = 1 + rng.below(3);
        let parts: Vec<String> = (0..count)
            .map(|i| match *rng.pick(from) {
                "{x}" if from.contains(&"{x}") => format!("{{x{i}}}"),
                other => other.to_owned(),
            })
            .collect();
        parts.join(":")
    };
    for _ in 0..400 {
        let (one, other, name) = (join(&parts), join(&parts), join(&texts));
        let row = world
            .sql
            .query_one(
                "SELECT $3::text ~ rowcast.pattern_matcher($1) COLLATE \"C\", rowcast.pattern_overlap($1, $2),
                        rowcast.pattern_precedence($1) > rowcast.pattern_precedence($2)",
                &[&one, &other, &name],
            )
            .await
            .unwrap();
        let [a, b] = [&one, &other].map(|text| text.parse::<rowcast_model::Pattern>().unwrap());
        assert_eq!(
            row.get::<_, bool>(0),
            a.fit(&name).is_some(),
            "{one} {name}"
        );
        let overlap = format!("{:?}", a.overlap(&b)).to_lowercase();
        assert_eq!(row.get::<_, String>(1), overlap, "{one} {other}");
        if overlap == "narrower" || overlap == "wider" {
            let first = a.precedence(&b) == std::cmp::Ordering::Less;
            assert_eq!(row.get::<_, bool>(2), first, "{one} {other}");
        }
    }
}
