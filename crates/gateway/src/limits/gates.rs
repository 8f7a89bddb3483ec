//! Counts what users and organizations do with all their sockets together. A value behind two locks that are held for
//! a look-up.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use rowcast_model::{Bucket, FixedWindow, OrgId, Rate, RateTable, UserId, Window};

use super::quota::{Exceeded, Kind, Level, LevelRates, Quota};

/// Users that are counted at a time, and organizations; when there are more, newcomers share one count.
pub const MOST_COUNTED: usize = 65_536;
/// What all counts take at most.
pub const GATE_BYTES: usize = 2 * MOST_COUNTED * RateTable::<Counts>::ENTRY_BYTES;

/// What one of them did.
#[derive(Debug, Default)]
pub struct Counts {
    connects: Bucket,
    joins: Bucket,
    messages: Bucket,
    bytes: Bucket,
    requests: FixedWindow,
}

/// Whose socket it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Who<'a> {
    pub user: &'a UserId,
    /// Of an API key, which is not the user whose name is its id.
    pub is_key: bool,
    pub organization: &'a OrgId,
}

/// The counts.
#[derive(Debug)]
pub(crate) struct Gates {
    began: Instant,
    users: Mutex<RateTable<Counts>>,
    organizations: Mutex<RateTable<Counts>>,
}

impl Counts {
    fn take(&mut self, rates: &LevelRates, kind: Kind, n: u32, now: Duration) -> bool {
        let one = |bucket: &mut Bucket, rate: Option<Rate>| {
            rate.is_none_or(|rate| bucket.take(&rate, now, n))
        };
        match kind {
            Kind::Connects => one(&mut self.connects, rates.connects),
            Kind::Joins => one(&mut self.joins, rates.joins),
            Kind::Messages => one(&mut self.messages, rates.messages),
            // A message has the size it has.
            Kind::Bytes => (rates.bytes).is_none_or(|rate| self.bytes.spend(&rate, now, n)),
            Kind::Requests => (rates.requests).is_none_or(|rate| {
                let window = Window::from(rate);
                self.requests.take(&window, now)
            }),
            Kind::Connections => true,
        }
    }

    /// When nothing has to be remembered.
    fn idle_at(&self, rates: &LevelRates) -> Duration {
        let full = |bucket: &Bucket, rate: Option<Rate>| {
            rate.map_or(Duration::ZERO, |rate| bucket.full_at(&rate))
        };
        let window = rates.requests.map(Window::from);
        let window = window.map_or(Duration::ZERO, |window| self.requests.ends_at(&window));
        full(&self.connects, rates.connects)
            .max(full(&self.joins, rates.joins))
            .max(full(&self.messages, rates.messages))
            .max(full(&self.bytes, rates.bytes))
            .max(window)
    }

    fn give_back(&mut self, rates: &LevelRates, kind: Kind, n: u32) {
        let (bucket, rate) = match kind {
            Kind::Connects => (&mut self.connects, rates.connects),
            Kind::Joins => (&mut self.joins, rates.joins),
            Kind::Messages => (&mut self.messages, rates.messages),
            Kind::Bytes => (&mut self.bytes, rates.bytes),
            Kind::Requests | Kind::Connections => return,
        };
        if let Some(rate) = rate {
            bucket.give_back(&rate, n);
        }
    }
}

fn limits(rates: &LevelRates, kind: Kind) -> bool {
    match kind {
        Kind::Connects => rates.connects.is_some(),
        Kind::Joins => rates.joins.is_some(),
        Kind::Messages => rates.messages.is_some(),
        Kind::Bytes => rates.bytes.is_some(),
        Kind::Requests => rates.requests.is_some(),
        Kind::Connections => false,
    }
}

impl Gates {
    pub(crate) fn new(most: usize, began: Instant) -> Gates {
        Gates {
            began,
            users: Mutex::new(RateTable::new(most)),
            organizations: Mutex::new(RateTable::new(most)),
        }
    }

