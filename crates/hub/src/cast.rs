//! One event on its way to subscriptions: who of a class or an index gets it, and in which form.

use std::cmp::Ordering;

use rowcast_model::{RoutedEvent, Topic as TopicOf, UserId, View};
use rowcast_wire::Mode;
use slab::Slab;
use smallvec::SmallVec;

use crate::{
    Grant,
    classes::{ClassId, Classes},
    direct::Aside,
    latest::{self, RecordKey},
    may_see,
    run::Run,
    stage::Stage,
    state::{Conn, Map, Open, Set, Sub},
    topics::{Listeners, Member, SubId, Topic},
    view,
};

/// One event on its way to subscriptions.
pub(crate) struct Cast<'a> {
    pub subs: &'a mut Slab<Sub>,
    pub conns: &'a mut Slab<Conn>,
    pub classes: &'a mut Classes,
    pub open: &'a mut Open,
    pub run: &'a mut Run,
    pub topics: &'a Map<TopicOf, Topic>,
    pub by_user: &'a Map<UserId, SmallVec<[u32; 2]>>,
    pub listeners_version: u64,
    pub aside: Option<&'a mut Aside>,
    pub stage: &'a mut Stage,
    pub event: &'a RoutedEvent,
    pub step: u64,
    pub delivered: bool,
    /// Bindings that were told what is for all organizations: one of a user's organizations is enough.
    pub told: Set<(u64, u32)>,
}

impl Cast<'_> {
    pub(crate) fn offer_listeners(&mut self, listeners: &Listeners) {
        for (class, members) in &listeners.everything {
            self.offer_class(*class, members);
        }
        let event = self.event;
        listeners.candidates(event, &mut |who| self.offer(who.sub, Some(who.part)));
    }

    /// Offers the event to subscriptions of everything that are of one class. An event that everybody
    /// in the organization may see goes to all of them alike, without a look at each: this is where the
    /// many are served, and memory not touched is time won.
    fn offer_class(&mut self, id: ClassId, members: &[Member]) {
        let event = self.event;
        let Some(class) = self.classes.get(id) else {
            return;
        };
        if !class.wants(event) {
            return;
        }
        // With masks, and asked who gets it, each is looked at.
        let each = self.aside.is_some() && event.audience.masked.is_some();
        let each = each || event.topic == TopicOf::AllOrgs && class.binding().is_some();
        let uniform = !each && class.is_uniform() && may_see(&event.audience, &Grant::default());
        if !uniform {
            for member in members {
                self.offer(member.sub, None);
            }
            return;
        }
        if class.completes(event) {
            class.open = false;
        } else if !class.open {
            class.open = true;
            self.open.classes.push(id);
        }
        self.delivered |= !members.is_empty();
        if let Some(masked) = &event.audience.masked {
            return self.offer_masked(id, members, masked);
        }
        let stretch = class.event(self.step, event, View::PLAIN, self.stage);
        if let Some(aside) = &mut self.aside {
            // Who gets it is asked for, and somebody may be left out.
            for member in members.iter().filter(|one| Some(one.conn) != aside.except) {
                if let Some(conn) = self.conns.get_mut(member.conn as usize) {
                    self.stage.push(&mut conn.mark, &conn.connection, stretch);
                    aside.reached.push(member.conn);
                }
            }
        } else if !self.run.extend(id, None, std::slice::from_ref(stretch)) {
            let stretch = stretch.clone();
            self.settle();
            self.run.begin(id, None, [stretch].into());
        }
    }

    pub(crate) fn settle(&mut self) {
        self.run
            .settle(self.classes, self.topics, self.conns, self.stage);
    }

    /// Offers the event to all subscriptions of one user to what it is about; a channel of the application that is
    /// of the same organization is something else.
    pub(crate) fn offer_user(&mut self, slots: &[u32]) {
        for slot in slots {
            let Some(conn) = self.conns.get(*slot as usize) else {
                continue;
            };
            for id in conn.about.subs.clone() {
                let of = self
                    .subs
                    .get(id as usize)
                    .and_then(|sub| sub.topic.as_ref());
                if of == Some(&self.event.topic) {
                    self.offer_sub(id);
                }
            }
        }
    }

    /// Offers the event to one subscription, whatever its table list.
    pub(crate) fn offer_sub(&mut self, id: SubId) {
        let Some(sub) = self.subs.get(id as usize) else {
            return;
        };
        let table = &self.event.table.name;
        match &sub.parts {
            // It is told when its past is.
            _ if sub.replay.is_some() => {}
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
        if sub.seen == self.step || !may_see(&event.audience, &sub.grant) || !sub.hears(event) {
            return;
        }
        let single = sub.is_single();
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
                if part.is_blind(event, &sub.grant.roles) {
                    self.open.blind.push((id, sub.generation));
                    return;
                }
                if !part.fits(event) {
                    return;
                }
                part.class
            }
            (Some(_), None) => return,
        };
        let wanted = self.classes.get(class);
        let Some(wanted) = wanted.filter(|class| class.wants(event)) else {
            return;
        };
        if event.topic == TopicOf::AllOrgs
            && let (Some(binding), Some(joined)) = (wanted.binding(), &sub.join)
            && !self.told.insert((joined.number(), binding))
        {
            return;
        }
        self.run
            .settle(self.classes, self.topics, self.conns, self.stage);
        let Some(conn) = self.conns.get_mut(sub.conn as usize) else {
            return;
        };
        if let Some(aside) = &mut self.aside {
            if aside.except == Some(sub.conn) {
                return;
            }
            aside.reached.push(sub.conn);
        }
        let view = view(&event.audience, &sub.grant);
        sub.seen = self.step;
        self.delivered = true;
        if sub.mode == Mode::All {
            let completes = self
                .classes
                .get(class)
                .is_some_and(|class| class.completes(event));
            if !completes && !sub.open {
                self.open.subs.push((id, sub.generation));
            }
            sub.open = !completes;
        }
        sub.note_single(single, self.classes);
        let Some(class) = self.classes.get(class) else {
            return;
        };
        if sub.mode == Mode::All {
            let stretch = class.event(self.step, event, view, self.stage);
            self.stage.push(&mut conn.mark, &conn.connection, stretch);
            return;
        }
        let key = event.record_id.as_ref().map(|record_id| RecordKey {
            generation: sub.generation,
            table: event.table.clone(),
            record_id: record_id.clone(),
        });
        let frame = class.event_alone(self.step, event, view);
        conn.connection
            .hold(key, sub.generation, latest::effect(event), frame);
    }
}
