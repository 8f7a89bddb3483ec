//! Who may be there, and see who is: X12, X26, organizations, rights that end, rules, bounds.

use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use super::presence::{
    DOCUMENTS, follows, joins, refused, says, watcher, watcher_in, with, world, writer,
};
use crate::harness::{
    client::{Client, Frame, PATIENCE},
    present::Watcher,
    token,
    world::subscribe,
};

/// One document in two organizations has two rooms; nobody is told of the other's, whatever he asks.
#[tokio::test]
async fn presence_never_crosses_organizations() {
    let world = world(&[]).await;
    let mut ada = watcher(&world, "ada").await;
    let mut other = watcher_in(&world, "olga", "org_2").await;
    let mut bert = writer(&world, "bert").await;
    joins(&mut bert, "Bert").await;
    joins(&mut other.client, "Olga").await;
    ada.until_there(&["bert"]).await;
    other.until_there(&["olga"]).await;
    for action in ["join", "list"] {
        let frame = json!({ "type": "presence", "channel": "document:7", "action": action, "organizationId": "org_1" });
        assert_eq!(refused(&mut other.client, frame).await, "not_subscribed");
    }
    let seen = other.client.seen.iter();
    assert!(seen.clone().all(|frame| !frame.text.contains("bert")));
    assert_eq!(ada.list.counts, (1, 1));
}

/// A member leaves where his membership ends in the log, and is told nothing behind it; so does one who is taken
/// off the channel, or whose token ends.
#[tokio::test]
async fn c09_members_leave_with_their_rights() {
    let world = with(
        "SELECT rowcast.define_channel('document:*', 'role', roles => '{writer}', presence => true);",
        &[],
    )
    .await;
    let mut ada = world.member_with_role("ada", "org_1", "writer").await;
    follows(&mut ada, json!(true)).await;
    let mut ada = Watcher::new(ada);
    let mut bert = world.member_with_role("bert", "org_1", "writer").await;
    follows(&mut bert, json!(true)).await;
    joins(&mut bert, "Bert").await;
    ada.until_there(&["bert"]).await;
    world
        .exec("UPDATE rowcast.memberships SET role = 'reader' WHERE user_id = 'bert'")
        .await;
    ada.until_there(&[]).await;
    let off = bert
        .until("the end", |frame| frame.is("unsubscribed"))
        .await;
    assert_eq!(off.text_of("reason"), "not_admitted");
    joins(&mut ada.client, "Ada").await;
    ada.until_there(&["ada"]).await;
    assert_eq!(follows(&mut bert, json!(true)).await, "channel_forbidden");
    let about_ada = |frame: &&Frame| frame.text.contains("\"ada\"");
    assert_eq!(bert.seen.iter().filter(about_ada).count(), 0);

    world
        .exec("SELECT rowcast.revoke('document:7', reason => 'moved', organization => 'org_1')")
        .await;
    ada.client
        .until("the end", |frame| frame.is("unsubscribed"))
        .await;
    follows(&mut ada.client, json!(true)).await;
    ada.until("nobody", |list| list.counts == (0, 0)).await;

    world.add_member("carl", "org_1", "writer").await;
    drop(world.login("carl", "org_1").await);
    let short = token::sign(&json!({ "sub": "carl", "exp": token::now() + 3 }));
    let mut carl = Client::login(world.server.public, &short, "org_1").await;
    follows(&mut carl, json!(false)).await;
    joins(&mut carl, "Carl").await;
    ada.until_there(&["carl"]).await;
    assert_eq!(carl.until_closed().await.0, 4502);
    ada.until_there(&[]).await;
}

