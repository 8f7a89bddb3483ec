//! The claims of a token, and what must be true of them.

use std::{collections::BTreeMap, sync::Arc};

use jsonwebtoken::{Validation, errors::ErrorKind};
use rowcast_model::{OrgId, Role};
use rowcast_wire::ErrorCode;
use serde::Deserialize;

use super::{Refused, keys::Key};
use crate::AuthConfig;

/// What must be true of claims.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    issuer: Option<String>,
    audiences: Vec<String>,
    leeway: u64,
    pub trust_claims: bool,
}

impl From<&AuthConfig> for Rules {
    fn from(config: &AuthConfig) -> Self {
        Rules {
            issuer: config.issuer.clone(),
            audiences: config.audiences.clone(),
            leeway: config.leeway.as_secs(),
            trust_claims: config.trust_claims,
        }
    }
}

/// What we read of a token.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Claims {
    pub sub: String,
    pub exp: u64,
    #[serde(default)]
    organizations: Vec<String>,
    #[serde(default)]
    org_roles: BTreeMap<String, Vec<String>>,
}

impl Claims {
    /// Organizations and roles that the token grants.
    pub fn granted(&self) -> Arc<[(OrgId, Arc<[Role]>)]> {
        let with_roles = self.org_roles.iter().map(|(organization, roles)| {
            let mut roles: Vec<Role> = roles.iter().map(|role| role.as_str().into()).collect();
            roles.sort();
            (organization.as_str().into(), roles.into())
        });
        let plain = self
            .organizations
            .iter()
            .filter(|organization| !self.org_roles.contains_key(*organization));
        let plain = plain.map(|organization| {
            (
                organization.as_str().into(),
                Arc::from([Role::from("member")]),
            )
        });
        with_roles.chain(plain).collect()
    }
}

/// Checks signature and claims with one key.
pub(crate) fn check(token: &str, key: &Key, rules: &Rules) -> Result<Claims, Refused> {
    let Some(first) = key.algorithms.first() else {
        return Err(Refused::new(
            ErrorCode::TokenInvalid,
            "the key allows no algorithm",
        ));
    };
    let mut validation = Validation::new(*first);
    validation.algorithms = key.algorithms.clone();
    validation.leeway = rules.leeway;
    validation.validate_nbf = true;
    let mut required = vec!["exp", "sub"];
    match rules.audiences.is_empty() {
        true => validation.validate_aud = false,
        false => {
            validation.set_audience(&rules.audiences);
            required.push("aud");
        }
    }
    if let Some(issuer) = &rules.issuer {
        validation.set_issuer(&[issuer]);
        required.push("iss");
    }
    validation.set_required_spec_claims(&required);
    let claims = jsonwebtoken::decode::<Claims>(token, &key.key, &validation)
        .map_err(|error| refused(error.kind()))?
        .claims;
    match claims.sub.is_empty() {
        true => Err(Refused::new(
            ErrorCode::TokenInvalid,
            "the claim `sub` is empty",
        )),
        false => Ok(claims),
    }
}

fn refused(kind: &ErrorKind) -> Refused {
    let (code, message) = match kind {
        ErrorKind::ExpiredSignature => (
            ErrorCode::TokenExpired,
            "the token has expired; get a new one",
        ),
        ErrorKind::ImmatureSignature => (
            ErrorCode::TokenNotYetValid,
            "the token is not valid yet; check the clocks",
        ),
        ErrorKind::InvalidAudience => (
            ErrorCode::TokenAudience,
            "the token was made for another audience",
        ),
        ErrorKind::InvalidIssuer => (
            ErrorCode::TokenIssuer,
            "the token comes from another issuer",
        ),
        ErrorKind::MissingRequiredClaim(claim) if claim == "aud" => {
            (ErrorCode::TokenAudience, "the token names no audience")
        }
        ErrorKind::MissingRequiredClaim(claim) if claim == "iss" => {
            (ErrorCode::TokenIssuer, "the token names no issuer")
        }
        ErrorKind::MissingRequiredClaim(_) => (
            ErrorCode::TokenInvalid,
            "the token needs the claims `sub` and `exp`",
        ),
        ErrorKind::InvalidSignature => (
            ErrorCode::TokenInvalid,
            "no key of this service has signed the token",
        ),
        _ => (ErrorCode::TokenInvalid, "the token cannot be read"),
    };
    Refused::new(code, message)
}
