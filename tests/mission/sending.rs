//! What an application says from SQL: Q7, Q11 to Q16, Q29 to Q33, X1, X2, X8, X16, X18, G15 to G17.

use serde_json::{Value, json};

use crate::harness::{
    client::{Client, Frame},
    fixture::TRACK,
    token,
    world::{World, subscribe},
};

/// Event and payload of each broadcast, and `table#id` of each row, in order.
fn told(events: &[Frame]) -> Vec<String> {
    let tell = |event: &Frame| match event.is("broadcast") {
        true => format!("{} {}", event.text_of("event"), event.json["payload"]),
        false => format!("{}#{}", event.table(), event.json["new"]["id"]),
    };
    events.iter().map(tell).collect()
}

/// Subscribes to a channel of the application; panics when that is refused.
async fn on(client: &mut Client, channel: &str) -> Frame {
    let reply = client.ask(subscribe(channel, json!({}))).await;
    assert!(reply.is("subscribed"), "{}", reply.text);
    reply
}

/// Defines channels before the service starts.
async fn with(channels: &str) -> World {
    World::prepared(&format!("{TRACK} {channels}"), &[]).await
}

/// Q11, Q12, Q31: the shapes of the document, from `rowcast.broadcast`.
#[tokio::test]
async fn q11_q12_broadcast_shape() {
    let world = World::start().await;
    let mut client = world.member("u1", "org_1").await;
    world
        .exec(
            r#"SELECT rowcast.broadcast('org_1', 'processing-complete', '{"materialId": "mat_123", "claimCount": 5}');
               SELECT rowcast.broadcast('org_1', 'extraction:started', '{"materialId": "mat_123"}')"#,
        )
        .await;
    let events = world.events_so_far(&mut client, "org_1").await;
    let [complete, started] = &events[..] else {
        panic!("{events:#?}");
    };
    assert!(
        complete
            .text
            .starts_with(r#"{"type":"broadcast","event":"processing-complete","payload":{"#),
        "{}",
        complete.text
    );
    assert_eq!(
        complete.json["payload"],
        json!({ "materialId": "mat_123", "claimCount": 5 })
    );
    assert_eq!(started.text_of("event"), "extraction:started");
    assert_eq!(started.json["payload"], json!({ "materialId": "mat_123" }));
    assert_eq!(complete.text_of("channel"), "org:org_1");
    assert!(complete.text_of("cursor") < started.text_of("cursor"));
    assert_eq!(complete.json["last"], Value::Null);
    assert_eq!(started.json["last"], true, "one transaction");
}

/// Q13 to Q16 and X8: one user, some roles, or all; no loop over the users of a role.
#[tokio::test]
async fn q13_q16_users_and_roles() {
    let world = World::start().await;
    let mut anna = world.member("anna", "org_1").await;
    let mut bert = world.member_with_role("bert", "org_1", "admin").await;
    let mut carl = world.member("carl", "org_2").await;
    world
        .exec(
            "SELECT rowcast.broadcast('org_1', 'for-all');
             SELECT rowcast.broadcast('org_1', 'task-assigned', '1', user_id => 'anna');
             SELECT rowcast.broadcast('org_1', 'admin_alert', '2', target_roles => '{admin,editor}');
             SELECT rowcast.broadcast('org_1', 'nobody', '3', user_id => 'anna', target_roles => '{admin}')",
        )
        .await;
    let anna = world.events_so_far(&mut anna, "org_1").await;
    let bert = world.events_so_far(&mut bert, "org_1").await;
    let carl = world.events_so_far(&mut carl, "org_2").await;
    assert_eq!(told(&anna), ["for-all null", "task-assigned 1"]);
    assert_eq!(told(&bert), ["for-all null", "admin_alert 2"]);
    assert!(carl.is_empty(), "{carl:#?}");
    // An empty list is nobody's idea of everybody.
    let (_, message) = world
        .sql
        .fails("SELECT rowcast.broadcast('org_1', 'x', target_roles => '{}')")
        .await;
    assert!(message.contains("target_roles"), "{message}");
}

/// Q29: nothing is said before the commit, and nothing that was rolled back, as a whole or in part.
#[tokio::test]
async fn q29_what_is_rolled_back_was_never_said() {
    let world = World::start().await;
    let mut client = world.member("u1", "org_1").await;
    world
        .exec("BEGIN; SELECT rowcast.broadcast('org_1', 'never'); ROLLBACK")
        .await;
    world
        .exec(
            "BEGIN; SELECT rowcast.broadcast('org_1', 'kept', '1'); SAVEPOINT s;
             SELECT rowcast.broadcast('org_1', 'taken-back'); ROLLBACK TO s;
             SELECT rowcast.broadcast('org_1', 'kept', '2'); COMMIT",
        )
        .await;
    let refused = "INSERT INTO orders SELECT 1, 'org_1', 1;
        SELECT rowcast.broadcast('org_1', 'never'); SELECT 1 / 0";
    world.sql.fails(refused).await;
    let events = world.events_so_far(&mut client, "org_1").await;
    assert_eq!(told(&events), ["kept 1", "kept 2"]);
}

/// Broadcasts and rows of one transaction come in the order of the writes, and one `last` ends them all.
#[tokio::test]
async fn broadcasts_and_rows_keep_the_order_of_the_writes() {
    for storage in ["table", "log"] {
        let world = with(&format!(
            "SELECT rowcast.track('orders', organization_column => 'organization_id', storage => '{storage}');"
        ))
        .await;
        let mut client = world.member("u1", "org_1").await;
        world
            .exec(
                "BEGIN; SELECT rowcast.broadcast('org_1', 'begin', '0');
                 INSERT INTO orders VALUES (1, 'org_1', 1);
                 SELECT rowcast.broadcast('org_1', 'between', '1');
                 INSERT INTO orders VALUES (2, 'org_1', 2), (3, 'org_1', 3);
                 SELECT rowcast.broadcast('org_1', 'end', '2'); COMMIT",
            )
            .await;
        let events = world.events_so_far(&mut client, "org_1").await;
        assert_eq!(
            told(&events),
            [
                "begin 0",
                "orders#1",
                "between 1",
                "orders#2",
                "orders#3",
                "end 2"
            ],
            "{storage}"
        );
        let last: Vec<bool> = events
            .iter()
            .map(|event| event.json["last"] == true)
            .collect();
        assert_eq!(last, [false, false, false, false, false, true], "{storage}");
        let cursors: Vec<&str> = events.iter().map(|event| event.text_of("cursor")).collect();
        assert!(cursors.is_sorted(), "{cursors:?}");
    }
}

/// X16 and X19: the chat of the document, in one SQL function: check, save, tell the room, return the row.
#[tokio::test]
async fn x16_chat_in_one_function() {
    let world = with(
        "CREATE TABLE room_members (room_id int, user_id text);
         CREATE TABLE messages (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, room_id int NOT NULL,
             sender_id text NOT NULL, content text NOT NULL, created_at timestamptz DEFAULT now());
         SELECT rowcast.define_channel('room:{id}', 'public', parameters => '{\"id\": \"int\"}', events => '{new_message}');
         CREATE FUNCTION send_chat_message(room int, sender text, content text) RETURNS messages LANGUAGE plpgsql AS $$
         DECLARE
             message messages;
         BEGIN
             IF NOT EXISTS (SELECT FROM room_members m WHERE m.room_id = room AND m.user_id = sender) THEN
                 RAISE EXCEPTION 'Not a member of this room' USING ERRCODE = 'insufficient_privilege';
             END IF;
             INSERT INTO messages (room_id, sender_id, content) VALUES (room, sender, left(trim(content), 1000))
             RETURNING * INTO message;
             PERFORM rowcast.send('room:' || room, 'new_message',
                 to_jsonb(message) - 'room_id', organization => 'org_1');
             RETURN message;
         END $$;
         INSERT INTO room_members VALUES (42, 'anna');",
    )
    .await;
    let mut anna = world.member("anna", "org_1").await;
    let mut bert = world.member("bert", "org_1").await;
    on(&mut bert, "room:42").await;
    let row = world
        .sql
        .text("SELECT content FROM send_chat_message(42, 'anna', '  hello  ')")
        .await;
    assert_eq!(row, "hello");
    let (_, refused) = world
        .sql
        .fails("SELECT send_chat_message(42, 'carl', 'hello')")
        .await;
    assert!(refused.contains("Not a member of this room"), "{refused}");
    let events = world.events_so_far(&mut bert, "org_1").await;
    let [message] = &events[..] else {
        panic!("{events:#?}");
    };
    assert_eq!(message.text_of("event"), "new_message");
    assert_eq!(message.text_of("channel"), "room:42");
    assert_eq!(message.json["payload"]["content"], "hello");
    assert_eq!(message.json["payload"]["sender_id"], "anna");
    assert!(message.json["payload"]["created_at"].is_string());
    // Anna is not in the room's channel.
    assert!(world.events_so_far(&mut anna, "org_1").await.is_empty());
}

/// X18 and X4: a notification is saved and pushed to all sockets of its user, and to nobody else.
#[tokio::test]
async fn x18_notification_of_a_user() {
    let world = with(
        "CREATE TABLE inbox (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, user_id text, title text, body text,
             data jsonb, read boolean DEFAULT false, created_at timestamptz DEFAULT now());
         CREATE FUNCTION notify_user(who text, title text, body text) RETURNS inbox LANGUAGE plpgsql AS $$
         DECLARE
             it inbox;
         BEGIN
             INSERT INTO inbox (user_id, title, body) VALUES (who, title, body) RETURNING * INTO it;
             PERFORM rowcast.send('user:' || who, 'notification', to_jsonb(it));
             RETURN it;
         END $$;",
    )
    .await;
    let mut first = world.member("anna", "org_1").await;
    let mut second = world.login("anna", "org_1").await;
    let mut bert = world.member("bert", "org_1").await;
    world
        .exec("SELECT notify_user('anna', 'New message', 'From Bert')")
        .await;
    for socket in [&mut first, &mut second] {
        let events = world.events_so_far(socket, "org_1").await;
        let [event] = &events[..] else {
            panic!("{events:#?}");
        };
        assert_eq!(event.text_of("channel"), "user:anna");
        assert_eq!(event.text_of("event"), "notification");
        assert_eq!(event.json["payload"]["title"], "New message");
        assert_eq!(event.json["payload"]["read"], false);
    }
    assert!(world.events_so_far(&mut bert, "org_1").await.is_empty());
}

