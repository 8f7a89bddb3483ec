//! Who and where: organizations, users, roles and channel names. Owns their limits and their text.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Arc<str>);

        impl $name {
            /// The text as it stands in the database or the token.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                $name(Arc::from(text))
            }
        }

        impl From<String> for $name {
            fn from(text: String) -> Self {
                $name(Arc::from(text))
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id! {
    /// The tenant, as text.
    OrgId
}
text_id! {
    /// A user: the `sub` claim of a token, or the id of an API key.
    UserId
}
text_id! {
    /// A role inside an organization.
    Role
}

/// What can be subscribed to in this protocol version.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Channel {
    /// `org:<organization>`: everything of one organization.
    Org(OrgId),
    /// `user:<user>`: what is meant for one user alone.
    User(UserId),
    /// `tenant:<organization>:<table>`: one table of one organization, and what is sent to that name.
    Tenant(OrgId, Arc<str>),
    /// Any other name: what it means, and who may, says a rule of `rowcast.channels`.
    Named(Arc<str>),
}

/// Longest channel name in bytes.
const MAX_CHANNEL_BYTES: usize = 255;

/// Why a channel name cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChannelError {
    /// Longer than 255 bytes.
    #[error("the channel name is longer than 255 bytes")]
    TooLong,
    /// An empty part, or a control character.
    #[error(
        "`{0}` is not a channel; use org:<id>, user:<id>, tenant:<id>:<table> or the name of a channel of your application, such as room:<id>"
    )]
    Unknown(String),
}

impl FromStr for Channel {
    type Err = ChannelError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > MAX_CHANNEL_BYTES {
            return Err(ChannelError::TooLong);
        }
        let unknown = || ChannelError::Unknown(text.chars().take(60).collect());
        if text.is_empty() || text.chars().any(char::is_control) {
            return Err(unknown());
        }
        let (kind, rest) = text.split_once(':').unwrap_or((text, ""));
        if rest.is_empty() && matches!(kind, "org" | "user" | "tenant") {
            return Err(unknown());
        }
        match kind {
            "org" => Ok(Channel::Org(rest.into())),
            "user" => Ok(Channel::User(rest.into())),
            // The organization may itself hold a colon, a table name seldom does: cut at the last one.
            "tenant" => match rest.rsplit_once(':') {
                Some((org, table)) if !org.is_empty() && !table.is_empty() => {
                    Ok(Channel::Tenant(org.into(), table.into()))
                }
                _ => Err(unknown()),
            },
            _ if text.split(':').any(str::is_empty) => Err(unknown()),
            _ => Ok(Channel::Named(text.into())),
        }
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Channel::Org(org) => write!(f, "org:{org}"),
            Channel::User(user) => write!(f, "user:{user}"),
            Channel::Tenant(org, table) => write!(f, "tenant:{org}:{table}"),
            Channel::Named(name) => f.write_str(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn whatever_parses_prints_back(text in "(org|user|tenant|x)?:?[a-z0-9:_-]{0,20}") {
            if let Ok(channel) = text.parse::<Channel>() {
                prop_assert_eq!(channel.to_string(), text);
            }
        }
    }

    #[test]
    fn knows_its_kinds() {
        assert_eq!("org:org_123".parse(), Ok(Channel::Org("org_123".into())));
        assert_eq!(
            "tenant:acme:orders".parse(),
            Ok(Channel::Tenant("acme".into(), "orders".into()))
        );
        for name in ["announcements", "room:42", "a:b:c:d", "organization"] {
            assert_eq!(name.parse(), Ok(Channel::Named(name.into())));
        }
        for bad in [
            "",
            "org",
            "org:",
            "tenant:a",
            "tenant:a:",
            "room:",
            ":room",
            "a::b",
            "org:a\nb",
            "a\nb",
        ] {
            assert!(bad.parse::<Channel>().is_err(), "{bad}");
        }
        assert_eq!(
            format!("org:{}", "x".repeat(300)).parse::<Channel>(),
            Err(ChannelError::TooLong)
        );
    }
}
