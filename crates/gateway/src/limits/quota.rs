//! The numbers of one organization. Pure: they come from the configuration, and those that its plan names
//! from the plan.

use std::collections::BTreeMap;

use rowcast_model::{Rate, RateError};
use rowcast_wire::{CloseCode, ErrorCode};
use serde::Deserialize;

/// Of what there may be too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Sockets opened.
    Connects,
    /// Open sockets.
    Connections,
    /// Subscriptions asked for.
    Joins,
    /// Messages of clients.
    Messages,
    /// Bytes of such messages.
    Bytes,
    /// Messages that ask for something, in a fixed window.
    Requests,
}

/// Whose limit it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Level {
    /// Of one socket.
    Connection,
    /// Of all sockets of one user, or of one API key.
    User,
    /// Of all sockets of one organization.
    Organization,
}

/// What was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Exceeded {
    /// What there was too much of.
    pub kind: Kind,
    /// Whose limit it was.
    pub level: Level,
}

impl Kind {
    /// The name in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Connects => "connects",
            Kind::Connections => "connections",
            Kind::Joins => "joins",
            Kind::Messages => "messages",
            Kind::Bytes => "bytes",
            Kind::Requests => "requests",
        }
    }
}

impl Level {
    /// The name in metrics and in plans.
    pub fn name(self) -> &'static str {
        match self {
            Level::Connection => "connection",
            Level::User => "user",
            Level::Organization => "organization",
        }
    }

    fn subject(self) -> &'static str {
        match self {
            Level::Connection => "this socket",
            Level::User => "this user, with all sockets together,",
            Level::Organization => "this organization, with all sockets together,",
        }
    }
}

impl Exceeded {
    /// The number for the client.
    pub fn code(self) -> ErrorCode {
        match self.kind {
            Kind::Connects => ErrorCode::ConnectsLimited,
            Kind::Connections => ErrorCode::ConnectionsLimited,
            Kind::Joins => ErrorCode::JoinsLimited,
            Kind::Messages => ErrorCode::RateLimited,
            Kind::Bytes => ErrorCode::BytesLimited,
            Kind::Requests => ErrorCode::RateLimitExceeded,
        }
    }

    /// The sentence for the client.
    pub fn message(self) -> String {
        let who = self.level.subject();
        match self.kind {
            Kind::Requests => ErrorCode::RateLimitExceeded.sentence().to_owned(),
            Kind::Connections => format!("{who} has as many sockets open as allowed"),
            Kind::Connects => format!("{who} opens sockets faster than allowed; wait a little"),
            Kind::Joins => format!("{who} subscribes faster than allowed; slow down"),
            Kind::Messages => format!("{who} sends messages faster than allowed; slow down"),
            Kind::Bytes => format!("{who} sends more bytes than allowed; slow down"),
        }
    }

    /// With what a socket is closed that may not be there.
    pub fn close(self) -> CloseCode {
        match self.kind {
            Kind::Connections => CloseCode::TooManyConnections,
            _ => CloseCode::TooFast,
        }
    }
}

/// How often what, on one level; `None`: as often as one likes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LevelRates {
    /// Sockets opened; of one socket it says nothing.
    pub connects: Option<Rate>,
    /// Subscriptions.
    pub joins: Option<Rate>,
    /// Messages.
    pub messages: Option<Rate>,
    /// Bytes of messages.
    pub bytes: Option<Rate>,
    /// Requests: so many in each fixed window.
    pub requests: Option<Rate>,
}

/// What an organization may use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Open sockets.
    pub connections: usize,
    /// Of one socket.
    pub connection: LevelRates,
    /// Of one user.
    pub user: LevelRates,
    /// Of the organization.
    pub organization: LevelRates,
}

/// Limits as SQL says them. What is not understood is not looked at, such as the name of the plan.
#[derive(Deserialize)]
struct Said {
    connections: Option<u32>,
    #[serde(default)]
    connection: BTreeMap<String, String>,
    #[serde(default)]
    user: BTreeMap<String, String>,
    #[serde(default)]
    organization: BTreeMap<String, String>,
}

