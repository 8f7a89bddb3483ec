//! The token that servers of the application and operators hold: `Authorization: Bearer <ACCESS_TOKEN>`.

use axum::http::{HeaderMap, header};
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// What a request is let in by.
pub(crate) struct AccessToken {
    /// SHA-256 of the token, so that comparing says nothing of its length either.
    hash: Option<[u8; 32]>,
}

/// Why a request is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoAccess {
    /// No token is configured.
    Off,
    /// None was sent, or another one.
    Unauthorized,
}

impl AccessToken {
    /// Without a token nobody is let in.
    pub(crate) fn new(token: Option<&SecretString>) -> AccessToken {
        AccessToken {
            hash: token.map(|token| Sha256::digest(token.expose_secret()).into()),
        }
    }

    /// Whether the request comes from whoever holds the token. Takes as long whatever was sent.
    pub(crate) fn admit(&self, headers: &HeaderMap) -> Result<(), NoAccess> {
        let token = self.hash.as_ref().ok_or(NoAccess::Off)?;
        let value = headers.get(header::AUTHORIZATION);
        let given = value.and_then(|value| {
            let (scheme, rest) = value.as_bytes().split_at_checked(7)?;
            let bearer = scheme.eq_ignore_ascii_case(b"bearer ");
            bearer.then(|| rest.trim_ascii())
        });
        let given: [u8; 32] = Sha256::digest(given.unwrap_or_default()).into();
        match bool::from(given.ct_eq(token)) {
            true => Ok(()),
            false => Err(NoAccess::Unauthorized),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn only_the_token_opens() {
        let token = SecretString::from("correct horse battery staple 123");
        let access = AccessToken::new(Some(&token));
        let sent = |text: &'static str| {
            let value = HeaderValue::from_static(text);
            HeaderMap::from_iter([(header::AUTHORIZATION, value)])
        };
        let right = sent("Bearer correct horse battery staple 123");
        assert_eq!(access.admit(&right), Ok(()));
        for wrong in [
            "Bearer correct",
            "correct horse battery staple 123",
            "Bearer ",
            "Basic x",
        ] {
            assert_eq!(
                access.admit(&sent(wrong)),
                Err(NoAccess::Unauthorized),
                "{wrong}"
            );
        }
        assert_eq!(access.admit(&HeaderMap::new()), Err(NoAccess::Unauthorized));
        assert_eq!(AccessToken::new(None).admit(&right), Err(NoAccess::Off));
    }
}
