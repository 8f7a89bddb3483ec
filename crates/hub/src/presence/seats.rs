//! Members and followers are subscriptions: where a subscription may have presence, what its client does there, and
//! what happens to it when the subscription, the rule of the channel or the socket ends.

use std::{sync::Arc, time::Duration};

use rowcast_model::{Channel, OrgId, PresenceAct, PresenceCounts, PresenceOp, PresentUser, Topic};
use rowcast_wire::{ClientPresence, Follow, PresenceAction, server};
use tokio::sync::mpsc;

use crate::{
    Connection, Hub, HubError,
    hub::now,
    presence::{
        hall::{RoomId, name_of, place},
        room::Refused,
        rooms::{Denied, Ghost, Turning},
    },
    stage::Stage,
    state::{State, Sub},
    topics::SubId,
};

/// Bytes of the states in one answer, unless one user has more.
const PAGE_BYTES: usize = 32 * 1024;
/// Why a member is not there any more: nothing was heard of him.
const EXPIRED: &str = "expired";
/// The rule of the channel says that it has no members any more.
const RULE_CHANGED: &str = "channel_rule_changed";

/// What a subscription has to do with who is there.
#[derive(Default)]
pub(crate) struct Seat {
    /// It follows the room of this number.
    pub follows: Option<RoomId>,
    /// Its connection is a member, of whom something was heard at this time.
    pub here: Option<Duration>,
    /// What it will follow when it may be told anything again.
    pub rests: Option<Follow>,
}

/// Some of those who are on a channel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PresentPage {
    /// How many there are in all.
    pub counts: PresenceCounts,
    /// Users in the order of their coming.
    pub users: Vec<Arc<PresentUser>>,
    /// What to ask for the following ones; `None`: there are none.
    pub next: Option<u64>,
}

impl Hub {
    /// Takes what a client says about who is on a channel that it is subscribed to, and answers if it gave a
    /// reference.
    ///
    /// # Errors
    /// [`HubError`] when there is no such subscription, the channel has no members, or there is no room.
    pub fn present(
        &self,
        connection: &Arc<Connection>,
        wanted: &ClientPresence,
    ) -> Result<(), HubError> {
        let mut state = self.state.lock();
        let result = state.present(connection, wanted, self.began.elapsed());
        if let Err(error) = &result {
            state.metrics.presence_refused(error.code());
        }
        drop(state);
        connection.pump();
        result
    }

    /// Takes a connection away wherever it is present: its client left. If it may come back, as its socket broke,
    /// it stays for [`crate::PresenceLimits::grace`], so that nobody notices when it does.
    pub fn vacate(&self, connection: &Connection, comes_back: bool) {
        let now = self.began.elapsed();
        self.state.lock().vacate(connection, comes_back, now);
    }

    /// Those who are on a channel, behind the user of this number, at most `limit` users and some ten thousand
    /// bytes. For operators: whoever asks for a client has to be subscribed, see [`Hub::present`].
    ///
    /// # Errors
    /// [`HubError`] when there is no such channel, or it has no members.
    pub fn present_on(
        &self,
        channel: &Channel,
        organization: Option<&OrgId>,
        after: Option<u64>,
        limit: usize,
    ) -> Result<PresentPage, HubError> {
        let state = self.state.lock();
        let topic = match channel {
            Channel::Org(organization) => Topic::Org(organization.clone()),
            Channel::User(user) => Topic::User(user.clone()),
            Channel::Named(name) => state.channels.resolve(name, organization)?.topic,
            Channel::Tenant(..) => return Err(HubError::NoPresence(channel.clone())),
        };
        state.room_topic(channel, Some(&topic))?;
        Ok(state.page(&topic, after, limit))
    }

    /// From here on, who comes to a channel and who leaves it is put into a queue of this length, while some handler
    /// is defined for that: the first connection of a user, and his last. What does not fit is counted and lost; there
    /// is one queue, the last one that was asked for.
    pub fn presence_news(&self, length: usize) -> mpsc::Receiver<Turning> {
        let (tell, told) = mpsc::channel(length.max(1));
        self.state.lock().rooms.news = Some(tell);
        told
    }
}

