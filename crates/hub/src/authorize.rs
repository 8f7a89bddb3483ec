//! Channels of which the application says who may be on them: whom to ask about, and what comes of the answers.
//!
//! Owns how somebody comes in, has his pass renewed and loses it; who waits, and when to look again, is kept in
//! `doors`. Whoever asks takes questions and brings answers; nothing here waits, and no socket waits for another. Promises: a
//! subscription to such a channel has a pass; while the pass is paused, it is in no index and is told nothing, and
//! goes on from there through the history, under the lock, when the application says yes.

use std::{sync::Arc, time::Duration};

use rowcast_model::{AskError, Asking, Authorizer, Channel, OrgId, Question, Topic};
use rowcast_wire::{Frame, server};
use serde_json::value::RawValue;

use crate::{
    Connection, Hub, HubError, Subscription,
    grants::ShownGrant,
    guest::{Guest, Wanted},
    joins::Said,
    pass::{Due, Ending, Pass, Then},
    spread,
    state::State,
    topics::SubId,
    verdict::{judge, verdict},
};

/// A question to the application about a channel.
#[derive(Debug)]
pub struct Asked {
    /// To be given back with the answer.
    pub ticket: Ticket,
    /// The question.
    pub question: Question,
}

/// Whose question it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    about: About,
    number: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum About {
    Guest(usize),
    Sub(SubId, u64),
}

/// Frames of this turn, and whose they are.
type Told = Vec<Arc<Connection>>;

impl Hub {
    /// Asks to subscribe. Where the application says who may, the reply comes when it has; else as with
    /// [`Hub::subscribe`], before this returns. `shown` is what the application has signed, checked by the caller.
    ///
    /// # Errors
    /// [`HubError`] when it is refused already.
    pub fn request(
        &self,
        connection: &Arc<Connection>,
        subscription: Subscription,
        shown: Option<ShownGrant>,
    ) -> Result<(), HubError> {
        let mut state = self.state.lock();
        state.now = self.began.elapsed();
        let result = state.request(connection, subscription, shown);
        self.note_subscriptions(&state);
        drop(state);
        connection.pump();
        result
    }

    /// What is to be asked now, at most so much, and how long nothing more will be. Ends what nobody renewed.
    pub fn questions(&self, most: usize) -> (Vec<Asked>, Option<Duration>) {
        let mut state = self.state.lock();
        state.now = self.began.elapsed();
        let mut told = Told::new();
        let questions = state.questions(most, &mut told);
        let next = state.doors.next().map(|at| at.saturating_sub(state.now));
        self.note_subscriptions(&state);
        drop(state);
        told.iter().for_each(|connection| connection.wake());
        (questions, next)
    }

    /// Takes an answer.
    pub fn answered(&self, ticket: Ticket, answer: Result<&RawValue, &AskError>) {
        let mut state = self.state.lock();
        state.now = self.began.elapsed();
        let told = state.answered(ticket, answer);
        self.note_subscriptions(&state);
        drop(state);
        if let Some(connection) = told {
            connection.wake();
        }
    }

    /// Resolves when there may be something to ask.
    pub async fn questioned(&self) {
        let bell = self.state.lock().doors.bell.clone();
        bell.notified().await;
    }
}

impl State {
    fn request(
        &mut self,
        connection: &Arc<Connection>,
        wanted: Subscription,
        shown: Option<ShownGrant>,
    ) -> Result<(), HubError> {
        let Channel::Named(name) = wanted.channel.clone() else {
            return self.subscribe(connection, wanted, None).map(drop);
        };
        let conn = self.conn(connection).ok_or(HubError::Closed)?;
        let identity = conn.about.identity.clone();
        let admitted = self.admit_named(&identity, &name, wanted.organization.as_ref())?;
        let Some(by) = admitted.authorizer else {
            return self.subscribe(connection, wanted, None).map(drop);
        };
        if let Some(shown) = shown.filter(|_| by.grants) {
            let user = admitted.grant.user.as_ref();
            let keep = self.limits.history_retention;
            let now = crate::revoke::seconds(crate::hub::now());
            let checked = self
                .doors
                .revocations
                .check(&shown, &admitted.topic, user, now, keep);
            let yes = checked.inspect_err(|_| self.metrics.authorized("grant_refused"))?;
            let pass = Pass::new(by, yes, self.now, spread(connection.id()));
            self.metrics.authorized("grant_taken");
            return self.subscribe(connection, wanted, Some(pass)).map(drop);
        }
        // Who is in stays in: another subscription of his own takes the place of this one.
        if let Some(pass) = self.pass_of(connection, &wanted.channel, &admitted.topic)
            && pass.by == by
            && !pass.is_paused()
        {
            return self.subscribe(connection, wanted, Some(pass)).map(drop);
        }
        if by.handler.is_none() {
            return Err(HubError::GrantNeeded(name));
        }
        if wanted.tables.is_some() {
            return Err(HubError::NoTables(wanted.channel));
        }
        let cost = self.afford(connection, None, &wanted)?;
        let wanted = Wanted::Subscription(Box::new(wanted));
        self.wait(connection, wanted, admitted.topic, by, cost)
    }

