//! Which faults come, in which order and together with which others: a pure function of the seed.
//!
//! Kinds are drawn like cards: each comes once before one comes again, so a run of any length has them all.

use crate::harness::rng::Rng;

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    ServiceKilled,
    ServiceTerminated,
    StandbyTakesOver,
    OldServiceComesBack,
    PostgresCrashes,
    PostgresRestarts,
    BackendKilled,
    StreamTerminated,
    BackendsTerminated,
    DatabaseLineCut,
    DatabaseLineHangs,
    DatabaseLineDelayed,
    DatabaseLineThrottled,
    ClientLineCut,
    ClientLineHangs,
    ClientLineDelayed,
    ClientLineThrottled,
    ClientStalls,
    ClientReconnects,
    ClientOldCursor,
    ClientForgedCursor,
    SlotDropped,
    SlotInvalidated,
    DiskBudgetHit,
    StandbyPromoted,
    FailoverSlotPromoted,
    TableAltered,
    MembershipChanges,
    LargeTransaction,
}

use Kind::{
    BackendKilled, BackendsTerminated, ClientForgedCursor, ClientLineCut, ClientLineDelayed,
    ClientLineHangs, ClientLineThrottled, ClientOldCursor, ClientReconnects, ClientStalls,
    DatabaseLineCut, DatabaseLineDelayed, DatabaseLineHangs, DatabaseLineThrottled, DiskBudgetHit,
    FailoverSlotPromoted, LargeTransaction, MembershipChanges, OldServiceComesBack,
    PostgresCrashes, PostgresRestarts, ServiceKilled, ServiceTerminated, SlotDropped,
    SlotInvalidated, StandbyPromoted, StandbyTakesOver, StreamTerminated, TableAltered,
};

/// Every kind, with its name in the report and whether it is quick enough for the short form.
const KINDS: [(Kind, &str, bool); 29] = [
    (ServiceKilled, "service_killed", true),
    (ServiceTerminated, "service_terminated", true),
    (StandbyTakesOver, "standby_takes_over", true),
    (OldServiceComesBack, "old_service_comes_back", false),
    (PostgresCrashes, "postgres_crashes", true),
    (PostgresRestarts, "postgres_restarts", true),
    (BackendKilled, "backend_killed", false),
    (StreamTerminated, "stream_terminated", true),
    (BackendsTerminated, "backends_terminated", false),
    (DatabaseLineCut, "database_line_cut", true),
    (DatabaseLineHangs, "database_line_hangs", false),
    (DatabaseLineDelayed, "database_line_delayed", false),
    (DatabaseLineThrottled, "database_line_throttled", true),
    (ClientLineCut, "client_line_cut", true),
    (ClientLineHangs, "client_line_hangs", false),
    (ClientLineDelayed, "client_line_delayed", false),
    (ClientLineThrottled, "client_line_throttled", false),
    (ClientStalls, "client_stalls", true),
    (ClientReconnects, "client_reconnects", true),
    (ClientOldCursor, "client_old_cursor", true),
    (ClientForgedCursor, "client_forged_cursor", true),
    (SlotDropped, "slot_dropped", true),
    (SlotInvalidated, "slot_invalidated", false),
    (DiskBudgetHit, "disk_budget_hit", false),
    (StandbyPromoted, "standby_promoted", false),
    (FailoverSlotPromoted, "failover_slot_promoted", false),
    (TableAltered, "table_altered", true),
    (MembershipChanges, "membership_changes", true),
    (LargeTransaction, "large_transaction", false),
];

/// What a fault works on. Two that work on the same are never on at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ground {
    Service,
    Line,
    Clients,
    Database,
    /// Everything but the clients.
    All,
}

impl Kind {
    pub fn all() -> impl Iterator<Item = Kind> {
        KINDS.iter().map(|(kind, ..)| *kind)
    }

    /// Those of the short form.
    pub fn quick() -> impl Iterator<Item = Kind> {
        KINDS
            .iter()
            .filter(|(.., quick)| *quick)
            .map(|(kind, ..)| *kind)
    }

    pub fn named(name: &str) -> Option<Kind> {
        Kind::all().find(|kind| kind.name() == name)
    }

    pub fn name(self) -> &'static str {
        KINDS
            .iter()
            .find(|(kind, ..)| *kind == self)
            .map_or("", |(_, name, _)| name)
    }

    pub fn ground(self) -> Ground {
        match self {
            ServiceKilled | ServiceTerminated | StandbyTakesOver => Ground::Service,
            // These need the other parts as they are.
            OldServiceComesBack | SlotDropped | SlotInvalidated | DiskBudgetHit
            | StandbyPromoted | FailoverSlotPromoted => Ground::All,
            PostgresCrashes | PostgresRestarts | BackendKilled | StreamTerminated
            | BackendsTerminated | TableAltered | MembershipChanges | LargeTransaction => {
                Ground::Database
            }
            DatabaseLineCut | DatabaseLineHangs | DatabaseLineDelayed | DatabaseLineThrottled => {
                Ground::Line
            }
            ClientLineCut | ClientLineHangs | ClientLineDelayed | ClientLineThrottled
            | ClientStalls | ClientReconnects | ClientOldCursor | ClientForgedCursor => {
                Ground::Clients
            }
        }
    }

    /// The first major version of Postgres that has what it takes.
    pub fn since(self) -> u32 {
        match self {
            FailoverSlotPromoted => 17,
            _ => 0,
        }
    }

    /// Shortest and longest time that it lasts, in milliseconds.
    fn lasts(self) -> (u64, u64) {
        match self {
            DatabaseLineHangs => (500, 6_000),
            DatabaseLineCut => (50, 2_500),
            DatabaseLineDelayed | DatabaseLineThrottled => (500, 3_000),
            ClientLineHangs | ClientStalls => (300, 4_000),
            ClientLineCut | ClientLineDelayed | ClientLineThrottled => (100, 2_500),
            PostgresCrashes | PostgresRestarts => (0, 1_500),
            ServiceKilled | ServiceTerminated => (0, 1_500),
            MembershipChanges => (20, 1_500),
            _ => (0, 300),
        }
    }
}

