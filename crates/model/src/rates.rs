//! How often something may happen, as values without a clock: a bucket that fills again, a fixed window, and a
//! throttle that keeps the last of what came too fast.
//!
//! Time comes in as a span since any fixed moment of a clock that does not go back (if it does, no time has
//! passed). Buckets and windows are exact in milliseconds and small; their rule is handed in with each question, so that
//! it may change between two of them.

use std::{fmt, num::NonZeroU32, str::FromStr, time::Duration};

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// So many in a span of time in the long run, and so many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    amount: NonZeroU32,
    /// In milliseconds, at least one.
    per: u32,
    burst: NonZeroU32,
}

impl Rate {
    /// `amount` in every `per`, and `burst` at once (at least one); `None`, no limit, when `amount` is zero.
    pub fn new(amount: u32, per: Duration, burst: u32) -> Option<Rate> {
        Some(Rate {
            amount: NonZeroU32::new(amount)?,
            per: u32::try_from(per.as_millis()).unwrap_or(u32::MAX).max(1),
            burst: NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN),
        })
    }

    /// `amount` a second, and `burst` at once.
    pub fn per_second(amount: u32, burst: u32) -> Option<Rate> {
        Rate::new(amount, Duration::from_secs(1), burst)
    }

    /// `amount` a second, and `burst` at once; where `amount` is zero, hardly ever more than that burst.
    pub fn at_most(amount: u32, burst: u32) -> Rate {
        let (amount, per) = match NonZeroU32::new(amount) {
            Some(amount) => (amount, 1_000),
            None => (NonZeroU32::MIN, u32::MAX),
        };
        Rate {
            amount,
            per,
            burst: NonZeroU32::new(burst).unwrap_or(NonZeroU32::MIN),
        }
    }

    /// So many in every [`Rate::per`].
    pub fn amount(&self) -> u32 {
        self.amount.get()
    }

    /// The span of time.
    pub fn per(&self) -> Duration {
        Duration::from_millis(self.per.into())
    }

    /// So many at once.
    pub fn burst(&self) -> u32 {
        self.burst.get()
    }

    /// What `n` cost: in `amount`ths of a millisecond.
    fn cost(&self, n: u64) -> u64 {
        n.saturating_mul(self.per.into())
    }
}

/// A text that is no rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be such as \"20/s\", \"100/60 s\" or \"50/s burst 200\"")]
pub struct RateError;

impl FromStr for Rate {
    type Err = RateError;

    /// Reads `20/s`, `100/min`, `100/60 s`, `50/s burst 200`. What is not said of a burst: as many as in one span.
    fn from_str(text: &str) -> Result<Rate, RateError> {
        let (rate, burst) = match text.split_once("burst") {
            Some((rate, burst)) => (rate, Some(number(burst).ok_or(RateError)?)),
            None => (text, None),
        };
        let (amount, span) = rate.split_once('/').ok_or(RateError)?;
        let amount = number(amount).ok_or(RateError)?;
        let span = span.trim();
        let digits = span.find(|c: char| !c.is_ascii_digit()).ok_or(RateError)?;
        let (count, unit) = span.split_at(digits);
        let unit: u32 = match unit.trim() {
            "ms" => 1,
            "s" => 1_000,
            "min" | "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(RateError),
        };
        let count = if digits == 0 { Some(1) } else { number(count) };
        let per = count.and_then(|count| count.checked_mul(unit));
        let per = per.filter(|per| *per > 0).ok_or(RateError)?;
        let per = Duration::from_millis(per.into());
        Rate::new(amount, per, burst.unwrap_or(amount)).ok_or(RateError)
    }
}

fn number(text: &str) -> Option<u32> {
    let text = text.trim().replace('_', "");
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = match self.per {
            1_000 => "s",
            60_000 => "min",
            3_600_000 => "h",
            _ => "",
        };
        match unit {
            "" => write!(f, "{}/{} ms", self.amount, self.per)?,
            unit => write!(f, "{}/{unit}", self.amount)?,
        }
        match self.burst == self.amount {
            true => Ok(()),
            false => write!(f, " burst {}", self.burst),
        }
    }
}

/// A bucket of tokens; full in the beginning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    /// What is missing until it is full, as [`Rate::cost`] counts, at `at`.
    missing: u64,
    at: u64,
}

