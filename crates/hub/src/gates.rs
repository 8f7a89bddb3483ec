//! Gates between an event and somebody, as an explanation names them: the verdicts about the event alone, and
//! their words. [`crate::explain`] has the order, and the verdicts that need to know who is connected.

use std::cmp::Ordering;

use rowcast_model::{Audience, Authorizer, Body, Channel, Cursor, JsonRow, RoutedEvent, Topic};

use crate::{Auth, Grant, Identity, Question, may_see, state::Sub, subscribe::hears_all, view};

/// What one gate says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It lets the event pass.
    Yes,
    /// It does not.
    No,
    /// That cannot be known here.
    Unknown,
}

impl Verdict {
    /// `yes`, `no`, `unknown`.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Yes => "yes",
            Verdict::No => "no",
            Verdict::Unknown => "unknown",
        }
    }
}

/// One gate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gate {
    /// Its stable name.
    pub gate: &'static str,
    /// What it says.
    pub verdict: Verdict,
    /// Why, for people.
    pub says: String,
    /// What mends it: statements where there is one, and else a comment.
    pub mend: Vec<String>,
}

impl Gate {
    /// It lets pass.
    pub fn yes(gate: &'static str, says: impl Into<String>) -> Gate {
        Gate::of(gate, Verdict::Yes, says)
    }

    /// It does not.
    pub fn no(gate: &'static str, says: impl Into<String>) -> Gate {
        Gate::of(gate, Verdict::No, says)
    }

    /// Nobody knows.
    pub fn unknown(gate: &'static str, says: impl Into<String>) -> Gate {
        Gate::of(gate, Verdict::Unknown, says)
    }

    fn of(gate: &'static str, verdict: Verdict, says: impl Into<String>) -> Gate {
        Gate {
            gate,
            verdict,
            says: says.into(),
            mend: Vec::new(),
        }
    }

    /// The same with what mends it.
    pub fn mend(mut self, step: impl Into<String>) -> Gate {
        self.mend.push(step.into());
        self
    }
}

pub(crate) fn who(identity: &Identity) -> String {
    match &identity.auth {
        Auth::Session { .. } => format!("user `{}`", identity.user),
        Auth::ApiKey { id, .. } => format!("API key `{id}`"),
    }
}

/// A text as SQL.
pub(crate) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

pub(crate) fn carries(
    question: &Question,
    event: &RoutedEvent,
    topics: &[Topic],
    for_them: bool,
) -> Gate {
    let gate = "carries";
    let of = match event.topic.organization() {
        Some(organization) => format!("the organization `{organization}`"),
        None => "no organization".to_owned(),
    };
    let carried = topics.contains(&event.topic)
        || hears_all(&question.channel) && event.topic == Topic::AllOrgs;
    match (carried && for_them, &question.channel) {
        (true, channel) => Gate::yes(gate, format!("`{channel}` carries events of {of}")),
        (false, Channel::User(_)) => Gate::no(
            gate,
            format!("a `user:` channel carries what is for that user alone; this is for {of}"),
        )
        .mend("-- listen on the channel of the organization, or give the table a user_column"),
        (false, channel) => Gate::no(gate, format!("`{channel}` does not carry events of {of}"))
            .mend(match event.topic.organization() {
                Some(organization) => format!("-- listen on `org:{organization}`"),
                None => "-- listen on another channel".to_owned(),
            }),
    }
}

/// The parts of the audience one by one, by the one decision about all of them.
pub(crate) fn audience(event: &RoutedEvent, grant: &Grant) -> Vec<Gate> {
    let Audience {
        required_roles,
        user,
        ..
    } = event.audience.clone();
    let part = |audience: Audience| may_see(&audience, grant);
    let wanted: Vec<&str> = required_roles.iter().map(|role| role.as_str()).collect();
    let wanted = wanted.join(", ");
    let table = format!("{}.{}", event.table.schema, event.table.name);
    let roles = Audience {
        required_roles: required_roles.clone(),
        ..Audience::default()
    };
    let roles = match (part(roles), required_roles.is_empty()) {
        (true, true) => Gate::yes("required_roles", "no role is required"),
        (true, false) => Gate::yes("required_roles", format!("one of {wanted} is required and there")),
        (false, _) => Gate::no("required_roles", format!("one of the roles {wanted} is required"))
            .mend(format!("-- give them one of these roles, or: SELECT rowcast.track({}, required_roles => '{{}}');", literal(&table))),
    };
    let whom = user
        .as_ref()
        .map(|user| format!("it is for user `{user}` alone"));
    let for_user = Audience {
        user: user.clone(),
        ..Audience::default()
    };
    let user = match (part(for_user), whom) {
        (true, None) => Gate::yes("user_column", "it is not for one user alone"),
        (true, Some(whom)) => Gate::yes("user_column", whom),
        (false, whom) => Gate::no("user_column", whom.unwrap_or_default()).mend(format!(
            "-- or for all members: SELECT rowcast.track({}); (without user_column)",
            literal(&table)
        )),
    };
    vec![roles, user, masks(event, grant)]
}

