//! Rows of `rowcast.client_events`. Owns reading them from text, the same from a SELECT and from the log.

use std::{collections::BTreeMap, sync::Arc};

use rowcast_model::{
    Becomes, CLIENT_EVENT_BYTES, ClientEventChange, ClientEventRule, Edge, FIELD_CHARS, Field,
    FieldKind, FunctionName, Handler, InputSchema, MAX_EVENT_BYTES, MAX_PAYLOAD_BYTES, MOST_FIELDS,
    Pattern, RateRule, Role, SENDER_FIELD, ThrottleRule, is_name,
};
use serde::Deserialize;

use crate::{RoutingError, array_text::text_elements};

const TABLE: &str = "client_events";

/// What a row says of a field: `"int"`, or `{"type": "text", "trim": true, "maxLength": 1000}`.
#[derive(Deserialize)]
#[serde(untagged)]
enum RawField {
    Name(KindName),
    Object(RawObject),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawObject {
    #[serde(default)]
    r#type: KindName,
    required: Option<bool>,
    #[serde(default)]
    trim: bool,
    #[serde(default)]
    min_length: usize,
    max_length: Option<usize>,
    max_items: Option<usize>,
}

#[derive(Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum KindName {
    #[default]
    Text,
    Int,
    Number,
    Boolean,
    Uuid,
    Object,
    Array,
    Any,
}

impl From<KindName> for RawObject {
    fn from(r#type: KindName) -> RawObject {
        RawObject {
            r#type,
            required: None,
            trim: false,
            min_length: 0,
            max_length: None,
            max_items: None,
        }
    }
}

fn field((name, raw): (String, RawField)) -> Field {
    let raw = match raw {
        RawField::Name(name) => name.into(),
        RawField::Object(raw) => raw,
    };
    let kind = match raw.r#type {
        KindName::Text => FieldKind::Text {
            min: raw.min_length,
            max: raw.max_length.unwrap_or(FIELD_CHARS),
            trim: raw.trim,
        },
        KindName::Int => FieldKind::Int,
        KindName::Number => FieldKind::Number,
        KindName::Boolean => FieldKind::Boolean,
        KindName::Uuid => FieldKind::Uuid,
        KindName::Object => FieldKind::Object,
        KindName::Array => FieldKind::Array(raw.max_items.unwrap_or(usize::MAX)),
        KindName::Any => FieldKind::Any,
    };
    Field {
        name: name.into(),
        kind,
        required: raw.required.unwrap_or(true),
    }
}

