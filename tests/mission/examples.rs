//! The examples of the documents on real sockets, each as its application would write it: chat, dashboard,
//! notifications, cursors, collaborative editing, presence, batches.

use serde_json::{Value, json};

use super::client_events::{answer, ask, event, machine, on, refused, with};
use crate::harness::client::Client;

const CHAT: &str = r#"
CREATE TABLE app.users (id text PRIMARY KEY, name text NOT NULL);
CREATE TABLE app.members (room_id int, user_id text, PRIMARY KEY (room_id, user_id));
CREATE TABLE app.messages (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, room_id int NOT NULL, sender_id text NOT NULL,
    content text NOT NULL, created_at timestamptz NOT NULL DEFAULT now());
INSERT INTO app.users VALUES ('anna', 'Anna'), ('bert', 'Bert');
INSERT INTO app.members VALUES (42, 'anna'), (42, 'bert'), (42, 'stranger'), (43, 'bert');

CREATE FUNCTION app.send_chat_message(input jsonb, channel text, arguments jsonb, caller jsonb) RETURNS jsonb
LANGUAGE plpgsql AS $$
DECLARE
    room    int := (input ->> 'room_id')::int;
    sender  text := caller ->> 'userId';
    message app.messages;
BEGIN
    IF sender IS NULL THEN
        PERFORM rowcast.refuse('unauthenticated', 'Not authenticated');
    END IF;
    IF input ->> 'content' = '' THEN
        PERFORM rowcast.refuse('empty', 'Message cannot be empty');
    END IF;
    IF NOT EXISTS (SELECT FROM app.members m WHERE m.room_id = room AND m.user_id = sender) THEN
        PERFORM rowcast.refuse('accessdenied', 'Not a member of this room');
    END IF;
    IF NOT EXISTS (SELECT FROM app.users u WHERE u.id = sender) THEN
        PERFORM rowcast.refuse('notfound', 'User not found');
    END IF;
    INSERT INTO app.messages (room_id, sender_id, content) VALUES (room, sender, input ->> 'content') RETURNING * INTO message;
    PERFORM rowcast.send('room:' || room, 'new_message', to_jsonb(message) - 'room_id');
    RETURN to_jsonb(message);
END $$;

SELECT rowcast.define_channel('room:{id}', 'public', parameters => '{"id": "int"}', events => '{new_message}');
SELECT rowcast.define_client_event('room:*', 'send_message', handler => 'app.send_chat_message',
    input => '{"room_id": "int", "content": {"type": "text", "trim": true, "maxLength": 1000}}');
"#;

