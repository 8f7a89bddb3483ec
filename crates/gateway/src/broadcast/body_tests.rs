//! What bodies are taken for.

use super::*;

fn code(text: &str) -> (Option<usize>, &'static str) {
    match parse(text.as_bytes()) {
        Ok(request) => panic!("{text}: {request:?}"),
        Err(refusal) => (refusal.index, refusal.error.code()),
    }
}

fn one(text: &str) -> Message {
    let request = parse(text.as_bytes()).unwrap();
    assert!(!request.batch && request.messages.len() == 1);
    request.messages.into_iter().next().unwrap()
}

#[test]
fn every_verb_is_read() {
    let text = r#"{"type":"broadcast","event":"a:b","payload":{"x": 1},"organizationId":"acme",
        "userId":"anna","targetRoles":["admin","editor"]}"#;
    let Message::Broadcast(broadcast) = one(text) else {
        panic!();
    };
    assert_eq!(&broadcast.payload[..], br#"{"x": 1}"#);
    let Target::Organization(organization, audience) = broadcast.to else {
        panic!();
    };
    assert_eq!(organization.as_str(), "acme");
    assert_eq!(audience.user, Some("anna".into()));
    assert_eq!(audience.required_roles.len(), 2);

    let text = r#"{"type":"broadcast","event":"e","channel":"room:1","organizationId":"acme"}"#;
    let Message::Broadcast(broadcast) = one(text) else {
        panic!();
    };
    let to = Target::Channel("room:1".parse().unwrap(), Some("acme".into()));
    assert_eq!((broadcast.to, &broadcast.payload[..]), (to, &b"null"[..]));

    let changes = [
        (
            r#""type":"insert","new":{"id":1}"#,
            Operation::Insert,
            [true, false],
        ),
        (
            r#""type":"update","new":{"id":1},"old":{"id":1}"#,
            Operation::Update,
            [true, true],
        ),
        (
            r#""type":"delete","old":{"id":1}"#,
            Operation::Delete,
            [false, true],
        ),
        (
            r#""type":"insert","new":{"id":1},"old":null"#,
            Operation::Insert,
            [true, false],
        ),
    ];
    for (fields, op, images) in changes {
        let text = format!(r#"{{{fields},"table":"claims","organizationId":"acme"}}"#);
        let Message::Change(change) = one(&text) else {
            panic!("{text}");
        };
        assert_eq!(
            (change.op, [change.new.is_some(), change.old.is_some()]),
            (op, images)
        );
        assert_eq!(
            (&*change.table.schema, &*change.table.name),
            ("public", "claims")
        );
    }
}

#[test]
fn a_batch_is_a_list_with_its_own_fields() {
    let text = r#"{"messages":[{"type":"broadcast","event":"a","organizationId":"o"},
        {"type":"broadcast","event":"b","channel":"org:o"}],"durable":true,"idempotencyKey":"k"}"#;
    let request = parse(text.as_bytes()).unwrap();
    assert_eq!(
        (request.messages.len(), request.batch, request.durable),
        (2, true, true)
    );
    assert_eq!(request.key.as_deref(), Some("k"));
    let wrong = |second: &str| {
        code(&format!(
            r#"{{"messages":[{{"type":"broadcast","event":"a","organizationId":"o"}},{second}]}}"#
        ))
    };
    assert_eq!(
        wrong(r#"{"type":"broadcast","event":"a"}"#),
        (Some(1), "invalid_field")
    );
    assert_eq!(
        wrong(r#"{"type":"broadcast","event":"a","organizationId":"o","durable":true}"#),
        (Some(1), "invalid_field")
    );
    assert_eq!(code(r#"{"messages":[]}"#), (None, "invalid_field"));
    let many = vec![r#"{"type":"broadcast","event":"a","organizationId":"o"}"#; MAX_MESSAGES + 1];
    let many = format!(r#"{{"messages":[{}]}}"#, many.join(","));
    assert_eq!(code(&many), (None, "invalid_field"));
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let deep = format!(
        r#"{{"type":"broadcast","event":"e","organizationId":"o","payload":{}1{}}}"#,
        "[".repeat(70),
        "]".repeat(70)
    );
    let long = format!(
        r#"{{"type":"broadcast","event":"e","organizationId":"o","payload":"{}"}}"#,
        "x".repeat(MAX_PAYLOAD_BYTES)
    );
    for (text, expected) in [
        ("", "invalid_json"),
        ("[]", "invalid_field"),
        ("{", "invalid_json"),
        (
            r#"{"event":"e","organizationId":"a","payload":"\ud800"}"#,
            "invalid_json",
        ),
        ("\u{0}", "invalid_json"),
        (&*deep, "invalid_json"),
        (&*long, "invalid_field"),
        (
            r#"{"type":"shout","event":"e","organizationId":"o"}"#,
            "invalid_field",
        ),
        (r#"{"type":"broadcast","event":"e"}"#, "invalid_field"),
        (
            r#"{"type":"broadcast","organizationId":"o"}"#,
            "invalid_field",
        ),
        (
            r#"{"type":"broadcast","event":"e","organizationId":""}"#,
            "invalid_field",
        ),
        (
            r#"{"type":"broadcast","event":"e","organizationId":"o","userid":"u"}"#,
            "invalid_field",
        ),
        (
            r#"{"type":"broadcast","event":"e","organizationId":"o","targetRoles":[]}"#,
            "invalid_field",
        ),
        (
            r#"{"type":"broadcast","event":"e","organizationId":"o","table":"t"}"#,
            "invalid_field",
        ),
        (
            r#"{"type":"broadcast","event":"e","organizationId":"o","event":"f"}"#,
            "invalid_field",
        ),
        (
            r#"{"type":"broadcast","event":"e","channel":"room:1","userId":"u"}"#,
            "invalid_field",
        ),
        (
            r#"{"type":"broadcast","event":"e","channel":"user:u","organizationId":"o"}"#,
            "invalid_field",
        ),
        (
            r#"{"type":"broadcast","event":"e","organizationId":"o","idempotencyKey":""}"#,
            "invalid_field",
        ),
        (
            r#"{"type":"insert","table":"t","organizationId":"o"}"#,
            "invalid_field",
        ),
        (
            r#"{"type":"insert","table":"t","new":{"id":1}}"#,
            "invalid_field",
        ),
        (
            r#"{"type":"insert","table":"t","new":[],"organizationId":"o"}"#,
            "invalid_field",
        ),
        (
            r#"{"type":"insert","table":"t","new":{"a":1,"a":2},"organizationId":"o"}"#,
            "invalid_field",
        ),
        (
            r#"{"type":"insert","table":"t","new":{},"old":{},"organizationId":"o"}"#,
            "invalid_field",
        ),
        (
            r#"{"type":"delete","table":"t","new":{},"old":{},"organizationId":"o"}"#,
            "invalid_field",
        ),
        (
            r#"{"type":"update","table":"t","new":{},"organizationId":"o"}"#,
            "invalid_field",
        ),
        (
            r#"{"type":"insert","table":"t","new":{},"organizationId":"o","maskingConfig":{"a":{"type":"hide"}}}"#,
            "invalid_field",
        ),
        (
            r#"{"type":"insert","table":"t","new":{},"organizationId":"o","durable":true}"#,
            "durable_change",
        ),
    ] {
        assert_eq!(
            code(text).1,
            expected,
            "{}",
            text.get(..120).unwrap_or(text)
        );
    }
}