impl State {
    /// The topic whose members those of a channel are. For a `user:` channel, `topic` may be missing.
    fn room_topic(&self, channel: &Channel, topic: Option<&Topic>) -> Result<Topic, HubError> {
        let limits = &self.rooms.limits;
        let has = match channel {
            Channel::Named(name) => self.channels.find(name).is_some_and(|rule| rule.presence),
            Channel::Org(_) => limits.organizations,
            Channel::User(_) => limits.users,
            Channel::Tenant(..) => false,
        };
        let topic = match (channel, topic) {
            (Channel::User(user), _) => Some(Topic::User(user.clone())),
            (_, topic) => topic.cloned(),
        };
        topic
            .filter(|_| has)
            .ok_or_else(|| HubError::NoPresence(channel.clone()))
    }

    /// Whether somebody may ask who is on a channel that he may subscribe to.
    pub(crate) fn may_follow(
        &self,
        channel: &Channel,
        topic: Option<&Topic>,
        wanted: Option<Follow>,
    ) -> Result<(), HubError> {
        match wanted {
            None => Ok(()),
            Some(_) => match self.rooms.can_open(&self.room_topic(channel, topic)?) {
                true => Ok(()),
                false => Err(HubError::PresenceFull),
            },
        }
    }

    /// A subscription begins, in place of one that had this seat: a member stays one, and is told who is there, if
    /// wanted.
    pub(crate) fn take_seat(&mut self, id: SubId, seat: Option<Box<Seat>>, wanted: Option<Follow>) {
        if seat.is_none() && wanted.is_none() {
            return;
        }
        let now = self.now;
        let Some(sub) = self.subs.get_mut(id as usize) else {
            return;
        };
        let mut seat = seat.unwrap_or_default();
        let (channel, topic) = (sub.channel.clone(), sub.topic.clone());
        let generation = sub.generation;
        let phoenix = sub.join.as_ref().map(|join| join.version());
        seat.follows = wanted.and_then(|wanted| {
            let topic = self.room_topic(&channel, topic.as_ref()).ok()?;
            let list = wanted == Follow::List;
            let rooms = &mut self.rooms;
            rooms
                .follow(&topic, id, generation, list, phoenix, now)
                .ok()
        });
        if let Some(sub) = self.subs.get_mut(id as usize) {
            sub.seat = Some(seat);
        }
    }

    /// The seat of a subscription that another one to the same topic takes the place of: its connection is
    /// still there.
    pub(crate) fn keep_seat(&mut self, id: SubId, topic: Option<&Topic>) -> Option<Box<Seat>> {
        let sub = self.subs.get_mut(id as usize)?;
        if sub.topic.as_ref() != topic {
            return None;
        }
        let mut seat = sub.seat.take()?;
        if let Some(room) = seat.follows.take() {
            self.rooms.unfollow(room, id);
        }
        seat.here.is_some().then_some(seat)
    }

    /// A subscription is told nothing for a while.
    pub(crate) fn rest_seat(&mut self, id: SubId) {
        let seat = self.subs.get_mut(id as usize);
        let Some(seat) = seat.and_then(|sub| sub.seat.as_mut()) else {
            return;
        };
        if let Some(room) = seat.follows.take() {
            seat.rests = self.rooms.unfollow(room, id);
        }
    }

    /// It may be told things again, and begins with who is there.
    pub(crate) fn rouse_seat(&mut self, id: SubId) {
        let seat = self.subs.get_mut(id as usize);
        let seat = seat.and_then(|sub| sub.seat.take());
        if let Some(mut seat) = seat {
            let rests = seat.rests.take();
            self.take_seat(id, Some(seat), rests);
        }
    }

    /// A subscription is over, and with it whatever it had to do with who is there.
    pub(crate) fn leave_seat(&mut self, id: SubId, sub: &mut Sub) {
        let Some(seat) = sub.seat.take() else {
            return;
        };
        if let Some(room) = seat.follows {
            self.rooms.unfollow(room, id);
        }
        if seat.here.is_some()
            && let Some(op) = self.op(sub, PresenceAct::Leave)
        {
            self.let_go(sub.conn, &op);
        }
    }

    /// A connection leaves. Who is not there cannot; that is what is wanted.
    fn let_go(&mut self, conn: u32, op: &PresenceOp) {
        if let Some(conn) = self.conns.get(conn as usize) {
            let identity = &conn.about.identity;
            let _ = self.rooms.take(op, identity, self.now, now());
        }
    }

    fn op(&self, sub: &Sub, act: PresenceAct) -> Option<PresenceOp> {
        let conn = self.conns.get(sub.conn as usize)?;
        let topic = match &sub.channel {
            Channel::User(user) => Topic::User(user.clone()),
            _ => sub.topic.clone()?,
        };
        Some(PresenceOp {
            topic,
            who: conn.about.identity.sender(),
            connection: conn.connection.id,
            act,
        })
    }

