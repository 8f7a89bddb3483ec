//! What the application has signed and a client brings, and which of it was revoked since. A value; time comes in.
//!
//! A grant is taken when it is about this channel, this user and this organization, has not ended, and no revocation
//! came since. So that these need not be remembered for ever, a grant is taken only for as long as they are: what was
//! issued before the service knows of revocations, or before one that it had to forget, is not taken.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use rowcast_model::{OrgId, Topic, UserId};

use crate::{HubError, pass::Yes, state::Map};

/// Seconds by which the clock of the application may be ahead.
const CLOCKS: u64 = 60;

/// A grant whose signature was checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShownGrant {
    /// The channel that it is for.
    pub channel: Arc<str>,
    /// The user that it is for.
    pub user: UserId,
    /// The organization of the channel; `None`: it is global.
    pub organization: Option<OrgId>,
    /// The number of the access list that it was given by.
    pub epoch: Option<i64>,
    /// When it was issued, in seconds since 1970.
    pub issued_at: u64,
    /// When it ends, in seconds since 1970.
    pub expires_at: u64,
}

/// The last revocation of one channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Revoked {
    /// The highest number that was named.
    epoch: Option<i64>,
    /// The last one that named none, in seconds since 1970.
    all_at: u64,
    at: u64,
}

/// Revocations that a grant may be from before.
#[derive(Debug, Default)]
pub(crate) struct Revocations {
    by_topic: Map<Topic, Revoked>,
    by_time: BTreeMap<(u64, u64), Topic>,
    numbers: u64,
    /// What was issued before this is not taken.
    since: Option<u64>,
    /// How far the log reaches back is not known yet.
    open: bool,
}

impl Revocations {
    /// Nothing is known of what was before now.
    pub fn begin(&mut self, now: u64) {
        self.since = Some(self.since.map_or(now, |since| since.max(now)));
        self.open = true;
    }

    /// Everything from this moment on was read in the log.
    pub fn reaches_back(&mut self, to: u64) {
        if std::mem::take(&mut self.open) {
            self.since = Some(self.since.map_or(to, |since| since.min(to)));
        }
    }

    /// Notes one; at most so many are kept, each for so long.
    pub fn note(
        &mut self,
        topic: &Topic,
        epoch: Option<i64>,
        at: u64,
        most: usize,
        keep: Duration,
    ) {
        let before = self.by_topic.get(topic).copied();
        let all_at = before.map_or(0, |before| before.all_at);
        self.by_topic.insert(
            topic.clone(),
            Revoked {
                epoch: before.and_then(|before| before.epoch).max(epoch),
                all_at: if epoch.is_none() { at } else { all_at },
                at,
            },
        );
        self.numbers += 1;
        self.by_time.insert((at, self.numbers), topic.clone());
        let old = at.saturating_sub(keep.as_secs());
        while let Some(((oldest, _), topic)) =
            self.by_time.first_key_value().map(|(k, t)| (*k, t.clone()))
        {
            let crowded = self.by_time.len() > most;
            if oldest >= old && !crowded {
                break;
            }
            self.by_time.pop_first();
            if self
                .by_topic
                .get(&topic)
                .is_some_and(|revoked| revoked.at <= oldest)
            {
                self.by_topic.remove(&topic);
            }
            self.since = Some(self.since.map_or(oldest, |since| since.max(oldest)));
            self.open = false;
        }
    }

