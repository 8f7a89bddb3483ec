//! Rows of `rowcast.channels` and `rowcast.event_namespaces`. Owns reading them from text, the same from a SELECT
//! and from the log.

use std::{collections::BTreeMap, sync::Arc};

use rowcast_model::{
    Authorizer, ChannelChange, ChannelRule, Handler, NamespaceChange, PARAMETER_BYTES,
    ParameterKind, Pattern, Role, Scope, Who,
};
use serde::Deserialize;

use crate::{RoutingError, array_text::text_elements};

const TABLE: &str = "channels";

/// What a row says of a parameter: `"int"`, or `{"type": "text", "maxLength": 40}`.
#[derive(Deserialize)]
#[serde(untagged)]
enum RawKind {
    Name(KindName),
    #[serde(rename_all = "camelCase")]
    Object {
        #[serde(default)]
        r#type: KindName,
        max_length: Option<usize>,
    },
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum KindName {
    #[default]
    Text,
    Int,
    Uuid,
}

impl From<&RawKind> for ParameterKind {
    fn from(raw: &RawKind) -> ParameterKind {
        let (name, most) = match raw {
            RawKind::Name(name) => (*name, None),
            RawKind::Object { r#type, max_length } => (*r#type, *max_length),
        };
        match name {
            KindName::Text => ParameterKind::Text(most.unwrap_or(PARAMETER_BYTES)),
            KindName::Int => ParameterKind::Int,
            KindName::Uuid => ParameterKind::Uuid,
        }
    }
}

/// The rule that a row of `rowcast.channels` stands for; `get` gives the text of a column, `None` for null.
///
/// # Errors
/// When a column is missing or cannot be read. Such a channel is nobody's.
pub fn channel_from_text<'a>(
    get: &dyn Fn(&str) -> Option<&'a str>,
) -> Result<ChannelChange, RoutingError> {
    let need = |column| {
        get(column).ok_or(RoutingError::Missing {
            table: TABLE,
            column,
        })
    };
    let invalid =
        |column, value: &str, expected| RoutingError::invalid(TABLE, column, value, expected);
    let list = |column| match get(column) {
        None => Ok(None),
        Some(text) => text_elements(text)
            .map(Some)
            .ok_or_else(|| invalid(column, text, "an array such as {a,b}")),
    };
    let text = need("pattern")?;
    let pattern: Pattern = text
        .parse()
        .map_err(|_| invalid("pattern", text, "a pattern such as room:*"))?;
    let parameter = match get("parameter") {
        None => None,
        Some(name) => Some(
            pattern
                .parameters()
                .position(|parameter| **parameter == *name)
                .ok_or_else(|| invalid("parameter", name, "a parameter of the pattern"))?,
        ),
    };
    let roles: Arc<[Role]> = list("roles")?
        .unwrap_or_default()
        .into_iter()
        .map(Role::from)
        .collect();
    let rule = need("rule")?;
    let who = match (rule, parameter) {
        ("public", None) if roles.is_empty() => Who::Public,
        ("user", Some(at)) if roles.is_empty() => Who::User(at),
        ("tenant", Some(at)) => Who::Tenant(at, roles),
        ("role", None) if !roles.is_empty() => Who::Roles(roles),
        ("role", Some(at)) if roles.is_empty() => Who::RoleNamed(at),
        ("authorized", None) if roles.is_empty() => Who::Authorized(Arc::new(authorizer(get)?)),
        _ => {
            let expected = "public, user, tenant, role or authorized with the parameter or roles that it needs";
            return Err(invalid("rule", rule, expected));
        }
    };
    let of_an_organization = matches!(who, Who::Tenant(..) | Who::Roles(_) | Who::RoleNamed(_));
    let scope = match need("scope")? {
        "organization" => Scope::Organization,
        "global" if !of_an_organization => Scope::Global,
        other => {
            let expected = "organization, or global where the rule is not about an organization";
            return Err(invalid("scope", other, expected));
        }
    };
    let flag = |column| match get(column) {
        None | Some("f" | "false") => Ok(false),
        Some("t" | "true") => Ok(true),
        Some(other) => Err(invalid(column, other, "true or false")),
    };
    let json = get("parameters").unwrap_or("{}");
    let kinds: BTreeMap<String, RawKind> = serde_json::from_str(json)
        .map_err(|_| invalid("parameters", json, "an object such as {\"id\": \"int\"}"))?;
    let kind = |name: &Arc<str>| match kinds.get(&**name) {
        Some(raw) => raw.into(),
        None => ParameterKind::Text(PARAMETER_BYTES),
    };
    let rule = ChannelRule {
        parameters: pattern.parameters().map(kind).collect(),
        pattern,
        who,
        scope,
        relay: flag("relay")?,
        presence: flag("presence")?,
        events: list("events")?.map(|events| events.into_iter().map(Arc::from).collect()),
    };
    Ok(ChannelChange {
        pattern: text.into(),
        now: Some(Arc::new(rule)),
    })
}

/// How the application is asked about a channel.
fn authorizer<'a>(get: &dyn Fn(&str) -> Option<&'a str>) -> Result<Authorizer, RoutingError> {
    let invalid =
        |column, value: &str, expected| RoutingError::invalid(TABLE, column, value, expected);
    let handler = match (get("authorizer"), get("webhook")) {
        (None, None) => None,
        (Some(name), None) => {
            Some(Handler::Function(name.parse().map_err(|_| {
                invalid("authorizer", name, "a function such as app.may_join")
            })?))
        }
        (None, Some(name)) => Some(Handler::Webhook(name.into())),
        (Some(_), Some(name)) => return Err(invalid("webhook", name, "null beside an authorizer")),
    };
    let ttl = get("ttl_seconds").unwrap_or("300");
    let ttl_seconds = ttl
        .parse()
        .ok()
        .filter(|seconds| (1..=86_400).contains(seconds));
    let grants = matches!(get("grants"), Some("t" | "true"));
    if handler.is_none() && !grants {
        return Err(invalid(
            "rule",
            "authorized",
            "authorized with an authorizer, a webhook or grants",
        ));
    }
    Ok(Authorizer {
        handler,
        ttl_seconds: ttl_seconds
            .ok_or_else(|| invalid("ttl_seconds", ttl, "1 to 86400 seconds"))?,
        grants,
    })
}

