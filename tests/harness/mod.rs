//! What the tests stand on: a Postgres, the program, clients, tokens, and waiting for conditions.

pub mod browser;
pub mod client;
pub mod events;
pub mod fixture;
pub mod http;
pub mod json;
pub mod postgres;
pub mod present;
pub mod rng;
pub mod schema;
pub mod server;
pub mod token;
pub mod typescript;
pub mod world;

use std::time::{Duration, Instant};

/// Waits until `condition` holds; fails after a while with `what` was waited for.
pub async fn until(what: &str, condition: impl AsyncFnMut() -> bool) {
    until_or(what, String::new, condition).await;
}

/// The same, with more to say on failure.
pub async fn until_or(
    what: &str,
    explain: impl Fn() -> String,
    mut condition: impl AsyncFnMut() -> bool,
) {
    let deadline = Instant::now() + client::PATIENCE;
    while !condition().await {
        assert!(
            Instant::now() < deadline,
            "{what}: never came true\n{}",
            explain()
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A number from the environment, or the one that keeps the suite short.
pub fn from_env(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(default)
}
