//! Subscribing and unsubscribing: checks, the reply with the position, and the place in the indexes,
//! all under the one lock, so that exactly what comes after the position is delivered.

use std::sync::Arc;

use rowcast_model::{Authorizer, Channel, Cursor, Lsn, OrgId, TableName, Topic};
use rowcast_wire::{Ref, TableSelection, phoenix::Voice, server};
use smallvec::SmallVec;

use crate::{
    Auth, Connection, Grant, HubError, Identity, Subscribed, Subscription,
    classes::ClassKey,
    directory::Directory,
    history::Of,
    joins::Joined,
    pass::Pass,
    recovery::Recovering,
    resume::{Known, Resume, judge},
    state::{Part, Replay, State, Sub},
    topics::{Candidate, Listeners, Member, SubId},
};

impl State {
    /// Subscribes and queues the replies; the caller writes them.
    pub(crate) fn subscribe(
        &mut self,
        connection: &Arc<Connection>,
        wanted: Subscription,
        pass: Option<Pass>,
    ) -> Result<Subscribed, HubError> {
        let most = self.limits.subscriptions;
        let conn = self.conn(connection).ok_or(HubError::Closed)?;
        let identity = conn.about.identity.clone();
        let conn = self.conn(connection).ok_or(HubError::Closed)?;
        let count = conn.about.subs.len();
        let Entry {
            topic,
            grant,
            authorizer,
        } = self.admit(&identity, &wanted.channel, wanted.organization.as_ref())?;
        // Where the application says who may, nobody comes in without a pass of whom the rule names today.
        let pass = match (authorizer, pass) {
            (None, _) => None,
            (Some(by), Some(pass)) if pass.by == by => Some(Box::new(pass)),
            (Some(_), _) => return Err(HubError::Unasked(wanted.channel.to_string().into())),
        };
        self.may_follow(&wanted.channel, topic.as_ref(), wanted.presence)?;
        let tables = self.tables_of(&wanted, &grant)?;
        let organization = topic.as_ref().and_then(Topic::organization);
        let before = self
            .conns
            .get(connection.slot as usize)
            .and_then(|conn| self.find_sub(conn, &wanted.channel, organization));
        let cost = self.afford(connection, before, &wanted)?;
        let mut seat = None;
        match before {
            Some(before) => {
                seat = self.keep_seat(before, topic.as_ref());
                self.remove_sub(before);
            }
            None if count >= most => return Err(HubError::TooManySubscriptions(count)),
            None => {}
        }

        let position = self.position();
        let known = self.known(&identity, &wanted.channel, topic.as_ref());
        let given = wanted.cursor.map(|given| given.for_process(self.process));
        let resume = judge(given, &known);
        let (skip_until, resync) = match resume {
            Resume::Continue { skip_until } => (skip_until, None),
            Resume::Replay { .. } | Resume::Recover { .. } => (None, None),
            Resume::Resync { reason, skip_until } => (skip_until, Some(reason)),
        };
        let replay = match resume {
            Resume::Replay { from } => Some((from, None)),
            Resume::Recover { from } => {
                let recovering = self.recovering(&identity, &wanted.channel, topic.as_ref(), &from);
                Some((from, Some(recovering)))
            }
            _ => None,
        };
        let replay = replay.map(|(from, recovering)| {
            Box::new(Replay {
                from,
                open: None,
                recovering,
            })
        });
        // Whoever is ahead of the log after a restart, or behind it, goes on from where he is.
        let behind = replay.as_ref().map(|replay| replay.from);
        let cursor = skip_until.or(behind).unwrap_or(position);
        let channel: Arc<str> = wanted.channel.to_string().into();
        connection.queue(server::subscribed(
            wanted.reference.as_ref(),
            &channel,
            &cursor,
        ));
        if let Some(reason) = resync {
            connection.queue(server::resync(&channel, reason, &cursor));
            self.metrics.resync(reason);
        }
        if let Some(replay) = &replay {
            let recovering = replay.recovering.as_ref();
            if recovering.is_none_or(Recovering::is_answered) {
                connection.note_replay(true);
            }
            self.metrics.replays.inc();
        }
        // Whoever came back has what was before his cursor.
        let since = match (given, resync) {
            (Some(given), None) => Cursor {
                commit_lsn: Lsn::ZERO,
                index: 0,
                ..given
            },
            _ => cursor,
        };
        let begins = Begins {
            cost,
            since,
            skip_until,
            replay,
            pass,
            join: None,
            voice: Voice::Native,
        };
        let admitted = (topic, grant);
        let follow = wanted.presence;
        let (id, generation) = self.insert(connection, channel, wanted, tables, admitted, begins);
        self.take_seat(id, seat, follow);
        Ok(Subscribed {
            cursor,
            generation,
            resync,
        })
    }

