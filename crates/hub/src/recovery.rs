//! The past before the one in memory, for those who come back from far behind.
//!
//! The hub does not have it and never asks Postgres: it says what is wanted ([`crate::Hub::recovery_wanted`])
//! and is given answers ([`crate::Hub::recover`]). Owns who waits for which answer, and the answers that
//! are kept for a while, in bounded bytes: all who come back to one organization share one. Promises: an
//! answer reaches at least up to where the past in memory begins when it is told, so nothing falls between;
//! what is told goes through the same decision as everything else; whoever cannot be answered is told so.

use std::{cmp::Ordering, collections::VecDeque, sync::Arc, time::Duration};

use rowcast_model::{
    Channel, Cursor, Lsn, OrgId, Recovery, RecoveryWanted, RoutedEvent, Topic, View,
};
use rowcast_wire::server;
use smallvec::SmallVec;
use tokio::sync::Notify;

use crate::{
    Connection, Identity,
    history::Of,
    replay::{Outcome, Rights, Turn, has_it},
    state::{Map, Replay, State, organizations_heard},
    subscribe::{hears_all, past_of},
    topics::SubId,
};

/// Organizations of one question.
const ASKED_AT_ONCE: usize = 1000;
/// Organizations that wait to be asked for; beyond, those who come back are told to read again.
const MOST_WANTED: usize = 20_000;
/// Organizations of one person whose past is looked for.
const MOST_OF_ONE: usize = 16;
/// How long an answer serves others: the rules that it was made by may change.
const FRESH: Duration = Duration::from_secs(30);

/// Who waits for what, and what was answered.
pub(crate) struct Desk {
    /// Bytes of answers that are kept; 0: nothing is asked.
    limit: usize,
    kept: Map<OrgId, (Arc<Recovery>, Duration)>,
    /// The organizations of `kept`, oldest answer first.
    order: VecDeque<(OrgId, Duration)>,
    bytes: usize,
    wanted: Map<OrgId, Waiting>,
    asked: Map<OrgId, Waiting>,
    pub bell: Arc<Notify>,
}

#[derive(Default)]
struct Waiting {
    from: Lsn,
    subs: Vec<(SubId, u64)>,
}

/// A subscription on its way through what changed before the past in memory.
pub(crate) struct Recovering {
    parts: SmallVec<[Part; 1]>,
    part: usize,
    at: usize,
}

/// What one organization adds.
struct Part {
    organization: OrgId,
    /// The answer, and the number from which on it is to be told.
    answer: Option<(Arc<Recovery>, u64)>,
}

impl Recovering {
    /// Whether all answers are there.
    pub(crate) fn is_answered(&self) -> bool {
        self.parts.iter().all(|part| part.answer.is_some())
    }

    /// Organizations whose answer is still to come.
    pub(crate) fn missing(&self) -> impl Iterator<Item = &OrgId> {
        let missing = self.parts.iter().filter(|part| part.answer.is_none());
        missing.map(|part| &part.organization)
    }

    /// How far the answers reach.
    fn reaches(&self, to: &Cursor) -> bool {
        self.parts.iter().all(|part| {
            let answer = part.answer.as_ref();
            answer.is_some_and(|(answer, _)| not_before(&answer.upto, to))
        })
    }
}

/// The organizations among topics whose rows are told.
fn organizations_of(topics: &[Topic]) -> impl Iterator<Item = &OrgId> {
    topics.iter().filter_map(|topic| match topic {
        Topic::Org(organization) => Some(organization),
        Topic::AllOrgs | Topic::Channel(..) | Topic::User(_) => None,
    })
}

fn not_before(a: &Cursor, b: &Cursor) -> bool {
    matches!(a.compare(b), Some(Ordering::Greater | Ordering::Equal))
}

impl Desk {
    pub(crate) fn new(limit: usize) -> Desk {
        Desk {
            limit,
            kept: Map::default(),
            order: VecDeque::new(),
            bytes: 0,
            wanted: Map::default(),
            asked: Map::default(),
            bell: Arc::default(),
        }
    }

    /// Whether the past of so many organizations can be asked for.
    pub(crate) fn takes(&self, organizations: usize) -> bool {
        self.limit > 0
            && organizations <= MOST_OF_ONE
            && self.wanted.len() + organizations <= MOST_WANTED
    }

    /// Positions of before mean nothing any more.
    pub(crate) fn clear(&mut self) {
        *self = Desk {
            bell: self.bell.clone(),
            ..Desk::new(self.limit)
        };
    }