/// The declaration that a row of `rowcast.event_namespaces` stands for.
///
/// # Errors
/// When a column is missing or cannot be read.
pub fn namespace_from_text<'a>(
    get: &dyn Fn(&str) -> Option<&'a str>,
) -> Result<NamespaceChange, RoutingError> {
    const TABLE: &str = "event_namespaces";
    let need = |column| {
        get(column).ok_or(RoutingError::Missing {
            table: TABLE,
            column,
        })
    };
    let text = need("events")?;
    let events = text_elements(text)
        .ok_or_else(|| RoutingError::invalid(TABLE, "events", text, "an array such as {a,b}"))?;
    Ok(NamespaceChange {
        namespace: need("namespace")?.into(),
        events: Some(events.into_iter().map(Arc::from).collect()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<ChannelRule, RoutingError> {
        let defaults = [("scope", "organization"), ("roles", "{}")];
        let owned: BTreeMap<&str, &str> = defaults.iter().chain(pairs).copied().collect();
        let get = |name: &str| owned.get(name).copied();
        channel_from_text(&get).map(|change| (*change.now.unwrap()).clone())
    }

    #[test]
    fn reads_every_rule() {
        let who = |pairs: &[(&str, &str)]| read(pairs).map(|rule| rule.who).ok();
        let (pattern, rule) = (("pattern", "a:{x}:{y}"), |rule| ("rule", rule));
        let y = ("parameter", "y");
        let admin: Arc<[Role]> = [Role::from("admin")].into();
        let roles = ("roles", "{admin}");
        assert_eq!(who(&[pattern, rule("public")]), Some(Who::Public));
        assert_eq!(who(&[pattern, rule("user"), y]), Some(Who::User(1)));
        let authorized = |handler, ttl_seconds, grants| {
            Some(Who::Authorized(Arc::new(Authorizer {
                handler,
                ttl_seconds,
                grants,
            })))
        };
        let function = ("authorizer", "app.may_join");
        let (asks, hook, grants) = (rule("authorized"), ("webhook", "rooms"), ("grants", "t"));
        assert_eq!(
            who(&[pattern, asks, function, ("ttl_seconds", "60")]),
            authorized(
                Some(Handler::Function("app.may_join".parse().unwrap())),
                60,
                false
            )
        );
        assert_eq!(
            who(&[pattern, asks, hook, grants]),
            authorized(Some(Handler::Webhook("rooms".into())), 300, true)
        );
        assert_eq!(who(&[pattern, asks, grants]), authorized(None, 300, true));
        let tenant = Some(Who::Tenant(1, admin.clone()));
        assert_eq!(who(&[pattern, rule("tenant"), y, roles]), tenant);
        assert_eq!(
            who(&[pattern, rule("role"), roles]),
            Some(Who::Roles(admin))
        );
        assert_eq!(who(&[pattern, rule("role"), y]), Some(Who::RoleNamed(1)));
        for bad in [
            &[pattern, rule("public"), y][..],
            &[pattern, rule("public"), roles],
            &[pattern, rule("user")],
            &[pattern, rule("user"), ("parameter", "z")],
            &[pattern, rule("tenant")],
            &[pattern, rule("role")],
            &[pattern, rule("nobody")],
            &[pattern],
            &[pattern, asks],
            &[pattern, asks, function, hook],
            &[pattern, asks, ("authorizer", "f()")],
            &[pattern, asks, function, roles],
            &[pattern, asks, function, ("ttl_seconds", "0")],
            &[rule("public")],
            &[("pattern", "a::b"), rule("public")],
            &[pattern, rule("tenant"), y, ("scope", "global")],
            &[pattern, rule("public"), ("relay", "maybe")],
            &[pattern, rule("public"), ("presence", "maybe")],
            &[pattern, rule("public"), ("parameters", "[]")],
            &[pattern, rule("public"), ("events", "a")],
        ] {
            assert_eq!(who(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn reads_what_parameters_hold() {
        let rule = read(&[
            ("pattern", "a:{n}:{u}:{t}:{d}"),
            ("rule", "public"),
            (
                "parameters",
                r#"{"n":"int","u":{"type":"uuid"},"t":{"maxLength":7}}"#,
            ),
            ("relay", "t"),
            ("presence", "true"),
            ("events", "{message,\"a b\"}"),
        ])
        .unwrap();
        let kinds = [
            ParameterKind::Int,
            ParameterKind::Uuid,
            ParameterKind::Text(7),
            ParameterKind::Text(PARAMETER_BYTES),
        ];
        assert_eq!(rule.parameters.as_slice(), kinds);
        assert!(rule.relay && rule.presence && rule.declares("a b") && !rule.declares("other"));
    }
}