    /// Ends a subscription and queues the reply. With a generation, only that very subscription.
    pub(crate) fn unsubscribe(
        &mut self,
        connection: &Connection,
        channel: &Channel,
        organization: Option<&OrgId>,
        generation: Option<u64>,
        reference: Option<&Ref>,
    ) -> Result<(), HubError> {
        let missing = || HubError::NotSubscribed(channel.clone());
        let conn = self.conns.get(connection.slot as usize);
        let conn = conn
            .filter(|conn| conn.connection.id == connection.id)
            .ok_or(HubError::Closed)?;
        let id = self.find_sub(conn, channel, organization);
        let there = id.and_then(|id| self.subs.get(id as usize));
        let there = there.map(|sub| sub.generation);
        if generation.is_some() && generation != there {
            return Err(missing());
        }
        let waited = self.dismiss(connection, Some((channel, organization)));
        match id {
            Some(id) => drop(self.remove_sub(id)),
            None if waited == 0 => return Err(missing()),
            None => {}
        }
        connection.queue(server::unsubscribed(reference, &channel.to_string(), None));
        Ok(())
    }

    /// Whether somebody may listen to a channel, to what, and as what. A name of the application is looked up
    /// in this organization.
    pub(crate) fn admit(
        &self,
        identity: &Identity,
        channel: &Channel,
        organization: Option<&OrgId>,
    ) -> Result<Entry, HubError> {
        let entry = |topic, grant| Entry {
            topic,
            grant,
            authorizer: None,
        };
        match channel {
            Channel::Org(organization) | Channel::Tenant(organization, _) => {
                let grant = self.grant(identity, organization);
                let grant = grant.ok_or_else(|| HubError::NotMember(organization.clone()))?;
                Ok(entry(Some(Topic::Org(organization.clone())), grant))
            }
            Channel::User(user) if *user == identity.user => Ok(entry(
                None,
                Grant {
                    // Roles are asked for event by event, in the organization of each.
                    user: matches!(identity.auth, Auth::Session { .. }).then(|| user.clone()),
                    roles: Arc::new([]),
                },
            )),
            Channel::User(_) => Err(HubError::Forbidden(channel.clone())),
            Channel::Named(name) => {
                let admitted = self.admit_named(identity, name, organization)?;
                Ok(Entry {
                    topic: Some(admitted.topic),
                    grant: admitted.grant,
                    authorizer: admitted.authorizer,
                })
            }
        }
    }

    /// The table list, checked; that of a `tenant:` channel is its table.
    fn tables_of(
        &self,
        wanted: &Subscription,
        grant: &Grant,
    ) -> Result<Option<Vec<TableSelection>>, HubError> {
        let mut tables = wanted.tables.clone();
        if matches!(wanted.channel, Channel::Named(_)) && tables.is_some() {
            return Err(HubError::NoTables(wanted.channel.clone()));
        }
        if let Channel::Tenant(_, table) = &wanted.channel {
            let of_channel = TableSelection {
                schema: None,
                table: table.clone(),
                columns: None,
                filter: None,
            };
            let tables = tables.get_or_insert_with(|| vec![of_channel]);
            if tables.iter().any(|selection| selection.table != *table) {
                return Err(HubError::WrongTable(wanted.channel.clone()));
            }
        }
        for selection in tables.iter().flatten() {
            self.check_columns(selection, &grant.roles)?;
        }
        Ok(tables)
    }

    /// What a table list takes, if there is room for it beside the others, that of `before` left out.
    pub(crate) fn afford(
        &self,
        connection: &Connection,
        before: Option<SubId>,
        wanted: &Subscription,
    ) -> Result<u32, HubError> {
        /// A subscription without a table list, with its places in the indexes. The two that every socket
        /// begins with are counted with the socket.
        const PLAIN: usize = 512;
        let limits = &self.limits;
        let before = before.and_then(|id| self.subs.get(id as usize));
        let before = before.map_or(0, |sub| sub.cost as usize);
        let conn = self.conns.get(connection.slot as usize);
        let (own, others) =
            conn.map_or((0, 0), |conn| (conn.about.described, conn.about.subs.len()));
        let cost = wanted.cost() + if others < 2 { 0 } else { PLAIN };
        if cost > 0 && own - before + cost > limits.subscriptions_bytes {
            return Err(HubError::SubscriptionsTooLarge(limits.subscriptions_bytes));
        }
        if cost > before && self.described - before + cost > limits.total_subscriptions_bytes {
            return Err(HubError::TooManyFilters);
        }
        Ok(u32::try_from(cost).unwrap_or(u32::MAX))
    }

    /// What is known of the past of a channel.
    fn known(&self, identity: &Identity, channel: &Channel, topic: Option<&Topic>) -> Known {
        let topics = past_of(&self.directory, identity, channel, topic);
        let of = Of {
            topics: &topics,
            all: hears_all(channel),
        };
        Known {
            position: self.position(),
            target: self.target,
            floor: self.history.floor(of),
            last: self.history.last(of),
            recovers: self.recovers(channel, &topics),
        }
    }

