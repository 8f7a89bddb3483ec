//! Frames of the service to one Phoenix client: replies, and news about its channels. Payloads of text frames are
//! always objects: clients look into them without asking.

use std::sync::Arc;

use super::{Version, envelope::Envelope};
use crate::{Frame, event::string};

/// The answer to a push: `{"status":"ok","response":…}` with an object as JSON text, or the reason of an error.
pub fn reply(
    version: Version,
    join_ref: Option<&str>,
    reference: Option<&str>,
    topic: &str,
    answer: Result<&str, &str>,
) -> Frame {
    match answer {
        Ok(response) => reply_with(version, join_ref, reference, topic, true, response),
        Err(reason) => {
            let mut response = br#"{"reason":"#.to_vec();
            string(&mut response, reason);
            response.push(b'}');
            let response = String::from_utf8(response).unwrap_or_default();
            reply_with(version, join_ref, reference, topic, false, &response)
        }
    }
}

/// The answer to a push with any response: an object as JSON text.
pub fn reply_with(
    version: Version,
    join_ref: Option<&str>,
    reference: Option<&str>,
    topic: &str,
    ok: bool,
    response: &str,
) -> Frame {
    let envelope = Envelope {
        version,
        join_ref,
        reference,
        topic,
        event: "phx_reply",
    };
    envelope.frame(|json| {
        json.extend_from_slice(br#"{"status":""#);
        json.extend_from_slice(if ok { b"ok" } else { b"error" });
        json.extend_from_slice(br#"","response":"#);
        json.extend_from_slice(response.as_bytes());
        json.push(b'}');
    })
}

/// The answer to a join: each binding as the client sent it, in its order, with its number.
pub fn joined(
    version: Version,
    join_ref: Option<&str>,
    reference: Option<&str>,
    topic: &str,
    bindings: &[(Arc<str>, u32)],
) -> Frame {
    let mut response = String::from(r#"{"postgres_changes":["#);
    for (i, (echo, id)) in bindings.iter().enumerate() {
        if i > 0 {
            response.push(',');
        }
        // An echo is an object; of two members of one name, readers take the last.
        let open = echo.strip_suffix('}').unwrap_or("{").trim_end();
        response.push_str(open);
        if open.len() > 1 {
            response.push(',');
        }
        response.push_str(r#""id":"#);
        response.push_str(&id.to_string());
        response.push('}');
    }
    response.push_str("]}");
    reply_with(version, join_ref, reference, topic, true, &response)
}

/// The answer to a heartbeat.
pub fn heartbeat_reply(version: Version, reference: Option<&str>) -> Frame {
    reply_with(version, None, reference, "phoenix", true, "{}")
}

/// The end of a channel: the client does not come back by itself.
pub fn close(version: Version, topic: &str, join_ref: Option<&str>) -> Frame {
    ended(version, topic, join_ref, "phx_close")
}

/// The end of a channel that the client joins again.
pub fn crashed(version: Version, topic: &str, join_ref: Option<&str>) -> Frame {
    ended(version, topic, join_ref, "phx_error")
}

fn ended(version: Version, topic: &str, join_ref: Option<&str>, event: &str) -> Frame {
    // Clients listen to it only with their join as its reference.
    let envelope = Envelope {
        version,
        join_ref,
        reference: join_ref,
        topic,
        event,
    };
    envelope.frame(|json| json.extend_from_slice(b"{}"))
}

/// A `system` message about a channel. `extension` is `postgres_changes` or `system`.
pub fn system(
    version: Version,
    join_ref: Option<&str>,
    topic: &str,
    extension: &str,
    ok: bool,
    message: &str,
) -> Frame {
    let envelope = Envelope {
        version,
        join_ref,
        reference: None,
        topic,
        event: "system",
    };
    envelope.frame(|json| {
        json.extend_from_slice(br#"{"extension":"#);
        string(json, extension);
        json.extend_from_slice(br#","status":""#);
        json.extend_from_slice(if ok { b"ok" } else { b"error" });
        json.extend_from_slice(br#"","message":"#);
        string(json, message);
        json.extend_from_slice(br#","channel":"#);
        string(json, topic.strip_prefix("realtime:").unwrap_or(topic));
        json.push(b'}');
    })
}

/// Who is on a channel: an object of keys with `{"metas":[…]}`, as JSON text.
pub fn presence_state(
    version: Version,
    join_ref: Option<&str>,
    topic: &str,
    state: &[u8],
) -> Frame {
    let envelope = Envelope {
        version,
        join_ref,
        reference: None,
        topic,
        event: "presence_state",
    };
    envelope.frame(|json| json.extend_from_slice(state))
}

/// Who came and who went, each as in [`presence_state`].
pub fn presence_diff(version: Version, topic: &str, joins: &[u8], leaves: &[u8]) -> Frame {
    let envelope = Envelope {
        version,
        join_ref: None,
        reference: None,
        topic,
        event: "presence_diff",
    };
    envelope.frame(|json| {
        json.extend_from_slice(br#"{"joins":"#);
        json.extend_from_slice(joins);
        json.extend_from_slice(br#","leaves":"#);
        json.extend_from_slice(leaves);
        json.push(b'}');
    })
}
