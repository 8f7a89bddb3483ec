//! The rooms of all channels: their limits, who follows them, and when what has to be done. Time is passed in, as the
//! time since this process began.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use hashbrown::HashMap;
use rowcast_model::{PresenceAct, PresenceNews, PresenceOp, Timestamp, Topic};
use slab::Slab;
use tokio::sync::{Notify, mpsc};

use rowcast_wire::{Follow, phoenix::Version};

use crate::{
    Identity, PresenceLimits,
    metrics::Metrics,
    presence::{
        hall::{Follower, Hall, RoomId, Telling, name_of},
        room::{Most, Refused, Room, Stepped},
    },
    topics::SubId,
};

type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// What a room takes besides its members.
const ROOM_BYTES: usize = 1024;
/// What a member takes besides his state: his places in the room, and in what followers were told.
const MEMBER_BYTES: usize = 512;
/// Signs of life are looked at so many times in the time after which a silent member is gone.
const LOOKS: u32 = 20;
/// But not more often than this.
const SHORTEST_LOOK: Duration = Duration::from_millis(10);

/// Somebody who came to a channel or left it.
#[derive(Clone, Debug)]
pub struct Turning {
    /// Where, who and when.
    pub news: PresenceNews,
    /// Who, to the application.
    pub(crate) identity: Identity,
}

/// Why a step is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Denied {
    /// The room says so.
    By(Refused),
    /// All rooms together are as large as they may be.
    NoRoom,
    /// The state is too large.
    TooLarge,
}

/// A member whose socket broke, and who may come back.
pub(crate) struct Ghost {
    pub room: RoomId,
    pub topic: Topic,
    pub identity: Identity,
    pub connection: u64,
    until: Duration,
}

/// All rooms.
pub(crate) struct Rooms {
    pub limits: PresenceLimits,
    halls: Slab<Hall>,
    by_topic: Map<Topic, RoomId>,
    due: BTreeSet<(Duration, RoomId)>,
    /// Bytes of all rooms.
    bytes: usize,
    members: usize,
    pub ghosts: Vec<Ghost>,
    /// Somebody's rights changed since the ghosts were looked at.
    pub rights_changed: bool,
    next_look: Option<Duration>,
    pub telling: VecDeque<Telling>,
    /// Rung when there is something to do.
    pub bell: Arc<Notify>,
    pub news: Option<mpsc::Sender<Turning>>,
    /// Whether there is a handler for them.
    pub handled: bool,
    metrics: Metrics,
}

impl Rooms {
    pub(crate) fn new(limits: PresenceLimits, metrics: Metrics) -> Rooms {
        Rooms {
            limits,
            halls: Slab::new(),
            by_topic: Map::default(),
            due: BTreeSet::new(),
            bytes: 0,
            members: 0,
            ghosts: Vec::new(),
            rights_changed: false,
            next_look: None,
            telling: VecDeque::new(),
            bell: Arc::default(),
            news: None,
            handled: false,
            metrics,
        }
    }

    pub(crate) fn hall(&self, room: RoomId) -> Option<&Hall> {
        self.halls.get(room as usize)
    }

    /// The room of a channel, if it has one.
    pub(crate) fn find(&self, topic: &Topic) -> Option<RoomId> {
        self.by_topic.get(topic).copied()
    }

    pub(crate) fn topics(&self) -> impl Iterator<Item = (RoomId, &Topic)> {
        self.by_topic.iter().map(|(topic, room)| (*room, topic))
    }

    /// Whether there is a room for a channel, or one can be made.
    pub(crate) fn can_open(&self, topic: &Topic) -> bool {
        self.by_topic.contains_key(topic) || self.afford(ROOM_BYTES).is_ok()
    }

    /// The room of a channel, made if there is none yet.
    fn open(&mut self, topic: &Topic) -> Result<RoomId, Denied> {
        if let Some(room) = self.by_topic.get(topic) {
            return Ok(*room);
        }
        self.afford(ROOM_BYTES)?;
        let room = self.halls.insert(Hall::new(topic.clone()));
        let room = RoomId::try_from(room).unwrap_or(RoomId::MAX);
        self.bytes += ROOM_BYTES;
        self.by_topic.insert(topic.clone(), room);
        self.note();
        Ok(room)
    }

    fn afford(&self, more: usize) -> Result<(), Denied> {
        match self.bytes.saturating_add(more) <= self.limits.bytes {
            true => Ok(()),
            false => Err(Denied::NoRoom),
        }
    }

    /// Forgets a room that nobody is in and nobody follows.
    fn tidy(&mut self, room: RoomId) {
        let Some(hall) = self.halls.get(room as usize) else {
            return;
        };
        let empty = hall.room.counts().connections == 0 && hall.followers.is_empty();
        if !empty || hall.telling {
            return;
        }
        if let Some(hall) = self.halls.try_remove(room as usize) {
            if let Some(due) = hall.due {
                self.due.remove(&(due, room));
            }
            self.by_topic.remove(&hall.topic);
            self.bytes -= ROOM_BYTES;
            self.note();
        }
    }

