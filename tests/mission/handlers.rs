//! Client events that functions and webhooks of the application handle: X10 to X12, X24; what they refuse, how
//! long they take, and what a machine may.

use serde_json::{Value, json};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use super::client_events::{CURSORS, answer, ask, event, machine, on, refused, with};
use crate::harness::until;

const ROOMS: &str = r#"
CREATE TABLE app.presence (user_id text, room_id int, joined_at timestamptz, PRIMARY KEY (user_id, room_id));
CREATE FUNCTION app.on_join(input jsonb, channel text, arguments jsonb, caller jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    IF (input ->> 'fail')::boolean THEN
        RAISE EXCEPTION 'Not today';
    END IF;
    INSERT INTO app.presence VALUES (caller ->> 'userId', (arguments ->> 'id')::int, now());
    PERFORM rowcast.send(channel, 'user_joined', jsonb_build_object('user_id', caller ->> 'userId'));
    IF (input ->> 'fail_late')::boolean THEN
        PERFORM 1 / 0;
    END IF;
    RETURN jsonb_build_object('input', input, 'channel', channel, 'arguments', arguments, 'caller', caller,
        'role', current_user, 'claims', current_setting('request.jwt.claims')::jsonb);
END $$;
CREATE FUNCTION app.slow(input jsonb, channel text, arguments jsonb, caller jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_sleep((input ->> 'seconds')::float);
    INSERT INTO app.presence VALUES (input ->> 'n', 0, clock_timestamp());
    RETURN input -> 'n';
END $$;
SELECT rowcast.define_channel('room:{id}', 'public', parameters => '{"id": "int"}');
SELECT rowcast.define_client_event('room:*', 'join', handler => 'app.on_join');
SELECT rowcast.define_client_event('room:*', 'slow', handler => 'app.slow');
"#;

/// X10, X11, X12, X24: a function gets the data, the concrete channel and who it was; it writes and tells the
/// room in one transaction, and its answer is the sender's.
#[tokio::test]
async fn x10_x12_x24_a_function_handles_an_event() {
    let world = with(ROOMS, &[]).await;
    let mut anna = world.member("anna", "org_1").await;
    let mut bert = world.member("bert", "org_1").await;
    let mut carl = world.member("carl", "org_2").await;
    on(&mut bert, "room:7").await;
    on(&mut carl, "room:7").await;
    let data = json!({ "room_id": 8, "user_id": "bert", "caller": { "userId": "bert" } });
    let got = answer(&mut anna, "room:7", "join", data.clone()).await;
    assert_eq!(got["input"], data);
    assert_eq!(got["channel"], "room:7");
    assert_eq!(got["arguments"], json!({ "id": 7 }));
    assert_eq!(got["caller"]["userId"], "anna");
    assert_eq!(got["caller"]["organizationId"], "org_1");
    assert_eq!(got["caller"]["roles"], json!(["member"]));
    assert_eq!(got["caller"]["authMethod"], "session");
    assert_eq!(got["claims"]["sub"], "anna");
    assert_eq!(got["role"], "rowcast_test_app");
    let present = "SELECT string_agg(user_id || room_id, ',') FROM app.presence";
    assert_eq!(world.sql.text(present).await, "anna7");
    let events = world.events_so_far(&mut bert, "org_1").await;
    let [joined] = &events[..] else {
        panic!("{events:#?}");
    };
    assert_eq!(joined.text_of("event"), "user_joined");
    assert_eq!(joined.json["payload"], json!({ "user_id": "anna" }));
    assert!(world.events_so_far(&mut carl, "org_2").await.is_empty());
    // No answer without a ref, and the event is handled all the same.
    anna.send(event("room:8", "join", json!({}))).await;
    world
        .sql
        .until_true("it was handled", "SELECT count(*) = 2 FROM app.presence")
        .await;
}

/// What fails leaves nothing behind, and its words are the caller's only where they were meant for him.
#[tokio::test]
async fn what_a_function_refuses_was_never_said() {
    let world = with(ROOMS, &[]).await;
    let mut anna = world.member("anna", "org_1").await;
    let mut bert = world.member("bert", "org_1").await;
    on(&mut bert, "room:7").await;
    let reply = ask(&mut anna, "room:7", "join", json!({ "fail": true })).await;
    assert_eq!(refused(&reply), (320, "refused", "refused", "Not today"));
    assert_eq!(reply.text_of("channel"), "room:7");
    let reply = ask(&mut anna, "room:7", "join", json!({ "fail_late": true })).await;
    assert_eq!(refused(&reply).0, 322);
    assert!(!reply.text.contains("division"), "{}", reply.text);
    // A key that is there twice, too.
    answer(&mut anna, "room:7", "join", json!({})).await;
    let reply = ask(&mut anna, "room:7", "join", json!({})).await;
    assert_eq!(refused(&reply).0, 322);
    assert!(!reply.text.contains("presence"), "{}", reply.text);
    let events = world.events_so_far(&mut bert, "org_1").await;
    assert_eq!(events.len(), 1, "{events:#?}");
    // Refusals of the application cost no patience.
    for _ in 0..40 {
        let reply = ask(&mut anna, "room:7", "join", json!({ "fail": true })).await;
        assert_eq!(refused(&reply).0, 320);
    }
    assert!(anna.ask(json!({ "type": "ping" })).await.is("pong"));
    let metric = async |outcome: &str| {
        let name = format!("client_events_total{{outcome=\"{outcome}\"}}");
        world.server.metric(&name).await
    };
    assert_eq!(
        (
            metric("ok").await,
            metric("refused").await,
            metric("failed").await
        ),
        (1.0, 41.0, 2.0)
    );
}

/// A slow handler keeps nobody waiting but the events behind it on its channel, which keep their order; and a
/// socket has only so many without an answer.
#[tokio::test]
async fn a_slow_handler_blocks_nothing_else() {
    let world = with(ROOMS, &[("ROWCAST__LIMITS__CLIENT_EVENTS", "8")]).await;
    let mut anna = world.member("anna", "org_1").await;
    let slow = |channel: &str, n: u32, seconds: f64| {
        let mut frame = event(
            channel,
            "slow",
            json!({ "n": n.to_string(), "seconds": seconds }),
        );
        frame["ref"] = json!(n);
        frame
    };
    anna.send(slow("room:1", 1, 1.5)).await;
    for n in 2..=7 {
        anna.send(slow("room:1", n, 0.0)).await;
    }
    anna.send(slow("room:2", 8, 0.0)).await;
    anna.send(slow("room:2", 9, 0.0)).await;
    anna.send(json!({ "type": "ping", "ref": "ping" })).await;
    anna.until("the last answer", |frame| frame.json["ref"] == 7)
        .await;
    let answers: Vec<String> = anna
        .seen
        .iter()
        .filter(|frame| frame.json["ref"] != Value::Null && !frame.is("subscribed"))
        .map(|frame| match frame.is("error") {
            true => format!("{} {}", frame.json["ref"], frame.text_of("name")),
            false => frame.json["ref"].to_string(),
        })
        .collect();
    let at = |wanted: &str| {
        let found = answers.iter().position(|answer| answer == wanted);
        found.unwrap_or_else(|| panic!("no {wanted} in {answers:?}"))
    };
    assert!(at("\"ping\"") < at("1") && at("8") < at("1"), "{answers:?}");
    assert!(at("9 too_many_events") < at("1"), "{answers:?}");
    let of_one: Vec<&String> = answers.iter().skip(at("1")).collect();
    assert_eq!(of_one, ["1", "2", "3", "4", "5", "6", "7"]);
    let order =
        "SELECT string_agg(user_id, ',' ORDER BY joined_at) FROM app.presence WHERE user_id <> '8'";
    assert_eq!(world.sql.text(order).await, "1,2,3,4,5,6,7");
    // They have their answers, so there is room again.
    answer(
        &mut anna,
        "room:2",
        "slow",
        json!({ "n": "10", "seconds": 0 }),
    )
    .await;
}

/// An API key is no user: a relay says so, and a function sees which key it is.
#[tokio::test]
async fn a_machine_is_nobody() {
    let world = with(&format!("{ROOMS} {CURSORS}"), &[]).await;
    let mut bert = world.member("bert", "org_1").await;
    on(&mut bert, "document:7").await;
    let mut machine = machine(&world, "org_1").await;
    let data = json!({ "position": {}, "user_id": "bert" });
    answer(&mut machine, "document:7", "cursor_move", data).await;
    let events = world.events_so_far(&mut bert, "org_1").await;
    assert_eq!(
        events[0].json["payload"],
        json!({ "position": {}, "user_id": null })
    );
    let reply = ask(&mut machine, "room:7", "join", json!({})).await;
    // Its row has no user, which the table does not take.
    assert_eq!(refused(&reply).0, 322, "{}", reply.text);
}

/// What waits of all sockets shares a budget; whoever goes beyond is refused and may try again.
#[tokio::test]
async fn events_of_all_sockets_share_a_budget() {
    let world = with(ROOMS, &[("ROWCAST__LIMITS__CLIENT_EVENTS_BYTES", "12 KiB")]).await;
    let mut anna = world.member("anna", "org_1").await;
    let mut bert = world.member("bert", "org_1").await;
    let long = "x".repeat(6000);
    let slow = |n: &str, more: &str| json!({ "n": n, "seconds": 1.0, "more": more });
    anna.send(event("room:1", "slow", slow("1", &long))).await;
    let waiting = "client_events_waiting_bytes";
    until("it is handled", async || {
        world.server.metric(waiting).await > 6000.0
    })
    .await;
    let reply = ask(&mut bert, "room:1", "slow", slow("2", &long)).await;
    assert_eq!(refused(&reply).1, "overloaded");
    let small = ask(&mut bert, "room:1", "join", json!({})).await;
    assert!(small.is("event_reply"), "{}", small.text);
    until("all have their answer", async || {
        world.server.metric(waiting).await == 0.0
    })
    .await;
    answer(&mut bert, "room:1", "slow", slow("2", &long)).await;
    let overloaded = r#"client_events_total{outcome="overloaded"}"#;
    assert_eq!(world.server.metric(overloaded).await, 1.0);
}

/// A handler that takes too long is ended, and what it did is undone; the next one is handled.
#[tokio::test]
async fn a_handler_ends_in_time() {
    let world = with(ROOMS, &[("ROWCAST__APPLICATION__TIMEOUT", "500 ms")]).await;
    let mut anna = world.member("anna", "org_1").await;
    let slow = json!({ "n": "1", "seconds": 30 });
    let reply = ask(&mut anna, "room:1", "slow", slow).await;
    assert_eq!(refused(&reply).1, "application_unavailable");
    answer(
        &mut anna,
        "room:1",
        "slow",
        json!({ "n": "2", "seconds": 0 }),
    )
    .await;
    let rows = "SELECT string_agg(user_id, ',') FROM app.presence";
    assert_eq!(world.sql.text(rows).await, "2");
}

/// Whoever is put out while his events wait: the one that has begun ends, the others are not handled.
#[tokio::test]
async fn what_waits_is_decided_again() {
    let world = with(ROOMS, &[]).await;
    let mut anna = world.member("anna", "org_1").await;
    let slow = |n: u32, seconds: f64| json!({ "n": n.to_string(), "seconds": seconds });
    for (n, seconds) in [(1, 2.0), (2, 0.0)] {
        let mut frame = event("room:1", "slow", slow(n, seconds));
        frame["ref"] = json!(n);
        anna.send(frame).await;
    }
    assert!(anna.ask(json!({ "type": "ping" })).await.is("pong"));
    world
        .exec("DELETE FROM rowcast.memberships WHERE user_id = 'anna'")
        .await;
    let reply = anna
        .until("an answer", |frame| frame.json["ref"] == 2)
        .await;
    assert_eq!(refused(&reply).1, "not_member");
    let first = anna
        .seen
        .iter()
        .find(|frame| frame.json["ref"] == 1)
        .unwrap();
    assert!(first.is("event_reply"), "{}", first.text);
    let rows = "SELECT string_agg(user_id, ',') FROM app.presence";
    assert_eq!(world.sql.text(rows).await, "1");
    // And of a socket that goes: nobody waits for an answer.
    let mut bert = world.member("bert", "org_1").await;
    bert.send(event("room:1", "slow", slow(3, 1.0))).await;
    bert.send(event("room:1", "slow", slow(4, 0.0))).await;
    assert!(bert.ask(json!({ "type": "ping" })).await.is("pong"));
    drop(bert);
    let abandoned = r#"client_events_total{outcome="abandoned"}"#;
    until("the other is given up", async || {
        world.server.metric(abandoned).await == 1.0
    })
    .await;
    assert_eq!(world.sql.text(rows).await, "1,3");
}

/// A webhook of the configuration handles an event: it gets what a function gets, signed; its words reach the
/// sender; and an event of a webhook that nobody configured fails.
#[tokio::test]
async fn x10_a_webhook_handles_an_event() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/events", listener.local_addr().unwrap());
    let (told, mut questions) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(answer_posts(stream, told.clone()));
        }
    });
    let world = with(
        "SELECT rowcast.define_channel('room:{id}', 'public');
         SELECT rowcast.define_client_event('room:*', 'report', webhook => 'moderation');
         SELECT rowcast.define_client_event('room:*', 'lost', webhook => 'nobody');",
        &[
            ("ROWCAST__WEBHOOKS__MODERATION__URL", &url),
            (
                "ROWCAST__WEBHOOKS__MODERATION__SECRET",
                "0123456789012345678901234567890123456789",
            ),
        ],
    )
    .await;
    let mut anna = world.member("anna", "org_1").await;
    let data = json!({ "message": 9, "user_id": "bert" });
    let got = answer(&mut anna, "room:7", "report", data.clone()).await;
    assert_eq!(got, json!({ "case": 1 }));
    let (head, question) = questions.recv().await.unwrap();
    assert!(head.contains("rowcast-signature: t="), "{head}");
    assert_eq!(
        (&question["asking"], &question["channel"]),
        (&json!("event"), &json!("room:7"))
    );
    assert_eq!(
        (&question["input"], &question["arguments"]),
        (&data, &json!({ "id": "7" }))
    );
    assert_eq!(question["caller"]["userId"], "anna");
    let reply = ask(&mut anna, "room:7", "report", json!({ "no": true })).await;
    assert_eq!(refused(&reply), (320, "refused", "accessdenied", "Not you"));
    let reply = ask(&mut anna, "room:7", "lost", json!({})).await;
    assert_eq!(refused(&reply).1, "application_failed");
}

/// Answers requests one after the other, and tells what was asked.
async fn answer_posts(mut stream: TcpStream, told: mpsc::UnboundedSender<(String, Value)>) {
    let mut bytes = Vec::new();
    loop {
        let head_end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        let whole = head_end.and_then(|end| {
            let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
            let length = head.split("content-length:").nth(1)?.lines().next()?;
            let length: usize = length.trim().parse().ok()?;
            let body = bytes.get(end + 4..end + 4 + length)?;
            Some((
                head,
                serde_json::from_slice::<Value>(body).ok()?,
                end + 4 + length,
            ))
        });
        let Some((head, question, end)) = whole else {
            if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                return;
            }
            continue;
        };
        bytes.drain(..end);
        let (status, body) = match question["input"]["no"] == true {
            true => (
                "403 Forbidden",
                r#"{"code":"accessdenied","message":"Not you"}"#,
            ),
            false => ("200 OK", r#"{"case":1}"#),
        };
        let _ = told.send((head, question));
        let length = body.len();
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}");
        if stream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
}
