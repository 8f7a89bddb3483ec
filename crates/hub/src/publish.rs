//! What each step of the log does: where an event is offered (`cast` does it), and what ends with a transaction.

use std::cmp::Ordering;

use rowcast_model::{
    Body, Channel, Cursor, Epoch, HubOp, Lsn, RoutedEvent, Topic as TopicOf, UserId,
};
use rowcast_wire::server;
use slab::Slab;

use crate::{
    Grant,
    cast::Cast,
    classes::Class,
    revoke::seconds,
    spread::read_after,
    stage::Stage,
    state::{Conn, Set, State, Sub},
    topics::SubId,
};

impl State {
    /// Tells what is under way for everybody of a class: before anything else is told to anybody, and before
    /// anybody comes or goes.
    pub(crate) fn settle(&mut self, stage: &mut Stage) {
        self.run
            .settle(&mut self.classes, &self.topics, &mut self.conns, stage);
    }

    /// Takes one step of the log; bytes go to the stage.
    pub(crate) fn step(&mut self, op: &HubOp, stage: &mut Stage) {
        if !matches!(
            op,
            HubOp::Event(_) | HubOp::Commit { .. } | HubOp::Position(_)
        ) {
            self.settle(stage);
        }
        match op {
            HubOp::Event(event) => {
                self.expect_epoch(event.cursor.epoch, stage);
                self.tell_epoch(stage);
                self.event(event, stage);
                if !self.open.blind.is_empty() {
                    let blind = std::mem::take(&mut self.open.blind);
                    self.settle(stage);
                    self.end_subs(blind, stage);
                }
                self.advance(event.cursor);
            }
            HubOp::Commit {
                cursor,
                commit_time,
            } => {
                self.doors.revocations.reaches_back(seconds(*commit_time));
                self.commit(cursor, stage);
                self.expect_epoch(cursor.epoch, stage);
                self.tell_epoch(stage);
                self.advance(*cursor);
            }
            HubOp::Position(cursor) => {
                self.expect_epoch(cursor.epoch, stage);
                self.tell_epoch(stage);
                self.advance(*cursor);
            }
            HubOp::Membership(change) => self.change_membership(change, stage),
            HubOp::MembershipsCleared => self.clear_memberships(stage),
            HubOp::ApiKey(change) => self.change_key(change, stage),
            HubOp::ApiKeysCleared => self.clear_keys(stage),
            HubOp::PlansChanged => self.plans_version += 1,
            HubOp::Rule { table, now } => self.change_rule(table, now.clone(), stage),
            HubOp::RulesCleared => self.clear_rules(),
            HubOp::LogBegins { floor, target } => {
                self.expect_epoch(floor.epoch, stage);
                // What stands between was never read here: somebody else has, or nobody.
                let behind = |at: Cursor| at.compare(floor) == Some(Ordering::Less);
                let gap = self.position.is_none_or(behind);
                if gap && self.position.is_some() {
                    self.history.begin(*floor);
                }
                if gap {
                    self.doors.revocations.begin(seconds(crate::hub::now()));
                }
                self.advance(*floor);
                self.target = Some(*target);
                self.tell_epoch(stage);
            }
            HubOp::Channel(change) => self.change_channel(change, stage),
            HubOp::ChannelsCleared => self.replace_channels(&[], stage),
            HubOp::Namespace(change) => self.channels.declare(change),
            HubOp::NamespacesCleared => self.channels.clear_namespaces(),
            HubOp::ClientEvent(change) => {
                self.client_events.set(change);
                self.rooms.handled = self.client_events.handles_presence();
            }
            HubOp::ClientEventsCleared => {
                self.client_events.clear();
                self.rooms.handled = false;
            }
            HubOp::Revoke(revocation) => self.revoke(revocation, stage),
            // Why is for people, in the log of the service; clients get one word they know.
            HubOp::NewEpoch { epoch, .. } => self.new_epoch(*epoch, stage),
        }
    }

