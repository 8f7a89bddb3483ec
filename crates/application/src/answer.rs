//! What an HTTP answer of a webhook means. Pure.

use rowcast_model::Refusal;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::line::Trouble;

#[derive(Deserialize)]
struct Told {
    code: String,
    #[serde(default)]
    message: String,
}

/// 2xx with JSON is the answer (an empty body is null), 4xx with `{"code","message"}` a refusal, everything else none.
pub(crate) fn answer(status: u16, body: &[u8]) -> Result<Box<RawValue>, Trouble> {
    let none = |why: &str| Trouble::Gone("status", format!("status {status} {why}"));
    match status {
        204 => Ok(RawValue::NULL.to_owned()),
        200..300 if body.trim_ascii().is_empty() => Ok(RawValue::NULL.to_owned()),
        200..300 => serde_json::from_slice(body)
            .map_err(|_| Trouble::Broken("answer", format!("status {status}, and no JSON"))),
        400..500 => match serde_json::from_slice::<Told>(body) {
            Ok(told) => Err(Trouble::Refused(Refusal::new(&told.code, &told.message))),
            Err(_) => Err(none("without code and message")),
        },
        300..400 => Err(none("is a redirect, which is not followed")),
        _ => Err(none("")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn statuses_mean_what_they_say() {
        let said = |status, body: &str| match answer(status, body.as_bytes()) {
            Ok(value) => value.get().to_owned(),
            Err(Trouble::Refused(refusal)) => format!("{}: {}", refusal.code, refusal.message),
            Err(other) => other.name().to_owned(),
        };
        assert_eq!(said(200, r#" {"allowed":true} "#), r#"{"allowed":true}"#);
        assert_eq!(said(204, ""), "null");
        assert_eq!(said(200, "\n"), "null");
        assert_eq!(said(200, "<html>"), "answer");
        let refusal = r#"{"code":"accessdenied","message":"Not a member of this room","more":1}"#;
        assert_eq!(
            said(403, refusal),
            "accessdenied: Not a member of this room"
        );
        assert_eq!(said(403, r#"{"code":"x"}"#), "x: ");
        for (status, body) in [
            (404, "not found"),
            (302, refusal),
            (500, refusal),
            (101, "{}"),
        ] {
            assert_eq!(said(status, body), "status", "{status}");
        }
    }

    proptest! {
        #[test]
        fn no_body_makes_it_panic(status in 0..700_u16, body in prop::collection::vec(any::<u8>(), 0..50)) {
            let _ = answer(status, &body);
        }
    }
}
