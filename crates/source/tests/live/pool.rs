//! Connections that are kept for a while.

use std::time::Duration;

use rowcast_source::Pool;

use crate::harness::{World, text, until};

const KEEP: Duration = Duration::from_secs(1);
const PID: &str = "SELECT pg_backend_pid()";

async fn open(world: &World) -> String {
    world
        .text("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'a pool' AND datname = current_database()")
        .await
}

#[tokio::test]
async fn a_connection_is_used_again_and_closed_when_nobody_comes() {
    let world = World::new().await;
    let pool = Pool::new(world.info.clone(), "a pool", KEEP);
    let one = pool.lease().await.unwrap();
    let other = pool.lease().await.unwrap();
    assert!(!one.used && !other.used);
    assert_eq!(open(&world).await, "2");
    let pid = text(&one.client, PID).await;
    pool.give_back(one);
    let again = pool.lease().await.unwrap();
    assert!(again.used);
    assert_eq!(text(&again.client, PID).await, pid);
    assert!(!pool.fresh().await.unwrap().used);

    pool.give_back(again);
    pool.give_back(other);
    // Nobody asks any more.
    until("all are closed", async || open(&world).await == "0").await;
    let later = pool.lease().await.unwrap();
    assert!(!later.used);
    // Who is watched for again is closed again.
    pool.give_back(later);
    until("it is closed, too", async || open(&world).await == "0").await;
}

#[tokio::test]
async fn a_connection_that_died_is_not_handed_out() {
    let world = World::new().await;
    let pool = Pool::new(world.info.clone(), "a pool", Duration::from_secs(3600));
    let lease = pool.lease().await.unwrap();
    let pid = text(&lease.client, PID).await;
    pool.give_back(lease);
    world
        .exec(&format!("SELECT pg_terminate_backend({pid})"))
        .await;
    // Given back as it came: only a pool that looks gets rid of it.
    until("a new one is handed out", async || {
        let lease = pool.lease().await.unwrap();
        let used = lease.used;
        pool.give_back(lease);
        !used
    })
    .await;
}
