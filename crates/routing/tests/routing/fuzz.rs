//! Anything the source could say, in any order.

use proptest::prelude::*;
use rowcast_model::*;
use rowcast_routing::Limits;

use crate::{
    support::*,
    world::{rules, tables},
};

proptest! {
    /// Any items in any order, with any text: no panic, and no event of a table without a rule.
    #[test]
    fn total_on_anything(items in prop::collection::vec(anything(), 0..40)) {
        let mut router = router_within(limits(), rules(&tables(), None));
        for event in events_of(&feed(&mut router, &items)) {
            prop_assert!(event.cursor.index < 10_000);
        }
    }
}

fn limits() -> Limits {
    Limits {
        transaction_bytes: 100_000,
        batch_bytes: 500,
    }
}

fn anything() -> impl Strategy<Value = SourceEvent> {
    let text = prop_oneof![
        Just("1".to_owned()),
        Just("10".to_owned()),
        Just("INSERT".to_owned()),
        Just("<unchanged>".to_owned()),
        ".{0,6}",
    ];
    let values = prop::collection::vec(prop::option::of(text), 0..12);
    let relations = {
        let mut all = tables();
        all.push(events_table());
        for (id, name) in [
            (91, "tables"),
            (92, "memberships"),
            (93, "membership_source"),
            (94, "api_keys"),
        ] {
            all.push(relation(
                id,
                "rowcast",
                name,
                &["relid*", "id", "user_id"],
                ReplicaIdentity::Default,
            ));
        }
        all
    };
    let ops = vec![
        Operation::Insert,
        Operation::Update,
        Operation::Delete,
        Operation::Truncate,
    ];
    let change = (
        prop::sample::select(relations),
        prop::sample::select(ops.clone()),
        values.clone(),
        values,
        0..3u8,
        any::<u32>(),
    )
        .prop_map(|(relation, op, new, old, old_kind, bytes)| {
            let image = |values: &[Option<String>]| {
                tuple(
                    &values
                        .iter()
                        .map(|value| value.as_deref())
                        .collect::<Vec<_>>(),
                )
            };
            let old = match old_kind {
                0 => None,
                1 => Some(OldTuple::Key(image(&old))),
                _ => Some(OldTuple::Full(image(&old))),
            };
            let item = WalItem::Change(RowChange {
                relation,
                op,
                new: Some(image(&new)).filter(|_| op != Operation::Delete),
                old,
            });
            SourceEvent::Item {
                item,
                bytes: bytes % 10_000,
            }
        });
    let message = (
        10..14u32,
        prop::sample::select(ops.clone()),
        any::<u64>(),
        "[a-c\"\\[\\],{}:]{0,30}",
    )
        .prop_map(|(table, op, n, tail)| {
            let op = op.as_str();
            let n = if n % 3 == 0 { n } else { n % 4 };
            let content = match n % 2 {
                0 => format!(r#"{{"v":1,"t":{table},"op":"{op}","n":{n},"org":"a"}}"#),
                _ => format!(r#"{{"v":1,"t":{table},"op":"{op}","n":{n},{tail}}}"#),
            };
            let item = WalItem::Message {
                prefix: "rowcast".into(),
                content: content.into(),
            };
            SourceEvent::Item { item, bytes: 10 }
        });
    prop_oneof![
        6 => change,
        2 => message,
        1 => (1..5u64).prop_map(|lsn| Log::at(lsn).events[0].clone()),
        1 => (1..5u64).prop_map(|lsn| SourceEvent::Commit { end_lsn: Lsn(lsn) }),
        1 => (0..2u32).prop_map(|epoch| SourceEvent::Start { epoch: Epoch(epoch), reason: None }),
        1 => (0..9u64).prop_map(|lsn| SourceEvent::Idle { lsn: Lsn(lsn) }),
    ]
}
