//! What a change of a membership or an API key does to open connections, at its place in the log.

use std::sync::Arc;

use rowcast_model::{Channel, KeyChange, MembershipChange, OrgId, Role};
use rowcast_wire::{CloseCode, Frame, server};
use smallvec::SmallVec;

use crate::{
    Auth, Connection, HubError, Identity,
    rules::COLUMN_HIDDEN,
    stage::Stage,
    state::{Conn, State},
};

/// Why a subscription ended by itself.
pub(crate) const REMOVED: &str = "membership_removed";
/// The same for a channel whose rule wants more than the membership that is left.
const NOT_ADMITTED: &str = "not_admitted";

impl State {
    pub(crate) fn change_membership(&mut self, change: &MembershipChange, stage: &mut Stage) {
        let touched = self.directory.touched(change);
        let roles = |state: &State| -> SmallVec<[SmallVec<[Role; 2]>; 2]> {
            let pairs = touched.iter();
            pairs
                .map(|(user, org)| state.directory.roles(user, org))
                .collect()
        };
        let before = roles(self);
        self.directory.apply(change.clone());
        self.rooms.rights_changed = true;
        let after = roles(self);
        for ((pair, before), after) in touched.iter().zip(before).zip(after) {
            if before == after {
                continue;
            }
            let (user, organization) = pair;
            for slot in self.by_user.get(user).cloned().unwrap_or_default() {
                self.regrant(slot, organization, true, &mut in_stage(stage));
            }
        }
    }

    /// All memberships are void but these: who stays what he is notices nothing.
    pub(crate) fn replace_memberships(&mut self, now: &[MembershipChange], stage: &mut Stage) {
        if now.is_empty() {
            return self.clear_memberships(stage);
        }
        let gone = self.directory.rows_without(now);
        for change in now {
            self.change_membership(change, stage);
        }
        for key in gone {
            self.change_membership(&MembershipChange { key, now: None }, stage);
        }
    }

    /// The same for API keys.
    pub(crate) fn replace_keys(&mut self, now: &[KeyChange], stage: &mut Stage) {
        let gone = self.directory.keys_without(now);
        for change in now {
            self.change_key(change, stage);
        }
        for id in gone {
            self.change_key(&KeyChange { id, now: None }, stage);
        }
    }

    pub(crate) fn clear_memberships(&mut self, stage: &mut Stage) {
        let before = std::mem::take(&mut self.by_user);
        let mut lost = Vec::new();
        for (user, slots) in &before {
            let organizations = self.directory.organizations(user);
            lost.extend(slots.iter().flat_map(|slot| {
                let pair = |organization: &OrgId| (*slot, organization.clone());
                organizations.iter().map(pair).collect::<Vec<_>>()
            }));
        }
        self.by_user = before;
        self.directory.clear_members();
        self.rooms.rights_changed = true;
        for (slot, organization) in lost {
            self.regrant(slot, &organization, true, &mut in_stage(stage));
        }
    }

    pub(crate) fn change_key(&mut self, change: &KeyChange, stage: &mut Stage) {
        let slots = self.by_key.get(&change.id).cloned().unwrap_or_default();
        self.directory.apply_key(change.clone());
        self.rooms.rights_changed = true;
        for slot in slots {
            self.note_end_of_key(slot);
            self.regrant_all(slot, &mut in_stage(stage));
        }
    }

    /// Tells a socket of an API key when it ends: with the key, or with the secret that it has shown.
    pub(crate) fn note_end_of_key(&mut self, slot: u32) {
        let Some(conn) = self.conns.get(slot as usize) else {
            return;
        };
        let Auth::ApiKey { id, hash } = &conn.about.identity.auth else {
            return;
        };
        match self.directory.key(id).and_then(|key| key.end_of(hash)) {
            Some(end) => conn.connection.ends(end),
            None => conn.connection.close(CloseCode::KeyRevoked),
        }
    }

    pub(crate) fn clear_keys(&mut self, stage: &mut Stage) {
        self.directory.clear_keys();
        self.rooms.rights_changed = true;
        let slots: Vec<u32> = self.by_key.values().flatten().copied().collect();
        for slot in slots {
            if let Some(conn) = self.conns.get(slot as usize) {
                conn.connection.close(CloseCode::KeyRevoked);
            }
            self.regrant_all(slot, &mut in_stage(stage));
        }
    }

