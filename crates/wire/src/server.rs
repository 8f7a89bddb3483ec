//! Frames of the service that are not events: replies, signs of life, and news about subscriptions.

mod client_event;
mod presence;

use rowcast_model::{Cursor, OrgId, Role, Timestamp};
use serde::Serialize;

pub use self::{
    client_event::{EventAnswer, EventError, event_error, event_reply},
    presence::{
        PresencePlace, presence_count, presence_diff, presence_done, presence_list, presence_state,
    },
};
use crate::{CloseCode, ErrorCode, Frame, Ref, text_frame, write_iso_millis};

fn frame(message: &impl Serialize) -> Frame {
    // Nothing here can fail to serialize: plain text, numbers and checked references.
    text_frame(&serde_json::to_vec(message).unwrap_or_default())
}

/// How somebody proved who they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthMethod {
    /// A token of a person.
    Session,
    /// An API key of a machine.
    ApiKey,
}

/// What `auth_success` says.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthSuccess<'a> {
    /// The first of the roles, as old clients expect one.
    pub role: Option<&'a Role>,
    /// All roles in the organization.
    pub roles: &'a [Role],
    /// How.
    pub auth_method: AuthMethod,
    /// Who.
    pub user_id: &'a str,
    /// Where.
    pub organization_id: &'a str,
    /// Number of this connection, for the operator's logs.
    pub connection_id: &'a str,
    /// Milliseconds after which silence ends the socket; send a `ping` more often. Absent on event streams,
    /// which nobody can say anything on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ping_timeout_ms: Option<u64>,
    /// Seconds until the token expires, if it does.
    pub expires_in: Option<u64>,
}

/// `auth_success`.
pub fn auth_success(message: &AuthSuccess<'_>) -> Frame {
    #[derive(Serialize)]
    struct Typed<'a> {
        r#type: &'a str,
        #[serde(flatten)]
        message: &'a AuthSuccess<'a>,
    }
    frame(&Typed {
        r#type: "auth_success",
        message,
    })
}

#[derive(Serialize)]
struct Message<'a> {
    r#type: &'a str,
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    reference: Option<&'a Ref>,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(rename = "as", skip_serializing_if = "Option::is_none")]
    form: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cursor: Option<&'a Cursor>,
    #[serde(rename = "expiresIn", skip_serializing_if = "Option::is_none")]
    expires_in: Option<u64>,
}

impl<'a> Message<'a> {
    fn new(kind: &'a str) -> Message<'a> {
        Message {
            r#type: kind,
            reference: None,
            code: None,
            name: None,
            message: None,
            channel: None,
            reason: None,
            form: None,
            cursor: None,
            expires_in: None,
        }
    }
}

/// The reply to `subscribe`: everything after `cursor` is delivered.
pub fn subscribed(reference: Option<&Ref>, channel: &str, cursor: &Cursor) -> Frame {
    frame(&Message {
        reference,
        channel: Some(channel),
        cursor: Some(cursor),
        ..Message::new("subscribed")
    })
}

/// The reply to `broadcast`: it was said, at this position.
pub fn ack(reference: &Ref, channel: &str, cursor: &Cursor) -> Frame {
    frame(&Message {
        reference: Some(reference),
        channel: Some(channel),
        cursor: Some(cursor),
        ..Message::new("ack")
    })
}

/// The reply to `unsubscribe`, or (with a reason) the end of a subscription that nobody asked to end.
pub fn unsubscribed(reference: Option<&Ref>, channel: &str, reason: Option<&str>) -> Frame {
    frame(&Message {
        reference,
        channel: Some(channel),
        reason,
        ..Message::new("unsubscribed")
    })
}

/// The end of a subscription to a channel of the application that nobody asked to end. `epoch` is the number
/// of the access list that counts from here on.
pub fn taken_off(
    channel: &str,
    organization: Option<&OrgId>,
    reason: &str,
    epoch: Option<i64>,
) -> Frame {
    #[derive(Serialize)]
    struct TakenOff<'a> {
        r#type: &'a str,
        channel: &'a str,
        reason: &'a str,
        #[serde(rename = "organizationId", skip_serializing_if = "Option::is_none")]
        organization: Option<&'a OrgId>,
        #[serde(skip_serializing_if = "Option::is_none")]
        epoch: Option<i64>,
    }
    frame(&TakenOff {
        r#type: "unsubscribed",
        channel,
        reason,
        organization,
        epoch,
    })
}

