//! The commands of the program beside `serve`, as a user runs them.

use std::{
    io::{BufRead, BufReader},
    process::Stdio,
};

use serde_json::Value;

use crate::harness::{
    fixture::TRACK,
    postgres::Database,
    server::{command, run},
    token,
    world::{World, migrate},
};

/// Migrations can be applied again and again, and printed for other tools.
#[tokio::test]
async fn migrate_is_idempotent_and_prints() {
    let database = Database::fresh().await;
    migrate(&database).await;
    migrate(&database).await;
    let printed = run(&["migrate", "--print"], &[]).await;
    assert_eq!(printed.code, Some(0), "{}", printed.said);
    let sql = database.connect().await;
    sql.exec(&printed.said).await;
    let tracked = sql.text("SELECT count(*) FROM rowcast.tables").await;
    assert_eq!(tracked, "0");
}

/// `tail` prints what a subscriber gets, through the real protocol, with a token that `token` made.
#[tokio::test]
async fn tail_prints_live_events() {
    let world = World::start().await;
    drop(world.member("u1", "org_1").await);
    let made = run(&["token", "--user", "u1"], &[("JWT_SECRET", token::SECRET)]).await;
    assert_eq!(made.code, Some(0), "{}", made.said);
    let url = format!("http://{}", world.server.public);
    let mut child = command(
        &["tail", "org:org_1", "--json", "--url", &url],
        &[("ROWCAST_TOKEN", made.said.trim())],
    )
    .stdout(Stdio::piped())
    .stderr(Stdio::null())
    .spawn()
    .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (found, mut came) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let _ = found.send(line);
        }
    });
    // It prints nothing of before it came: write until it is there.
    let mut n = 0;
    crate::harness::until("tail prints an event", async || {
        n += 1;
        world
            .exec(&format!("INSERT INTO orders VALUES ({n}, 'org_1', 1)"))
            .await;
        std::iter::from_fn(|| came.try_recv().ok()).any(|line| {
            serde_json::from_str::<Value>(&line)
                .is_ok_and(|frame| frame["table"] == "orders" && frame["eventType"] == "INSERT")
        })
    })
    .await;
    child.kill().unwrap();
    child.wait().unwrap();
}

/// `doctor` finds nothing where all is well, and says what mends it where it is not.
#[tokio::test]
async fn doctor_says_what_is_wrong_and_what_mends_it() {
    let database = Database::fresh().await;
    let url = [
        ("DATABASE_URL", database.url.as_str()),
        ("JWT_SECRET", token::SECRET),
    ];
    let before = run(&["doctor"], &url).await;
    assert_ne!(before.code, Some(0), "{}", before.said);
    assert!(before.said.contains("rowcast migrate"), "{}", before.said);

    let world = World::prepared(TRACK, &[]).await;
    let slot = world.database.slot();
    let env = [
        ("DATABASE_URL", world.database.url.as_str()),
        ("JWT_SECRET", token::SECRET),
        ("ROWCAST_SLOT", slot.as_str()),
    ];
    world.add_member("u1", "org_1", "member").await;
    let well = run(&["doctor"], &env).await;
    assert_eq!(well.code, Some(0), "{}", well.said);
    world
        .exec(
            "ALTER TABLE orders DISABLE TRIGGER USER;
             INSERT INTO projects (organization_id) VALUES (NULL)",
        )
        .await;
    let ill = run(&["doctor"], &env).await;
    assert!(
        ill.said.contains("orders") && ill.said.contains("TRIGGER"),
        "{}",
        ill.said
    );
    assert!(ill.said.contains("projects"), "{}", ill.said);
}

/// `config` hides secrets, `healthcheck` asks the running service.
#[tokio::test]
async fn config_and_healthcheck() {
    let shown = run(&["config"], &[("JWT_SECRET", token::SECRET)]).await;
    assert_eq!(shown.code, Some(0), "{}", shown.said);
    assert!(!shown.said.contains(token::SECRET), "{}", shown.said);
    let world = World::start().await;
    let url = format!("http://{}", world.server.public);
    let well = run(&["healthcheck", "--url", &url], &[]).await;
    assert_eq!(well.code, Some(0), "{}", well.said);
    drop(world);
    let gone = run(&["healthcheck", "--url", &url], &[]).await;
    assert_ne!(gone.code, Some(0), "{}", gone.said);
}
