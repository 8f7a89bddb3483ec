//! What is asked of the application: by whom, of which of its functions or webhooks, and what may come back.
//!
//! Owns the names of functions, which go into statements as they are and are therefore read strictly here.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value, value::RawValue};

use crate::{OrgId, Role, UserId};

/// Longest name of a schema or function, in bytes (Postgres allows 63).
const MAX_PART: usize = 63;
/// Longest code of a refusal, in bytes.
pub const MAX_CODE_BYTES: usize = 64;
/// Longest sentence of a refusal, in bytes.
pub const MAX_SENTENCE_BYTES: usize = 512;

/// A function of the application, `schema.name`, quoted as Postgres quotes names.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FunctionName {
    schema: Arc<str>,
    name: Arc<str>,
}

/// A text is no name of a function.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a function is named by its schema and its name, such as app.may_join")]
pub struct FunctionNameError;

impl FromStr for FunctionName {
    type Err = FunctionNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (schema, rest) = part(text).ok_or(FunctionNameError)?;
        let rest = rest.strip_prefix('.').ok_or(FunctionNameError)?;
        match part(rest) {
            Some((name, "")) => Ok(FunctionName {
                schema: schema.into(),
                name: name.into(),
            }),
            _ => Err(FunctionNameError),
        }
    }
}

/// A name at the beginning of a text, and what stands behind it.
fn part(text: &str) -> Option<(String, &str)> {
    let fits = |name: &str| !name.is_empty() && name.len() <= MAX_PART && !name.contains('\0');
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'));
        let (name, rest) = text.split_at(end.unwrap_or(text.len()));
        let begins = !name.starts_with(|c: char| c.is_ascii_digit());
        return (begins && fits(name)).then(|| (name.to_owned(), rest));
    };
    let mut name = String::new();
    let mut chars = quoted.char_indices();
    loop {
        match chars.next()? {
            (at, '"') if quoted[at + 1..].starts_with('"') => {
                name.push('"');
                chars.next();
            }
            (at, '"') => return fits(&name).then_some((name, &quoted[at + 1..])),
            (_, other) => name.push(other),
        }
    }
}

impl fmt::Display for FunctionName {
    /// Always quoted: whatever the name holds, it is one name in a statement.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quoted = |name: &str| name.replace('"', "\"\"");
        write!(f, "\"{}\".\"{}\"", quoted(&self.schema), quoted(&self.name))
    }
}

impl TryFrom<String> for FunctionName {
    type Error = FunctionNameError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<FunctionName> for String {
    fn from(name: FunctionName) -> String {
        name.to_string()
    }
}

/// Who answers.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Handler {
    /// A function in the database.
    Function(FunctionName),
    /// A webhook, by its name in the configuration; the address stands there alone.
    Webhook(Arc<str>),
}

impl fmt::Display for Handler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Handler::Function(name) => write!(f, "function {name}"),
            Handler::Webhook(name) => write!(f, "webhook {name}"),
        }
    }
}

/// What a handler that may write was defined for; it is named by this to the operator.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Definition {
    /// On which channels.
    pub pattern: Arc<str>,
    /// The event's name.
    pub event: Arc<str>,
}

impl fmt::Display for Definition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the event {} on {}", self.event, self.pattern)
    }
}

/// What a question is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Asking {
    /// May somebody be on a channel?
    Authorize,
    /// A client sent an event.
    Event,
}

impl Asking {
    /// The name, in webhooks and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Asking::Authorize => "authorize",
            Asking::Event => "event",
        }
    }
}

/// How somebody proved who he is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// The token of a person.
    Session,
    /// The API key of a machine.
    ApiKey,
}

/// Whose question it is: what the service itself found out about a socket, never what the socket says.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Caller {
    /// The user; `None` for machines.
    pub user_id: Option<UserId>,
    /// The organization that the question is about; `None` where it is about none.
    pub organization_id: Option<OrgId>,
    /// The roles in that organization, sorted.
    pub roles: Arc<[Role]>,
    /// How that was proved.
    pub auth_method: Method,
    /// The id of the API key.
    pub api_key_id: Option<Arc<str>>,
    /// The number of the connection.
    #[serde(serialize_with = "as_text")]
    pub connection_id: u64,
    /// The claims of the token, as they stand in it; an empty object for machines.
    pub claims: Claims,
}

fn as_text<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(number)
}

/// The claims of a token. They do not print.
#[derive(Clone, Serialize)]
#[serde(transparent)]
pub struct Claims(pub Arc<RawValue>);

impl Claims {
    /// Those of a machine, which has no token.
    pub fn none() -> Claims {
        // An object of nothing cannot be invalid; null would do as well.
        let empty = RawValue::from_string("{}".to_owned());
        Claims(empty.unwrap_or_else(|_| RawValue::NULL.to_owned()).into())
    }

    /// The JSON text of an object.
    pub fn json(&self) -> &str {
        self.0.get()
    }

    /// One claim, if it is a text.
    pub fn text(&self, name: &str) -> Option<String> {
        let claims: Map<String, Value> = serde_json::from_str(self.json()).ok()?;
        claims.get(name)?.as_str().map(str::to_owned)
    }
}

impl fmt::Debug for Claims {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Claims(..)")
    }
}

