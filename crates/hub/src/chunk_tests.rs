use super::*;
use proptest::{collection::vec, option, prelude::*};
use rowcast_model::{JsonRowBuilder, Kind, MaskKind, Masks, Role};

fn names() -> Vec<Arc<[ColumnMeta]>> {
    let columns = |n: usize| {
        let named = (0..n).map(|i| ColumnMeta::new(format!("c{i}").into(), Kind::Text));
        named.collect()
    };
    vec![columns(1), columns(3), columns(20)]
}

fn row(columns: &Arc<[ColumnMeta]>, values: &[String]) -> JsonRow {
    let mut buffer = bytes::BytesMut::new();
    let mut row = JsonRowBuilder::new(columns.clone(), &mut buffer);
    for value in values.iter().take(columns.len()) {
        row.column(|out| out.extend_from_slice(value.as_bytes()));
    }
    row.finish()
}

fn text() -> impl Strategy<Value = Option<Arc<str>>> {
    option::of(".{0,12}".prop_map(Arc::from))
}

fn a_row() -> impl Strategy<Value = Option<JsonRow>> {
    let values = vec("[a-z\u{e9}\"]{0,9}", 0..20);
    option::of((0..3_usize, values).prop_map(|(of, values)| row(&names()[of], &values)))
}

fn body() -> impl Strategy<Value = Body> {
    let message = |text: String| Message::broadcast(text.as_str(), Bytes::from(text.clone()));
    prop_oneof![
        4 => (a_row(), a_row(), vec("[a-z]{1,3}".prop_map(Arc::from), 0..3)).prop_map(
            |(new, old, unchanged)| Body::Change { new, old, unchanged: unchanged.into() }),
        1 => Just(Body::Invalidate),
        1 => "[a-z]{1,9}".prop_map(move |text| Body::Message(Arc::new(message(text)))),
    ]
}

fn audience() -> impl Strategy<Value = Audience> {
    let masks = Masks::new(Vec::from([rowcast_model::Mask {
        column: "c0".into(),
        kind: MaskKind::Redact,
        roles: Arc::new([Role::from("admin")]),
        owner: true,
    }]));
    let masks = Arc::new(masks.unwrap());
    let masked = move |owner: Option<Arc<str>>| {
        Arc::new(Masked {
            masks: masks.clone(),
            owner: owner.map(rowcast_model::UserId),
            old_owner: None,
            only: Some(1),
        })
    };
    let masked = option::of(text().prop_map(masked));
    let roles = vec("[a-z]{1,3}".prop_map(Role::from), 0..3);
    (roles, text(), masked).prop_map(|(roles, user, masked)| Audience {
        required_roles: roles.into(),
        user: user.map(rowcast_model::UserId),
        masked,
    })
}

fn events() -> impl Strategy<Value = Vec<RoutedEvent>> {
    let op = prop_oneof![
        Just(Operation::Insert),
        Just(Operation::Update),
        Just(Operation::Delete),
        Just(Operation::Truncate)
    ];
    let table = (0..3).prop_map(|i| {
        Arc::new(TableName {
            schema: "public".into(),
            name: format!("t{i}").into(),
        })
    });
    let numbers = (any::<u64>(), any::<u32>(), any::<i64>(), any::<bool>());
    let one = (numbers, op, table, audience(), (text(), text()), body());
    let event = one.prop_map(
        |((lsn, index, time, last), op, table, audience, ids, body)| RoutedEvent {
            cursor: Cursor {
                epoch: Epoch(7),
                commit_lsn: Lsn(lsn),
                index,
            },
            commit_time: Timestamp(time),
            topic: Topic::Org("o".into()),
            audience,
            table,
            op,
            record_id: ids.0,
            old_record_id: ids.1,
            body,
            last,
        },
    );
    // Neighbours that share what they have, and copies that do not.
    vec((event, 1..3_usize), 1..12).prop_map(|events| {
        let repeated = events.into_iter();
        repeated
            .flat_map(|(event, times)| vec![event; times])
            .collect()
    })
}

proptest! {
    #[test]
    fn what_is_kept_is_what_came(events in events()) {
        let packed: Vec<Packed> =
            events.iter().zip(0..).map(|(event, number)| Packed::new(event, number)).collect();
        let room = packed.iter().map(Packed::bytes).sum();
        let mut chunk = Chunk::new(room, &packed[0], Duration::ZERO);
        let grown = chunk.bytes.capacity();
        for packed in &packed {
            prop_assert!(chunk.has_room(packed.bytes()));
            chunk.push(packed, Duration::from_secs(1));
        }
        // It took what it said it would take.
        prop_assert!(!chunk.has_room(grown - room + 1));
        prop_assert_eq!(chunk.bytes.capacity(), grown);
        prop_assert_eq!(chunk.count, events.len());
        prop_assert_eq!(chunk.last, events[events.len() - 1].cursor);
        let mut at = 0;
        for (event, packed) in events.iter().zip(&packed) {
            let (head, end) = chunk.head(at).unwrap();
            prop_assert_eq!(head.number, packed.head.number);
            prop_assert_eq!(head.cursor(Epoch(7)), event.cursor);
            let read = chunk.read(at, &event.topic);
            prop_assert_eq!(read.as_ref(), Some(event));
            at = end;
        }
        prop_assert!(chunk.head(at).is_none());
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in vec(any::<u8>(), 0..200), at in 0..200_usize) {
        let event = RoutedEvent::message(
            Cursor::NOWHERE,
            Timestamp(0),
            Topic::AllOrgs,
            Audience::default(),
            Arc::new(Message::broadcast("e", Bytes::new())),
        );
        let packed = Packed::new(&event, 0);
        let mut chunk = Chunk::new(packed.bytes(), &packed, Duration::ZERO);
        chunk.push(&packed, Duration::ZERO);
        chunk.bytes = bytes;
        let _ = chunk.read(at, &event.topic);
    }
}

#[test]
fn neighbours_share_what_they_have_in_common() {
    let columns = &names()[1];
    let table = Arc::new(TableName {
        schema: "public".into(),
        name: "tasks".into(),
    });
    let event = |value: &str, message: Option<&str>| RoutedEvent {
        cursor: Cursor::NOWHERE,
        commit_time: Timestamp(0),
        topic: Topic::AllOrgs,
        audience: Audience::default(),
        table: table.clone(),
        op: Operation::Insert,
        record_id: Some(value.into()),
        old_record_id: None,
        body: match message {
            None => Body::Change {
                new: Some(row(columns, &[value.to_owned()])),
                old: None,
                unchanged: Arc::new([]),
            },
            Some(text) => Body::Message(Arc::new(Message::broadcast(
                text,
                Bytes::from(text.to_owned()),
            ))),
        },
        last: false,
    };
    let first = event("1", None);
    let first = Packed::new(&first, 0);
    let mut chunk = Chunk::new(4096, &first, Duration::ZERO);
    chunk.push(&first, Duration::ZERO);
    let one = chunk.cost();
    chunk.push(&Packed::new(&event("2", None), 1), Duration::ZERO);
    assert_eq!((chunk.common.len(), chunk.cost()), (1, one));
    // A message is kept alive, and counted.
    let text = "x".repeat(1000);
    chunk.push(&Packed::new(&event("3", Some(&text)), 2), Duration::ZERO);
    assert_eq!(chunk.common.len(), 2);
    assert!(chunk.cost() > one + 2 * text.len());
    chunk.push(&Packed::new(&event("4", None), 3), Duration::ZERO);
    assert_eq!(chunk.common.len(), 2);
}