    /// Positions of another epoch without news of it mean the same as the news.
    fn expect_epoch(&mut self, epoch: Epoch, stage: &mut Stage) {
        if self
            .position
            .is_some_and(|position| position.epoch != epoch)
        {
            self.new_epoch(epoch, stage);
        }
    }

    /// Subscribers are told as soon as it is known where the log begins ([`State::tell_epoch`]), so that they
    /// can come back with that.
    fn new_epoch(&mut self, epoch: Epoch, stage: &mut Stage) {
        self.settle(stage);
        let start = Cursor {
            epoch,
            commit_lsn: Lsn::ZERO,
            index: 0,
        };
        self.position = Some(start);
        self.target = None;
        self.history.begin(start);
        self.desk.clear();
        self.doors.revocations.begin(seconds(crate::hub::now()));
        for id in self.open.classes.drain(..) {
            if let Some(class) = self.classes.get(id) {
                class.open = false;
            }
        }
        self.open.subs.clear();
        let replaying = self.subs.iter().filter(|(_, sub)| sub.replay.is_some());
        let replaying: Vec<usize> = replaying.map(|(id, _)| id).collect();
        for id in replaying {
            self.go_live(u32::try_from(id).unwrap_or(u32::MAX), false);
        }
        for (_, sub) in &mut self.subs {
            let before = sub.is_single();
            sub.open = false;
            sub.skip_until = None;
            sub.since = start;
            sub.note_single(before, &mut self.classes);
        }
        self.epoch_untold = !self.subs.is_empty();
    }

    fn tell_epoch(&mut self, stage: &mut Stage) {
        if !std::mem::take(&mut self.epoch_untold) {
            return;
        }
        self.settle(stage);
        self.crash_joins(stage);
        let reason = "epoch_changed";
        let (start, all) = (self.position(), self.conns.len());
        for (_, sub) in &mut self.subs {
            sub.since = start;
            self.metrics.resync(reason);
            if let Some(conn) = self.conns.get_mut(sub.conn as usize) {
                // Everything is read again, so what is held back need not be sent.
                conn.connection.forget_latest(sub.generation);
                let channel = sub.channel.to_string();
                let frame = match read_after(conn.connection.id, all) {
                    0 => server::resync(&channel, reason, &start),
                    after => server::resync_after(&channel, reason, &start, after),
                };
                stage.push_frame(&mut conn.mark, &conn.connection, &frame);
            }
        }
    }

