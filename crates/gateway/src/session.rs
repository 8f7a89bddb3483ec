//! One authenticated socket's time and patience, as a value: when to ask for a sign of life and when to give
//! one, when it has been silent too long, when its token ends, how many frames it may send. No IO; time comes in.

use std::time::{Duration, Instant};

use rowcast_hub::spread;
use rowcast_model::{Bucket, Rate};
use rowcast_wire::CloseCode;

use crate::{
    SocketLimits,
    limits::{Exceeded, Kind, Level, Quota},
};

/// What is due now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing.
    Nothing,
    /// Ask for a sign of life.
    Ping,
    /// Tell how far the socket is.
    Position,
    /// Close.
    Close(CloseCode),
}

/// What to do with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admit {
    /// Handle it.
    Yes,
    /// Refuse it with an error.
    TooFast(Exceeded),
    /// Too much was refused: close.
    Close(Exceeded),
}

fn exceeded(kind: Kind) -> Exceeded {
    Exceeded {
        kind,
        level: Level::Connection,
    }
}

/// A time as it is kept ten thousand times: small.
#[derive(Clone, Copy, Debug)]
struct Millis(u32);

impl Millis {
    fn of(time: Duration) -> Millis {
        Millis(u32::try_from(time.as_millis()).unwrap_or(u32::MAX))
    }

    fn get(self) -> Duration {
        Duration::from_millis(self.0.into())
    }
}

/// The state.
#[derive(Clone, Debug)]
pub struct Session {
    heard: Instant,
    pinged: Option<Instant>,
    expires: Option<Instant>,
    /// When to tell the position next.
    position: Instant,
    position_interval: Millis,
    ping_interval: Millis,
    silence: Millis,
    began: Instant,
    messages: Bucket,
    bytes: Bucket,
    /// Made with the first of them: nearly all sockets ask for nothing and send nothing.
    rare: Option<Box<Rare>>,
    bad: u32,
    most_bad: u32,
    /// How it ends when what was shown ends.
    expiry: CloseCode,
}

/// Counts of what few sockets do.
#[derive(Clone, Copy, Debug, Default)]
struct Rare {
    joins: Bucket,
    broadcasts: Bucket,
}

impl Session {
    /// A session that begins now; `expires` is when the token ends.
    pub fn new(limits: &SocketLimits, now: Instant, expires: Option<Instant>) -> Session {
        Session {
            heard: now,
            pinged: None,
            expires,
            position: now + limits.position_interval,
            position_interval: Millis::of(limits.position_interval),
            ping_interval: Millis::of(limits.ping_interval),
            silence: Millis::of(limits.silence),
            began: now,
            messages: Bucket::default(),
            bytes: Bucket::default(),
            rare: None,
            bad: 0,
            most_bad: limits.bad_frames,
            expiry: CloseCode::TokenExpired,
        }
    }

    /// The same for one that has shown an API key.
    pub fn of_key(mut self) -> Session {
        self.expiry = CloseCode::KeyExpired;
        self
    }

    /// The same for one that neither asks for signs of life nor tells positions: its client does the one by itself,
    /// and knows nothing of the other.
    pub fn quiet(mut self) -> Session {
        const NEVER: Millis = Millis(u32::MAX);
        self.ping_interval = NEVER;
        self.position_interval = NEVER;
        self.position += NEVER.get();
        self
    }

    /// The same, telling the position for the first time at another moment than those who came at once.
    pub fn spread(mut self, number: u64) -> Session {
        self.position -= self.position_interval.get().mul_f64(spread(number) / 2.0);
        self
    }

    /// Something came from the client.
    pub fn heard(&mut self, now: Instant) {
        self.heard = now;
        self.pinged = None;
    }

    /// When the token ends, if it does.
    pub fn expires(&self) -> Option<Instant> {
        self.expires
    }

    /// Another token counts from here on.
    pub fn renewed(&mut self, expires: Option<Instant>) {
        self.expires = expires;
    }

    /// Whether a frame of so many bytes may be handled.
    pub(crate) fn admit(&mut self, quota: &Quota, bytes: usize, now: Instant) -> Admit {
        let at = self.at(now);
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let rates = &quota.connection;
        let messages = rates.messages;
        let kind = if messages.is_some_and(|rate| !self.messages.take(&rate, at, 1)) {
            Kind::Messages
        } else if rates
            .bytes
            .is_some_and(|rate| !self.bytes.spend(&rate, at, bytes))
        {
            Kind::Bytes
        } else {
            return Admit::Yes;
        };
        match self.refused() {
            true => Admit::Close(exceeded(kind)),
            false => Admit::TooFast(exceeded(kind)),
        }
    }

    /// Whether something more may be subscribed to.
    pub(crate) fn may_join(&mut self, quota: &Quota, now: Instant) -> Result<(), Exceeded> {
        let at = self.at(now);
        let joins = &mut self.rare.get_or_insert_default().joins;
        match quota.connection.joins {
            Some(rate) if !joins.take(&rate, at, 1) => Err(exceeded(Kind::Joins)),
            _ => Ok(()),
        }
    }

    /// Whether something may be said to others. Who says more is refused, and not closed for that: a cursor
    /// that moves too often is nobody's attack.
    pub fn may_say(&mut self, limits: &SocketLimits, now: Instant) -> bool {
        let at = self.at(now);
        let rate = Rate::at_most(limits.broadcasts_per_second, limits.broadcasts_burst);
        let broadcasts = &mut self.rare.get_or_insert_default().broadcasts;
        broadcasts.take(&rate, at, 1)
    }