/// The rule is followed live: where it says no, nobody is there, and whoever was is told.
#[tokio::test]
async fn x26_the_rule_says_which_channels_have_members() {
    let world = with(
        "SELECT rowcast.define_channel('document:*', 'public', presence => true);
         SELECT rowcast.define_channel('room:*', 'public');",
        &[],
    )
    .await;
    let mut ada = watcher(&world, "ada").await;
    joins(&mut ada.client, "Ada").await;
    ada.until_there(&["ada"]).await;
    world
        .exec("SELECT rowcast.define_channel('document:*', 'public')")
        .await;
    let off = ada
        .client
        .until("the end", |frame| frame.text_of("action") == "off")
        .await;
    assert_eq!(off.text_of("reason"), "channel_rule_changed");
    assert_eq!(
        says(&mut ada.client, "join", json!({})).await["name"],
        "presence_off"
    );
    for channel in ["room:1", "org:org_1", "user:ada", "tenant:org_1:orders"] {
        let wanted = subscribe(channel, json!({ "presence": true }));
        assert_eq!(
            refused(&mut ada.client, wanted).await,
            "presence_off",
            "{channel}"
        );
    }
    // The subscription goes on without it.
    world
        .exec("SELECT rowcast.send('document:7', 'saved', organization => 'org_1')")
        .await;
    ada.client
        .until("the broadcast", |frame| frame.is("broadcast"))
        .await;
    world.exec(DOCUMENTS).await;
    crate::harness::until("the rule is known", async || {
        follows(&mut ada.client, json!(true)).await == "subscribed"
    })
    .await;
}

/// The channels that are there without a rule have members where the configuration says so.
#[tokio::test]
async fn x26_organizations_and_users_by_configuration() {
    let env = [
        ("ROWCAST__PRESENCE__ORGANIZATIONS", "true"),
        ("ROWCAST__PRESENCE__USERS", "true"),
    ];
    let world = world(&env).await;
    for channel in ["org:org_1", "user:ada"] {
        let mut ada = match channel {
            "org:org_1" => world.member("ada", "org_1").await,
            _ => world.login("ada", "org_1").await,
        };
        ada.ask(subscribe(channel, json!({ "presence": true })))
            .await;
        ada.ask(json!({ "type": "presence", "channel": channel, "action": "join" }))
            .await;
        let mut ada = Watcher::new(ada);
        ada.until_there(&["ada"]).await;
    }
}

/// What a client says of itself is bounded, and nobody says anything without having said who he is.
#[tokio::test]
async fn x26_what_is_too_much_is_refused() {
    let env = [
        ("ROWCAST__PRESENCE__STATE_BYTES", "100"),
        ("ROWCAST__PRESENCE__MEMBERS", "3"),
        ("ROWCAST__PRESENCE__CONNECTIONS_PER_USER", "2"),
    ];
    let world = world(&env).await;
    let mut ada = writer(&world, "ada").await;
    let large = says(&mut ada, "join", json!({ "text": "x".repeat(100) })).await;
    assert_eq!(
        (&large["code"], &large["name"]),
        (&json!(342), &json!("state_too_large"))
    );
    let mut deep = json!(1);
    for _ in 0..9 {
        deep = json!({ "a": deep });
    }
    for state in [json!([]), json!("x"), deep] {
        assert_eq!(says(&mut ada, "join", state).await["name"], "invalid_field");
    }
    joins(&mut ada, "Ada").await;
    let mut more = Vec::new();
    for (user, expected) in [
        ("ada", "join"),
        ("ada", "presence_full"),
        ("bert", "join"),
        ("carl", "presence_full"),
    ] {
        let mut client = match user {
            "ada" => world.login(user, "org_1").await,
            _ => world.member(user, "org_1").await,
        };
        follows(&mut client, json!(false)).await;
        let reply = says(&mut client, "join", json!({})).await;
        let field = if reply["type"] == "error" {
            "name"
        } else {
            "action"
        };
        assert_eq!(reply[field], expected, "{user}");
        more.push(client);
    }
    let refusals = world
        .server
        .metric("presence_refusals_total{error=\"presence_full\"}")
        .await;
    assert_eq!(refusals, 2.0);
    let mut nobody = Client::open(world.server.public).await;
    nobody
        .send(json!({ "type": "presence", "channel": "document:7", "action": "join" }))
        .await;
    let error = nobody.next(PATIENCE).await.unwrap();
    assert_eq!(error.text_of("name"), "auth_required");
}

