//! Random statements that nest as triggers nest, with an oracle that knows which change belongs where.

use std::collections::BTreeMap;

use proptest::prelude::*;
use rowcast_model::*;
use rowcast_routing::Limits;

use crate::{
    support::*,
    world::{Expected, rules, script, tables},
};

/// What an event told, in the words of the oracle. The value of a DELETE is in the old row only with
/// REPLICA IDENTITY FULL, and never when the row moved.
fn told(event: &RoutedEvent) -> Expected {
    let Topic::Org(org) = &event.topic else {
        panic!("{event:?}");
    };
    let value = match &event.body {
        Body::Invalidate | Body::Message(_) => None,
        Body::Change { new, old, .. } => {
            let row = new.as_ref().or(old.as_ref()).unwrap();
            let value = row.get("v").map(|(_, json)| json.to_vec());
            let text = value.map(|json| serde_json::from_slice(&json).unwrap());
            Some(text.unwrap_or_else(|| "?".to_owned()))
        }
    };
    Expected {
        index: event.cursor.index,
        org: org.to_string(),
        op: event.op,
        table: event.table.name.to_string(),
        value,
    }
}

fn matches(told: &Expected, expected: &Expected) -> bool {
    let mut expected = expected.clone();
    if told.value.as_deref() == Some("?") && told.op == Operation::Delete {
        expected.value = expected.value.map(|_| "?".to_owned());
    }
    *told == expected
}

fn by_topic(events: &[RoutedEvent]) -> BTreeMap<String, Vec<RoutedEvent>> {
    let mut topics: BTreeMap<String, Vec<RoutedEvent>> = BTreeMap::new();
    for event in events {
        topics
            .entry(told(event).org)
            .or_default()
            .push(event.clone());
    }
    topics
}

fn limits(batch_bytes: usize) -> Limits {
    Limits {
        batch_bytes,
        ..Limits::default()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Every change goes exactly where the oracle says, in the order of the writes.
    #[test]
    fn every_change_finds_its_event((log, expected) in script()) {
        let mut router = router_within(Limits::default(), rules(&tables(), None));
        let events = events_of(&feed(&mut router, &log));
        let all: Vec<_> = events.iter().map(told).collect();
        prop_assert_eq!(all.len(), expected.len(), "{:#?}\n{:#?}", all, expected);
        for (told, expected) in all.iter().zip(&expected) {
            prop_assert!(matches(told, expected), "{:?}\n{:?}", told, expected);
        }
        prop_assert_eq!(router.stats().unmatched_events, 0);
        prop_assert_eq!(router.stats().pending_bytes, 0);
    }

    /// In parts of any size, each topic has the same events in the same order and one last event.
    #[test]
    fn parts_change_nothing_on_a_topic((log, _) in script(), batch_bytes in 1..4000usize) {
        let mut whole = router_within(Limits::default(), rules(&tables(), None));
        let mut parts = router_within(limits(batch_bytes), rules(&tables(), None));
        let whole = by_topic(&events_of(&feed(&mut whole, &log)));
        let batches = feed(&mut parts, &log);
        prop_assert_eq!(&whole, &by_topic(&events_of(&batches)));
        for events in whole.values() {
            let last: Vec<_> = events.iter().map(|event| event.last).collect();
            prop_assert_eq!(last.iter().filter(|last| **last).count(), 1);
            prop_assert_eq!(last.last(), Some(&true));
        }
        let acks: Vec<_> = batches.iter().map(|batch| batch.ack).collect();
        prop_assert!(acks.iter().rev().skip(1).all(Option::is_none));
        prop_assert_eq!(acks.last(), Some(&Some(Lsn(58))));
    }

    /// A reconnect anywhere, with everything repeated, changes nothing.
    #[test]
    fn a_reconnect_changes_nothing((log, _) in script(), batch_bytes in 1..4000usize, cut in 0..100usize) {
        let mut once = router_within(limits(batch_bytes), rules(&tables(), None));
        let once = by_topic(&events_of(&feed(&mut once, &log)));
        let mut twice = router_within(limits(batch_bytes), rules(&tables(), None));
        let mut batches = feed(&mut twice, &log[..cut % log.len()]);
        batches.extend(feed(&mut twice, &[SourceEvent::Start { epoch: Epoch(1), reason: None }]));
        batches.extend(feed(&mut twice, &log));
        prop_assert_eq!(once, by_topic(&events_of(&batches)));
        prop_assert_eq!(batches.last().and_then(|batch| batch.ack), Some(Lsn(58)));
    }

    /// Other rules, same positions.
    #[test]
    fn rules_renumber_nothing((log, _) in script(), dropped in 0..4usize) {
        let all = tables();
        let mut every = router_within(Limits::default(), rules(&all, None));
        let mut fewer = all.clone();
        let gone = fewer.remove(dropped);
        let mut some = router_within(Limits::default(), rules(&fewer, Some("{id,v}")));
        let position = |event: &RoutedEvent| (event.cursor, event.topic.clone(), event.op);
        let every = events_of(&feed(&mut every, &log));
        let every: Vec<_> = every.iter().filter(|event| event.table.name != gone.name).map(position).collect();
        let some = events_of(&feed(&mut some, &log));
        // A hand-made trigger may tell of a table without a rule.
        let some: Vec<_> = some.iter().filter(|event| event.table.name != gone.name).map(position).collect();
        prop_assert_eq!(every, some);
    }

    /// Whatever the budget: every change is told, as itself or by an event about its table; and
    /// nothing is told that is not true.
    #[test]
    fn a_small_budget_never_lies((log, expected) in script(), transaction_bytes in 0..6000usize, batch_bytes in 1..3000usize) {
        let limits = Limits { transaction_bytes, batch_bytes };
        let mut router = router_within(limits, rules(&tables(), None));
        let events = events_of(&feed(&mut router, &log));
        let all: Vec<_> = events.iter().map(told).collect();
        for expected in &expected {
            let whole = |told: &&Expected| told.value.is_none() && told.org == expected.org && told.table == expected.table;
            prop_assert!(
                all.iter().any(|told| matches(told, expected)) || all.iter().any(|told| whole(&told)),
                "{:?} is missing in {:#?}", expected, all
            );
        }
        for told in all.iter().filter(|told| told.value.is_some()) {
            prop_assert!(expected.iter().any(|expected| matches(told, expected)), "{:?}", told);
        }
        for events in by_topic(&events).values() {
            let last = events.iter().filter(|event| event.last).count();
            prop_assert!(last <= 1);
        }
    }
}