/// A question to the application.
#[derive(Clone, Debug)]
pub struct Question {
    /// What it is about.
    pub asking: Asking,
    /// Who answers.
    pub handler: Handler,
    /// What for, when the handler may write: he has to tell who follows what he writes.
    pub definition: Option<Definition>,
    /// The channel.
    pub channel: Arc<str>,
    /// The values of the parameters of the channel's pattern.
    pub arguments: Map<String, Value>,
    /// What the client, or the service, says.
    pub input: Box<RawValue>,
    /// Who asks.
    pub caller: Caller,
}

impl Question {
    /// Bytes that it takes, roughly.
    pub fn bytes(&self) -> usize {
        const FIXED: usize = 1024;
        FIXED + 2 * self.channel.len() + self.input.get().len() + self.caller.claims.json().len()
    }
}

/// A no of the application, in its own words, bounded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// A code of the application, such as `accessdenied`.
    pub code: String,
    /// A sentence for people.
    pub message: String,
}

impl Refusal {
    /// Takes what an application says: a code that is none becomes `refused`, a long sentence is cut.
    pub fn new(code: &str, message: &str) -> Refusal {
        let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | ':');
        let fits = !code.is_empty() && code.len() <= MAX_CODE_BYTES && code.chars().all(good);
        let mut end = message.len().min(MAX_SENTENCE_BYTES);
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        Refusal {
            code: if fits { code } else { "refused" }.to_owned(),
            message: message[..end].to_owned(),
        }
    }
}

/// Why there is no answer. None of them says anything of the inside of the application but a refusal, whose
/// words are meant for the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The application says no.
    #[error("{}", .0.message)]
    Refused(Refusal),
    /// It cannot be asked at the moment, or does not answer.
    #[error("the application does not answer at the moment; try again")]
    Unavailable,
    /// As many questions as allowed are waiting.
    #[error("the application has as many questions as it can take; try again")]
    Overloaded,
    /// It failed, or its answer cannot be understood, or nobody of that name is there. The log says more.
    #[error("the application failed; its operator finds the reason in the log of the service")]
    Failed,
}

impl AskError {
    /// A stable name.
    pub fn code(&self) -> &'static str {
        match self {
            AskError::Refused(_) => "refused",
            AskError::Unavailable => "unavailable",
            AskError::Overloaded => "overloaded",
            AskError::Failed => "failed",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn functions_have_a_schema_and_a_name() {
        let read = |text: &str| {
            text.parse::<FunctionName>()
                .map(|name| name.to_string())
                .ok()
        };
        assert_eq!(read("app.may_join").as_deref(), Some(r#""app"."may_join""#));
        assert_eq!(
            read(r#""My App"."a""b""#).as_deref(),
            Some(r#""My App"."a""b""#)
        );
        for bad in [
            "may_join",
            "app.",
            ".f",
            "app.f()",
            "app.f; DROP TABLE x",
            "App.f",
            r#"app."f"#,
            r#""".f"#,
            "a.b.c",
            "1a.f",
            "app.f ",
            r#"app."f"x"#,
        ] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_name_stays_one_name(schema in ".{1,15}", name in ".{1,15}", text in ".*") {
            let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
            let written = format!("{}.{}", quoted(&schema), quoted(&name));
            let read: Option<FunctionName> = written.parse().ok();
            let fits = |name: &str| name.len() <= MAX_PART && !name.contains('\0');
            prop_assert_eq!(read.is_some(), fits(&schema) && fits(&name));
            if let Some(read) = read {
                prop_assert_eq!((&*read.schema, &*read.name), (&*schema, &*name));
                prop_assert_eq!(read.to_string(), written);
            }
            if let Ok(read) = text.parse::<FunctionName>() {
                prop_assert_eq!(read.to_string().parse(), Ok(read));
            }
        }

        #[test]
        fn refusals_are_bounded(code in ".*", message in ".{0,2000}") {
            let refusal = Refusal::new(&code, &message);
            prop_assert!(refusal.code.len() <= MAX_CODE_BYTES && !refusal.code.is_empty());
            prop_assert!(message.starts_with(&refusal.message));
            prop_assert!(refusal.message.len() <= MAX_SENTENCE_BYTES);
        }
    }

    #[test]
    fn a_caller_is_written_whole_and_its_claims_do_not_print() {
        let caller = Caller {
            user_id: Some("anna".into()),
            organization_id: Some("acme".into()),
            roles: [Role::from("admin")].into(),
            auth_method: Method::Session,
            api_key_id: None,
            connection_id: 42,
            claims: Claims(Arc::from(
                RawValue::from_string(r#"{"sub":"anna","role":"app"}"#.into()).unwrap(),
            )),
        };
        let json = serde_json::to_string(&caller).unwrap();
        assert_eq!(
            json,
            r#"{"userId":"anna","organizationId":"acme","roles":["admin"],"authMethod":"session","apiKeyId":null,"connectionId":"42","claims":{"sub":"anna","role":"app"}}"#
        );
        assert!(!format!("{caller:?}").contains("sub"));
        assert_eq!(caller.claims.text("role").as_deref(), Some("app"));
        assert_eq!(caller.claims.text("exp"), None);
    }
}
