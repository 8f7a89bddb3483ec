//! A revocation at its place in the log: whom it ends, whom it pauses until the application has said whether he may
//! stay, and what is remembered of it for grants that clients bring.

use std::cmp::Ordering;

use rowcast_model::{Channel, Revocation, Timestamp, Topic, Who};

use crate::{
    pass::{REVOKED, Then},
    stage::Stage,
    state::{Replay, State, Sub},
    topics::SubId,
};

impl State {
    /// A revocation, at its place in the log: ends what it ends, pauses what the application is asked about, and has
    /// those asked about again who wait to come in.
    pub(crate) fn revoke(&mut self, revocation: &Revocation, stage: &mut Stage) {
        let topic = Topic::Channel(revocation.organization.clone(), revocation.channel.clone());
        self.remember(&topic, revocation.epoch);
        self.doors.ask_again(&topic);
        let on_it = |sub: &Sub| {
            matches!(sub.channel, Channel::Named(_)) && sub.topic.as_ref() == Some(&topic)
        };
        let there = self.subs.iter().filter(|(_, sub)| on_it(sub));
        let there: Vec<SubId> = there
            .filter_map(|(id, _)| SubId::try_from(id).ok())
            .collect();
        let (now, reason) = (self.now, revocation.reason.as_ref());
        for id in there {
            let then = self.with_pass(id, |pass| pass.revoked(now, revocation.epoch, reason));
            match then {
                // A rule lets him in, and he may come again.
                None => self.end_sub(
                    id,
                    revocation.epoch,
                    reason.map_or(REVOKED, |reason| reason),
                    stage,
                ),
                Some(Then::Ends(ending)) => {
                    self.metrics.authorized("revoked");
                    self.end_sub(id, ending.epoch, &ending.reason, stage);
                }
                Some(Then::Pauses) => {
                    self.metrics.authorized("paused");
                    self.pause(id);
                }
                Some(Then::Stays | Then::Resumes) => {}
            }
        }
        self.revoke_lost(&topic);
    }

    /// Notes a revocation for grants that clients bring.
    fn remember(&mut self, topic: &Topic, epoch: Option<i64>) {
        let Topic::Channel(_, name) = topic else {
            return;
        };
        let rule = self.channels.find(name);
        let grants = rule.is_some_and(|rule| matches!(&rule.who, Who::Authorized(by) if by.grants));
        if grants {
            let keep = self.limits.history_retention;
            // Later than the commit by what the log lags: whoever was given a grant meanwhile gets another.
            let at = seconds(crate::hub::now());
            let most = self.limits.revocations;
            self.doors.revocations.note(topic, epoch, at, most, keep);
        }
    }

    /// Nothing more is delivered from here on; what comes is told from the history, if it may be.
    fn pause(&mut self, id: SubId) {
        self.rest_seat(id);
        let position = self.position();
        let Some(sub) = self.subs.get(id as usize) else {
            return;
        };
        if sub.replay.is_some() {
            return; // In no index already; it is told no more of the past.
        }
        let of_class =
            sub.skip_until.is_none() && self.classes.get(sub.class).is_some_and(|class| class.open);
        let open = (sub.open || of_class).then_some(position.commit_lsn);
        let ahead = sub
            .skip_until
            .filter(|until| until.compare(&position) == Some(Ordering::Greater));
        self.delist(id);
        if let Some(sub) = self.subs.get_mut(id as usize) {
            sub.open = false;
            sub.skip_until = None;
            sub.replay = Some(Box::new(Replay {
                from: ahead.unwrap_or(position),
                open,
                recovering: None,
            }));
        }
    }
}

/// Whole seconds since 1970, as grants count.
pub(crate) fn seconds(at: Timestamp) -> u64 {
    u64::try_from(at.0 / 1_000_000).unwrap_or(0)
}
