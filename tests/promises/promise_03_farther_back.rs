//! Promise 3, farther back: who comes back from before the past in memory is told which records changed,
//! as long as `realtime_table_events` keeps them, and nobody learns of records that he may not see.

use serde_json::json;

use crate::harness::{
    client::{Client, Frame, PATIENCE},
    fixture::{PROJECT_1, TRACK},
    server::Server,
    token,
    world::{World, subscribe},
};

/// Hardly any past in memory, and places in the log noted all the time.
const FORGETFUL: [(&str, &str); 2] = [
    ("ROWCAST__HISTORY__ORGANIZATION_BYTES", "1 KiB"),
    ("ROWCAST__HISTORY__INVALIDATIONS_INTERVAL", "100 ms"),
];

/// Tables of every kind, besides those of the example.
const MORE: &str = "
CREATE TABLE salaries (id int PRIMARY KEY, organization_id text, amount int);
CREATE TABLE masses (id int PRIMARY KEY, organization_id text);
CREATE TABLE logged (id int PRIMARY KEY, organization_id text);
CREATE TABLE emptied (id int PRIMARY KEY, organization_id text);
CREATE TABLE seeded (id int PRIMARY KEY, organization_id text);
CREATE TRIGGER trigger_notify_org_change AFTER INSERT OR UPDATE OR DELETE ON seeded
    FOR EACH ROW EXECUTE FUNCTION notify_organization_of_table_change();
SELECT rowcast.track('salaries', required_roles => '{admin}');
SELECT rowcast.track('masses', max_rows => 10);
SELECT rowcast.track('logged', storage => 'log');
SELECT rowcast.track('emptied');
INSERT INTO emptied VALUES (1, 'org_1');
INSERT INTO materials VALUES ('stays', 'org_1'), ('moves', 'org_1'), ('goes', 'org_1'), ('theirs', 'org_2');
";

struct Past {
    world: World,
    /// Knows how far the service is.
    watcher: Client,
}

impl Past {
    async fn start() -> Past {
        Past::with(&FORGETFUL).await
    }

    async fn with(env: &[(&str, &str)]) -> Past {
        let world = World::prepared(&format!("{TRACK}{MORE}"), env).await;
        let watcher = world.member("watcher", "org_1").await;
        let mut past = Past { world, watcher };
        past.note().await;
        past
    }

    async fn exec(&self, sql: &str) {
        self.world.exec(sql).await;
    }

    /// Waits until two more places in the log were noted.
    async fn note(&mut self) {
        let sql = &self.world.sql;
        let here = sql.text("SELECT pg_current_wal_insert_lsn()").await;
        // Where nothing is written, nothing is noted.
        let noted = format!(
            "SELECT count(*) >= 2 FROM rowcast.positions, pg_current_xact_id() WHERE lsn > '{here}'"
        );
        sql.until_true("places in the log are noted", &noted).await;
    }

    /// A cursor behind everything that was written so far.
    async fn cursor(&mut self) -> String {
        let fence = self.world.fence("org_1").await;
        self.watcher.until_fence(fence).await;
        let last = self.watcher.events().last().unwrap();
        last.text_of("cursor").to_owned()
    }

    /// Writes so much that the past in memory is another.
    async fn forget(&mut self) {
        for organization in ["org_1", "org_2"] {
            for _ in 0..15 {
                self.world.fence(organization).await;
            }
        }
        self.cursor().await;
    }

    /// Comes back; what is told of the past, as `table record operation`, sorted, or why nothing is.
    async fn back(&self, user: &str, organization: &str, cursor: &str) -> Vec<String> {
        let (client, frames) = self.come_back(user, organization, cursor).await;
        drop(client);
        said(&frames)
    }

    async fn come_back(
        &self,
        user: &str,
        organization: &str,
        cursor: &str,
    ) -> (Client, Vec<Frame>) {
        let mut client = Client::open(self.world.server.public).await;
        let auth = json!({ "type": "auth", "token": token::session(user),
            "organizationId": organization, "cursor": cursor });
        client.send(auth).await;
        let first = client.next(PATIENCE).await.unwrap();
        assert!(first.is("auth_success"), "{}", first.text);
        let channel = format!("org:{organization}");
        until_told(&mut client, &channel).await;
        let frames = client.seen.clone();
        (client, frames)
    }
}

async fn until_told(client: &mut Client, channel: &str) {
    client
        .until("the end of the past", |frame| {
            (frame.is("recovered") || frame.is("resync")) && frame.text_of("channel") == channel
        })
        .await;
}

