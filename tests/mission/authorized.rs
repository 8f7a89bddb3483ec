//! Channels of which the application says who may be on them: G21 to G28, X19. Functions and grants; webhooks are in
//! `authorized_webhooks.rs`.

use serde_json::{Value, json};

use crate::harness::{
    client::{Client, Frame},
    fixture::TRACK,
    http::post,
    token, until_or,
    world::{World, subscribe},
};

const ACCESS: &str = "a-token-of-the-application-server";
pub(super) const GRANTS: &str = "the key of the application for its grants";

/// Rooms, their members, and the number of each room's access list.
const ROOMS: &str = r#"
    DO $$ BEGIN CREATE ROLE app_user NOLOGIN; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$;
    CREATE SCHEMA app;
    GRANT USAGE ON SCHEMA app TO app_user;
    SELECT rowcast.grant_caller('app_user');
    CREATE TABLE app.rooms (id text PRIMARY KEY, epoch bigint NOT NULL DEFAULT 1, ttl integer NOT NULL DEFAULT 300);
    CREATE TABLE app.members (room text, user_id text, PRIMARY KEY (room, user_id));
    CREATE TABLE app.asked (n bigserial, user_id text, reason text, role text);
    GRANT SELECT ON app.rooms, app.members TO app_user;
    GRANT INSERT ON app.asked TO app_user;
    GRANT USAGE ON SEQUENCE app.asked_n_seq TO app_user;
    INSERT INTO app.rooms (id) VALUES ('1'), ('2');
    INSERT INTO app.members VALUES ('1', 'anna'), ('1', 'bert'), ('1', 'carl');

    CREATE FUNCTION app.may_join(input jsonb, channel text, arguments jsonb, caller jsonb) RETURNS jsonb
    LANGUAGE plpgsql AS $$
    DECLARE
        room app.rooms;
    BEGIN
        INSERT INTO app.asked (user_id, reason, role) VALUES (caller ->> 'userId', input ->> 'reason', current_user);
        SELECT r.* INTO room FROM app.rooms r JOIN app.members m ON m.room = r.id
        WHERE r.id = arguments ->> 'roomId' AND m.user_id = current_setting('rowcast.user_id');
        IF NOT FOUND THEN
            PERFORM rowcast.refuse('accessdenied', 'Not a member of this room');
        END IF;
        RETURN jsonb_build_object('ttlSeconds', room.ttl, 'epoch', room.epoch);
    END $$;
    SELECT rowcast.define_channel('room:{roomId}', 'authorized', authorizer => 'app.may_join', ttl_seconds => 60);
"#;

pub async fn world(more: &str) -> World {
    let env = [
        ("ROWCAST__APPLICATION__ROLE", "app_user"),
        ("ROWCAST__APPLICATION__GRANT_SECRET", GRANTS),
        ("ACCESS_TOKEN", ACCESS),
    ];
    World::prepared(&format!("{TRACK} {ROOMS} {more}"), &env).await
}

async fn enter(client: &mut Client, channel: &str) -> Frame {
    client.ask(subscribe(channel, json!({}))).await
}

/// The numbers that were said on the channel, as far as a client was told.
fn numbers(frames: &[Frame], channel: &str) -> Vec<i64> {
    let on = frames
        .iter()
        .filter(|frame| frame.text_of("channel") == channel);
    on.filter(|frame| frame.is("broadcast"))
        .map(|frame| frame.json["payload"].as_i64().unwrap())
        .collect()
}

fn ended(client: &Client, channel: &str) -> Option<Value> {
    let ended = client
        .seen
        .iter()
        .find(|frame| frame.is("unsubscribed") && frame.text_of("channel") == channel);
    ended.map(|frame| frame.json.clone())
}

/// Says so many numbers on the room, each in a transaction of its own.
async fn say(world: &World, from: i64, to: i64) {
    for number in from..=to {
        let says =
            "SELECT rowcast.send('room:1', 'message.created', to_jsonb($1::bigint), 'org_1')";
        world.sql.execute(says, &[&number]).await.unwrap();
    }
}

