//! What is wrong from outside: each a clear error with its code and what mends it, and none harms
//! another socket. Tokens and frames in depth are tested next to the gateway; here a few go through
//! the whole service.

use std::time::Duration;

use rowcast_embedded::{Cluster, Options};
use serde_json::json;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{
    client::{Client, End, PATIENCE},
    postgres::{self, Database},
    server::{self, Server},
    token,
    world::{World, migrate},
};

/// Runs `rowcast serve` where it cannot work; it has to end by itself, or say why it waits.
async fn serve_fails(database: &Database, more: &[(&str, &str)]) -> String {
    let env = Server::env(database);
    let mut env: Vec<(&str, &str)> = env
        .iter()
        .map(|(name, value)| (&**name, &**value))
        .collect();
    for pair in more {
        env.retain(|(name, _)| name != &pair.0);
        env.push(*pair);
    }
    let done = server::run(&["serve"], &env).await;
    assert_ne!(done.code, Some(0), "{}", done.said);
    assert!(done.code.is_some(), "it ended by a signal: {}", done.said);
    assert!(!done.said.contains("panicked"), "{}", done.said);
    done.said
}

fn says(said: &str, words: &[&str]) {
    for word in words {
        assert!(said.contains(word), "expected `{word}` in:\n{said}");
    }
}

#[tokio::test]
async fn a_wrong_password() {
    let options = Options {
        major: postgres::major(),
        password: Some("right".into()),
        ..Options::default()
    };
    let cluster = Cluster::start(options).unwrap();
    let database = Database::fresh_in(&cluster).await;
    migrate(&database).await;
    let wrong = cluster.url_as("postgres", Some("wrong-word"), &database.name);
    let said = serve_fails(&database, &[("DATABASE_URL", &wrong)]).await;
    says(&said, &["password"]);
    assert!(
        !said.contains("wrong-word"),
        "a password does not belong into a log:\n{said}"
    );
}

#[tokio::test]
async fn wal_level_not_logical() {
    let cluster = postgres::own_cluster(&[("wal_level", "replica")]);
    let database = Database::fresh_in(&cluster).await;
    migrate(&database).await;
    let said = serve_fails(&database, &[]).await;
    says(&said, &["wal_level", "logical"]);
}

/// A second service on the same slot does not take it away from the first, and says who has it.
#[tokio::test]
async fn a_slot_in_use() {
    let world = World::start().await;
    let mut client = world.member("u1", "org_1").await;
    let mut second = Server::launch_any(&world.database, &[]);
    crate::harness::until_or(
        "the second service says so",
        || second.log(),
        async || {
            second.log().contains(&world.database.slot())
                && second.log().contains("slot")
                && (second.log().contains("in use") || second.log().contains("active"))
        },
    )
    .await;
    world
        .exec("INSERT INTO orders VALUES (1, 'org_1', 1)")
        .await;
    client.event("orders").await;
    assert!(!second.is_ready().await);
    second.kill();
}

#[tokio::test]
async fn missing_tables_and_missing_privileges() {
    let database = Database::fresh().await;
    let said = serve_fails(&database, &[]).await;
    says(&said, &["rowcast migrate"]);

    migrate(&database).await;
    let sql = database.connect().await;
    let role = format!("poor_{}_{}", database.name, std::process::id());
    sql.exec(&format!("CREATE ROLE {role} LOGIN")).await;
    let url = database
        .url
        .replace("postgres://postgres@", &format!("postgres://{role}@"));
    let said = serve_fails(&database, &[("DATABASE_URL", &url)]).await;
    says(&said, &[&role]);
    assert!(
        said.contains("permission")
            || said.contains("privilege")
            || said.contains("GRANT")
            || said.contains("REPLICATION"),
        "{said}"
    );
    sql.exec(&format!("DROP ROLE {role}")).await;
}

#[tokio::test]
async fn an_unreachable_or_nonsensical_database() {
    let database = Database::fresh().await;
    let said = serve_fails(&database, &[("DATABASE_URL", "not an address")]).await;
    says(&said, &["database"]);
}

#[tokio::test]
async fn unknown_configuration_keys_and_missing_secrets() {
    let database = Database::fresh().await;
    let said = serve_fails(&database, &[("ROWCAST__REPLICATION__SLOTT", "x")]).await;
    says(&said, &["ROWCAST__REPLICATION__SLOTT", "replication.slot"]);
    let said = serve_fails(&database, &[("PORT", "many")]).await;
    says(&said, &["PORT"]);
    let said = serve_fails(&database, &[("JWT_SECRET", "")]).await;
    says(&said, &["JWT_SECRET"]);
    let said = serve_fails(&database, &[("JWT_SECRET", "short")]).await;
    says(&said, &["32"]);
    assert!(!said.contains("short\n"), "{said}");
}

