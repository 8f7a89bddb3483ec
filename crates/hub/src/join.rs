//! Channels of the Supabase protocol: one join has bindings to rows, in every organization of the user, and a room.
//!
//! Owns what a join consists of, and that its parts come and go together: a binding follows the memberships of its
//! user, a second join of the same topic takes the place of the first one. Promises: the reply leaves under the lock
//! that puts the parts into the indexes, so what is committed afterwards arrives behind it; who may be where, and see
//! what, is decided where it is for every other subscription. The protocol knows no cursors: what cannot be gone on
//! from ends with `phx_error`, upon which clients join again by themselves.

use std::sync::Arc;

use rowcast_model::{Channel, Operation, OrgId, Topic};
use rowcast_wire::{
    Forms, Frame, Mode, Subscribe, TableSelection,
    phoenix::{self, RowBinding, TABLE_EVENTS, TableEventFilter, Version, Voice, What},
};

use crate::{
    Connection, Hub, HubError, StreamState,
    membership::REMOVED,
    stage::Stage,
    state::{State, Sub},
    subscribe::{Begins, Entry},
    topics::SubId,
};

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
}

/// A join.
#[derive(Clone, Debug)]
pub struct Join {
    /// How the socket is spoken to.
    pub version: Version,
    /// What the client calls the channel: `realtime:…`.
    pub topic: Arc<str>,
    /// The reference of the join.
    pub reference: Arc<str>,
    /// The rows that it wants.
    pub bindings: Vec<Binding>,
    /// What is wrong with the others, for the client.
    pub refused: Vec<String>,
    /// What they take in memory.
    pub cost: usize,
    /// The channel with the name of the topic.
    pub room: Room,
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

    fn close(&self) -> Frame {
        phoenix::close(self.version, &self.topic, Some(&self.reference))
    }

    fn crash(&self) -> Frame {
        phoenix::crashed(self.version, &self.topic, Some(&self.reference))
    }

