//! API keys: `rk_<id>_<secret>`. The directory holds only their hashes; they are compared in constant time.

use rowcast_hub::{Hub, Identity};
use rowcast_wire::{ErrorCode, server::AuthMethod};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::{Refused, Verified};

/// What every key begins with.
pub(crate) const PREFIX: &str = "rk_";

pub(crate) fn verify(key: &str, hub: &Hub) -> Result<Verified, Refused> {
    let refused = || {
        Refused::new(
            ErrorCode::TokenInvalid,
            "the API key is not known or was revoked",
        )
    };
    let id = key
        .strip_prefix(PREFIX)
        .and_then(|rest| rest.rsplit_once('_'))
        .map(|(id, _)| id);
    let known = id.and_then(|id| hub.api_key(id)).ok_or_else(refused)?;
    let digest = Sha256::digest(key.as_bytes());
    let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
    let same: bool = hex
        .as_bytes()
        .ct_eq(known.hash.to_ascii_lowercase().as_bytes())
        .into();
    if !same {
        return Err(refused());
    }
    Ok(Verified {
        identity: Identity::api_key(known.id.clone()),
        method: AuthMethod::ApiKey,
        organization: Some(known.organization.clone()),
        expires_at: None,
    })
}
