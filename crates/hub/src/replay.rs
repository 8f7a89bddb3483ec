//! Telling the past to those who come back, a bounded part at a time.
//!
//! A subscription that comes back with a cursor is in no index until it has caught up: what happens
//! meanwhile goes into the history and is told from there, so that a socket that is slow costs nothing but
//! its place. The step from the past to what comes is taken under the lock of the state: no gap, no
//! event twice. The past is told by the rights of now, and by the same decision as everything else.

use std::{cmp::Ordering, sync::Arc};

use rowcast_model::{Channel, Cursor, RoutedEvent, Topic, UserId};
use rowcast_wire::{Mode, server};

use crate::{
    Connection, Grant, Identity,
    history::Of,
    latest::{self, RecordKey},
    outbox::Budget,
    rules::RULE_CHANGED,
    state::{Replay, State, Sub, organizations_heard},
    subscribe::{hears_all, past_of},
    topics::SubId,
    view,
};

/// Past events that are looked at before others get their turn, whether they are told or not.
const LOOKS: usize = 4096;
/// What is read at a time when much waits for sockets already.
const LITTLE: usize = 4096;

/// What may still be done in this turn.
pub(crate) struct Turn {
    bytes: usize,
    pub looks: usize,
    pub out: Vec<u8>,
    pub told: u64,
}

impl Turn {
    pub(crate) fn is_over(&self) -> bool {
        self.looks == 0 || self.out.len() >= self.bytes
    }
}

/// How telling the past of one subscription went on.
pub(crate) enum Outcome {
    /// There is more.
    More,
    /// What comes next was asked for.
    Waiting,
    /// All was told; the transaction that it ended with goes on, and a part of it was told.
    Done { open: bool },
    /// Something was forgotten before it was told.
    Overtaken,
    /// Something happened under a rule that hid what the filter asks for.
    Blind,
}

impl State {
    /// Queues the next part of the past for a connection; the caller writes.
    pub(crate) fn replay(&mut self, connection: &Arc<Connection>, budget: &Budget) {
        let Some(conn) = self.conn(connection) else {
            return;
        };
        let (identity, subs) = (conn.about.identity.clone(), conn.about.subs.clone());
        let mut turn = Turn {
            bytes: self.room(budget),
            looks: LOOKS,
            out: Vec::new(),
            told: 0,
        };
        let mut replayed = false;
        let mut more = false;
        for id in subs {
            let Some(sub) = self.subs.get_mut(id as usize) else {
                continue;
            };
            // Until the application has said yes, nothing is told.
            if sub.is_paused() {
                continue;
            }
            let Some(mut replay) = sub.replay.take() else {
                continue;
            };
            replayed = true;
            if turn.is_over() {
                sub.replay = Some(replay);
                more = true;
                break;
            }
            let outcome = self.tell_past(connection, &identity, id, &mut replay, &mut turn);
            // Until it is listed, it is one that is told the past.
            if let Some(sub) = self.subs.get_mut(id as usize) {
                sub.replay = Some(replay);
            }
            match outcome {
                Outcome::Waiting => {}
                Outcome::More => {
                    more = true;
                    break;
                }
                Outcome::Done { open } => self.go_live(id, open),
                Outcome::Overtaken => self.give_up(connection, id, "slow", &mut turn.out),
                Outcome::Blind => self.give_up(connection, id, RULE_CHANGED, &mut turn.out),
            }
        }
        self.metrics.replayed.inc_by(turn.told);
        self.metrics.deliveries.inc_by(turn.told);
        if !turn.out.is_empty() {
            // What waits is counted by its length, so it has no room to spare.
            if turn.out.capacity() - turn.out.len() > turn.out.len() / 4 {
                turn.out.shrink_to_fit();
            }
            connection.queue(turn.out.into());
        }
        if !more {
            connection.note_replay(false);
            if replayed {
                self.tell_position(connection);
            }
        }
    }

    /// How much may be queued at a time: less when much waits for others, and always less than what closes a
    /// socket as slow.
    fn room(&self, budget: &Budget) -> usize {
        let limits = &self.limits;
        let crowded = budget.is_half_used();
        let bytes = if crowded { LITTLE } else { usize::MAX };
        bytes
            .min(limits.replay_bytes)
            .min(limits.outbox_bytes / 2)
            .max(1)
    }