/// A numbered error; `reference` is that of the request it answers.
pub fn error(reference: Option<&Ref>, code: ErrorCode, message: &str) -> Frame {
    frame(&Message {
        reference,
        code: Some(code.number()),
        name: Some(code.name()),
        message: Some(message),
        ..Message::new("error")
    })
}

/// An error of which the application says why: `reason` is its own code.
pub fn refusal(reference: Option<&Ref>, code: ErrorCode, message: &str, reason: &str) -> Frame {
    frame(&Message {
        reference,
        code: Some(code.number()),
        name: Some(code.name()),
        message: Some(message),
        reason: Some(reason),
        ..Message::new("error")
    })
}

/// The reply to `token`.
pub fn token_refreshed(reference: Option<&Ref>, expires_in_seconds: Option<u64>) -> Frame {
    frame(&Message {
        reference,
        expires_in: expires_in_seconds,
        ..Message::new("token_refreshed")
    })
}

/// Asks the client for a sign of life.
pub fn ping() -> Frame {
    Frame::from_static(b"\x81\x0f{\"type\":\"ping\"}")
}

/// The answer to a client's `ping`.
pub fn pong(reference: Option<&Ref>) -> Frame {
    frame(&Message {
        reference,
        ..Message::new("pong")
    })
}

/// What came before `cursor` on this channel cannot be told: read the data again.
pub fn resync(channel: &str, reason: &str, cursor: &Cursor) -> Frame {
    frame(&Message {
        channel: Some(channel),
        reason: Some(reason),
        cursor: Some(cursor),
        ..Message::new("resync")
    })
}

/// The same, told to very many at once: each should read after a time of its own.
pub fn resync_after(channel: &str, reason: &str, cursor: &Cursor, after_ms: u64) -> Frame {
    #[derive(Serialize)]
    struct Resync<'a> {
        r#type: &'a str,
        channel: &'a str,
        reason: &'a str,
        cursor: &'a Cursor,
        #[serde(rename = "readAfterMs")]
        after_ms: u64,
    }
    frame(&Resync {
        r#type: "resync",
        channel,
        reason,
        cursor,
        after_ms,
    })
}

/// What changed before `cursor` on this channel was told as invalidations; what comes next stands behind it.
pub fn recovered(channel: &str, cursor: &Cursor) -> Frame {
    frame(&Message {
        channel: Some(channel),
        form: Some("invalidations"),
        cursor: Some(cursor),
        ..Message::new("recovered")
    })
}

/// A transaction is complete whose last event this subscriber did not get.
pub fn commit(channel: &str, cursor: &Cursor) -> Frame {
    frame(&Message {
        channel: Some(channel),
        cursor: Some(cursor),
        ..Message::new("commit")
    })
}

/// The receiver's own membership changed; `roles` is absent when it ended.
pub fn membership(organization: &str, roles: Option<&[Role]>) -> Frame {
    #[derive(Serialize)]
    struct Membership<'a> {
        r#type: &'a str,
        #[serde(rename = "organizationId")]
        organization: &'a str,
        roles: Option<&'a [Role]>,
    }
    frame(&Membership {
        r#type: "membership",
        organization,
        roles,
    })
}

/// Everything up to `cursor` was sent on every channel of this socket.
pub fn position(cursor: &Cursor) -> Frame {
    frame(&Message {
        cursor: Some(cursor),
        ..Message::new("position")
    })
}

#[derive(Serialize)]
struct Status<'a> {
    r#type: &'a str,
    state: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
}

/// The log is read as it is written.
pub fn status_live() -> Frame {
    frame(&Status {
        r#type: "status",
        state: "live",
        since: None,
        reason: None,
    })
}

/// What happened in the database after `since` is not known here at present, and why.
pub fn status_stale(since: Timestamp, reason: &str) -> Frame {
    let mut text = Vec::with_capacity(24);
    write_iso_millis(since, &mut text);
    frame(&Status {
        r#type: "status",
        state: "stale",
        since: std::str::from_utf8(&text).ok(),
        reason: Some(reason),
    })
}

