//! API keys: `rk_<id>_<secret>`. The directory holds only their hashes; they are compared in constant time.
//!
//! Also owns which keys were used since somebody asked last, by id, for those who write it down.

use std::{collections::HashSet, sync::Arc, time::Duration};

use parking_lot::Mutex;
use rowcast_hub::{ApiKey, Hub, Identity};
use rowcast_model::Timestamp;
use rowcast_wire::{ErrorCode, server::AuthMethod};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

use super::{Refused, Verified};

/// What every key begins with.
pub(crate) const PREFIX: &str = "rk_";
/// Most keys whose use is remembered until it is written down; what others are used for is not.
pub const MOST_USED_KEYS: usize = 16_384;

/// Keys that were used.
#[derive(Debug, Default)]
pub struct KeysUsed(Mutex<HashSet<Arc<str>>>);

impl KeysUsed {
    fn note(&self, id: &Arc<str>) {
        let mut used = self.0.lock();
        if used.len() < MOST_USED_KEYS {
            used.insert(id.clone());
        }
    }

    /// Those used since this was asked last.
    pub fn take(&self) -> Vec<Arc<str>> {
        std::mem::take(&mut *self.0.lock()).into_iter().collect()
    }
}

pub(crate) fn verify(
    key: &str,
    hub: &Hub,
    used: &KeysUsed,
    now: Duration,
) -> Result<Verified, Refused> {
    let id = key
        .strip_prefix(PREFIX)
        .and_then(|rest| rest.rsplit_once('_'))
        .map(|(id, _)| id);
    let known = id.and_then(|id| hub.api_key(id));
    let known = known.ok_or_else(unknown)?;
    let (hash, end) = check(key, &known, micros(now))?;
    used.note(&known.id);
    Ok(Verified {
        identity: Identity::api_key(known.id.clone(), hash),
        method: AuthMethod::ApiKey,
        organizations: Some(known.organizations.clone()),
        expires_at: end.and_then(|end| u64::try_from(end.0 / 1_000_000).ok()),
    })
}

fn unknown() -> Refused {
    Refused::new(
        ErrorCode::TokenInvalid,
        "the API key is not known or was revoked",
    )
}

fn micros(time: Duration) -> Timestamp {
    Timestamp(i64::try_from(time.as_micros()).unwrap_or(i64::MAX))
}

/// Which secret of a key this is, by its hash, and when it ends. All are compared, whichever it is.
fn check(
    key: &str,
    known: &ApiKey,
    now: Timestamp,
) -> Result<(Arc<str>, Option<Timestamp>), Refused> {
    let digest = Sha256::digest(key.as_bytes());
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut found = None;
    for secret in &known.secrets {
        let lower = secret.hash.to_ascii_lowercase();
        let same: Choice = hex.as_bytes().ct_eq(lower.as_bytes());
        if bool::from(same) && found.is_none() {
            found = Some(&secret.hash);
        }
    }
    let hash = found.ok_or_else(unknown)?;
    match known.end_of(hash) {
        Some(Some(end)) if end <= now => Err(Refused::new(
            ErrorCode::TokenExpired,
            "the API key has expired",
        )),
        Some(end) => Ok((hash.clone(), end)),
        None => Err(unknown()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rowcast_model::KeySecret;

    fn hash(key: &str) -> Arc<str> {
        let digest = Sha256::digest(key.as_bytes());
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        hex.into()
    }

    fn key(secrets: &[(&str, Option<i64>)], expires: Option<i64>) -> ApiKey {
        let secret = |(key, until): &(&str, Option<i64>)| KeySecret {
            hash: hash(key),
            until: until.map(Timestamp),
        };
        ApiKey {
            id: "k".into(),
            secrets: secrets.iter().map(secret).collect(),
            organizations: vec!["o".into()],
            roles: Arc::new([]),
            expires: expires.map(Timestamp),
            may_send: true,
        }
    }

    /// Q25: both secrets count while a key is rotated, each until its time.
    #[test]
    fn each_secret_of_a_key_counts_until_its_time() {
        let rotating = key(&[("rk_k_new", None), ("rk_k_old", Some(50))], Some(90));
        let end = |shown, now| {
            check(shown, &rotating, Timestamp(now))
                .map(|(_, end)| end)
                .map_err(|refused| refused.code)
        };
        assert_eq!(end("rk_k_old", 49), Ok(Some(Timestamp(50))));
        assert_eq!(end("rk_k_old", 50), Err(ErrorCode::TokenExpired));
        assert_eq!(end("rk_k_new", 50), Ok(Some(Timestamp(90))));
        assert_eq!(end("rk_k_new", 90), Err(ErrorCode::TokenExpired));
        assert_eq!(end("rk_k_other", 1), Err(ErrorCode::TokenInvalid));
        assert_eq!(end("", 1), Err(ErrorCode::TokenInvalid));
        let endless = check("rk_k_1", &key(&[("rk_k_1", None)], None), Timestamp(1));
        assert_eq!(endless, Ok((hash("rk_k_1"), None)));
    }

    #[test]
    fn used_keys_are_remembered_once_and_not_without_bound() {
        let used = KeysUsed::default();
        for i in 0..MOST_USED_KEYS + 10 {
            used.note(&format!("k{i}").into());
            used.note(&"k0".into());
        }
        assert_eq!(used.take().len(), MOST_USED_KEYS);
        assert!(used.take().is_empty());
    }
}