#[tokio::test]
async fn g21_g24_x19_a_function_says_who_may_be_on_a_channel() {
    let world = world(
        r#"SELECT rowcast.define_channel('workspace:{workspaceId}:conversation:{conversationId}', 'authorized',
               authorizer => 'app.conversation(jsonb,text,jsonb,jsonb)'::regprocedure,
               parameters => '{"workspaceId": "int", "conversationId": {"type": "text", "maxLength": 8}}')"#
            .replace(
                "SELECT rowcast.define",
                "CREATE FUNCTION app.conversation(input jsonb, channel text, arguments jsonb, caller jsonb) RETURNS jsonb
                 LANGUAGE sql AS $$ SELECT jsonb_build_object('allowed', arguments = '{\"workspaceId\": 7, \"conversationId\": \"c1\"}') $$;
                 SELECT rowcast.define",
            )
            .as_str(),
    )
    .await;
    let mut anna = world.member("anna", "org_1").await;
    let mut dora = world.member("dora", "org_1").await;
    assert!(enter(&mut anna, "room:1").await.is("subscribed"));
    let refused = enter(&mut dora, "room:1").await;
    assert_eq!(refused.json["code"], 320);
    assert_eq!(refused.json["name"], "refused");
    assert_eq!(refused.json["reason"], "accessdenied");
    assert_eq!(refused.json["message"], "Not a member of this room");
    let asked = world
        .sql
        .query(
            "SELECT user_id, reason, role FROM app.asked ORDER BY n",
            &[],
        )
        .await
        .unwrap();
    let asked: Vec<(String, String, String)> = asked
        .iter()
        .map(|row| (row.get(0), row.get(1), row.get(2)))
        .collect();
    let of = |user: &str| {
        (
            user.to_owned(),
            "subscribe".to_owned(),
            "app_user".to_owned(),
        )
    };
    // What the function wrote before it refused is not there.
    assert_eq!(asked, [of("anna")]);

    // G22, G23: arguments are checked before anybody is asked, and are what they are declared to be.
    let conversation = |channel: &str| format!("workspace:{channel}");
    for (channel, expected) in [
        ("7:conversation:c1", json!("subscribed")),
        ("8:conversation:c1", json!("error")),
        ("x:conversation:c1", json!("error")),
        ("7:conversation:too-long-a-name", json!("error")),
    ] {
        let reply = enter(&mut anna, &conversation(channel)).await;
        assert_eq!(reply.json["type"], expected, "{channel} {}", reply.text);
        if channel.starts_with('x') || channel.ends_with("name") {
            assert_eq!(reply.json["name"], "unknown_channel");
        }
    }

    // G26, G25: what is said reaches those who were let on, and nobody else.
    say(&world, 1, 3).await;
    let told = world.events_so_far(&mut anna, "org_1").await;
    assert_eq!(numbers(&told, "room:1"), [1, 2, 3]);
    assert!(world.events_so_far(&mut dora, "org_1").await.is_empty());
    let metrics = world.server.get("/metrics").await.unwrap().1;
    assert!(
        metrics.contains(r#"rowcast_hub_authorizations_total{outcome="admitted"} 2"#),
        "{metrics}"
    );
}

#[tokio::test]
async fn g24_a_pass_is_renewed_before_it_ends_and_a_no_ends_it() {
    let world = world("UPDATE app.rooms SET ttl = 1;").await;
    let mut anna = world.member("anna", "org_1").await;
    assert!(enter(&mut anna, "room:1").await.is("subscribed"));
    let renewed = async || {
        let count = "SELECT count(*) FROM app.asked WHERE reason = 'renew'";
        world.sql.query(count, &[]).await.unwrap()[0].get::<_, i64>(0)
    };
    let mut said = 0;
    while renewed().await < 4 {
        say(&world, said + 1, said + 5).await;
        said += 5;
        assert!(said < 100_000, "nobody asks");
    }
    let told = world.events_so_far(&mut anna, "org_1").await;
    assert_eq!(numbers(&told, "room:1"), (1..=said).collect::<Vec<_>>());
    assert_eq!(ended(&anna, "room:1"), None);

    // G24: throwing is denied; the subscription ends with the code of the application.
    world
        .exec("DELETE FROM app.members WHERE user_id = 'anna'")
        .await;
    let gone = anna
        .until("the end", |frame| frame.is("unsubscribed"))
        .await;
    assert_eq!(gone.json["channel"], "room:1");
    assert_eq!(gone.json["reason"], "accessdenied");
    say(&world, 0, 0).await;
    let told = world.events_so_far(&mut anna, "org_1").await;
    assert!(numbers(&told, "room:1").is_empty());
}

