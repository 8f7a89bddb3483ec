//! `latest`: fewer events, the same rows in the end.

use std::{collections::BTreeMap, sync::Arc};

use proptest::prelude::*;
use rowcast_hub::{HubLimits, Identity};
use rowcast_model::{Body, HubOp, Operation, RoutedEvent};
use serde_json::{Map, Value};

use crate::support::*;

const LATEST: &str = r#"{"type":"subscribe","channel":"org:acme","mode":"latest"}"#;

fn latest_client(hub: &rowcast_hub::Hub) -> Client {
    hub.publish(batch(vec![member("anna", "acme", Some("member"))]));
    let client = Client::new(hub, Identity::session("anna"));
    hub.subscribe(&client.connection, wanted(LATEST)).unwrap();
    client.told();
    client
}

#[test]
fn only_the_latest_of_a_record_is_sent() {
    let hub = hub();
    let anna = latest_client(&hub);
    let update = |lsn: u64, id: &str| {
        let row = || Some(row(&[("id", id), ("n", &lsn.to_string())]));
        let update = change(Operation::Update, row(), row());
        HubOp::from(update(event("acme", at(lsn, 0), id.parse().unwrap())))
    };
    hub.publish(batch(
        (1..100)
            .flat_map(|lsn| [update(lsn, "1"), update(lsn, "2"), commit(lsn)])
            .collect(),
    ));
    assert!(anna.told().is_empty());
    assert!(anna.connection.work().latest);
    anna.connection.flush_latest();
    let frames = anna.socket.frames();
    assert_eq!(frames.len(), 2);
    assert!(frames.iter().all(|frame| frame["new"]["n"] == 99));
    assert!(!anna.connection.work().latest);
}

#[test]
fn what_is_held_is_bounded_and_forgotten_with_the_subscription() {
    let hub = hub_with(HubLimits {
        latest_bytes: 5_000,
        ..Default::default()
    });
    let anna = latest_client(&hub);
    hub.publish(batch(
        (0..100)
            .map(|i| HubOp::from(event("acme", at(1, i), i)))
            .collect(),
    ));
    let early = anna.told().len();
    assert!((50..100).contains(&early), "{early}");
    hub.unsubscribe(&anna.connection, &"org:acme".parse().unwrap(), None, None)
        .unwrap();
    anna.connection.flush_latest();
    assert_eq!(anna.told(), ["unsubscribed org:acme"]);
}

/// Applies frames as a client does: INSERT and UPDATE put the record, DELETE removes it.
fn apply(rows: &mut BTreeMap<String, Map<String, Value>>, frame: &Value) {
    let id = |row: &Value| row["id"].to_string();
    if frame["type"] != "postgres_changes" {
        return;
    }
    let mut record = Map::new();
    if let Value::Object(_) = frame["old"] {
        record = rows.remove(&id(&frame["old"])).unwrap_or_default();
    }
    if let Value::Object(new) = &frame["new"] {
        record.extend(new.clone());
        rows.insert(id(&frame["new"]), record);
    }
}

/// Steps that keep a table consistent: what is there is updated or deleted, what is not is inserted.
fn history(steps: &[(u32, u8, u32)]) -> Vec<RoutedEvent> {
    let mut there: BTreeMap<u32, (u32, u32)> = BTreeMap::new();
    let mut events = Vec::new();
    for ((id, what, target), lsn) in steps.iter().zip(1_u32..) {
        let full = |id: u32, n: u32, big: u32| {
            row(&[
                ("id", &id.to_string()),
                ("n", &n.to_string()),
                ("big", &format!("\"{big}\"")),
            ])
        };
        let key = |id: u32| row(&[("id", &id.to_string())]);
        let base = |id| event("acme", at(u64::from(lsn), 0), id);
        let event = match (there.get(id).copied(), what % 4) {
            (None, _) => {
                there.insert(*id, (lsn, lsn));
                change(Operation::Insert, Some(full(*id, lsn, lsn)), None)(base(*id))
            }
            (Some(_), 0) => {
                there.remove(id);
                change(Operation::Delete, None, Some(key(*id)))(base(*id))
            }
            (Some((_, big)), 1) => {
                // The large value stays as it was, and is not in the log.
                there.insert(*id, (lsn, big));
                let new = row(&[("id", &id.to_string()), ("n", &lsn.to_string())]);
                let mut event = change(Operation::Update, Some(new), Some(key(*id)))(base(*id));
                if let Body::Change { unchanged, .. } = &mut event.body {
                    *unchanged = Arc::new(["big".into()]);
                }
                event
            }
            (Some(_), 2) if !there.contains_key(target) => {
                // The record gets another key, and its large value may stay as it was.
                let (_, big) = there.remove(id).unwrap_or_default();
                there.insert(*target, (lsn, big));
                let new = row(&[("id", &target.to_string()), ("n", &lsn.to_string())]);
                let mut event = change(Operation::Update, Some(new), Some(key(*id)))(base(*target));
                if let Body::Change { unchanged, .. } = &mut event.body {
                    *unchanged = Arc::new(["big".into()]);
                }
                event
            }
            (Some(_), _) => {
                there.insert(*id, (lsn, lsn));
                change(Operation::Update, Some(full(*id, lsn, lsn)), Some(key(*id)))(base(*id))
            }
        };
        events.push(event);
    }
    events
}

proptest! {
    #[test]
    fn ends_with_the_same_rows(
        steps in prop::collection::vec((0_u32..4, any::<u8>(), 0_u32..4), 1..60),
        flush_every in 1_usize..20,
    ) {
        let hub = hub();
        let all = Client::member(&hub, "anna", &["acme"], &["org:acme"]);
        let latest = latest_client(&hub);
        for (i, event) in history(&steps).into_iter().enumerate() {
            hub.publish(batch(vec![HubOp::from(event)]));
            if i % flush_every == 0 {
                latest.connection.flush_latest();
            }
        }
        latest.connection.flush_latest();
        let (mut expected, mut got) = (BTreeMap::new(), BTreeMap::new());
        all.socket.frames().iter().for_each(|frame| apply(&mut expected, frame));
        let frames = latest.socket.frames();
        frames.iter().for_each(|frame| apply(&mut got, frame));
        prop_assert_eq!(got, expected);
        let cursors: Vec<&str> = frames.iter().filter_map(|frame| frame["cursor"].as_str()).collect();
        let lsns: Vec<u64> = cursors.iter().map(|c| c.parse::<rowcast_model::Cursor>().unwrap().commit_lsn.0).collect();
        prop_assert!(lsns.is_sorted(), "{:?}", lsns);
    }
}
