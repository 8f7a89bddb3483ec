//! How many may be present, with how much to say, and how often others are told.

use std::time::Duration;

/// Limits of presence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PresenceLimits {
    /// Channels of organizations (`org:…`) have members.
    pub organizations: bool,
    /// Channels of users (`user:…`) have members: the user's own connections.
    pub users: bool,
    /// A member whose socket broke stays for so long, so that he can come back unnoticed.
    pub grace: Duration,
    /// A member who has given no sign of life for so long is not there any more.
    pub expiry: Duration,
    /// Shortest time between two differences of one channel.
    pub tick: Duration,
    /// The same for a channel that very many follow.
    pub longest_tick: Duration,
    /// Users that are listed, those who came first; of the others it is told how many there are.
    pub listed: usize,
    /// Connections that may be present on one channel.
    pub members: usize,
    /// Connections of one user that may be present on one channel.
    pub connections_per_user: usize,
    /// Bytes of one state.
    pub state_bytes: usize,
    /// Bytes of all members of all channels.
    pub bytes: usize,
    /// Bytes a second that the differences of one channel may take, all who follow it together; beyond it they
    /// come less often.
    pub bytes_per_second: usize,
}

impl Default for PresenceLimits {
    fn default() -> Self {
        PresenceLimits {
            organizations: false,
            users: false,
            grace: Duration::from_secs(5),
            expiry: Duration::from_secs(300),
            tick: Duration::from_millis(50),
            longest_tick: Duration::from_secs(1),
            listed: 100,
            members: 10_000,
            connections_per_user: 8,
            state_bytes: 1024,
            bytes: 32 << 20,
            bytes_per_second: 32 << 20,
        }
    }
}

/// By so much the time between two differences grows with each follower.
const TICK_PER_FOLLOWER: Duration = Duration::from_micros(100);
/// However much there is to tell, it is not put off longer than so many of the longest ticks.
const LONGEST_TICKS: u32 = 10;

impl PresenceLimits {
    /// The time to the next difference, after one of so many bytes to all followers together.
    pub(crate) fn pause(&self, followers: usize, bytes: usize) -> Duration {
        let followers = u32::try_from(followers).unwrap_or(u32::MAX);
        let grown = self.tick + TICK_PER_FOLLOWER.saturating_mul(followers);
        let by_number = grown.min(self.longest_tick.max(self.tick));
        let bytes = bytes as u64;
        let rate = (self.bytes_per_second as u64).max(1);
        let by_bytes = Duration::from_millis(bytes.saturating_mul(1000) / rate);
        by_number.max(by_bytes.min(self.longest_tick * LONGEST_TICKS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tick_grows_with_the_followers_and_with_what_they_are_told() {
        let limits = PresenceLimits::default();
        let millis = |followers, bytes| limits.pause(followers, bytes).as_millis();
        assert_eq!(millis(0, 0), 50);
        assert_eq!(millis(1_000, 200_000), 150);
        assert_eq!(millis(10_000, 2_000_000), 1_000);
        // A good 30 times what may be told in a second.
        assert_eq!(millis(10_000, 1_000 << 20), 10_000);
        assert_eq!(millis(1_000, 100 << 20), 3_125);
    }
}