/// The rule that a row of `rowcast.client_events` stands for; `get` gives the text of a column, `None` for null.
///
/// # Errors
/// When a column is missing or cannot be read. Such an event is refused.
pub fn client_event_from_text<'a>(
    get: &dyn Fn(&str) -> Option<&'a str>,
) -> Result<ClientEventChange, RoutingError> {
    let need = |column| {
        get(column).ok_or(RoutingError::Missing {
            table: TABLE,
            column,
        })
    };
    let invalid =
        |column, value: &str, expected| RoutingError::invalid(TABLE, column, value, expected);
    let number = |column: &'static str, most: u32| match get(column) {
        None => Ok(None),
        Some(text) => match text.parse::<u32>() {
            Ok(number) if (1..=most).contains(&number) => Ok(Some(number)),
            _ => Err(invalid(
                column,
                text,
                "a whole number that is not 0 nor too large",
            )),
        },
    };
    let text = need("pattern")?;
    let pattern: Pattern = text
        .parse()
        .map_err(|_| invalid("pattern", text, "a pattern such as room:*"))?;
    let event = need("event")?;
    let becomes = match (get("handler"), get("webhook"), get("relay")) {
        (Some(function), None, None) => {
            let named = function.parse::<FunctionName>();
            let named = named.map_err(|_| invalid("handler", function, "schema.function"))?;
            Becomes::Question(Handler::Function(named))
        }
        (None, Some(webhook), None) => Becomes::Question(Handler::Webhook(webhook.into())),
        (None, None, Some(relay)) if is_name(relay, MAX_EVENT_BYTES) => {
            Becomes::Relay(relay.into())
        }
        _ => {
            let expected = "one of handler, webhook and relay";
            return Err(invalid("handler", event, expected));
        }
    };
    // Nobody's roles shall not turn out to be everybody's.
    let roles = get("required_roles").unwrap_or("{}");
    let named = text_elements(roles)
        .filter(|named| !named.is_empty() || roles == "{}")
        .ok_or_else(|| invalid("required_roles", roles, "an array such as {a,b}"))?;
    let input = match get("input") {
        None => None,
        Some(json) => {
            let wrong = || invalid("input", json, "fields such as {\"room_id\": \"int\"}");
            let fields: BTreeMap<String, RawField> =
                serde_json::from_str(json).map_err(|_| wrong())?;
            let relayed = matches!(becomes, Becomes::Relay(_));
            if fields.len() > MOST_FIELDS || (relayed && fields.contains_key(SENDER_FIELD)) {
                return Err(wrong());
            }
            Some(InputSchema(fields.into_iter().map(field).collect()))
        }
    };
    let max_bytes = number(
        "max_bytes",
        u32::try_from(MAX_PAYLOAD_BYTES).unwrap_or(u32::MAX),
    )?;
    let edge = match get("throttle_edge") {
        None | Some("trailing") => Edge::Trailing,
        Some("leading") => Edge::Leading,
        Some(other) => return Err(invalid("throttle_edge", other, "trailing or leading")),
    };
    let throttle = number("throttle_per_second", 1000)?.map(|per_second| ThrottleRule {
        interval_ms: 1000_u32.div_ceil(per_second),
        edge,
    });
    let window_ms = number("rate_window_ms", 86_400_000)?.unwrap_or(60_000);
    let rate = number("rate_limit", u32::MAX)?.map(|limit| RateRule {
        limit,
        window_ms,
        key: get("rate_key").unwrap_or("rate").into(),
    });
    let rule = ClientEventRule {
        pattern,
        event: event.into(),
        becomes,
        roles: named.into_iter().map(Role::from).collect(),
        input,
        max_bytes: max_bytes.map_or(CLIENT_EVENT_BYTES, |bytes| bytes as usize),
        throttle,
        rate,
    };
    Ok(ClientEventChange {
        pattern: text.into(),
        event: event.into(),
        now: Some(Arc::new(rule)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<ClientEventRule, RoutingError> {
        let defaults = [
            ("pattern", "room:*"),
            ("event", "join"),
            ("max_bytes", "100"),
        ];
        let owned: BTreeMap<&str, &str> = defaults.iter().chain(pairs).copied().collect();
        let get = |name: &str| owned.get(name).copied();
        client_event_from_text(&get).map(|change| (*change.now.unwrap()).clone())
    }

    #[test]
    fn reads_what_a_row_says() {
        let rule = read(&[
            ("handler", "app.on_join"),
            ("required_roles", "{member,admin}"),
            (
                "input",
                r#"{"content":{"trim":true,"minLength":1,"maxLength":1000},"room_id":"int","items":{"type":"array","maxItems":9,"required":false}}"#,
            ),
            ("throttle_per_second", "20"),
            ("throttle_edge", "leading"),
            ("rate_limit", "100"),
            ("rate_window_ms", "60000"),
            ("rate_key", "chat"),
        ])
        .unwrap();
        let function = Handler::Function("app.on_join".parse().unwrap());
        assert_eq!(rule.becomes, Becomes::Question(function));
        assert_eq!(rule.roles.len(), 2);
        assert_eq!(rule.max_bytes, 100);
        let field = |name: &str, kind, required| Field {
            name: name.into(),
            kind,
            required,
        };
        let content = FieldKind::Text {
            min: 1,
            max: 1000,
            trim: true,
        };
        assert_eq!(
            rule.input.unwrap().0.as_ref(),
            [
                field("content", content, true),
                field("items", FieldKind::Array(9), false),
                field("room_id", FieldKind::Int, true),
            ]
        );
        let throttle = ThrottleRule {
            interval_ms: 50,
            edge: Edge::Leading,
        };
        assert_eq!(rule.throttle, Some(throttle));
        let rate = rule.rate.unwrap();
        assert_eq!(
            (rate.limit, rate.window_ms, &*rate.key),
            (100, 60_000, "chat")
        );
    }

    #[test]
    fn what_cannot_be_read_is_no_rule() {
        let relay = ("relay", "cursor_update");
        assert!(read(&[relay]).is_ok());
        for bad in [
            &[][..],
            &[relay, ("handler", "app.f")],
            &[("handler", "f")],
            &[relay, ("pattern", "org:*")],
            &[relay, ("required_roles", "{NULL}")],
            &[relay, ("required_roles", "x")],
            &[relay, ("input", "[]")],
            &[relay, ("input", r#"{"a":"strange"}"#)],
            &[relay, ("input", r#"{"a":{"type":"int","other":1}}"#)],
            &[relay, ("input", r#"{"user_id":"text"}"#)],
            &[relay, ("throttle_per_second", "0")],
            &[relay, ("throttle_edge", "both")],
            &[relay, ("rate_limit", "-1")],
            &[relay, ("max_bytes", "9999999")],
        ] {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }
}
