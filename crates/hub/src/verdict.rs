//! What an answer of the application about a channel means. Pure, and closed: whatever is not clearly a yes is none.

use std::{sync::Arc, time::Duration};

use rowcast_model::{AskError, Authorizer, Refusal};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::pass::{Verdict, Yes};

/// The longest that a yes holds.
const MOST: u64 = 86_400;

#[derive(Deserialize)]
#[serde(untagged)]
enum Answer {
    Plain(bool),
    #[serde(rename_all = "camelCase")]
    Object {
        allowed: Option<bool>,
        ttl_seconds: Option<u64>,
        epoch: Option<i64>,
        code: Option<String>,
        message: Option<String>,
    },
}

/// Yes, or the no or the trouble that the client is told.
pub(crate) fn judge(
    answer: Result<&RawValue, &AskError>,
    by: &Authorizer,
) -> Result<Yes, AskError> {
    let answer = answer.map_err(AskError::clone)?;
    let refusal = |code: Option<String>, message: Option<String>| {
        AskError::Refused(Refusal::new(
            code.as_deref().unwrap_or("accessdenied"),
            message
                .as_deref()
                .unwrap_or("the application does not let you on this channel"),
        ))
    };
    let yes = |ttl: Option<u64>, epoch| Yes {
        ttl: Duration::from_secs(ttl.unwrap_or(by.ttl_seconds.into()).clamp(1, MOST)),
        epoch,
    };
    if answer.get().trim() == "null" {
        return Err(refusal(None, None));
    }
    match serde_json::from_str(answer.get()) {
        Ok(Answer::Plain(true)) => Ok(yes(None, None)),
        Ok(Answer::Plain(false)) => Err(refusal(None, None)),
        Ok(Answer::Object {
            allowed,
            ttl_seconds,
            epoch,
            code,
            message,
        }) => match allowed {
            Some(true) => Ok(yes(ttl_seconds, epoch)),
            // Whoever says how long, says yes.
            None if ttl_seconds.is_some() || epoch.is_some() => Ok(yes(ttl_seconds, epoch)),
            _ => Err(refusal(code, message)),
        },
        Err(_) => Err(AskError::Failed),
    }
}

/// The same for a pass that there is: only a refusal ends it.
pub(crate) fn verdict(judged: &Result<Yes, AskError>) -> Verdict {
    match judged {
        Ok(yes) => Verdict::Yes(*yes),
        Err(AskError::Refused(refusal)) => Verdict::No(Arc::from(&*refusal.code)),
        Err(_) => Verdict::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(answer: &str) -> Result<Yes, AskError> {
        let by = Authorizer {
            handler: None,
            ttl_seconds: 60,
            grants: false,
        };
        let answer = RawValue::from_string(answer.to_owned()).unwrap();
        judge(Ok(&answer), &by)
    }

    #[test]
    fn only_a_clear_yes_is_one() {
        let yes = |seconds, epoch| {
            Ok(Yes {
                ttl: Duration::from_secs(seconds),
                epoch,
            })
        };
        assert_eq!(judged("true"), yes(60, None));
        assert_eq!(judged(r#"{"allowed":true}"#), yes(60, None));
        assert_eq!(judged(r#"{"ttlSeconds":300,"epoch":7}"#), yes(300, Some(7)));
        assert_eq!(judged(r#"{"epoch":-7,"more":1}"#), yes(60, Some(-7)));
        assert_eq!(judged(r#"{"ttlSeconds":0,"allowed":true}"#), yes(1, None));
        assert_eq!(judged(r#"{"ttlSeconds":99999999}"#), yes(86_400, None));
        let refused = |answer: &str| match judged(answer) {
            Err(AskError::Refused(refusal)) => refusal.code,
            other => panic!("{answer}: {other:?}"),
        };
        for no in [
            "false",
            "null",
            " null ",
            "{}",
            r#"{"allowed":false,"ttlSeconds":300}"#,
        ] {
            assert_eq!(refused(no), "accessdenied", "{no}");
        }
        assert_eq!(refused(r#"{"allowed":false,"code":"banned"}"#), "banned");
        for odd in [
            "1",
            r#""yes""#,
            "[]",
            r#"{"allowed":"yes"}"#,
            r#"{"ttlSeconds":-1}"#,
            r#"{"epoch":1.5}"#,
        ] {
            assert_eq!(judged(odd), Err(AskError::Failed), "{odd}");
        }
    }

    #[test]
    fn only_a_refusal_ends_what_there_is() {
        let refusal = AskError::Refused(Refusal::new("banned", ""));
        assert_eq!(verdict(&Err(refusal)), Verdict::No("banned".into()));
        for error in [
            AskError::Failed,
            AskError::Unavailable,
            AskError::Overloaded,
        ] {
            assert_eq!(verdict(&Err(error)), Verdict::Unknown);
        }
    }
}