    pub(crate) fn event(&mut self, event: &RoutedEvent, stage: &mut Stage) {
        self.step += 1;
        // What somebody sends by hand need not have all columns of the table.
        if let Body::Change { new, old, .. } = &event.body
            && !event.cursor.is_direct()
            && let Some(row) = new.as_ref().or(old.as_ref())
        {
            self.note_columns(event, row);
        }
        let listeners = match &event.topic {
            TopicOf::AllOrgs | TopicOf::User(_) => None,
            topic => {
                let topic = self.topics.get(topic);
                topic.and_then(|topic| topic.listeners.as_deref())
            }
        };
        let mut cast = Cast {
            subs: &mut self.subs,
            conns: &mut self.conns,
            classes: &mut self.classes,
            open: &mut self.open,
            run: &mut self.run,
            topics: &self.topics,
            aside: self.aside.as_mut(),
            by_user: &self.by_user,
            listeners_version: self.listeners_version,
            stage,
            event,
            step: self.step,
            delivered: false,
            told: Set::default(),
        };
        match (&event.topic, &event.audience.user) {
            (TopicOf::AllOrgs, _) => {
                let topics = self.topics.iter();
                topics
                    .filter(|(topic, _)| matches!(topic, TopicOf::Org(_)))
                    .filter_map(|(_, topic)| topic.listeners.as_deref())
                    .for_each(|listeners| cast.offer_listeners(listeners));
            }
            (TopicOf::Org(_), None) | (TopicOf::Channel(..), _) => {
                if let Some(listeners) = listeners {
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
            (TopicOf::User(user), _) => {
                if self.offer_user_channels(user, event, stage) {
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
    /// of the organization, if it is of one.
    fn offer_user_channels(
        &mut self,
        user: &UserId,
        event: &RoutedEvent,
        stage: &mut Stage,
    ) -> bool {
        let mut delivered = false;
        for slot in self.by_user.get(user).cloned().unwrap_or_default() {
            let Some(conn) = self.conns.get(slot as usize) else {
                continue;
            };
            let own = |id: &SubId| {
                let sub = self.subs.get(*id as usize);
                sub.is_some_and(|sub| {
                    matches!(sub.channel, Channel::User(_)) && sub.replay.is_none()
                })
            };
            let Some(own) = conn.about.subs.iter().copied().find(own) else {
                continue;
            };
            // What he is in the organization of this event.
            let grant = match event.topic.organization() {
                Some(organization) => self.grant(&conn.about.identity, organization),
                None => Some(Grant {
                    user: Some(user.clone()),
                    ..Grant::default()
                }),
            };
            let Some(grant) = grant else {
                continue;
            };
            // Got just now, or to be told when the past is.
            let got = |id: &SubId| {
                let sub = self.subs.get(*id as usize);
                sub.is_some_and(|sub| match &sub.channel {
                    Channel::Org(of) if Some(of) == event.topic.organization() => {
                        sub.seen == self.step
                            || sub.replay.is_some() && sub.class_for(event, &grant).is_some()
                    }
                    _ => false,
                })
            };
            if conn.about.subs.iter().any(got) {
                continue;
            }
            if let Some(sub) = self.subs.get_mut(own as usize) {
                sub.grant = grant;
            }
            let mut cast = Cast {
                subs: &mut self.subs,
                conns: &mut self.conns,
                classes: &mut self.classes,
                open: &mut self.open,
                run: &mut self.run,
                topics: &self.topics,
                aside: self.aside.as_mut(),
                by_user: &self.by_user,
                listeners_version: self.listeners_version,
                stage,
                event,
                step: self.step,
                delivered: false,
                told: Set::default(),
            };
            cast.offer_sub(own);
            delivered |= cast.delivered;
        }
        delivered
    }

    /// Tells those who got a part of the transaction, but not what was marked as its last event.
    pub(crate) fn commit(&mut self, cursor: &Cursor, stage: &mut Stage) {
        self.step += 1;
        if self.open.classes.is_empty() && self.open.subs.is_empty() {
            return;
        }
        self.settle(stage);
        let mut tell = |class: &mut Class, conn: u32, conns: &mut Slab<Conn>| {
            if let Some(conn) = conns.get_mut(conn as usize) {
                let stretch =
                    class.news(self.step, stage, |channel| server::commit(channel, cursor));
                stage.push(&mut conn.mark, &conn.connection, stretch);
            }
        };
        for id in self.open.classes.drain(..) {
            let Some(class) = self.classes.get(id) else {
                continue;
            };
            if !std::mem::take(&mut class.open) {
                continue;
            }
            let topic = class.topic().and_then(|of| self.topics.get(of));
            let listeners = topic.and_then(|topic| topic.listeners.as_deref());
            let members = listeners.and_then(|listeners| listeners.members(id));
            let uniform = class.is_uniform();
            for member in members.unwrap_or_default() {
                // Who skips what was seen before is past this.
                let skips = |sub: &Sub| sub.skip_until.is_some();
                if uniform || !self.subs.get(member.sub as usize).is_some_and(skips) {
                    tell(class, member.conn, &mut self.conns);
                }
            }
        }
        for (id, generation) in self.open.subs.drain(..) {
            let Some(sub) = self.subs.get_mut(id as usize) else {
                continue;
            };
            if sub.generation != generation || !sub.open {
                continue;
            }
            sub.open = false;
            sub.note_single(true, &mut self.classes);
            if let Some(class) = self.classes.get(sub.news_class())
                && (sub.parts.is_some() || !class.told(self.step) || class.topic().is_none())
            {
                tell(class, sub.conn, &mut self.conns);
            }
        }
    }
}
