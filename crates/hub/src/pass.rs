//! How long somebody may be on a channel of which the application says who may, as a value. Time comes in.
//!
//! A pass holds until a moment; before that the application is asked again, so that there is no gap. A revocation
//! that it does not outlast pauses it: nothing more is delivered, and the application is asked at once; a yes goes
//! on from there, everything else ends. Promises: whoever listens has a pass that has not ended, and no answer to a
//! question from before a revocation counts after it.

use std::{sync::Arc, time::Duration};

use rowcast_model::Authorizer;

/// A paused pass that nobody can be asked about ends after this.
const PAUSED_MOST: Duration = Duration::from_secs(10);
/// The first pause after a question without an answer, and the longest.
const RETRY: Duration = Duration::from_millis(250);
const RETRY_MOST: Duration = Duration::from_secs(10);
/// Why a pass ends that nobody renewed.
pub(crate) const EXPIRED: &str = "authorization_expired";
/// Why a pass ends when the application gave no reason.
pub(crate) const REVOKED: &str = "revoked";

/// A yes: how long it holds, and the number of the access list that it was given by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Yes {
    pub ttl: Duration,
    pub epoch: Option<i64>,
}

/// What the application says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Yes(Yes),
    /// No, with its code.
    No(Arc<str>),
    /// It could not be asked.
    Unknown,
}

/// Why a pass is over, for the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ending {
    pub reason: Arc<str>,
    pub epoch: Option<i64>,
}

/// What is to be done now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    Nothing,
    /// Ask the application; the pass waits for the answer to this question and no other.
    Ask,
    End(Ending),
}

/// What a revocation or an answer does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// All is as it was.
    Stays,
    /// Nothing more is delivered.
    Pauses,
    /// It goes on where it was paused.
    Resumes,
    /// It is over.
    Ends(Ending),
}

/// The state.
#[derive(Clone, Debug)]
pub(crate) struct Pass {
    /// By whom it was given.
    pub by: Arc<Authorizer>,
    epoch: Option<i64>,
    until: Duration,
    /// When to ask; `None`: a question is under way, or there is nobody to ask.
    ask_at: Option<Duration>,
    /// The number of the question under way; others do not count.
    asked: Option<u64>,
    failures: u32,
    paused: Option<Paused>,
}

#[derive(Clone, Debug)]
struct Paused {
    ending: Ending,
    until: Duration,
}

impl Pass {
    /// A pass that begins now; `spread` (0 to 1) keeps those who came together from being asked about together.
    pub fn new(by: Arc<Authorizer>, yes: Yes, now: Duration, spread: f64) -> Pass {
        let mut pass = Pass {
            by,
            epoch: None,
            until: now,
            ask_at: None,
            asked: None,
            failures: 0,
            paused: None,
        };
        pass.extend(yes, now, spread);
        pass
    }

    fn extend(&mut self, yes: Yes, now: Duration, spread: f64) {
        self.until = now.saturating_add(yes.ttl);
        self.epoch = yes.epoch;
        self.failures = 0;
        let part = 0.5 + spread.clamp(0.0, 1.0) / 4.0;
        let asks = self.by.handler.is_some();
        self.ask_at = asks.then(|| now.saturating_add(yes.ttl.mul_f64(part)));
    }

    /// Whether nothing is delivered at the moment.
    pub fn is_paused(&self) -> bool {
        self.paused.is_some()
    }

    /// When to look at it again.
    pub fn next(&self) -> Duration {
        let end = self
            .paused
            .as_ref()
            .map_or(self.until, |paused| paused.until);
        self.ask_at.map_or(end, |at| at.min(end))
    }

    /// What is due now. A question that is due has this number.
    pub fn due(&mut self, now: Duration, question: u64) -> Due {
        let (end, ending) = match &self.paused {
            Some(paused) => (paused.until, Some(&paused.ending)),
            None => (self.until, None),
        };
        if end <= now {
            return Due::End(ending.cloned().unwrap_or_else(|| Ending {
                reason: EXPIRED.into(),
                epoch: None,
            }));
        }
        match self.ask_at {
            Some(at) if at <= now => {
                self.ask_at = None;
                self.asked = Some(question);
                Due::Ask
            }
            _ => Due::Nothing,
        }
    }

    /// Access was revoked for all whose pass is of an earlier access list than this; of whatever list, when none is
    /// named.
    pub fn revoked(
        &mut self,
        now: Duration,
        epoch: Option<i64>,
        reason: Option<&Arc<str>>,
    ) -> Then {
        if matches!((self.epoch, epoch), (Some(own), Some(revoked)) if own >= revoked) {
            return Then::Stays;
        }
        let ending = Ending {
            reason: reason.cloned().unwrap_or_else(|| REVOKED.into()),
            epoch,
        };
        if self.by.handler.is_none() {
            return Then::Ends(ending);
        }
        self.ask_now(now);
        match &mut self.paused {
            Some(paused) => {
                let most = paused.ending.epoch.max(epoch);
                paused.ending = Ending {
                    epoch: most,
                    ..ending
                };
                Then::Stays
            }
            None => {
                let until = now.saturating_add(PAUSED_MOST);
                self.paused = Some(Paused { ending, until });
                Then::Pauses
            }
        }
    }

