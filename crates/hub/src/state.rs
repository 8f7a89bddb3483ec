//! Everything the hub knows, behind one lock: connections, subscriptions, topics, members, position.

use std::{
    cmp::Ordering,
    ops::Range,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use hashbrown::HashMap;
use rowcast_model::{
    Channel, ColumnMeta, Cursor, HubOp, JsonRow, Lsn, OrgId, RoutedEvent, TableName,
    Topic as TopicOf, UserId,
};
use rowcast_wire::{Filter, Mode, should_deliver};
use slab::Slab;
use smallvec::SmallVec;

use crate::{
    Grant, HubLimits, Identity, StreamState,
    channels::Channels,
    classes::{ClassId, Classes},
    client_events::ClientEvents,
    connection::Connection,
    direct::Aside,
    directory::Directory,
    doors::Doors,
    history::{self, History},
    joins::Joined,
    may_see,
    metrics::Metrics,
    pass::Pass,
    presence::{rooms::Rooms, seats::Seat},
    recovery::{Desk, Recovering},
    rules::Rules,
    run::Run,
    stage::Mark,
    topics::{Candidate, Listeners, SubId, Topic},
};

pub(crate) type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;
pub(crate) type Set<T> = hashbrown::HashSet<T, foldhash::fast::RandomState>;

/// A connection. Small, as every delivery passes here.
pub(crate) struct Conn {
    pub connection: Arc<Connection>,
    pub mark: Mark,
    pub about: Box<About>,
}

/// The joins of a socket of the Supabase protocol; `None`: it is a native one.
pub(crate) type Joins = Option<Box<Vec<Arc<Joined>>>>;

/// Whose connection it is and what it listens to.
pub(crate) struct About {
    pub identity: Identity,
    /// Was sent its first frame.
    pub welcomed: bool,
    pub subs: SmallVec<[SubId; 2]>,
    /// Channels that it waits to be let on, by number.
    pub guests: usize,
    /// What the table lists of its subscriptions take.
    pub described: usize,
    pub joins: Joins,
}

/// One subscription.
pub(crate) struct Sub {
    pub conn: u32,
    /// The class of one without a table list.
    pub class: ClassId,
    pub mode: Mode,
    /// Got an event of the present transaction, and does not know yet that it has all.
    pub open: bool,
    /// The last step in which it got something.
    pub seen: u64,
    pub grant: Grant,
    /// Events up to here were seen before.
    pub skip_until: Option<Cursor>,
    /// It has, or will get, what is behind this.
    pub since: Cursor,
    /// It is being told the past, and is in no index meanwhile.
    pub replay: Option<Box<Replay>>,
    /// How long it may stay, on a channel of which the application says who may.
    pub pass: Option<Box<Pass>>,
    /// Told from every other subscription that ever was.
    pub generation: u64,
    pub channel: Channel,
    /// Whose events it gets; `None` for a `user:` channel, which several topics have events for.
    pub topic: Option<TopicOf>,
    /// Wants what is not of a row, too.
    pub messages: bool,
    pub parts: Option<Box<[Part]>>,
    /// What its table list takes.
    pub cost: u32,
    /// What it has to do with who is there.
    pub seat: Option<Box<Seat>>,
    /// The join that it is a part of, on a socket of the Supabase protocol.
    pub join: Option<Arc<Joined>>,
}

/// One entry of a table list; the table without a name stands for what is not of a row.
pub(crate) struct Part {
    pub class: ClassId,
    pub schema: Option<Arc<str>>,
    pub table: Arc<str>,
    pub filter: Option<Filter>,
}

/// How far a subscription is that is being told the past.
pub(crate) struct Replay {
    /// Everything up to here was told.
    pub from: Cursor,
    /// The transaction of which a part was told, and not what is marked as its last event.
    pub open: Option<Lsn>,
    /// What changed before the past in memory is told first.
    pub recovering: Option<Recovering>,
}

impl Part {
    /// Whether an event of the table of this name is wanted.
    pub(crate) fn fits(&self, event: &RoutedEvent) -> bool {
        let schema = &event.table.schema;
        self.schema.as_ref().is_none_or(|wanted| wanted == schema)
            && self
                .filter
                .as_ref()
                .is_none_or(|filter| should_deliver(filter, event.op, &event.body))
    }
}

impl Sub {
    /// The class by which a subscription gets an event, if it may and wants to.
    pub(crate) fn class_for(&self, event: &RoutedEvent, grant: &Grant) -> Option<ClassId> {
        if !may_see(&event.audience, grant) || !self.hears(event) {
            return None;
        }
        match &self.parts {
            None => Some(self.class),
            Some(parts) => parts
                .iter()
                .find(|part| {
                    part.table == event.table.name
                        && !part.is_blind(event, &grant.roles)
                        && part.fits(event)
                })
                .map(|part| part.class),
        }
    }

    /// Whether it is one for this kind of event. What is sent to an organization is not sent to its
    /// `tenant:` channels.
    pub(crate) fn hears(&self, event: &RoutedEvent) -> bool {
        event.as_message().is_none()
            || self.messages
                && !matches!(
                    (&self.channel, &event.topic),
                    (Channel::Tenant(..), TopicOf::Org(_))
                )
    }

    /// Where a part is listed.
    pub(crate) fn topic_of(&self, part: &Part) -> Option<TopicOf> {
        match &self.channel {
            Channel::Tenant(organization, _) if part.table.is_empty() => Some(TopicOf::Channel(
                Some(organization.clone()),
                self.channel.to_string().into(),
            )),
            _ => self.topic.clone(),
        }
    }

    /// Has to be looked at one by one: what its class gets is not all it needs to know.
    pub(crate) fn is_single(&self) -> bool {
        self.open || self.skip_until.is_some()
    }

    /// The class whose channel a subscription's own news are told on.
    pub(crate) fn news_class(&self) -> ClassId {
        match &self.parts {
            None => self.class,
            Some(parts) => parts.first().map_or(u32::MAX, |part| part.class),
        }
    }

    /// Tells the class of a subscription of everything when it becomes single, or ceases to be.
    pub(crate) fn note_single(&self, before: bool, classes: &mut Classes) {
        if self.parts.is_none()
            && let Some(class) = classes.get(self.class)
        {
            class.note_single(before, self.is_single());
        }
    }

    /// The application is being asked whether it may stay; until then it is told nothing.
    pub(crate) fn is_paused(&self) -> bool {
        self.pass.as_ref().is_some_and(|pass| pass.is_paused())
    }

    pub(crate) fn organization(&self) -> Option<&OrgId> {
        self.topic.as_ref().and_then(TopicOf::organization)
    }
}

/// Who got events of the present transaction and does not know yet that it has all.
#[derive(Default)]
pub(crate) struct Open {
    /// Everybody of a class; see [`crate::classes::Class::open`].
    pub classes: Vec<ClassId>,
    /// Single subscriptions, with their generation.
    pub subs: Vec<(SubId, u64)>,
    /// Those whose filter could not be asked about an event, with their generation: they end with it.
    pub blind: Vec<(SubId, u64)>,
}

/// A table and the columns that its last event had.
struct Table {
    schema: Arc<str>,
    columns: Arc<[ColumnMeta]>,
}

pub(crate) struct State {
    pub limits: HubLimits,
    pub conns: Slab<Conn>,
    pub subs: Slab<Sub>,
    pub classes: Classes,
    pub topics: Map<TopicOf, Topic>,
    /// What names of channels mean.
    pub channels: Channels,
    /// Whom the application is asked about.
    pub doors: Doors,
    pub client_events: ClientEvents,
    pub directory: Directory,
    /// What is shown of each table.
    pub rules: Rules,
    /// Counts whatever changes who listens with which roles.
    pub listeners_version: u64,
    pub by_user: Map<UserId, SmallVec<[u32; 2]>>,
    pub by_key: Map<Arc<str>, SmallVec<[u32; 2]>>,
    /// Grows whenever what plans allow may have changed.
    pub plans_version: u64,
    /// Whom the end of the present transaction is told.
    pub open: Open,
    /// What everybody of a class is about to be told.
    pub run: Run,
    /// While something is said that no log holds.
    pub aside: Option<Aside>,
    /// Counts events and commits; what is encoded belongs to a step.
    pub step: u64,
    pub next_connection: u64,
    /// Tells direct events of this process from those of the one before it.
    pub process: u16,
    next_generation: u64,
    /// Whether the log is being read.
    pub stream: StreamState,
    /// How far the log was written when reading began; what comes up to here is the past.
    pub target: Option<Cursor>,
    /// What was published last; `None` before anything was.
    pub position: Option<Cursor>,
    /// Positions mean something else, and subscribers have not been told yet.
    pub epoch_untold: bool,
    /// What is kept for those who come back.
    pub history: History,
    /// What is wanted of the past before that.
    pub desk: Desk,
    /// Who is there.
    pub rooms: Rooms,
    /// The time by which answers are forgotten, and whoever is silent is not there any more.
    pub now: Duration,
    pub metrics: Metrics,
    /// What the table lists of all subscriptions take.
    pub described: usize,
    /// Columns of tables by name, and there by schema.
    tables: Map<Arc<str>, SmallVec<[Table; 1]>>,
    table_count: usize,
    /// The table of the last event with its columns, as the next one is often of the same.
    last_table: Option<(Arc<TableName>, Arc<[ColumnMeta]>)>,
}

/// A number that the processes of an hour do not share: they start in different seconds.
fn process() -> u16 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let seconds = since.map_or(0, |since| since.as_secs());
    u16::try_from(seconds % 2047).unwrap_or(0)
}