    /// Somebody waits for what the application says.
    pub(crate) fn wait(
        &mut self,
        connection: &Arc<Connection>,
        wanted: Wanted,
        topic: Topic,
        by: Arc<Authorizer>,
        cost: u32,
    ) -> Result<(), HubError> {
        if self.doors.guests.len() >= self.limits.guests {
            return Err(HubError::TooManyGuests);
        }
        let most = self.limits.subscriptions;
        let conn = self.conn(connection).ok_or(HubError::Closed)?;
        let count = conn.about.subs.len() + conn.about.guests;
        if count >= most {
            return Err(HubError::TooManySubscriptions(count));
        }
        conn.about.guests += 1;
        conn.about.described += cost as usize;
        self.described += cost as usize;
        let key = self.doors.guests.insert(Guest {
            connection: connection.clone(),
            wanted,
            topic,
            by,
            asked: None,
            cost,
        });
        self.doors.waiting.push_back(key);
        self.doors.bell.notify_one();
        Ok(())
    }

    fn remove_guest(&mut self, key: usize) -> Option<Guest> {
        let guest = self.doors.guests.try_remove(key)?;
        self.described -= guest.cost as usize;
        if let Some(conn) = self.conn(&guest.connection) {
            conn.about.guests -= 1;
            conn.about.described -= guest.cost as usize;
        }
        Some(guest)
    }

    /// Sends away those of a connection who wait; for one channel, or for all. How many.
    pub(crate) fn dismiss(
        &mut self,
        connection: &Connection,
        channel: Option<(&Channel, Option<&OrgId>)>,
    ) -> usize {
        if self
            .conn(connection)
            .is_none_or(|conn| conn.about.guests == 0)
        {
            return 0;
        }
        let gone = self.doors.guests.iter().filter(|(_, guest)| {
            let of = |(channel, organization): (&Channel, Option<&OrgId>)| {
                let own = guest.topic.organization();
                guest.wanted.channel() == channel && (own.is_none() || own == organization)
            };
            guest.connection.id == connection.id && channel.is_none_or(of)
        });
        let gone: Vec<usize> = gone.map(|(key, _)| key).collect();
        for key in &gone {
            self.remove_guest(*key);
        }
        gone.len()
    }

    /// The same of a join.
    pub(crate) fn dismiss_join(&mut self, connection: u64, topic: &str) -> Vec<Guest> {
        let guests = self.doors.guests.iter();
        let gone = guests
            .filter(|(_, guest)| guest.connection.id == connection && guest.wanted.joins(topic));
        let gone: Vec<usize> = gone.map(|(key, _)| key).collect();
        gone.into_iter()
            .filter_map(|key| self.remove_guest(key))
            .collect()
    }

    /// The topics that a connection waits to join.
    pub(crate) fn waits_to_join(&self, connection: &Connection) -> Vec<Arc<str>> {
        let guests = self.doors.guests.iter().map(|(_, guest)| guest);
        let own = guests.filter(|guest| guest.connection.id == connection.id);
        own.filter_map(|guest| match &guest.wanted {
            Wanted::Join(join) => Some(join.topic.clone()),
            Wanted::Subscription(_) => None,
        })
        .collect()
    }

    /// The pass of a connection's subscription.
    pub(crate) fn pass_of(
        &self,
        connection: &Connection,
        channel: &Channel,
        topic: &Topic,
    ) -> Option<Pass> {
        let conn = self.conns.get(connection.slot as usize)?;
        let id = self.find_sub(conn, channel, topic.organization())?;
        let sub = self.subs.get(id as usize)?;
        (sub.topic.as_ref() == Some(topic)).then(|| sub.pass.as_deref().cloned())?
    }

    /// Whether somebody is on an authorized channel at the moment.
    pub(crate) fn is_on(&self, connection: &Connection, channel: &Channel, topic: &Topic) -> bool {
        let pass = self.pass_of(connection, channel, topic);
        pass.is_some_and(|pass| !pass.is_paused())
    }

