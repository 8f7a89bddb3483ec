//! Who is connected to what, for the operator. Owns the pages and the counts; looks at a slice at a time, so that
//! nothing waits long for the lock however many there are.

use std::{sync::Arc, time::Duration};

use hashbrown::HashMap;
use parking_lot::MutexGuard;
use rowcast_model::{Channel, OrgId};
use rowcast_wire::{CloseCode, server};

use crate::{
    Auth, Connection, Hub, Identity, spread,
    state::{Conn, State, Sub},
};

/// Connections or subscriptions that are looked at before others get the lock.
const SLICE: usize = 2048;
/// Channels that are counted; beyond, the answer says that it is not complete.
pub const COUNTED_CHANNELS: usize = 100_000;

/// Which connections are meant: those that fit all that is given.
#[derive(Clone, Debug, Default)]
pub struct Which {
    /// Of this user.
    pub user: Option<String>,
    /// Of this API key.
    pub api_key: Option<String>,
    /// On a channel of this organization.
    pub organization: Option<OrgId>,
    /// This one.
    pub connection: Option<u64>,
}

impl Which {
    /// Whether nothing is given, so that all are meant.
    pub fn is_everybody(&self) -> bool {
        self.user.is_none()
            && self.api_key.is_none()
            && self.organization.is_none()
            && self.connection.is_none()
    }

    fn fits(&self, state: &State, conn: &Conn) -> bool {
        let identity = &conn.about.identity;
        let user = match &identity.auth {
            Auth::Session { .. } => Some(identity.user.as_str()),
            Auth::ApiKey { .. } => None,
        };
        let key = match &identity.auth {
            Auth::Session { .. } => None,
            Auth::ApiKey { id, .. } => Some(&**id),
        };
        let asked = |wanted: &Option<String>, is: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| is == Some(wanted))
        };
        asked(&self.user, user)
            && asked(&self.api_key, key)
            && self.connection.is_none_or(|id| conn.connection.id == id)
            && self.organization.as_ref().is_none_or(|organization| {
                let mut subs = subs_of(state, conn);
                subs.any(|sub| sub.organization() == Some(organization))
            })
    }
}

/// When to come back, in milliseconds: not all at once.
fn come_back_after(connection: u64) -> u64 {
    // Ten seconds at most; the part of a millisecond means nothing.
    Duration::from_secs(10)
        .mul_f64(spread(connection))
        .as_secs()
        * 1000
}

fn subs_of<'a>(state: &'a State, conn: &'a Conn) -> impl Iterator<Item = &'a Sub> {
    let subs = conn.about.subs.iter();
    subs.filter_map(|id| state.subs.get(*id as usize))
}

/// One connection as the operator sees it.
#[derive(Clone, Debug)]
pub struct Connected {
    /// Its number.
    pub id: u64,
    /// Whose it is.
    pub identity: Identity,
    /// What it is on: the channel, the organization, and whether it is just told the past.
    pub channels: Vec<(Channel, Option<OrgId>, bool)>,
    /// Bytes that wait for it.
    pub queued_bytes: usize,
}

/// How many are on a channel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heard {
    /// The channel.
    pub channel: String,
    /// Its organization.
    pub organization: Option<OrgId>,
    /// Connections.
    pub connections: usize,
}

impl Hub {
    /// At most `most` connections from the place `from` on, and the place to go on from. Those who come and go
    /// meanwhile may be missing, or there twice.
    pub fn connected(
        &self,
        which: &Which,
        from: usize,
        most: usize,
    ) -> (Vec<Connected>, Option<usize>) {
        let mut found = Vec::new();
        let next = self.each(from, |state, conn| {
            if !which.fits(state, conn) {
                return true;
            }
            if found.len() == most {
                return false;
            }
            let channels = subs_of(state, conn).map(|sub| {
                let organization = sub.organization().cloned();
                (sub.channel.clone(), organization, sub.replay.is_some())
            });
            found.push(Connected {
                id: conn.connection.id,
                identity: conn.about.identity.clone(),
                channels: channels.collect(),
                queued_bytes: conn.connection.queued_bytes(),
            });
            true
        });
        (found, next)
    }

    /// Closes those connections, after telling them why if a reason is given. Says how many.
    pub fn disconnect_where(&self, which: &Which, code: CloseCode, reason: Option<&str>) -> usize {
        let mut meant: Vec<(Arc<Connection>, bool)> = Vec::new();
        self.each(0, |state, conn| {
            if which.fits(state, conn) && conn.connection.closed().is_none() {
                meant.push((conn.connection.clone(), conn.about.joins.is_none()));
            }
            true
        });
        for (connection, native) in &meant {
            if let (Some(reason), true) = (reason, native) {
                let after = code.come_back().then(|| come_back_after(connection.id));
                connection.send(server::goodbye(reason, after));
            }
            connection.close(code);
        }
        meant.len()
    }

    /// The channels that most are on whose names begin with `prefix`; how many there are; and whether all
    /// were counted.
    pub fn heard(&self, prefix: &str, most: usize) -> (Vec<Heard>, usize, bool) {
        let mut counts: HashMap<(String, Option<OrgId>), usize> = HashMap::new();
        let mut complete = true;
        self.each(0, |state, conn| {
            for sub in subs_of(state, conn) {
                let channel = sub.channel.to_string();
                if !channel.starts_with(prefix) {
                    continue;
                }
                let key = (channel, sub.organization().cloned());
                let full = counts.len() >= COUNTED_CHANNELS;
                match counts.get_mut(&key) {
                    Some(count) => *count += 1,
                    None if full => complete = false,
                    None => drop(counts.insert(key, 1)),
                }
            }
            true
        });
        let all = counts.len();
        let mut heard: Vec<Heard> = counts
            .into_iter()
            .map(|((channel, organization), connections)| Heard {
                channel,
                organization,
                connections,
            })
            .collect();
        heard.sort_unstable_by(|a, b| {
            let name = |one: &Heard| (one.channel.clone(), one.organization.clone());
            b.connections
                .cmp(&a.connections)
                .then_with(|| name(a).cmp(&name(b)))
        });
        heard.truncate(most);
        (heard, all, complete)
    }

    /// Shows every connection from a place on, until `see` has enough; that place is where to go on.
    fn each(&self, from: usize, mut see: impl FnMut(&State, &Conn) -> bool) -> Option<usize> {
        let mut state = self.state.lock();
        let mut at = from;
        loop {
            let end = at.saturating_add(SLICE);
            while at < end {
                if at >= state.conns.capacity() {
                    return None;
                }
                if let Some(conn) = state.conns.get(at)
                    && !see(&state, conn)
                {
                    return Some(at);
                }
                at += 1;
            }
            MutexGuard::unlocked_fair(&mut state, || {});
        }
    }
}
