//! Rules of channels: whom a pattern lets in, and what may be sent there. Owns the decision whether the
//! parameters of a name are what the rule wants; who is a member of what is for the caller to know.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use serde_json::{Map, Value};

use crate::{Handler, OrgId, Pattern, Role, UserId};

/// Longest value of a text parameter when the rule does not say.
pub const PARAMETER_BYTES: usize = 128;

/// What a parameter of a pattern holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ParameterKind {
    /// Text of at most so many bytes.
    Text(usize),
    /// A whole number of 64 bits, without leading zeros or a plus sign.
    Int,
    /// A UUID in small letters, with hyphens.
    Uuid,
}

/// Whom a channel lets in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Who {
    /// Every member of the organization; of a global channel, everybody who is authenticated.
    Public,
    /// The user named by the parameter of this number, and no machine.
    User(usize),
    /// Members of the organization named by the parameter of this number, with one of the roles unless there
    /// are none.
    Tenant(usize, Arc<[Role]>),
    /// Holders of one of these roles in the organization.
    Roles(Arc<[Role]>),
    /// Holders of the role named by the parameter of this number.
    RoleNamed(usize),
    /// Those whom the application lets in, for a while.
    Authorized(Arc<Authorizer>),
}

/// How the application says who may be on a channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Authorizer {
    /// Who is asked; `None`: clients bring what the application has signed.
    pub handler: Option<Handler>,
    /// How long a yes holds when it does not say, in seconds.
    pub ttl_seconds: u32,
    /// What the application has signed is taken.
    pub grants: bool,
}

/// What a rule says of somebody who is a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Admits<'a> {
    /// He may.
    Yes,
    /// He may not.
    No,
    /// That is for the application to say.
    Ask(&'a Arc<Authorizer>),
}

/// Where a name of a channel means the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scope {
    /// In one organization: two organizations that use one name never hear each other.
    Organization,
    /// Everywhere.
    Global,
}

/// One row of `rowcast.channels`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelRule {
    /// Which names.
    pub pattern: Pattern,
    /// What the parameters of the pattern hold, in order.
    pub parameters: SmallVec<[ParameterKind; 2]>,
    /// Whom it lets in.
    pub who: Who,
    /// How far the name reaches.
    pub scope: Scope,
    /// Clients may send.
    pub relay: bool,
    /// It has members: whoever is on it may say so, and see who is.
    pub presence: bool,
    /// The events that may be sent; `None`: any.
    pub events: Option<Arc<[Arc<str>]>>,
}

/// A change of a rule, in log order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChannelChange {
    /// The pattern, as text.
    pub pattern: Arc<str>,
    /// The rule from here on; `None`: there is none.
    pub now: Option<Arc<ChannelRule>>,
}

/// A change of the events of a namespace, in log order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceChange {
    /// What stands before the colon.
    pub namespace: Arc<str>,
    /// What may stand behind it from here on; `None`: anything.
    pub events: Option<Arc<[Arc<str>]>>,
}

/// A channel ends for those who are on it, in log order. Who may still subscribe does so again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// The organization of the channel; `None` for a global one.
    pub organization: Option<OrgId>,
    /// The channel.
    pub channel: Arc<str>,
    /// The number of its present access list, as the application counts.
    pub epoch: Option<i64>,
    /// Why, for the clients.
    pub reason: Option<Arc<str>>,
}

/// The value of a parameter is not what the rule wants.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{parameter}` of the channel pattern `{pattern}` must be {expected}")]
pub struct ArgumentError {
    /// The pattern.
    pub pattern: Arc<str>,
    /// The parameter.
    pub parameter: Arc<str>,
    /// What it must be.
    pub expected: String,
}

/// The values of the parameters of one name.
pub type Arguments<'n> = SmallVec<[&'n str; 4]>;

impl ChannelRule {
    /// The values of the parameters; `None` when the name does not fit the pattern.
    ///
    /// # Errors
    /// When it fits, but a value is not what its parameter holds.
    pub fn arguments<'n>(&self, name: &'n str) -> Option<Result<Arguments<'n>, ArgumentError>> {
        let values = self.pattern.fit(name)?;
        let kinds = self.parameters.iter();
        let wrong = values
            .iter()
            .zip(self.pattern.parameters())
            .zip(kinds)
            .find(|((value, _), kind)| !kind.holds(value));
        Some(match wrong {
            None => Ok(values),
            Some(((_, parameter), kind)) => Err(ArgumentError {
                pattern: self.pattern.as_str().into(),
                parameter: parameter.clone(),
                expected: kind.describe(),
            }),
        })
    }

    /// The values of the parameters by name, as JSON: whole numbers as numbers, all else as texts.
    pub fn arguments_json(&self, values: &[&str]) -> Map<String, Value> {
        let named = self.pattern.parameters().zip(values).zip(&self.parameters);
        let json = |((name, value), kind): ((&Arc<str>, &&str), &ParameterKind)| {
            let number = value.parse::<i64>().ok();
            let number = number.filter(|_| *kind == ParameterKind::Int);
            let value = number.map_or_else(|| Value::from(*value), Value::from);
            (name.to_string(), value)
        };
        named.map(json).collect()
    }

    /// Whether an event of this name may be sent.
    pub fn declares(&self, event: &str) -> bool {
        let events = self.events.as_ref();
        events.is_none_or(|events| events.iter().any(|one| **one == *event))
    }
}