    /// Takes a step of a member.
    pub(crate) fn take(
        &mut self,
        op: &PresenceOp,
        identity: &Identity,
        now: Duration,
        at: Timestamp,
    ) -> Result<RoomId, Denied> {
        let grows = match &op.act {
            PresenceAct::Join(state) | PresenceAct::Update(state) => Some(state.len()),
            PresenceAct::Lose | PresenceAct::Leave => None,
        };
        if grows.is_some_and(|bytes| bytes > self.limits.state_bytes) {
            return Err(Denied::TooLarge);
        }
        let room = match &op.act {
            PresenceAct::Join(_) => self.open(&op.topic)?,
            _ => self.find(&op.topic).ok_or(Denied::By(Refused::NotThere))?,
        };
        let taken = self.take_in(room, op, grows, identity, (now, at));
        self.tidy(room);
        self.note();
        taken
    }

    fn take_in(
        &mut self,
        room: RoomId,
        op: &PresenceOp,
        grows: Option<usize>,
        identity: &Identity,
        (now, at): (Duration, Timestamp),
    ) -> Result<RoomId, Denied> {
        let PresenceOp {
            who,
            connection,
            act,
            ..
        } = op;
        let gone = Denied::By(Refused::NotThere);
        let hall = self.halls.get(room as usize).ok_or(gone)?;
        let cost = |state: usize| MEMBER_BYTES + state;
        let before = hall
            .room
            .state(who, *connection)
            .map(|state| cost(state.len()));
        let more = grows.map_or(0, cost);
        self.afford(more.saturating_sub(before.unwrap_or(0)))?;
        let most = Most {
            connections: self.limits.members,
            connections_per_user: self.limits.connections_per_user,
        };
        let hall = self.halls.get_mut(room as usize).ok_or(gone)?;
        let bytes_of = |hall: &Hall, connection| {
            let state = hall.room.state(who, connection);
            state.map_or(0, |state| cost(state.len()))
        };
        let stepped = hall.room.step(who, *connection, act, most, at);
        let stepped = stepped.map_err(Denied::By)?;
        let now_there = bytes_of(hall, *connection);
        self.bytes = self.bytes.saturating_sub(before.unwrap_or(0)) + now_there;
        self.members += usize::from(before.is_none() && now_there > 0);
        let left = usize::from(before.is_some() && now_there == 0);
        self.members = self.members.saturating_sub(left);
        if let Some((replaced, bytes)) = stepped.replaced {
            self.bytes = self.bytes.saturating_sub(cost(bytes));
            self.members = self.members.saturating_sub(1);
            let other = |ghost: &Ghost| ghost.room != room || ghost.connection != replaced;
            self.ghosts.retain(other);
        }
        if before.is_none() && self.next_look.is_none() {
            self.next_look = Some(now + self.look_again());
            self.bell.notify_one();
        }
        self.tell_application(room, op, identity, &stepped, at);
        if stepped.changed {
            self.mark(room, now);
        }
        Ok(room)
    }

    /// Hands on that a user came or left, if somebody does something about it.
    fn tell_application(
        &mut self,
        room: RoomId,
        op: &PresenceOp,
        identity: &Identity,
        stepped: &Stepped,
        at: Timestamp,
    ) {
        let (Some(turned), Some(news), Some(hall)) =
            (&stepped.turned, &self.news, self.halls.get(room as usize))
        else {
            return;
        };
        if !self.handled {
            return;
        }
        let told = news.try_send(Turning {
            news: PresenceNews {
                topic: hall.topic.clone(),
                channel: name_of(&hall.topic),
                who: op.who.clone(),
                connection: op.connection,
                state: turned.state.clone(),
                came: turned.came,
                at,
            },
            identity: identity.clone(),
        });
        if told.is_err() {
            self.metrics.presence_untold.inc();
        }
    }

    /// A member whose socket broke stays for a while.
    pub(crate) fn lose(
        &mut self,
        op: &PresenceOp,
        identity: &Identity,
        now: Duration,
        at: Timestamp,
    ) {
        if let Ok(room) = self.take(op, identity, now, at) {
            self.ghosts.push(Ghost {
                room,
                topic: op.topic.clone(),
                identity: identity.clone(),
                connection: op.connection,
                until: now + self.limits.grace,
            });
            self.bell.notify_one();
        }
    }

    /// Whether some of the lost may have to go.
    pub(crate) fn has_to_bury(&self, now: Duration) -> bool {
        let over = self.ghosts.first().is_some_and(|ghost| ghost.until <= now);
        over || self.rights_changed && !self.ghosts.is_empty()
    }

    /// Takes away those of the lost whom `keep` does not keep, and whose time is over.
    pub(crate) fn bury(&mut self, now: Duration, at: Timestamp, keep: impl Fn(&Ghost) -> bool) {
        self.rights_changed = false;
        let (kept, gone): (Vec<Ghost>, Vec<Ghost>) = std::mem::take(&mut self.ghosts)
            .into_iter()
            .partition(|ghost| ghost.until > now && keep(ghost));
        self.ghosts = kept;
        for ghost in gone {
            let op = PresenceOp {
                topic: ghost.topic,
                who: ghost.identity.sender(),
                connection: ghost.connection,
                act: PresenceAct::Leave,
            };
            // Who is not there cannot leave; that is what is wanted.
            let _ = self.take(&op, &ghost.identity, now, at);
        }
    }