/// Subscriptions of a connection to channels of organizations: what is told on one of them is not told on the
/// user's own channel.
pub(crate) fn organizations_heard<'a>(subs: &'a Slab<Sub>, conn: &Conn) -> SmallVec<[&'a Sub; 2]> {
    let heard = conn.about.subs.iter();
    heard
        .filter_map(|id| subs.get(*id as usize))
        .filter(|sub| matches!(sub.channel, Channel::Org(_)))
        .collect()
}

/// Takes something out of the index of a topic, and the index away when nothing is left in it.
fn unlist(topics: &mut Map<TopicOf, Topic>, topic: &TopicOf, remove: impl FnOnce(&mut Listeners)) {
    let Some(there) = topics.get_mut(topic) else {
        return;
    };
    if let Some(listeners) = &mut there.listeners {
        remove(listeners);
        if !listeners.is_empty() {
            return;
        }
    }
    topics.remove(topic);
}

impl State {
    pub(crate) fn new(limits: HubLimits, metrics: Metrics) -> State {
        State {
            limits,
            conns: Slab::new(),
            subs: Slab::new(),
            classes: Classes::default(),
            topics: Map::default(),
            channels: Channels::default(),
            doors: Doors::default(),
            client_events: ClientEvents::default(),
            directory: Directory::default(),
            rules: Rules::default(),
            listeners_version: 0,
            by_user: Map::default(),
            by_key: Map::default(),
            plans_version: 0,
            open: Open::default(),
            run: Run::default(),
            aside: None,
            step: 0,
            next_connection: 0,
            process: process(),
            next_generation: 0,
            stream: StreamState::Live,
            target: None,
            position: None,
            epoch_untold: false,
            history: History::new(
                history::Limits {
                    bytes: limits.history_bytes,
                    topic_bytes: limits.history_organization_bytes,
                    retention: limits.history_retention,
                    remembered: limits.remembered_organizations,
                },
                Cursor::NOWHERE,
            ),
            desk: Desk::new(limits.recovery_bytes),
            rooms: Rooms::new(limits.presence, metrics.clone()),
            now: Duration::ZERO,
            metrics,
            described: 0,
            tables: Map::default(),
            table_count: 0,
            last_table: None,
        }
    }

