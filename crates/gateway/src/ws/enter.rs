//! From a proved identity to a place in one organization: which one, what may be used there, whether there is room.
//! The same for sockets and for event streams.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rowcast_hub::{Connection, Sink};
use rowcast_model::{Channel, OrgId, Role, Timestamp, UserId};
use rowcast_wire::{ErrorCode, server};

use super::{Shared, event::Sender};
use crate::{
    admission::Ticket,
    auth::{Verified, since_1970},
    limits::{Exceeded, Kind, Level, Quota, Who},
    session::Session,
};

/// What somebody has become.
pub(crate) struct Entry {
    /// The organization that he named.
    pub organization: OrgId,
    roles: Vec<Role>,
    /// What may be used there.
    quota: Arc<Quota>,
}

/// Why he has not.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Denied {
    /// He is no member.
    NotMember,
    /// There are as many connections as allowed, or they are opened too fast.
    Limited(Exceeded),
}

/// Whose connection it is.
pub(crate) struct Whose {
    pub connection: Arc<Connection>,
    user: UserId,
    /// Of an API key, whose id may be the name of a user.
    is_key: bool,
    /// The organization that it said it is for.
    pub home: OrgId,
    /// What may be used there.
    pub quota: Arc<Quota>,
}

/// A place in the organization that was asked for, for whoever has proved who he is. Answers in bounded time.
pub(crate) async fn enter_as(
    shared: &Shared,
    ticket: &mut Ticket,
    verified: &Verified,
    asked: Option<String>,
) -> Result<Entry, Denied> {
    let not_member = || {
        shared.metrics.refused(ErrorCode::NotMember);
        Denied::NotMember
    };
    let roles = |organization: &OrgId| shared.hub.roles(&verified.identity, organization);
    let organization = organization_of(shared, verified, asked).ok_or_else(not_member)?;
    roles(&organization).ok_or_else(not_member)?;
    // Only members cost a question, and only those of this organization wait for its answer.
    let version = shared.hub.plans_version();
    let quota = shared.plans.of(&organization, version).await;
    let now = Instant::now();
    // The membership may have ended meanwhile.
    let roles = roles(&organization).ok_or_else(not_member)?;
    let who = Who {
        user: &verified.identity.user,
        is_key: verified.organizations.is_some(),
        organization: &organization,
    };
    let connects = (shared.gates).ask(who, &quota, Kind::Connects, 1, now);
    connects.map_err(Denied::Limited)?;
    match ticket.join(&organization, quota.connections) {
        false => Err(Denied::Limited(Exceeded {
            kind: Kind::Connections,
            level: Level::Organization,
        })),
        true => Ok(Entry {
            organization,
            roles,
            quota,
        }),
    }
}

impl Entry {
    /// Connects to the hub, and greets: that leaves together with the reply to the first subscription, so who reads
    /// it is on the channel already.
    pub(crate) fn connect(
        &self,
        shared: &Shared,
        verified: &Verified,
        sink: Arc<dyn Sink>,
        ping_timeout_ms: Option<u64>,
    ) -> (Arc<Connection>, Session) {
        let now = Instant::now();
        let connection = shared.hub.connect(verified.identity.clone(), sink);
        let session = Session::new(&shared.limits, now, expiry(now, verified.expires_at));
        let session = session.spread(connection.id());
        let session = match verified.organizations {
            Some(_) => session.of_key(),
            None => session,
        };
        let id = connection.id().to_string();
        let success = server::auth_success(&server::AuthSuccess {
            role: self.roles.first(),
            roles: &self.roles,
            auth_method: verified.method,
            user_id: verified.identity.user.as_str(),
            organization_id: self.organization.as_str(),
            connection_id: &id,
            ping_timeout_ms,
            expires_in: expires_in(verified.expires_at),
        });
        shared.hub.welcome(&connection, success);
        (connection, session)
    }

    /// The channels that somebody is on who asked for none.
    pub(crate) fn channels(&self, verified: &Verified) -> Vec<Channel> {
        let mut channels = vec![Channel::Org(self.organization.clone())];
        if verified.organizations.is_none() {
            channels.push(Channel::User(verified.identity.user.clone()));
        }
        channels
    }

    /// Whose this connection is from here on.
    pub(crate) fn whose(self, connection: Arc<Connection>, verified: Verified) -> Whose {
        Whose {
            connection,
            user: verified.identity.user,
            is_key: verified.organizations.is_some(),
            home: self.organization,
            quota: self.quota,
        }
    }
}

impl Whose {
    /// On whose behalf events are taken.
    pub(super) fn sender<'a>(&'a self, shared: &'a Arc<Shared>) -> Sender<'a> {
        Sender {
            shared,
            connection: &self.connection,
            home: &self.home,
        }
    }

    /// Whether user and organization may do this `n` times now.
    pub(crate) fn may(
        &self,
        shared: &Shared,
        kind: Kind,
        n: usize,
        now: Instant,
    ) -> Result<(), Exceeded> {
        let who = Who {
            user: &self.user,
            is_key: self.is_key,
            organization: &self.home,
        };
        let n = u32::try_from(n).unwrap_or(u32::MAX);
        shared.gates.ask(who, &self.quota, kind, n, now)
    }
}

/// The organization that was asked for; otherwise the first of an API key, the only one of a user.
fn organization_of(shared: &Shared, verified: &Verified, asked: Option<String>) -> Option<OrgId> {
    match (asked, &verified.organizations) {
        (Some(asked), Some(own)) => own.iter().find(|own| asked == own.as_str()).cloned(),
        (Some(asked), None) => Some(asked.into()),
        (None, Some(own)) => own.first().cloned(),
        (None, None) => match shared.hub.organizations(&verified.identity).as_slice() {
            [only] => Some(only.clone()),
            _ => None,
        },
    }
}

/// How long a token has, from its end in seconds since 1970.
fn left(expires_at: Option<u64>) -> Option<Duration> {
    expires_at.map(|at| Duration::from_secs(at).saturating_sub(since_1970()))
}

/// The same for the client, who does not care for parts of a second.
pub(super) fn expires_in(expires_at: Option<u64>) -> Option<u64> {
    left(expires_at).map(|left| left.as_secs())
}

/// The moment a token ends, on the clock that cannot be set.
pub(crate) fn expiry(now: Instant, expires_at: Option<u64>) -> Option<Instant> {
    now.checked_add(left(expires_at)?)
}

/// The moment at which an API key ends, on the clock that cannot be set.
pub(super) fn moment(now: Instant, ends: Option<Timestamp>) -> Option<Instant> {
    let at = Duration::from_micros(u64::try_from(ends?.0).unwrap_or_default());
    now.checked_add(at.saturating_sub(since_1970()))
}