    fn present(
        &mut self,
        connection: &Connection,
        wanted: &ClientPresence,
        now: Duration,
    ) -> Result<(), HubError> {
        let conn = self.conns.get(connection.slot as usize);
        let conn = conn
            .filter(|conn| conn.connection.id == connection.id)
            .ok_or(HubError::Closed)?;
        let channel = &wanted.channel;
        let id = self
            .find_sub(conn, channel, wanted.organization.as_ref())
            .ok_or_else(|| HubError::NotSubscribed(channel.clone()))?;
        let sub = self.subs.get(id as usize).ok_or(HubError::Closed)?;
        if sub.is_paused() {
            return Err(HubError::Unasked(channel.to_string().into()));
        }
        let topic = self.room_topic(channel, sub.topic.as_ref())?;
        let name = name_of(&topic);
        let place = place(&topic, &name, PresenceCounts::default());
        let reference = wanted.reference.as_ref();
        let act = match &wanted.action {
            PresenceAction::List { after, limit } => {
                let page = self.page(&topic, *after, *limit);
                let place = server::PresencePlace {
                    counts: page.counts,
                    ..place
                };
                let frame = server::presence_list(reference, &place, &page.users, page.next);
                connection.queue(frame);
                return Ok(());
            }
            PresenceAction::Join(state) => PresenceAct::Join(state.clone()),
            PresenceAction::Update(state) => PresenceAct::Update(state.clone()),
            PresenceAction::Leave => PresenceAct::Leave,
        };
        let joins = matches!(act, PresenceAct::Join(_));
        let leaves = act == PresenceAct::Leave;
        let op = self.op(sub, act).ok_or(HubError::Closed)?;
        let identity = &conn.about.identity;
        match self.rooms.take(&op, identity, now, crate::hub::now()) {
            Ok(_) => {}
            // To leave where one is not is no mistake.
            Err(Denied::By(Refused::NotThere)) if leaves => {}
            Err(denied) => return Err(self.refusal(denied, channel)),
        }
        if let Some(sub) = self.subs.get_mut(id as usize) {
            let seat = sub.seat.get_or_insert_with(Box::default);
            match leaves {
                true => seat.here = None,
                false if joins || seat.here.is_some() => seat.here = Some(now),
                false => {}
            }
        }
        if reference.is_some() {
            let action = wanted.action.name();
            connection.queue(server::presence_done(reference, &place, action, None));
        }
        Ok(())
    }

    fn refusal(&self, denied: Denied, channel: &Channel) -> HubError {
        let limits = &self.rooms.limits;
        match denied {
            Denied::By(Refused::Full) => HubError::ChannelFull(limits.members),
            Denied::By(Refused::FullOfUser) => HubError::FullOfUser(limits.connections_per_user),
            Denied::By(Refused::NotThere) => HubError::NotPresent(channel.clone()),
            Denied::NoRoom => HubError::PresenceFull,
            Denied::TooLarge => HubError::StateTooLarge(limits.state_bytes),
        }
    }

    fn page(&self, topic: &Topic, after: Option<u64>, limit: usize) -> PresentPage {
        let room = self.rooms.find(topic);
        let Some(hall) = room.and_then(|room| self.rooms.hall(room)) else {
            return PresentPage::default();
        };
        let mut page = PresentPage {
            counts: hall.room.counts(),
            ..PresentPage::default()
        };
        let mut bytes = 0;
        for user in hall.room.users_after(after) {
            if page.users.len() >= limit || bytes >= PAGE_BYTES {
                page.next = page.users.last().map(|user| user.order);
                break;
            }
            bytes += user
                .connections
                .iter()
                .map(|seat| seat.state.len() + 64)
                .sum::<usize>();
            page.users.push(user.clone());
        }
        page
    }

    fn vacate(&mut self, connection: &Connection, comes_back: bool, now: Duration) {
        self.now = now;
        let Some(conn) = self.conn(connection) else {
            return;
        };
        let (ids, identity) = (conn.about.subs.clone(), conn.about.identity.clone());
        for id in ids {
            let Some(sub) = self.subs.get(id as usize) else {
                continue;
            };
            let here = sub.seat.as_ref().is_some_and(|seat| seat.here.is_some());
            let act = match comes_back {
                true => PresenceAct::Lose,
                false => PresenceAct::Leave,
            };
            let Some(op) = here.then(|| self.op(sub, act)).flatten() else {
                continue;
            };
            match comes_back {
                true => self.rooms.lose(&op, &identity, now, crate::hub::now()),
                false => self.let_go(connection.slot, &op),
            }
            if let Some(sub) = self.subs.get_mut(id as usize)
                && let Some(seat) = &mut sub.seat
            {
                seat.here = None;
            }
        }
    }