    /// An answer that is known and holds everything from `from` to where the past in memory begins.
    fn known(
        &self,
        of: &OrgId,
        from: &Cursor,
        floor: &Cursor,
        now: Duration,
    ) -> Option<Arc<Recovery>> {
        let (answer, at) = self.kept.get(of)?;
        let fresh = at.saturating_add(FRESH) > now;
        (fresh && answer.from <= from.commit_lsn && not_before(&answer.upto, floor))
            .then(|| answer.clone())
    }

    fn want(&mut self, organization: &OrgId, from: Lsn, who: (SubId, u64)) {
        if let Some(asked) = self.asked.get_mut(organization)
            && asked.from <= from
        {
            asked.subs.push(who);
            return;
        }
        let first = || Waiting {
            from,
            subs: Vec::new(),
        };
        let waiting = self
            .wanted
            .entry(organization.clone())
            .or_insert_with(first);
        waiting.from = waiting.from.min(from);
        waiting.subs.push(who);
        self.bell.notify_one();
    }

    fn keep(&mut self, answer: &Arc<Recovery>, now: Duration) {
        let organization = &answer.organization;
        if let Some((before, _)) = self
            .kept
            .insert(organization.clone(), (answer.clone(), now))
        {
            self.bytes -= before.bytes;
        }
        self.bytes += answer.bytes;
        self.order.push_back((organization.clone(), now));
        self.expire(now);
    }

    /// Forgets answers that are stale or too many.
    pub(crate) fn expire(&mut self, now: Duration) {
        while let Some((organization, at)) = self.order.front() {
            if self.bytes <= self.limit && at.saturating_add(FRESH) > now {
                break;
            }
            // A later answer has an entry of its own.
            if self.kept.get(organization).is_some_and(|(_, of)| of == at)
                && let Some((answer, _)) = self.kept.remove(organization)
            {
                self.bytes -= answer.bytes;
            }
            self.order.pop_front();
        }
    }
}

impl State {
    /// What has to be asked for, if anything. Whoever waits for an earlier question waits in vain.
    pub(crate) fn recovery_wanted(&mut self) -> Option<RecoveryWanted> {
        let some: Vec<OrgId> = self
            .desk
            .wanted
            .keys()
            .take(ASKED_AT_ONCE)
            .cloned()
            .collect();
        let upto = self.position.filter(|_| !some.is_empty())?;
        let organizations = some.into_iter().filter_map(|organization| {
            let waiting = self.desk.wanted.remove(&organization)?;
            let from = waiting.from;
            let asked = self.desk.asked.entry(organization.clone()).or_default();
            asked.from = from;
            asked.subs.extend(waiting.subs);
            Some((organization, from))
        });
        Some(RecoveryWanted {
            upto,
            organizations: organizations.collect(),
        })
    }

    /// Whether what a channel had before the past in memory can be asked for. Tables tell of rows alone: what was
    /// said on a channel of the application is nowhere.
    pub(crate) fn recovers(&self, channel: &Channel, topics: &[Topic]) -> bool {
        !matches!(channel, Channel::Named(_)) && self.desk.takes(organizations_of(topics).count())
    }

    /// What a subscription that comes back needs; answers that are known are there already.
    pub(crate) fn recovering(
        &self,
        identity: &Identity,
        channel: &Channel,
        topic: Option<&Topic>,
        from: &Cursor,
    ) -> Recovering {
        let topics = past_of(&self.directory, identity, channel, topic);
        let floor = self.history.floor(Of {
            topics: &topics,
            all: hears_all(channel),
        });
        let organizations = organizations_of(&topics).cloned();
        let parts = organizations.map(|organization| {
            let known = self.desk.known(&organization, from, &floor, self.now);
            let answer = known.and_then(|answer| {
                let horizon = answer.samples.horizon(from.commit_lsn)?;
                Some((answer, horizon))
            });
            Part {
                organization,
                answer,
            }
        });
        Recovering {
            parts: parts.collect(),
            part: 0,
            at: 0,
        }
    }

    /// Has the answers asked for that a subscription still needs.
    pub(crate) fn want_recovery(&mut self, id: SubId) {
        let Some(sub) = self.subs.get(id as usize) else {
            return;
        };
        let replay = sub.replay.as_ref();
        let Some((recovering, from)) =
            replay.and_then(|replay| Some((replay.recovering.as_ref()?, replay.from.commit_lsn)))
        else {
            return;
        };
        for organization in recovering.missing() {
            self.desk.want(organization, from, (id, sub.generation));
        }
    }

