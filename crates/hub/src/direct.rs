//! What the service itself is asked to say: by an application over HTTP, or by a client where a channel lets
//! clients send.
//!
//! Owns the positions of such events: behind everything that was published, between two records of the log
//! ([`Cursor::next_direct`]), so that those of the log stay what they are. They are kept for those who come back
//! like all others, as long as this process lives; no other process knows them. Promises: one publisher at a
//! time, and never in the middle of a transaction of the log.

use std::{cmp::Ordering, sync::Arc};

use bytes::Bytes;
use parking_lot::MutexGuard;
use rowcast_model::{Audience, Channel, Cursor, Message, OrgId, RoutedEvent, Says, Topic};

use crate::{Connection, Hub, HubError, Identity, hub::now, stage::Stage, state::State};

/// What became of one direct event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Its position.
    pub cursor: Cursor,
    /// Sockets that it was written to. Those that are just being told the past get it with that.
    pub sockets: usize,
}

/// What a client wants to say to a channel.
#[derive(Clone, Debug)]
pub struct Relay {
    /// Where.
    pub channel: Channel,
    /// In which organization.
    pub organization: Option<OrgId>,
    /// What happened.
    pub event: Arc<str>,
    /// More about it: JSON, checked by the caller.
    pub payload: Bytes,
    /// The sender's own socket gets it, too.
    pub to_self: bool,
}

/// While direct events are handed out.
#[derive(Default)]
pub(crate) struct Aside {
    /// The connection that gets nothing.
    pub except: Option<u32>,
    /// Connections that got the present one.
    pub reached: Vec<u32>,
}

impl Hub {
    /// Says these events, which have no position yet, one behind the other as one transaction. They are taken
    /// out of the list when that is done.
    ///
    /// # Errors
    /// [`HubError::NotReady`] before the log was read up to the present, [`HubError::Busy`] in the middle of a
    /// transaction, or when [`Cursor::next_direct`] has no place left: try again when [`Hub::settled`], or when the
    /// log has moved on. Nothing was said then.
    pub fn say(
        &self,
        events: &mut Vec<RoutedEvent>,
        except: Option<&Connection>,
    ) -> Result<Vec<Sent>, HubError> {
        let mut stage = self.press.lock();
        stage.begin();
        let at = self.began.elapsed();
        let mut state = self.state.lock();
        let cursors = state.direct_positions(events.len())?;
        let except = except.and_then(|connection| {
            let there = state.conn(connection).is_some();
            there.then_some(connection.slot)
        });
        let commit_time = now();
        let mut sent = Vec::with_capacity(events.len());
        state.mark_last(events);
        for (mut event, cursor) in events.drain(..).zip(&cursors) {
            event.cursor = *cursor;
            event.commit_time = commit_time;
            let sockets = state.say(&event, except, &mut stage);
            sent.push(Sent {
                cursor: *cursor,
                sockets,
            });
            state.history.push(&event, at);
            if stage.is_full() {
                MutexGuard::unlocked_fair(&mut state, || stage.flush(&self.shared, now));
            }
        }
        if let Some(last) = cursors.last() {
            state.end_direct(last, &mut stage);
        }
        self.note_history(&state);
        drop(state);
        stage.flush(&self.shared, now);
        self.shared.metrics.direct.inc_by(sent.len() as u64);
        Ok(sent)
    }

    /// Waits until no transaction of the log is published in part.
    pub async fn settled(&self) {
        loop {
            let settled = self.settled.notified();
            let mut settled = std::pin::pin!(settled);
            settled.as_mut().enable();
            if !self.state.lock().is_inside() {
                return;
            }
            settled.await;
        }
    }

    /// The topic of a channel that an application wants to say something on, and for whom it is.
    ///
    /// # Errors
    /// [`HubError`] when there is no such channel, or it declares no such event.
    pub fn address(
        &self,
        channel: &Channel,
        organization: Option<&OrgId>,
        event: &str,
    ) -> Result<(Topic, Audience), HubError> {
        self.state.lock().address(channel, organization, event)
    }

    /// Says what a client wants to say, if its channel lets it; the service says who it was.
    ///
    /// # Errors
    /// [`HubError`] when the rule of the channel forbids it, and as [`Hub::say`].
    pub fn relay(&self, connection: &Connection, relay: &Relay) -> Result<Sent, HubError> {
        let mut state = self.state.lock();
        let conn = state.conn(connection).ok_or(HubError::Closed)?;
        let identity = conn.about.identity.clone();
        let topic = state.may_relay(Some(connection), &identity, relay)?;
        drop(state);
        let (event, payload) = (relay.event.clone(), relay.payload.clone());
        let except = (!relay.to_self).then_some(connection);
        self.pass_on(identity, topic, event, payload, except)
    }

    /// What somebody without a connection wants to say, as an event for [`Hub::say`], if the channel lets him; the
    /// service says who it was.
    ///
    /// # Errors
    /// [`HubError`] when the rule of the channel forbids it, or wants him to be on it.
    pub fn relayed(&self, identity: &Identity, relay: &Relay) -> Result<RoutedEvent, HubError> {
        let topic = self.state.lock().may_relay(None, identity, relay)?;
        let (event, payload) = (relay.event.clone(), relay.payload.clone());
        Ok(relayed(identity, topic, event, payload))
    }