impl Bucket {
    fn fill(&mut self, rate: &Rate, now: Duration) {
        let now = millis(now);
        let gained = now.saturating_sub(self.at);
        let gained = gained.saturating_mul(rate.amount.get().into());
        self.missing = self.missing.saturating_sub(gained);
        self.at = self.at.max(now);
    }

    /// Takes `n` tokens; false, and takes none, when there are not so many.
    pub fn take(&mut self, rate: &Rate, now: Duration, n: u32) -> bool {
        self.fill(rate, now);
        let missing = self.missing.saturating_add(rate.cost(n.into()));
        let enough = missing <= rate.cost(rate.burst.get().into());
        if enough {
            self.missing = missing;
        }
        enough
    }

    /// Takes `n` tokens if there is one at all, and is short of the others: for what has a size of its own, which
    /// may be larger than what may come at once.
    pub fn spend(&mut self, rate: &Rate, now: Duration, n: u32) -> bool {
        self.fill(rate, now);
        let full = rate.cost(rate.burst.get().into());
        let any = self.missing.saturating_add(rate.cost(1)) <= full;
        if any {
            // A debt is paid within the time of a burst and what it bought, whatever the rule was before.
            self.missing = self.missing.saturating_add(rate.cost(n.into()));
        }
        any
    }

    /// Gives `n` tokens back, that were taken for something that did not happen.
    pub fn give_back(&mut self, rate: &Rate, n: u32) {
        self.missing = self.missing.saturating_sub(rate.cost(n.into()));
    }

    /// When it is full again, if nothing more is taken: nothing has to be remembered of it then.
    pub fn full_at(&self, rate: &Rate) -> Duration {
        let after = self.missing.div_ceil(rate.amount.get().into());
        Duration::from_millis(self.at.saturating_add(after))
    }
}

/// So many in each window of time. A window begins with the first that comes when none is open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Window {
    /// So many in one window.
    pub most: u32,
    /// How long a window is.
    pub span: Duration,
}

impl From<Rate> for Window {
    /// As many as the rate allows in its span.
    fn from(rate: Rate) -> Window {
        Window {
            most: rate.amount(),
            span: rate.per(),
        }
    }
}

/// How many came in the present window.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FixedWindow {
    began: u64,
    count: u32,
}

impl FixedWindow {
    /// Counts one more; false when the window had as many as allowed already. Those refused do not count.
    pub fn take(&mut self, window: &Window, now: Duration) -> bool {
        let over = now >= self.ends_at(window);
        if self.count == 0 || over {
            *self = FixedWindow {
                began: millis(now),
                count: 0,
            };
        }
        let some_left = self.count < window.most;
        self.count += u32::from(some_left);
        some_left
    }

    /// When the window ends, and nothing has to be remembered of it.
    pub fn ends_at(&self, window: &Window) -> Duration {
        Duration::from_millis(self.began.saturating_add(millis(window.span)))
    }
}

/// What a [`Throttle`] says of something new.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Throttled<T> {
    /// Let it go now.
    Now(T),
    /// It is kept, in place of what was kept before; ask [`Throttle::due`] at this time.
    Held(Duration),
}

/// Lets one through in each span of time, the first at once and the last one too, when its time has come
/// (a leading and a trailing edge): whoever looks sees where it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Throttle<T> {
    not_before: Duration,
    held: Option<T>,
}

impl<T> Default for Throttle<T> {
    fn default() -> Self {
        Throttle {
            not_before: Duration::ZERO,
            held: None,
        }
    }
}

impl<T> Throttle<T> {
    /// Something new.
    pub fn offer(&mut self, every: Duration, now: Duration, value: T) -> Throttled<T> {
        if now < self.not_before {
            self.held = Some(value);
            return Throttled::Held(self.not_before);
        }
        self.held = None;
        self.not_before = now.saturating_add(every);
        Throttled::Now(value)
    }

    /// What was kept, if its time has come.
    pub fn due(&mut self, every: Duration, now: Duration) -> Option<T> {
        if now < self.not_before {
            return None;
        }
        let value = self.held.take()?;
        self.not_before = now.saturating_add(every);
        Some(value)
    }

    /// When to ask [`Throttle::due`]; `None`: nothing is kept.
    pub fn next(&self) -> Option<Duration> {
        self.held.as_ref().map(|_| self.not_before)
    }

    /// When nothing has to be remembered of it, unless something is kept.
    pub fn idle_at(&self) -> Duration {
        self.not_before
    }
}

#[cfg(test)]
#[path = "rates_tests.rs"]
mod tests;