/// Q32, Q33: a namespace is declared once; what is misspelt is refused with what is declared.
#[tokio::test]
async fn q32_declared_events() {
    let world = with(
        "SELECT rowcast.declare_events('extraction', '{started,progress,completed,failed}', 'Material extraction');
         SELECT rowcast.define_channel('jobs', 'public', events => '{queued}');",
    )
    .await;
    let mut client = world.member("u1", "org_1").await;
    let (code, message) = world
        .sql
        .fails("SELECT rowcast.broadcast('org_1', 'extraction:startd')")
        .await;
    assert_eq!(code, "22023");
    assert!(message.contains("declares no event"), "{message}");
    for refused in [
        "SELECT rowcast.send('user:u1', 'extraction:done')",
        "SELECT rowcast.send('jobs', 'extraction:started', organization => 'org_1')",
        "SELECT rowcast.send('jobs', 'queud', organization => 'org_1')",
    ] {
        world.sql.fails(refused).await;
    }
    world
        .exec(
            "SELECT rowcast.broadcast('org_1', 'extraction:started');
             SELECT rowcast.broadcast('org_1', 'one-off');
             SELECT rowcast.broadcast('org_1', 'other:anything');
             SELECT rowcast.declare_events('extraction', NULL);
             SELECT rowcast.broadcast('org_1', 'extraction:startd')",
        )
        .await;
    let events = world.events_so_far(&mut client, "org_1").await;
    let expected = [
        "extraction:started null",
        "one-off null",
        "other:anything null",
        "extraction:startd null",
    ];
    assert_eq!(told(&events), expected);
}

