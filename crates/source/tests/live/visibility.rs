//! The gate opens when new snapshots see a transaction, and not before.

use std::time::Duration;

use rowcast_source::VisibilityGate;

use crate::harness::{World, exec, text};

#[tokio::test]
async fn waits_until_the_transaction_is_over_also_through_lost_connections() {
    let world = World::new().await;
    let writer = world.info.connect("writer").await.unwrap();
    exec(&writer, "BEGIN").await;
    let xid = text(&writer, "SELECT pg_current_xact_id()").await;
    let xid = xid.parse::<u64>().unwrap() as u32;
    let mut gate = VisibilityGate::new(world.info.clone());
    let early = tokio::time::timeout(Duration::from_millis(300), gate.wait(xid)).await;
    assert!(early.is_err(), "it is not over yet");
    world
        .exec("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'rowcast visibility' AND datname = current_database()")
        .await;
    let (waited, ()) = tokio::join!(
        tokio::time::timeout(Duration::from_secs(20), gate.wait(xid)),
        exec(&writer, "COMMIT")
    );
    waited.unwrap();
    // What one answer has shown is not asked again.
    gate.wait(xid).await;
    gate.wait(xid.wrapping_sub(1)).await;
}