impl Who {
    /// The organization that a name belongs to by itself.
    pub fn organization(&self, arguments: &[&str]) -> Option<OrgId> {
        match self {
            Who::Tenant(at, _) => arguments.get(*at).map(|name| OrgId::from(*name)),
            _ => None,
        }
    }

    /// Whether the rule lets somebody in who is a member: this user (`None` for a machine) with these roles.
    pub fn admits(&self, arguments: &[&str], user: Option<&UserId>, roles: &[Role]) -> Admits<'_> {
        let argument = |at: usize| arguments.get(at).copied();
        let one_of = |wanted: &[Role]| wanted.iter().any(|role| roles.contains(role));
        let admitted = match self {
            Who::Authorized(authorizer) => return Admits::Ask(authorizer),
            Who::Public => true,
            Who::User(at) => user.is_some_and(|user| argument(*at) == Some(user.as_str())),
            Who::Tenant(_, wanted) => wanted.is_empty() || one_of(wanted),
            Who::Roles(wanted) => one_of(wanted),
            Who::RoleNamed(at) => {
                argument(*at).is_some_and(|name| roles.iter().any(|role| role.as_str() == name))
            }
        };
        if admitted { Admits::Yes } else { Admits::No }
    }
}

impl ParameterKind {
    /// Whether a value is of this kind.
    pub fn holds(self, value: &str) -> bool {
        match self {
            ParameterKind::Text(most) => value.len() <= most,
            ParameterKind::Int => value
                .parse::<i64>()
                .is_ok_and(|number| number.to_string() == value),
            ParameterKind::Uuid => {
                value.len() == 36
                    && value.bytes().enumerate().all(|(at, byte)| match at {
                        8 | 13 | 18 | 23 => byte == b'-',
                        _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
                    })
            }
        }
    }

    fn describe(self) -> String {
        match self {
            ParameterKind::Text(most) => format!("a text of at most {most} bytes"),
            ParameterKind::Int => "a whole number".into(),
            ParameterKind::Uuid => "a UUID in small letters".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(pattern: &str, parameters: &[ParameterKind], who: Who) -> ChannelRule {
        ChannelRule {
            pattern: pattern.parse().unwrap(),
            parameters: parameters.into(),
            who,
            scope: Scope::Organization,
            relay: false,
            presence: false,
            events: None,
        }
    }

    #[test]
    fn arguments_are_what_the_rule_wants() {
        let kinds = [
            ParameterKind::Int,
            ParameterKind::Uuid,
            ParameterKind::Text(3),
        ];
        let rule = rule("a:{n}:{u}:{t}", &kinds, Who::Public);
        let uuid = "00000000-0000-4000-8000-0000000000ab";
        let check = |n: &str, u: &str, t: &str| {
            let name = format!("a:{n}:{u}:{t}");
            let checked = rule.arguments(&name).unwrap();
            checked
                .map(drop)
                .map_err(|error| error.parameter.to_string())
        };
        assert_eq!(check("-7", uuid, "abc"), Ok(()));
        assert_eq!(check("07", uuid, "abc"), Err("n".into()));
        assert_eq!(check("9223372036854775808", uuid, "abc"), Err("n".into()));
        assert_eq!(check("7", &uuid.to_uppercase(), "abc"), Err("u".into()));
        assert_eq!(check("7", uuid, "abcd"), Err("t".into()));
        assert_eq!(rule.arguments("a:1"), None);
        let values = rule.arguments_json(&["9223372036854775807", uuid, "7"]);
        let wanted = serde_json::json!({"n": 9_223_372_036_854_775_807_i64, "u": uuid, "t": "7"});
        assert_eq!(Value::from(values), wanted);
    }

    #[test]
    fn lets_in_whom_it_names() {
        let anna = UserId::from("anna");
        let roles = [Role::from("admin")];
        let other: Arc<[Role]> = [Role::from("owner")].into();
        let same: Arc<[Role]> = roles.clone().into();
        let admits =
            |who: Who, argument: &str| who.admits(&[argument], Some(&anna), &roles) == Admits::Yes;
        assert!(admits(Who::Public, "x"));
        assert!(admits(Who::User(0), "anna") && !admits(Who::User(0), "bert"));
        assert_eq!(Who::User(0).admits(&["anna"], None, &roles), Admits::No);
        let asks = Arc::new(Authorizer {
            handler: None,
            ttl_seconds: 300,
            grants: true,
        });
        let authorized = Who::Authorized(asks.clone());
        assert_eq!(authorized.admits(&[], None, &roles), Admits::Ask(&asks));
        assert!(admits(Who::Roles(same.clone()), "") && !admits(Who::Roles(other.clone()), ""));
        assert!(admits(Who::Tenant(0, same), "") && !admits(Who::Tenant(0, other), ""));
        assert!(admits(Who::Tenant(0, Arc::new([])), ""));
        assert!(admits(Who::RoleNamed(0), "admin") && !admits(Who::RoleNamed(0), "owner"));
        assert!(!admits(Who::RoleNamed(1), "admin"));
    }
}