    /// Begins to tell somebody who is there, from the next difference on.
    pub(crate) fn follow(
        &mut self,
        topic: &Topic,
        id: SubId,
        generation: u64,
        list: bool,
        phoenix: Option<Version>,
        now: Duration,
    ) -> Result<RoomId, Denied> {
        let room = self.open(topic)?;
        if let Some(hall) = self.halls.get_mut(room as usize) {
            let follower = Follower {
                generation,
                list,
                fresh: true,
                phoenix,
            };
            hall.followers.insert(id, follower);
            hall.lists += usize::from(list);
        }
        self.mark(room, now);
        Ok(room)
    }

    /// What it followed until now.
    pub(crate) fn unfollow(&mut self, room: RoomId, id: SubId) -> Option<Follow> {
        let mut followed = None;
        if let Some(hall) = self.halls.get_mut(room as usize) {
            let gone = hall.followers.remove(&id);
            followed = gone.as_ref().map(|follower| match follower.list {
                true => Follow::List,
                false => Follow::Count,
            });
            if gone.is_some_and(|follower| follower.list) {
                hall.lists -= 1;
                if hall.lists == 0 {
                    hall.room.forget_told();
                }
            }
        }
        self.tidy(room);
        followed
    }

    /// Has a room tell its followers what is new as soon as may be.
    fn mark(&mut self, room: RoomId, now: Duration) {
        let Some(hall) = self.halls.get_mut(room as usize) else {
            return;
        };
        if hall.due.is_none() && !hall.followers.is_empty() {
            let due = hall.not_before.max(now);
            hall.due = Some(due);
            self.due.insert((due, room));
            self.bell.notify_one();
        }
    }

    fn look_again(&self) -> Duration {
        (self.limits.expiry / LOOKS).max(SHORTEST_LOOK)
    }

    /// Whether it is time to look who has given a sign of life; asking says that it is done.
    pub(crate) fn look(&mut self, now: Duration) -> bool {
        let due = self.next_look.is_some_and(|at| at <= now);
        if due {
            let again = self.members > 0;
            self.next_look = again.then(|| now + self.look_again());
        }
        due
    }

    /// The next room whose followers are to be told, and what they are told, if anything.
    pub(crate) fn tell_next(&mut self, now: Duration) -> bool {
        let Some((due, room)) = self.due.first().copied().filter(|(due, _)| *due <= now) else {
            return false;
        };
        self.due.remove(&(due, room));
        let limits = self.limits;
        let Some(hall) = self.halls.get_mut(room as usize) else {
            return true;
        };
        hall.due = None;
        if hall.telling {
            // It is not through with the last one.
            hall.again = true;
            return true;
        }
        let telling = hall.tell(room, &limits);
        hall.not_before = now + limits.pause(hall.followers.len(), telling.bytes());
        if telling.is_empty() {
            self.tidy(room);
            return true;
        }
        hall.telling = true;
        self.metrics.presence_diffs.inc();
        self.telling.push_back(telling);
        true
    }

    /// Notes that the followers of a room have been told.
    pub(crate) fn told(&mut self, room: RoomId, now: Duration) {
        let mut again = false;
        if let Some(hall) = self.halls.get_mut(room as usize) {
            hall.telling = false;
            again = std::mem::take(&mut hall.again);
        }
        if again {
            self.mark(room, now);
        }
        self.tidy(room);
    }

    /// When there is something to do next.
    pub(crate) fn next(&self) -> Option<Duration> {
        let due = self.due.first().map(|(due, _)| *due);
        // All stay equally long, so the first one is the first to go.
        let ghosts = self.ghosts.first().map(|ghost| ghost.until);
        [due, ghosts, self.next_look].into_iter().flatten().min()
    }

    /// Ends a room: nobody is in it and nobody follows it from here on.
    pub(crate) fn close(&mut self, room: RoomId) {
        self.ghosts.retain(|ghost| ghost.room != room);
        let Some(hall) = self.halls.get_mut(room as usize) else {
            return;
        };
        let everybody = hall
            .room
            .users_after(None)
            .flat_map(|user| &user.connections);
        let (mut members, mut bytes) = (0, 0);
        for seat in everybody {
            members += 1;
            bytes += MEMBER_BYTES + seat.state.len();
        }
        hall.room = Room::default();
        (hall.followers, hall.lists) = (Map::default(), 0);
        self.members = self.members.saturating_sub(members);
        self.bytes = self.bytes.saturating_sub(bytes);
        self.tidy(room);
        self.note();
    }

    fn note(&self) {
        let signed = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        self.metrics.presence_bytes.set(signed(self.bytes));
        self.metrics.presence_members.set(signed(self.members));
        self.metrics.presence_rooms.set(signed(self.halls.len()));
    }
}