    /// Says on a channel what somebody sent who may.
    pub(crate) fn pass_on(
        &self,
        identity: Identity,
        topic: Topic,
        event: Arc<str>,
        payload: Bytes,
        except: Option<&Connection>,
    ) -> Result<Sent, HubError> {
        let mut events = vec![relayed(&identity, topic, event, payload)];
        let sent = self.say(&mut events, except)?;
        sent.first().copied().ok_or(HubError::NotReady)
    }
}

/// An event of somebody who may send it, without a position.
fn relayed(identity: &Identity, topic: Topic, event: Arc<str>, payload: Bytes) -> RoutedEvent {
    let message = Message {
        says: Says::Broadcast { event, payload },
        sender: Some(identity.sender()),
    };
    let (nowhere, audience) = (Cursor::NOWHERE, Audience::default());
    RoutedEvent::message(nowhere, now(), topic, audience, Arc::new(message))
}

impl State {
    /// The next `count` positions behind everything.
    fn direct_positions(&self, count: usize) -> Result<Vec<Cursor>, HubError> {
        let mut last = self.position.ok_or(HubError::NotReady)?;
        let behind = |target: &Cursor| last.compare(target) == Some(Ordering::Less);
        if self.target.as_ref().is_some_and(behind) {
            // What is said now would be taken for the past by those who came after it.
            return Err(HubError::NotReady);
        }
        let mut cursors = Vec::with_capacity(count);
        for _ in 0..count {
            last = last.next_direct(self.process).ok_or(HubError::Busy)?;
            cursors.push(last);
        }
        Ok(cursors)
    }

    /// Whether a transaction of the log is published in part.
    pub(crate) fn is_inside(&self) -> bool {
        let position = self.position();
        position.index != u32::MAX && !position.is_direct() && position != Cursor::NOWHERE
    }

    /// The last event of each topic says so.
    fn mark_last(&self, events: &mut [RoutedEvent]) {
        let mut seen: Vec<Topic> = Vec::new();
        for event in events.iter_mut().rev() {
            event.last = !seen.contains(&event.topic);
            if event.last {
                seen.push(event.topic.clone());
            }
        }
    }

    /// Hands out one event; how many sockets it was written to.
    fn say(&mut self, event: &RoutedEvent, except: Option<u32>, stage: &mut Stage) -> usize {
        self.settle(stage);
        self.aside = Some(Aside {
            except,
            reached: Vec::new(),
        });
        self.event(event, stage);
        self.advance(event.cursor);
        let mut reached = self.aside.take().unwrap_or_default().reached;
        reached.sort_unstable();
        reached.dedup();
        reached.len()
    }

    fn end_direct(&mut self, cursor: &Cursor, stage: &mut Stage) {
        self.commit(cursor, stage);
        self.settle(stage);
    }

    fn address(
        &self,
        channel: &Channel,
        organization: Option<&OrgId>,
        event: &str,
    ) -> Result<(Topic, Audience), HubError> {
        let undeclared = || HubError::Undeclared(event.into());
        let mut audience = Audience::default();
        let topic = match channel {
            Channel::Named(name) => {
                let resolved = self.channels.resolve(name, organization)?;
                return match self.channels.allows(&resolved.rule, event) {
                    true => Ok((resolved.topic, audience)),
                    false => Err(undeclared()),
                };
            }
            Channel::Org(organization) => Topic::Org(organization.clone()),
            Channel::Tenant(organization, _) => {
                Topic::Channel(Some(organization.clone()), channel.to_string().into())
            }
            Channel::User(user) => {
                audience.user = Some(user.clone());
                Topic::User(user.clone())
            }
        };
        match self.channels.declares(event) {
            true => Ok((topic, audience)),
            false => Err(undeclared()),
        }
    }

    fn may_relay(
        &self,
        connection: Option<&Connection>,
        identity: &Identity,
        relay: &Relay,
    ) -> Result<Topic, HubError> {
        let forbidden = || HubError::NoRelay(relay.channel.clone());
        let Channel::Named(name) = &relay.channel else {
            return Err(forbidden());
        };
        if !self.directory.may_send(identity) {
            return Err(HubError::KeyReadsOnly);
        }
        let admitted = self.admit_named(identity, name, relay.organization.as_ref())?;
        // Whom the application lets in is known of those who are in.
        let topic = admitted.topic;
        if admitted.authorizer.is_some() {
            let connection = connection.ok_or_else(|| HubError::SocketsOnly(name.clone()))?;
            if !self.is_on(connection, &relay.channel, &topic) {
                return Err(HubError::Unasked(name.clone()));
            }
        }
        let rule = self.channels.find(name).ok_or_else(forbidden)?;
        if !rule.relay {
            return Err(forbidden());
        }
        match self.channels.allows(rule, &relay.event) {
            true => Ok(topic),
            false => Err(HubError::Undeclared(relay.event.clone())),
        }
    }
}