/// X16, X19, C12: the chat: trimmed, at most 1,000 characters, only members, the row to the sender, the message
/// to the room, and each refusal with its code and sentence.
#[tokio::test]
async fn x16_x19_c12_chat() {
    let world = with(CHAT, &[]).await;
    let mut anna = world.member("anna", "org_1").await;
    let mut bert = world.member("bert", "org_1").await;
    on(&mut bert, "room:42").await;
    let say = async |client: &mut Client, room: u32, content: Value| {
        let data = json!({ "room_id": room, "content": content });
        ask(client, &format!("room:{room}"), "send_message", data).await
    };
    let row = say(&mut anna, 42, json!("  hello \n")).await;
    let row = &row.json["data"];
    assert_eq!(
        (&row["content"], &row["sender_id"], &row["room_id"]),
        (&json!("hello"), &json!("anna"), &json!(42))
    );
    let events = world.events_so_far(&mut bert, "org_1").await;
    let [message] = &events[..] else {
        panic!("{events:#?}");
    };
    assert_eq!(message.text_of("event"), "new_message");
    assert_eq!(message.text_of("channel"), "room:42");
    let mut expected = row.clone();
    expected.as_object_mut().unwrap().remove("room_id");
    assert_eq!(message.json["payload"], expected);

    let longest = "é".repeat(1000);
    let row = say(&mut anna, 42, json!(format!(" {longest} "))).await;
    assert_eq!(row.json["data"]["content"], longest);
    let reply = say(&mut anna, 42, json!(format!("{longest}x"))).await;
    assert_eq!(refused(&reply).0, 331);
    assert!(reply.text_of("message").contains("1000 characters"));
    for (content, room, code, message) in [
        ("   ", 42, "empty", "Message cannot be empty"),
        ("hello", 43, "accessdenied", "Not a member of this room"),
    ] {
        let reply = say(&mut anna, room, json!(content)).await;
        assert_eq!(refused(&reply), (320, "refused", code, message));
    }
    let reply = say(&mut anna, 42, json!(7)).await;
    assert_eq!(refused(&reply).0, 331);
    let mut stranger = world.member("stranger", "org_1").await;
    let reply = say(&mut stranger, 42, json!("hello")).await;
    assert_eq!(
        refused(&reply),
        (320, "refused", "notfound", "User not found")
    );
    // A machine is authenticated as a machine, and as no user; whoever did not say who he is gets no further.
    let mut machine = machine(&world, "org_1").await;
    let reply = say(&mut machine, 42, json!("hello")).await;
    assert_eq!(
        refused(&reply),
        (320, "refused", "unauthenticated", "Not authenticated")
    );
    let mut nobody = Client::open(world.server.public).await;
    nobody
        .send(event("room:42", "send_message", json!({})))
        .await;
    let reply = nobody.until("an error", |frame| frame.is("error")).await;
    assert_eq!(refused(&reply).1, "auth_required");
    assert_eq!(nobody.until_closed().await.0, 4505);

    // Only what was saved was told.
    let events = world.events_so_far(&mut bert, "org_1").await;
    assert_eq!(events.len(), 1, "{events:#?}");
    assert_eq!(
        world
            .sql
            .text("SELECT count(*)::text FROM app.messages")
            .await,
        "2"
    );
}

/// X17: count and sum of the last hour go to everybody who looks at the dashboard, at every order.
#[tokio::test]
async fn x17_dashboard() {
    let world = with(
        r#"
        CREATE TABLE app.orders (id int GENERATED ALWAYS AS IDENTITY, total numeric(10,2), created_at timestamptz DEFAULT now());
        INSERT INTO app.orders (total, created_at) VALUES (1000, now() - interval '61 minutes'), (10.50, now() - interval '59 minutes');
        CREATE FUNCTION app.update_metrics(input jsonb, channel text, arguments jsonb, caller jsonb) RETURNS jsonb
        LANGUAGE plpgsql AS $$
        DECLARE
            metrics jsonb;
        BEGIN
            SELECT jsonb_build_object('orders_last_hour', count(*), 'revenue_last_hour', coalesce(sum(o.total), 0), 'updated_at', now())
            INTO metrics FROM app.orders o WHERE o.created_at >= now() - interval '1 hour';
            PERFORM rowcast.send('dashboard:metrics', 'update', metrics, organization => 'org_1');
            RETURN metrics;
        END $$;
        CREATE FUNCTION app.on_order() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM app.update_metrics(NULL, NULL, NULL, NULL);
            RETURN NULL;
        END $$;
        CREATE TRIGGER on_order AFTER INSERT ON app.orders FOR EACH STATEMENT EXECUTE FUNCTION app.on_order();
        SELECT rowcast.define_channel('dashboard:metrics', 'role', roles => '{admin}', events => '{update}');
        SELECT rowcast.define_client_event('dashboard:metrics', 'refresh', handler => 'app.update_metrics');
        "#,
        &[],
    )
    .await;
    let mut admin = world.member_with_role("anna", "org_1", "admin").await;
    let mut member = world.member("bert", "org_1").await;
    on(&mut admin, "dashboard:metrics").await;
    world
        .exec("INSERT INTO app.orders (total) VALUES (1.25), (2.25)")
        .await;
    world
        .exec("BEGIN; INSERT INTO app.orders (total) VALUES (7); ROLLBACK")
        .await;
    let events = world.events_so_far(&mut admin, "org_1").await;
    let [update] = &events[..] else {
        panic!("{events:#?}");
    };
    assert_eq!(
        (update.text_of("channel"), update.text_of("event")),
        ("dashboard:metrics", "update")
    );
    assert_eq!(update.json["payload"]["orders_last_hour"], 3);
    assert_eq!(update.json["payload"]["revenue_last_hour"], json!(14.0));
    assert!(update.json["payload"]["updated_at"].is_string());
    // Asked for by a client who may look at it.
    let metrics = answer(&mut admin, "dashboard:metrics", "refresh", json!({})).await;
    assert_eq!(metrics["orders_last_hour"], 3);
    let events = world.events_so_far(&mut admin, "org_1").await;
    assert_eq!(events[0].json["payload"], metrics);
    let reply = ask(&mut member, "dashboard:metrics", "refresh", json!({})).await;
    assert_eq!(refused(&reply).0, 301);
}

