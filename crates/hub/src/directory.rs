//! Who is a member where, and which API keys there are, as the log says. No IO, no decisions.

use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use rowcast_model::{
    KeyChange, KeySecret, MembershipChange, OrgId, Role, Timestamp, Topic, UserId,
};
use smallvec::SmallVec;

use crate::{Auth, Grant, Identity};

/// The role of a membership whose row names none.
const DEFAULT_ROLE: &str = "member";

/// An API key; the hashes are what the caller compares, in constant time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiKey {
    /// Its id.
    pub id: Arc<str>,
    /// Its secret, and the one before while that counts.
    pub secrets: Vec<KeySecret>,
    /// Its organizations; the first is meant when none is named.
    pub organizations: Vec<OrgId>,
    /// Its roles.
    pub roles: Arc<[Role]>,
    /// It ends then.
    pub expires: Option<Timestamp>,
    /// Its sockets may send where a channel lets clients.
    pub may_send: bool,
}

impl ApiKey {
    /// When whoever has shown the key with this hash is done: `Some(None)` is never, `None` is now.
    pub fn end_of(&self, hash: &str) -> Option<Option<Timestamp>> {
        let secret = self.secrets.iter().find(|secret| *secret.hash == *hash)?;
        Some(earlier(self.expires, secret.until))
    }
}

/// The earlier of two times that may never come.
fn earlier(a: Option<Timestamp>, b: Option<Timestamp>) -> Option<Timestamp> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}

struct Member {
    key: Arc<str>,
    organization: OrgId,
    role: Role,
}

type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// A user and one of his organizations.
pub(crate) type Pair = (UserId, OrgId);

#[derive(Default)]
pub(crate) struct Directory {
    /// Row of the membership table to the user it speaks of.
    rows: Map<Arc<str>, UserId>,
    members: Map<UserId, SmallVec<[Member; 1]>>,
    keys: Map<Arc<str>, Arc<ApiKey>>,
}

impl Directory {
    /// Roles of a user in an organization; empty when no member.
    pub(crate) fn roles(&self, user: &UserId, organization: &OrgId) -> SmallVec<[Role; 2]> {
        let mut roles: SmallVec<[Role; 2]> = self
            .members
            .get(user)
            .into_iter()
            .flatten()
            .filter(|member| member.organization == *organization)
            .map(|member| member.role.clone())
            .collect();
        roles.sort_unstable();
        roles.dedup();
        roles
    }

    /// Organizations of a user, sorted.
    pub(crate) fn organizations(&self, user: &UserId) -> Vec<OrgId> {
        let members = self.members.get(user).into_iter().flatten();
        let mut organizations: Vec<OrgId> =
            members.map(|member| member.organization.clone()).collect();
        organizations.sort_unstable();
        organizations.dedup();
        organizations
    }

    /// What somebody is in an organization; `None`: no member.
    pub(crate) fn grant(&self, identity: &Identity, organization: &OrgId) -> Option<Grant> {
        match &identity.auth {
            Auth::ApiKey { id, hash } => {
                let key = self.key(id)?;
                key.end_of(hash)?;
                key.organizations.contains(organization).then(|| Grant {
                    user: None,
                    roles: key.roles.clone(),
                })
            }
            Auth::Session { granted } => {
                let mut roles = self.roles(&identity.user, organization);
                let mut member = !roles.is_empty();
                for (_, more) in granted.iter().filter(|(of, _)| of == organization) {
                    member = true;
                    roles.extend(more.iter().cloned());
                }
                roles.sort_unstable();
                roles.dedup();
                let roles: Arc<[Role]> = roles.into_iter().collect();
                member.then(|| Grant {
                    user: Some(identity.user.clone()),
                    roles,
                })
            }
        }
    }

    /// What somebody is where a personal event is: in its organization, or himself.
    pub(crate) fn grant_for(&self, identity: &Identity, topic: &Topic) -> Option<Grant> {
        match topic.organization() {
            Some(organization) => self.grant(identity, organization),
            None => Some(Grant {
                user: Some(identity.user.clone()),
                ..Grant::default()
            }),
        }
    }

    /// Whether somebody may send at all: API keys may be made that only listen.
    pub(crate) fn may_send(&self, identity: &Identity) -> bool {
        match &identity.auth {
            Auth::Session { .. } => true,
            Auth::ApiKey { id, .. } => self.key(id).is_some_and(|key| key.may_send),
        }
    }

