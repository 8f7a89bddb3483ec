//! Why somebody gets an event, or does not: the verdict of each gate that stands between them, in order.
//!
//! Owns the order, and what is looked up for it. Every verdict is that of the function which decides when an event
//! is delivered: [`may_see`] with one part of the audience at a time, the rules of channels, the filters,
//! [`Sub::class_for`]. Nothing is decided here.

use rowcast_model::{Channel, Cursor, Operation, OrgId, RoutedEvent, Topic};

use crate::{
    Auth, Gate, Grant, Hub, Identity, StreamState,
    gates::{audience, authorization, carries, literal, since, subscription, who},
    may_see,
    replay::{Rights, has_it},
    state::{Conn, State, Sub, organizations_heard},
    subscribe::{Entry, past_of},
};

/// Past events that are looked at to find one of a record, under the lock: some milliseconds.
const LOOKS: usize = 10_000;
/// Organizations of a user whose past is looked at.
const ORGANIZATIONS: usize = 16;

/// What is asked.
#[derive(Clone, Debug)]
pub struct Question {
    /// Who.
    pub identity: Identity,
    /// In which organization; `None`: the row's, or that of the channel.
    pub organization: Option<OrgId>,
    /// On which channel.
    pub channel: Channel,
    /// Of which table, in which schema, is the event; `None`: whatever came last on the channel.
    pub table: Option<(Option<String>, String)>,
    /// Of which record; `None`: whatever came last of the table.
    pub record: Option<String>,
    /// What happened; `None`: anything.
    pub operation: Option<Operation>,
    /// What would be told of the record if it were written now, for when nothing is remembered of it.
    pub otherwise: Option<RoutedEvent>,
}

/// The answer.
#[derive(Clone, Debug, Default)]
pub struct Explained {
    /// The event that was judged, if there is one, and whether it was told or would be.
    pub event: Option<Judged>,
    /// The gates in the order in which an event comes to them.
    pub gates: Vec<Gate>,
}

/// An event that was judged.
#[derive(Clone, Debug)]
pub struct Judged {
    /// Where it stands; `None` of one that would be.
    pub cursor: Option<Cursor>,
    /// What happened.
    pub operation: &'static str,
    /// Of which organization it is.
    pub organization: Option<OrgId>,
}

impl Hub {
    /// Explains. Looks at a bounded part of the past; takes the lock for some milliseconds at most.
    pub fn explain(&self, question: &Question) -> Explained {
        self.state.lock().explain(question)
    }
}

impl State {
    fn explain(&self, question: &Question) -> Explained {
        let conns = self.conns_of(&question.identity);
        let subscribed = conns.iter().find_map(|conn| {
            let subs = conn.about.subs.iter();
            let mut subs = subs.filter_map(|id| self.subs.get(*id as usize));
            let of = |sub: &&Sub| {
                sub.channel == question.channel
                    && (question.organization.is_none()
                        || !matches!(sub.channel, Channel::Named(_))
                        || sub.organization() == question.organization.as_ref())
            };
            Some((*conn, subs.find(of)?))
        });
        // A token may grant more than the memberships do.
        let conn = subscribed.map(|(conn, _)| conn).or(conns.first().copied());
        let identity = conn.map_or(&question.identity, |conn| &conn.about.identity);
        let remembered = self.remembered(question, identity);
        let event = remembered.as_ref().or(question.otherwise.as_ref());
        let mut gates = Vec::new();
        let organization = self.organization_asked(question, event);
        gates.extend(self.membership(identity, organization.as_ref()));
        let admitted = self.admit(identity, &question.channel, organization.as_ref());
        gates.push(match &admitted {
            Ok(_) => Gate::yes(
                "channel",
                format!("the channel `{}` lets them in", question.channel),
            ),
            Err(error) => Gate::no("channel", error.to_string())
                .mend("-- who may be on a channel: docs/sql.md#channels"),
        });
        if let Ok(Entry {
            authorizer: Some(by),
            ..
        }) = &admitted
        {
            gates.push(authorization(by, subscribed.map(|(_, sub)| sub)));
        }
        let mut grant = None;
        match (&admitted, event) {
            (Ok(entry), Some(event)) => {
                let topic = entry.topic.as_ref();
                let topics = past_of(&self.directory, identity, &question.channel, topic);
                grant = self.rights(question, identity, &entry.grant, event);
                gates.push(carries(question, event, &topics, grant.is_some()));
                if let Some(grant) = &grant {
                    gates.extend(audience(event, grant));
                }
            }
            (Ok(_), None) if question.table.is_some() => gates.push(Gate::unknown(
                "event",
                "no event of it is remembered, and no row was found that could be judged instead",
            )),
            _ => {}
        }
        gates.extend(self.socket(question, conns.len()));
        if !conns.is_empty() {
            gates.push(subscription(question, subscribed.map(|(_, sub)| sub)));
        }
        if let (Some((conn, sub)), Some(event), Some(grant)) = (subscribed, event, &grant) {
            gates.push(self.selection(conn, sub, event, grant, remembered.is_some()));
            if remembered.is_some() {
                gates.push(since(sub, event));
            }
        }
        gates.push(self.streams());
        Explained {
            event: event.map(|event| Judged {
                cursor: remembered.as_ref().map(|event| event.cursor),
                operation: event.op.as_str(),
                organization: event.topic.organization().cloned(),
            }),
            gates,
        }
    }

