//! What may happen to sockets with joins, for [`crate::joins_random`].

use proptest::prelude::*;
use rowcast_hub::Join;
use rowcast_wire::phoenix::{self, Version};
use serde_json::{Value, json};

pub const ORGS: [&str; 3] = ["acme", "blue", "cyan"];
/// The last one is an API key.
pub const WHO: [&str; 3] = ["anna", "bert", "key"];
pub const TOPICS: [&str; 6] = [
    "realtime:db",
    "realtime:room:1",
    "realtime:org:acme",
    "realtime:org:blue",
    "realtime:user:anna",
    "realtime:tenant:acme:tasks",
];

#[derive(Clone, Debug)]
pub enum Step {
    Join(usize, usize, usize, bool),
    Leave(usize, usize),
    Expel(usize, usize),
    Confirm(usize),
    /// Who, where, as what.
    Member(usize, usize, Option<&'static str>),
    Granted(usize, Option<usize>),
    Cleared(bool),
    Rule(usize),
    Room(usize),
    Revoke,
    Answer(bool),
    Row(usize, usize),
    Everybodys,
    Users(usize, usize),
    Said(usize),
    Epoch,
    Stream(bool),
    Present(usize, bool),
    Presence,
    Position(usize),
    Again(usize),
    Vacate(usize),
}

pub fn some_step() -> impl Strategy<Value = Step> {
    let who = || 0..SOCKETS;
    let org = || 0..ORGS.len();
    let role = prop::sample::select(vec![None, Some("member"), Some("member"), Some("admin")]);
    prop_oneof![
        8 => (who(), 0..TOPICS.len(), 0..BINDINGS, any::<bool>()).prop_map(|(a, b, c, d)| Step::Join(a, b, c, d)),
        2 => (who(), 0..TOPICS.len()).prop_map(|(a, b)| Step::Leave(a, b)),
        1 => (who(), 0..TOPICS.len()).prop_map(|(a, b)| Step::Expel(a, b)),
        1 => who().prop_map(Step::Confirm),
        5 => (0..WHO.len(), org(), role).prop_map(|(a, b, c)| Step::Member(a, b, c)),
        1 => (who(), prop::option::of(org())).prop_map(|(a, b)| Step::Granted(a, b)),
        1 => any::<bool>().prop_map(Step::Cleared),
        1 => (0..4usize).prop_map(Step::Rule),
        2 => (0..4usize).prop_map(Step::Room),
        1 => Just(Step::Revoke),
        3 => prop::bool::weighted(0.7).prop_map(Step::Answer),
        5 => (org(), 0..3usize).prop_map(|(a, b)| Step::Row(a, b)),
        1 => Just(Step::Everybodys),
        1 => (0..2usize, org()).prop_map(|(a, b)| Step::Users(a, b)),
        3 => (0..6usize).prop_map(Step::Said),
        1 => prop::bool::weighted(0.3).prop_map(|_| Step::Epoch),
        1 => any::<bool>().prop_map(Step::Stream),
        2 => (who(), any::<bool>()).prop_map(|(a, b)| Step::Present(a, b)),
        1 => Just(Step::Presence),
        1 => who().prop_map(Step::Position),
        1 => who().prop_map(Step::Again),
        1 => who().prop_map(Step::Vacate),
    ]
}

pub const SOCKETS: usize = 6;
pub const BINDINGS: usize = 5;

/// Bindings of a kind; the one to all rows of the table is in those of an even number.
pub fn bindings(kind: usize) -> Value {
    let rows = json!({"event": "*", "schema": "public", "table": "tasks"});
    match kind {
        0 => json!([rows]),
        1 => json!([{"event": "*", "schema": "public", "table": "tasks", "filter": "s=eq.x"}]),
        2 => {
            json!([rows, rows, {"event": "*", "schema": "public", "table": "realtime_table_events"}, {"event": "INSERT", "schema": "public"}])
        }
        3 => json!([]),
        _ => json!([{"event": "UPDATE", "schema": "*", "table": "nothing"}, rows,
                    {"event": "*", "schema": "public", "table": "tasks", "filter": "s=what.x"}]),
    }
}

pub fn join(version: Version, topic: &str, reference: &str, kind: usize, private: bool) -> Join {
    let join = crate::joins::join(topic, reference, bindings(kind), private);
    let echoes: Vec<_> = join
        .bindings
        .iter()
        .map(|binding| ("{}".into(), binding.id))
        .collect();
    Join {
        version,
        reply: phoenix::joined(version, Some(reference), Some(reference), topic, &echoes),
        ..join
    }
}
