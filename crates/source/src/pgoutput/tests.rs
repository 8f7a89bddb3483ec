//! Whatever a server may send is read back as it was; whatever else comes is an error and no panic.

use proptest::prelude::*;

use super::*;

/// Writes a message as the server does.
fn encode(message: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    let time = |time: &Timestamp| (time.0 - POSTGRES_EPOCH_US).to_be_bytes();
    match message {
        Message::Begin {
            final_lsn,
            commit_time,
            xid,
        } => {
            out.push(b'B');
            out.extend(final_lsn.0.to_be_bytes());
            out.extend(time(commit_time));
            out.extend(xid.to_be_bytes());
        }
        Message::Commit {
            commit_lsn,
            end_lsn,
            commit_time,
        } => {
            out.extend([b'C', 0]);
            out.extend(commit_lsn.0.to_be_bytes());
            out.extend(end_lsn.0.to_be_bytes());
            out.extend(time(commit_time));
        }
        Message::Origin => out.extend(b"O\0\0\0\0\0\0\0\0origin\0"),
        Message::Relation(relation) => {
            out.push(b'R');
            out.extend(relation.id.to_be_bytes());
            name(&mut out, &relation.schema);
            name(&mut out, &relation.name);
            out.push(match relation.identity {
                ReplicaIdentity::Default => b'd',
                ReplicaIdentity::Nothing => b'n',
                ReplicaIdentity::Full => b'f',
                ReplicaIdentity::Index => b'i',
            });
            out.extend((relation.columns.len() as u16).to_be_bytes());
            for column in &relation.columns {
                out.push(u8::from(column.key));
                name(&mut out, &column.name);
                out.extend(column.type_oid.to_be_bytes());
                out.extend((-1i32).to_be_bytes());
            }
        }
        Message::Type { oid } => {
            out.push(b'Y');
            out.extend(oid.to_be_bytes());
            name(&mut out, "public");
            name(&mut out, "mood");
        }
        Message::Insert { relation, new } => {
            out.push(b'I');
            out.extend(relation.to_be_bytes());
            tuple(&mut out, b'N', new);
        }
        Message::Update { relation, old, new } => {
            out.push(b'U');
            out.extend(relation.to_be_bytes());
            if let Some(old) = old {
                before(&mut out, old);
            }
            tuple(&mut out, b'N', new);
        }
        Message::Delete { relation, old } => {
            out.push(b'D');
            out.extend(relation.to_be_bytes());
            before(&mut out, old);
        }
        Message::Truncate { relations } => {
            out.push(b'T');
            out.extend((relations.len() as u32).to_be_bytes());
            out.push(1);
            for relation in relations {
                out.extend(relation.to_be_bytes());
            }
        }
        Message::Logical {
            transactional,
            prefix,
            content,
        } => {
            out.extend([b'M', u8::from(*transactional)]);
            out.extend(7u64.to_be_bytes());
            name(&mut out, prefix);
            out.extend((content.len() as u32).to_be_bytes());
            out.extend_from_slice(content);
        }
    }
    out
}

fn name(out: &mut Vec<u8>, name: &str) {
    out.extend(name.as_bytes());
    out.push(0);
}

fn before(out: &mut Vec<u8>, old: &Old) {
    match old {
        Old::Key(key) => tuple(out, b'K', key),
        Old::Full(row) => tuple(out, b'O', row),
    }
}

fn tuple(out: &mut Vec<u8>, mark: u8, tuple: &Tuple) {
    out.push(mark);
    out.extend((tuple.0.len() as u16).to_be_bytes());
    for value in &tuple.0 {
        match value {
            Value::Null => out.push(b'n'),
            Value::Unchanged => out.push(b'u'),
            Value::Text(text) => {
                out.push(b't');
                out.extend((text.len() as u32).to_be_bytes());
                out.extend_from_slice(text);
            }
        }
    }
}

fn rows() -> impl Strategy<Value = Tuple> {
    let value = prop_oneof![
        Just(Value::Null),
        Just(Value::Unchanged),
        prop::collection::vec(any::<u8>(), 0..20).prop_map(|text| Value::Text(text.into())),
    ];
    prop::collection::vec(value, 0..8).prop_map(Tuple)
}

