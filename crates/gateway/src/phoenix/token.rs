//! What a token of a client is, before anybody checks it, and what he is told when it is refused. Pure.

use jsonwebtoken::dangerous::insecure_decode_claims;
use rowcast_wire::ErrorCode;
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::auth::{Refused, is_api_key};

/// What Supabase's own keys begin with: they name a project, and nobody in it.
const OPAQUE: [&str; 2] = ["sb_publishable_", "sb_secret_"];

/// Whether a text can be the token of somebody at all.
pub(super) fn is_somebodys(token: &str) -> bool {
    !OPAQUE.iter().any(|prefix| token.starts_with(prefix))
        && (is_api_key(token) || token.split('.').count() == 3 && !names_nobody(token))
}

/// Whether it is a token that says of nobody that he is it, such as the key of a project of some years ago; clients
/// show that as long as they have none of a user. Nobody has checked it, and as nobody's it opens nothing.
fn names_nobody(token: &str) -> bool {
    #[derive(Deserialize)]
    struct Named {
        #[serde(default)]
        sub: Option<serde::de::IgnoredAny>,
    }
    insecure_decode_claims::<Named>(token).is_ok_and(|claims| claims.sub.is_none())
}

/// Tells the token of now from others, without keeping it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fingerprint([u8; 32]);

impl Fingerprint {
    pub(super) fn of(token: &str) -> Fingerprint {
        Fingerprint(Sha256::digest(token.as_bytes()).into())
    }
}

/// The reason that clients of this protocol know.
pub(super) fn reason(refused: &Refused) -> String {
    let (code, text) = match refused.code {
        ErrorCode::TokenExpired => ("InvalidJWTToken", "Token has expired"),
        ErrorCode::AuthUnavailable => ("UnableToConnectToProject", refused.message),
        ErrorCode::KeyRevoked => ("Unauthorized", refused.message),
        _ => ("JwtSignatureError", refused.message),
    };
    format!("{code}: {text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_a_token_of_somebody() {
        // {"alg":"HS256"}, and {"sub":"anna"} or {"role":"anon"}.
        let signed = |claims: &str| format!("eyJhbGciOiJIUzI1NiJ9.{claims}.c2ln");
        let [anna, anon] = ["eyJzdWIiOiJhbm5hIn0", "eyJyb2xlIjoiYW5vbiJ9"].map(signed);
        for token in [&*anna, "a.b.c", "rk_1_2", "rk_1.2_3"] {
            assert!(is_somebodys(token), "{token}");
        }
        assert!(!is_somebodys(&anon));
        for key in ["", "sb_publishable_x.y.z", "sb_secret_a", "a.b", "a.b.c.d"] {
            assert!(!is_somebodys(key), "{key}");
        }
    }

    #[test]
    fn a_refusal_says_why_in_words_that_clients_know() {
        let refused = Refused::new(ErrorCode::TokenExpired, "the token has expired");
        assert_eq!(reason(&refused), "InvalidJWTToken: Token has expired");
        let refused = Refused::new(ErrorCode::TokenInvalid, "no key has signed it");
        assert_eq!(reason(&refused), "JwtSignatureError: no key has signed it");
    }
}