    fn at(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.began)
    }

    /// A frame was refused; true when that was one too many.
    pub fn refused(&mut self) -> bool {
        self.bad += 1;
        self.bad > self.most_bad
    }

    /// What is due. Asking says that a due ping or position is sent.
    pub fn due(&mut self, now: Instant) -> Due {
        if self.expires.is_some_and(|at| at <= now) {
            return Due::Close(self.expiry);
        }
        if now.saturating_duration_since(self.heard) >= self.silence.get() {
            return Due::Close(CloseCode::PingTimeout);
        }
        if now >= self.next_ping() {
            self.pinged = Some(now);
            return Due::Ping;
        }
        if now >= self.position {
            self.position = now + self.position_interval.get();
            return Due::Position;
        }
        Due::Nothing
    }

    /// When to ask `due` again.
    pub fn next(&self) -> Instant {
        let life = self.next_ping().min(self.heard + self.silence.get());
        let next = life.min(self.position);
        self.expires.map_or(next, |at| next.min(at))
    }

    fn next_ping(&self) -> Instant {
        self.pinged.unwrap_or(self.heard) + self.ping_interval.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LevelRates;

    fn session(expires: Option<u64>) -> (Session, Instant) {
        let now = Instant::now();
        let limits = SocketLimits {
            bad_frames: 2,
            position_interval: Duration::from_secs(3600),
            ..SocketLimits::default()
        };
        (
            Session::new(
                &limits,
                now,
                expires.map(|seconds| now + Duration::from_secs(seconds)),
            ),
            now,
        )
    }

    #[test]
    fn silence_is_asked_then_closed() {
        let (mut session, start) = session(None);
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(session.next(), at(25));
        assert_eq!(session.due(at(24)), Due::Nothing);
        assert_eq!(session.due(at(25)), Due::Ping);
        assert_eq!(session.due(at(26)), Due::Nothing);
        assert_eq!(session.due(at(50)), Due::Ping);
        assert_eq!(session.next(), at(60));
        assert_eq!(session.due(at(60)), Due::Close(CloseCode::PingTimeout));
        session.heard(at(59));
        assert_eq!(session.due(at(60)), Due::Nothing);
        assert_eq!(session.next(), at(84));
    }

    #[test]
    fn a_token_ends_when_it_ends_and_not_when_renewed() {
        let (mut session, start) = session(Some(10));
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(session.next(), at(10));
        assert_eq!(session.due(at(9)), Due::Nothing);
        assert_eq!(session.due(at(10)), Due::Close(CloseCode::TokenExpired));
        session.renewed(Some(at(20)));
        assert_eq!(session.due(at(10)), Due::Nothing);
        assert_eq!(session.due(at(20)), Due::Close(CloseCode::TokenExpired));
    }

    #[test]
    fn the_position_is_told_again_and_again_and_not_to_all_at_once() {
        let now = Instant::now();
        let limits = SocketLimits::default();
        let interval = limits.position_interval;
        let mut firsts: Vec<Duration> = (0..100)
            .map(|number| {
                let mut session = Session::new(&limits, now, None).spread(number);
                let first = session.next();
                assert!(first <= now + interval);
                assert_eq!(session.due(first), Due::Position);
                assert_eq!(session.due(first), Due::Nothing);
                assert_eq!(session.next(), first + interval);
                first - now
            })
            .collect();
        firsts.sort_unstable();
        let gaps = firsts.windows(2).map(|pair| pair[1] - pair[0]);
        assert!(gaps.max() < Some(interval / 20));
    }

    #[test]
    fn broadcasts_have_a_ration_of_their_own() {
        let now = Instant::now();
        let limits = SocketLimits {
            broadcasts_per_second: 2,
            broadcasts_burst: 1,
            ..SocketLimits::default()
        };
        let mut session = Session::new(&limits, now, None);
        assert!(session.may_say(&limits, now) && !session.may_say(&limits, now));
        assert_eq!(session.admit(&limits.platform(), 1, now), Admit::Yes);
        let later = now + Duration::from_millis(500);
        assert!(session.may_say(&limits, later) && !session.may_say(&limits, later));
    }

    #[test]
    fn joins_and_bytes_are_rationed() {
        let (mut session, now) = session(None);
        let limits = SocketLimits {
            socket_rates: LevelRates {
                joins: Rate::per_second(1, 2),
                bytes: Rate::per_second(1000, 1000),
                ..LevelRates::default()
            },
            ..SocketLimits::default()
        };
        let quota = limits.platform();
        let joins = [(); 3].map(|()| session.may_join(&quota, now));
        assert_eq!(joins, [Ok(()), Ok(()), Err(exceeded(Kind::Joins))]);
        assert_eq!(session.admit(&quota, 1500, now), Admit::Yes);
        let refused = Admit::TooFast(exceeded(Kind::Bytes));
        assert_eq!(session.admit(&quota, 1, now), refused);
        let later = now + Duration::from_secs(1);
        assert_eq!(session.admit(&quota, 1, later), Admit::Yes);
        assert_eq!(session.may_join(&quota, later), Ok(()));
    }

    #[test]
    fn frames_are_rationed_and_patience_ends() {
        let (mut session, now) = session(None);
        let limits = SocketLimits {
            frames_per_second: 1,
            frames_burst: 2,
            ..SocketLimits::default()
        };
        let quota = limits.platform();
        let mut admit = |now| session.admit(&quota, 1, now);
        assert_eq!([admit(now), admit(now)], [Admit::Yes, Admit::Yes]);
        let too_many = exceeded(Kind::Messages);
        assert_eq!(admit(now), Admit::TooFast(too_many));
        let later = now + Duration::from_secs(1);
        assert_eq!(admit(later), Admit::Yes);
        assert_eq!(admit(later), Admit::TooFast(too_many));
        assert_eq!(admit(later), Admit::Close(too_many));
    }
}
