//! What an application says in its own words, as `rowcast.broadcast`, `rowcast.send` and the like write it into
//! the log. Owns its JSON form, and whom each kind is for.
//!
//! Total: a message that somebody else wrote, or one that is too large, is none.

use std::sync::Arc;

use bytes::Bytes;
use rowcast_model::{
    Audience, Channel, HubOp, MAX_EVENT_BYTES, MAX_ID_BYTES, MAX_PAYLOAD_BYTES, MAX_TARGET_ROLES,
    Message, OrgId, Revocation, Role, RoutedEvent, Says, Topic, UserId, is_name,
};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{delivery::Head, message::Text};

/// How the functions of `sql/` begin such a message.
const BEGINNING: &[u8] = br#"{"v":1,"say":""#;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Broadcast,
    Send,
    Invalidate,
    Refresh,
    Emit,
    Revoke,
}

#[derive(Debug, Deserialize)]
struct Raw<'a> {
    v: u32,
    say: Kind,
    #[serde(borrow, default)]
    org: Option<Text<'a>>,
    #[serde(borrow, default)]
    channel: Option<Text<'a>>,
    #[serde(borrow, default)]
    event: Option<Text<'a>>,
    #[serde(borrow, default)]
    key: Option<Text<'a>>,
    #[serde(borrow, default)]
    payload: Option<&'a RawValue>,
    #[serde(borrow, default)]
    user: Option<Text<'a>>,
    #[serde(borrow, default)]
    roles: Option<Vec<Text<'a>>>,
    #[serde(default)]
    epoch: Option<i64>,
    #[serde(borrow, default)]
    reason: Option<Text<'a>>,
}

/// One message that can be used.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Saying {
    /// Something to deliver.
    Message(Topic, Audience, Message),
    /// A channel ends for those who are on it.
    Revoke(Revocation),
}

impl Saying {
    /// Whether a message is of this form, and not about rows.
    pub(crate) fn is_one(content: &[u8]) -> bool {
        content.starts_with(BEGINNING)
    }

