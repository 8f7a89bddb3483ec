//! What each step of the log does: whom an event goes to, and what ends with a transaction.

use std::cmp::Ordering;

use rowcast_model::{
    Body, Channel, Cursor, Epoch, HubOp, Lsn, RoutedEvent, Topic as TopicOf, UserId,
};
use rowcast_wire::{Mode, server, should_deliver};
use slab::Slab;

use crate::{
    classes::Classes,
    latest::{self, RecordKey},
    may_see,
    stage::Stage,
    state::{Conn, State, Sub},
    topics::{Listeners, SubId},
};

impl State {
    /// Takes one step of the log; bytes go to the stage.
    pub(crate) fn step(&mut self, op: HubOp, stage: &mut Stage) {
        match op {
            HubOp::Event(event) => {
                self.expect_epoch(event.cursor.epoch, stage);
                self.event(&event, stage);
                self.advance(event.cursor);
            }
            HubOp::Commit { cursor, .. } => {
                self.commit(&cursor, stage);
                self.expect_epoch(cursor.epoch, stage);
                self.advance(cursor);
            }
            HubOp::Position(cursor) => {
                self.expect_epoch(cursor.epoch, stage);
                self.advance(cursor);
            }
            HubOp::Membership(change) => self.change_membership(change, stage),
            HubOp::MembershipsCleared => self.clear_memberships(stage),
            HubOp::ApiKey(change) => self.change_key(change, stage),
            HubOp::ApiKeysCleared => self.clear_keys(stage),
            HubOp::NewEpoch { epoch, reason } => self.new_epoch(epoch, &reason, stage),
        }
    }

    /// Positions of another epoch without news of it mean the same as the news.
    fn expect_epoch(&mut self, epoch: Epoch, stage: &mut Stage) {
        if self
            .position
            .is_some_and(|position| position.epoch != epoch)
        {
            self.new_epoch(epoch, "epoch_changed", stage);
        }
    }

    fn new_epoch(&mut self, epoch: Epoch, reason: &str, stage: &mut Stage) {
        let start = Cursor {
            epoch,
            commit_lsn: Lsn::ZERO,
            index: 0,
        };
        self.position = Some(start);
        self.floor = start;
        self.last_for_all = None;
        self.open.clear();
        self.topics.retain(|_, topic| {
            topic.last_event = None;
            topic.listeners.is_some()
        });
        for (_, sub) in &mut self.subs {
            sub.open = false;
            sub.skip_until = None;
            if let Some(conn) = self.conns.get_mut(sub.conn as usize) {
                if sub.mode == Mode::Latest {
                    conn.connection.flush_latest();
                }
                let frame = server::resync(&sub.channel.to_string(), reason, &start);
                stage.push_frame(&mut conn.mark, &conn.connection, &frame);
            }
        }
    }

    fn event(&mut self, event: &RoutedEvent, stage: &mut Stage) {
        self.step += 1;
        if let Body::Change { new, old, .. } = &event.body
            && let Some(row) = new.as_ref().or(old.as_ref())
        {
            self.note_columns(event, row);
        }
        match &event.topic {
            TopicOf::AllOrgs => self.last_for_all = Some(event.cursor),
            TopicOf::Org(organization) => self.remember(organization, event.cursor),
        }
        let mut cast = Cast {
            subs: &mut self.subs,
            conns: &mut self.conns,
            classes: &mut self.classes,
            open: &mut self.open,
            stage,
            event,
            step: self.step,
            delivered: false,
        };
        match (&event.topic, &event.audience.user) {
            (TopicOf::AllOrgs, _) => {
                let topics = self.topics.values();
                topics
                    .filter_map(|topic| topic.listeners.as_deref())
                    .for_each(|listeners| cast.offer_listeners(listeners));
            }
            (TopicOf::Org(organization), None) => {
                let topic = self.topics.get(organization);
                if let Some(listeners) = topic.and_then(|topic| topic.listeners.as_deref()) {
                    cast.offer_listeners(listeners);
                }
            }
            (TopicOf::Org(_), Some(user)) => {
                cast.offer_user(self.by_user.get(user).map_or(&[], |slots| slots));
                let delivered = cast.delivered;
                if self.offer_user_channels(user, event, stage) || delivered {
                    stage.delivered(event.commit_time);
                }
                return;
            }
        }
        if cast.delivered {
            stage.delivered(event.commit_time);
        }
    }

    /// An event for one user, on his own channel on every connection that did not get it on the channel
    /// of the organization.
    fn offer_user_channels(
        &mut self,
        user: &UserId,
        event: &RoutedEvent,
        stage: &mut Stage,
    ) -> bool {
        let TopicOf::Org(organization) = &event.topic else {
            return false;
        };
        let mut delivered = false;
        for slot in self.by_user.get(user).cloned().unwrap_or_default() {
            let Some(conn) = self.conns.get(slot as usize) else {
                continue;
            };
            let got = |id: &SubId| {
                let sub = self.subs.get(*id as usize);
                sub.is_some_and(|sub| {
                    sub.seen == self.step && matches!(sub.channel, Channel::Org(_))
                })
            };
            if conn.subs.iter().any(got) {
                continue;
            }
            let own = |id: &SubId| {
                let sub = self.subs.get(*id as usize);
                sub.is_some_and(|sub| matches!(sub.channel, Channel::User(_)))
            };
            let Some(own) = conn.subs.iter().copied().find(own) else {
                continue;
            };
            // What he is in the organization of this event.
            let Some(grant) = self.grant(&conn.identity, organization) else {
                continue;
            };
            if let Some(sub) = self.subs.get_mut(own as usize) {
                sub.grant = grant;
            }
            let mut cast = Cast {
                subs: &mut self.subs,
                conns: &mut self.conns,
                classes: &mut self.classes,
                open: &mut self.open,
                stage,
                event,
                step: self.step,
                delivered: false,
            };
            cast.offer_sub(own);
            delivered |= cast.delivered;
        }
        delivered
    }

