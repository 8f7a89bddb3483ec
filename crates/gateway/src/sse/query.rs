//! What an event stream is asked for, from the address: a text of its own for what a `subscribe` frame says, read
//! by the reader of that frame. Pure.

use axum::http::{HeaderMap, Uri};
use rowcast_model::{Channel, OrgId};
use rowcast_wire::{ClientFrame, CursorList, ErrorCode, Limits, Subscribe, deeper_than, parse};
use serde::Serialize;
use serde_json::value::RawValue;

use super::{grants::Brought, refusal::Refusal};

/// Channels of one stream.
pub(super) const CHANNELS: usize = 16;
/// The header that names the organization.
pub(super) const ORGANIZATION: &str = "x-organization-id";
/// The header with the place to go on from.
pub(super) const LAST_EVENT_ID: &str = "last-event-id";

/// What is asked for. Each parameter at most once, but for the channel.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Wanted {
    /// None: those that a socket begins with.
    pub channels: Vec<String>,
    pub organization: Option<String>,
    /// What the application has signed about channels.
    pub grants: Brought,
    /// The id to go on behind.
    last: Option<String>,
    events: Option<Vec<String>>,
    mode: Option<String>,
    tables: Option<String>,
    presence: Option<String>,
}

pub(super) fn bad(message: impl Into<String>) -> Refusal {
    Refusal::new(ErrorCode::InvalidParameter, message)
}

impl Wanted {
    /// Reads address and headers.
    ///
    /// # Errors
    /// What cannot be used, and what would.
    pub(super) fn read(uri: &Uri, headers: &HeaderMap) -> Result<Wanted, Refusal> {
        let pairs = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(uri);
        let pairs = pairs.map_err(|_| bad("the parameters of the address cannot be read"))?;
        let mut wanted = Wanted::default();
        for (name, value) in pairs.0 {
            wanted.take(&name, value)?;
        }
        let text = |name: &str| {
            let value = headers.get(name).map(|value| value.to_str());
            let value = value.transpose();
            value.map_err(|_| bad(format!("the header `{name}` is not plain text")))
        };
        if let Some(last) = text(LAST_EVENT_ID)?.filter(|last| !last.is_empty()) {
            // A client that comes back sends it beside the address that it began with.
            wanted.last = Some(last.to_owned());
        }
        wanted.grants = Brought::read(headers)?;
        if let Some(named) = text(ORGANIZATION)? {
            let other = wanted.organization.replace(named.to_owned());
            if other.is_some_and(|other| other != named) {
                let message = "the parameter `organization` and the header `X-Organization-Id` name different organizations; send one of them";
                return Err(bad(message));
            }
        }
        Ok(wanted)
    }

    fn take(&mut self, name: &str, value: String) -> Result<(), Refusal> {
        let once = |place: &mut Option<String>, value: String| match place.replace(value) {
            None => Ok(()),
            Some(_) => Err(bad(format!("the parameter `{name}` is there twice"))),
        };
        match name {
            "channel" if self.channels.len() == CHANNELS => Err(bad(format!(
                "a stream has at most {CHANNELS} channels; open another one"
            ))),
            "channel" if self.channels.contains(&value) => {
                Err(bad(format!("the channel `{value}` is there twice")))
            }
            "channel" => {
                self.channels.push(value);
                Ok(())
            }
            "organization" => once(&mut self.organization, value),
            "cursor" => once(&mut self.last, value),
            "mode" => once(&mut self.mode, value),
            "tables" => once(&mut self.tables, value),
            "presence" => once(&mut self.presence, value),
            "events" => {
                let forms = value.split(',').map(|form| form.trim().to_owned());
                match self.events.replace(forms.collect()) {
                    None => Ok(()),
                    Some(_) => Err(bad("the parameter `events` is there twice")),
                }
            }
            "token" | "access_token" | "apikey" | "api_key" | "jwt" | "authorization" => {
                Err(Refusal::of(ErrorCode::TokenInAddress))
            }
            "grant" | "grants" => Err(Refusal::new(
                ErrorCode::TokenInAddress,
                "addresses are written down in many places: send a grant in the header `Rowcast-Grant`",
            )),
            other => {
                let shown: String = other.chars().take(40).collect();
                Err(bad(format!(
                    "the parameter `{shown}` is not known; known are channel, organization, events, mode, tables, presence, cursor"
                )))
            }
        }
    }

    /// The places to go on behind, for so many channels.
    pub(super) fn places(&self, channels: usize) -> Result<CursorList, Refusal> {
        match &self.last {
            None => Ok(CursorList::nowhere(channels)),
            Some(last) => CursorList::parse(last, channels).map_err(|_| {
                Refusal::new(
                    ErrorCode::InvalidCursor,
                    "the id to go on behind (Last-Event-ID, or the parameter `cursor`) was not handed out for these channels; leave it away to start from now",
                )
            }),
        }
    }

