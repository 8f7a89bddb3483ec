//! Who is there, in the words of the Supabase protocol: a map from users to what each of their connections says.
//!
//! A connection that says something else is another entry under another reference, which is how clients of that
//! protocol know a change. The key of a member is who he is, and never what he says. Pure.

use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash, Hasher},
    sync::Arc,
};

use rowcast_model::{Present, PresentUser, Sender};
use rowcast_wire::{
    Frame,
    phoenix::{self, Version},
};

/// What the followers of a room are told in one version.
#[derive(Default)]
pub(crate) struct Told {
    /// Those who come newly.
    pub state: Vec<Frame>,
    /// All others.
    pub diff: Vec<Frame>,
}

/// The frames of a change of the list, and of the list if that is wanted.
pub(crate) fn told(
    version: Version,
    name: &str,
    before: &[Arc<PresentUser>],
    after: &[Arc<PresentUser>],
    fresh: bool,
) -> Told {
    let topic = format!("{}{name}", phoenix::TOPIC_PREFIX);
    let mut told = Told::default();
    if fresh {
        let list = map(after.iter().map(|user| (&**user, &user.connections[..])));
        told.state = vec![phoenix::presence_state(version, None, &topic, &list)];
    }
    let (joins, leaves) = (beside(after, before), beside(before, after));
    if let (Some(joins), Some(leaves)) = match (joins, leaves) {
        (None, None) => (None, None),
        (joins, leaves) => (
            Some(joins.unwrap_or_else(|| b"{}".to_vec())),
            Some(leaves.unwrap_or_else(|| b"{}".to_vec())),
        ),
    } {
        told.diff = vec![phoenix::presence_diff(version, &topic, &joins, &leaves)];
    }
    told
}

/// What is in one list and not in the other; both are in order.
fn beside(of: &[Arc<PresentUser>], other: &[Arc<PresentUser>]) -> Option<Vec<u8>> {
    let mut others = other.iter().peekable();
    let mut found: Vec<(&PresentUser, Vec<Present>)> = Vec::new();
    for user in of {
        while others.next_if(|other| other.order < user.order).is_some() {}
        let same = others.peek().filter(|other| other.order == user.order);
        if same.is_some_and(|other| Arc::ptr_eq(other, user)) {
            continue;
        }
        let has = |seat: &Present| {
            let seats = same.iter().flat_map(|other| other.connections.iter());
            let mut seats = seats.map(reference);
            same.is_some_and(|other| other.who == user.who)
                && seats.any(|known| known == reference(seat))
        };
        let news: Vec<Present> = user
            .connections
            .iter()
            .filter(|seat| !has(seat))
            .cloned()
            .collect();
        if !news.is_empty() {
            found.push((user, news));
        }
    }
    let all = found.iter().map(|(user, seats)| (*user, &seats[..]));
    (!found.is_empty()).then(|| map(all))
}

fn map<'a>(users: impl Iterator<Item = (&'a PresentUser, &'a [Present])>) -> Vec<u8> {
    let mut json = vec![b'{'];
    for (i, (user, seats)) in users.enumerate() {
        if i > 0 {
            json.push(b',');
        }
        let key = match &user.who {
            Sender::User(user) => user.as_str(),
            Sender::ApiKey(id) => id,
        };
        json.extend_from_slice(serde_json::Value::from(key).to_string().as_bytes());
        json.extend_from_slice(br#":{"metas":["#);
        for (i, seat) in seats.iter().enumerate() {
            if i > 0 {
                json.push(b',');
            }
            meta(&mut json, seat);
        }
        json.extend_from_slice(b"]}");
    }
    json.push(b'}');
    json
}

