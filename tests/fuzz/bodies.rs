//! Bodies of `POST /broadcast`: whatever comes is taken for what it says, or refused with a short sentence.

use rowcast_gateway::broadcast::body::{MAX_MESSAGES, Message, parse};
use serde::de::IgnoredAny;

use super::engine::fuzz;

const BODIES: &[&str] = &[
    r#"{"type":"broadcast","event":"a:b","payload":{"x":[1,"\u00e9",null]},"organizationId":"acme","userId":"u","targetRoles":["admin"]}"#,
    r#"{"type":"broadcast","event":"e","channel":"room:1","organizationId":"acme","durable":true,"idempotencyKey":"k"}"#,
    r#"{"type":"insert","table":"claims","schema":"public","new":{"id":"c_1","n":-1.5e3,"b":true,"j":{"a":[]}},"organizationId":"acme"}"#,
    r#"{"type":"update","table":"claims","new":{"id":2},"old":{"id":1},"organizationId":"acme"}"#,
    r#"{"type":"delete","table":"claims","old":{"id":1},"organizationId":"acme","targetRoles":["a","b"]}"#,
    r#"{"messages":[{"type":"broadcast","event":"e","channel":"user:u"},{"type":"insert","table":"t","new":{"":""},"organizationId":"o"}],"idempotencyKey":"k"}"#,
];

#[test]
fn fuzz_broadcast_bodies() {
    let bodies = BODIES.iter().map(|text| text.as_bytes().to_vec()).collect();
    let json = |bytes: &[u8]| {
        serde_json::from_slice::<IgnoredAny>(bytes).expect("what is told is JSON");
    };
    fuzz("broadcast bodies", bodies, |input| match parse(input) {
        Ok(request) => {
            assert!((1..=MAX_MESSAGES).contains(&request.messages.len()));
            assert!(request.batch || request.messages.len() == 1);
            let mut kinds = [0_u8; 2];
            for message in &request.messages {
                match message {
                    Message::Broadcast(broadcast) => {
                        assert!(!broadcast.event.is_empty());
                        json(&broadcast.payload);
                        kinds[0] = kinds[0].saturating_add(1);
                    }
                    Message::Change(change) => {
                        assert!(!request.durable && !change.table.name.is_empty());
                        assert!(change.new.is_some() || change.old.is_some());
                        for row in change.new.iter().chain(&change.old) {
                            let mut out = Vec::new();
                            row.values.write_object(&mut out, |_| true);
                            json(&out);
                        }
                        kinds[1] = kinds[1].saturating_add(1);
                    }
                }
            }
            (kinds, "", 0)
        }
        Err(refusal) => {
            // It goes back to whoever sent it: short, whatever was sent.
            let said = refusal.error.to_string();
            assert!(said.chars().count() <= 500, "{said}");
            ([0, 0], refusal.error.code(), said.len() / 8)
        }
    });
}
