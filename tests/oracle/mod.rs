//! The oracle test: random schemas, random transactions from several writers, several subscribers for
//! each organization in every mode. What they make of the events must equal what each organization may
//! see in Postgres.
//!
//! `ORACLE_SEED=<n>` repeats one round (its schema and statements; how writers overlap is up to the
//! machine), `ORACLE_SECONDS` says for how long new rounds begin.

mod copy;
mod follow;
mod schema;
mod values;
mod writer;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::json;

use self::{
    copy::Mode,
    follow::follow,
    schema::{ORGANIZATIONS, Schema},
    writer::Writer,
};
use crate::harness::{
    client::Client,
    from_env,
    postgres::Database,
    rng::Rng,
    server::Server,
    token,
    world::{migrate, subscribe},
};

const WRITERS: u64 = 3;
const TRANSACTIONS: usize = 40;
const MODES: [Mode; 3] = [Mode::Changes, Mode::Invalidations, Mode::Latest];

/// Says how to repeat the round when it panics.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the oracle failed; repeat with ORACLE_SEED={}", self.0);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn oracle_what_subscribers_rebuild_equals_what_postgres_holds() {
    if let Ok(seed) = std::env::var("ORACLE_SEED") {
        return round(seed.parse().expect("ORACLE_SEED is a number")).await;
    }
    let seconds = from_env("ORACLE_SECONDS", 25);
    let (begin, mut rounds) = (Instant::now(), 0);
    while begin.elapsed() < Duration::from_secs(seconds) {
        round(Rng::fresh_seed()).await;
        rounds += 1;
    }
    eprintln!("{rounds} rounds");
}

/// The statements of the oracle alone, without a service: whatever is written, no trigger stands in its
/// way (promise 9), and no row is without its organization.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promise_09_random_writes_are_never_refused() {
    for _ in 0..from_env("ORACLE_WRITES", 6) {
        let seed = Seed(Rng::fresh_seed());
        let mut rng = Rng::new(seed.0);
        let schema = Schema::random(&mut rng);
        let database = Database::fresh().await;
        migrate(&database).await;
        let sql = database.connect().await;
        sql.exec(&schema.ddl()).await;
        let mut writer = Writer::new(&schema, Rng::new(rng.next()));
        for _ in 0..100 {
            writer.transaction(&sql).await;
        }
        assert!(
            writer.refused < 30,
            "{} of 100 transactions conflicted",
            writer.refused
        );
        let problems =
            "SELECT string_agg(DISTINCT concat_ws(' ', relid::regclass, operation, reason), E'\n')
             FROM rowcast.problems WHERE reason NOT LIKE '%organization%'";
        let problems = sql.text(problems).await;
        assert_eq!(problems, "", "{}", schema.ddl());
        database.finished();
    }
}

async fn round(number: u64) {
    let seed = Seed(number);
    let mut rng = Rng::new(seed.0);
    let schema = Arc::new(Schema::random(&mut rng));
    let database = Database::fresh().await;
    migrate(&database).await;
    let sql = database.connect().await;
    sql.exec(
        "CREATE TABLE fences (id bigint PRIMARY KEY, organization_id text);
         SELECT rowcast.track('fences', organization_column => 'organization_id')",
    )
    .await;
    sql.exec(&schema.ddl()).await;
    for organization in ORGANIZATIONS {
        sql.execute(
            "INSERT INTO rowcast.memberships VALUES ('u', $1, 'member')",
            &[organization],
        )
        .await
        .unwrap();
    }
    let server = Server::start(&database, &[]).await;
    let mut subscribers = Vec::new();
    for organization in ORGANIZATIONS {
        for mode in MODES {
            let (schema, database) = (schema.clone(), database.clone());
            let address = server.public;
            let mut client = Client::login(address, &token::session("u"), organization).await;
            let options = match mode {
                Mode::Changes => json!({}),
                Mode::Invalidations => json!({ "events": ["invalidations"] }),
                Mode::Latest => json!({ "mode": "latest" }),
            };
            let reply = client
                .ask(subscribe(&format!("org:{organization}"), options))
                .await;
            assert!(reply.is("subscribed"), "{}", reply.text);
            subscribers.push(tokio::spawn(async move {
                follow(&schema, &database, client, organization, mode).await;
            }));
        }
    }
    let writers: Vec<_> = (0..WRITERS)
        .map(|_| {
            let (schema, database, rng) = (schema.clone(), database.clone(), Rng::new(rng.next()));
            tokio::spawn(async move {
                let client = database.connect().await;
                let mut writer = Writer::new(&schema, rng);
                for _ in 0..TRANSACTIONS {
                    writer.transaction(&client).await;
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    for (i, organization) in ORGANIZATIONS.iter().enumerate() {
        sql.execute(
            "INSERT INTO fences VALUES ($1, $2)",
            &[&(i as i64), organization],
        )
        .await
        .unwrap();
    }
    for subscriber in subscribers {
        if let Err(error) = subscriber.await {
            panic!("{error}\n{}", schema.ddl());
        }
    }
    drop(server);
    database.finished();
}
