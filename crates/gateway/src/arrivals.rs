//! How fast one address may connect: a value without IO or clock.
//!
//! Each address has a bucket of tokens that fills again with time; who has used up his is closed without an
//! answer. An IPv6 network of 64 bits counts as one address. Those of proxies,
//! with everybody behind them, are not counted. Memory is bounded: addresses that have been quiet for long
//! enough are forgotten, and when there are too many others, newcomers share one bucket.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    time::{Duration, Instant},
};

use crate::Network;

/// Addresses that are remembered.
const MOST_ADDRESSES: usize = 16_384;

/// Who came how often.
#[derive(Debug)]
pub(crate) struct Arrivals {
    per_second: f64,
    burst: f64,
    /// Addresses that are not counted.
    proxies: Vec<Network>,
    buckets: HashMap<IpAddr, Bucket>,
    /// Of all that found no place.
    others: Bucket,
    looked: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    at: Option<Instant>,
}

impl Bucket {
    fn full(burst: f64) -> Bucket {
        Bucket {
            tokens: burst,
            at: None,
        }
    }

    fn filled(&self, now: Instant, per_second: f64, burst: f64) -> f64 {
        let since = self
            .at
            .map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        (self.tokens + since.as_secs_f64() * per_second).min(burst)
    }

    fn take(&mut self, now: Instant, per_second: f64, burst: f64) -> bool {
        let tokens = self.filled(now, per_second, burst);
        self.at = Some(now);
        let enough = tokens >= 1.0;
        self.tokens = if enough { tokens - 1.0 } else { tokens };
        enough
    }
}

impl Arrivals {
    /// So many connections a second in the long run, and so many at once. Zero a second: no limit.
    pub(crate) fn new(per_second: u32, burst: u32, proxies: Vec<Network>) -> Arrivals {
        let burst = f64::from(burst.max(1));
        Arrivals {
            per_second: f64::from(per_second),
            burst,
            proxies,
            buckets: HashMap::new(),
            others: Bucket::full(burst),
            looked: None,
        }
    }

    /// Whether somebody from this address may connect now.
    pub(crate) fn admit(&mut self, address: IpAddr, now: Instant) -> bool {
        let address = address.to_canonical();
        if self.per_second == 0.0 || self.proxies.iter().any(|proxy| proxy.contains(address)) {
            return true;
        }
        let (per_second, burst) = (self.per_second, self.burst);
        let network = match address {
            IpAddr::V4(_) => address,
            IpAddr::V6(address) => {
                IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)))
            }
        };
        if let Some(bucket) = self.buckets.get_mut(&network) {
            return bucket.take(now, per_second, burst);
        }
        if self.buckets.len() >= MOST_ADDRESSES {
            self.forget_quiet(now);
        }
        if self.buckets.len() >= MOST_ADDRESSES {
            return self.others.take(now, per_second, burst);
        }
        let bucket = self.buckets.entry(network).or_insert(Bucket::full(burst));
        bucket.take(now, per_second, burst)
    }

    /// Forgets whose bucket is full again; at most once a second, as it looks at all.
    fn forget_quiet(&mut self, now: Instant) {
        let recent = |at: Instant| now.saturating_duration_since(at) < Duration::from_secs(1);
        if self.looked.is_some_and(recent) {
            return;
        }
        self.looked = Some(now);
        let (per_second, burst) = (self.per_second, self.burst);
        self.buckets
            .retain(|_, bucket| bucket.filled(now, per_second, burst) < burst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_burst_and_then_so_many_a_second() {
        let start = Instant::now();
        let mut arrivals = Arrivals::new(2, 3, vec!["127.0.0.0/8".parse().unwrap()]);
        let one = address("192.0.2.1");
        let admitted = |arrivals: &mut Arrivals, from, at: u64| {
            let now = start + Duration::from_millis(at);
            (0..10).filter(|_| arrivals.admit(from, now)).count()
        };
        assert_eq!(admitted(&mut arrivals, one, 0), 3);
        assert_eq!(admitted(&mut arrivals, one, 400), 0);
        assert_eq!(admitted(&mut arrivals, one, 1000), 2);
        // Others have their own.
        assert_eq!(admitted(&mut arrivals, address("192.0.2.2"), 1000), 3);
        // The same by another name, and one network.
        assert_eq!(
            admitted(&mut arrivals, address("::ffff:192.0.2.2"), 1000),
            0
        );
        assert_eq!(admitted(&mut arrivals, address("2001:db8::1"), 1000), 3);
        assert_eq!(admitted(&mut arrivals, address("2001:db8::2"), 1000), 0);
        assert_eq!(admitted(&mut arrivals, address("2001:db8:0:1::2"), 1000), 3);
        // A proxy, and no limit at all.
        assert_eq!(admitted(&mut arrivals, address("127.0.0.1"), 1000), 10);
        assert_eq!(admitted(&mut Arrivals::new(0, 0, Vec::new()), one, 0), 10);
    }

    #[test]
    fn many_addresses_take_no_more_memory() {
        let start = Instant::now();
        let mut arrivals = Arrivals::new(1, 1, Vec::new());
        let many = |from: u32| (from..).map(|i| IpAddr::V4((0x0a00_0000 + i).into()));
        for address in many(0).take(MOST_ADDRESSES) {
            assert!(arrivals.admit(address, start));
        }
        // The rest share one bucket.
        let more = many(1 << 20).take(10);
        assert_eq!(more.filter(|more| arrivals.admit(*more, start)).count(), 1);
        assert_eq!(arrivals.buckets.len(), MOST_ADDRESSES);
        // Who was quiet is forgotten.
        assert!(arrivals.admit(address("192.0.2.1"), start + Duration::from_secs(5)));
        assert_eq!(arrivals.buckets.len(), 1);
    }
}