/// X12: a function writes a row of presence and tells the room, when somebody comes and when he leaves; for the
/// first of his connections, and the last, and never because a client says so.
#[tokio::test]
async fn x12_functions_are_told_who_comes_and_who_leaves() {
    let world = super::client_events::with(
        r#"CREATE TABLE app.presence (user_id text, room_id int, joined_at timestamptz, PRIMARY KEY (user_id, room_id));
           CREATE FUNCTION app.came(input jsonb, channel text, arguments jsonb, caller jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
           BEGIN
               INSERT INTO app.presence VALUES (caller ->> 'userId', (arguments ->> 'id')::int, now());
               PERFORM rowcast.send(channel, 'user_joined', jsonb_build_object('user_id', caller ->> 'userId', 'name', input #> '{state,name}'));
               RETURN NULL;
           END $$;
           CREATE FUNCTION app.left(input jsonb, channel text, arguments jsonb, caller jsonb) RETURNS jsonb LANGUAGE plpgsql AS $$
           BEGIN
               DELETE FROM app.presence WHERE user_id = caller ->> 'userId' AND room_id = (arguments ->> 'id')::int;
               PERFORM rowcast.send(channel, 'user_left', jsonb_build_object('user_id', caller ->> 'userId'));
               RETURN NULL;
           END $$;
           SELECT rowcast.define_channel('room:{id}', 'public', parameters => '{"id": "int"}', presence => true);
           SELECT rowcast.define_client_event('room:*', 'presence.join', handler => 'app.came');
           SELECT rowcast.define_client_event('room:*', 'presence.leave', handler => 'app.left');"#,
        &[],
    )
    .await;
    let mut ada = world.member("ada", "org_1").await;
    ada.ask(subscribe("room:7", json!({}))).await;
    let mut sockets = Vec::new();
    for at in 0..2 {
        let mut bert = match at {
            0 => world.member("bert", "org_1").await,
            _ => world.login("bert", "org_1").await,
        };
        bert.ask(subscribe("room:7", json!({}))).await;
        let join = json!({ "type": "presence", "channel": "room:7", "action": "join", "state": { "name": "Bert" } });
        bert.ask(join).await;
        sockets.push(bert);
    }
    let said = ada.until("he came", |frame| frame.is("broadcast")).await;
    assert_eq!(
        (said.text_of("event"), &said.json["payload"]),
        ("user_joined", &json!({ "user_id": "bert", "name": "Bert" }))
    );
    assert_eq!(
        world
            .sql
            .text("SELECT user_id || room_id FROM app.presence")
            .await,
        "bert7"
    );
    for name in ["presence.join", "presence.leave"] {
        let event = json!({ "type": "event", "channel": "room:7", "event": name, "data": {} });
        assert_eq!(refused(&mut ada, event).await, "unknown_event");
    }
    for mut bert in sockets {
        bert.send_message(Message::Close(None)).await;
        bert.until_closed_any().await;
    }
    let said = ada.until("he left", |frame| frame.is("broadcast")).await;
    assert_eq!(
        (said.text_of("event"), &said.json["payload"]),
        ("user_left", &json!({ "user_id": "bert" }))
    );
    assert_eq!(
        world
            .sql
            .text("SELECT count(*)::text FROM app.presence")
            .await,
        "0"
    );
    for wrong in [
        "SELECT rowcast.define_client_event('room:*', 'presence.join', relay => 'x')",
        "SELECT rowcast.define_client_event('room:*', 'presence.jion', handler => 'app.came')",
    ] {
        assert!(world.sql.execute(wrong, &[]).await.is_err(), "{wrong}");
    }
}