/// What a connection says of itself, with its reference. That stands last, since of two of one name the last counts.
fn meta(json: &mut Vec<u8>, seat: &Present) {
    let state = seat.state.trim_ascii();
    let inside = state
        .strip_prefix(b"{")
        .and_then(|state| state.strip_suffix(b"}"))
        .unwrap_or_default()
        .trim_ascii();
    json.push(b'{');
    json.extend_from_slice(inside);
    if !inside.is_empty() {
        json.push(b',');
    }
    json.extend_from_slice(br#""phx_ref":""#);
    json.extend_from_slice(reference(seat).as_bytes());
    json.extend_from_slice(b"\"}");
}

/// Tells what a connection says from what it said before.
fn reference(seat: &Present) -> String {
    let mut hasher = DefaultHasher::new();
    seat.state.hash(&mut hasher);
    format!("{:x}-{:x}", seat.connection, hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rowcast_model::Timestamp;
    use serde_json::{Map, Value};
    use std::collections::BTreeMap;

    /// A list of users with the states of their connections.
    type List = BTreeMap<u64, Vec<(u64, &'static str)>>;

    fn users(list: &List) -> Vec<Arc<PresentUser>> {
        let seat = |(connection, state): &(u64, &'static str)| Present {
            connection: *connection,
            state: state.as_bytes().into(),
            lost: false,
        };
        list.iter()
            .map(|(order, seats)| {
                Arc::new(PresentUser {
                    who: Sender::User(format!("u{order}").as_str().into()),
                    order: *order,
                    since: Timestamp(0),
                    connections: seats.iter().map(seat).collect(),
                })
            })
            .collect()
    }

    fn payload(frames: &[Frame]) -> Option<Value> {
        let frame = frames.first()?;
        let (payload, _) = rowcast_wire::payload_of(frame)?;
        let message: Value = serde_json::from_slice(payload).unwrap();
        assert_eq!(message[2], "realtime:room:1");
        Some(message[4].clone())
    }

    /// What a client makes of a map, with the references.
    fn entries(map: &Value) -> BTreeMap<(String, String), Map<String, Value>> {
        let of = |(key, entry): (&String, &Value)| {
            let metas = entry["metas"].as_array().unwrap().clone();
            let key = key.clone();
            metas.into_iter().map(move |meta| {
                let reference = meta["phx_ref"].as_str().unwrap().to_owned();
                ((key.clone(), reference), meta.as_object().unwrap().clone())
            })
        };
        map.as_object().unwrap().iter().flat_map(of).collect()
    }

    fn lists() -> impl Strategy<Value = List> {
        let state =
            prop::sample::select(vec!["{}", "{ }", r#"{"a":1}"#, r#"{"a":2,"phx_ref":"x"}"#]);
        let seats = prop::collection::btree_map(0..3_u64, state, 1..3);
        prop::collection::btree_map(
            0..6_u64,
            seats.prop_map(|seats| seats.into_iter().collect()),
            0..6,
        )
        .prop_map(|list: List| {
            // No two users share a connection.
            let own = |(order, seats): (u64, Vec<(u64, &'static str)>)| {
                let seats = seats.into_iter().map(|(n, state)| (order * 10 + n, state));
                (order, seats.collect())
            };
            list.into_iter().map(own).collect()
        })
    }

    proptest! {
        /// Whoever knows the list before and hears the difference knows the list after it.
        #[test]
        fn a_difference_leads_from_one_list_to_the_other(before in lists(), after in lists()) {
            let (before, after) = (users(&before), users(&after));
            let state = |list: &[Arc<PresentUser>]| {
                let told = told(Version::V2, "room:1", &[], list, true);
                entries(&payload(&told.state).unwrap())
            };
            let mut known = state(&before);
            let told = told(Version::V2, "room:1", &before, &after, false);
            prop_assert!(told.state.is_empty());
            if let Some(diff) = payload(&told.diff) {
                for (entry, meta) in entries(&diff["joins"]) {
                    prop_assert_eq!(known.insert(entry, meta), None);
                }
                for (entry, _) in entries(&diff["leaves"]) {
                    prop_assert!(known.remove(&entry).is_some());
                }
            } else {
                prop_assert_eq!(&known, &state(&after));
            }
            prop_assert_eq!(known, state(&after));
        }
    }

    #[test]
    fn nobody_gives_himself_a_reference_or_a_key() {
        let list = users(&BTreeMap::from([(7, vec![(1, r#"{"phx_ref":"mine"}"#)])]));
        let told = told(Version::V2, "room:1", &[], &list, true);
        let state = payload(&told.state).unwrap();
        let meta = &state["u7"]["metas"][0];
        assert!(
            meta["phx_ref"].as_str().unwrap().starts_with("1-"),
            "{state}"
        );
    }
}