/// Tokens that must not open anything, each with its own answer and a close that says not to come back.
#[tokio::test]
async fn bad_tokens() {
    let world = World::start().await;
    let mut healthy = world.member("u1", "org_1").await;
    let now = token::now();
    let cases = [
        (token::unsigned("u1"), "token_invalid"),
        (
            token::sign_with(
                &json!({ "sub": "u1", "exp": now + 60 }),
                "another key of thirty-two bytes at least",
            ),
            "token_invalid",
        ),
        (
            token::sign(&json!({ "sub": "u1", "exp": now - 3600 })),
            "token_expired",
        ),
        (
            token::sign(&json!({ "sub": "u1", "exp": now + 7200, "nbf": now + 3600 })),
            "token_not_yet_valid",
        ),
        (token::sign(&json!({ "exp": now + 60 })), "token_invalid"),
        ("nonsense".to_owned(), "token_invalid"),
        (String::new(), "token_invalid"),
        ("rk_unknown_secret".to_owned(), "token_invalid"),
    ];
    for (token, name) in cases {
        let mut client = Client::open(world.server.public).await;
        let reply = client.auth(&token, "org_1").await.unwrap();
        assert_eq!(reply.json["name"], name, "{token}: {}", reply.text);
        let (code, _) = client.until_closed().await;
        assert!((4500..5000).contains(&code), "{code}");
    }
    world
        .exec("INSERT INTO orders VALUES (1, 'org_1', 1)")
        .await;
    healthy.event("orders").await;
}

/// A socket that has got all that follows its login by itself.
async fn settled(world: &World) -> Client {
    let mut client = world.login("u1", "org_1").await;
    let reply = client.ask(json!({ "type": "ping" })).await;
    assert!(reply.is("pong"), "{}", reply.text);
    client
}

/// Frames that nobody should send: answered or closed with a code, and no harm to others.
#[tokio::test]
async fn bad_frames() {
    let world = World::start().await;
    let mut healthy = world.member("u1", "org_1").await;
    let deep = format!("{}{}", "[".repeat(5000), "]".repeat(5000));
    for text in [
        "",
        "{",
        "[]",
        "null",
        "{\"type\":7}",
        "{\"type\":\"unheard of\"}",
        &deep,
        "{\"type\":\"subscribe\"}",
    ] {
        let mut client = settled(&world).await;
        client.send_text(text).await;
        match client.next(PATIENCE).await {
            Ok(frame) => assert!(
                frame.is("error") && frame.json["code"].is_u64(),
                "{}",
                frame.text
            ),
            Err(End::Closed(code, _)) => assert!((4500..5000).contains(&code), "{code}"),
            Err(other) => panic!("{text:.40}: {other:?}"),
        }
    }
    let mut client = settled(&world).await;
    client.send_message(Message::binary(vec![0_u8, 255])).await;
    match client.next(PATIENCE).await {
        Ok(frame) => assert_eq!(frame.json["name"], "binary_frame", "{}", frame.text),
        Err(End::Closed(code, _)) => assert!(code >= 4500 || code == 1003, "{code}"),
        Err(other) => panic!("{other:?}"),
    }
    let mut client = world.login("u1", "org_1").await;
    client.send_text(&"x".repeat(1_000_000)).await;
    match client.until_closed_any().await {
        End::Closed(code, _) => assert_eq!(code, 4506),
        // The service need not read a megabyte to answer; then the connection is cut.
        End::Broken(_) => {}
        End::Silent => panic!("the oversized frame was swallowed"),
    }
    world
        .exec("INSERT INTO orders VALUES (1, 'org_1', 1)")
        .await;
    healthy.event("orders").await;
}

/// Who says nothing is closed when the time for it is over; who sends garbage instead of HTTP is too.
#[tokio::test]
async fn silence_after_connecting() {
    let env = [("ROWCAST__LIMITS__AUTH_TIMEOUT", "1 s")];
    let world = World::prepared(crate::harness::fixture::TRACK, &env).await;
    let mut healthy = world.member("u1", "org_1").await;
    let mut silent = Client::open(world.server.public).await;
    let (code, _) = silent.until_closed().await;
    assert_eq!(code, 4500);
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut raw = tokio::net::TcpStream::connect(world.server.public)
        .await
        .unwrap();
    raw.write_all(b"\x16\x03\x01 this is no HTTP\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), raw.read_to_end(&mut answer)).await;
    assert!(read.is_ok(), "garbage keeps a connection open");
    world
        .exec("INSERT INTO orders VALUES (1, 'org_1', 1)")
        .await;
    healthy.event("orders").await;
}