    fn tell_past(
        &mut self,
        connection: &Arc<Connection>,
        identity: &Identity,
        id: SubId,
        replay: &mut Replay,
        turn: &mut Turn,
    ) -> Outcome {
        if let Some(outcome) = self.tell_recovery(connection, identity, id, replay, turn) {
            return outcome;
        }
        let Some(conn) = self.conns.get(connection.slot as usize) else {
            return Outcome::More;
        };
        let Some(sub) = self.subs.get(id as usize) else {
            return Outcome::More;
        };
        let topics = past_of(&self.directory, identity, &sub.channel, sub.topic.as_ref());
        let of = Of {
            topics: &topics,
            all: hears_all(&sub.channel),
        };
        let reaches = self.history.floor(of).compare(&replay.from);
        if !matches!(reaches, Some(Ordering::Less | Ordering::Equal)) {
            return Outcome::Overtaken;
        }
        let others = organizations_heard(&self.subs, conn);
        let mut rights = Rights::new(&sub.channel, &sub.grant, identity);
        let personal = rights.user.is_some();
        for event in self.history.after(of, replay.from) {
            let event = &event;
            // Events of two organizations may share a position, and are not parted.
            if turn.is_over() && event.cursor != replay.from {
                return Outcome::More;
            }
            turn.looks = turn.looks.saturating_sub(1);
            if let Some(lsn) = replay.open
                && lsn != event.cursor.commit_lsn
            {
                replay.open = None;
                let end = Cursor::after_commit(replay.from.epoch, lsn);
                if let Some(class) = self.classes.get(sub.news_class()) {
                    let frame = server::commit(class.channel(), &end);
                    turn.out.extend_from_slice(&frame);
                }
            }
            replay.from = event.cursor;
            let grant = rights.grant(event, |topic| self.directory.grant_for(identity, topic));
            if grant.is_some_and(|grant| sub.is_blind(event, &grant.roles)) {
                return Outcome::Blind;
            }
            let told = grant.and_then(|grant| {
                let class = sub.class_for(event, grant)?;
                let elsewhere = personal && has_it(&others, event, grant);
                (!elsewhere).then_some((class, view(&event.audience, grant)))
            });
            let Some((class, view)) = told else {
                continue;
            };
            let Some(class) = self.classes.get(class) else {
                continue;
            };
            turn.told += 1;
            match sub.mode {
                Mode::All => {
                    let completes = class.completes(event);
                    replay.open = (!completes).then_some(event.cursor.commit_lsn);
                    class.past_event(event, view, &mut turn.out);
                }
                Mode::Latest => {
                    let key = event.record_id.as_ref().map(|record_id| RecordKey {
                        generation: sub.generation,
                        table: event.table.clone(),
                        record_id: record_id.clone(),
                    });
                    let mut frame = Vec::new();
                    class.past_event(event, view, &mut frame);
                    turn.bytes = turn.bytes.saturating_sub(frame.len());
                    connection.hold(key, sub.generation, latest::effect(event), frame.into());
                }
            }
        }
        let Some(lsn) = replay.open.take() else {
            return Outcome::Done { open: false };
        };
        let position = self.position();
        let end = Cursor::after_commit(position.epoch, lsn);
        if position.compare(&end) == Some(Ordering::Less) {
            return Outcome::Done { open: true };
        }
        if let Some(class) = self.classes.get(sub.news_class()) {
            let frame = server::commit(class.channel(), &end);
            turn.out.extend_from_slice(&frame);
        }
        Outcome::Done { open: false }
    }

    /// A subscription knows the past, and gets what comes from here on; one that is paused, when it may.
    pub(crate) fn go_live(&mut self, id: SubId, open: bool) {
        let position = self.position();
        let Some(sub) = self.subs.get_mut(id as usize) else {
            return;
        };
        if sub.is_paused() {
            sub.replay = Some(Box::new(Replay {
                from: position,
                open: None,
                recovering: None,
            }));
            return;
        }
        sub.replay = None;
        sub.open = open;
        if open {
            self.open.subs.push((id, sub.generation));
        }
        self.list(id);
    }