    /// Whether a user, in an organization with this quota, may do this `n` times more now. What is refused to the
    /// organization is not counted to the user.
    pub(crate) fn ask(
        &self,
        who: Who<'_>,
        quota: &Quota,
        kind: Kind,
        n: u32,
        now: Instant,
    ) -> Result<(), Exceeded> {
        let now = now.saturating_duration_since(self.began);
        let count = |table: &Mutex<RateTable<Counts>>, rates: &LevelRates, name: (bool, &str)| {
            if !limits(rates, kind) {
                return true;
            }
            table.lock().ask(&name, now, |counts| {
                let took = counts.take(rates, kind, n, now);
                (took, counts.idle_at(rates))
            })
        };
        let user = (who.is_key, who.user.as_str());
        let exceeded = |level| Err(Exceeded { kind, level });
        if !count(&self.users, &quota.user, user) {
            return exceeded(Level::User);
        }
        let organization = (false, who.organization.as_str());
        if count(&self.organizations, &quota.organization, organization) {
            return Ok(());
        }
        if limits(&quota.user, kind) {
            let mut users = self.users.lock();
            users.ask(&user, now, |counts| {
                counts.give_back(&quota.user, kind, n);
                ((), counts.idle_at(&quota.user))
            });
        }
        exceeded(Level::Organization)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(user: LevelRates, organization: LevelRates) -> Quota {
        Quota {
            connections: 1,
            connection: LevelRates::default(),
            user,
            organization,
        }
    }

    fn joins(rate: &str) -> LevelRates {
        LevelRates {
            joins: Some(rate.parse().unwrap()),
            ..LevelRates::default()
        }
    }

    #[test]
    fn one_who_does_too_much_is_refused_and_nobody_else() {
        let began = Instant::now();
        let gates = Gates::new(100, began);
        let quota = quota(joins("2/s"), joins("3/s"));
        let (anna, bert) = ((false, "anna".into()), (false, "bert".into()));
        let key = (true, "anna".into());
        let (acme, beta) = ("acme".into(), "beta".into());
        let ask = |(is_key, user): &(bool, UserId), organization, at: u64| {
            let who = Who {
                user,
                is_key: *is_key,
                organization,
            };
            let now = began + Duration::from_millis(at);
            gates.ask(who, &quota, Kind::Joins, 1, now)
        };
        let refused = |level| {
            let kind = Kind::Joins;
            Err(Exceeded { kind, level })
        };
        assert_eq!(ask(&anna, &acme, 0), Ok(()));
        assert_eq!(ask(&anna, &acme, 0), Ok(()));
        assert_eq!(ask(&anna, &acme, 0), refused(Level::User));
        // One is left to the organization; a key with the name of a user is not that user.
        assert_eq!(ask(&key, &acme, 0), Ok(()));
        assert_eq!(ask(&bert, &acme, 0), refused(Level::Organization));
        // That was not counted to him.
        assert_eq!(ask(&bert, &beta, 0), Ok(()));
        assert_eq!(ask(&bert, &beta, 0), Ok(()));
        assert_eq!(ask(&bert, &beta, 0), refused(Level::User));
        assert_eq!(ask(&anna, &beta, 500), Ok(()));
    }

    /// C18: a fixed window for each user, all sockets together.
    #[test]
    fn c18_requests_are_counted_in_a_fixed_window_for_each_user() {
        let began = Instant::now();
        let gates = Gates::new(100, began);
        let window = LevelRates {
            requests: Some("100/60 s".parse().unwrap()),
            ..LevelRates::default()
        };
        let quota = quota(window, LevelRates::default());
        let acme = "acme".into();
        let asked = |user: &str, at: u64| {
            let who = Who {
                user: &user.into(),
                is_key: false,
                organization: &acme,
            };
            let now = began + Duration::from_millis(at);
            gates.ask(who, &quota, Kind::Requests, 1, now).is_ok()
        };
        let went = |user, at| (0..150).filter(|_| asked(user, at)).count();
        assert_eq!(went("anna", 0), 100);
        assert_eq!(went("anna", 59_999), 0);
        assert_eq!(went("bert", 59_999), 100);
        assert_eq!(went("anna", 60_000), 100);
    }

    #[test]
    fn what_is_not_limited_is_not_remembered() {
        let began = Instant::now();
        let gates = Gates::new(10, began);
        let quota = quota(LevelRates::default(), joins("1/s"));
        let user = "anna".into();
        for i in 0..1000 {
            let organization = format!("o{i}").into();
            let who = Who {
                user: &user,
                is_key: false,
                organization: &organization,
            };
            let _ = gates.ask(who, &quota, Kind::Joins, 1, began);
            assert_eq!(gates.ask(who, &quota, Kind::Messages, 1, began), Ok(()));
        }
        assert_eq!(gates.users.lock().len(), 0);
        assert_eq!(gates.organizations.lock().len(), 10);
    }
}
