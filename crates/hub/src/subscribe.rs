//! Subscribing and unsubscribing: checks, the reply with the position, and the place in the indexes,
//! all under the one lock, so that exactly what comes after the position is delivered.

use std::sync::Arc;

use rowcast_model::{Channel, Cursor, Lsn, OrgId};
use rowcast_wire::{Ref, TableSelection, server};
use smallvec::SmallVec;

use crate::{
    Auth, Connection, Grant, HubError, Identity, Subscribed, Subscription,
    classes::ClassKey,
    directory::Directory,
    history::Of,
    recovery::Recovering,
    resume::{Known, Resume, judge},
    state::{Part, Replay, State, Sub},
    topics::{Candidate, Member, SubId},
};

impl State {
    /// Subscribes and queues the replies; the caller writes them.
    pub(crate) fn subscribe(
        &mut self,
        connection: &Arc<Connection>,
        wanted: Subscription,
    ) -> Result<Subscribed, HubError> {
        let most = self.limits.subscriptions;
        let conn = self.conn(connection).ok_or(HubError::Closed)?;
        let identity = conn.about.identity.clone();
        let conn = self.conn(connection).ok_or(HubError::Closed)?;
        let count = conn.about.subs.len();
        let grant = self.admit(&identity, &wanted.channel)?;
        let tables = self.tables_of(&wanted, &grant)?;
        let before = self
            .conns
            .get(connection.slot as usize)
            .and_then(|conn| self.find_sub(conn, &wanted.channel));
        let cost = self.afford(connection, before, &wanted)?;
        match before {
            Some(before) => drop(self.remove_sub(before)),
            None if count >= most => return Err(HubError::TooManySubscriptions(count)),
            None => {}
        }

        let position = self.position();
        let resume = judge(wanted.cursor, &self.known(&identity, &wanted.channel));
        let (skip_until, resync) = match resume {
            Resume::Continue { skip_until } => (skip_until, None),
            Resume::Replay { .. } | Resume::Recover { .. } => (None, None),
            Resume::Resync { reason, skip_until } => (skip_until, Some(reason)),
        };
        let replay = match resume {
            Resume::Replay { from } => Some((from, None)),
            Resume::Recover { from } => {
                let recovering = self.recovering(&identity, &wanted.channel, &from);
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
        let since = match (wanted.cursor, resync) {
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
        };
        let generation = self.insert(connection, channel, wanted, tables, grant, begins);
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
        generation: Option<u64>,
        reference: Option<&Ref>,
    ) -> Result<(), HubError> {
        let missing = || HubError::NotSubscribed(channel.clone());
        let conn = self.conns.get(connection.slot as usize);
        let conn = conn
            .filter(|conn| conn.connection.id == connection.id)
            .ok_or(HubError::Closed)?;
        let id = self.find_sub(conn, channel).ok_or_else(missing)?;
        let there = self.subs.get(id as usize).map(|sub| sub.generation);
        if generation.is_some() && generation != there {
            return Err(missing());
        }
        self.remove_sub(id);
        connection.queue(server::unsubscribed(reference, &channel.to_string(), None));
        Ok(())
    }

    /// Whether somebody may listen to a channel, and as what.
    fn admit(&self, identity: &Identity, channel: &Channel) -> Result<Grant, HubError> {
        match channel {
            Channel::Org(organization) | Channel::Tenant(organization, _) => self
                .grant(identity, organization)
                .ok_or_else(|| HubError::NotMember(organization.clone())),
            Channel::User(user) if *user == identity.user => Ok(Grant {
                // Roles are asked for event by event, in the organization of each.
                user: matches!(identity.auth, Auth::Session { .. }).then(|| user.clone()),
                roles: Arc::new([]),
            }),
            Channel::User(_) => Err(HubError::Forbidden(channel.clone())),
        }
    }

    /// The table list, checked; that of a `tenant:` channel is its table.
    fn tables_of(
        &self,
        wanted: &Subscription,
        grant: &Grant,
    ) -> Result<Option<Vec<TableSelection>>, HubError> {
        let mut tables = wanted.tables.clone();
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
    fn afford(
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
    fn known(&self, identity: &Identity, channel: &Channel) -> Known {
        let organizations = past_of(&self.directory, identity, channel);
        let of = Of {
            organizations: &organizations,
            all: !matches!(channel, Channel::User(_)),
        };
        Known {
            position: self.position(),
            target: self.target,
            floor: self.history.floor(of),
            last: self.history.last(of),
            recovers: self.desk.takes(organizations.len()),
        }
    }

    fn insert(
        &mut self,
        connection: &Arc<Connection>,
        channel: Arc<str>,
        wanted: Subscription,
        tables: Option<Vec<TableSelection>>,
        grant: Grant,
        begins: Begins,
    ) -> u64 {
        let organization = match &wanted.channel {
            Channel::Org(organization) | Channel::Tenant(organization, _) => {
                Some(organization.clone())
            }
            Channel::User(_) => None,
        };
        let mut join = |columns| {
            self.classes.join(ClassKey {
                channel: channel.clone(),
                organization: organization.clone(),
                forms: wanted.forms,
                columns,
                mode: wanted.mode,
            })
        };
        let (class, parts) = match tables {
            None => (join(None), None),
            Some(tables) => {
                let parts: Box<[Part]> = tables
                    .into_iter()
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
            generation,
            channel: wanted.channel,
            parts,
            cost: begins.cost,
        });
        let id = u32::try_from(id).unwrap_or(u32::MAX);
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
        generation
    }

    /// Puts a subscription into the indexes: from here on it gets what comes.
    pub(crate) fn list(&mut self, id: SubId) {
        self.listeners_version += 1;
        let Some(sub) = self.subs.get(id as usize) else {
            return;
        };
        let Some(organization) = sub.organization() else {
            return;
        };
        let topic = self.topics.entry(organization.clone()).or_default();
        let listeners = topic.listeners.get_or_insert_with(Box::default);
        match &sub.parts {
            None => {
                let conn = sub.conn;
                listeners.add_to_everything(sub.class, Member { sub: id, conn });
                sub.note_single(false, &mut self.classes);
            }
            Some(parts) => {
                for (part, at) in parts.iter().zip(0..) {
                    let who = Candidate { sub: id, part: at };
                    listeners.add_to_table(&part.table, part.filter.as_ref(), who);
                }
            }
        }
    }
}

/// Where a subscription begins.
struct Begins {
    cost: u32,
    since: Cursor,
    skip_until: Option<Cursor>,
    replay: Option<Box<Replay>>,
}

/// The organizations whose past a channel has for somebody.
pub(crate) fn past_of(
    directory: &Directory,
    identity: &Identity,
    channel: &Channel,
) -> SmallVec<[OrgId; 1]> {
    match channel {
        Channel::Org(organization) | Channel::Tenant(organization, _) => {
            SmallVec::from_elem(organization.clone(), 1)
        }
        Channel::User(_) => directory.organizations_of(identity).into(),
    }
}