/// Which columns come masked, in each row that the event has: the owner of the one need not be that of the other.
fn masks(event: &RoutedEvent, grant: &Grant) -> Gate {
    let gate = "masks";
    let masked = event.audience.masked.as_ref();
    let news = Audience {
        masked: masked.cloned(),
        ..Audience::default()
    };
    let named = |bits: u64, row: Option<&JsonRow>| {
        let columns = masked.iter().flat_map(|masked| masked.masks.columns());
        let names: Vec<String> = columns
            .enumerate()
            .filter(|(i, mask)| {
                bits & 1 << i != 0 && row.is_none_or(|row| row.get(&mask.column).is_some())
            })
            .map(|(_, mask)| format!("`{}`", mask.column))
            .collect();
        names.join(", ")
    };
    if !may_see(&news, grant) {
        let only = masked.and_then(|masked| masked.only).unwrap_or_default();
        let columns = named(only, None);
        return Gate::no(
            gate,
            format!("nothing changed but columns that are masked for them: {columns}"),
        )
        .mend("-- a role in `show` of the mask, or being the owner, shows the column");
    }
    let seen = view(&news, grant);
    let (new, old) = match &event.body {
        Body::Change { new, old, .. } => {
            let of = |row: &Option<JsonRow>, plain: u64| {
                row.as_ref().map(|row| named(!plain, Some(row)))
            };
            (of(new, seen.new), of(old, seen.old))
        }
        // No row is known: that of one who writes it now, or takes it away.
        _ => (Some(named(!seen.new, None)), None),
    };
    let says = match (new, old.filter(|old| !old.is_empty())) {
        (Some(new), Some(old)) if new == old => format!("masked for them: {new}"),
        (Some(new), Some(old)) if new.is_empty() => {
            format!("masked for them in the row before: {old}")
        }
        (Some(new), Some(old)) => format!("masked for them: {new}; in the row before: {old}"),
        (Some(some), None) if !some.is_empty() => format!("masked for them: {some}"),
        (None, Some(old)) => format!("masked for them: {old}"),
        _ => "every column that is sent is plain for them".to_owned(),
    };
    Gate::yes(gate, says)
}

/// What the application has said about somebody; it is not asked now.
pub(crate) fn authorization(by: &Authorizer, sub: Option<&Sub>) -> Gate {
    let gate = "authorization";
    let whom = match &by.handler {
        Some(handler) => format!("the application ({handler})"),
        None => "a grant of the application".to_owned(),
    };
    match sub.and_then(|sub| sub.pass.as_ref()) {
        Some(pass) if pass.is_paused() => Gate::no(
            gate,
            format!("access was revoked, and {whom} is being asked again"),
        ),
        Some(_) => Gate::yes(gate, format!("{whom} has let them on")),
        None => Gate::unknown(gate, format!("{whom} decides when they subscribe")),
    }
}

pub(crate) fn subscription(question: &Question, sub: Option<&Sub>) -> Gate {
    let channel = &question.channel;
    match sub {
        None => Gate::no(
            "subscription",
            format!("none of these sockets is on `{channel}`"),
        )
        .mend(format!(
            "-- send {{\"type\":\"subscribe\",\"channel\":\"{channel}\"}}"
        )),
        Some(sub) if sub.replay.is_some() => Gate::yes(
            "subscription",
            format!("a socket is on `{channel}`, and is just told the past"),
        ),
        Some(_) => Gate::yes("subscription", format!("a socket is on `{channel}`")),
    }
}

pub(crate) fn since(sub: &Sub, event: &RoutedEvent) -> Gate {
    let gate = "position";
    let behind = |since: &Cursor| {
        let order = since.compare(&event.cursor);
        !matches!(order, Some(Ordering::Greater | Ordering::Equal))
    };
    match behind(&sub.since) {
        true => Gate::yes(
            gate,
            format!("the subscription began before {}", event.cursor),
        ),
        false => Gate::no(
            gate,
            format!(
                "the subscription began at {}, behind the event at {}",
                sub.since, event.cursor
            ),
        )
        .mend("-- subscribe with the last cursor to get what was missed"),
    }
}
