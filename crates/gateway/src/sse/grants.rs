//! Grants that a request brings: in headers, since tokens stand in no address. Each says itself which channel it is for,
//! in what the application has signed, so nothing else has to.
//!
//! Owns how they are read and which subscription gets which. Whether one is good is decided where that of a socket is.
//! What a grant says is in no answer.

use axum::http::HeaderMap;
use rowcast_hub::{HubError, ShownGrant};
use rowcast_model::Channel;
use rowcast_wire::{ErrorCode, GrantText};

use super::{
    query::{CHANNELS, bad},
    refusal::Refusal,
};
use crate::auth::Grants;

/// The header: one grant or several with commas between them, on one line or several.
pub(super) const GRANT: &str = "rowcast-grant";

/// Grants as they came.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Brought(Vec<GrantText>);

impl Brought {
    /// Reads the headers.
    ///
    /// # Errors
    /// More than there may be channels, or one that is too long.
    pub(super) fn read(headers: &HeaderMap) -> Result<Brought, Refusal> {
        let mut brought = Vec::new();
        for line in headers.get_all(GRANT) {
            let line = line.to_str();
            let line = line.map_err(|_| bad("the header `Rowcast-Grant` is not plain text"))?;
            for text in line
                .split(',')
                .map(str::trim)
                .filter(|text| !text.is_empty())
            {
                if brought.len() == CHANNELS {
                    let message =
                        format!("the header `Rowcast-Grant` has at most {CHANNELS} grants");
                    return Err(bad(message));
                }
                let grant = GrantText::new(text).map_err(|most| {
                    Refusal::new(
                        ErrorCode::InvalidField,
                        format!("a grant in the header `Rowcast-Grant` may have {most} bytes"),
                    )
                })?;
                brought.push(grant);
            }
        }
        Ok(Brought(brought))
    }

    /// The grant for each of the channels, if there is one; its signature is checked.
    ///
    /// # Errors
    /// One that the application has not signed, that has ended, or that is for no channel of the request.
    pub(super) fn of(
        &self,
        channels: &[Channel],
        grants: &Grants,
    ) -> Result<Vec<Option<ShownGrant>>, Refusal> {
        let mut of: Vec<Option<ShownGrant>> = channels.iter().map(|_| None).collect();
        for text in &self.0 {
            let shown = grants.verify(text.expose());
            let shown = shown.map_err(|refused| Refusal::new(refused.code, refused.message))?;
            let is_it = |channel: &Channel| matches!(channel, Channel::Named(name) if *name == shown.channel);
            let place = channels
                .iter()
                .position(is_it)
                .and_then(|at| of.get_mut(at));
            let place = place.ok_or(HubError::GrantOfAnother("channel"))?;
            if place.replace(shown).is_some() {
                return Err(bad(
                    "two grants in the header `Rowcast-Grant` are for one channel",
                ));
            }
        }
        Ok(of)
    }
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use jsonwebtoken::{Algorithm, EncodingKey, Header};
    use serde_json::json;

    use super::*;
    use crate::{GrantConfig, auth::since_1970};

    const KEY: &str = "a key of the application, for grants";

    fn grant(channel: &str) -> String {
        let now = since_1970().as_secs();
        let claims = json!({"channel": channel, "sub": "anna", "iat": now, "exp": now + 60});
        let key = EncodingKey::from_secret(KEY.as_bytes());
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).unwrap()
    }

    fn brought(lines: &[String]) -> Result<Brought, Refusal> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(GRANT, HeaderValue::try_from(line).unwrap());
        }
        Brought::read(&headers)
    }

    #[test]
    fn each_channel_gets_the_grant_that_names_it() {
        let config = GrantConfig {
            secrets: vec![KEY.to_owned().into()],
            public_keys: Vec::new(),
        };
        let grants = Grants::new(&config).unwrap();
        let channels = ["org:a", "doc:1", "doc:1=,2", "doc:3"].map(|name| name.parse().unwrap());
        let of = |lines: &[String]| {
            let of = brought(lines)?.of(&channels, &grants)?;
            let names = of
                .into_iter()
                .map(|shown| shown.map(|shown| shown.channel.to_string()));
            Ok::<_, Refusal>(names.collect::<Vec<_>>())
        };
        let [one, other] = ["doc:1", "doc:1=,2"].map(|name| Some(name.to_owned()));
        let all = vec![None, one.clone(), other, None];
        assert_eq!(of(&[grant("doc:1"), grant("doc:1=,2")]).unwrap(), all);
        // As a browser sends what was appended, and as others do.
        let line = format!(" ,{}, {}", grant("doc:1=,2"), grant("doc:1"));
        assert_eq!(of(&[line]).unwrap(), all);
        assert_eq!(of(&[]).unwrap(), vec![None; 4]);
        assert_eq!(of(&[String::new()]).unwrap(), vec![None; 4]);
        assert_eq!(of(&[grant("doc:1")]).unwrap(), vec![None, one, None, None]);

        let code = |lines: &[String]| of(lines).unwrap_err().code;
        assert_eq!(code(&["x.y.z".into()]), ErrorCode::GrantInvalid);
        // Neither one for no channel of the request, nor for one that follows the memberships.
        assert_eq!(code(&[grant("doc:2")]), ErrorCode::GrantInvalid);
        assert_eq!(code(&[grant("org:a")]), ErrorCode::GrantInvalid);
        assert_eq!(
            code(&[grant("doc:1"), grant("doc:1")]),
            ErrorCode::InvalidParameter
        );
    }

    #[test]
    fn they_are_bounded_and_do_not_print() {
        let secret = "s3cret";
        let many = |n: usize| brought(&vec![secret.to_owned(); n]);
        assert_eq!(many(CHANNELS).unwrap().0.len(), CHANNELS);
        assert!(!format!("{:?}", many(CHANNELS).unwrap()).contains(secret));
        let refused = many(CHANNELS + 1).unwrap_err();
        assert_eq!(refused.code, ErrorCode::InvalidParameter);
        assert!(!refused.message.contains(secret));
        let long = brought(&["x".repeat(4097)]).unwrap_err();
        assert_eq!(long.code, ErrorCode::InvalidField);
        assert!(!long.message.contains("xx"));
        assert!(brought(&["x".repeat(4096)]).is_ok());
    }
}