    fn questions(&mut self, most: usize, told: &mut Told) -> Vec<Asked> {
        let mut asked = Vec::new();
        while asked.len() < most
            && let Some((at, id)) = self.doors.dues.first().copied()
            && at <= self.now
        {
            asked.extend(self.look_at(id, told));
        }
        while asked.len() < most
            && let Some(key) = self.doors.waiting.pop_front()
        {
            let number = self.doors.number();
            let Some(guest) = self.doors.guests.get_mut(key) else {
                continue;
            };
            if guest.asked.is_some() {
                continue;
            }
            guest.asked = Some(number);
            let (connection, channel) = (guest.connection.clone(), guest.wanted.channel().clone());
            let (topic, by) = (guest.topic.clone(), guest.by.clone());
            match self.question(&connection, &channel, &topic, &by, "subscribe") {
                Ok(question) => asked.push(Asked {
                    ticket: Ticket {
                        about: About::Guest(key),
                        number,
                    },
                    question,
                }),
                Err(error) => {
                    if let Some(guest) = self.remove_guest(key) {
                        if !self.let_in_beside(&guest) {
                            guest.refuse(&error);
                        }
                        told.push(connection);
                    }
                }
            }
        }
        asked
    }

    /// A subscription whose pass is due.
    fn look_at(&mut self, id: SubId, told: &mut Told) -> Option<Asked> {
        let number = self.doors.number();
        let now = self.now;
        let due = self.with_pass(id, |pass| {
            (pass.due(now, number), pass.by.clone(), pass.is_paused())
        });
        let Some((due, by, paused)) = due else {
            self.doors.dues.pop_first();
            return None;
        };
        match due {
            Due::Nothing => None,
            Due::End(ending) => {
                self.metrics
                    .authorized(if paused { "revoked" } else { "expired" });
                told.extend(self.take_off(id, &ending));
                None
            }
            Due::Ask => {
                let sub = self.subs.get(id as usize)?;
                let connection = self.conns.get(sub.conn as usize)?.connection.clone();
                let (channel, topic) = (sub.channel.clone(), sub.topic.clone()?);
                let about = About::Sub(id, sub.generation);
                let why = if paused { "revoked" } else { "renew" };
                match self.question(&connection, &channel, &topic, &by, why) {
                    Ok(question) => Some(Asked {
                        ticket: Ticket { about, number },
                        question,
                    }),
                    Err(_) => {
                        told.extend(self.settle_pass(id, number, Err(&AskError::Failed)));
                        None
                    }
                }
            }
        }
    }

    /// Does something with a pass, and looks at it again when that says.
    pub(crate) fn with_pass<T>(
        &mut self,
        id: SubId,
        change: impl FnOnce(&mut Pass) -> T,
    ) -> Option<T> {
        let pass = self.subs.get_mut(id as usize)?.pass.as_mut()?;
        let before = pass.next();
        let result = change(pass);
        let after = pass.next();
        self.doors.moved(id, Some(before), Some(after));
        Some(result)
    }

    /// A subscription with a pass is there, or is there no more.
    pub(crate) fn note_pass(&mut self, id: SubId, next: Option<Duration>, there: bool) {
        match there {
            true => self.doors.moved(id, None, next),
            false => self.doors.moved(id, next, None),
        }
    }

