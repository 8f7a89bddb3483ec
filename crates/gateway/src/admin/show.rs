//! Lists of connections and channels, and what is done about them.

use rowcast_hub::{Auth, Connected, Which};
use rowcast_model::Cursor;
use serde::Serialize;

use crate::DurableError;

use super::{Admin, AdminError, Disconnect, Revoke, Select, ask::organization};

/// Channels of one connection that are shown.
const CHANNELS: usize = 100;

/// A page of connections.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionsAnswer {
    /// The connections.
    pub connections: Vec<ConnectionAnswer>,
    /// Where to go on (`after`); null at the end.
    pub next: Option<usize>,
    /// How many there are in all, whatever was asked for.
    pub open: usize,
}

/// One connection.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ConnectionAnswer {
    id: u64,
    user_id: Option<String>,
    api_key_id: Option<String>,
    channels: Vec<OnChannel>,
    queued_bytes: usize,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct OnChannel {
    channel: String,
    organization_id: Option<String>,
    /// It is told the past at present.
    catching_up: bool,
}

/// The channels that most are on.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ChannelsAnswer {
    /// The channels.
    pub channels: Vec<ChannelAnswer>,
    /// How many different ones there are.
    pub all: usize,
    /// Whether all were counted.
    pub complete: bool,
}

/// One channel.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ChannelAnswer {
    channel: String,
    organization_id: Option<String>,
    connections: usize,
}

/// What came of closing.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Disconnected {
    disconnected: usize,
}

/// Where those are told that are taken off a channel.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Revoked {
    revoked: bool,
    cursor: Option<Cursor>,
}

impl From<Connected> for ConnectionAnswer {
    fn from(connected: Connected) -> ConnectionAnswer {
        let (user_id, api_key_id) = match &connected.identity.auth {
            Auth::Session { .. } => (Some(connected.identity.user.to_string()), None),
            Auth::ApiKey { id, .. } => (None, Some(id.to_string())),
        };
        let channels = connected.channels.into_iter().take(CHANNELS);
        let channels = channels.map(|(channel, organization, catching_up)| OnChannel {
            channel: channel.to_string(),
            organization_id: organization.map(|organization| organization.to_string()),
            catching_up,
        });
        ConnectionAnswer {
            id: connected.id,
            user_id,
            api_key_id,
            channels: channels.collect(),
            queued_bytes: connected.queued_bytes,
        }
    }
}

impl Admin {
    pub(super) fn connections(&self, asked: Select) -> Result<ConnectionsAnswer, AdminError> {
        let limit = asked.limit()?;
        if asked.prefix.is_some() {
            return Err(AdminError::invalid("`prefix` is for /admin/channels"));
        }
        let which = Which {
            organization: organization(asked.organization.as_deref())?,
            user: asked.user,
            api_key: asked.api_key,
            connection: None,
        };
        let _turn = self.turn.try_acquire().map_err(|_| AdminError::Busy)?;
        let from = asked.after.unwrap_or_default();
        let (found, next) = self.hub.connected(&which, from, limit);
        Ok(ConnectionsAnswer {
            connections: found.into_iter().map(ConnectionAnswer::from).collect(),
            next,
            open: self.hub.connections(),
        })
    }

    pub(super) fn channels(&self, asked: Select) -> Result<ChannelsAnswer, AdminError> {
        let limit = asked.limit()?;
        if asked.user.is_some()
            || asked.api_key.is_some()
            || asked.organization.is_some()
            || asked.after.is_some()
        {
            return Err(AdminError::invalid(
                "channels are asked for by `prefix` and `limit`",
            ));
        }
        let _turn = self.turn.try_acquire().map_err(|_| AdminError::Busy)?;
        let prefix = asked.prefix.unwrap_or_default();
        let (heard, all, complete) = self.hub.heard(&prefix, limit);
        let channels = heard.into_iter().map(|heard| ChannelAnswer {
            channel: heard.channel,
            organization_id: heard
                .organization
                .map(|organization| organization.to_string()),
            connections: heard.connections,
        });
        Ok(ChannelsAnswer {
            channels: channels.collect(),
            all,
            complete,
        })
    }

    pub(super) fn disconnect(&self, asked: &Disconnect) -> Result<Disconnected, AdminError> {
        let (which, code, reason) = (asked.which()?, asked.code()?, asked.reason()?);
        let _turn = self.turn.try_acquire().map_err(|_| AdminError::Busy)?;
        let disconnected = self.hub.disconnect_where(&which, code, reason);
        tracing::info!(
            disconnected,
            code = code.number(),
            "an operator closed connections"
        );
        Ok(Disconnected { disconnected })
    }

    pub(super) async fn revoke(&self, asked: Revoke) -> Result<Revoked, AdminError> {
        let operator = self.operator.clone().ok_or(AdminError::NoDatabase)?;
        // Whoever asked may be gone before the end.
        let revoked = tokio::spawn(operator.revoke(asked)).await;
        let revoked = revoked.unwrap_or_else(|_| {
            let why = "the service is going";
            Err(DurableError::Unavailable(why.into()))
        });
        let cursor = revoked.map_err(AdminError::Database)?;
        Ok(Revoked {
            revoked: true,
            cursor,
        })
    }
}