    /// Takes the answers to the last question; whoever asked and has none is told that he comes too late.
    /// Connections that have something to do.
    pub(crate) fn recover(&mut self, answers: Vec<Recovery>) -> Vec<Arc<Connection>> {
        let mut asked = std::mem::take(&mut self.desk.asked);
        let mut woken = Vec::new();
        for answer in answers {
            let Some(waiting) = asked.remove(&answer.organization) else {
                continue;
            };
            let answer = Arc::new(answer);
            self.desk.keep(&answer, self.now);
            for who in waiting.subs {
                woken.extend(self.answer(who, &answer.organization, Some(&answer)));
            }
        }
        for (organization, waiting) in asked {
            for who in waiting.subs {
                woken.extend(self.answer(who, &organization, None));
            }
        }
        woken
    }

    fn answer(
        &mut self,
        (id, generation): (SubId, u64),
        organization: &OrgId,
        answer: Option<&Arc<Recovery>>,
    ) -> Option<Arc<Connection>> {
        let sub = self.subs.get_mut(id as usize)?;
        if sub.generation != generation {
            return None;
        }
        let replay = sub.replay.as_mut()?;
        let from = replay.from.commit_lsn;
        let recovering = replay.recovering.as_mut()?;
        let horizon = answer
            .filter(|answer| answer.from <= from)
            .and_then(|answer| answer.samples.horizon(from));
        let connection = self.conns.get(sub.conn as usize)?.connection.clone();
        let (Some(answer), Some(horizon)) = (answer, horizon) else {
            let mut out = Vec::new();
            self.give_up(&connection, id, "too_old", &mut out);
            connection.queue(out.into());
            return Some(connection);
        };
        let parts = recovering.parts.iter_mut();
        for part in parts.filter(|part| part.organization == *organization) {
            part.answer = Some((answer.clone(), horizon));
        }
        if !recovering.is_answered() {
            return None;
        }
        connection.note_replay(true);
        Some(connection)
    }

    /// Tells what changed before the past in memory. `None`: all was told, and the past goes on from
    /// where it begins.
    pub(crate) fn tell_recovery(
        &mut self,
        connection: &Connection,
        identity: &Identity,
        id: SubId,
        replay: &mut Replay,
        turn: &mut Turn,
    ) -> Option<Outcome> {
        let Replay {
            from, recovering, ..
        } = replay;
        let told = recovering.as_mut()?;
        if !told.is_answered() {
            return Some(Outcome::Waiting);
        }
        let (Some(conn), Some(sub)) = (
            self.conns.get(connection.slot as usize),
            self.subs.get(id as usize),
        ) else {
            return Some(Outcome::More);
        };
        let topics = past_of(&self.directory, identity, &sub.channel, sub.topic.as_ref());
        let floor = self.history.floor(Of {
            topics: &topics,
            all: hears_all(&sub.channel),
        });
        // Of an organization that he joined meanwhile nothing was asked.
        let asked = |of: &OrgId| told.parts.iter().any(|part| part.organization == *of);
        if !told.reaches(&floor) || !organizations_of(&topics).all(asked) {
            return Some(Outcome::Overtaken);
        }
        let others = organizations_heard(&self.subs, conn);
        let personal = matches!(sub.channel, Channel::User(_));
        let mut rights = Rights::new(&sub.channel, &sub.grant, identity);
        while let Some(part) = told.parts.get(told.part) {
            let answer = part.answer.as_ref();
            let Some((changed, horizon)) =
                answer.and_then(|(answer, horizon)| Some((answer.changed.get(told.at)?, *horizon)))
            else {
                told.part += 1;
                told.at = 0;
                continue;
            };
            if turn.is_over() {
                return Some(Outcome::More);
            }
            told.at += 1;
            turn.looks = turn.looks.saturating_sub(1);
            if changed.newest < horizon {
                continue;
            }
            // Whoever keeps the cursor of any of these is told all of them again.
            let mut event = RoutedEvent {
                cursor: *from,
                ..changed.event.clone()
            };
            if personal && changed.personal {
                event.audience.user = Some(identity.user.clone());
            }
            let look_up = |topic: &Topic| {
                let organization = topic.organization()?;
                self.directory.grant(identity, organization)
            };
            let class = rights.grant(&event, look_up).and_then(|grant| {
                let class = sub.class_for(&event, grant)?;
                let elsewhere = personal && has_it(&others, &event, grant);
                (!elsewhere).then_some(class)
            });
            if let Some(class) = class.and_then(|class| self.classes.get(class)) {
                turn.told += 1;
                // It says nothing of a row that could be masked.
                class.past_event(&event, View::PLAIN, &mut turn.out);
            }
        }
        let frame = server::recovered(&sub.channel.to_string(), &floor);
        turn.out.extend_from_slice(&frame);
        self.metrics.recoveries.inc();
        *from = floor;
        *recovering = None;
        None
    }
}