    /// Reads a message; `None` when it cannot be used.
    pub(crate) fn parse(content: &[u8]) -> Option<Saying> {
        let raw: Raw<'_> = serde_json::from_slice(content).ok()?;
        if raw.v != 1 {
            return None;
        }
        let name = |text: &Option<Text<'_>>| -> Option<Option<Arc<str>>> {
            match text {
                None => Some(None),
                Some(text) => is_name(&text.0, MAX_ID_BYTES).then(|| Some(Arc::from(&*text.0))),
            }
        };
        let organization = name(&raw.org)?.map(OrgId);
        let payload = match raw.payload {
            Some(json) if json.get().len() > MAX_PAYLOAD_BYTES => return None,
            Some(json) => Bytes::copy_from_slice(json.get().as_bytes()),
            None => Bytes::from_static(b"null"),
        };
        let says = match raw.say {
            Kind::Broadcast | Kind::Send => {
                let event = raw
                    .event
                    .filter(|event| is_name(&event.0, MAX_EVENT_BYTES))?;
                let event = Arc::from(&*event.0);
                Says::Broadcast { event, payload }
            }
            Kind::Invalidate | Kind::Refresh => Says::Stale {
                key: name(&raw.key)??,
                refresh: matches!(raw.say, Kind::Refresh),
            },
            Kind::Emit => Says::Data {
                key: name(&raw.key)??,
                data: payload,
            },
            Kind::Revoke => {
                return Some(Saying::Revoke(Revocation {
                    organization,
                    channel: name(&raw.channel)??,
                    epoch: raw.epoch,
                    reason: name(&raw.reason)?,
                }));
            }
        };
        let mut audience = Audience::default();
        let topic = match &says {
            Says::Stale { key, .. } | Says::Data { key, .. } => {
                Topic::Channel(None, format!("key:{key}").into())
            }
            Says::Broadcast { .. } if matches!(raw.say, Kind::Broadcast) => {
                audience.user = name(&raw.user)?.map(UserId);
                let roles = raw.roles.unwrap_or_default();
                if roles.len() > MAX_TARGET_ROLES {
                    return None;
                }
                audience.required_roles = roles.iter().map(|role| Role::from(&*role.0)).collect();
                Topic::Org(organization?)
            }
            Says::Broadcast { .. } => match name(&raw.channel)??.parse().ok()? {
                Channel::Org(organization) => Topic::Org(organization),
                Channel::User(user) => {
                    audience.user = Some(user.clone());
                    Topic::User(user)
                }
                channel @ Channel::Tenant(..) => {
                    let name = channel.to_string().into();
                    let Channel::Tenant(organization, _) = channel else {
                        return None;
                    };
                    Topic::Channel(Some(organization), name)
                }
                Channel::Named(name) => Topic::Channel(organization, name),
            },
        };
        let sender = None;
        Some(Saying::Message(topic, audience, Message { says, sender }))
    }

    /// The step for the hub.
    pub(crate) fn into_op(self, head: Head, index: u32) -> HubOp {
        match self {
            Saying::Revoke(revocation) => HubOp::Revoke(revocation),
            Saying::Message(topic, audience, message) => {
                HubOp::Event(Arc::new(RoutedEvent::message(
                    head.cursor(index),
                    head.time(),
                    topic,
                    audience,
                    Arc::new(message),
                )))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Option<Saying> {
        assert!(Saying::is_one(text.as_bytes()), "{text}");
        Saying::parse(text.as_bytes())
    }

    fn broadcast(event: &str, payload: &'static str) -> Message {
        Message::broadcast(event, Bytes::from_static(payload.as_bytes()))
    }

    #[test]
    fn reads_every_kind() {
        let nobody = Audience::default;
        let mut targeted = nobody();
        targeted.required_roles = ["r".into()].into();
        targeted.user = Some("u".into());
        assert_eq!(
            read(
                r#"{"v":1,"say":"broadcast","org":"acme","event":"a:b","payload":{"x": 1},"user":"u","roles":["r"]}"#
            ),
            Some(Saying::Message(
                Topic::Org("acme".into()),
                targeted,
                broadcast("a:b", r#"{"x": 1}"#)
            ))
        );
        let sent = |channel: &str, org: &str| {
            let text = format!(
                r#"{{"v":1,"say":"send","channel":"{channel}"{org},"event":"e","payload":null}}"#
            );
            match read(&text) {
                Some(Saying::Message(topic, audience, _)) => Some((topic, audience.user)),
                _ => None,
            }
        };
        let channel = |org: Option<&str>, name: &str| {
            let topic = Topic::Channel(org.map(OrgId::from), name.into());
            Some((topic, None))
        };
        let acme = r#","org":"acme""#;
        assert_eq!(sent("room:1", acme), channel(Some("acme"), "room:1"));
        assert_eq!(sent("announcements", ""), channel(None, "announcements"));
        assert_eq!(
            sent("tenant:acme:orders", ""),
            channel(Some("acme"), "tenant:acme:orders")
        );
        let anna = UserId::from("anna");
        let to_anna = Some((Topic::User(anna.clone()), Some(anna)));
        assert_eq!(sent("user:anna", ""), to_anna);
        assert_eq!(
            sent("org:acme", ""),
            Some((Topic::Org("acme".into()), None))
        );
        assert_eq!(sent("org:", ""), None);
        let key = |says| {
            let topic = Topic::Channel(None, "key:tasks.list".into());
            let sender = None;
            Some(Saying::Message(topic, nobody(), Message { says, sender }))
        };
        for (kind, refresh) in [("invalidate", false), ("refresh", true)] {
            let text = format!(r#"{{"v":1,"say":"{kind}","key":"tasks.list"}}"#);
            let stale = Says::Stale {
                key: "tasks.list".into(),
                refresh,
            };
            assert_eq!(read(&text), key(stale));
        }
        assert_eq!(
            read(r#"{"v":1,"say":"emit","key":"tasks.list","payload":[1]}"#),
            key(Says::Data {
                key: "tasks.list".into(),
                data: Bytes::from_static(b"[1]"),
            })
        );
        assert_eq!(
            read(
                r#"{"v":1,"say":"revoke","channel":"room:1","org":"acme","epoch":7,"reason":"left"}"#
            ),
            Some(Saying::Revoke(Revocation {
                organization: Some("acme".into()),
                channel: "room:1".into(),
                epoch: Some(7),
                reason: Some("left".into()),
            }))
        );
    }

    #[test]
    fn refuses_what_cannot_be_used() {
        let long = "x".repeat(MAX_PAYLOAD_BYTES);
        for bad in [
            r#"{"v":1,"say":"shout","org":"acme","event":"e"}"#.to_owned(),
            r#"{"v":1,"say":"broadcast","event":"e"}"#.to_owned(),
            r#"{"v":1,"say":"broadcast","org":"","event":"e"}"#.to_owned(),
            r#"{"v":1,"say":"broadcast","org":"acme"}"#.to_owned(),
            r#"{"v":1,"say":"broadcast","org":"acme","event":"a\nb"}"#.to_owned(),
            r#"{"v":1,"say":"send","event":"e"}"#.to_owned(),
            r#"{"v":1,"say":"emit"}"#.to_owned(),
            r#"{"v":1,"say":"revoke"}"#.to_owned(),
            format!(r#"{{"v":1,"say":"broadcast","org":"acme","event":"e","payload":"{long}"}}"#),
        ] {
            assert_eq!(read(&bad), None, "{}", bad.get(..80).unwrap_or(&bad));
        }
    }

    proptest! {
        #[test]
        fn never_panics(rest in ".{0,80}", field in "org|channel|event|key|payload|user|roles|epoch|reason", value in "[0-9]|null|\\[\\]|\"x\"|\\{\\}") {
            let _ = Saying::parse(rest.as_bytes());
            let _ = read(&format!(r#"{{"v":1,"say":"send","{field}":{value}{rest}}}"#));
            let _ = read(&format!(r#"{{"v":1,"say":"send","{field}":{value}}}"#));
        }
    }
}
