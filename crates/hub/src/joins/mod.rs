//! Channels of the Supabase protocol: one join has bindings to rows, in every organization of the user, and a room.
//!
//! Owns what a join consists of, and that its parts come and go together: a binding follows the memberships of its
//! user, a second join of the same topic takes the place of the first one. Promises: the reply leaves under the lock
//! that puts the parts into the indexes, so what is committed afterwards arrives behind it; who may be where, and see
//! what, is decided where it is for every other subscription. The protocol knows no cursors: what cannot be gone on
//! from ends with `phx_error`, upon which clients join again by themselves.

mod enter;
mod stay;

pub(crate) use enter::Said;

use std::sync::Arc;

use rowcast_model::{Channel, Operation, OrgId};
use rowcast_wire::{
    Frame, TableSelection,
    phoenix::{self, RowBinding, TABLE_EVENTS, TableEventFilter, Version, Voice, What},
};

use crate::{Connection, Hub, HubError, membership::REMOVED, rules::COLUMN_HIDDEN, state::Sub};

/// Rows that somebody wants.
#[derive(Clone, Debug)]
pub struct Binding {
    /// What its messages are marked with.
    pub id: u32,
    /// How it is called in messages to the client.
    pub described: Arc<str>,
    /// Which rows.
    pub rows: RowBinding,
}

/// What is said on a channel.
#[derive(Clone, Debug)]
pub struct Room {
    /// The channel.
    pub channel: Channel,
    /// In which organization its name is looked up.
    pub organization: Option<OrgId>,
    /// Without it, the join is refused.
    pub required: bool,
    /// Who is there is told, where the channel has members.
    pub presence: bool,
}

/// A join.
#[derive(Clone, Debug)]
pub struct Join {
    /// How the socket is spoken to.
    pub version: Version,
    /// What the client calls the channel: `realtime:…`.
    pub topic: Arc<str>,
    /// The reference of the join, which all that is said of it carries.
    pub reference: Arc<str>,
    /// What the answer to it carries.
    pub own_reference: Option<Arc<str>>,
    /// The rows that it wants.
    pub bindings: Vec<Binding>,
    /// What is wrong with the others, for the client.
    pub refused: Vec<String>,
    /// What they take in memory.
    pub cost: usize,
    /// The channel with the name of the topic.
    pub room: Room,
    /// It wants to be told that what the database says arrives.
    pub replication_ready: bool,
    /// What it is answered when it is in.
    pub reply: Frame,
}

/// A join that is in.
pub(crate) struct Joined {
    /// Told from every other join that ever was.
    number: u64,
    version: Version,
    pub topic: Arc<str>,
    reference: Arc<str>,
    bindings: Box<[Binding]>,
    /// Of what it keeps beside its subscriptions.
    cost: usize,
    /// What its subscriptions in one organization take.
    each: usize,
}

impl Joined {
    /// A `system` message.
    pub(crate) fn system(&self, extension: &str, ok: bool, message: &str) -> Frame {
        phoenix::system(
            self.version,
            Some(&self.reference),
            &self.topic,
            extension,
            ok,
            message,
        )
    }

    /// Told from every other join that ever was.
    pub(crate) fn number(&self) -> u64 {
        self.number
    }

    pub(crate) fn version(&self) -> Version {
        self.version
    }

    fn close(&self) -> Frame {
        phoenix::close(self.version, &self.topic, Some(&self.reference))
    }

    /// Its end, upon which the client joins again.
    pub(crate) fn crash(&self) -> Frame {
        phoenix::crashed(self.version, &self.topic, Some(&self.reference))
    }

    pub(super) fn subscribed(&self) -> Frame {
        self.system("postgres_changes", true, "Subscribed to PostgreSQL")
    }

    /// What a subscription of this join is told when it ends; true: the whole join ends with it.
    pub(crate) fn ended(&self, sub: &Sub, reason: &str) -> (Option<Frame>, bool) {
        let name = self.name();
        if sub.messages {
            let message = format!(
                "You no longer have permission to read from this Channel topic: {name} ({reason})"
            );
            let told = self.system("system", false, &message);
            let over = self.bindings.is_empty();
            let told = match over {
                true => [told, self.close()].concat().into(),
                false => told,
            };
            return (Some(told), over);
        }
        let told = (reason != REMOVED).then(|| {
            let message = match filtered(sub) {
                Some(filter) if reason == COLUMN_HIDDEN => format!(
                    "A subscription to changes has ended: its filter on {filter} asks for a column that is hidden or masked for you now ({reason}). Leave that out and subscribe again"
                ),
                _ => format!("A subscription to changes has ended: {reason}"),
            };
            self.system("postgres_changes", false, &message)
        });
        (told, false)
    }

    fn name(&self) -> &str {
        let prefix = phoenix::TOPIC_PREFIX;
        self.topic.strip_prefix(prefix).unwrap_or(&self.topic)
    }

    fn spoken(&self, what: What) -> Voice {
        Voice::phoenix(self.version, self.topic.clone(), what)
    }
}

