//! Grants: what the application has signed about who may be on a channel. Owns the check of the signature, with keys of
//! their own; what a grant is good for is decided in the hub.

use jsonwebtoken::{Validation, errors::ErrorKind};
use rowcast_hub::ShownGrant;
use rowcast_wire::ErrorCode;
use serde::Deserialize;

use super::{
    Refused,
    keys::{self, Key},
};
use crate::{GatewayError, GrantConfig};

/// What a grant says.
#[derive(Deserialize)]
struct Claims {
    channel: String,
    sub: String,
    #[serde(rename = "organizationId")]
    organization: Option<String>,
    epoch: Option<i64>,
    iat: f64,
    exp: f64,
}

/// Checks grants.
pub(crate) struct Grants {
    keys: Vec<Key>,
}

impl Grants {
    /// Reads the keys; without any, no grant is taken.
    pub fn new(config: &GrantConfig) -> Result<Grants, GatewayError> {
        let keys = keys::read(&config.secrets, &config.public_keys)?;
        Ok(Grants { keys })
    }

    /// What a grant says that the application has signed.
    pub fn verify(&self, text: &str) -> Result<ShownGrant, Refused> {
        let invalid = |message| Refused::new(ErrorCode::GrantInvalid, message);
        let header = jsonwebtoken::decode_header(text)
            .map_err(|_| invalid("the grant is not a JWT with a known algorithm"))?;
        let mut refused = invalid("the application has not signed this grant");
        for key in self.keys.iter().filter(|key| key.takes(header.alg)) {
            let mut validation = Validation::new(header.alg);
            validation.algorithms = key.algorithms.clone();
            // The hub looks at the end once more, and at the beginning.
            validation.leeway = 0;
            validation.validate_aud = false;
            validation.set_required_spec_claims(&["exp", "sub"]);
            match jsonwebtoken::decode::<Claims>(text, &key.key, &validation) {
                Ok(data) => {
                    let claims = data.claims;
                    return Ok(ShownGrant {
                        channel: claims.channel.into(),
                        user: claims.sub.into(),
                        organization: claims.organization.map(Into::into),
                        epoch: claims.epoch,
                        // Floats are clamped by this.
                        issued_at: claims.iat as u64,
                        expires_at: claims.exp as u64,
                    });
                }
                Err(error) => match error.kind() {
                    ErrorKind::InvalidSignature => {}
                    ErrorKind::ExpiredSignature => {
                        let message = "the grant has ended; get another one from the application";
                        refused = Refused::new(ErrorCode::GrantExpired, message);
                    }
                    _ => {
                        refused = invalid(
                            "the grant needs the claims channel, sub, iat, exp, and organizationId unless the channel is global",
                        );
                    }
                },
            }
        }
        Err(refused)
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{Algorithm, EncodingKey, Header};
    use serde_json::{Value, json};

    use super::*;
    use crate::auth::since_1970;

    const KEY: &str = "a key of the application, for grants";

    fn signed(key: &str, algorithm: Algorithm, claims: &Value) -> String {
        let key = EncodingKey::from_secret(key.as_bytes());
        jsonwebtoken::encode(&Header::new(algorithm), claims, &key).unwrap()
    }

    #[test]
    fn g25_only_what_the_application_has_signed_is_taken() {
        let config = GrantConfig {
            secrets: vec![KEY.to_owned().into()],
            public_keys: Vec::new(),
        };
        let grants = Grants::new(&config).unwrap();
        let now = since_1970().as_secs();
        let good = json!({"channel": "room:1", "sub": "anna", "organizationId": "acme", "epoch": 3, "iat": now, "exp": now + 60});
        let text = signed(KEY, Algorithm::HS256, &good);
        assert_eq!(
            grants.verify(&text).unwrap(),
            ShownGrant {
                channel: "room:1".into(),
                user: "anna".into(),
                organization: Some("acme".into()),
                epoch: Some(3),
                issued_at: now,
                expires_at: now + 60
            }
        );
        let code = |text: &str| grants.verify(text).unwrap_err().code;
        let other = "another key of more than thirty-two bytes";
        let forged = signed(other, Algorithm::HS256, &good);
        assert_eq!(code(&forged), ErrorCode::GrantInvalid);
        assert_eq!(code(""), ErrorCode::GrantInvalid);
        assert_eq!(code("a.b.c"), ErrorCode::GrantInvalid);
        // {"typ":"JWT","alg":"none"}
        let (_, rest) = text.split_once('.').unwrap();
        let none = format!("eyJ0eXAiOiJKV1QiLCJhbGciOiJub25lIn0.{rest}");
        assert_eq!(code(&none), ErrorCode::GrantInvalid);
        let with = |name: &str, value: Value| {
            let mut claims = good.clone();
            claims[name] = value;
            signed(KEY, Algorithm::HS512, &claims)
        };
        assert_eq!(code(&with("exp", json!(now - 1))), ErrorCode::GrantExpired);
        for name in ["channel", "sub", "iat", "exp"] {
            let missing = with(name, Value::Null);
            assert_eq!(code(&missing), ErrorCode::GrantInvalid, "{name}");
        }
        let global = with("organizationId", Value::Null);
        assert_eq!(grants.verify(&global).unwrap().organization, None);
        assert_eq!(code(&with("epoch", json!("3"))), ErrorCode::GrantInvalid);
        let nobody = Grants::new(&GrantConfig::default()).unwrap();
        assert!(nobody.verify(&text).is_err());
        let weak = GrantConfig {
            secrets: vec!["short".to_owned().into()],
            ..GrantConfig::default()
        };
        assert!(Grants::new(&weak).is_err());
    }
}
