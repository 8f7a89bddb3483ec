//! What a client says of itself on a channel, and asks about the others there. Owns the shape of that frame; who the
//! client is, whether the channel has members, and how large a state may be, is for the hub to decide.

use std::borrow::Cow;

use bytes::Bytes;
use rowcast_model::{Channel, OrgId};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{FrameError, channel, deeper_than, field, fields, is_sound, organization};
use crate::Ref;

/// Nesting of a state, itself included.
const STATE_DEPTH: usize = 8;
/// Most users in one answer.
pub const MAX_LISTED: usize = 100;

/// What a subscriber wants to know of who is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Follow {
    /// Who, and how many.
    List,
    /// How many.
    Count,
}

/// A `presence` frame of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientPresence {
    /// When there is one, the frame is answered.
    pub reference: Option<Ref>,
    /// Where.
    pub channel: Channel,
    /// In which organization a name of the application is meant; absent: that of the socket.
    pub organization: Option<OrgId>,
    /// What.
    pub action: PresenceAction,
}

/// What a client does on a channel that has members.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PresenceAction {
    /// This connection is there from here on, with this state: the text of a JSON object.
    Join(Bytes),
    /// Its state is another one.
    Update(Bytes),
    /// It is not there any more.
    Leave,
    /// Who is there, some at a time.
    List {
        /// Behind the user of this number.
        after: Option<u64>,
        /// At most so many.
        limit: usize,
    },
}

impl PresenceAction {
    /// Its name on the wire.
    pub fn name(&self) -> &'static str {
        match self {
            PresenceAction::Join(_) => "join",
            PresenceAction::Update(_) => "update",
            PresenceAction::Leave => "leave",
            PresenceAction::List { .. } => "list",
        }
    }
}

#[derive(Deserialize)]
struct Raw<'a> {
    #[serde(borrow)]
    channel: Cow<'a, str>,
    #[serde(borrow)]
    action: Cow<'a, str>,
    #[serde(borrow)]
    state: Option<&'a RawValue>,
    #[serde(rename = "organizationId")]
    organization: Option<String>,
    after: Option<u64>,
    limit: Option<usize>,
}

/// Reads the fields of the frame.
pub(super) fn read(text: &str, reference: Option<Ref>) -> Result<ClientPresence, FrameError> {
    let raw: Raw<'_> = fields(text)?;
    let state = |raw: Option<&RawValue>| {
        let text = raw.map_or("{}", RawValue::get);
        let bounded = text.starts_with('{') && !deeper_than(text.as_bytes(), STATE_DEPTH);
        let fits = bounded && is_sound(text);
        match fits {
            true => Ok(Bytes::copy_from_slice(text.as_bytes())),
            false => Err(field(format!(
                "`state` must be a JSON object of at most {STATE_DEPTH} levels"
            ))),
        }
    };
    let action = match &*raw.action {
        "join" => PresenceAction::Join(state(raw.state)?),
        "update" => PresenceAction::Update(state(raw.state)?),
        "leave" => PresenceAction::Leave,
        "list" => PresenceAction::List {
            after: raw.after,
            limit: raw.limit.unwrap_or(MAX_LISTED).clamp(1, MAX_LISTED),
        },
        _ => return Err(field("`action` must be join, update, leave or list")),
    };
    Ok(ClientPresence {
        reference,
        channel: channel(&raw.channel)?,
        organization: organization(raw.organization)?,
        action,
    })
}

/// What `presence` of a subscription may be: true, false, `"list"` or `"count"`.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum RawFollow<'a> {
    Flag(bool),
    Word(#[serde(borrow)] Cow<'a, str>),
}

impl RawFollow<'_> {
    pub(super) fn read(&self) -> Result<Option<Follow>, FrameError> {
        match self {
            RawFollow::Flag(false) => Ok(None),
            RawFollow::Flag(true) => Ok(Some(Follow::List)),
            RawFollow::Word(word) => match &**word {
                "list" => Ok(Some(Follow::List)),
                "count" => Ok(Some(Follow::Count)),
                _ => Err(field(
                    "`presence` must be true, false, \"list\" or \"count\"",
                )),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ClientFrame, ErrorCode, Limits, parse};

    fn parsed(text: &str) -> Result<ClientFrame, ErrorCode> {
        parse(text.as_bytes(), &Limits::default()).map_err(|error| error.code)
    }

    fn action(fields: &str) -> Result<PresenceAction, ErrorCode> {
        let text = format!(r#"{{"type":"presence","channel":"room:1",{fields}}}"#);
        match parsed(&text)? {
            ClientFrame::Presence(presence) => Ok(presence.action),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn actions_are_read_and_checked() {
        let state = Bytes::from_static(br#"{"name": "Ada"}"#);
        assert_eq!(
            action(r#""action":"join","state":{"name": "Ada"}"#),
            Ok(PresenceAction::Join(state.clone()))
        );
        assert_eq!(
            action(r#""action":"update","state":{"name": "Ada"}"#),
            Ok(PresenceAction::Update(state))
        );
        let empty = PresenceAction::Join(Bytes::from_static(b"{}"));
        assert_eq!(action(r#""action":"join""#), Ok(empty));
        assert_eq!(action(r#""action":"leave""#), Ok(PresenceAction::Leave));
        let list = |after, limit| Ok(PresenceAction::List { after, limit });
        assert_eq!(action(r#""action":"list""#), list(None, MAX_LISTED));
        assert_eq!(
            action(r#""action":"list","after":7,"limit":3"#),
            list(Some(7), 3)
        );
        assert_eq!(
            action(r#""action":"list","limit":1000000"#),
            list(None, MAX_LISTED)
        );
        let deep = format!("{}{}", r#"{"a":"#.repeat(8), "1") + &"}".repeat(8);
        assert!(action(&format!(r#""action":"join","state":{deep}"#)).is_ok());
        let deeper = format!(r#"{{"a":{deep}}}"#);
        for bad in [
            r#""action":"stay""#,
            r#""action":"join","state":[]"#,
            r#""action":"join","state":"x""#,
            r#""action":"join","state":7"#,
            r#""action":"join","state":{"a":"\ud83d"}"#,
            r#""action":"join","state":{"\udc00":1}"#,
            r#""action":"list","after":-1"#,
            r#""state":{}"#,
            &format!(r#""action":"join","state":{deeper}"#),
        ] {
            assert_eq!(action(bad), Err(ErrorCode::InvalidField), "{bad}");
        }
    }

    #[test]
    fn a_subscription_says_what_it_wants_to_know() {
        let follow = |presence: &str| {
            let text = format!(r#"{{"type":"subscribe","channel":"room:1"{presence}}}"#);
            match parsed(&text) {
                Ok(ClientFrame::Subscribe(subscribe)) => Ok(subscribe.presence),
                Ok(other) => panic!("{other:?}"),
                Err(code) => Err(code),
            }
        };
        assert_eq!(follow(""), Ok(None));
        assert_eq!(follow(r#","presence":false"#), Ok(None));
        assert_eq!(follow(r#","presence":true"#), Ok(Some(Follow::List)));
        assert_eq!(follow(r#","presence":"list""#), Ok(Some(Follow::List)));
        assert_eq!(follow(r#","presence":"count""#), Ok(Some(Follow::Count)));
        for bad in [r#","presence":"all""#, r#","presence":3"#] {
            assert_eq!(follow(bad), Err(ErrorCode::InvalidField), "{bad}");
        }
    }
}
