//! Who a socket is to the application, and the claims of all tokens, which share a budget.

use std::{fmt, sync::Arc};

use prometheus_client::metrics::gauge::Gauge;
use rowcast_model::{Caller, Claims, Method, OrgId};
use serde_json::value::RawValue;

use crate::{Auth, Connection, Hub, HubError, Identity, state::State};

/// The claims of a token that was checked, kept while its socket is there.
#[derive(Clone)]
pub struct KeptClaims(Arc<Kept>);

struct Kept {
    claims: Claims,
    bytes: i64,
    used: Gauge,
}

impl KeptClaims {
    /// Keeps them if there is room.
    pub(crate) fn keep(json: Box<RawValue>, most: usize, used: &Gauge) -> Option<KeptClaims> {
        const FIXED: usize = 64;
        let bytes = i64::try_from(json.get().len() + FIXED).ok()?;
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let before = used.inc_by(bytes);
        let kept = KeptClaims(Arc::new(Kept {
            claims: Claims(json.into()),
            bytes,
            used: used.clone(),
        }));
        // What was too much is given back by the drop.
        (before.checked_add(bytes)? <= most).then_some(kept)
    }

    /// The claims.
    pub fn get(&self) -> &Claims {
        &self.0.claims
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.used.dec_by(self.bytes);
    }
}

impl PartialEq for KeptClaims {
    fn eq(&self, other: &KeptClaims) -> bool {
        self.get().json() == other.get().json()
    }
}

impl Eq for KeptClaims {}

impl fmt::Debug for KeptClaims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

impl Hub {
    /// Keeps the claims of a token for [`Identity::claims`]; `None`: there is no room, and the socket cannot ask the
    /// application anything.
    pub fn keep_claims(&self, json: Box<RawValue>) -> Option<KeptClaims> {
        let metrics = &self.shared.metrics;
        let kept = KeptClaims::keep(json, self.claims_bytes, &metrics.claims);
        if kept.is_none() {
            metrics.claims_dropped.inc();
        }
        kept
    }

    /// Who a connection is to the application, in an organization or in none. What a client says has no part in
    /// it.
    ///
    /// # Errors
    /// [`HubError::NotMember`] of that organization, [`HubError::NoClaims`] when there was no room for the claims,
    /// [`HubError::Closed`].
    pub fn caller(
        &self,
        connection: &Connection,
        organization: Option<&OrgId>,
    ) -> Result<Caller, HubError> {
        let mut state = self.state.lock();
        let conn = state.conn(connection).ok_or(HubError::Closed)?;
        let identity = conn.about.identity.clone();
        state.caller(&identity, connection.id(), organization)
    }
}

impl State {
    pub(crate) fn caller(
        &self,
        identity: &Identity,
        connection: u64,
        organization: Option<&OrgId>,
    ) -> Result<Caller, HubError> {
        let roles = match organization {
            Some(organization) => {
                let grant = self.grant(identity, organization);
                let grant = grant.ok_or_else(|| HubError::NotMember(organization.clone()))?;
                grant.roles
            }
            None => Arc::new([]),
        };
        let (user_id, auth_method, api_key_id, claims) = match &identity.auth {
            Auth::Session { .. } => {
                let kept = identity.claims.as_ref().ok_or(HubError::NoClaims)?;
                let user = Some(identity.user.clone());
                (user, Method::Session, None, kept.get().clone())
            }
            Auth::ApiKey { id, .. } => (None, Method::ApiKey, Some(id.clone()), Claims::none()),
        };
        Ok(Caller {
            user_id,
            organization_id: organization.cloned(),
            roles,
            auth_method,
            api_key_id,
            connection_id: connection,
            claims,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_share_a_budget() {
        let used = Gauge::default();
        let keep = || {
            let json = RawValue::from_string(r#"{"sub":"anna"}"#.into()).unwrap();
            KeptClaims::keep(json, 100, &used)
        };
        let first = keep();
        assert!(first.is_some() && keep().is_none());
        let again = first.clone();
        drop(first);
        assert!(keep().is_none());
        drop(again);
        assert_eq!(used.get(), 0);
        assert!(keep().is_some());
    }
}