/// X14: an operation is applied by a function that returns the version; the other editors get it with the
/// editor's identity and the version, in its order, however many edit at once.
#[tokio::test]
async fn x14_collaborative_edit() {
    let world = with(
        r#"
        CREATE TABLE app.documents (id int PRIMARY KEY, body text NOT NULL DEFAULT '', version int NOT NULL DEFAULT 0);
        INSERT INTO app.documents (id) VALUES (7);
        CREATE FUNCTION app.apply_document_op(document_id int, operation jsonb, user_id text) RETURNS int LANGUAGE sql AS $$
            UPDATE app.documents d SET body = d.body || ($2 ->> 'insert'), version = d.version + 1 WHERE d.id = $1 RETURNING d.version
        $$;
        CREATE FUNCTION app.document_edit(input jsonb, channel text, arguments jsonb, caller jsonb) RETURNS jsonb
        LANGUAGE plpgsql AS $$
        DECLARE
            version int := app.apply_document_op((arguments ->> 'id')::int, input -> 'operation', caller ->> 'userId');
        BEGIN
            IF version IS NULL THEN
                PERFORM rowcast.refuse('notfound', 'Document not found');
            END IF;
            PERFORM rowcast.send(channel, 'remote_operation', jsonb_build_object('operation', input -> 'operation',
                'user_id', caller ->> 'userId', 'version', version));
            RETURN jsonb_build_object('version', version);
        END $$;
        SELECT rowcast.define_channel('document:{id}', 'public', parameters => '{"id": "int"}');
        SELECT rowcast.define_client_event('document:*', 'operation', handler => 'app.document_edit',
            input => '{"operation": "object", "document_id": {"type": "int", "required": false}}');
        "#,
        &[],
    )
    .await;
    let mut anna = world.member("anna", "org_1").await;
    let mut bert = world.member("bert", "org_1").await;
    let mut carl = world.member("carl", "org_1").await;
    on(&mut carl, "document:7").await;
    for n in 0..20 {
        for (client, name) in [(&mut anna, "a"), (&mut bert, "b")] {
            let operation = json!({ "operation": { "insert": format!("{name}{n} ") } });
            client
                .send(event("document:7", "operation", operation))
                .await;
        }
    }
    let done = "SELECT version = 40 FROM app.documents";
    world.sql.until_true("all are applied", done).await;
    let events = world.events_so_far(&mut carl, "org_1").await;
    assert_eq!(events.len(), 40);
    let mut body = String::new();
    for (event, version) in events.iter().zip(1..) {
        assert_eq!(event.text_of("event"), "remote_operation");
        let payload = &event.json["payload"];
        assert_eq!(payload["version"], version, "versions come in their order");
        let text = payload["operation"]["insert"].as_str().unwrap();
        let user = if text.starts_with('a') {
            "anna"
        } else {
            "bert"
        };
        assert_eq!(payload["user_id"], user);
        body.push_str(text);
    }
    assert_eq!(world.sql.text("SELECT body FROM app.documents").await, body);
    // What one editor sent stays in his order.
    for name in ["a", "b"] {
        let own: Vec<&str> = body
            .split(' ')
            .filter(|text| text.starts_with(name))
            .collect();
        let sent: Vec<String> = (0..20).map(|n| format!("{name}{n}")).collect();
        assert_eq!(own, sent);
    }
    let operation = json!({ "operation": { "insert": "x" } });
    let reply = ask(&mut anna, "document:8", "operation", operation).await;
    assert_eq!(
        refused(&reply),
        (320, "refused", "notfound", "Document not found")
    );
    let reply = ask(
        &mut anna,
        "document:7",
        "operation",
        json!({ "operation": "x" }),
    )
    .await;
    assert_eq!(refused(&reply).0, 331);
}