/// Why limits cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum QuotaError {
    #[error("they are no such object as rowcast.limits_for should give: {0}")]
    Json(#[from] serde_json::Error),
    #[error("\"{name}\" of \"{level}\" is \"{text}\"; it {why}")]
    Rate {
        level: &'static str,
        name: String,
        text: String,
        why: RateError,
    },
    #[error("\"{0}\" of \"{1}\" is not known: connects, joins, messages, bytes, requests")]
    Kind(String, &'static str),
}

impl LevelRates {
    fn slot(&mut self, name: &str) -> Option<&mut Option<Rate>> {
        Some(match name {
            "connects" => &mut self.connects,
            "joins" => &mut self.joins,
            "messages" => &mut self.messages,
            "bytes" => &mut self.bytes,
            "requests" => &mut self.requests,
            _ => return None,
        })
    }

    fn take(&mut self, level: Level, said: BTreeMap<String, String>) -> Result<(), QuotaError> {
        let level = level.name();
        for (name, text) in said {
            let Some(slot) = self.slot(&name) else {
                return Err(QuotaError::Kind(name, level));
            };
            *slot = match text.trim() {
                "off" => None,
                rate => match rate.parse() {
                    Ok(rate) => Some(rate),
                    Err(why) => {
                        return Err(QuotaError::Rate {
                            level,
                            name,
                            text,
                            why,
                        });
                    }
                },
            };
        }
        Ok(())
    }
}

impl Quota {
    /// The same with what a plan says, as JSON: `{"connections": 500, "user": {"messages": "50/s"}}`.
    pub(crate) fn with(&self, json: &str) -> Result<Quota, QuotaError> {
        let said: Said = serde_json::from_str(json)?;
        let mut quota = self.clone();
        if let Some(connections) = said.connections {
            quota.connections = usize::try_from(connections).unwrap_or(usize::MAX);
        }
        quota.connection.take(Level::Connection, said.connection)?;
        quota.user.take(Level::User, said.user)?;
        (quota.organization).take(Level::Organization, said.organization)?;
        Ok(quota)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform() -> Quota {
        Quota {
            connections: 5_000,
            connection: LevelRates {
                messages: Rate::per_second(50, 200),
                ..LevelRates::default()
            },
            user: LevelRates::default(),
            organization: LevelRates::default(),
        }
    }

    #[test]
    fn a_plan_changes_what_it_names_and_nothing_else() {
        let quota = platform().with(r#"{"plan":"pro","connections":500,"connection":{"messages":"off"},"user":{"joins":"3/s"}}"#);
        let quota = quota.unwrap();
        assert_eq!(quota.connections, 500);
        assert_eq!(quota.connection.messages, None);
        assert_eq!(quota.user.joins, Rate::per_second(3, 3));
        assert_eq!(quota.organization, LevelRates::default());
        // A plan may say nothing of connections: then the configuration does.
        let free = platform().with(r#"{"plan":"free","connections":null}"#);
        assert_eq!(free.unwrap(), platform());
    }

    #[test]
    fn nonsense_is_an_error_and_never_a_limit() {
        for bad in [
            "",
            "[]",
            "7",
            r#"{"connections":-1}"#,
            r#"{"connections":"many"}"#,
            r#"{"user":{"joins":"often"}}"#,
            r#"{"user":{"jokes":"1/s"}}"#,
            r#"{"user":[]}"#,
        ] {
            assert!(platform().with(bad).is_err(), "{bad}");
        }
    }

    /// C18.
    #[test]
    fn c18_the_sentence_is_that_of_the_mission() {
        let exceeded = Exceeded {
            kind: Kind::Requests,
            level: Level::User,
        };
        assert_eq!(exceeded.message(), "Rate limit exceeded. Try again later.");
        assert_eq!(exceeded.code().number(), 404);
    }
}