fn said(frames: &[Frame]) -> Vec<String> {
    let mut said: Vec<String> = frames
        .iter()
        .filter(|frame| frame.text_of("channel").starts_with("org:"))
        .filter_map(|frame| match frame.text_of("type") {
            "resync" => Some(format!("resync {}", frame.text_of("reason"))),
            "invalidate" if frame.table() != "fences" => {
                let record = frame.json["recordId"].as_str().unwrap_or("-");
                Some(format!("{} {record} {}", frame.table(), frame.event_type()))
            }
            "postgres_changes" => panic!("a row before the past was told: {}", frame.text),
            _ => None,
        })
        .collect();
    said.sort();
    said
}

/// Every kind of change, told to everybody who may hear of it and to nobody else, and then the past in
/// memory and what is new.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_03_who_comes_back_from_far_behind_is_told_which_records_changed() {
    let mut past = Past::start().await;
    let world = &past.world;
    world.add_member("u1", "org_1", "member").await;
    world.add_member("boss", "org_1", "admin").await;
    world.add_member("other", "org_2", "member").await;
    past.exec(&format!(
        "INSERT INTO projects VALUES ('{PROJECT_1}', 'org_1', 'p'); INSERT INTO tasks VALUES (1, '{PROJECT_1}', 't')"
    ))
    .await;
    past.note().await;
    let cursor = past.cursor().await;
    past.exec(&format!(
        "INSERT INTO orders VALUES (1, 'org_1', 1), (2, 'org_1', 1), (3, 'org_2', 1);
         UPDATE orders SET total = 2 WHERE id = 1; UPDATE orders SET total = 3 WHERE id = 1;
         UPDATE materials SET title = 'new' WHERE id = 'stays';
         UPDATE materials SET organization_id = 'org_2' WHERE id = 'moves';
         DELETE FROM materials WHERE id = 'goes';
         INSERT INTO salaries VALUES (7, 'org_1', 100);
         INSERT INTO notifications VALUES (1, 'org_1', 'u1', 'yours'), (2, 'org_1', 'boss', 'his'), (3, 'org_1', NULL, '');
         INSERT INTO masses SELECT n, 'org_' || n % 2 + 1 FROM generate_series(1, 20) n;
         INSERT INTO logged VALUES (1, 'org_1');
         TRUNCATE emptied;
         INSERT INTO seeded VALUES (1, 'org_1');
         UPDATE projects SET organization_id = 'org_2' WHERE id = '{PROJECT_1}'"
    ))
    .await;
    past.exec("BEGIN; INSERT INTO orders VALUES (9, 'org_1', 1); ROLLBACK")
        .await;
    // Old rows are frozen now and then; their ids stay.
    past.exec("VACUUM (FREEZE) realtime_table_events").await;
    past.forget().await;
    let everybodys = [
        "emptied - TRUNCATE",
        "logged - UPDATE",
        "masses - INSERT",
        "materials goes DELETE",
        "materials moves DELETE",
        "materials stays UPDATE",
        "orders 1 UPDATE",
        "orders 2 INSERT",
    ];
    let project = format!("projects {PROJECT_1} DELETE");
    let with = |more: &[&str]| {
        let all = everybodys.iter().chain(more).map(|said| (*said).to_owned());
        let mut all: Vec<String> = all.chain([project.clone()]).collect();
        all.extend(["seeded 1 INSERT".into(), "tasks - UPDATE".into()]);
        // Of task_labels nothing is kept: the parent of their parent moved.
        all.push("task_labels - UPDATE".into());
        all.sort();
        all
    };
    assert_eq!(
        past.back("u1", "org_1", &cursor).await,
        with(&["notifications 1 INSERT"])
    );
    assert_eq!(
        past.back("boss", "org_1", &cursor).await,
        with(&["notifications 2 INSERT", "salaries 7 INSERT"])
    );
    let project = format!("projects {PROJECT_1} INSERT");
    let mut theirs = [
        "emptied - TRUNCATE",
        "logged - UPDATE",
        "masses - INSERT",
        "materials moves INSERT",
        "orders 3 INSERT",
        project.as_str(),
        "tasks - UPDATE",
        "task_labels - UPDATE",
    ];
    theirs.sort_unstable();
    assert_eq!(past.back("other", "org_2", &cursor).await, theirs);
    // A person's own channel, on a socket that is not on that of the organization.
    let mut own = Client::open(past.world.server.public).await;
    own.auth(&token::session("u1"), "org_1").await.unwrap();
    own.ask(json!({ "type": "unsubscribe", "channel": "org:org_1" }))
        .await;
    own.ask(subscribe("user:u1", json!({ "cursor": cursor })))
        .await;
    until_told(&mut own, "user:u1").await;
    let told: Vec<&Frame> = own.events().collect();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(
        (told[0].table(), told[0].text_of("recordId")),
        ("notifications", "1")
    );
    // From the last row that is known on, nothing is missing and nothing comes twice.
    let (mut client, frames) = past.come_back("u1", "org_1", &cursor).await;
    assert!(
        frames
            .iter()
            .filter(|frame| frame.is("invalidate"))
            .all(|frame| frame.text_of("cursor") == cursor)
    );
    let fence = past.world.fence("org_1").await;
    client.until_fence(fence).await;
    let rows = client
        .seen
        .iter()
        .filter(|frame| frame.table() == "fences" && frame.is("postgres_changes"));
    let rows: Vec<i64> = rows
        .map(|frame| frame.json["new"]["id"].as_i64().unwrap())
        .collect();
    assert!(
        rows.ends_with(&[fence - 1, fence]) && rows.is_sorted_by(|a, b| a < b),
        "{rows:?}"
    );
    // Whoever comes back with what he has now missed nothing.
    let (_, frames) = past.come_back_unharmed(&client).await;
    assert!(
        frames
            .iter()
            .all(|frame| !frame.is("resync") && !frame.is("recovered")),
        "{frames:?}"
    );
}

