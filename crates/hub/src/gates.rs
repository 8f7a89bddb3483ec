//! Gates between an event and somebody, as an explanation names them: the verdicts about the event alone, and
//! their words. [`crate::explain`] has the order, and the verdicts that need to know who is connected.

use std::cmp::Ordering;

use rowcast_model::{Audience, Channel, Cursor, RoutedEvent, Topic};

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
        masked,
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
    let seen = view(&event.audience, grant);
    let columns = masked.iter().flat_map(|masked| masked.masks.columns());
    let hidden: Vec<String> = columns
        .enumerate()
        .filter(|(i, _)| seen.new & 1 << i == 0)
        .map(|(_, mask)| format!("`{}`", mask.column))
        .collect();
    let news = Audience {
        masked,
        ..Audience::default()
    };
    let masks = match (part(news), hidden.is_empty()) {
        (true, true) => Gate::yes("masks", "every column that is sent is plain for them"),
        (true, false) => Gate::yes("masks", format!("masked for them: {}", hidden.join(", "))),
        (false, _) => Gate::no(
            "masks",
            format!(
                "nothing changed but columns that are masked for them: {}",
                hidden.join(", ")
            ),
        )
        .mend("-- a role in `show` of the mask, or being the owner, shows the column"),
    };
    vec![roles, user, masks]
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
