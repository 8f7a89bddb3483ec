//! Client events that functions and webhooks of the application handle: X10 to X12, X24; what they refuse, how
//! long they take, and what a machine may.

use serde_json::{Value, json};

use super::client_events::{CURSORS, answer, ask, event, machine, on, refused, with};

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