impl Past {
    /// Comes back with the last cursor that a client got.
    async fn come_back_unharmed(&self, client: &Client) -> (Client, Vec<Frame>) {
        let cursors = client
            .seen
            .iter()
            .rev()
            .map(|frame| frame.text_of("cursor"));
        let last = cursors
            .clone()
            .find(|cursor| !cursor.is_empty())
            .unwrap()
            .to_owned();
        let mut client = Client::open(self.world.server.public).await;
        let auth = json!({ "type": "auth", "token": token::session("u1"), "organizationId": "org_1", "cursor": last });
        client.send(auth).await;
        let fence = self.world.fence("org_1").await;
        client.until_fence(fence).await;
        let frames = client.seen.clone();
        (client, frames)
    }
}

/// A transaction that was running when the place was noted, with a part of its own inside.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_03_what_was_on_its_way_when_the_place_was_noted_is_told() {
    let mut past = Past::start().await;
    past.world.add_member("u1", "org_1", "member").await;
    let slow = past.world.database.connect().await;
    slow.exec(
        "BEGIN; INSERT INTO orders VALUES (1, 'org_1', 1);
         SAVEPOINT a; INSERT INTO orders VALUES (2, 'org_1', 1);
         SAVEPOINT b; INSERT INTO orders VALUES (3, 'org_1', 1); ROLLBACK TO b",
    )
    .await;
    // Ids of later transactions end before these do.
    for id in 10..20 {
        past.exec(&format!("INSERT INTO orders VALUES ({id}, 'org_1', 1)"))
            .await;
    }
    let slot = "SELECT count(*) > 0 FROM rowcast.positions p, pg_current_xact_id()
        WHERE p.at > now() - interval '1 second' AND p.lsn > (SELECT min(lsn) FROM rowcast.positions)";
    past.world.sql.until_true("a place is noted", slot).await;
    let cursor = past.cursor().await;
    slow.exec("SAVEPOINT c; INSERT INTO orders VALUES (4, 'org_1', 1); COMMIT")
        .await;
    past.forget().await;
    let told = past.back("u1", "org_1", &cursor).await;
    for id in [1, 2, 4] {
        assert!(told.contains(&format!("orders {id} INSERT")), "{told:?}");
    }
    assert!(!told.contains(&"orders 3 INSERT".to_owned()), "{told:?}");
}

/// The service was away, and the log of that time is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_03_a_service_that_was_away_tells_what_changed_meanwhile() {
    let mut past = Past::with(&FORGETFUL[1..]).await;
    past.world.add_member("u1", "org_1", "member").await;
    let cursor = past.cursor().await;
    past.world.server.kill();
    past.exec(
        "INSERT INTO orders VALUES (1, 'org_1', 1); INSERT INTO orders VALUES (2, 'org_2', 1)",
    )
    .await;
    let free = format!(
        "SELECT NOT active FROM pg_replication_slots WHERE slot_name = '{}'",
        past.world.database.slot()
    );
    past.world.sql.until_true("the slot is free", &free).await;
    past.exec(&format!(
        "SELECT pg_replication_slot_advance('{}', pg_current_wal_flush_lsn())",
        past.world.database.slot()
    ))
    .await;
    past.world.server = Server::start(&past.world.database, &FORGETFUL[1..]).await;
    past.exec("INSERT INTO orders VALUES (3, 'org_1', 1)").await;
    let (mut client, frames) = past.come_back("u1", "org_1", &cursor).await;
    let told = said(&frames);
    assert!(told.contains(&"orders 1 INSERT".to_owned()), "{told:?}");
    assert!(
        !told.iter().any(|said| said.starts_with("orders 2")),
        "{told:?}"
    );
    // What came after the log was lost is told as rows.
    let event = client.event("orders").await;
    assert_eq!(event.json["new"]["id"], 3);
}