    fn question(
        &self,
        connection: &Connection,
        channel: &Channel,
        topic: &Topic,
        by: &Authorizer,
        why: &str,
    ) -> Result<Question, HubError> {
        let conn = self.conns.get(connection.slot as usize);
        let conn = conn.filter(|conn| conn.connection.id == connection.id);
        let identity = &conn.ok_or(HubError::Closed)?.about.identity;
        let organization = topic.organization();
        let caller = self.caller(identity, connection.id(), organization)?;
        let name: Arc<str> = channel.to_string().into();
        let resolved = self.channels.resolve(&name, organization)?;
        let arguments = resolved.rule.arguments_json(&resolved.arguments);
        let input = RawValue::from_string(format!(r#"{{"reason":"{why}"}}"#));
        let unasked = || HubError::Unasked(name.clone());
        Ok(Question {
            asking: Asking::Authorize,
            handler: by.handler.clone().ok_or_else(unasked)?,
            definition: None,
            channel: name.clone(),
            arguments,
            input: input.map_err(|_| unasked())?,
            caller,
        })
    }

    fn answered(
        &mut self,
        ticket: Ticket,
        answer: Result<&RawValue, &AskError>,
    ) -> Option<Arc<Connection>> {
        match ticket.about {
            About::Guest(key) => self.admit_guest(key, ticket.number, answer),
            About::Sub(id, generation) => {
                let sub = self.subs.get(id as usize)?;
                if sub.generation != generation {
                    return None;
                }
                self.settle_pass(id, ticket.number, answer)
            }
        }
    }

    fn admit_guest(
        &mut self,
        key: usize,
        number: u64,
        answer: Result<&RawValue, &AskError>,
    ) -> Option<Arc<Connection>> {
        if self.doors.guests.get(key)?.asked != Some(number) {
            return None;
        }
        let guest = self.remove_guest(key)?;
        let connection = guest.connection.clone();
        match judge(answer, &guest.by) {
            Ok(yes) => {
                self.metrics.authorized("admitted");
                let pass = Pass::new(guest.by.clone(), yes, self.now, spread(connection.id()));
                if let Err(error) = self.let_in(&guest, pass) {
                    guest.refuse(&error);
                }
            }
            Err(error) => {
                self.metrics.authorized(error.code());
                if !self.let_in_beside(&guest) {
                    connection.queue(guest.wanted.denied(&error));
                }
            }
        }
        Some(connection)
    }

    fn let_in(&mut self, guest: &Guest, pass: Pass) -> Result<(), HubError> {
        let connection = &guest.connection;
        match &guest.wanted {
            Wanted::Subscription(wanted) => {
                let wanted = (**wanted).clone();
                match self.subscribe(connection, wanted.clone(), Some(pass)) {
                    // Somebody else has to be asked by now.
                    Err(HubError::Unasked(_)) => self.request(connection, wanted, None),
                    other => other.map(drop),
                }
            }
            Wanted::Join(join) => self.join(connection, (**join).clone(), Said::Yes(pass)),
        }
    }

    /// Somebody whom the application does not let in may want more than that; whether he gets it.
    fn let_in_beside(&mut self, guest: &Guest) -> bool {
        match &guest.wanted {
            Wanted::Join(join) if join.has_other_wishes() => {
                let join = (**join).clone();
                self.join(&guest.connection, join, Said::No).is_ok()
            }
            _ => false,
        }
    }

    fn settle_pass(
        &mut self,
        id: SubId,
        number: u64,
        answer: Result<&RawValue, &AskError>,
    ) -> Option<Arc<Connection>> {
        let now = self.now;
        let slot = self.subs.get(id as usize)?.conn;
        let connection = self.conns.get(slot as usize)?.connection.clone();
        let then = self.with_pass(id, |pass| {
            let verdict = verdict(&judge(answer, &pass.by));
            pass.answered(now, number, verdict, spread(connection.id()))
        })?;
        match then {
            Then::Stays | Then::Pauses => {
                let outcome = answer.map_or_else(AskError::code, |_| "renewed");
                self.metrics.authorized(outcome);
                None
            }
            Then::Resumes => {
                self.metrics.authorized("resumed");
                self.rouse_seat(id);
                connection.note_replay(true);
                Some(connection)
            }
            Then::Ends(ending) => {
                self.metrics.authorized("refused");
                self.take_off(id, &ending)
            }
        }
    }

    /// Ends a subscription and queues why.
    fn take_off(&mut self, id: SubId, ending: &Ending) -> Option<Arc<Connection>> {
        let sub = self.remove_sub(id)?;
        let ended = self.end_of_join(&sub, &ending.reason);
        let connection = self.conns.get(sub.conn as usize)?.connection.clone();
        let native = || Some(taken_off(&sub.channel, sub.topic.as_ref(), ending));
        if let Some(frame) = ended.unwrap_or_else(native) {
            connection.queue(frame);
        }
        Some(connection)
    }

    /// The claims of a connection are others: it is asked about again, and stays meanwhile.
    pub(crate) fn ask_again(&mut self, slot: u32) {
        let now = self.now;
        let conn = self.conns.get(slot as usize);
        for id in conn.map(|conn| conn.about.subs.clone()).unwrap_or_default() {
            self.with_pass(id, |pass| pass.ask_now(now));
        }
    }
}

fn taken_off(channel: &Channel, topic: Option<&Topic>, ending: &Ending) -> Frame {
    let organization = topic.and_then(Topic::organization);
    server::taken_off(
        &channel.to_string(),
        organization,
        &ending.reason,
        ending.epoch,
    )
}