    /// Whether somebody whose socket broke could still be where he was.
    pub(crate) fn may_haunt(&self, ghost: &Ghost) -> bool {
        match &ghost.topic {
            Topic::Org(organization) => self.grant(&ghost.identity, organization).is_some(),
            Topic::Channel(organization, name) => {
                let admitted = self.admit_named(&ghost.identity, name, organization.as_ref());
                admitted.is_ok_and(|admitted| admitted.topic == ghost.topic)
            }
            Topic::User(user) => *user == ghost.identity.user,
            Topic::AllOrgs => false,
        }
    }

    /// Takes away those who have given no sign of life for too long; who stays, and when he was heard, is noted.
    pub(crate) fn expire_silent(&mut self, now: Duration) {
        let expiry = self.rooms.limits.expiry;
        let mut silent: Vec<SubId> = Vec::new();
        for (id, sub) in &mut self.subs {
            let Some(here) = sub.seat.as_mut().and_then(|seat| seat.here.as_mut()) else {
                continue;
            };
            let Some(conn) = self.conns.get(sub.conn as usize) else {
                continue;
            };
            if conn.connection.was_heard() {
                *here = now;
            } else if now.saturating_sub(*here) >= expiry {
                silent.extend(SubId::try_from(id));
            }
        }
        // A connection may have several seats, and says once for all that it lives: so they are asked first.
        for id in silent {
            self.expire(id);
        }
        for (_, conn) in &self.conns {
            conn.connection.forget_heard();
        }
    }

    fn expire(&mut self, id: SubId) {
        let Some(sub) = self.subs.get_mut(id as usize) else {
            return;
        };
        if let Some(seat) = &mut sub.seat {
            seat.here = None;
        }
        let Some(sub) = self.subs.get(id as usize) else {
            return;
        };
        let Some(op) = self.op(sub, PresenceAct::Leave) else {
            return;
        };
        let conn = sub.conn;
        self.let_go(conn, &op);
        self.metrics.presence_expired.inc();
        // Those who speak the Supabase protocol have no word for it.
        if let Some(conn) = self.conns.get(conn as usize)
            && conn.about.joins.is_none()
        {
            let name = name_of(&op.topic);
            let place = place(&op.topic, &name, PresenceCounts::default());
            let frame = server::presence_done(None, &place, "leave", Some(EXPIRED));
            conn.connection.queue(frame);
            conn.connection.wake_task();
        }
    }

    /// Ends the rooms of channels whose rules say no more that they have members.
    pub(crate) fn close_rooms(&mut self, stage: &mut Stage) {
        self.rooms.rights_changed = true;
        let gone: Vec<(RoomId, Topic)> = self
            .rooms
            .topics()
            .filter(|(_, topic)| match topic {
                Topic::Channel(_, name) => {
                    let rule = self.channels.find(name);
                    !rule.is_some_and(|rule| rule.presence)
                }
                _ => false,
            })
            .map(|(room, topic)| (room, topic.clone()))
            .collect();
        if gone.is_empty() {
            return;
        }
        for (_, sub) in &mut self.subs {
            let ended = gone
                .iter()
                .find(|(_, topic)| sub.topic.as_ref() == Some(topic));
            if let Some((_, topic)) = ended
                && sub.seat.take().is_some()
                && let Some(conn) = self.conns.get_mut(sub.conn as usize)
                && conn.about.joins.is_none()
            {
                let name = name_of(topic);
                let place = place(topic, &name, PresenceCounts::default());
                let frame = server::presence_done(None, &place, "off", Some(RULE_CHANGED));
                stage.push_frame(&mut conn.mark, &conn.connection, &frame);
            }
        }
        for (room, _) in gone {
            self.rooms.close(room);
        }
    }

    /// Everybody is taken off a channel, those whose sockets broke a moment ago, too.
    pub(crate) fn revoke_lost(&mut self, topic: &Topic) {
        let (now, rooms) = (self.now, &mut self.rooms);
        rooms.bury(now, crate::hub::now(), |ghost| ghost.topic != *topic);
    }
}