    /// The past cannot be told: it was forgotten faster than it could be, or is not known.
    pub(crate) fn give_up(
        &mut self,
        connection: &Connection,
        id: SubId,
        reason: &str,
        out: &mut Vec<u8>,
    ) {
        let position = self.position();
        let joined = self.subs.get(id as usize).and_then(|sub| sub.join.clone());
        if let Some(joined) = joined {
            // The client joins again by itself.
            out.extend_from_slice(&self.crash_join(connection, &joined));
            self.metrics.resync(reason);
            return;
        }
        let Some(sub) = self.subs.get_mut(id as usize) else {
            return;
        };
        sub.since = position;
        connection.forget_latest(sub.generation);
        let frame = server::resync(&sub.channel.to_string(), reason, &position);
        out.extend_from_slice(&frame);
        self.metrics.resync(reason);
        self.go_live(id, false);
    }

    /// Queues how far a connection is: everything up to there was sent on all its channels. Nothing is said
    /// while that would not be true, or while a channel is further already.
    pub(crate) fn tell_position(&mut self, connection: &Arc<Connection>) {
        let Some(position) = self.position.filter(|_| !self.epoch_untold) else {
            return;
        };
        let Some(conn) = self.conns.get(connection.slot as usize) else {
            return;
        };
        // Supabase's protocol knows no positions.
        if conn.connection.id != connection.id || conn.about.joins.is_some() {
            return;
        }
        let subs = conn.about.subs.iter();
        let mut subs = subs.filter_map(|id| self.subs.get(*id as usize));
        let not_there = |sub: &Sub| {
            let ahead = |until: &Cursor| until.compare(&position) == Some(Ordering::Greater);
            sub.replay.is_some() || sub.skip_until.as_ref().is_some_and(ahead)
        };
        if subs.any(not_there) {
            return;
        }
        connection.queue_latest();
        connection.queue(server::position(&position));
    }
}

/// What a subscriber may see of the past, by organization.
pub(crate) struct Rights<'a> {
    of_sub: &'a Grant,
    /// Whose channel it is, if it is one person's: his rights are those in the organization of each event.
    user: Option<UserId>,
    last: Option<(Topic, Option<Grant>)>,
}

impl<'a> Rights<'a> {
    /// Of somebody on a channel, with what he is there.
    pub(crate) fn new(channel: &Channel, grant: &'a Grant, identity: &Identity) -> Rights<'a> {
        let personal = matches!(channel, Channel::User(_));
        Rights {
            of_sub: grant,
            user: personal.then(|| identity.user.clone()),
            last: None,
        }
    }

    /// The rights that count for an event; `None` when it is not for this channel at all.
    pub(crate) fn grant(
        &mut self,
        event: &RoutedEvent,
        look_up: impl FnOnce(&Topic) -> Option<Grant>,
    ) -> Option<&Grant> {
        let Some(user) = &self.user else {
            return Some(self.of_sub);
        };
        let for_him = match &event.topic {
            Topic::Org(_) => event.audience.user.as_ref() == Some(user),
            Topic::User(whom) => whom == user,
            Topic::AllOrgs | Topic::Channel(..) => false,
        };
        if !for_him {
            return None;
        }
        if !matches!(&self.last, Some((of, _)) if *of == event.topic) {
            self.last = Some((event.topic.clone(), look_up(&event.topic)));
        }
        self.last.as_ref().and_then(|(_, grant)| grant.as_ref())
    }
}

/// Whether an event for one user has come, or will come, on the channel of its organization.
pub(crate) fn has_it(others: &[&Sub], event: &RoutedEvent, grant: &Grant) -> bool {
    let Topic::Org(organization) = &event.topic else {
        return false;
    };
    others.iter().any(|other| {
        let there = other.since.compare(&event.cursor);
        other.organization() == Some(organization)
            && there == Some(Ordering::Less)
            && other.class_for(event, grant).is_some()
    })
}