    fn conns_of(&self, identity: &Identity) -> Vec<&Conn> {
        let slots = match &identity.auth {
            Auth::Session { .. } => self.by_user.get(&identity.user),
            Auth::ApiKey { id, .. } => self.by_key.get(id),
        };
        let slots = slots.into_iter().flatten();
        slots
            .filter_map(|slot| self.conns.get(*slot as usize))
            .collect()
    }

    /// The last event that is known of what is asked about.
    fn remembered(&self, question: &Question, identity: &Identity) -> Option<RoutedEvent> {
        let fits = |event: &RoutedEvent| match &question.table {
            _ if question.operation.is_some_and(|op| op != event.op) => false,
            // What came last there, not what came last elsewhere.
            None => match &question.channel {
                Channel::Org(_) => true,
                Channel::Tenant(_, table) => event.table.name == *table,
                Channel::User(user) => match &event.topic {
                    Topic::User(whom) => whom == user,
                    _ => event.audience.user.as_ref() == Some(user),
                },
                Channel::Named(_) => matches!(&event.topic, Topic::Channel(..)),
            },
            Some((schema, table)) => {
                let schema = schema.as_ref();
                event.table.name.as_ref() == table
                    && schema.is_none_or(|schema| event.table.schema.as_ref() == schema)
                    && question
                        .record
                        .as_ref()
                        .is_none_or(|record| event.record_id.as_deref() == Some(record))
            }
        };
        let of_row = question.otherwise.as_ref().map(|event| event.topic.clone());
        let organization = match &question.channel {
            Channel::Org(of) | Channel::Tenant(of, _) => Some(of),
            _ => question.organization.as_ref(),
        };
        let mut topics: Vec<Topic> = of_row.into_iter().collect();
        match &question.channel {
            Channel::User(user) => {
                topics.push(Topic::User(user.clone()));
                let all = self.directory.organizations_of(identity);
                topics.extend(all.into_iter().take(ORGANIZATIONS).map(Topic::Org));
            }
            Channel::Named(name) => {
                let resolved = self.channels.resolve(name, organization);
                topics.extend(resolved.ok().map(|resolved| resolved.topic));
            }
            Channel::Org(_) | Channel::Tenant(..) => {}
        }
        topics.extend(organization.cloned().map(Topic::Org));
        self.history.latest(&topics, LOOKS, fits)
    }

    /// The organization that counts.
    fn organization_asked(
        &self,
        question: &Question,
        event: Option<&RoutedEvent>,
    ) -> Option<OrgId> {
        match &question.channel {
            Channel::Org(of) | Channel::Tenant(of, _) => Some(of.clone()),
            _ => question
                .organization
                .clone()
                .or_else(|| event.and_then(|event| event.topic.organization().cloned())),
        }
    }

