//! What the hub promises, through its public front.
#![allow(clippy::unwrap_used)] // Helpers of tests are tests.

#[path = "hub/authorize.rs"]
mod authorize;
#[path = "hub/channels.rs"]
mod channels;
#[path = "hub/client_events.rs"]
mod client_events;
#[path = "hub/delivery.rs"]
mod delivery;
#[path = "hub/direct.rs"]
mod direct;
#[path = "hub/explain.rs"]
mod explain;
#[path = "hub/filters.rs"]
mod filters;
#[path = "hub/joins.rs"]
mod joins;
#[path = "hub/joins_edges.rs"]
mod joins_edges;
#[path = "hub/joins_random.rs"]
mod joins_random;
#[path = "hub/joins_steps.rs"]
mod joins_steps;
#[path = "hub/latest.rs"]
mod latest;
#[path = "hub/masks.rs"]
mod masks;
#[path = "hub/matrix.rs"]
mod matrix;
#[path = "hub/members.rs"]
mod members;
#[path = "hub/outbox.rs"]
mod outbox;
#[path = "hub/positions.rs"]
mod positions;
#[path = "hub/presence.rs"]
mod presence;
#[path = "hub/recovery.rs"]
mod recovery;
#[path = "hub/replay.rs"]
mod replay;
#[path = "hub/replay_random.rs"]
mod replay_random;
#[path = "hub/support.rs"]
mod support;
#[path = "hub/turnings.rs"]
mod turnings;
