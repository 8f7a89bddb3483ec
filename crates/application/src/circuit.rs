//! Whether somebody who failed lately is asked at all, as a value. Time comes in.
//!
//! After so many failures in a row nobody asks for a while; then one question is tried, and its end decides.

use std::time::{Duration, Instant};

/// The state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Asked by everybody; so many failures in a row.
    Closed(u32),
    /// Asked by nobody before this.
    Open(Instant),
    /// One is trying.
    Trying,
}

/// The breaker.
#[derive(Clone, Debug)]
pub(crate) struct Circuit {
    failures: u32,
    pause: Duration,
    state: State,
}

/// How a question ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// There was an answer, whatever it said.
    Answered,
    /// There was none.
    Failed,
    /// Nobody waited for it.
    Dropped,
}

impl Circuit {
    /// `failures` in a row open it for `pause`.
    pub fn new(failures: u32, pause: Duration) -> Circuit {
        Circuit {
            failures: failures.max(1),
            pause,
            state: State::Closed(0),
        }
    }

    /// Whether to ask now. Whoever may has to say how it ended.
    pub fn admit(&mut self, now: Instant) -> bool {
        match self.state {
            State::Closed(_) => true,
            State::Open(until) if until <= now => {
                self.state = State::Trying;
                true
            }
            State::Open(_) | State::Trying => false,
        }
    }

    /// How a question that was admitted ended.
    pub fn note(&mut self, end: End, now: Instant) {
        self.state = match (self.state, end) {
            (_, End::Answered) => State::Closed(0),
            (State::Closed(before), End::Failed) if before + 1 < self.failures => {
                State::Closed(before + 1)
            }
            (State::Closed(_) | State::Trying, End::Failed) => State::Open(now + self.pause),
            // The next one may try at once.
            (State::Trying, End::Dropped) => State::Open(now),
            (state, _) => state,
        };
    }

    /// Whether it is no use to stand in line.
    pub fn is_shut(&self, now: Instant) -> bool {
        match self.state {
            State::Closed(_) => false,
            State::Open(until) => now < until,
            State::Trying => true,
        }
    }

    /// The state.
    pub fn state(&self) -> State {
        self.state
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PAUSE: Duration = Duration::from_secs(10);

    #[test]
    fn opens_tries_once_and_closes() {
        let start = Instant::now();
        let mut circuit = Circuit::new(2, PAUSE);
        assert!(circuit.admit(start) && circuit.admit(start) && circuit.admit(start));
        circuit.note(End::Failed, start);
        circuit.note(End::Answered, start);
        circuit.note(End::Failed, start);
        assert_eq!(circuit.state(), State::Closed(1));
        assert!(circuit.admit(start));
        circuit.note(End::Failed, start);
        assert!(!circuit.admit(start + PAUSE / 2));
        assert!(circuit.admit(start + PAUSE) && !circuit.admit(start + PAUSE));
        circuit.note(End::Dropped, start + PAUSE);
        assert!(circuit.admit(start + PAUSE));
        circuit.note(End::Failed, start + PAUSE);
        assert!(!circuit.admit(start + PAUSE));
        assert!(circuit.admit(start + PAUSE * 2));
        circuit.note(End::Answered, start + PAUSE * 2);
        assert!(circuit.admit(start + PAUSE * 2) && circuit.admit(start + PAUSE * 2));
    }

    proptest! {
        /// Whatever happens, it is never shut for ever: after a pause without a question under way one is admitted.
        #[test]
        fn never_stays_shut(steps in prop::collection::vec((0..3_u8, 0..20_u64), 0..50), most in 0..4_u32) {
            let mut circuit = Circuit::new(most, PAUSE);
            let mut now = Instant::now();
            let mut under_way = 0;
            for (step, seconds) in steps {
                now += Duration::from_secs(seconds);
                match step {
                    0 if circuit.admit(now) => under_way += 1,
                    1 if under_way > 0 => { circuit.note(End::Failed, now); under_way -= 1 }
                    2 if under_way > 0 => { circuit.note(End::Dropped, now); under_way -= 1 }
                    _ => {}
                }
            }
            for _ in 0..under_way {
                circuit.note(End::Failed, now);
            }
            prop_assert!(circuit.admit(now + PAUSE));
        }
    }
}
