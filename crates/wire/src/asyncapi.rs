//! The sockets as an AsyncAPI document: every frame with its fields, and the numbers of errors and closes from
//! their tables. The frames that the documentation shows are checked against it (`tests/docs.rs`).

use serde_json::{Map, Value, json};

use crate::{CloseCode, ErrorCode};

/// A frame: its `type`, what it says, and its fields. A field is `name:kind`, with `?` when it may be missing; kinds are
/// `s`tring, `i`nteger, `b`oolean, `o`bject, `a`rray, `r`ef (string or number) and `v` for any value, with `n` where null may stand.
type Message = (&'static str, &'static str, &'static str);

/// What a client says.
const CLIENT: [Message; 9] = [
    (
        "auth",
        "Who it is: the first frame.",
        "token:s organizationId:s? cursor:s?",
    ),
    (
        "token",
        "A fresh token for the open socket.",
        "token:s ref:r?",
    ),
    (
        "subscribe",
        "Listen on a channel, or listen otherwise.",
        "channel:s ref:r? events:a? mode:s? cursor:s? tables:a? presence:v? grant:s? organizationId:s?",
    ),
    (
        "unsubscribe",
        "Listen on a channel no more.",
        "channel:s ref:r? organizationId:s?",
    ),
    (
        "broadcast",
        "Something for the others on a channel.",
        "channel:s event:s payload:v? self:b? ref:r? organizationId:s?",
    ),
    (
        "event",
        "Something for the handler of a channel.",
        "channel:s event:s data:v? ref:r? organizationId:s?",
    ),
    (
        "presence",
        "Comes, changes, goes, or asks who is there.",
        "channel:s action:s state:o? ref:r? limit:i? after:i? organizationId:s?",
    ),
    ("ping", "Asks for a pong.", "ref:r?"),
    ("pong", "Answers a ping.", ""),
];

/// What the service says.
const SERVER: [Message; 26] = [
    (
        "auth_success",
        "They are in.",
        "role:sn roles:a authMethod:s userId:s organizationId:s connectionId:s pingTimeoutMs:i? expiresIn:in",
    ),
    (
        "token_refreshed",
        "The fresh token counts.",
        "ref:r? expiresIn:in?",
    ),
    (
        "subscribed",
        "Everything behind the cursor is told.",
        "channel:s cursor:s ref:r?",
    ),
    (
        "unsubscribed",
        "A subscription has ended; with a reason when nobody asked for it.",
        "channel:s ref:r? reason:s? organizationId:s? epoch:i?",
    ),
    (
        "postgres_changes",
        "A row changed.",
        "table:s eventType:s schema:s new:on old:on channel:s cursor:s commitTimestamp:s unchanged:a? last:b?",
    ),
    (
        "invalidate",
        "Something changed: a record, a table, or the answer to a query.",
        "table:s? eventType:s? recordId:sn? organizationId:s? schema:s? key:s? channel:s cursor:s commitTimestamp:s last:b?",
    ),
    (
        "broadcast",
        "Somebody said something.",
        "event:s payload:v sender:o? organizationId:s? channel:s cursor:s commitTimestamp:s last:b?",
    ),
    (
        "data",
        "The new answer to a query.",
        "key:s data:v channel:s cursor:s commitTimestamp:s organizationId:s? last:b?",
    ),
    (
        "ack",
        "What was said was handed out.",
        "ref:r channel:s cursor:s",
    ),
    (
        "event_reply",
        "What the handler answers.",
        "ref:r? channel:s event:s data:v? dropped:b?",
    ),
    (
        "error",
        "A frame was refused.",
        "code:i name:s message:s ref:r? reason:v? channel:s? event:s? retryAfterMs:i?",
    ),
    (
        "presence",
        "The answer to a coming or going, or the end of it.",
        "channel:s organizationId:s? action:s ref:r? reason:s?",
    ),
    (
        "presence_state",
        "Who is there.",
        "channel:s organizationId:s? seq:i users:i connections:i members:a ref:r?",
    ),
    (
        "presence_diff",
        "Who came, changed and went.",
        "channel:s organizationId:s? seq:i users:i connections:i joins:a? updates:a? leaves:a?",
    ),
    (
        "presence_count",
        "How many are there.",
        "channel:s organizationId:s? users:i connections:i",
    ),
    (
        "presence_list",
        "A page of who is there.",
        "channel:s organizationId:s? users:i connections:i members:a next:in? ref:r?",
    ),
    (
        "commit",
        "A transaction is complete on a channel.",
        "channel:s cursor:s",
    ),
    (
        "recovered",
        "What was missed was told as invalidations.",
        "channel:s as:s cursor:s",
    ),
    (
        "resync",
        "What was missed cannot be told: read the rows again.",
        "channel:s reason:s cursor:s readAfterMs:i?",
    ),
    (
        "membership",
        "The receiver's own membership changed.",
        "organizationId:s roles:an",
    ),
    (
        "position",
        "Everything up to here was sent on every channel.",
        "cursor:s",
    ),
    (
        "status",
        "Whether the log is read at present.",
        "state:s since:s? reason:s?",
    ),
    (
        "goodbye",
        "The service closes the socket next.",
        "reason:s retryAfterMs:in",
    ),
    (
        "closed",
        "The last event of an event stream.",
        "code:i name:s message:s retryAfterMs:in",
    ),
    ("pong", "Answers a ping.", "ref:r?"),
    ("ping", "Asks for a pong.", ""),
];

fn field(kind: &str) -> Value {
    let mut types: Vec<&str> = kind
        .bytes()
        .flat_map(|byte| match byte {
            b's' => &["string"][..],
            b'i' => &["integer"],
            b'b' => &["boolean"],
            b'o' => &["object"],
            b'a' => &["array"],
            b'r' => &["string", "number"],
            b'n' => &["null"],
            _ => &[],
        })
        .copied()
        .collect();
    match (types.len(), types.pop()) {
        (_, None) => json!({}),
        (1, Some(only)) => json!({"type": only}),
        (_, Some(last)) => {
            types.push(last);
            json!({"type": types})
        }
    }
}

/// The JSON schema of a frame.
fn schema((kind, says, fields): &Message) -> Value {
    let mut properties = Map::new();
    properties.insert("type".into(), json!({"const": kind}));
    let mut required = vec!["type"];
    for (name, kind) in fields
        .split_whitespace()
        .filter_map(|one| one.split_once(':'))
    {
        properties.insert(name.into(), field(kind.trim_end_matches('?')));
        if !kind.ends_with('?') {
            required.push(name);
        }
    }
    json!({"type": "object", "description": says, "required": required, "properties": properties})
}

/// The document, AsyncAPI 3.0.
pub fn asyncapi() -> Value {
    let (mut messages, mut here) = (Map::new(), Map::new());
    let mut add = |side: &str, all: &[Message]| -> Vec<Value> {
        let of = all.iter().map(|message| {
            let name = format!("{side}_{}", message.0);
            let whole = json!({"name": message.0, "title": message.1, "contentType": "application/json", "payload": schema(message)});
            messages.insert(name.clone(), whole);
            here.insert(name.clone(), json!({"$ref": format!("#/components/messages/{name}")}));
            json!({"$ref": format!("#/channels/socket/messages/{name}")})
        });
        of.collect()
    };
    let (says, hears) = (add("client", &CLIENT), add("server", &SERVER));
    let codes = |rows: Vec<(u16, &str, bool, &str)>| -> Vec<Value> {
        let row = |(number, name, back, meaning)| json!({"number": number, "name": name, "comeBack": back, "meaning": meaning});
        rows.into_iter().map(row).collect()
    };
    let errors = ErrorCode::ALL.iter();
    let errors = errors.map(|c| (c.number(), c.name(), c.come_back(), c.sentence()));
    let closes = CloseCode::ALL.iter();
    let closes = closes.map(|c| (c.number(), c.name(), c.come_back(), c.sentence()));
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Rowcast sockets",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Row changes of a PostgreSQL database, to the people who may see them. Fields may be added to any frame; clients ignore what they do not know.",
        },
        "channels": {"socket": {"address": "/realtime/v1/websocket", "messages": here}},
        "operations": {
            "clientSays": {"action": "receive", "channel": {"$ref": "#/channels/socket"}, "messages": says},
            "serviceSays": {"action": "send", "channel": {"$ref": "#/channels/socket"}, "messages": hears},
        },
        "components": {"messages": messages},
        "x-errors": codes(errors.collect()),
        "x-closes": codes(closes.collect()),
    })
}
