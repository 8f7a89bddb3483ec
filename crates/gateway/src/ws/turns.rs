//! Whose turn it is to be told more of the past.
//!
//! After a restart all come back at once. If each told a part whenever it could, everything else in this
//! process would wait for a part of every one of them: pings, logins, questions to the database. So few are at
//! it at a time, the others stand in line, and whoever had a turn goes to its end. Owns the place in that line.

use std::{
    future::{Future, pending},
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

/// So many are told a part of the past before everybody else gets to work.
const AT_A_TIME: usize = 32;
/// Asked again when so much waits for all sockets that nothing more of the past was told.
const PAUSE: Duration = Duration::from_millis(200);

type Asking = Pin<Box<dyn Future<Output = Result<OwnedSemaphorePermit, AcquireError>> + Send>>;

/// The line.
pub(crate) struct Turns(Arc<Semaphore>);

impl Default for Turns {
    fn default() -> Turns {
        Turns(Arc::new(Semaphore::new(AT_A_TIME)))
    }
}

/// The place of one socket in it. Small while nothing is wanted, as for nearly all nearly always.
#[derive(Default)]
pub(crate) struct Place(Option<Box<Standing>>);

#[derive(Default)]
struct Standing {
    asking: Option<Asking>,
    turn: Option<OwnedSemaphorePermit>,
    /// The turn was used; it is given back when others had time to work.
    used: bool,
    not_before: Option<Instant>,
}

impl Place {
    /// Tells a part by `tell` if it is this one's turn, and otherwise stands in line as long as there is something
    /// that is `wanted`. `tell` says whether it could. True when something was told: let others work then.
    pub(crate) fn tell(
        &mut self,
        turns: &Turns,
        wanted: bool,
        now: Instant,
        tell: impl FnOnce() -> bool,
    ) -> bool {
        if !wanted {
            self.0 = None;
            return false;
        }
        let place = self.0.get_or_insert_default();
        if std::mem::take(&mut place.used) {
            place.turn = None;
        }
        if place.turn.is_some() {
            place.used = tell();
            if !place.used {
                place.turn = None;
                place.not_before = Some(now + PAUSE);
            }
            return place.used;
        }
        if place.asking.is_none() && place.not_before.is_none_or(|at| at <= now) {
            place.not_before = None;
            place.asking = Some(Box::pin(turns.0.clone().acquire_owned()));
        }
        false
    }

    /// When to call [`Place::tell`] again at the latest, if it has to be.
    pub(crate) fn not_before(&self) -> Option<Instant> {
        self.0.as_ref()?.not_before
    }

    /// Waits until it is this one's turn. May be dropped and called again without losing its place.
    pub(crate) async fn called(&mut self) {
        let Some(place) = &mut self.0 else {
            return pending().await;
        };
        match &mut place.asking {
            // The line is never closed.
            Some(asking) => place.turn = asking.await.ok(),
            None => pending().await,
        }
        place.asking = None;
    }

    #[cfg(test)]
    fn is_asking(&self) -> bool {
        self.0.as_ref().is_some_and(|place| place.asking.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn few_are_told_at_a_time_and_all_in_turn() {
        let (turns, now) = (Turns::default(), Instant::now());
        let mut places: Vec<Place> = (0..3 * AT_A_TIME).map(|_| Place::default()).collect();
        for place in &mut places {
            assert!(!place.tell(&turns, true, now, || unreachable!("not called yet")));
        }
        let mut told = vec![0; places.len()];
        for round in 1..=6 {
            let mut now_told = 0;
            for (place, told) in places.iter_mut().zip(&mut told) {
                tokio::select! {
                    biased;
                    () = place.called() => {}
                    () = std::future::ready(()) => {}
                }
                if place.tell(&turns, true, now, || true) {
                    *told += 1;
                    now_told += 1;
                }
            }
            assert!(now_told <= AT_A_TIME, "{now_told} in round {round}");
        }
        // Nobody had his second turn before everybody had his first.
        assert!(told.iter().all(|told| (1..=3).contains(told)), "{told:?}");
    }

    #[tokio::test]
    async fn who_is_alone_goes_on_and_who_has_no_room_waits() {
        let (turns, now) = (Turns::default(), Instant::now());
        let mut place = Place::default();
        for _ in 0..3 {
            assert!(!place.tell(&turns, true, now, || true));
            place.called().await;
            assert!(place.tell(&turns, true, now, || true));
        }
        place.tell(&turns, true, now, || true);
        place.called().await;
        assert!(!place.tell(&turns, true, now, || false));
        assert_eq!(place.not_before(), Some(now + PAUSE));
        assert!(!place.tell(&turns, true, now, || true));
        assert!(!place.is_asking() && turns.0.available_permits() == AT_A_TIME);
        assert!(!place.tell(&turns, true, now + PAUSE, || true));
        assert!(place.is_asking());
        assert!(!place.tell(&turns, false, now, || true));
        assert!(!place.is_asking());
    }
}