    /// Tells those who got a part of the transaction, but not what was marked as its last event.
    fn commit(&mut self, cursor: &Cursor, stage: &mut Stage) {
        self.step += 1;
        for (id, generation) in self.open.drain(..) {
            let Some(sub) = self.subs.get_mut(id as usize) else {
                continue;
            };
            if sub.generation != generation || !sub.open {
                continue;
            }
            sub.open = false;
            let class = match &sub.parts {
                None => sub.class,
                Some(parts) => parts.first().map_or(u32::MAX, |part| part.class),
            };
            if let Some(class) = self.classes.get(class)
                && let Some(conn) = self.conns.get_mut(sub.conn as usize)
            {
                let stretch =
                    class.news(self.step, stage, |channel| server::commit(channel, cursor));
                stage.push(&mut conn.mark, &conn.connection, stretch);
            }
        }
    }
}

/// One event on its way to subscriptions.
struct Cast<'a> {
    subs: &'a mut Slab<Sub>,
    conns: &'a mut Slab<Conn>,
    classes: &'a mut Classes,
    open: &'a mut Vec<(SubId, u64)>,
    stage: &'a mut Stage,
    event: &'a RoutedEvent,
    step: u64,
    delivered: bool,
}

impl Cast<'_> {
    fn offer_listeners(&mut self, listeners: &Listeners) {
        for (_, members) in &listeners.everything {
            for id in members {
                self.offer(*id, None);
            }
        }
        let event = self.event;
        listeners.candidates(event, &mut |who| self.offer(who.sub, Some(who.part)));
    }

    /// Offers the event to all subscriptions of one user in its organization.
    fn offer_user(&mut self, slots: &[u32]) {
        let TopicOf::Org(organization) = &self.event.topic else {
            return;
        };
        for slot in slots {
            let Some(conn) = self.conns.get(*slot as usize) else {
                continue;
            };
            for id in conn.subs.clone() {
                let of = self.subs.get(id as usize).and_then(Sub::organization);
                if of == Some(organization) {
                    self.offer_sub(id);
                }
            }
        }
    }

    /// Offers the event to one subscription, whatever its table list.
    fn offer_sub(&mut self, id: SubId) {
        let Some(sub) = self.subs.get(id as usize) else {
            return;
        };
        let table = &self.event.table.name;
        match &sub.parts {
            None => self.offer(id, None),
            Some(parts) => {
                let parts = parts.iter().zip(0..);
                let fitting: Vec<u32> = parts
                    .filter(|(part, _)| part.table == *table)
                    .map(|(_, at)| at)
                    .collect();
                fitting.into_iter().for_each(|at| self.offer(id, Some(at)));
            }
        }
    }

    /// The one place where an event is given to a subscription, or not.
    fn offer(&mut self, id: SubId, part: Option<u32>) {
        let event = self.event;
        let Some(sub) = self.subs.get_mut(id as usize) else {
            return;
        };
        if sub.seen == self.step || !may_see(&event.audience, &sub.grant) {
            return;
        }
        if let Some(until) = sub.skip_until {
            match event.cursor.compare(&until) {
                Some(Ordering::Less | Ordering::Equal) => return,
                _ => sub.skip_until = None,
            }
        }
        let class = match (part, &sub.parts) {
            (None, _) => sub.class,
            (Some(at), Some(parts)) => {
                let Some(part) = parts.get(at as usize) else {
                    return;
                };
                let schema = &event.table.schema;
                let fits = part.schema.as_ref().is_none_or(|wanted| wanted == schema)
                    && part
                        .filter
                        .as_ref()
                        .is_none_or(|filter| should_deliver(filter, event.op, &event.body));
                if !fits {
                    return;
                }
                part.class
            }
            (Some(_), None) => return,
        };
        let (Some(class), Some(conn)) = (
            self.classes.get(class),
            self.conns.get_mut(sub.conn as usize),
        ) else {
            return;
        };
        sub.seen = self.step;
        self.delivered = true;
        if sub.mode == Mode::Latest {
            let key = event.record_id.as_ref().map(|record_id| RecordKey {
                generation: sub.generation,
                table: event.table.clone(),
                record_id: record_id.clone(),
            });
            let frame = class.event_alone(self.step, event);
            conn.connection
                .hold(key, sub.generation, latest::effect(event), frame);
            return;
        }
        if class.completes(event) {
            sub.open = false;
        } else if !sub.open {
            sub.open = true;
            self.open.push((id, sub.generation));
        }
        let stretch = class.event(self.step, event, self.stage);
        self.stage.push(&mut conn.mark, &conn.connection, stretch);
    }
}