    fn subscribed(&self) -> Frame {
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
            let message = format!("A subscription to changes has ended: {reason}");
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
        let result = state.join(connection, join);
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

    /// Ends a join with this error message; the client does not join again by itself.
    pub fn expel(&self, connection: &Arc<Connection>, topic: &str, message: &str) {
        let mut state = self.state.lock();
        state.now = self.began.elapsed();
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

    /// The topics that a connection has joined.
    pub fn joined(&self, connection: &Connection) -> Vec<Arc<str>> {
        let state = self.state.lock();
        let joins = state.joins_of(connection.slot, connection.id);
        joins.iter().map(|joined| joined.topic.clone()).collect()
    }
}

impl State {
    fn joins_of(&self, slot: u32, id: u64) -> &[Arc<Joined>] {
        let conn = self.conns.get(slot as usize);
        let conn = conn.filter(|conn| conn.connection.id == id);
        conn.and_then(|conn| conn.about.joins.as_deref())
            .map_or(&[], Vec::as_slice)
    }

    fn join(&mut self, connection: &Arc<Connection>, join: Join) -> Result<(), HubError> {
        let most = self.limits.subscriptions;
        let conn = self.conn(connection).ok_or(HubError::Closed)?;
        let identity = conn.about.identity.clone();
        let room = self.admit(
            &identity,
            &join.room.channel,
            join.room.organization.as_ref(),
        );
        let room = room.and_then(|entry| match entry.authorizer {
            None => Ok(entry),
            // The application is asked about native sockets only.
            Some(_) => Err(HubError::NativeOnly(join.room.channel.to_string().into())),
        });
        if let Err(error) = &room
            && (join.room.required || join.bindings.is_empty() && join.refused.is_empty())
        {
            return Err(error.clone());
        }
        let organizations = self.directory.organizations_of(&identity);
        let before = self.joins_of(connection.slot, connection.id);
        let before = before.iter().find(|joined| joined.topic == join.topic);
        let before = before.cloned();
        let others = self.subs_beside(connection, before.as_deref());
        let wanted = join.bindings.len() * organizations.len() + usize::from(room.is_ok());
        if others + wanted.max(1) > most {
            return Err(HubError::TooManySubscriptions(others));
        }
        let cost = size_of::<Joined>() + join.topic.len() + join.cost;
        self.afford_join(
            connection,
            before.as_deref(),
            cost,
            &join,
            organizations.len(),
        )?;
        if let Some(before) = before {
            self.leave(connection.slot, connection.id, &before.topic);
            connection.queue(before.close());
        }
        connection.queue(join.reply);
        let number = self.generation();
        let joined = Arc::new(Joined {
            number,
            version: join.version,
            topic: join.topic,
            reference: join.reference,
            bindings: join.bindings.into(),
            cost,
        });
        self.described += cost;
        if let Some(conn) = self.conns.get_mut(connection.slot as usize) {
            conn.about.described += cost;
            conn.about
                .joins
                .get_or_insert_default()
                .push(joined.clone());
        }
        // Whoever is not let in and says something there is told.
        if let Ok(entry) = room {
            self.enter_room(connection, &joined, &join.room, entry);
        }
        let mut problems = join.refused;
        for binding in &joined.bindings {
            problems.extend(self.untracked(binding));
        }
        for organization in &organizations {
            problems.extend(self.bind(connection, &joined, organization));
        }
        problems.sort_unstable();
        problems.dedup();
        for problem in &problems {
            connection.queue(joined.system("postgres_changes", false, problem));
        }
        if problems.len() < joined.bindings.len()
            || problems.is_empty() && !joined.bindings.is_empty()
        {
            connection.queue(joined.subscribed());
        }
        if let (StreamState::Stale { reason, .. }, false) =
            (&self.stream, joined.bindings.is_empty())
        {
            connection.queue(joined.system("postgres_changes", false, &late(reason)));
        }
        Ok(())
    }

    fn subs_beside(&self, connection: &Connection, joined: Option<&Joined>) -> usize {
        let conn = self.conns.get(connection.slot as usize);
        let subs = conn.map_or(&[][..], |conn| &conn.about.subs[..]);
        let own = |id: &&SubId| {
            let sub = self.subs.get(**id as usize);
            let number = sub
                .and_then(|sub| sub.join.as_ref())
                .map(|join| join.number);
            joined.is_some_and(|joined| Some(joined.number) == number)
        };
        subs.iter().filter(|id| !own(id)).count()
    }

    /// Whether there is room for what a join keeps, that of the one before left out.
    fn afford_join(
        &self,
        connection: &Connection,
        before: Option<&Joined>,
        cost: usize,
        join: &Join,
        organizations: usize,
    ) -> Result<(), HubError> {
        /// A subscription with its places in the indexes.
        const EACH: usize = 1024;
        let all = cost + EACH + (EACH * join.bindings.len() + join.cost) * organizations;
        let conn = self.conns.get(connection.slot as usize);
        let own = conn.map_or(0, |conn| conn.about.described);
        let freed = before.map_or(0, |before| before.cost);
        if own - freed.min(own) + all > self.limits.subscriptions_bytes {
            return Err(HubError::SubscriptionsTooLarge(
                self.limits.subscriptions_bytes,
            ));
        }
        if self.described + all > self.limits.total_subscriptions_bytes {
            return Err(HubError::TooManyFilters);
        }
        Ok(())
    }

    fn enter_room(
        &mut self,
        connection: &Arc<Connection>,
        joined: &Arc<Joined>,
        room: &Room,
        entry: Entry,
    ) {
        let wanted = Subscribe {
            forms: Forms {
                changes: false,
                invalidations: false,
                broadcasts: true,
            },
            ..Subscribe::to(room.channel.clone())
        };
        let admitted = (entry.topic, entry.grant);
        let voice = joined.spoken(What::Room);
        self.place(connection, joined, wanted, admitted, voice);
    }

    /// What is to be said of a binding to a table of which nothing is told.
    fn untracked(&self, binding: &Binding) -> Option<String> {
        let (schema, table) = (
            binding.rows.schema.as_deref(),
            binding.rows.table.as_deref()?,
        );
        if binding.is_of_events() || self.rules.tracks(schema, table) {
            return None;
        }
        let schema = schema.unwrap_or("public");
        let name = format!("{schema}.{table}").replace('\'', "''");
        Some(refusal(
            binding,
            &format!("the table is not tracked; mend it: SELECT rowcast.track('{name}')"),
        ))
    }

    /// Lists the bindings of a join in one organization; what is wrong with them.
    fn bind(
        &mut self,
        connection: &Arc<Connection>,
        joined: &Arc<Joined>,
        organization: &OrgId,
    ) -> Vec<String> {
        let mut problems = Vec::new();
        let Some(conn) = self.conn(connection) else {
            return problems;
        };
        let identity = conn.about.identity.clone();
        let Some(grant) = self.grant(&identity, organization) else {
            return problems;
        };
        for binding in &joined.bindings {
            let tables = binding.tables();
            let checked = tables.iter().flatten();
            let checked = checked
                .map(|selection| self.check_columns(selection, &grant.roles))
                .find_map(Result::err);
            if let Some(error) = checked {
                problems.push(refusal(binding, &error.to_string()));
                continue;
            }
            if tables.is_none() && binding.rows.filter.is_some() && !binding.is_of_events() {
                problems.push(refusal(binding, "a filter needs a `table`"));
                continue;
            }
            let what = match binding.what() {
                Ok(_) if binding.hears_nothing() => continue,
                Ok(what) => what,
                Err(error) => {
                    problems.push(refusal(binding, &error));
                    continue;
                }
            };
            let wanted = Subscribe {
                forms: Forms {
                    changes: true,
                    invalidations: false,
                    broadcasts: false,
                },
                tables,
                ..Subscribe::to(Channel::Org(organization.clone()))
            };
            let admitted = (Some(Topic::Org(organization.clone())), grant.clone());
            let voice = joined.spoken(what);
            self.place(connection, joined, wanted, admitted, voice);
        }
        problems
    }

    fn place(
        &mut self,
        connection: &Arc<Connection>,
        joined: &Arc<Joined>,
        wanted: Subscribe,
        admitted: (Option<Topic>, crate::Grant),
        voice: Voice,
    ) {
        let position = self.position();
        let tables = wanted.tables.clone();
        let name: Arc<str> = wanted.channel.to_string().into();
        let begins = Begins {
            cost: u32::try_from(wanted.cost() + 512).unwrap_or(u32::MAX),
            since: position,
            skip_until: None,
            replay: None,
            pass: None,
            join: Some(joined.clone()),
            voice,
        };
        debug_assert_eq!(wanted.mode, Mode::All);
        self.insert(connection, name, wanted, tables, admitted, begins);
    }

    /// Takes a join away, and everything that belongs to it.
    fn leave(&mut self, slot: u32, id: u64, topic: &str) -> Option<Arc<Joined>> {
        let joins = self.joins_of(slot, id);
        let joined = joins.iter().find(|joined| *joined.topic == *topic)?.clone();
        let conn = self.conns.get(slot as usize)?;
        for sub in conn.about.subs.clone() {
            let there = self.subs.get(sub as usize);
            let own = there.and_then(|sub| sub.join.as_ref());
            if own.is_some_and(|own| own.number == joined.number) {
                self.remove_sub(sub);
            }
        }
        self.forget_join(slot, joined.number);
        Some(joined)
    }

    /// A join that has nothing left.
    pub(crate) fn forget_join(&mut self, slot: u32, number: u64) {
        let Some(conn) = self.conns.get_mut(slot as usize) else {
            return;
        };
        let joins = conn.about.joins.iter_mut();
        let mut freed = 0;
        for joins in joins {
            joins.retain(|joined| {
                let gone = joined.number == number;
                freed += if gone { joined.cost } else { 0 };
                !gone
            });
        }
        conn.about.described -= freed;
        self.described -= freed;
    }

    /// What a subscription that ended is told, if it is one of a join; `None`: it is a native one.
    pub(crate) fn end_of_join(&mut self, sub: &Sub, reason: &str) -> Option<Option<Frame>> {
        let joined = sub.join.clone()?;
        let (told, over) = joined.ended(sub, reason);
        if over {
            self.forget_join(sub.conn, joined.number);
        }
        Some(told)
    }

    /// Somebody may be in this organization: his joins have their bindings there from here on.
    pub(crate) fn follow_membership(&mut self, slot: u32, organization: &OrgId) {
        let Some(conn) = self.conns.get(slot as usize) else {
            return;
        };
        let Some(joins) = conn.about.joins.clone() else {
            return;
        };
        let connection = conn.connection.clone();
        for joined in joins.iter().filter(|joined| !joined.bindings.is_empty()) {
            let subs = self.conns.get(slot as usize);
            let subs = subs.map(|conn| conn.about.subs.clone()).unwrap_or_default();
            let bound = subs.iter().any(|id| {
                self.subs.get(*id as usize).is_some_and(|sub| {
                    let own = sub.join.as_ref().map(|join| join.number);
                    own == Some(joined.number)
                        && !sub.messages
                        && sub.organization() == Some(organization)
                })
            });
            let full = subs.len() + joined.bindings.len() > self.limits.subscriptions;
            if bound {
                continue;
            }
            if full {
                let message =
                    "this socket has as many subscriptions as allowed; join fewer channels";
                connection.queue(joined.system("postgres_changes", false, message));
            } else {
                for problem in self.bind(&connection, joined, organization) {
                    connection.queue(joined.system("postgres_changes", false, &problem));
                }
            }
            connection.wake_task();
        }
    }

    /// The same in all organizations that an identity has by now.
    pub(crate) fn follow_memberships(&mut self, slot: u32) {
        let conn = self.conns.get(slot as usize);
        let Some(conn) = conn.filter(|conn| conn.about.joins.is_some()) else {
            return;
        };
        for organization in self.directory.organizations_of(&conn.about.identity) {
            self.follow_membership(slot, &organization);
        }
    }

    /// What was sent before cannot be gone on from: all joins end so that their clients join again.
    pub(crate) fn crash_joins(&mut self, stage: &mut Stage) {
        let with_joins = self.conns.iter().filter(|(_, conn)| {
            let joins = conn.about.joins.as_ref();
            joins.is_some_and(|joins| !joins.is_empty())
        });
        let with_joins: Vec<(u32, u64)> = with_joins
            .map(|(slot, conn)| (u32::try_from(slot).unwrap_or(u32::MAX), conn.connection.id))
            .collect();
        for (slot, id) in with_joins {
            let topics: Vec<Arc<str>> = self
                .joins_of(slot, id)
                .iter()
                .map(|joined| joined.topic.clone())
                .collect();
            for topic in topics {
                if let Some(joined) = self.leave(slot, id, &topic)
                    && let Some(conn) = self.conns.get_mut(slot as usize)
                {
                    stage.push_frame(&mut conn.mark, &conn.connection, &joined.crash());
                }
            }
        }
    }

    /// Whether the log is being read, for those who wait for rows; they are to be written to.
    pub(crate) fn announce_to_joins(&self) -> Vec<Arc<Connection>> {
        let mut told = Vec::new();
        for (_, conn) in &self.conns {
            let joins = conn.about.joins.iter().flat_map(|joins| joins.iter());
            let mut any = false;
            for joined in joins.filter(|joined| !joined.bindings.is_empty()) {
                any = true;
                conn.connection.queue(match &self.stream {
                    StreamState::Live => joined.subscribed(),
                    StreamState::Stale { reason, .. } => {
                        joined.system("postgres_changes", false, &late(reason))
                    }
                });
            }
            told.extend(any.then(|| conn.connection.clone()));
        }
        told
    }
}

fn late(reason: &str) -> String {
    format!("Changes are late: {reason}; they come when the service reads the log again")
}

fn refusal(binding: &Binding, why: &str) -> String {
    format!(
        "Unable to subscribe to changes with given parameters. Please check Realtime is enabled for the given connect parameters: {}. {why}",
        binding.described
    )
}
