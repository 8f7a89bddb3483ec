use super::*;
use proptest::prelude::*;

const SECOND: i64 = 1_000_000;

fn at(second: i64) -> Timestamp {
    Timestamp(second * SECOND)
}

fn noted(lsn: u64, horizon: u64, xid: u64, second: i64) -> Noted {
    Noted {
        lsn: Lsn(lsn),
        horizon,
        xid,
        at: at(second),
    }
}

fn kept(since: Option<i64>, now: i64) -> Kept {
    Kept {
        since: since.map(at),
        now: at(now),
        next: 1000,
    }
}

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn a_place_is_of_use_when_all_that_it_needs_is_there() {
    // The third began while a transaction of before the second was still running.
    let all = [
        noted(10, 100, 100, 1000),
        noted(20, 110, 112, 2000),
        noted(30, 111, 120, 3000),
        noted(40, 125, 125, 4000),
    ];
    let since = |gone, now| -> Vec<(u64, i64)> {
        let usable = usable(&all, &kept(gone, now), HOUR);
        let show = |usable: &Usable| (usable.sample.lsn.0, usable.since.0 / SECOND);
        usable.iter().map(show).collect()
    };
    assert_eq!(since(None, 4000), [(20, 1000), (30, 1000), (40, 3000)]);
    assert_eq!(since(Some(940), 4000), [(20, 1000), (30, 1000), (40, 3000)]);
    assert_eq!(since(Some(941), 4000), [(40, 3000)]);
    // Too old; and from the future, after the clock went back.
    assert_eq!(since(None, 6601), [(40, 3000)]);
    assert_eq!(since(None, 2900), [(20, 1000)]);
    let usable = usable(&all, &kept(None, 4000), HOUR);
    let begins = |lsn| begin(&usable, Lsn(lsn)).map(|usable| usable.sample.lsn.0);
    assert_eq!(begins(5), Some(20));
    assert_eq!(begins(29), Some(20));
    assert_eq!(begins(30), Some(30));
    assert_eq!(begin(&[], Lsn(30)), None);
}

#[test]
fn ids_that_do_not_compare_are_not_compared() {
    let all = [noted(10, 100, 100, 1000), noted(20, 110, 112, 2000)];
    let next = |next| Kept {
        next,
        ..kept(None, 2000)
    };
    assert_eq!(usable(&all, &next(110 + HALF - 1), HOUR).len(), 1);
    assert_eq!(usable(&all, &next(110 + HALF), HOUR).len(), 0);
}

#[test]
fn buckets_go_round() {
    let day = 86_400;
    assert_eq!(buckets(at(3 * 10_800 + 700), at(4 * 10_800 + 5)), [3, 4]);
    // Close to the edge: the one beside, too.
    assert_eq!(
        buckets(at(3 * 10_800 + 500), at(5 * 10_800 - 5)),
        [2, 3, 4, 5]
    );
    assert_eq!(buckets(at(day - 10_000), at(day + 1000)), [0, 7]);
    assert_eq!(buckets(at(0), at(3 * day)), [0, 1, 2, 3, 4, 5, 6, 7]);
}

/// What a database does, in small.
#[derive(Clone, Debug)]
enum Step {
    /// Time passes.
    Wait(i64),
    /// A transaction begins to write.
    Begin,
    /// One that runs writes an event; maybe in a subtransaction, with an id of its own.
    Write { which: usize, sub: bool },
    /// One that runs ends.
    End { which: usize, commits: bool },
    /// The service notes where the log is.
    Note,
    /// What was written so many seconds ago, and before, is removed.
    Remove(i64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        3 => (1i64..200).prop_map(Step::Wait),
        3 => Just(Step::Begin),
        4 => (0usize..4, any::<bool>()).prop_map(|(which, sub)| Step::Write { which, sub }),
        3 => (0usize..4, any::<bool>()).prop_map(|(which, commits)| Step::End { which, commits }),
        3 => Just(Step::Note),
        1 => (0i64..3000).prop_map(Step::Remove),
    ]
}

#[derive(Clone, Debug)]
struct Event {
    top: u64,
    xid: u64,
    written: i64,
    committed: Option<u64>,
    removed: bool,
}

proptest! {
    /// Against the plain truth: whatever place is chosen for a cursor, each event that committed behind it
    /// is there, has an id that is asked for, and was written in the time that is looked at.
    #[test]
    fn nothing_is_left_out(steps in prop::collection::vec(step(), 1..300), cursors in prop::collection::vec(0u64..400, 1..20)) {
        let (mut clock, mut next, mut lsn) = (0i64, 1u64, 1u64);
        let mut running: Vec<u64> = Vec::new();
        let mut events: Vec<Event> = Vec::new();
        let mut places: Vec<Noted> = Vec::new();
        let mut since: Option<i64> = None;
        for step in steps {
            match step {
                Step::Wait(seconds) => clock += seconds,
                Step::Begin if running.len() < 4 => {
                    running.push(next);
                    next += 1;
                }
                Step::Write { which, sub } => if let Some(top) = running.get(which) {
                    let xid = if sub { next } else { *top };
                    next = next.max(xid + 1);
                    events.push(Event { top: *top, xid, written: clock, committed: None, removed: false });
                    lsn += 1;
                }
                Step::End { which, commits } if which < running.len() => {
                    let top = running.remove(which);
                    for event in events.iter_mut().filter(|event| commits && event.top == top) {
                        event.committed = Some(lsn);
                    }
                    lsn += 1;
                }
                Step::Note => {
                    let horizon = running.iter().copied().min().unwrap_or(next);
                    places.push(noted(lsn, horizon, next, clock));
                    next += 1;
                    lsn += 1;
                }
                Step::Remove(age) => {
                    let gone = clock - age;
                    for event in &mut events {
                        event.removed |= event.written < gone;
                    }
                    since = Some(since.map_or(gone, |since| since.max(gone)));
                }
                _ => {}
            }
        }
        let kept = Kept { next, ..kept(since, clock) };
        let usable = usable(&places, &kept, Duration::from_secs(10_000));
        let samples = rowcast_model::Samples::new(usable.iter().map(|usable| usable.sample).collect());
        for cursor in cursors {
            let begin = begin(&usable, Lsn(cursor)).filter(|begin| begin.sample.lsn <= Lsn(cursor));
            prop_assert_eq!(begin.map(|begin| begin.sample.horizon), samples.horizon(Lsn(cursor)));
            let Some(begin) = begin else { continue };
            for event in events.iter().filter(|event| event.committed.is_some_and(|lsn| lsn >= cursor)) {
                prop_assert!(event.xid >= begin.sample.horizon, "{event:?} {begin:?}");
                prop_assert!(at(event.written) >= begin.since, "{event:?} {begin:?}");
                prop_assert!(!event.removed, "{event:?} {begin:?}");
            }
        }
    }
}