    /// Asks as soon as possible; what is under way does not count.
    pub fn ask_now(&mut self, now: Duration) {
        if self.by.handler.is_some() {
            self.ask_at = Some(now);
            self.asked = None;
        }
    }

    /// An answer to the question of this number.
    pub fn answered(
        &mut self,
        now: Duration,
        question: u64,
        verdict: Verdict,
        spread: f64,
    ) -> Then {
        if self.asked != Some(question) {
            return Then::Stays;
        }
        self.asked = None;
        // A list that it outlasts a revocation by does not get older.
        let needed = self.paused.as_ref().and_then(|paused| paused.ending.epoch);
        let needed = needed.max(self.epoch);
        match verdict {
            // Whoever was asked does not know of the revocation, or of what was answered before, yet.
            Verdict::Yes(yes) if matches!((yes.epoch, needed), (Some(epoch), Some(needed)) if epoch < needed) => {
                self.retry(now)
            }
            Verdict::Yes(yes) => {
                self.extend(yes, now, spread);
                match self.paused.take() {
                    Some(_) => Then::Resumes,
                    None => Then::Stays,
                }
            }
            Verdict::No(code) => Then::Ends(match self.paused.take() {
                Some(paused) => paused.ending,
                None => Ending {
                    reason: code,
                    epoch: None,
                },
            }),
            Verdict::Unknown => self.retry(now),
        }
    }