    /// How long a grant lets its bearer stay.
    ///
    /// # Errors
    /// Why it is not taken.
    pub fn check(
        &self,
        shown: &ShownGrant,
        topic: &Topic,
        user: Option<&UserId>,
        now: u64,
        keep: Duration,
    ) -> Result<Yes, HubError> {
        let Topic::Channel(organization, name) = topic else {
            return Err(HubError::GrantOfAnother("channel"));
        };
        if shown.channel != *name {
            return Err(HubError::GrantOfAnother("channel"));
        }
        if Some(&shown.user) != user {
            return Err(HubError::GrantOfAnother("user"));
        }
        if shown.organization != *organization {
            return Err(HubError::GrantOfAnother("organization"));
        }
        let left = shown.expires_at.saturating_sub(now);
        let oldest = now.saturating_sub(keep.as_secs());
        let known = self.since.is_some_and(|since| shown.issued_at > since);
        let early = shown.issued_at > now.saturating_add(CLOCKS);
        if early || left == 0 || shown.issued_at < oldest || !known {
            return Err(HubError::GrantOver);
        }
        if let Some(revoked) = self.by_topic.get(topic) {
            let outlasts = match (shown.epoch, revoked.epoch) {
                (_, None) => true,
                (Some(epoch), Some(needed)) => epoch >= needed,
                (None, Some(_)) => shown.issued_at > revoked.at,
            };
            if !outlasts || shown.issued_at <= revoked.all_at {
                return Err(HubError::GrantOver);
            }
        }
        Ok(Yes {
            ttl: Duration::from_secs(left.min(86_400)),
            epoch: shown.epoch,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Duration = Duration::from_secs(600);

    fn topic(name: &str) -> Topic {
        Topic::Channel(Some("acme".into()), name.into())
    }

    fn grant(epoch: Option<i64>, issued_at: u64) -> ShownGrant {
        ShownGrant {
            channel: "room:42".into(),
            user: "anna".into(),
            organization: Some("acme".into()),
            epoch,
            issued_at,
            expires_at: issued_at + 60,
        }
    }

    fn code(checked: Result<Yes, HubError>) -> Result<u64, &'static str> {
        checked
            .map(|yes| yes.ttl.as_secs())
            .map_err(|error| error.code())
    }

    #[test]
    fn a_grant_is_for_one_channel_user_and_organization_and_ends() {
        let mut known = Revocations::default();
        let check = |known: &Revocations, shown: ShownGrant, user: Option<&str>, now| {
            let user = user.map(UserId::from);
            code(known.check(&shown, &topic("room:42"), user.as_ref(), now, KEEP))
        };
        let good = || grant(Some(1), 1000);
        assert_eq!(
            check(&known, good(), Some("anna"), 1000),
            Err("grant_expired"),
            "nothing is known yet"
        );
        known.begin(900);
        assert_eq!(check(&known, good(), Some("anna"), 1000), Ok(60));
        assert_eq!(check(&known, good(), Some("anna"), 1059), Ok(1));
        assert_eq!(
            check(&known, good(), Some("anna"), 1060),
            Err("grant_expired")
        );
        assert_eq!(
            check(&known, good(), Some("bert"), 1000),
            Err("grant_invalid")
        );
        assert_eq!(check(&known, good(), None, 1000), Err("grant_invalid"));
        assert_eq!(
            check(&known, good(), Some("anna"), 939),
            Err("grant_expired")
        );
        let other = |change: fn(&mut ShownGrant)| {
            let mut other = good();
            change(&mut other);
            check(&known, other, Some("anna"), 1000)
        };
        assert_eq!(
            other(|grant| grant.channel = "room:43".into()),
            Err("grant_invalid")
        );
        assert_eq!(
            other(|grant| grant.organization = Some("other".into())),
            Err("grant_invalid")
        );
        assert_eq!(
            other(|grant| grant.organization = None),
            Err("grant_invalid")
        );
        let old = ShownGrant {
            expires_at: 9000,
            ..good()
        };
        assert_eq!(check(&known, old.clone(), Some("anna"), 1600), Ok(7400));
        assert_eq!(check(&known, old, Some("anna"), 1601), Err("grant_expired"));
    }

    #[test]
    fn what_was_revoked_since_is_not_taken() {
        let mut known = Revocations::default();
        known.begin(900);
        let anna = UserId::from("anna");
        let check = |known: &Revocations, epoch, issued| {
            code(known.check(
                &grant(epoch, issued),
                &topic("room:42"),
                Some(&anna),
                1010,
                KEEP,
            ))
            .is_ok()
        };
        known.note(&topic("room:42"), Some(5), 1000, 10, KEEP);
        assert!(check(&known, Some(5), 990) && !check(&known, Some(4), 1005));
        assert!(!check(&known, None, 1000) && check(&known, None, 1001));
        known.note(&topic("room:42"), None, 1002, 10, KEEP);
        assert!(
            !check(&known, Some(9), 1002)
                && check(&known, Some(5), 1003)
                && !check(&known, Some(4), 1003)
        );
        known.note(&topic("room:42"), Some(3), 1004, 10, KEEP);
        assert!(!check(&known, Some(4), 1005));
    }

    #[test]
    fn what_has_to_be_forgotten_moves_the_beginning() {
        let mut known = Revocations::default();
        known.begin(0);
        for room in 0..100 {
            known.note(
                &topic(&format!("room:{room}")),
                Some(1),
                1000 + room,
                10,
                KEEP,
            );
        }
        assert!(known.by_topic.len() <= 10 && known.by_time.len() <= 10);
        let anna = UserId::from("anna");
        let check = |issued| {
            let checked = known.check(
                &grant(Some(0), issued),
                &topic("room:42"),
                Some(&anna),
                1101,
                KEEP,
            );
            code(checked)
        };
        assert_eq!(
            check(1089),
            Err("grant_expired"),
            "it may have been revoked"
        );
        assert!(check(1095).is_ok());
        // By age the same.
        known.note(&topic("late"), Some(1), 5000, 10, KEEP);
        assert_eq!((known.by_topic.len(), known.by_time.len()), (1, 1));
    }

    #[test]
    fn the_log_may_reach_farther_back_than_the_process() {
        let mut known = Revocations::default();
        known.begin(1000);
        known.reaches_back(400);
        known.reaches_back(900);
        assert_eq!(known.since, Some(400));
        known.begin(2000);
        known.reaches_back(3000);
        assert_eq!(known.since, Some(2000));
    }
}