    /// Keeps the events among these steps for those who come back: many at once, as they go to memory that is
    /// cold. Returns how far that is.
    pub(crate) fn keep(&mut self, ops: &[HubOp], which: Range<usize>, now: Duration) -> usize {
        let end = which.end;
        for op in ops.get(which).unwrap_or_default() {
            if let HubOp::Event(event) = op {
                self.history.push(event, now);
            }
        }
        end
    }

    pub(crate) fn position(&self) -> Cursor {
        self.position.unwrap_or(Cursor::NOWHERE)
    }

    pub(crate) fn generation(&mut self) -> u64 {
        self.next_generation += 1;
        self.next_generation
    }

    /// Moves the position forward; the first one is where the past begins.
    pub(crate) fn advance(&mut self, cursor: Cursor) {
        match self.position {
            None => self.history.begin(cursor),
            Some(before) if before.compare(&cursor) == Some(Ordering::Greater) => return,
            Some(_) => {}
        }
        self.position = Some(cursor);
    }

    /// What somebody is in an organization; `None`: no member.
    pub(crate) fn grant(&self, identity: &Identity, organization: &OrgId) -> Option<Grant> {
        self.directory.grant(identity, organization)
    }

    /// The connection, unless its slot belongs to another one by now.
    pub(crate) fn conn(&mut self, connection: &Connection) -> Option<&mut Conn> {
        self.conns
            .get_mut(connection.slot as usize)
            .filter(|conn| conn.connection.id == connection.id)
    }

