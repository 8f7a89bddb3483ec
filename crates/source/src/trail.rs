//! How far behind acknowledgements stay: a value without IO; the time comes from outside.
//!
//! Postgres forgets what is acknowledged, and a process that starts again can only read what is left. So the
//! acknowledged position trails what was handed on by the window in which clients may resume, unless that
//! would keep more log on the server's disk than is allowed. It never goes backwards and is never ahead of
//! what was handed on; with a window of nothing it does not trail at all.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use rowcast_model::Lsn;

/// How much of the log is left unacknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// What was handed on less than so long ago is left.
    pub retention: Duration,
    /// But never more bytes of log than this.
    pub bytes: u64,
}

impl Window {
    /// Nothing is left.
    pub const NOTHING: Window = Window {
        retention: Duration::ZERO,
        bytes: 0,
    };
}

/// Of retention and of bytes, samples are at least this part apart: so their number is bounded, and the
/// trail is at most so much longer than was asked for.
const PARTS: u32 = 128;

/// Where acknowledgements are and what they wait for.
#[derive(Clone, Debug)]
pub struct Trail {
    window: Window,
    /// When everything up to there was handed on; oldest first.
    samples: VecDeque<(Instant, Lsn)>,
    /// What was handed on.
    head: Lsn,
    acknowledged: Lsn,
}

impl Trail {
    /// A trail that begins where the server stands.
    pub fn new(window: Window, from: Lsn) -> Trail {
        Trail {
            window,
            samples: VecDeque::new(),
            head: from,
            acknowledged: from,
        }
    }

    /// From here on at most so many bytes are left, and never more than the window says.
    pub fn window(&mut self, window: Window) {
        self.window = window;
    }

    /// Everything up to `lsn` has been handed on by `now`.
    pub fn handed_on(&mut self, now: Instant, lsn: Lsn) {
        self.head = self.head.max(lsn);
        self.sample(now);
    }

    /// What may be acknowledged at this time.
    pub fn acknowledge(&mut self, now: Instant) -> Lsn {
        self.sample(now);
        let Window { retention, bytes } = self.window;
        while let Some(&(since, lsn)) = self.samples.front() {
            let old = now.saturating_duration_since(since) >= retention;
            let far = self.head.bytes_since(self.acknowledged) > bytes;
            if !(old || far) {
                break;
            }
            self.samples.pop_front();
            self.acknowledged = self.acknowledged.max(lsn);
        }
        // The last sample may be older than what came after it by less than a part.
        if self.head.bytes_since(self.acknowledged) > bytes {
            self.acknowledged = self.head;
        }
        self.acknowledged
    }

    /// Bytes of log that are handed on and left for those who resume.
    pub fn left(&self) -> u64 {
        self.head.bytes_since(self.acknowledged)
    }

