//! Who is asking, and the one decision who may see what.

use std::sync::Arc;

use rowcast_model::{Audience, OrgId, Role, Sender, UserId, View};

use crate::KeptClaims;

/// Who a connection belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The user, or the id of the API key.
    pub user: UserId,
    /// How that was proved.
    pub auth: Auth,
    /// What else the token of a person says, for the application; `None`: there was no room to keep it.
    pub claims: Option<KeptClaims>,
}

/// How an identity was proved, and where its roles come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Auth {
    /// A token of a person. Roles come from the memberships, and from the token's own claims where the
    /// configuration trusts them (empty otherwise).
    Session {
        /// Organizations and roles that the token itself grants.
        granted: Arc<[(OrgId, Arc<[Role]>)]>,
    },
    /// An API key; organization and roles are those of the key.
    ApiKey {
        /// The key's id.
        id: Arc<str>,
        /// Hex SHA-256 of the key that was shown: a key may have two secrets, which end at different times.
        hash: Arc<str>,
    },
}

impl Identity {
    /// A person whose roles come from the memberships alone.
    pub fn session(user: impl Into<UserId>) -> Identity {
        Identity {
            user: user.into(),
            auth: Auth::Session {
                granted: Arc::new([]),
            },
            claims: None,
        }
    }

    /// A machine that has shown an API key with this id and hash.
    pub fn api_key(id: impl Into<Arc<str>>, hash: impl Into<Arc<str>>) -> Identity {
        let (id, hash) = (id.into(), hash.into());
        Identity {
            user: UserId(id.clone()),
            auth: Auth::ApiKey { id, hash },
            claims: None,
        }
    }

    /// Who it is, for the others.
    pub(crate) fn sender(&self) -> Sender {
        match &self.auth {
            Auth::Session { .. } => Sender::User(self.user.clone()),
            Auth::ApiKey { id, .. } => Sender::ApiKey(id.clone()),
        }
    }
}

/// What somebody is inside one organization.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grant {
    /// The user; an API key is nobody, whatever its id.
    pub user: Option<UserId>,
    /// The roles, sorted.
    pub roles: Arc<[Role]>,
}

/// Whether an event for `audience` may go to somebody with `grant` in the organization of the event.
/// Every path asks here and nowhere else.
#[inline]
pub fn may_see(audience: &Audience, grant: &Grant) -> bool {
    let role = audience.required_roles.is_empty()
        || audience
            .required_roles
            .iter()
            .any(|role| grant.roles.contains(role));
    role && (audience.user.is_none() || audience.user == grant.user) && may_know(audience, grant)
}

/// Whether something changed that he sees as it is, or that all see.
#[inline]
fn may_know(audience: &Audience, grant: &Grant) -> bool {
    match &audience.masked {
        Some(masked) if masked.only.is_some() => masked.tells(view(audience, grant)),
        _ => true,
    }
}

/// Which masked columns of an event somebody sees as they are: whose roles, or whose being the owner of the
/// row, say so. Every path that writes a row asks here.
#[inline]
pub fn view(audience: &Audience, grant: &Grant) -> View {
    match &audience.masked {
        None => View::PLAIN,
        Some(masked) => masked.view(grant.user.as_ref(), &grant.roles),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_and_users_narrow() {
        let grant = |user: Option<&str>, roles: &[&str]| Grant {
            user: user.map(UserId::from),
            roles: roles.iter().map(|role| Role::from(*role)).collect(),
        };
        let audience = |user: Option<&str>, roles: &[&str]| Audience {
            user: user.map(UserId::from),
            required_roles: roles.iter().map(|role| Role::from(*role)).collect(),
            masked: None,
        };
        let anna = grant(Some("anna"), &["member"]);
        assert!(may_see(&audience(None, &[]), &anna));
        assert!(may_see(&audience(None, &["admin", "member"]), &anna));
        assert!(!may_see(&audience(None, &["admin"]), &anna));
        assert!(may_see(&audience(Some("anna"), &["member"]), &anna));
        assert!(!may_see(&audience(Some("anna"), &["admin"]), &anna));
        assert!(!may_see(&audience(Some("bert"), &[]), &anna));
        assert!(!may_see(
            &audience(Some("anna"), &[]),
            &grant(None, &["member"])
        ));
    }
}