    fn retry(&mut self, now: Duration) -> Then {
        let after = RETRY
            .saturating_mul(1 << self.failures.min(6))
            .min(RETRY_MOST);
        self.failures += 1;
        self.ask_at = Some(now.saturating_add(after));
        Then::Stays
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rowcast_model::Handler;

    fn by(asks: bool) -> Arc<Authorizer> {
        Arc::new(Authorizer {
            handler: asks.then(|| Handler::Webhook("rooms".into())),
            ttl_seconds: 300,
            grants: !asks,
        })
    }

    fn yes(seconds: u64, epoch: Option<i64>) -> Yes {
        Yes {
            ttl: s(seconds),
            epoch,
        }
    }

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn ending(reason: &str, epoch: Option<i64>) -> Ending {
        Ending {
            reason: reason.into(),
            epoch,
        }
    }

    #[test]
    fn it_is_renewed_before_it_ends() {
        let mut pass = Pass::new(by(true), yes(100, Some(3)), s(1000), 0.0);
        assert_eq!(pass.next(), s(1050));
        assert_eq!(pass.due(s(1049), 1), Due::Nothing);
        assert_eq!(pass.due(s(1050), 1), Due::Ask);
        assert_eq!(pass.due(s(1051), 2), Due::Nothing);
        // Without an answer it is tried again, and ends when it ends.
        assert_eq!(
            pass.answered(s(1060), 1, Verdict::Unknown, 0.0),
            Then::Stays
        );
        assert_eq!(pass.next(), s(1060) + RETRY);
        assert_eq!(pass.due(s(1061), 3), Due::Ask);
        assert_eq!(
            pass.answered(s(1062), 3, Verdict::Yes(yes(100, Some(4))), 1.0),
            Then::Stays
        );
        assert_eq!(pass.next(), s(1062 + 75));
        assert_eq!(pass.due(s(1137), 4), Due::Ask);
        assert_eq!(pass.due(s(1162), 5), Due::End(ending(EXPIRED, None)));
        // A no ends it at once, with its code.
        let no = Verdict::No("accessdenied".into());
        assert_eq!(
            pass.answered(s(1140), 4, no, 0.0),
            Then::Ends(ending("accessdenied", None))
        );
    }

    #[test]
    fn a_revocation_pauses_those_of_before_it() {
        let reason: Arc<str> = "left".into();
        let mut pass = Pass::new(by(true), yes(100, Some(3)), s(0), 0.0);
        assert_eq!(pass.revoked(s(1), Some(3), Some(&reason)), Then::Stays);
        assert_eq!(pass.due(s(50), 1), Due::Ask);
        assert_eq!(pass.revoked(s(51), Some(4), Some(&reason)), Then::Pauses);
        assert!(pass.is_paused());
        // What was asked before does not count; nor does an answer from before.
        assert_eq!(
            pass.answered(s(52), 1, Verdict::Yes(yes(100, Some(9))), 0.0),
            Then::Stays
        );
        assert!(pass.is_paused());
        assert_eq!(pass.due(s(52), 2), Due::Ask);
        assert_eq!(
            pass.answered(s(53), 2, Verdict::Yes(yes(100, Some(3))), 0.0),
            Then::Stays
        );
        assert_eq!(pass.due(s(54), 3), Due::Ask);
        assert_eq!(
            pass.answered(s(54), 3, Verdict::Yes(yes(100, Some(4))), 0.0),
            Then::Resumes
        );
        assert!(!pass.is_paused());
        // Without a number everybody is meant.
        assert_eq!(pass.revoked(s(60), None, None), Then::Pauses);
        assert_eq!(pass.revoked(s(61), Some(7), Some(&reason)), Then::Stays);
        assert_eq!(pass.due(s(61), 4), Due::Ask);
        let no = Verdict::No("accessdenied".into());
        assert_eq!(
            pass.answered(s(62), 4, no, 0.0),
            Then::Ends(ending("left", Some(7)))
        );
    }

    /// Asked before a revocation that the pass outlasts: an answer by the list of before does not lengthen it.
    #[test]
    fn an_answer_by_an_older_list_does_not_count() {
        let mut pass = Pass::new(by(true), yes(100, Some(1)), s(0), 0.0);
        assert_eq!(pass.due(s(50), 1), Due::Ask);
        assert_eq!(pass.revoked(s(51), Some(1), None), Then::Stays);
        let old = Verdict::Yes(yes(100, Some(0)));
        assert_eq!(pass.answered(s(52), 1, old.clone(), 0.0), Then::Stays);
        // It is asked again, and the list of now counts.
        assert_eq!(pass.due(s(53), 2), Due::Ask);
        let new = Verdict::Yes(yes(100, Some(1)));
        let mut renewed = pass.clone();
        assert_eq!(renewed.answered(s(53), 2, new, 0.0), Then::Stays);
        assert_eq!(renewed.due(s(152), 3), Due::Ask);
        // Else it ends when it would have.
        assert_eq!(pass.answered(s(53), 2, old, 0.0), Then::Stays);
        assert_eq!(pass.due(s(100), 3), Due::End(ending(EXPIRED, None)));
    }

    #[test]
    fn a_paused_one_that_nobody_answers_for_ends_soon() {
        let mut pass = Pass::new(by(true), yes(100, None), s(0), 0.0);
        assert_eq!(pass.revoked(s(1), Some(1), None), Then::Pauses);
        assert_eq!(pass.due(s(1), 1), Due::Ask);
        assert_eq!(pass.next(), s(1) + PAUSED_MOST);
        assert_eq!(pass.due(s(11), 2), Due::End(ending(REVOKED, Some(1))));
    }

    #[test]
    fn what_the_client_brought_is_not_renewed() {
        let mut pass = Pass::new(by(false), yes(100, Some(2)), s(0), 0.0);
        assert_eq!(pass.next(), s(100));
        pass.ask_now(s(1));
        assert_eq!(pass.next(), s(100));
        assert_eq!(pass.due(s(99), 1), Due::Nothing);
        assert_eq!(pass.revoked(s(3), Some(2), None), Then::Stays);
        assert_eq!(
            pass.revoked(s(3), Some(3), None),
            Then::Ends(ending(REVOKED, Some(3)))
        );
        assert_eq!(pass.due(s(100), 1), Due::End(ending(EXPIRED, None)));
    }

    proptest! {
        /// Whatever is asked and answered: nobody listens longer than the last yes, given after the last revocation
        /// that it does not outlast, allows.
        #[test]
        fn nobody_listens_without_a_yes(
            steps in prop::collection::vec((0..5_u8, 0..40_u64, 0..4_i64), 1..60),
        ) {
            let mut now = s(0);
            let mut pass = Pass::new(by(true), yes(60, Some(0)), now, 0.5);
            let (mut until, mut epoch, mut needed) = (s(60), 0, 0_i64);
            let mut number = 0;
            // Questions under way: their number, and the revocations that were known when they were asked.
            let mut asked: Vec<(u64, i64)> = Vec::new();
            for (step, seconds, list) in steps {
                now += s(seconds);
                number += 1;
                match pass.due(now, number) {
                    Due::Ask => asked.push((number, needed)),
                    Due::End(_) => break,
                    Due::Nothing => {}
                }
                let then = match step {
                    0 => {
                        needed = needed.max(list);
                        pass.revoked(now, Some(list), None)
                    }
                    1 => pass.answered(now, asked.pop().map_or(0, |(number, _)| number), Verdict::Unknown, 0.1),
                    2 => match asked.pop() {
                        Some((number, known)) => {
                            let answered = known.max(list);
                            let counts = pass.asked == Some(number) && pass.epoch <= Some(answered);
                            let then = pass.answered(now, number, Verdict::Yes(yes(60, Some(answered))), 0.9);
                            if counts && !pass.is_paused() {
                                (until, epoch) = (now + s(60), answered);
                            }
                            then
                        }
                        None => Then::Stays,
                    },
                    3 => match asked.pop() {
                        Some((number, _)) => pass.answered(now, number, Verdict::No("no".into()), 0.0),
                        None => Then::Stays,
                    },
                    _ => Then::Stays,
                };
                if matches!(then, Then::Ends(_)) {
                    break;
                }
                let listens = !pass.is_paused();
                prop_assert!(!listens || (now <= until || pass.next() <= now));
                prop_assert!(!listens || epoch >= needed || pass.epoch >= Some(needed), "{pass:?} {needed}");
                prop_assert!(pass.next() <= until.max(now) + s(100), "never left alone");
            }
        }
    }
}