    /// The subscription to a channel.
    pub(super) fn subscription(
        &self,
        channel: &Channel,
        organization: &OrgId,
        limits: &Limits,
    ) -> Result<Subscribe, Refusal> {
        #[derive(Serialize)]
        struct Frame<'a> {
            r#type: &'a str,
            channel: &'a str,
            #[serde(rename = "organizationId")]
            organization: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            events: Option<&'a [String]>,
            #[serde(skip_serializing_if = "Option::is_none")]
            mode: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            tables: Option<&'a RawValue>,
            #[serde(skip_serializing_if = "Option::is_none")]
            presence: Option<serde_json::Value>,
        }
        let tables = self.tables.as_deref().map(|text| tables(text, limits));
        let tables = tables.transpose()?;
        let frame = Frame {
            r#type: "subscribe",
            channel: &channel.to_string(),
            organization: organization.as_str(),
            events: self.events.as_deref(),
            mode: self.mode.as_deref(),
            tables: tables.as_deref(),
            presence: self.presence.as_deref().map(|text| match text {
                "true" => true.into(),
                "false" => false.into(),
                text => text.into(),
            }),
        };
        let text = serde_json::to_vec(&frame).map_err(|error| bad(error.to_string()))?;
        match parse(&text, limits) {
            Ok(ClientFrame::Subscribe(subscribe)) => Ok(*subscribe),
            Ok(_) => Err(Refusal::of(ErrorCode::Internal)),
            Err(error) => Err(Refusal::new(error.code, error.message)),
        }
    }
}

/// A table list: JSON as in a `subscribe` frame, or names with commas between them.
fn tables(text: &str, limits: &Limits) -> Result<Box<RawValue>, Refusal> {
    #[derive(Serialize)]
    struct Named<'a> {
        schema: Option<&'a str>,
        table: &'a str,
    }
    if text.trim_start().starts_with('[') {
        if deeper_than(text.as_bytes(), limits.json_depth) {
            return Err(Refusal::of(ErrorCode::TooDeep));
        }
        let raw = serde_json::from_str::<Box<RawValue>>(text);
        return raw.map_err(|error| bad(format!("the parameter `tables`: {error}")));
    }
    let names = text
        .split(',')
        .map(|name| match name.trim().split_once('.') {
            Some((schema, table)) => Named {
                schema: Some(schema),
                table,
            },
            None => Named {
                schema: None,
                table: name.trim(),
            },
        });
    serde_json::value::to_raw_value(&names.collect::<Vec<_>>()).map_err(|e| bad(e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(query: &str) -> Result<Wanted, Refusal> {
        let uri: Uri = format!("/realtime/v1/events?{query}").parse().unwrap();
        Wanted::read(&uri, &HeaderMap::new())
    }

    fn subscribe(query: &str) -> Result<Subscribe, Refusal> {
        let channel = "org:a".parse().unwrap();
        read(query)?.subscription(&channel, &"a".into(), &Limits::default())
    }

    #[test]
    fn an_address_says_what_a_frame_says() {
        let frame = br#"{"type":"subscribe","channel":"org:a","organizationId":"a","events":["changes","invalidations"],"mode":"latest",
            "tables":[{"table":"x","columns":["id"],"filter":{"column":"id","op":"eq","value":1}}]}"#;
        let Ok(ClientFrame::Subscribe(frame)) = parse(frame, &Limits::default()) else {
            panic!("not a subscription");
        };
        let query = "events=changes,invalidations&mode=latest&tables=%5B%7B%22table%22:%22x%22,%22columns%22:%5B%22id%22%5D,\
            %22filter%22:%7B%22column%22:%22id%22,%22op%22:%22eq%22,%22value%22:1%7D%7D%5D";
        assert_eq!(subscribe(query).unwrap(), *frame);
        let tables = subscribe("tables=x,audit.y").unwrap().tables.unwrap();
        assert_eq!((&*tables[0].table, &tables[0].schema), ("x", &None));
        assert_eq!(
            (&*tables[1].table, &tables[1].schema),
            ("y", &Some("audit".into()))
        );
    }

    #[test]
    fn what_cannot_be_used_is_named() {
        for (query, code, says) in [
            ("chanel=x", ErrorCode::InvalidParameter, "`chanel`"),
            ("mode=a&mode=b", ErrorCode::InvalidParameter, "`mode`"),
            ("channel=a&channel=a", ErrorCode::InvalidParameter, "twice"),
            ("token=x", ErrorCode::TokenInAddress, "Authorization"),
            ("apikey=x", ErrorCode::TokenInAddress, "Authorization"),
            ("mode=some", ErrorCode::InvalidField, "some"),
            ("events=rows", ErrorCode::InvalidField, "`events`"),
            ("tables=%5B%5D", ErrorCode::InvalidTables, "`tables`"),
            ("tables=%5B%7B", ErrorCode::InvalidParameter, "`tables`"),
            (
                "tables=%5B%5D,%22channel%22:%22org:b%22",
                ErrorCode::InvalidParameter,
                "`tables`",
            ),
        ] {
            let refusal = subscribe(query).unwrap_err();
            assert_eq!(refusal.code, code, "{query}");
            assert!(
                refusal.message.contains(says),
                "{query}: {}",
                refusal.message
            );
        }
        let many: String = (0..=CHANNELS)
            .map(|i| format!("&channel=room:{i}"))
            .collect();
        assert!(read(&many).unwrap_err().message.contains("at most 16"));
        let refused = read("cursor=x").unwrap().places(1).unwrap_err();
        assert_eq!(refused.code, ErrorCode::InvalidCursor);
    }

    proptest! {
        /// Whatever stands in the address, the subscription is to the channel that was checked.
        #[test]
        fn no_parameter_leaves_its_place(tables in "[\\[\\]{}\",:a-z]{0,40}", mode in "[\",:a-z]{0,10}") {
            let wanted = Wanted { tables: Some(tables), mode: Some(mode), ..Wanted::default() };
            let channel = "org:a".parse().unwrap();
            if let Ok(subscribe) = wanted.subscription(&channel, &"a".into(), &Limits::default()) {
                prop_assert_eq!(subscribe.channel, channel);
                prop_assert_eq!(subscribe.organization, Some("a".into()));
            }
        }
    }
}