/// One fault, with all that chance decides about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub kind: Kind,
    /// When it begins, after the beginning of its burst.
    pub after_ms: u64,
    pub lasts_ms: u64,
    /// Any number: which of several victims, which of several ways.
    pub chance: u64,
}

/// Faults that overlap; behind each burst everybody has to recover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Burst {
    pub faults: Vec<Fault>,
    /// Undisturbed writing before it.
    pub calm_ms: u64,
}

/// The bursts of a run with so many faults of these kinds.
pub fn plan(seed: u64, count: usize, kinds: &[Kind]) -> Vec<Burst> {
    let mut rng = Rng::new(seed);
    let mut deck: Vec<Kind> = Vec::new();
    let mut bursts = Vec::new();
    let mut left = count;
    while left > 0 {
        let wanted = (1 + rng.below(3)).min(left);
        let mut faults: Vec<Fault> = Vec::new();
        for _ in 0..wanted {
            if deck.is_empty() {
                deck = shuffled(kinds, &mut rng);
            }
            // The next card that goes together with those drawn already.
            let fits = |kind: &Kind| faults.iter().all(|fault| together(fault.kind, *kind));
            let Some(at) = deck.iter().position(fits) else {
                break;
            };
            let kind = deck.remove(at);
            let (least, most) = kind.lasts();
            faults.push(Fault {
                kind,
                after_ms: if faults.is_empty() {
                    0
                } else {
                    rng.below(400) as u64
                },
                lasts_ms: least + rng.below((most - least + 1) as usize) as u64,
                chance: rng.next(),
            });
        }
        left -= faults.len();
        bursts.push(Burst {
            faults,
            calm_ms: rng.below(300) as u64,
        });
    }
    bursts
}

fn together(a: Kind, b: Kind) -> bool {
    match (a.ground(), b.ground()) {
        (Ground::All, other) | (other, Ground::All) => other == Ground::Clients,
        (a, b) => a != b,
    }
}

fn shuffled(kinds: &[Kind], rng: &mut Rng) -> Vec<Kind> {
    let mut left = kinds.to_vec();
    let mut deck = Vec::with_capacity(left.len());
    while !left.is_empty() {
        deck.push(left.swap_remove(rng.below(left.len())));
    }
    deck
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn faults(bursts: &[Burst]) -> impl Iterator<Item = &Fault> {
        bursts.iter().flat_map(|burst| &burst.faults)
    }

    #[test]
    fn a_seed_is_a_plan() {
        let kinds: Vec<Kind> = Kind::all().collect();
        assert_eq!(plan(7, 200, &kinds), plan(7, 200, &kinds));
        assert_ne!(plan(7, 200, &kinds), plan(8, 200, &kinds));
    }

    #[test]
    fn every_kind_comes_equally_often() {
        let kinds: Vec<Kind> = Kind::all().collect();
        for seed in 0..50 {
            let bursts = plan(seed, kinds.len() * 4, &kinds);
            let mut count = BTreeMap::new();
            for fault in faults(&bursts) {
                *count.entry(fault.kind).or_insert(0) += 1;
            }
            assert_eq!(count.len(), kinds.len());
            assert!(count.values().all(|n| *n == 4), "{count:?}");
        }
    }

    #[test]
    fn what_works_on_the_same_never_overlaps() {
        let kinds: Vec<Kind> = Kind::all().collect();
        for seed in 0..50 {
            for burst in plan(seed, 100, &kinds) {
                assert!((1..=3).contains(&burst.faults.len()));
                for (i, a) in burst.faults.iter().enumerate() {
                    for b in &burst.faults[i + 1..] {
                        assert_ne!(a.kind.ground(), b.kind.ground());
                        if a.kind.ground() == Ground::All {
                            assert_eq!(b.kind.ground(), Ground::Clients);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_fault_lasts_as_long_as_its_kind_allows() {
        let kinds: Vec<Kind> = Kind::all().collect();
        for fault in faults(&plan(3, 1000, &kinds)) {
            let (least, most) = fault.kind.lasts();
            assert!((least..=most).contains(&fault.lasts_ms), "{fault:?}");
        }
        assert_eq!(faults(&plan(3, 1000, &kinds)).count(), 1000);
    }

    #[test]
    fn names_are_different_and_find_their_kind() {
        for kind in Kind::all() {
            assert_eq!(Kind::named(kind.name()), Some(kind));
        }
        assert_eq!(Kind::named("nothing"), None);
        assert!((14..=20).contains(&Kind::quick().count()));
    }
}
