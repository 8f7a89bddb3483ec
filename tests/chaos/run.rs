//! A run: writers and subscribers, burst after burst of faults, and the comparison at the end of each round.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use rowcast_embedded::Binaries;
use tokio::sync::oneshot;

use super::{
    app::WHO,
    arena::Arena,
    faults,
    plan::{Burst, Fault, Kind, plan},
    proxy::Proxy,
    report,
    subscriber::{self, Order},
    writer,
};
use crate::harness::{from_env, postgres, rng::Rng};

const WRITERS: usize = 3;
/// Faults between two comparisons.
const ROUND: usize = 24;
/// A run with fewer faults does not take the place of the report.
const REPORTED: usize = 1000;
/// So much is wrong that more of it helps nobody.
const ENOUGH: usize = 12;

/// Says how to repeat the run when it fails.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("chaos failed; repeat its faults with CHAOS_SEED={}", self.0);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn chaos_every_copy_equals_postgres() {
    let seed = Seed(from_env("CHAOS_SEED", Rng::fresh_seed() % 1_000_000_000));
    let count = from_env("CHAOS_FAULTS", 15) as usize;
    let limit = Duration::from_secs(from_env("CHAOS_SECONDS", 25));
    let only = std::env::var("CHAOS_ONLY").unwrap_or_default();
    let kinds: Vec<Kind> = match only.as_str() {
        "" if count < 100 => Kind::quick().collect(),
        "" | "all" => Kind::all().collect(),
        names => names
            .split(',')
            .map(|name| {
                Kind::named(name).unwrap_or_else(|| panic!("no kind of fault is named {name}"))
            })
            .collect(),
    };
    let server = Binaries::find(postgres::major()).unwrap().major;
    let kinds: Vec<Kind> = kinds
        .into_iter()
        .filter(|kind| kind.since() <= server)
        .collect();
    eprintln!("chaos: {count} faults, CHAOS_SEED={}", seed.0);
    let mut rng = Rng::new(seed.0);
    let bursts = plan(seed.0, count, &kinds);

    let arena = Arc::new(Arena::new().await);
    for number in 0..WRITERS {
        let url = arena.database.url.clone();
        let (turn, tally) = (arena.turn.clone(), arena.tally.clone());
        tokio::spawn(writer::write(
            number,
            url,
            turn,
            tally,
            Rng::new(rng.next()),
        ));
    }
    for (number, who) in WHO.into_iter().enumerate() {
        let line = Proxy::to(arena.target.clone()).await;
        let (url, tally) = (&arena.database.url, arena.tally.clone());
        let handle = subscriber::start(number, who, line, url, tally, rng.next());
        arena.subscribers.lock().unwrap().push(handle);
    }
    let mut run = Run {
        arena: arena.clone(),
        done: 0,
        since_check: 0,
        count,
        begin: Instant::now(),
    };
    run.recover(&[]).await;
    for burst in bursts {
        if run.begin.elapsed() > limit || run.hopeless() {
            break;
        }
        run.burst(burst).await;
    }
    run.check(false).await;
    let report = report::text(&run.arena.tally, run.done, run.begin.elapsed(), seed.0);
    eprintln!("{report}");
    let wrong = arena.tally.complaints();
    assert!(
        wrong.is_empty(),
        "{} things are wrong, the first: {}",
        wrong.len(),
        wrong[0]
    );
    if from_env("CHAOS_REPORT", 0) == 1 && run.done >= REPORTED && only.is_empty() {
        report::write(&report);
    }
    assert!(
        run.done * 2 >= count,
        "only {} of {count} faults in {limit:?}",
        run.done
    );
}

/// A fault, and the time from its end until every subscriber has a row that was written after it.
async fn one(arena: Arc<Arena>, fault: Fault) -> Result<(), String> {
    let kind = fault.kind.name();
    faults::run(arena.clone(), fault).await?;
    let took = arena.until_marked().await?;
    arena.tally.recovered(kind, took);
    Ok(())
}

struct Run {
    arena: Arc<Arena>,
    done: usize,
    since_check: usize,
    count: usize,
    begin: Instant,
}

impl Run {
    fn hopeless(&self) -> bool {
        self.arena.tally.complaints().len() >= ENOUGH
    }

    async fn burst(&mut self, burst: Burst) {
        tokio::time::sleep(Duration::from_millis(burst.calm_ms)).await;
        let kinds: Vec<&'static str> = burst.faults.iter().map(|fault| fault.kind.name()).collect();
        let running: Vec<_> = burst
            .faults
            .into_iter()
            .map(|fault| {
                let kind = fault.kind.name();
                (kind, tokio::spawn(one(self.arena.clone(), fault)))
            })
            .collect();
        for (kind, task) in running {
            let done = task.await.unwrap_or_else(|error| Err(error.to_string()));
            if let Err(text) = done {
                self.arena.tally.complain(format!("{kind}: {text}"));
            }
        }
        self.done += kinds.len();
        self.since_check += kinds.len();
        self.recover(&kinds).await;
        if self.since_check >= ROUND {
            self.check(true).await;
        }
    }

    /// Everybody sees a mark that was written after the faults.
    async fn recover(&mut self, kinds: &[&'static str]) {
        let tally = &self.arena.tally;
        let took = match self.arena.until_marked().await {
            Ok(took) => took,
            Err(behind) => {
                let explained = self.arena.explain().await;
                tally.wrong(
                    &tally.lost,
                    format!("no recovery from {kinds:?}:{behind}\n{explained}"),
                );
                return;
            }
        };
        eprintln!(
            "{:>4} s {:>4}/{} {:<60} all there after {:>5} ms, {} events",
            self.begin.elapsed().as_secs(),
            self.done,
            self.count,
            kinds.join(" + "),
            took.as_millis(),
            tally.events.load(Ordering::Relaxed)
        );
    }

    /// Nobody writes; every copy is compared. Then the ledger begins anew, which is a TRUNCATE for all.
    async fn check(&mut self, truncate: bool) {
        self.since_check = 0;
        let turn = self.arena.turn.clone().write_owned().await;
        self.recover(&[]).await;
        let waiting: Vec<oneshot::Receiver<()>> = {
            let subscribers = self.arena.subscribers.lock().unwrap();
            subscribers
                .iter()
                .map(|subscriber| {
                    let (done, wait) = oneshot::channel();
                    let _ = subscriber.orders.send(Order::Check(done));
                    wait
                })
                .collect()
        };
        for wait in waiting {
            if tokio::time::timeout(super::arena::PATIENCE, wait)
                .await
                .is_err()
            {
                self.arena
                    .tally
                    .complain("a subscriber does not compare its copy".into());
            }
        }
        if truncate && let Err(error) = self.arena.insist("TRUNCATE ledger").await {
            self.arena.tally.complain(error);
        }
        drop(turn);
    }
}