    /// Organizations that an identity may subscribe to, sorted.
    pub(crate) fn organizations_of(&self, identity: &Identity) -> Vec<OrgId> {
        match &identity.auth {
            Auth::ApiKey { id, .. } => {
                let key = self.key(id).into_iter();
                let mut organizations: Vec<OrgId> =
                    key.flat_map(|key| key.organizations.clone()).collect();
                organizations.sort_unstable();
                organizations.dedup();
                organizations
            }
            Auth::Session { granted } => {
                let mut organizations = self.organizations(&identity.user);
                organizations.extend(granted.iter().map(|(organization, _)| organization.clone()));
                organizations.sort_unstable();
                organizations.dedup();
                organizations
            }
        }
    }

    /// The pairs whose roles a change may touch.
    pub(crate) fn touched(&self, change: &MembershipChange) -> SmallVec<[Pair; 2]> {
        let mut pairs = SmallVec::new();
        if let Some(user) = self.rows.get(&change.key) {
            let members = self.members.get(user).into_iter().flatten();
            pairs.extend(
                members
                    .filter(|member| member.key == change.key)
                    .map(|member| (user.clone(), member.organization.clone())),
            );
        }
        if let Some((user, organization, _)) = &change.now {
            let pair = (user.clone(), organization.clone());
            if !pairs.contains(&pair) {
                pairs.push(pair);
            }
        }
        pairs
    }

    /// Rows of the membership table that these changes say nothing of.
    pub(crate) fn rows_without(&self, changes: &[MembershipChange]) -> Vec<Arc<str>> {
        let named: HashSet<&str> = changes.iter().map(|change| &*change.key).collect();
        let rows = self.rows.keys().filter(|key| !named.contains(&***key));
        rows.cloned().collect()
    }

    /// Keys that these changes say nothing of.
    pub(crate) fn keys_without(&self, changes: &[KeyChange]) -> Vec<Arc<str>> {
        let named: HashSet<&str> = changes.iter().map(|change| &*change.id).collect();
        let ids = self.keys.keys().filter(|id| !named.contains(&***id));
        ids.cloned().collect()
    }

    pub(crate) fn apply(&mut self, change: MembershipChange) {
        if let Some(user) = self.rows.remove(&change.key)
            && let Some(members) = self.members.get_mut(&user)
        {
            members.retain(|member| member.key != change.key);
            if members.is_empty() {
                self.members.remove(&user);
            }
        }
        if let Some((user, organization, role)) = change.now {
            self.rows.insert(change.key.clone(), user.clone());
            self.members.entry(user).or_default().push(Member {
                key: change.key,
                organization,
                role: role.unwrap_or_else(|| DEFAULT_ROLE.into()),
            });
        }
    }

    pub(crate) fn clear_members(&mut self) {
        self.rows = Map::default();
        self.members = Map::default();
    }

    pub(crate) fn key(&self, id: &str) -> Option<&Arc<ApiKey>> {
        self.keys.get(id)
    }

    pub(crate) fn apply_key(&mut self, change: KeyChange) {
        self.keys.remove(&change.id);
        if let Some(mut facts) = change.now {
            facts.roles.sort_unstable();
            facts.roles.dedup();
            let key = ApiKey {
                id: change.id.clone(),
                secrets: facts.secrets,
                organizations: facts.organizations,
                roles: facts.roles.into(),
                expires: facts.expires,
                may_send: facts.may_send,
            };
            self.keys.insert(change.id, Arc::new(key));
        }
    }

    pub(crate) fn clear_keys(&mut self) {
        self.keys = Map::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(key: &str, now: Option<(&str, &str, Option<&str>)>) -> MembershipChange {
        MembershipChange {
            key: key.into(),
            now: now.map(|(user, org, role)| (user.into(), org.into(), role.map(Role::from))),
        }
    }

    #[test]
    fn several_rows_give_several_roles() {
        let mut directory = Directory::default();
        let (anna, acme) = (UserId::from("anna"), OrgId::from("acme"));
        directory.apply(change("1", Some(("anna", "acme", Some("admin")))));
        directory.apply(change("2", Some(("anna", "acme", None))));
        assert_eq!(
            directory.roles(&anna, &acme).as_slice(),
            ["admin".into(), "member".into()]
        );
        directory.apply(change("1", None));
        assert_eq!(directory.roles(&anna, &acme).as_slice(), ["member".into()]);
        // The row now speaks of somebody else: both pairs are touched.
        let moved = change("2", Some(("bert", "acme", None)));
        assert_eq!(directory.touched(&moved).len(), 2);
        directory.apply(moved);
        assert!(directory.roles(&anna, &acme).is_empty());
        assert_eq!(directory.organizations(&"bert".into()), [acme]);
    }
}
