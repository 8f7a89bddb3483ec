use super::super::{
    Version, close, crashed, heartbeat_reply, joined, presence_diff, presence_state, reply,
    reply_with, system,
};
use crate::{Frame, is_binary, payload_of};

const TOPIC: &str = "realtime:room:1";

fn text(frame: &Frame) -> &str {
    let (payload, rest) = payload_of(frame).unwrap();
    assert!(rest.is_empty() && !is_binary(frame));
    std::str::from_utf8(payload).unwrap()
}

#[test]
fn replies_of_version_2_are_lists() {
    use Version::V2;
    let ids = [
        (r#"{"event":"*","schema":"public"}"#.into(), 7),
        ("{ }".into(), 8),
    ];
    for (frame, expected) in [
        (
            joined(V2, Some("6"), Some("6"), TOPIC, &ids),
            r#"["6","6","realtime:room:1","phx_reply",{"status":"ok","response":{"postgres_changes":[{"event":"*","schema":"public","id":7},{"id":8}]}}]"#,
        ),
        (
            joined(V2, Some("6"), Some("6"), TOPIC, &[]),
            r#"["6","6","realtime:room:1","phx_reply",{"status":"ok","response":{"postgres_changes":[]}}]"#,
        ),
        (
            reply(V2, Some("6"), Some("7"), TOPIC, Ok("{}")),
            r#"["6","7","realtime:room:1","phx_reply",{"status":"ok","response":{}}]"#,
        ),
        (
            reply(V2, None, Some("7"), TOPIC, Err("unmatched \"topic\"")),
            r#"[null,"7","realtime:room:1","phx_reply",{"status":"error","response":{"reason":"unmatched \"topic\""}}]"#,
        ),
        (
            reply_with(V2, Some("6"), Some("7"), TOPIC, false, "{}"),
            r#"["6","7","realtime:room:1","phx_reply",{"status":"error","response":{}}]"#,
        ),
        (
            heartbeat_reply(V2, Some("9")),
            r#"[null,"9","phoenix","phx_reply",{"status":"ok","response":{}}]"#,
        ),
        (
            close(V2, TOPIC, Some("6")),
            r#"["6","6","realtime:room:1","phx_close",{}]"#,
        ),
        (
            crashed(V2, TOPIC, Some("6")),
            r#"["6","6","realtime:room:1","phx_error",{}]"#,
        ),
        (
            system(
                V2,
                Some("6"),
                TOPIC,
                "postgres_changes",
                true,
                "Subscribed to PostgreSQL",
            ),
            r#"["6",null,"realtime:room:1","system",{"extension":"postgres_changes","status":"ok","message":"Subscribed to PostgreSQL","channel":"room:1"}]"#,
        ),
        (
            presence_state(
                V2,
                Some("6"),
                TOPIC,
                br#"{"me":{"metas":[{"phx_ref":"a"}]}}"#,
            ),
            r#"["6",null,"realtime:room:1","presence_state",{"me":{"metas":[{"phx_ref":"a"}]}}]"#,
        ),
        (
            presence_diff(V2, TOPIC, b"{}", br#"{"me":{"metas":[]}}"#),
            r#"[null,null,"realtime:room:1","presence_diff",{"joins":{},"leaves":{"me":{"metas":[]}}}]"#,
        ),
    ] {
        assert_eq!(text(&frame), expected);
    }
}

#[test]
fn replies_of_version_1_are_objects_without_a_join() {
    use Version::V1;
    for (frame, expected) in [
        (
            joined(V1, Some("6"), Some("6"), TOPIC, &[]),
            r#"{"topic":"realtime:room:1","event":"phx_reply","payload":{"status":"ok","response":{"postgres_changes":[]}},"ref":"6"}"#,
        ),
        (
            heartbeat_reply(V1, Some("9")),
            r#"{"topic":"phoenix","event":"phx_reply","payload":{"status":"ok","response":{}},"ref":"9"}"#,
        ),
        (
            close(V1, TOPIC, Some("6")),
            r#"{"topic":"realtime:room:1","event":"phx_close","payload":{},"ref":"6"}"#,
        ),
        (
            system(V1, Some("6"), TOPIC, "system", false, "no"),
            r#"{"topic":"realtime:room:1","event":"system","payload":{"extension":"system","status":"error","message":"no","channel":"room:1"},"ref":null}"#,
        ),
    ] {
        assert_eq!(text(&frame), expected);
    }
}