/// X18 from a client: who is told a notification is decided by the function, and its row is what arrives.
#[tokio::test]
async fn x18_notification() {
    let world = with(
        r#"
        CREATE TABLE app.inbox (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, user_id text NOT NULL, type text NOT NULL,
            title text, body text, data jsonb, read boolean NOT NULL DEFAULT false, created_at timestamptz NOT NULL DEFAULT now());
        CREATE FUNCTION app.mention(input jsonb, channel text, arguments jsonb, caller jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
        DECLARE
            it app.inbox;
        BEGIN
            INSERT INTO app.inbox (user_id, type, title, body, data) VALUES (input ->> 'user', 'mention', 'New mention',
                'From ' || (caller ->> 'userId'), jsonb_build_object('channel', channel)) RETURNING * INTO it;
            PERFORM rowcast.send('user:' || it.user_id, 'notification', to_jsonb(it));
            RETURN jsonb_build_object('id', it.id);
        END $$;
        SELECT rowcast.define_channel('room:{id}', 'public');
        SELECT rowcast.define_client_event('room:*', 'mention', handler => 'app.mention', input => '{"user": {"type": "text", "maxLength": 255}}');
        "#,
        &[],
    )
    .await;
    let mut anna = world.member("anna", "org_1").await;
    let mut bert = world.member("bert", "org_1").await;
    let mut again = world.login("bert", "org_1").await;
    let mut carl = world.member("carl", "org_1").await;
    let id = answer(&mut anna, "room:7", "mention", json!({ "user": "bert" })).await;
    for socket in [&mut bert, &mut again] {
        let events = world.events_so_far(socket, "org_1").await;
        let [told] = &events[..] else {
            panic!("{events:#?}");
        };
        assert_eq!(
            (told.text_of("channel"), told.text_of("event")),
            ("user:bert", "notification")
        );
        let row = &told.json["payload"];
        assert_eq!((&row["id"], &row["read"]), (&id["id"], &json!(false)));
        assert_eq!(
            (&row["type"], &row["body"]),
            (&json!("mention"), &json!("From anna"))
        );
        assert_eq!(row["data"], json!({ "channel": "room:7" }));
    }
    for socket in [&mut anna, &mut carl] {
        assert!(world.events_so_far(socket, "org_1").await.is_empty());
    }
}

/// C6, C7: presence as rows that handlers write; whoever is no user changes nothing, and is not refused.
#[tokio::test]
async fn c06_c07_presence_rows_by_handlers() {
    let world = with(
        r#"
        CREATE TABLE app.presence (document_id int, user_id text, name text NOT NULL, cursor jsonb, last_seen bigint NOT NULL,
            PRIMARY KEY (document_id, user_id));
        CREATE FUNCTION app.update_presence(input jsonb, channel text, arguments jsonb, caller jsonb) RETURNS jsonb LANGUAGE sql AS $$
            INSERT INTO app.presence SELECT (arguments ->> 'id')::int, caller ->> 'userId',
                coalesce(caller -> 'claims' ->> 'name', 'Anonymous'), input -> 'cursor', (extract(epoch FROM clock_timestamp()) * 1000)::bigint
            WHERE caller ->> 'userId' IS NOT NULL
            ON CONFLICT (document_id, user_id) DO UPDATE SET cursor = excluded.cursor, last_seen = excluded.last_seen;
            SELECT NULL::jsonb
        $$;
        CREATE FUNCTION app.remove_presence(input jsonb, channel text, arguments jsonb, caller jsonb) RETURNS jsonb LANGUAGE sql AS $$
            DELETE FROM app.presence p WHERE p.document_id = (arguments ->> 'id')::int AND p.user_id = caller ->> 'userId';
            SELECT NULL::jsonb
        $$;
        SELECT rowcast.define_channel('document:{id}', 'public', parameters => '{"id": "int"}');
        SELECT rowcast.define_client_event('document:*', 'update_presence', handler => 'app.update_presence',
            input => '{"cursor": {"type": "object", "required": false}}');
        SELECT rowcast.define_client_event('document:*', 'remove_presence', handler => 'app.remove_presence');
        "#,
        &[],
    )
    .await;
    let mut anna = world.member("anna", "org_1").await;
    let mut machine = machine(&world, "org_1").await;
    let rows = "SELECT coalesce(string_agg(format('%s %s %s', user_id, name, cursor ->> 'x'), ',' ORDER BY user_id), '') FROM app.presence";
    for x in [1, 2] {
        let cursor = json!({ "cursor": { "x": x, "y": 0 } });
        for client in [&mut anna, &mut machine] {
            let nothing = answer(client, "document:7", "update_presence", cursor.clone()).await;
            assert_eq!(nothing, Value::Null);
        }
        assert_eq!(world.sql.text(rows).await, format!("anna Anonymous {x}"));
    }
    answer(&mut machine, "document:7", "remove_presence", json!({})).await;
    assert_eq!(world.sql.text(rows).await, "anna Anonymous 2");
    answer(&mut anna, "document:7", "remove_presence", json!({})).await;
    assert_eq!(world.sql.text(rows).await, "");
}

/// C19: many items in one call, all or none of them.
#[tokio::test]
async fn c19_a_batch_is_one_call() {
    let world = with(
        r#"
        CREATE TABLE app.items (id int PRIMARY KEY, title text NOT NULL);
        CREATE FUNCTION app.batch_update(input jsonb, channel text, arguments jsonb, caller jsonb) RETURNS jsonb LANGUAGE sql AS $$
            WITH done AS (INSERT INTO app.items SELECT (i ->> 'id')::int, i ->> 'title' FROM jsonb_array_elements(input -> 'items') i
                ON CONFLICT (id) DO UPDATE SET title = excluded.title RETURNING 1)
            SELECT jsonb_build_object('updated', (SELECT count(*) FROM done))
        $$;
        SELECT rowcast.define_channel('list:{id}', 'public');
        SELECT rowcast.define_client_event('list:*', 'update', handler => 'app.batch_update', input => '{"items": {"type": "array", "maxItems": 200}}');
        "#,
        &[],
    )
    .await;
    let mut anna = world.member("anna", "org_1").await;
    let items = |count: u32| -> Vec<Value> {
        let item = |n| json!({ "id": n, "title": format!("item {n}") });
        (0..count).map(item).collect()
    };
    let data = json!({ "items": items(200) });
    let updated = answer(&mut anna, "list:1", "update", data).await;
    assert_eq!(updated, json!({ "updated": 200 }));
    let reply = ask(
        &mut anna,
        "list:1",
        "update",
        json!({ "items": items(201) }),
    )
    .await;
    assert_eq!(refused(&reply).0, 331);
    let broken = json!({ "items": [{ "id": 900, "title": "a" }, { "id": 901 }] });
    let reply = ask(&mut anna, "list:1", "update", broken).await;
    assert_eq!(refused(&reply).0, 322);
    assert_eq!(
        world.sql.text("SELECT count(*)::text FROM app.items").await,
        "200"
    );
}