#[tokio::test]
async fn g24_a_pass_that_nobody_renews_ends() {
    let world = world(
        "UPDATE app.rooms SET ttl = 1;
         CREATE FUNCTION app.broken(input jsonb, channel text, arguments jsonb, caller jsonb) RETURNS jsonb LANGUAGE plpgsql
         AS $$ BEGIN IF input ->> 'reason' = 'subscribe' THEN RETURN '{\"ttlSeconds\": 1}'; END IF; RETURN 1 / 0; END $$;
         SELECT rowcast.define_channel('fragile:*', 'authorized', authorizer => 'app.broken');",
    )
    .await;
    let mut anna = world.member("anna", "org_1").await;
    assert!(enter(&mut anna, "fragile:1").await.is("subscribed"));
    let gone = anna
        .until("the end", |frame| frame.is("unsubscribed"))
        .await;
    assert_eq!(gone.json["reason"], "authorization_expired");
}

/// The whole rule of G28: the number is raised and the channel revoked; who may stay is asked about by the service itself
/// and loses nothing, who may not gets nothing that was committed behind it.
#[tokio::test]
async fn g27_g28_revoked_in_the_middle_of_a_stream() {
    let world = world("").await;
    let mut anna = world.member("anna", "org_1").await;
    let mut bert = world.member("bert", "org_1").await;
    let mut carl = world.member("carl", "org_1").await;
    for client in [&mut anna, &mut bert, &mut carl] {
        assert!(enter(client, "room:1").await.is("subscribed"));
    }
    say(&world, 1, 20).await;
    world
        .exec(
            "BEGIN;
             DELETE FROM app.members WHERE user_id = 'bert';
             UPDATE app.rooms SET epoch = 2 WHERE id = '1';
             SELECT rowcast.send('room:1', 'message.created', '21', 'org_1');
             SELECT rowcast.revoke('room:1', 2, 'membership_changed', 'org_1');
             SELECT rowcast.send('room:1', 'message.created', '22', 'org_1');
             COMMIT",
        )
        .await;
    say(&world, 23, 200).await;
    let gone = bert
        .until("the end", |frame| frame.is("unsubscribed"))
        .await;
    assert_eq!(
        (&gone.json["reason"], &gone.json["epoch"]),
        (&json!("membership_changed"), &json!(2))
    );
    say(&world, 201, 210).await;
    world.events_so_far(&mut bert, "org_1").await;
    let all: Vec<Frame> = bert.seen.clone();
    assert_eq!(numbers(&all, "room:1"), (1..=21).collect::<Vec<_>>());
    for client in [&mut anna, &mut carl] {
        // A part may come after the fence of the organization: the room was behind it for a moment.
        until_or(
            "all is told",
            || "a number is missing".to_owned(),
            async || {
                world.events_so_far(client, "org_1").await;
                let told = numbers(&client.seen, "room:1");
                told.last() == Some(&210)
            },
        )
        .await;
        assert_eq!(
            numbers(&client.seen, "room:1"),
            (1..=210).collect::<Vec<_>>()
        );
        assert_eq!(ended(client, "room:1"), None);
    }

    // Coming back with a cursor from before is no way around it.
    let cursor = all.iter().rfind(|frame| frame.is("broadcast")).unwrap();
    let cursor = cursor.text_of("cursor").to_owned();
    let reply = bert
        .ask(subscribe("room:1", json!({ "cursor": cursor })))
        .await;
    assert_eq!(reply.json["reason"], "accessdenied");
    let mut again = world.login("bert", "org_1").await;
    let reply = again
        .ask(subscribe("room:1", json!({ "cursor": cursor })))
        .await;
    assert_eq!(reply.json["code"], 320);
    say(&world, 211, 211).await;
    world.events_so_far(&mut again, "org_1").await;
    assert!(numbers(&again.seen, "room:1").is_empty());

    // Who may comes back with his cursor and has all of it.
    let mut back = world.login("carl", "org_1").await;
    let reply = back
        .ask(subscribe("room:1", json!({ "cursor": cursor })))
        .await;
    assert!(reply.is("subscribed"), "{}", reply.text);
    until_or(
        "all is told",
        || "a number is missing".to_owned(),
        async || {
            world.events_so_far(&mut back, "org_1").await;
            numbers(&back.seen, "room:1").last() == Some(&211)
        },
    )
    .await;
    assert_eq!(
        numbers(&back.seen, "room:1"),
        (22..=211).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn g27_revoked_over_http() {
    let world = world("").await;
    let mut anna = world.member("anna", "org_1").await;
    let mut bert = world.member("bert", "org_1").await;
    for client in [&mut anna, &mut bert] {
        assert!(enter(client, "room:1").await.is("subscribed"));
    }
    world
        .exec("DELETE FROM app.members WHERE user_id = 'bert'")
        .await;
    let bearer = format!("Bearer {ACCESS}");
    let revoke = async |headers: &[(&str, &str)], body: Value| {
        let path = "/admin/revoke";
        post(world.server.public, path, headers, &body.to_string()).await
    };
    let body = json!({ "channel": "room:1", "organization": "org_1", "reason": "left" });
    assert_eq!(revoke(&[], body.clone()).await.status, 401);
    let with = [("authorization", &*bearer)];
    for (body, status, code) in [
        (json!({ "channel": "other:1" }), 422, "database_refused"),
        (json!({ "channel": "room:1" }), 422, "database_refused"),
        (
            json!({ "channel": "room:1", "user": "x" }),
            400,
            "invalid_field",
        ),
    ] {
        let answer = revoke(&with, body).await;
        assert_eq!((answer.status, answer.code()), (status, code));
    }
    assert_eq!(ended(&bert, "room:1"), None);
    let answer = revoke(&with, body).await;
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json["revoked"], true);
    let gone = bert
        .until("the end", |frame| frame.is("unsubscribed"))
        .await;
    assert_eq!(
        (&gone.json["reason"], &gone.json["epoch"]),
        (&json!("left"), &Value::Null)
    );
    say(&world, 1, 1).await;
    let told = anna.until("a message", |frame| frame.is("broadcast")).await;
    assert_eq!(told.json["payload"], 1);
    assert_eq!(ended(&anna, "room:1"), None);
}

#[tokio::test]
async fn g25_grants_signed_by_the_application() {
    let world = world(
        "SELECT rowcast.define_channel('doc:{id}', 'authorized', grants => true);
         SELECT rowcast.define_channel('both:{id}', 'authorized', authorizer => 'app.may_join', grants => true);",
    )
    .await;
    let mut anna = world.member("anna", "org_1").await;
    // The log is read from before the first grant on.
    let now = token::now() + 1;
    let grant = |change: &dyn Fn(&mut Value)| {
        let mut claims = json!({ "channel": "doc:1", "sub": "anna", "organizationId": "org_1", "epoch": 5, "iat": now, "exp": now + 120 });
        change(&mut claims);
        claims
    };
    let signed = |change: &dyn Fn(&mut Value)| token::sign_with(&grant(change), GRANTS);
    let mut show = async |channel: &str, grant: &str| {
        let reply = anna
            .ask(subscribe(channel, json!({ "grant": grant })))
            .await;
        match reply.is("error") {
            true => reply.text_of("name").to_owned(),
            false => reply.text_of("type").to_owned(),
        }
    };
    let good = signed(&|_| {});
    for (what, grant, expected) in [
        ("none", String::new(), "grant_invalid"),
        (
            "forged",
            token::sign_with(&grant(&|_| {}), "another key of more than thirty-two bytes"),
            "grant_invalid",
        ),
        ("a token", token::session("anna"), "grant_invalid"),
        (
            "another channel",
            signed(&|grant| grant["channel"] = json!("doc:2")),
            "grant_invalid",
        ),
        (
            "another user",
            signed(&|grant| grant["sub"] = json!("bert")),
            "grant_invalid",
        ),
        (
            "another organization",
            signed(&|grant| grant["organizationId"] = json!("org_2")),
            "grant_invalid",
        ),
        (
            "no organization",
            signed(&|grant| grant["organizationId"] = Value::Null),
            "grant_invalid",
        ),
        (
            "expired",
            signed(&|grant| grant["exp"] = json!(now - 10)),
            "grant_expired",
        ),
        (
            "issued long ago",
            signed(&|grant| grant["iat"] = json!(now - 100_000)),
            "grant_expired",
        ),
        (
            "issued in the future",
            signed(&|grant| grant["iat"] = json!(now + 600)),
            "grant_expired",
        ),
        ("too long", "x".repeat(5000), "invalid_field"),
        ("good", good.clone(), "subscribed"),
    ] {
        assert_eq!(show("doc:1", &grant).await, expected, "{what}");
    }
    // Where a function says who may as well, a grant that is none is not a way around it.
    assert_eq!(show("both:1", &good).await, "grant_invalid");
    let both = signed(&|grant| grant["channel"] = json!("both:1"));
    assert_eq!(show("both:1", &both).await, "subscribed");
    // Where no grants are taken, the function is asked all the same.
    assert_eq!(
        show(
            "room:2",
            &signed(&|grant| grant["channel"] = json!("room:2"))
        )
        .await,
        "refused"
    );

    let send = "SELECT rowcast.send('doc:1', 'e', '1', 'org_1')";
    world.exec(send).await;
    anna.until("an event", |frame| frame.is("broadcast")).await;
    // A revocation of an earlier list does not touch it, a later one ends it at once.
    world
        .exec("SELECT rowcast.revoke('doc:1', 5, NULL, 'org_1')")
        .await;
    world
        .exec("SELECT rowcast.send('doc:1', 'e', '2', 'org_1')")
        .await;
    let event = anna.until("an event", |frame| frame.is("broadcast")).await;
    assert_eq!(event.json["payload"], 2);
    world
        .exec("SELECT rowcast.revoke('doc:1', 6, 'privacy', 'org_1')")
        .await;
    let gone = anna
        .until("the end", |frame| frame.is("unsubscribed"))
        .await;
    assert_eq!(gone.json["reason"], "privacy");
    world.exec(send).await;
    // Who is let on by another grant gets what comes then, and nothing of before.
    world.events_so_far(&mut anna, "org_1").await;
    let mut show = async |grant: &str| {
        anna.ask(subscribe("doc:1", json!({ "grant": grant })))
            .await
    };
    assert_eq!(show(&good).await.json["name"], "grant_expired");
    let fresh = signed(&|grant| grant["epoch"] = json!(6));
    assert!(show(&fresh).await.is("subscribed"));
    let told = world.events_so_far(&mut anna, "org_1").await;
    assert!(
        told.iter()
            .all(|frame| frame.json["payload"] != 1 || frame.text_of("channel") != "doc:1")
    );
}

#[tokio::test]
async fn g21_what_cannot_work_is_refused_when_it_is_defined() {
    let world =
        world("CREATE FUNCTION app.other(a jsonb) RETURNS jsonb LANGUAGE sql AS 'SELECT a';").await;
    for (statement, words) in [
        ("'authorized'", "somebody who says who may"),
        (
            "'authorized', authorizer => 'app.other'",
            "must be (input jsonb, channel text",
        ),
        ("'authorized', authorizer => 'app.nosuch'", "app.nosuch"),
        (
            "'authorized', authorizer => 'app.may_join', webhook => 'rooms'",
            "one authorizer",
        ),
        (
            "'authorized', webhook => 'https://evil.example.com'",
            "no name of a webhook",
        ),
        (
            "'authorized', webhook => 'rooms', ttl_seconds => 0",
            "1 to 86400",
        ),
        (
            "'authorized', webhook => 'rooms', roles => '{admin}'",
            "takes no parameter and no roles",
        ),
        ("'public', grants => true", "asks nobody"),
    ] {
        let statement = format!("SELECT rowcast.define_channel('x:*', {statement})");
        let error = world.sql.query(&statement, &[]).await.unwrap_err();
        let said = error
            .as_db_error()
            .map(|error| error.message().to_owned())
            .unwrap_or_default();
        assert!(said.contains(words), "{statement}: {said}");
    }
    // A rule that asks somebody else ends what the one before allowed; the same one again does not.
    let mut anna = world.member("anna", "org_1").await;
    assert!(enter(&mut anna, "room:1").await.is("subscribed"));
    let define = "SELECT rowcast.define_channel('room:{roomId}', 'authorized', authorizer => 'app.may_join', ttl_seconds => 60)";
    world.exec(define).await;
    world.events_so_far(&mut anna, "org_1").await;
    assert_eq!(ended(&anna, "room:1"), None);
    world
        .exec("SELECT rowcast.define_channel('room:{roomId}', 'authorized', webhook => 'nosuch')")
        .await;
    let gone = anna
        .until("the end", |frame| frame.is("unsubscribed"))
        .await;
    assert_eq!(gone.json["reason"], "channel_rule_changed");
    let reply = enter(&mut anna, "room:1").await;
    assert_eq!(reply.json["name"], "application_failed");
}