    /// The subscription of a connection to a channel; of a name that means another channel in each
    /// organization, that of this organization.
    pub(crate) fn find_sub(
        &self,
        conn: &Conn,
        channel: &Channel,
        organization: Option<&OrgId>,
    ) -> Option<SubId> {
        conn.about.subs.iter().copied().find(|id| {
            let sub = self.subs.get(*id as usize);
            sub.is_some_and(|sub| {
                let elsewhere = matches!(channel, Channel::Named(_))
                    && sub
                        .organization()
                        .is_some_and(|of| Some(of) != organization);
                // Of a join, the room is the subscription to the channel; the others are to rows.
                let of_rows = sub.join.is_some() && !sub.messages;
                sub.channel == *channel && !elsewhere && !of_rows
            })
        })
    }

    /// Takes a subscription out of every index.
    pub(crate) fn remove_sub(&mut self, id: SubId) -> Option<Sub> {
        self.delist(id);
        let mut sub = self.subs.try_remove(id as usize)?;
        self.leave_seat(id, &mut sub);
        self.note_pass(id, sub.pass.as_ref().map(|pass| pass.next()), false);
        self.described -= sub.cost as usize;
        if let Some(conn) = self.conns.get_mut(sub.conn as usize) {
            conn.about.subs.retain(|other| *other != id);
            conn.about.described -= sub.cost as usize;
            if sub.mode == Mode::Latest {
                conn.connection.forget_latest(sub.generation);
            }
        }
        match &sub.parts {
            None => self.classes.leave(sub.class),
            Some(parts) => parts.iter().for_each(|part| self.classes.leave(part.class)),
        }
        Some(sub)
    }

    /// Takes a subscription out of the indexes of events: from here on it gets none.
    pub(crate) fn delist(&mut self, id: SubId) {
        self.listeners_version += 1;
        let Some(sub) = self.subs.get(id as usize) else {
            return;
        };
        let topics = &mut self.topics;
        match &sub.parts {
            None => {
                if let Some(topic) = &sub.topic {
                    unlist(topics, topic, |listeners| {
                        listeners.remove_from_everything(sub.class, id);
                    });
                }
                if let (true, Some(class)) = (sub.is_single(), self.classes.get(sub.class)) {
                    class.note_single(true, false);
                }
            }
            Some(parts) => {
                for (part, at) in parts.iter().zip(0..) {
                    let Some(topic) = sub.topic_of(part) else {
                        continue;
                    };
                    let who = Candidate { sub: id, part: at };
                    unlist(topics, &topic, |listeners| {
                        listeners.remove_from_table(&part.table, part.filter.as_ref(), who);
                    });
                }
            }
        }
    }

    /// Remembers the columns of a table as its last event had them.
    pub(crate) fn note_columns(&mut self, event: &RoutedEvent, row: &JsonRow) {
        if let Some((table, columns)) = &self.last_table
            && Arc::ptr_eq(table, &event.table)
            && Arc::ptr_eq(columns, row.columns())
        {
            return;
        }
        self.last_table = Some((event.table.clone(), row.columns().clone()));
        let columns = row.columns().clone();
        let TableName { schema, name } = &*event.table;
        let known = self.tables.get_mut(name);
        match known.and_then(|known| known.iter_mut().find(|table| table.schema == *schema)) {
            Some(table) => table.columns = columns,
            None if self.table_count >= self.limits.remembered_tables => {}
            None => {
                self.table_count += 1;
                let schema = schema.clone();
                let there = self.tables.entry(name.clone()).or_default();
                there.push(Table { schema, columns });
            }
        }
    }

    /// Forgets the columns of a table whose rule is another one: its next event tells them.
    pub(crate) fn forget_columns(&mut self, table: &TableName) {
        self.last_table = None;
        if let Some(known) = self.tables.get_mut(&table.name) {
            let before = known.len();
            known.retain(|known| known.schema != table.schema);
            self.table_count -= before - known.len();
        }
    }

    /// Whether a table is known to publish no such column; a table not seen yet may publish anything.
    pub(crate) fn lacks_column(&self, schema: Option<&str>, table: &str, column: &str) -> bool {
        let named = self.tables.get(table).into_iter().flatten();
        let mut known = named
            .filter(|table| schema.is_none_or(|schema| *table.schema == *schema))
            .map(|table| table.columns.iter().any(|meta| &*meta.name == column))
            .peekable();
        known.peek().is_some() && !known.any(|there| there)
    }
}
