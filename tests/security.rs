//! What clients and their names may not do to the database: the classes of incidents that need one (docs/security.md
//! has the table).

use serde_json::{Value, json};

use crate::harness::{
    client::Client,
    fixture::TRACK,
    http::post,
    token,
    world::{World, subscribe},
};

/// Texts that would be something else if they were ever put into a statement.
const HOSTILE: [&str; 6] = [
    "'); DROP TABLE orders; --",
    "x' OR '1'='1",
    "\"; DELETE FROM rowcast.memberships; --",
    "$1; SELECT pg_sleep(100)",
    "a\\'; TRUNCATE orders; --",
    "{x},\"y\"); DROP SCHEMA rowcast CASCADE; --",
];

/// No text of a client, and no name in its rows, is ever part of a statement: names of organizations, users, channels,
/// tables, columns, events, filters, cursors.
#[tokio::test]
async fn no_text_of_a_client_becomes_sql() {
    let access = "a-token-of-servers-of-thirty-two-bytes";
    let world = World::prepared(
        &format!("{TRACK}; SELECT rowcast.define_channel('room:*', 'public', relay => true)"),
        &[("ACCESS_TOKEN", access)],
    )
    .await;
    world
        .exec("INSERT INTO orders VALUES (1, 'org_1', 1)")
        .await;
    for name in HOSTILE {
        // A member of an organization with such a name, himself with such a name, is served like everybody: the
        // question for his plan, and that for what he missed, carry it.
        world.add_member(name, name, name).await;
        let mut client = world.login(name, name).await;
        let reply = client
            .ask(subscribe(
                &format!("org:{name}"),
                json!({ "cursor": "00000001-1-z" }),
            ))
            .await;
        assert!(
            reply.is("subscribed") || reply.is("error"),
            "{}",
            reply.text
        );
        for frame in [
            subscribe(&format!("room:{name}"), json!({})),
            subscribe(&format!("tenant:{name}:{name}"), json!({})),
            subscribe(&format!("org:{name}"), json!({ "cursor": name })),
            subscribe(
                &format!("org:{name}"),
                json!({ "tables": [{ "schema": name, "table": name, "columns": [name],
                    "filter": { "column": name, "op": "eq", "value": name } }] }),
            ),
            subscribe(
                &format!("org:{name}"),
                json!({ "tables": [{ "table": "orders", "filter": { "column": "id", "op": name, "value": 1 } }] }),
            ),
            json!({ "type": "broadcast", "channel": "room:1", "event": name, "payload": { name: name } }),
            json!({ "type": "unsubscribe", "channel": format!("room:{name}"), "organizationId": name }),
        ] {
            let reply = client.ask(frame).await;
            assert_ne!(reply.text_of("name"), "internal", "{}", reply.text);
        }
        let body = json!({ "organizationId": name, "event": "e", "payload": name, "userId": name,
            "targetRoles": [name], "durable": true, "type": "broadcast" });
        let bearer = format!("Bearer {access}");
        let headers = [("authorization", bearer.as_str())];
        let answer = post(
            world.server.public,
            "/broadcast",
            &headers,
            &body.to_string(),
        )
        .await;
        assert!(answer.status < 500, "{}", answer.message());
        // His organization's rows reach him, under that name.
        let channel = format!("org:{name}");
        let reply = client.ask(subscribe(&channel, json!({}))).await;
        assert!(reply.is("subscribed"), "{}", reply.text);
        world
            .sql
            .execute(
                "INSERT INTO materials (id, organization_id, title) VALUES ($1, $1, $1)",
                &[&name],
            )
            .await
            .unwrap();
        let event = client.until("his row", |frame| {
            frame.is("postgres_changes") && frame.json["new"]["title"] == name
        });
        event.await;
    }
    let left =
        "SELECT (SELECT count(*) FROM orders) || ' ' || (SELECT count(*) FROM rowcast.memberships)";
    assert_eq!(world.sql.text(left).await, format!("1 {}", HOSTILE.len()));
    let log = world.server.log();
    assert!(!log.contains("syntax error"), "{log}");
}

/// A membership, a role, a token and a key that end, end on every socket that is open: nothing that was committed
/// after it arrives, and what the rest may see goes on.
#[tokio::test]
async fn whatever_ends_ends_on_open_sockets() {
    let world = World::start().await;
    let mut member = world.member("anna", "org_1").await;
    let key = world.api_key("org_1").await;
    world.events_so_far(&mut member, "org_1").await;
    let mut machine = Client::login(world.server.public, &key, "org_1").await;
    let mut other = world.member("bert", "org_1").await;
    let short = token::sign(&json!({ "sub": "bert", "exp": token::now() - 27 }));
    let mut expiring = Client::login(world.server.public, &short, "org_1").await;
    world
        .exec(
            "BEGIN;
             DELETE FROM rowcast.memberships WHERE user_id = 'anna';
             SELECT rowcast.revoke_api_key(id) FROM rowcast.api_keys;
             INSERT INTO orders VALUES (7, 'org_1', 7);
             COMMIT",
        )
        .await;
    assert_eq!(other.event("orders").await.json["new"]["id"], 7);
    assert_eq!(machine.until_closed().await.0, 4503);
    let ended = member.until("the end", |frame| frame.is("unsubscribed"));
    assert_eq!(ended.await.text_of("channel"), "org:org_1");
    assert!(member.ask(json!({ "type": "ping" })).await.is("pong"));
    assert_eq!(expiring.until_closed().await.0, 4502);
    for (who, client) in [("member", &member), ("machine", &machine)] {
        let seen: Vec<&Value> = client.events().map(|event| &event.json).collect();
        let seen = seen.iter().filter(|event| event["table"] == "orders");
        assert_eq!(seen.count(), 0, "{who}");
    }
    let mut again = Client::open(world.server.public).await;
    let reply = again.auth(&token::session("anna"), "org_1").await.unwrap();
    assert_eq!(reply.text_of("name"), "not_member");
}
