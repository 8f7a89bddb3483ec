//! The claims of a token, and what must be true of them.

use std::{sync::Arc, time::Duration};

use jsonwebtoken::{Validation, errors::ErrorKind};
use rowcast_model::{OrgId, Role};
use rowcast_wire::ErrorCode;
use serde::Deserialize;
use serde_json::{Value, value::RawValue};

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

impl Rules {
    /// When a socket of this token ends, in seconds since 1970: when the token does, or with the leeway for one
    /// that was taken thanks to it. Otherwise it would be let in and thrown out in one breath.
    pub fn end_of(&self, claims: &Claims, now: Duration) -> u64 {
        let exp = claims.exp();
        match Duration::from_secs(exp) > now {
            true => exp,
            false => exp.saturating_add(self.leeway),
        }
    }
}

/// What we read of a token. What organizations look like in tokens of others is nobody's fault, so it is only
/// looked at where it counts.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Claims {
    pub sub: String,
    /// A number of seconds that may have a fraction.
    exp: f64,
    #[serde(default)]
    organizations: Value,
    #[serde(default)]
    org_roles: Value,
    /// All of them, as they stand in the token.
    #[serde(skip)]
    pub all: Option<Box<RawValue>>,
}

impl Claims {
    /// When the token ends, in whole seconds since 1970.
    pub fn exp(&self) -> u64 {
        // Floats are clamped by this, and a number without a meaning is 0: over.
        self.exp as u64
    }

    /// Organizations and roles that the token grants: a list of ids, and roles (one or a list) by id.
    pub fn granted(&self) -> Arc<[(OrgId, Arc<[Role]>)]> {
        let by_id = self.org_roles.as_object();
        let with_roles = by_id.into_iter().flatten().map(|(organization, roles)| {
            let mut roles: Vec<Role> = texts(roles).map(Role::from).collect();
            roles.sort();
            roles.dedup();
            (OrgId::from(organization.as_str()), Arc::from(roles))
        });
        let plain = texts(&self.organizations)
            .filter(|organization| by_id.is_none_or(|by_id| !by_id.contains_key(*organization)))
            .map(|organization| (organization.into(), Arc::from([Role::from("member")])));
        with_roles.chain(plain).collect()
    }
}

/// A text, or the texts of a list.
fn texts(value: &Value) -> impl Iterator<Item = &str> {
    let one = value.as_str();
    let list = value.as_array().into_iter().flatten();
    one.into_iter().chain(list.filter_map(Value::as_str))
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
    let all = jsonwebtoken::decode::<Box<RawValue>>(token, &key.key, &validation)
        .map_err(|error| refused(error.kind()))?
        .claims;
    let mut claims: Claims = serde_json::from_str(all.get()).map_err(|_| {
        let message = "the token needs the claims `sub` (a text) and `exp` (a number)";
        Refused::new(ErrorCode::TokenInvalid, message)
    })?;
    claims.all = Some(all);
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn claims(json: Value) -> Claims {
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn a_token_ends_at_its_end_or_with_the_leeway_that_saved_it() {
        let rules = Rules::from(&AuthConfig {
            leeway: Duration::from_secs(10),
            ..AuthConfig::default()
        });
        let end = |exp: Value, now| {
            rules.end_of(
                &claims(json!({"sub": "a", "exp": exp})),
                Duration::from_secs(now),
            )
        };
        assert_eq!(end(json!(100), 99), 100);
        assert_eq!(end(json!(100), 100), 110);
        assert_eq!(end(json!(100.9), 50), 100);
        assert_eq!(end(json!(-5), 50), 10);
        assert_eq!(end(json!(u64::MAX), 50), u64::MAX);
    }

    #[test]
    fn claims_grant_what_they_clearly_say_and_nothing_else() {
        let granted = |organizations: Value, roles: Value| {
            let all =
                json!({"sub": "a", "exp": 1, "organizations": organizations, "org_roles": roles});
            let mut text = String::new();
            for (organization, roles) in claims(all).granted().iter() {
                let roles: Vec<&str> = roles.iter().map(Role::as_str).collect();
                text += &format!("{}={} ", organization.as_str(), roles.join("+"));
            }
            text
        };
        assert_eq!(
            granted(json!(["x", "y"]), json!({"y": ["b", "a", "b"]})),
            "y=a+b x=member "
        );
        assert_eq!(granted(json!("x"), json!({"y": "a"})), "y=a x=member ");
        assert_eq!(granted(json!(["x"]), json!({"x": []})), "x= ");
        for odd in [
            json!(null),
            json!(7),
            json!({"x": {"id": 1}}),
            json!([{"id": "x"}, 7]),
        ] {
            assert_eq!(granted(odd.clone(), json!(["x"])), "", "{odd}");
        }
    }
}