    /// Takes a fresh identity of the same user: what it may no longer see ends.
    pub(crate) fn renew(
        &mut self,
        connection: &Arc<Connection>,
        identity: Identity,
    ) -> Result<(), HubError> {
        let conn = self.conn(connection).ok_or(HubError::Closed)?;
        let same_kind = matches!(
            (&conn.about.identity.auth, &identity.auth),
            (Auth::Session { .. }, Auth::Session { .. })
                | (Auth::ApiKey { .. }, Auth::ApiKey { .. })
        );
        if !same_kind || conn.about.identity.user != identity.user {
            return Err(HubError::UserChanged);
        }
        let same_claims = conn.about.identity.claims == identity.claims;
        conn.about.identity = identity;
        // Another secret of the key may have been shown.
        self.note_end_of_key(connection.slot);
        if !same_claims {
            self.ask_again(connection.slot);
        }
        self.regrant_all(connection.slot, &mut |conn, frame| {
            conn.connection.queue(frame);
        });
        Ok(())
    }

    /// [`State::regrant`] in every organization that the connection listens to; its joins listen to all others that
    /// it may from here on.
    fn regrant_all(&mut self, slot: u32, tell: &mut dyn FnMut(&mut Conn, Frame)) {
        let Some(conn) = self.conns.get(slot as usize) else {
            return;
        };
        let mut organizations: Vec<OrgId> = conn
            .about
            .subs
            .iter()
            .filter_map(|id| self.subs.get(*id as usize)?.organization().cloned())
            .collect();
        organizations.sort_unstable();
        organizations.dedup();
        for organization in organizations {
            self.regrant(slot, &organization, false, tell);
        }
        let told = self.follow_memberships(slot);
        if let Some(conn) = self.conns.get_mut(slot as usize) {
            told.into_iter().for_each(|frame| tell(conn, frame));
        }
    }

    /// Looks up again what a connection is in an organization: ends its subscriptions there or gives
    /// them the new roles, and tells if that changes anything (or in any case, when `news` is true).
    fn regrant(
        &mut self,
        slot: u32,
        organization: &OrgId,
        news: bool,
        tell: &mut dyn FnMut(&mut Conn, Frame),
    ) {
        let Some(conn) = self.conns.get(slot as usize) else {
            return;
        };
        let identity = conn.about.identity.clone();
        let grant = self.grant(&identity, organization);
        let ids = conn.about.subs.clone();
        self.listeners_version += 1;
        let mut changed = news;
        for id in ids {
            let Some(sub) = self.subs.get(id as usize) else {
                continue;
            };
            if sub.organization() != Some(organization) {
                continue;
            }
            // The rule of a channel may want more than a membership.
            let may_stay = match &sub.channel {
                Channel::Named(name) => self
                    .admit_named(&identity, name, Some(organization))
                    .is_ok(),
                _ => true,
            };
            let Some(sub) = self.subs.get_mut(id as usize) else {
                continue;
            };
            let ends = match grant.as_ref().filter(|_| may_stay) {
                Some(grant) => {
                    changed |= sub.grant != *grant;
                    sub.grant = grant.clone();
                    let sub = self.subs.get(id as usize);
                    let hidden = sub.is_some_and(|sub| self.filters_hidden(sub));
                    hidden.then_some(COLUMN_HIDDEN)
                }
                None if grant.is_some() => Some(NOT_ADMITTED),
                None => Some(REMOVED),
            };
            if let Some(reason) = ends
                && let Some(sub) = self.remove_sub(id)
                && let ended = self.end_of_join(&sub, reason)
                && let Some(conn) = self.conns.get_mut(slot as usize)
            {
                changed |= reason != NOT_ADMITTED;
                let channel = sub.channel.to_string();
                let native = || Some(server::unsubscribed(None, &channel, Some(reason)));
                if let Some(frame) = ended.unwrap_or_else(native) {
                    tell(conn, frame);
                }
            }
        }
        if grant.is_some() {
            let told = self.follow_membership(slot, organization);
            if let Some(conn) = self.conns.get_mut(slot as usize) {
                told.into_iter().for_each(|frame| tell(conn, frame));
            }
        }
        let native = |conn: &Conn| conn.about.joins.is_none();
        changed &= self.conns.get(slot as usize).is_some_and(native);
        if changed && let Some(conn) = self.conns.get_mut(slot as usize) {
            let roles = grant.as_ref().map(|grant| &*grant.roles);
            tell(conn, server::membership(organization.as_str(), roles));
        }
    }
}

fn in_stage(stage: &mut Stage) -> impl FnMut(&mut Conn, Frame) {
    |conn, frame| stage.push_frame(&mut conn.mark, &conn.connection, &frame)
}
