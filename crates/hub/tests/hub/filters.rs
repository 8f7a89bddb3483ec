//! Filters with the indexes in front of them deliver what the filters alone would.

use proptest::prelude::*;
use rowcast_hub::Identity;
use rowcast_model::{Body, HubOp, JsonRow, Operation};
use rowcast_wire::{Filter, FilterLimits, should_deliver};

use crate::support::*;

#[test]
fn equality_finds_its_subscriber_among_many() {
    let hub = hub();
    hub.publish(batch(vec![member("anna", "acme", Some("member"))]));
    let clients: Vec<Client> = (0..50)
        .map(|n| {
            let client = Client::new(&hub, Identity::session("anna"));
            let json = format!(
                r#"{{"type":"subscribe","channel":"org:acme","tables":[{{"schema":"public","table":"tasks","filter":{{"column":"n","op":"eq","value":{n}}}}}]}}"#
            );
            hub.subscribe(&client.connection, wanted(&json)).unwrap();
            client.told();
            client
        })
        .collect();
    let insert = change(
        Operation::Insert,
        Some(row(&[("id", "1"), ("n", "7.0")])),
        None,
    );
    hub.publish(batch(vec![HubOp::from(insert(event("acme", at(1, 0), 1)))]));
    let got: Vec<usize> = (0..50).filter(|n| !clients[*n].told().is_empty()).collect();
    assert_eq!(got, [7]);
    // A row that leaves a filter is told to whom it leaves, if the old row is known.
    let update = change(
        Operation::Update,
        Some(row(&[("id", "1"), ("n", "8")])),
        Some(row(&[("id", "1"), ("n", "7")])),
    );
    hub.publish(batch(vec![HubOp::from(update(event("acme", at(2, 0), 1)))]));
    let got: Vec<usize> = (0..50).filter(|n| !clients[*n].told().is_empty()).collect();
    assert_eq!(got, [7, 8]);
    // Of a deleted row only the key is known: it may have been anybody's.
    let delete = change(Operation::Delete, None, Some(row(&[("id", "1")])));
    hub.publish(batch(vec![HubOp::from(delete(event("acme", at(3, 0), 1)))]));
    assert!(clients.iter().all(|client| !client.told().is_empty()));
}

fn value() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "",
        "null",
        "1",
        "1.0",
        "2",
        "\"a\"",
        "\"1\"",
        "\"b\\u0020\"",
    ])
}

fn any_row() -> impl Strategy<Value = JsonRow> {
    let number = || value().prop_filter("a number", |v| !v.starts_with('"'));
    let text = value().prop_filter("text", |v| {
        v.is_empty() || *v == "null" || v.starts_with('"')
    });
    (number(), text).prop_map(|(n, s)| row(&[("id", "1"), ("n", n), ("s", s)]))
}

fn any_filter() -> impl Strategy<Value = String> {
    let literal = prop::sample::select(vec!["1", "2", "1.00", "\"a\"", "\"1\"", "\"b \""]);
    let column = prop::sample::select(vec!["n", "s", "hidden"]);
    let leaf = (
        column,
        prop::sample::select(vec!["eq", "eq", "neq", "lt"]),
        literal,
    )
        .prop_map(|(column, op, value)| {
            format!(r#"{{"column":"{column}","op":"{op}","value":{value}}}"#)
        });
    leaf.prop_recursive(2, 6, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3)
                .prop_map(|parts| format!(r#"{{"and":[{}]}}"#, parts.join(","))),
            prop::collection::vec(inner.clone(), 0..3)
                .prop_map(|parts| format!(r#"{{"or":[{}]}}"#, parts.join(","))),
            inner.prop_map(|part| format!(r#"{{"not":{part}}}"#)),
        ]
    })
}

proptest! {
    #[test]
    fn the_index_changes_nothing(
        filters in prop::collection::vec(any_filter(), 1..6),
        new in any_row(),
        old in prop::option::of(any_row()),
        op in prop::sample::select(vec![Operation::Insert, Operation::Update, Operation::Delete]),
    ) {
        let hub = hub();
        hub.publish(batch(vec![member("anna", "acme", Some("member"))]));
        let (new, old) = match op {
            Operation::Insert => (Some(new), None),
            Operation::Delete => (None, Some(new)),
            _ => (Some(new), old),
        };
        let body = Body::Change { new, old, unchanged: std::sync::Arc::new([]) };
        let clients: Vec<Client> = filters.iter().map(|filter| {
            let client = Client::new(&hub, Identity::session("anna"));
            let json = format!(
                r#"{{"type":"subscribe","channel":"org:acme","tables":[{{"table":"other"}},{{"table":"tasks","filter":{filter}}}]}}"#
            );
            hub.subscribe(&client.connection, wanted(&json)).unwrap();
            client.told();
            client
        }).collect();
        let mut event = event("acme", at(1, 0), 1);
        event.op = op;
        event.body = body.clone();
        hub.publish(batch(vec![HubOp::from(event)]));
        for (filter, client) in filters.iter().zip(&clients) {
            let parsed = Filter::parse(filter, &FilterLimits::default()).unwrap();
            let expected = usize::from(should_deliver(&parsed, op, &body));
            prop_assert_eq!(client.told().len(), expected, "{} {:?}", filter, op);
        }
        for client in &clients {
            hub.disconnect(&client.connection);
        }
    }
}
