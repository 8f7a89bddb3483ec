//! Applications that write: random transactions, on and on, whatever happens to Postgres.

use std::{sync::Arc, time::Duration};

use tokio::sync::RwLock;
use tokio_postgres::{Error, error::SqlState};

use super::{
    app::{Database, ORGANIZATIONS},
    tally::Tally,
};
use crate::harness::rng::Rng;

/// Keys that the writers fight for.
const ITEMS: usize = 40;
const NOTES: usize = 60;
const ALERTS: usize = 30;
const USERS: [&str; 3] = ["u1", "u2", "u3"];

/// Writes until the task is ended; holds `turn` while a transaction is open.
pub async fn write(
    number: usize,
    url: String,
    turn: Arc<RwLock<()>>,
    tally: Arc<Tally>,
    mut rng: Rng,
) {
    let mut sql = Database::new(&url);
    let mut count = 0;
    loop {
        let guard = turn.read().await;
        count += 1;
        let statements = transaction(&mut rng, number, count);
        let mut failed = None;
        for statement in &statements {
            if let Err(error) = sql.exec(statement).await {
                failed = Some((error, statement));
                break;
            }
        }
        match failed {
            None => tally.count("transactions"),
            Some((error, statement)) => {
                tally.count("transactions that failed");
                if !expected(&error) {
                    tally.complain(format!("a write failed: {error:?} in {statement:.300}"));
                }
                // Gone connections are made anew, others are used again.
                let _ = sql.exec("ROLLBACK").await;
            }
        }
        drop(guard);
        tokio::time::sleep(Duration::from_millis(5 + rng.below(40) as u64)).await;
    }
}

/// Conflicts between writers, and a Postgres that goes down.
fn expected(error: &Error) -> bool {
    let Some(state) = error.code() else {
        return true;
    };
    let class = &state.code()[..2];
    ["08", "57", "40", "55"].contains(&class)
        || [
            SqlState::FOREIGN_KEY_VIOLATION,
            SqlState::UNIQUE_VIOLATION,
            SqlState::IN_FAILED_SQL_TRANSACTION,
        ]
        .contains(state)
}

fn transaction(rng: &mut Rng, writer: usize, count: u64) -> Vec<String> {
    let organization = *rng.pick(&ORGANIZATIONS);
    let entry =
        format!("INSERT INTO ledger VALUES ('w{writer}-{count}', '{organization}', 'small')");
    if rng.chance(30) {
        return vec![statement(rng), entry];
    }
    let mut all = vec!["BEGIN".to_owned(), entry];
    for _ in 0..1 + rng.below(4) {
        if rng.chance(25) {
            all.push("SAVEPOINT s".into());
            all.push(statement(rng));
            all.push(statement(rng));
            let end = if rng.chance(60) {
                "ROLLBACK TO SAVEPOINT s"
            } else {
                "RELEASE SAVEPOINT s"
            };
            all.push(end.into());
        } else {
            all.push(statement(rng));
        }
    }
    if rng.chance(30) {
        let other = *rng.pick(&ORGANIZATIONS);
        all.push(format!(
            "INSERT INTO ledger VALUES ('w{writer}-{count}b', '{other}', 'small')"
        ));
    }
    all.push(if rng.chance(8) { "ROLLBACK" } else { "COMMIT" }.into());
    all
}

fn statement(rng: &mut Rng) -> String {
    let (item, note, alert) = (rng.below(ITEMS), rng.below(NOTES), rng.below(ALERTS));
    let organization = *rng.pick(&ORGANIZATIONS);
    let user = *rng.pick(&USERS);
    let status = *rng.pick(&["open", "done", "late"]);
    let n = rng.below(1000);
    let body = body(rng);
    match rng.below(100) {
        // One round trip is one transaction or a part of one: the row is locked before its owner changes.
        0..18 => format!(
            "INSERT INTO items VALUES ('i{item}', '{organization}', '[{organization}] {n}', '{status}', {n}, {body}) ON CONFLICT (id) DO UPDATE SET n = EXCLUDED.n, status = EXCLUDED.status"
        ),
        18..34 => format!("UPDATE items SET n = n + 1, status = '{status}' WHERE id = 'i{item}'"),
        34..38 => format!("UPDATE items SET body = {body} WHERE id = 'i{item}'"),
        38..46 => format!(
            "SELECT 1 FROM items WHERE id IN ('i{item}', 'i{n}') ORDER BY id FOR UPDATE;
             UPDATE items SET organization_id = '{organization}', title = '[{organization}] moved' WHERE id IN ('i{item}', 'i{n}')"
        ),
        46..50 => format!("DELETE FROM items WHERE id = 'i{item}'"),
        50..53 => format!("UPDATE items SET n = n + 1 WHERE n % 7 = {}", n % 7),
        53..56 => format!(
            "INSERT INTO items SELECT 'i' || g, o, '[' || o || '] many', '{status}', g, 'b'
             FROM (SELECT g, (ARRAY['org_a', 'org_b', 'org_c'])[1 + g % 3] AS o FROM generate_series({item}, {}) g) s ON CONFLICT DO NOTHING",
            (item + 8).min(ITEMS)
        ),
        56..68 => format!(
            "SELECT 1 FROM items WHERE id = 'i{item}' FOR SHARE;
             INSERT INTO notes SELECT 'n{note}', id, 'words {n}', {body} FROM items WHERE id = 'i{item}' ON CONFLICT DO NOTHING"
        ),
        68..76 => format!("{}; UPDATE notes SET words = 'words {n}' WHERE id = 'n{note}'", locks(note)),
        76..79 => format!(
            "{}; SELECT 1 FROM items WHERE id = 'i{item}' FOR SHARE;
             UPDATE notes SET item_id = 'i{item}' WHERE id = 'n{note}' AND EXISTS (SELECT FROM items WHERE id = 'i{item}')",
            locks(note)
        ),
        79..83 => format!("{}; DELETE FROM notes WHERE id = 'n{note}'", locks(note)),
        83..91 => format!(
            "INSERT INTO alerts VALUES ('a{alert}', '{organization}', '{user}', 'for {user}', {n}) ON CONFLICT (id) DO UPDATE SET n = EXCLUDED.n"
        ),
        91..94 => format!("UPDATE alerts SET user_id = '{user}' WHERE id = 'a{alert}'"),
        94..96 => format!("UPDATE alerts SET organization_id = '{organization}' WHERE id = 'a{alert}'"),
        96..98 => format!("DELETE FROM alerts WHERE id = 'a{alert}'"),
        98 => format!("UPDATE items SET id = 'i{n}x' WHERE id = 'i{item}' AND NOT EXISTS (SELECT FROM notes WHERE item_id = 'i{item}') AND NOT EXISTS (SELECT FROM items WHERE id = 'i{n}x')"),
        _ => "DELETE FROM items WHERE id LIKE '%x'".into(),
    }
}

/// A note and the item it hangs below stay where they are.
fn locks(note: usize) -> String {
    format!(
        "SELECT 1 FROM notes WHERE id = 'n{note}' FOR UPDATE;
         SELECT 1 FROM items WHERE id = (SELECT item_id FROM notes WHERE id = 'n{note}') FOR SHARE"
    )
}

/// Small, or so large that it is stored apart.
fn body(rng: &mut Rng) -> String {
    let salt = rng.next();
    match rng.chance(30) {
        true => {
            format!("(SELECT string_agg(md5('{salt}' || g), '') FROM generate_series(1, 120) g)")
        }
        false => format!("'b{}'", salt % 1000),
    }
}
