//! Who says something over HTTP, for which organization, and how often.

use std::{sync::Arc, time::Instant};

use axum::http::{HeaderMap, header};
use rowcast_hub::Identity;
use rowcast_model::{OrgId, Rate};

use super::{Refusal, senders::Senders};
use crate::{
    Readiness,
    auth::{Refused, Verified},
    broadcast::Broadcasts,
    limits::{Kind, Who},
    ws::Shared,
};

/// Where clients put the key that they were made with.
const KEY_HEADER: &str = "apikey";
/// What keys of Supabase that are no JWT begin with; they are nobody's identity.
const OPAQUE_KEY: &str = "sb_";

/// Who it is.
pub(super) enum Caller {
    /// A server of the application, which holds ACCESS_TOKEN.
    Service,
    /// A user, or an API key.
    Somebody(Somebody),
}

/// A proved identity without a socket.
pub(super) struct Somebody(Verified);

/// The token that a request was sent with.
fn token(headers: &HeaderMap) -> Option<&str> {
    let bearer = headers.get(header::AUTHORIZATION);
    let bearer = bearer.and_then(|value| match value.to_str().ok()?.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => Some(token),
        _ => None,
    });
    let key = headers.get(KEY_HEADER);
    let key = key.and_then(|value| value.to_str().ok());
    // Clients without a user send an empty one, or their key.
    let mut both = bearer.into_iter().chain(key).map(str::trim);
    both.find(|token| !token.is_empty() && !token.starts_with(OPAQUE_KEY))
}

/// Finds out who sends a request.
pub(super) async fn find(
    shared: &Shared,
    broadcasts: &Broadcasts,
    headers: &HeaderMap,
) -> Result<Caller, Refusal> {
    if broadcasts.is_service(headers) {
        return Ok(Caller::Service);
    }
    let token = token(headers).ok_or_else(Refusal::nobody)?;
    // Until then nobody is known to be a member.
    if !matches!(&*shared.ready.borrow(), Readiness::Ready) {
        return Err(Refusal::not_ready("the service is not streaming yet"));
    }
    let limits = &shared.limits;
    let place = shared
        .admission
        .stranger(limits.connections, limits.unauthenticated);
    let _place = place
        .ok_or_else(|| Refusal::not_ready("as many connections as allowed; come back later"))?;
    let checking = shared.verifier.verify(token, &shared.hub);
    let verified = tokio::time::timeout(limits.auth_timeout, checking)
        .await
        .unwrap_or(Err(Refused::unavailable()));
    let verified = verified.inspect_err(|refused| shared.metrics.refused(refused.code))?;
    Ok(Caller::Somebody(Somebody(verified)))
}

impl Somebody {
    pub(super) fn identity(&self) -> &Identity {
        &self.0.identity
    }

    /// The organization that is meant where the name of a channel does not say one: that which was asked for, else
    /// his first.
    pub(super) fn home(
        &self,
        shared: &Shared,
        asked: Option<OrgId>,
    ) -> Result<Option<OrgId>, Refusal> {
        let identity = self.identity();
        match asked {
            Some(asked) => match shared.hub.roles(identity, &asked) {
                Some(_) => Ok(Some(asked)),
                None => Err(Refusal::not_member()),
            },
            None => {
                let of_key = self.0.organizations.as_ref();
                let own = of_key.map_or_else(|| shared.hub.organizations(identity), Vec::clone);
                Ok(own.into_iter().next())
            }
        }
    }

    /// Refuses what is more than one socket may send, and more than user and organization may with all they have.
    pub(super) async fn may_send(
        &self,
        shared: &Shared,
        senders: &Senders,
        home: Option<&OrgId>,
        count: usize,
        bytes: usize,
    ) -> Result<(), Refusal> {
        let limits = &shared.limits;
        let quota = match home {
            Some(home) => shared.plans.of(home, shared.hub.plans_version()).await,
            None => Arc::new(limits.platform()),
        };
        let (user, is_key) = (&self.0.identity.user, self.0.organizations.is_some());
        let small = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        let (count, bytes) = (small(count), small(bytes));
        let messages = Rate::at_most(limits.broadcasts_per_second, limits.broadcasts_burst);
        if count > messages.burst() {
            return Err(Refusal::too_many());
        }
        let now = Instant::now();
        let rates = (&messages, quota.connection.bytes.as_ref());
        if !senders.take((is_key, user), rates, (count, bytes), now) {
            return Err(Refusal::too_fast());
        }
        // Whoever is no member of anything has only himself.
        let Some(organization) = home else {
            return Ok(());
        };
        let who = Who {
            user,
            is_key,
            organization,
        };
        for (kind, n) in [(Kind::Messages, count), (Kind::Bytes, bytes)] {
            let asked = shared.gates.ask(who, &quota, kind, n, now);
            asked.inspect_err(|exceeded| shared.metrics.limited(*exceeded))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::{HeaderName, HeaderValue};

    #[test]
    fn the_token_of_a_user_comes_before_the_key() {
        let read = |sent: &[(&str, &'static str)]| {
            let sent = sent.iter().map(|(name, value)| {
                let name: HeaderName = name.parse().unwrap();
                (name, HeaderValue::from_static(value))
            });
            token(&HeaderMap::from_iter(sent)).map(str::to_owned)
        };
        let both = |bearer| read(&[("authorization", bearer), ("apikey", "eyJ.key")]);
        assert_eq!(both("Bearer eyJ.user").as_deref(), Some("eyJ.user"));
        for nobody in ["", "Bearer ", "Bearer sb_publishable_x", "Basic eyJ.user"] {
            assert_eq!(both(nobody).as_deref(), Some("eyJ.key"), "{nobody}");
        }
        assert_eq!(read(&[("apikey", "sb_publishable_x")]), None);
        assert_eq!(
            read(&[("authorization", "bearer rk_1")]).as_deref(),
            Some("rk_1")
        );
        assert_eq!(read(&[]), None);
    }
}