    fn membership(&self, identity: &Identity, organization: Option<&OrgId>) -> Option<Gate> {
        let organization = organization?;
        let who = who(identity);
        Some(match self.grant(identity, organization) {
            Some(grant) => {
                let roles: Vec<&str> = grant.roles.iter().map(|role| role.as_str()).collect();
                Gate::yes(
                    "membership",
                    format!(
                        "{who} is in `{organization}` with the roles {}",
                        roles.join(", ")
                    ),
                )
            }
            None => {
                let no = Gate::no("membership", format!("{who} is not in `{organization}`"));
                match &identity.auth {
                    Auth::ApiKey { .. } => no.mend(format!(
                        "SELECT rowcast.create_api_key({});",
                        literal(organization.as_str())
                    )),
                    Auth::Session { .. } => no.mend(format!(
                        "INSERT INTO rowcast.memberships (user_id, organization_id) VALUES ({}, {}); -- or the table named with rowcast.use_memberships()",
                        literal(identity.user.as_str()),
                        literal(organization.as_str())
                    )),
                }
            }
        })
    }

    /// What they are where the event is; `None`: it is not for this channel.
    fn rights(
        &self,
        question: &Question,
        identity: &Identity,
        of_channel: &Grant,
        event: &RoutedEvent,
    ) -> Option<Grant> {
        let mut rights = Rights::new(&question.channel, of_channel, identity);
        let granted = rights.grant(event, |topic| self.directory.grant_for(identity, topic));
        granted.cloned()
    }

    fn socket(&self, question: &Question, sockets: usize) -> Option<Gate> {
        let who = who(&question.identity);
        Some(match sockets {
            0 => Gate::no("socket", format!("{who} has no socket open here"))
                .mend("-- open one: docs/guide.md#5-subscribe-in-a-browser"),
            1 => Gate::yes("socket", format!("{who} has one socket open")),
            many => Gate::yes("socket", format!("{who} has {many} sockets open")),
        })
    }

    /// Whether the subscription wants the event: its forms, tables and filters, and that it comes once.
    fn selection(
        &self,
        conn: &Conn,
        sub: &Sub,
        event: &RoutedEvent,
        grant: &Grant,
        remembered: bool,
    ) -> Gate {
        let gate = "filter";
        let takes = sub.class_for(event, grant).is_some();
        let listed = || {
            let mut parts = sub.parts.iter().flatten();
            parts.any(|part| part.table == event.table.name)
        };
        let filtered = || {
            let mut parts = sub.parts.iter().flatten();
            parts.any(|part| part.table == event.table.name && part.filter.is_some())
        };
        let personal = matches!(sub.channel, Channel::User(_));
        if takes && personal && has_it(&organizations_heard(&self.subs, conn), event, grant) {
            let says = "it comes on the channel of its organization, which the same socket is on";
            return Gate::no(gate, says)
                .mend("-- listen there; an event comes on one channel of a socket");
        }
        match () {
            () if !sub.hears(event) => {
                Gate::no(gate, "the subscription does not ask for what is of no row")
                    .mend("-- subscribe with \"events\": [\"changes\", \"broadcasts\"]")
            }
            () if sub.parts.is_some() && !listed() => {
                Gate::no(gate, "the subscription lists other tables")
                    .mend("-- subscribe with this table in `tables`, or without `tables`")
            }
            () if sub.is_blind(event, &grant.roles) => Gate::no(
                gate,
                "the filter names a column that is masked for them in this event",
            )
            .mend("-- leave it out of the filter"),
            () if takes && filtered() && !remembered => Gate::unknown(
                gate,
                "the subscription has a filter, and no event with the row is remembered to ask it about",
            ),
            () if takes => Gate::yes(gate, "tables and filter of the subscription fit it"),
            () if may_see(&event.audience, grant) => Gate::no(
                gate,
                "the filter of the subscription does not fit the row",
            )
            .mend("-- subscribe with another filter; how values compare: docs/protocol.md#filters"),
            () => Gate::unknown(gate, "not asked, as they may not see it"),
        }
    }

    fn streams(&self) -> Gate {
        let position = self.position();
        match &self.stream {
            StreamState::Live if self.position.is_some() => {
                Gate::yes("stream", format!("the log is read, up to {position}"))
            }
            StreamState::Live => {
                Gate::no("stream", "nothing of the log was read yet").mend("-- rowcast doctor")
            }
            StreamState::Stale { reason, .. } => Gate::no(
                "stream",
                format!("the log is not read at present ({reason}); last position {position}"),
            )
            .mend("-- rowcast doctor"),
        }
    }
}