/// The service closes this socket next; come back after so long, or not before something is changed.
pub fn goodbye(reason: &str, retry_after_ms: Option<u64>) -> Frame {
    #[derive(Serialize)]
    struct Goodbye<'a> {
        r#type: &'a str,
        reason: &'a str,
        #[serde(rename = "retryAfterMs")]
        retry_after_ms: Option<u64>,
    }
    frame(&Goodbye {
        r#type: "goodbye",
        reason,
        retry_after_ms,
    })
}

/// The last event of a stream, which has no close frame: why it ends, and when to come back, if at all.
pub fn closed(code: CloseCode, retry_after_ms: Option<u64>) -> Frame {
    #[derive(Serialize)]
    struct Closed<'a> {
        r#type: &'a str,
        code: u16,
        name: &'a str,
        message: &'a str,
        #[serde(rename = "retryAfterMs")]
        retry_after_ms: Option<u64>,
    }
    frame(&Closed {
        r#type: "closed",
        code: code.number(),
        name: code.name(),
        message: code.sentence(),
        retry_after_ms,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use rowcast_model::{Epoch, Lsn};

    fn text(frame: &Frame) -> &str {
        let (payload, rest) = crate::payload_of(frame).unwrap();
        assert!(rest.is_empty());
        std::str::from_utf8(payload).unwrap()
    }

    #[test]
    fn say_what_the_documents_say() {
        let cursor = Cursor::after_commit(Epoch(1), Lsn(255));
        let reference = Ref::from_json("7").unwrap();
        assert_eq!(
            text(&subscribed(Some(&reference), "org:\"x", &cursor)),
            r#"{"type":"subscribed","ref":7,"channel":"org:\"x","cursor":"00000001-ff-z"}"#
        );
        assert_eq!(
            text(&ack(&reference, "room:1", &cursor)),
            r#"{"type":"ack","ref":7,"channel":"room:1","cursor":"00000001-ff-z"}"#
        );
        assert_eq!(
            text(&unsubscribed(None, "org:1", Some("membership_removed"))),
            r#"{"type":"unsubscribed","channel":"org:1","reason":"membership_removed"}"#
        );
        assert_eq!(
            text(&error(None, ErrorCode::NotMember, "no")),
            r#"{"type":"error","code":206,"name":"not_member","message":"no"}"#
        );
        assert_eq!(
            text(&resync_after("org:1", "too_old", &cursor, 7)),
            r#"{"type":"resync","channel":"org:1","reason":"too_old","cursor":"00000001-ff-z","readAfterMs":7}"#
        );
        assert_eq!(
            text(&resync("org:1", "too_old", &cursor)),
            r#"{"type":"resync","channel":"org:1","reason":"too_old","cursor":"00000001-ff-z"}"#
        );
        assert_eq!(
            text(&position(&cursor)),
            r#"{"type":"position","cursor":"00000001-ff-z"}"#
        );
        assert_eq!(text(&status_live()), r#"{"type":"status","state":"live"}"#);
        assert_eq!(
            text(&status_stale(Timestamp(0), "a \"b\"")),
            r#"{"type":"status","state":"stale","since":"1970-01-01T00:00:00.000Z","reason":"a \"b\""}"#
        );
        assert_eq!(
            text(&goodbye("restarting", Some(7))),
            r#"{"type":"goodbye","reason":"restarting","retryAfterMs":7}"#
        );
        assert_eq!(text(&ping()), r#"{"type":"ping"}"#);
        assert_eq!(text(&pong(Some(&reference))), r#"{"type":"pong","ref":7}"#);
        assert_eq!(
            text(&membership("o", None)),
            r#"{"type":"membership","organizationId":"o","roles":null}"#
        );
        assert!(text(&commit("org:1", &cursor)).starts_with(r#"{"type":"commit","channel""#));
        assert_eq!(
            text(&token_refreshed(None, Some(60))),
            r#"{"type":"token_refreshed","expiresIn":60}"#
        );
    }

    /// MISSION Q25.
    #[test]
    fn auth_success_has_role_roles_and_method() {
        let roles = ["admin".into(), "member".into()];
        let success = AuthSuccess {
            role: roles.first(),
            roles: &roles,
            auth_method: AuthMethod::ApiKey,
            user_id: "u",
            organization_id: "o",
            connection_id: "c",
            ping_timeout_ms: Some(30_000),
            expires_in: None,
        };
        assert!(text(&auth_success(&success)).starts_with(
            r#"{"type":"auth_success","role":"admin","roles":["admin","member"],"authMethod":"api_key","userId":"u""#
        ));
    }
}
