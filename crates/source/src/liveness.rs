//! Whether a silent stream is still alive: a value without IO; the time comes from outside.
//!
//! An idle server says nothing, and a cut line says nothing either. So after a third of the limit something is
//! written into the log that must come back. It may come late for a good reason: the server first reads through
//! much log that is of no interest to us. Then its walsender is behind what was written and moves; as long as
//! it does, it is waited for.

use std::time::{Duration, Instant};

use rowcast_model::{Lsn, Timestamp};

/// What the server says of the process that sends to us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Walsender {
    /// How far it has read the log.
    pub(crate) sent: Lsn,
    /// When it last heard of us, as text.
    pub(crate) heard_us: Option<String>,
}

/// What to make of the silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It may still come.
    Wait,
    /// It comes late, and the server is seen at work.
    Busy,
    /// The stream is dead.
    Dead,
}

#[derive(Debug)]
struct Asked {
    /// What was written first and has not come back.
    expected: Lsn,
    last: Instant,
    walsender: Option<Walsender>,
    /// When it was last seen to move before the expected position; first, when it was asked.
    moved: Instant,
    late: bool,
}

/// What is known of the life of a stream.
#[derive(Debug)]
pub(crate) struct Liveness {
    limit: Duration,
    heard: Instant,
    asked: Option<Asked>,
}

impl Liveness {
    pub(crate) fn new(limit: Duration, now: Instant) -> Liveness {
        Liveness {
            limit,
            heard: now,
            asked: None,
        }
    }

    /// Something came.
    pub(crate) fn heard(&mut self, now: Instant) {
        self.heard = now;
        self.asked = None;
    }

    /// When to write the next heartbeat, if nothing comes until then.
    pub(crate) fn ask_at(&self) -> Instant {
        let last = self.asked.as_ref().map_or(self.heard, |asked| asked.last);
        last + self.limit / 3
    }

    /// A heartbeat was written at `written`, and this is what the server says of our stream.
    pub(crate) fn asked(
        &mut self,
        now: Instant,
        written: Lsn,
        walsender: Option<Walsender>,
    ) -> Verdict {
        let asked = self.asked.get_or_insert_with(|| Asked {
            expected: written,
            last: now,
            walsender: walsender.clone(),
            moved: now,
            late: false,
        });
        asked.last = now;
        if let Some(seen) = &walsender
            && asked.walsender.as_ref() != Some(seen)
        {
            let behind = seen.sent < asked.expected;
            asked.walsender = walsender;
            if behind {
                asked.moved = now;
            }
        }
        asked.late |= now.duration_since(self.heard) > self.limit;
        match now.duration_since(asked.moved) > self.limit {
            true => Verdict::Dead,
            false if asked.late => Verdict::Busy,
            false => Verdict::Wait,
        }
    }
}

/// Whether the server shuts down and waits for us. It then asks again as soon as it is answered, until
/// everything it sent is acknowledged; as acknowledgements trail, that would be never. At all other times it
/// asks when it has heard nothing for half of its `wal_sender_timeout`. The time is that of the server: what
/// could not be handed on for a while brings questions of a long time at once.
#[derive(Debug, Default)]
pub(crate) struct Farewell {
    asked: Option<(Timestamp, u32)>,
}

/// More questions than this within [`FAREWELL_SPAN`] microseconds are a farewell.
const FAREWELL_QUESTIONS: u32 = 5;
const FAREWELL_SPAN: i64 = 1_000_000;

impl Farewell {
    /// The server asked at `at`, by its clock; returns whether it wants to go.
    pub(crate) fn asked(&mut self, at: Timestamp) -> bool {
        let recent = |since: Timestamp| at.0.saturating_sub(since.0) <= FAREWELL_SPAN;
        let before = self.asked.filter(|(since, _)| recent(*since));
        let (since, count) = before.unwrap_or((at, 0));
        self.asked = Some((since, count + 1));
        count >= FAREWELL_QUESTIONS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_asks_and_asks_wants_to_go() {
        let at = |n| Timestamp(FAREWELL_SPAN / 4 * n);
        let mut calm = Farewell::default();
        assert!((0..100).all(|n| !calm.asked(at(n))));
        let mut hurried = Farewell::default();
        let answers: Vec<bool> = (0..6).map(|_| hurried.asked(at(7))).collect();
        assert_eq!(answers, [false, false, false, false, false, true]);
    }

    fn at(sent: u64, heard_us: &str) -> Option<Walsender> {
        Some(Walsender {
            sent: Lsn(sent),
            heard_us: Some(heard_us.into()),
        })
    }

    #[test]
    fn silence_beyond_the_limit_is_death() {
        let start = Instant::now();
        let second = |s| start + Duration::from_secs(s);
        let mut life = Liveness::new(Duration::from_secs(9), start);
        assert_eq!(life.ask_at(), second(3));
        assert_eq!(life.asked(second(3), Lsn(100), at(100, "a")), Verdict::Wait);
        assert_eq!(life.ask_at(), second(6));
        // It is at what was written, so it should have come; that it moves on excuses nothing.
        assert_eq!(life.asked(second(6), Lsn(110), at(110, "b")), Verdict::Wait);
        assert_eq!(life.asked(second(9), Lsn(120), at(120, "c")), Verdict::Wait);
        assert_eq!(life.asked(second(13), Lsn(130), None), Verdict::Dead);
        life.heard(second(13));
        assert_eq!(life.ask_at(), second(16));
        assert_eq!(life.asked(second(16), Lsn(140), None), Verdict::Wait);
    }

    #[test]
    fn a_server_at_work_is_waited_for_and_one_that_stands_still_is_not() {
        let start = Instant::now();
        let second = |s| start + Duration::from_secs(s);
        let mut life = Liveness::new(Duration::from_secs(9), start);
        assert_eq!(life.asked(second(3), Lsn(900), at(100, "a")), Verdict::Wait);
        assert_eq!(life.asked(second(9), Lsn(910), at(200, "b")), Verdict::Wait);
        assert_eq!(
            life.asked(second(15), Lsn(920), at(300, "c")),
            Verdict::Busy
        );
        // One huge transaction: it does not move, but it hears us.
        assert_eq!(
            life.asked(second(22), Lsn(930), at(300, "d")),
            Verdict::Busy
        );
        assert_eq!(
            life.asked(second(30), Lsn(940), at(300, "d")),
            Verdict::Busy
        );
        assert_eq!(
            life.asked(second(32), Lsn(950), at(300, "d")),
            Verdict::Dead
        );
    }
}