    fn sample(&mut self, now: Instant) {
        let Window { retention, bytes } = self.window;
        let due = match self.samples.back() {
            None => self.head > self.acknowledged,
            Some(&(since, lsn)) => {
                self.head > lsn
                    && (now.saturating_duration_since(since) >= retention / PARTS
                        || self.head.bytes_since(lsn) >= (bytes / u64::from(PARTS)).max(1))
            }
        };
        if due {
            self.samples.push_back((now, self.head));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn window(retention: Duration, bytes: u64) -> Window {
        Window { retention, bytes }
    }

    #[test]
    fn what_is_younger_than_the_window_is_left() {
        let begin = Instant::now();
        let mut trail = Trail::new(window(MINUTE, 1 << 30), Lsn(100));
        trail.handed_on(begin, Lsn(200));
        trail.handed_on(begin + MINUTE / 2, Lsn(300));
        assert_eq!(trail.acknowledge(begin + MINUTE / 2), Lsn(100));
        assert_eq!(trail.acknowledge(begin + MINUTE), Lsn(200));
        assert_eq!(trail.left(), 100);
        assert_eq!(trail.acknowledge(begin + MINUTE * 3 / 2), Lsn(300));
        assert_eq!(trail.left(), 0);
    }

    #[test]
    fn more_bytes_than_allowed_are_let_go_at_once() {
        let now = Instant::now();
        let mut trail = Trail::new(window(MINUTE, 1000), Lsn(0));
        for lsn in [400, 800, 1200, 1600] {
            trail.handed_on(now, Lsn(lsn));
        }
        assert_eq!(trail.acknowledge(now), Lsn(800));
        trail.handed_on(now, Lsn(1_000_000));
        assert_eq!(trail.acknowledge(now), Lsn(1_000_000));
    }

    #[test]
    fn a_window_of_nothing_does_not_trail() {
        let now = Instant::now();
        let mut trail = Trail::new(Window::NOTHING, Lsn(5));
        trail.handed_on(now, Lsn(9));
        assert_eq!(trail.acknowledge(now), Lsn(9));
        let mut trail = Trail::new(window(MINUTE, 1 << 30), Lsn(5));
        trail.handed_on(now, Lsn(9));
        assert_eq!(trail.acknowledge(now), Lsn(5));
        trail.window(Window::NOTHING);
        assert_eq!(trail.acknowledge(now), Lsn(9));
    }

    proptest! {
        #[test]
        fn keeps_its_promises(
            retention in 0u64..1000,
            bytes in 0u64..5000,
            steps in prop::collection::vec((0u64..200, 0u64..3000, any::<bool>()), 1..400),
        ) {
            let window = window(Duration::from_millis(retention), bytes);
            let mut trail = Trail::new(window, Lsn(7));
            let mut now = Instant::now();
            let (mut head, mut last) = (Lsn(7), Lsn(7));
            // When each position was handed on.
            let mut handed_on = vec![(now, head)];
            for (ms, more, asks) in steps {
                now += Duration::from_millis(ms);
                head = Lsn(head.0 + more);
                trail.handed_on(now, head);
                handed_on.push((now, head));
                if !asks {
                    continue;
                }
                let acknowledged = trail.acknowledge(now);
                prop_assert!(acknowledged >= last && acknowledged <= head);
                prop_assert!(head.bytes_since(acknowledged) <= bytes);
                prop_assert!(trail.samples.len() <= 2 * PARTS as usize + 3);
                let at = |age: Duration| handed_on.iter().rev()
                    .find(|(when, _)| now.duration_since(*when) >= age).map_or(Lsn(7), |(_, lsn)| *lsn);
                // Nothing younger than the window, unless there is too much of it.
                let newest_old = at(window.retention);
                let too_much = head.bytes_since(last.max(newest_old)) > bytes;
                prop_assert!(acknowledged <= newest_old.max(last) || too_much);
                last = acknowledged;
            }
            // Whoever waits long enough is told everything.
            trail.acknowledge(now + window.retention);
            prop_assert_eq!(trail.acknowledge(now + window.retention * 3), head);
        }

        #[test]
        fn trails_by_little_more_than_the_window(steps in prop::collection::vec((1u64..50, 1u64..100), 50..300)) {
            let retention = Duration::from_millis(1280);
            let mut trail = Trail::new(window(retention, u64::MAX), Lsn(0));
            let begin = Instant::now();
            let (mut now, mut head) = (begin, Lsn(0));
            let mut handed_on = vec![(now, head)];
            for (ms, more) in steps {
                now += Duration::from_millis(ms);
                head = Lsn(head.0 + more);
                trail.handed_on(now, head);
                handed_on.push((now, head));
                let slack = retention + Duration::from_millis(10 + 50);
                let must = handed_on.iter().rev().find(|(when, _)| now.duration_since(*when) >= slack);
                prop_assert!(trail.acknowledge(now) >= must.map_or(Lsn(0), |(_, lsn)| *lsn));
            }
        }
    }
}