/// G15, G16, G17: what the followers of a key are told.
#[tokio::test]
async fn g15_g17_keys() {
    let world = with("SELECT rowcast.define_channel('key:tasks.*', 'public'); SELECT rowcast.define_channel('key:metrics.publicTicker', 'public');").await;
    let mut client = world.member("u1", "org_1").await;
    for channel in ["key:tasks.list", "key:metrics.publicTicker"] {
        on(&mut client, channel).await;
    }
    let refused = client.ask(subscribe("key:private.list", json!({}))).await;
    assert_eq!(refused.json["name"], "unknown_channel");
    world
        .exec(
            "BEGIN; SELECT rowcast.invalidate('tasks.list'); ROLLBACK;
             SELECT rowcast.invalidate('tasks.list'); SELECT rowcast.refresh('tasks.list');
             SELECT rowcast.invalidate('tasks.others');
             SELECT rowcast.emit('metrics.publicTicker', '{\"price\": 42}')",
        )
        .await;
    let seen = client.seen.len();
    world.events_so_far(&mut client, "org_1").await;
    let about_keys: Vec<&Frame> = client.seen[seen..]
        .iter()
        .filter(|frame| frame.json["key"].is_string())
        .collect();
    let [stale, refreshed, data] = &about_keys[..] else {
        panic!("{about_keys:#?}");
    };
    assert!(
        stale
            .text
            .starts_with(r#"{"type":"invalidate","key":"tasks.list","#),
        "{}",
        stale.text
    );
    assert!(refreshed.is("invalidate"));
    assert!(data.is("data"));
    assert_eq!(data.json["data"], json!({ "price": 42 }));
    assert_eq!(data.text_of("channel"), "key:metrics.publicTicker");
}

/// Arguments are checked, with what mends them; a message of somebody else is counted and passed over.
#[tokio::test]
async fn x23_arguments_are_checked() {
    let world = World::start().await;
    let mut client = world.member("u1", "org_1").await;
    for (bad, says) in [
        ("SELECT rowcast.broadcast('', 'e')", "the organization"),
        ("SELECT rowcast.broadcast(NULL, 'e')", "the organization"),
        (
            "SELECT rowcast.broadcast('o', repeat('x', 129))",
            "the name of the event",
        ),
        (
            "SELECT rowcast.broadcast('o', E'a\\nb')",
            "the name of the event",
        ),
        (
            "SELECT rowcast.broadcast('o', 'e', to_jsonb(repeat('x', 262144)))",
            "at most 262144",
        ),
        (
            "SELECT rowcast.send('nowhere', 'e')",
            "no pattern of rowcast.channels",
        ),
        ("SELECT rowcast.send('org:', 'e')", "no channel"),
        ("SELECT rowcast.emit('a:b', '1')", "holds a colon"),
    ] {
        let (_, message) = world.sql.fails(bad).await;
        assert!(message.contains(says), "{bad}: {message}");
    }
    let largest = "SELECT rowcast.broadcast('org_1', 'large', to_jsonb(repeat('x', 262142)))";
    world.exec(largest).await;
    for strange in [
        r#"{"v":1,"say":"shout"}"#,
        r#"{"v":1,"say":"broadcast","org":7}"#,
        r#"{"v":1,"say":"broadcast"#,
        "nonsense",
    ] {
        let text = format!("SELECT pg_logical_emit_message(true, 'rowcast', '{strange}')");
        world.exec(&text).await;
    }
    world
        .exec("SELECT rowcast.broadcast('org_1', 'after')")
        .await;
    let events = world.events_so_far(&mut client, "org_1").await;
    let names: Vec<&str> = events.iter().map(|event| event.text_of("event")).collect();
    assert_eq!(names, ["large", "after"]);
    let (_, metrics) = world.server.get("/metrics").await.unwrap();
    let line = metrics
        .lines()
        .find(|line| line.starts_with("rowcast_routing_malformed"));
    assert!(line.is_some_and(|line| line.ends_with(" 4")), "{line:?}");
}

/// Broadcasts have their place in the past like rows: a client that comes back, also after the service was
/// killed, gets exactly those after its cursor.
#[tokio::test]
async fn resume_over_broadcasts_and_a_killed_service() {
    let mut world = with("SELECT rowcast.define_channel('room:*', 'public');").await;
    let mut client = world.member("u1", "org_1").await;
    on(&mut client, "room:1").await;
    let say = |n: i32| {
        format!(
            "BEGIN; SELECT rowcast.broadcast('org_1', 'b', '{n}'); INSERT INTO orders VALUES ({n}, 'org_1', {n});
             SELECT rowcast.send('room:1', 'r', '{n}', 'org_1'); COMMIT"
        )
    };
    world.exec(&say(1)).await;
    let seen = client
        .until("the message", |frame| frame.text_of("event") == "r")
        .await;
    let cursor = seen.text_of("cursor").to_owned();
    drop(client);
    for n in 2..5 {
        world.exec(&say(n)).await;
    }
    for killed in [false, true] {
        if killed {
            world.server.kill();
            world.server = crate::harness::server::Server::start(&world.database, &[]).await;
        }
        let mut back = Client::open(world.server.public).await;
        back.send(json!({
            "type": "auth", "token": token::session("u1"), "organizationId": "org_1", "cursor": cursor,
        }))
        .await;
        let reply = back
            .ask(subscribe("room:1", json!({ "cursor": cursor })))
            .await;
        assert!(reply.is("subscribed"), "{}", reply.text);
        world.events_so_far(&mut back, "org_1").await;
        // Some of it came before the reply.
        let events = back.events().filter(|event| event.table() != "fences");
        let events: Vec<&Frame> = events.collect();
        let told = |channel: &str| -> Vec<String> {
            let of = events
                .iter()
                .copied()
                .filter(|event| event.text_of("channel") == channel);
            told(&of.cloned().collect::<Vec<Frame>>())
        };
        let rows_and_broadcasts = (2..5).flat_map(|n| [format!("b {n}"), format!("orders#{n}")]);
        let expected: Vec<String> = rows_and_broadcasts.collect();
        assert_eq!(told("org:org_1"), expected, "killed: {killed}");
        assert_eq!(told("room:1"), ["r 2", "r 3", "r 4"], "killed: {killed}");
        assert!(!back.seen.iter().any(|frame| frame.is("resync")));
    }
}