/// The table and the columns of a filter, for the client that has set it.
fn filtered(sub: &Sub) -> Option<String> {
    let parts = sub.parts.iter().flatten();
    let filtered = parts.filter_map(|part| {
        let mut columns = Vec::new();
        part.filter
            .as_ref()?
            .each_column(&mut |column| columns.push(column));
        Some(format!("{} ({})", part.table, columns.join(", ")))
    });
    let filtered: Vec<String> = filtered.collect();
    (!filtered.is_empty()).then(|| filtered.join(", "))
}

impl Binding {
    /// Whether it is to what the service itself says of tables.
    fn is_of_events(&self) -> bool {
        let schema = self.rows.schema.as_deref();
        self.rows.table.as_deref() == Some(TABLE_EVENTS)
            && schema.is_none_or(|schema| schema == "public")
    }

    /// What of the events its class is told; the error is for the client.
    fn what(&self) -> Result<What, String> {
        let rows = &self.rows;
        if !self.is_of_events() {
            return Ok(What::Rows {
                id: self.id,
                operations: rows.operations,
                schema: rows.schema.clone(),
            });
        }
        let filter = rows.filter.clone().zip(rows.filter_text.clone());
        let filter = filter.map(|(filter, text)| TableEventFilter::new(text, filter));
        let filter = filter.transpose().map_err(|error| error.to_string())?;
        Ok(What::TableEvents {
            id: self.id,
            filter,
        })
    }

    fn tables(&self) -> Option<Vec<TableSelection>> {
        let rows = &self.rows;
        let table = rows.table.clone().filter(|_| !self.is_of_events())?;
        Some(vec![TableSelection {
            schema: rows.schema.clone(),
            table,
            columns: rows.columns.clone(),
            filter: rows.filter.clone(),
        }])
    }

    /// Which operations it hears of, though they do not fit in what it asks for.
    fn hears_nothing(&self) -> bool {
        self.is_of_events() && !self.rows.operations.contains(Operation::Insert)
    }
}

impl Hub {
    /// Joins, in place of an earlier join of the same topic. The reply is sent before this returns, and behind it
    /// what there is to say of the bindings.
    ///
    /// # Errors
    /// [`HubError`] when it is refused; nothing was sent then, and an earlier join is as it was.
    pub fn join(&self, connection: &Arc<Connection>, join: Join) -> Result<(), HubError> {
        let mut state = self.state.lock();
        state.now = self.began.elapsed();
        let result = state.join(connection, join, Said::Nothing);
        self.note_subscriptions(&state);
        drop(state);
        connection.pump();
        result
    }

    /// Leaves; `answer` is sent, and behind it that the channel is closed. Leaving where one is not is fine.
    pub fn leave(&self, connection: &Arc<Connection>, topic: &str, answer: Frame) {
        let mut state = self.state.lock();
        state.now = self.began.elapsed();
        connection.queue(answer);
        if let Some(joined) = state.leave(connection.slot, connection.id, topic) {
            connection.queue(joined.close());
        }
        self.note_subscriptions(&state);
        drop(state);
        connection.pump();
    }

    /// Ends a join with this error message, or the waiting for it; the client does not join again by itself.
    pub fn expel(&self, connection: &Arc<Connection>, topic: &str, message: &str) {
        let mut state = self.state.lock();
        state.now = self.began.elapsed();
        for guest in state.dismiss_join(connection.id, topic) {
            guest.turn_away(message);
        }
        if let Some(joined) = state.leave(connection.slot, connection.id, topic) {
            connection.queue(joined.system("system", false, message));
            connection.queue(joined.close());
        }
        self.note_subscriptions(&state);
        drop(state);
        connection.pump();
    }

    /// Says on every join that something is over, such as the token; the socket is about to be closed.
    pub fn tell_joins(&self, connection: &Arc<Connection>, message: &str) {
        let state = self.state.lock();
        for joined in state.joins_of(connection.slot, connection.id) {
            connection.queue(joined.system("system", false, message));
        }
        drop(state);
        connection.pump();
    }

    /// Says on a join that its rows are subscribed to, as after every change of the token.
    pub fn confirm(&self, connection: &Arc<Connection>, topic: &str) {
        let state = self.state.lock();
        let joins = state.joins_of(connection.slot, connection.id);
        if let Some(joined) = joins.iter().find(|joined| *joined.topic == *topic)
            && !joined.bindings.is_empty()
        {
            connection.queue(joined.subscribed());
        }
        drop(state);
        connection.pump();
    }

    /// The topics that a connection has joined, or waits to join.
    pub fn joined(&self, connection: &Connection) -> Vec<Arc<str>> {
        let state = self.state.lock();
        let joins = state.joins_of(connection.slot, connection.id);
        let mut topics: Vec<Arc<str>> = joins.iter().map(|joined| joined.topic.clone()).collect();
        topics.extend(state.waits_to_join(connection));
        topics
    }
}
