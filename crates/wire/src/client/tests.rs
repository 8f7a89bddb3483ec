//! Every frame, every refusal.

use super::*;

fn read(text: &str) -> Result<ClientFrame, FrameError> {
    parse(text.as_bytes(), &Limits::default())
}

fn refusal(text: &str) -> ErrorCode {
    read(text).unwrap_err().code
}

#[test]
fn reads_every_frame() {
    let auth = read(r#"{"type":"auth","token":"t","organizationId":"org_1","x":1}"#);
    let expected = Auth {
        token: "t".into(),
        organization: Some("org_1".into()),
        cursor: None,
    };
    assert_eq!(auth, Ok(ClientFrame::Auth(expected)));
    assert_eq!(read(r#"{"type":"pong"}"#), Ok(ClientFrame::Pong));
    let Ok(ClientFrame::Ping { reference }) = read(r#"{"type":"ping","ref":17}"#) else {
        panic!("no ping");
    };
    assert_eq!(reference.unwrap().as_json(), "17");
    let Ok(ClientFrame::Subscribe(subscribe)) = read(
        r#"{"type":"subscribe","ref":"a","channel":"org:1","events":["invalidations"],
            "mode":"latest","cursor":"00000001-ff-z","tables":[{"table":"t","columns":["id"],
            "filter":{"column":"n","op":"gt","value":12345678901234567890.5}}]}"#,
    ) else {
        panic!("no subscribe");
    };
    assert_eq!(subscribe.mode, Mode::Latest);
    assert!(!subscribe.forms.changes && subscribe.forms.invalidations);
    assert_eq!(subscribe.cursor.unwrap().to_string(), "00000001-ff-z");
    assert!(subscribe.tables.unwrap()[0].filter.is_some());
}

#[test]
fn refuses_with_a_code() {
    use ErrorCode as E;
    for (text, code) in [
        ("", E::MalformedJson),
        ("{", E::MalformedJson),
        ("[]", E::InvalidField),
        ("{}", E::UnknownType),
        (r#"{"type":"x"}"#, E::UnknownType),
        (r#"{"type":7}"#, E::InvalidField),
        (r#"{"type":"auth"}"#, E::InvalidField),
        (r#"{"type":"ping","ref":{}}"#, E::InvalidField),
        (
            r#"{"type":"subscribe","channel":"room:"}"#,
            E::UnknownChannel,
        ),
        (
            r#"{"type":"auth","token":"t","cursor":"x"}"#,
            E::InvalidCursor,
        ),
        (
            r#"{"type":"subscribe","channel":"org:1","cursor":"x"}"#,
            E::InvalidCursor,
        ),
        (
            r#"{"type":"subscribe","channel":"org:1","tables":[]}"#,
            E::InvalidTables,
        ),
        (
            r#"{"type":"subscribe","channel":"org:1","events":[]}"#,
            E::InvalidField,
        ),
        (
            r#"{"type":"subscribe","channel":"org:1","mode":"x"}"#,
            E::InvalidField,
        ),
        (
            r#"{"type":"subscribe","channel":"org:1","tables":[{"table":"t","filter":{}}]}"#,
            E::InvalidFilter,
        ),
    ] {
        assert_eq!(refusal(text), code, "{text}");
    }
    assert_eq!(refusal(&"[".repeat(17)), E::TooDeep);
    assert_eq!(refusal(&" ".repeat(70_000)), E::TooLarge);
}

#[test]
fn an_error_keeps_the_ref_and_hides_the_token() {
    let error = read(r#"{"type":"nonsense","ref":"r1"}"#).unwrap_err();
    assert_eq!(error.reference.unwrap().as_json(), r#""r1""#);
    let auth = read(r#"{"type":"auth","token":"sesame"}"#).unwrap();
    assert!(!format!("{auth:?}").contains("sesame"));
}

#[test]
fn brackets_in_strings_do_not_count() {
    assert!(!deeper_than(br#"{"a":"[[[[\"[[["}"#, 2));
    assert!(deeper_than(b"[[[", 2));
}