    pub(crate) fn insert(
        &mut self,
        connection: &Arc<Connection>,
        channel: Arc<str>,
        wanted: Subscription,
        tables: Option<Vec<TableSelection>>,
        (topic, grant): (Option<Topic>, Grant),
        begins: Begins,
    ) -> (SubId, u64) {
        let mut join = |columns| {
            self.classes.join(ClassKey {
                channel: channel.clone(),
                topic: topic.clone(),
                forms: wanted.forms,
                columns,
                mode: wanted.mode,
                voice: begins.voice.clone(),
            })
        };
        let (class, parts) = match tables {
            None => (join(None), None),
            Some(tables) => {
                // Behind the tables, what is of none.
                let messages = TableSelection {
                    schema: None,
                    table: TableName::none().name.clone(),
                    columns: None,
                    filter: None,
                };
                let parts: Box<[Part]> = tables
                    .into_iter()
                    .chain(wanted.forms.broadcasts.then_some(messages))
                    .map(|selection| Part {
                        class: join(selection.columns),
                        schema: selection.schema,
                        table: selection.table,
                        filter: selection.filter,
                    })
                    .collect();
                (u32::MAX, Some(parts))
            }
        };
        let generation = self.generation();
        let id = self.subs.insert(Sub {
            conn: connection.slot,
            class,
            mode: wanted.mode,
            open: false,
            seen: 0,
            grant,
            skip_until: begins.skip_until,
            since: begins.since,
            replay: begins.replay,
            pass: begins.pass,
            generation,
            channel: wanted.channel,
            topic,
            messages: wanted.forms.broadcasts,
            parts,
            cost: begins.cost,
            seat: None,
            join: begins.join,
        });
        let id = u32::try_from(id).unwrap_or(u32::MAX);
        let pass = self.subs.get(id as usize).and_then(|sub| sub.pass.as_ref());
        if let Some(next) = pass.map(|pass| pass.next()) {
            self.note_pass(id, Some(next), true);
        }
        self.described += begins.cost as usize;
        if let Some(conn) = self.conns.get_mut(connection.slot as usize) {
            conn.about.subs.push(id);
            conn.about.described += begins.cost as usize;
        }
        if self
            .subs
            .get(id as usize)
            .is_some_and(|sub| sub.replay.is_none())
        {
            self.list(id);
        } else {
            self.want_recovery(id);
        }
        (id, generation)
    }

    /// Puts a subscription into the indexes: from here on it gets what comes.
    pub(crate) fn list(&mut self, id: SubId) {
        self.listeners_version += 1;
        let Some(sub) = self.subs.get(id as usize) else {
            return;
        };
        let topics = &mut self.topics;
        let mut listeners_of = |topic: Topic, add: &mut dyn FnMut(&mut Listeners)| {
            let topic = topics.entry(topic).or_default();
            add(topic.listeners.get_or_insert_with(Box::default));
        };
        match (&sub.topic, &sub.parts) {
            (None, _) => {}
            (Some(topic), None) => {
                let (class, conn) = (sub.class, sub.conn);
                listeners_of(topic.clone(), &mut |listeners| {
                    listeners.add_to_everything(class, Member { sub: id, conn });
                });
                sub.note_single(false, &mut self.classes);
            }
            (Some(_), Some(parts)) => {
                for (part, at) in parts.iter().zip(0..) {
                    let Some(topic) = sub.topic_of(part) else {
                        continue;
                    };
                    let who = Candidate { sub: id, part: at };
                    listeners_of(topic, &mut |listeners| {
                        listeners.add_to_table(&part.table, part.filter.as_ref(), who);
                    });
                }
            }
        }
    }
}

/// To what somebody may listen, and as what.
pub(crate) struct Entry {
    pub topic: Option<Topic>,
    pub grant: Grant,
    /// The application has to say yes, too.
    pub authorizer: Option<Arc<Authorizer>>,
}

/// Where a subscription begins.
pub(crate) struct Begins {
    pub cost: u32,
    pub since: Cursor,
    pub skip_until: Option<Cursor>,
    pub replay: Option<Box<Replay>>,
    pub pass: Option<Box<Pass>>,
    /// The join that it is a part of.
    pub join: Option<Arc<Joined>>,
    pub voice: Voice,
}

/// Whether a channel gets what is said to all organizations.
pub(crate) fn hears_all(channel: &Channel) -> bool {
    matches!(channel, Channel::Org(_) | Channel::Tenant(..))
}

/// The topics whose past a channel has for somebody; `topic` is the one it is listed under.
pub(crate) fn past_of(
    directory: &Directory,
    identity: &Identity,
    channel: &Channel,
    topic: Option<&Topic>,
) -> SmallVec<[Topic; 2]> {
    let mut topics: SmallVec<[Topic; 2]> = topic.cloned().into_iter().collect();
    match channel {
        Channel::Org(_) | Channel::Named(_) => {}
        Channel::Tenant(organization, _) => topics.push(Topic::Channel(
            Some(organization.clone()),
            channel.to_string().into(),
        )),
        Channel::User(user) => {
            topics.push(Topic::User(user.clone()));
            let organizations = directory.organizations_of(identity);
            topics.extend(organizations.into_iter().map(Topic::Org));
        }
    }
    topics
}