fn olds() -> impl Strategy<Value = Old> {
    (any::<bool>(), rows()).prop_map(|(key, row)| match key {
        true => Old::Key(row),
        false => Old::Full(row),
    })
}

fn relations() -> impl Strategy<Value = Message> {
    let identity = prop::sample::select(vec![
        ReplicaIdentity::Default,
        ReplicaIdentity::Nothing,
        ReplicaIdentity::Full,
        ReplicaIdentity::Index,
    ]);
    let column = (any::<bool>(), "[^\0]{0,9}", any::<u32>()).prop_map(|(key, name, type_oid)| {
        ColumnMessage {
            key,
            name,
            type_oid,
        }
    });
    let columns = prop::collection::vec(column, 0..6);
    (any::<u32>(), "[^\0]{1,9}", "[^\0]{0,9}", identity, columns).prop_map(
        |(id, schema, name, identity, columns)| {
            Message::Relation(RelationMessage {
                id,
                schema,
                name,
                identity,
                columns,
            })
        },
    )
}

fn messages() -> impl Strategy<Value = Message> {
    let time = || (-1i64 << 50..1i64 << 50).prop_map(Timestamp);
    let lsn = || any::<u64>().prop_map(Lsn);
    prop_oneof![
        (lsn(), time(), any::<u32>()).prop_map(|(final_lsn, commit_time, xid)| Message::Begin {
            final_lsn,
            commit_time,
            xid
        }),
        (lsn(), lsn(), time()).prop_map(|(commit_lsn, end_lsn, commit_time)| Message::Commit {
            commit_lsn,
            end_lsn,
            commit_time
        }),
        Just(Message::Origin),
        relations(),
        any::<u32>().prop_map(|oid| Message::Type { oid }),
        (any::<u32>(), rows()).prop_map(|(relation, new)| Message::Insert { relation, new }),
        (any::<u32>(), prop::option::of(olds()), rows())
            .prop_map(|(relation, old, new)| Message::Update { relation, old, new }),
        (any::<u32>(), olds()).prop_map(|(relation, old)| Message::Delete { relation, old }),
        prop::collection::vec(any::<u32>(), 0..5)
            .prop_map(|relations| Message::Truncate { relations }),
        (
            any::<bool>(),
            "[^\0]{0,9}",
            prop::collection::vec(any::<u8>(), 0..20)
        )
            .prop_map(|(transactional, prefix, content)| Message::Logical {
                transactional,
                prefix: prefix.into(),
                content: content.into(),
            }),
    ]
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(message in messages()) {
        prop_assert_eq!(decode(encode(&message).into()), Ok(message));
    }

    #[test]
    fn a_message_that_ends_early_is_an_error(message in messages(), cut in any::<prop::sample::Index>()) {
        // What follows the oid of a type and an origin is not read.
        prop_assume!(!matches!(message, Message::Origin | Message::Type { .. }));
        let mut bytes = encode(&message);
        bytes.truncate(cut.index(bytes.len()));
        let error = decode(bytes.clone().into());
        prop_assert!(error.is_err(), "{:?}", error);
    }

    #[test]
    fn no_bytes_panic_and_no_count_reserves_memory(bytes in prop::collection::vec(any::<u8>(), 0..100), kind in "[BCORYIUDTMx]") {
        let mut message = kind.into_bytes();
        message.extend(bytes);
        let _ = decode(message.into());
    }

    #[test]
    fn a_flipped_byte_does_no_harm(message in messages(), at in any::<prop::sample::Index>(), byte: u8) {
        let mut bytes = encode(&message);
        let at = at.index(bytes.len());
        bytes[at] = byte;
        let _ = decode(bytes.into());
    }
}

#[test]
fn values_are_slices_of_the_message() {
    let new = Tuple(vec![Value::Text("hello".into())]);
    let message = Bytes::from(encode(&Message::Insert { relation: 1, new }));
    let Ok(Message::Insert { new, .. }) = decode(message.clone()) else {
        panic!("not an insert");
    };
    let Value::Text(text) = &new.0[0] else {
        panic!("not a text");
    };
    assert!(message.as_ptr_range().contains(&text.as_ptr()));
}

#[test]
fn the_place_of_an_error_is_said() {
    let error = decode(Bytes::from_static(b"I\0\0\0\x01X")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the log holds a message that cannot be read: expected the new row at byte 6 of a message of kind `I`"
    );
}