/// Rules that changed: those of today count, and rows of before say no more than that the table changed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_03_rules_of_today_decide_who_is_told() {
    let mut past = Past::start().await;
    past.world.add_member("u1", "org_1", "member").await;
    past.world.add_member("boss", "org_1", "admin").await;
    let cursor = past.cursor().await;
    past.exec(
        "INSERT INTO orders VALUES (1, 'org_1', 1); INSERT INTO materials VALUES ('before', 'org_1');
         SELECT rowcast.track('orders', required_roles => '{admin}');
         SELECT rowcast.track('materials', storage => 'log');
         SELECT rowcast.track('materials')",
    )
    .await;
    past.exec("INSERT INTO orders VALUES (2, 'org_1', 1); INSERT INTO materials VALUES ('after', 'org_1')")
        .await;
    past.forget().await;
    let told = past.back("u1", "org_1", &cursor).await;
    let of = |told: &[String], table: &str| -> Vec<String> {
        told.iter()
            .filter(|said| said.starts_with(table))
            .cloned()
            .collect()
    };
    assert!(of(&told, "orders").is_empty(), "{told:?}");
    assert_eq!(
        of(&told, "materials"),
        ["materials - UPDATE", "materials after INSERT"]
    );
    let told = past.back("boss", "org_1", &cursor).await;
    assert_eq!(of(&told, "orders"), ["orders - UPDATE", "orders 2 INSERT"]);
    // Of rows whose rule is gone nobody knows who may hear of them.
    past.exec("SELECT rowcast.untrack('salaries')").await;
    let later = past.cursor().await;
    past.exec("INSERT INTO orders VALUES (3, 'org_1', 1)").await;
    past.forget().await;
    let told = past.back("boss", "org_1", &later).await;
    assert_eq!(of(&told, "orders"), ["orders 3 INSERT"]);
    past.exec("SELECT rowcast.track('salaries'); INSERT INTO salaries VALUES (1, 'org_1', 1); SELECT rowcast.untrack('salaries')").await;
    past.forget().await;
    assert_eq!(
        past.back("boss", "org_1", &cursor).await,
        ["resync too_old"]
    );
}

/// What is not kept cannot be told: removed rows, a cursor from before the first place, a table in parts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_03_what_is_not_kept_any_more_is_too_old() {
    let mut past = Past::start().await;
    past.world.add_member("u1", "org_1", "member").await;
    let cursor = past.cursor().await;
    past.exec("INSERT INTO orders VALUES (1, 'org_1', 1)").await;
    past.forget().await;
    let told = past.back("u1", "org_1", &cursor).await;
    assert!(told.contains(&"orders 1 INSERT".to_owned()), "{told:?}");
    let epoch = cursor.split_once('-').unwrap().0.to_owned();
    let forged = format!("{epoch}-1-z");
    assert_eq!(past.back("u1", "org_1", &forged).await, ["resync too_old"]);
    // Removed by hand, in a transaction that is undone and in one that is not.
    past.exec("BEGIN; DELETE FROM realtime_table_events; ROLLBACK")
        .await;
    past.forget().await;
    assert_eq!(past.back("u1", "org_1", &cursor).await, told);
    past.exec("DELETE FROM realtime_table_events WHERE table_name = 'orders'")
        .await;
    past.forget().await;
    assert_eq!(past.back("u1", "org_1", &cursor).await, ["resync too_old"]);
}

/// Too much for one answer, and nobody to answer at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_03_answers_are_bounded_and_can_be_switched_off() {
    let small = ("ROWCAST__HISTORY__INVALIDATIONS_BYTES", "256 KiB");
    let mut past = Past::with(&[FORGETFUL[0], FORGETFUL[1], small]).await;
    past.world.add_member("u1", "org_1", "member").await;
    past.world.add_member("other", "org_2", "member").await;
    let cursor = past.cursor().await;
    past.exec("INSERT INTO orders SELECT n, 'org_1', 1 FROM generate_series(1, 500) n; INSERT INTO orders VALUES (1000, 'org_2', 1)")
        .await;
    past.forget().await;
    assert_eq!(past.back("u1", "org_1", &cursor).await, ["resync too_old"]);
    let told = past.back("other", "org_2", &cursor).await;
    assert!(told.contains(&"orders 1000 INSERT".to_owned()), "{told:?}");
    past.world.server.kill();
    let more = [FORGETFUL[0], ("ROWCAST_HISTORY_INVALIDATIONS", "0 s")];
    past.world.server = Server::start(&past.world.database, &more).await;
    past.watcher = Client::login(
        past.world.server.public,
        &token::session("watcher"),
        "org_1",
    )
    .await;
    past.forget().await;
    assert_eq!(
        past.back("other", "org_2", &cursor).await,
        ["resync too_old"]
    );
}
