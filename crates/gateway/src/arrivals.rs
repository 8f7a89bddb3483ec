//! How fast one address may connect: a value without IO or clock.
//!
//! Each address has a bucket of tokens that fills again with time; who has used up his is closed without an
//! answer. An IPv6 network of 64 bits counts as one address. Those of proxies,
//! with everybody behind them, are not counted. Memory is bounded: addresses that have been quiet for long
//! enough are forgotten, and when there are too many others, newcomers share one bucket.

use std::{
    net::{IpAddr, Ipv6Addr},
    time::Instant,
};

use rowcast_model::{Bucket, Rate, RateTable};

use crate::Network;

/// Addresses that are remembered.
const MOST_ADDRESSES: usize = 16_384;

/// Who came how often.
#[derive(Debug)]
pub(crate) struct Arrivals {
    /// `None`: as often as one likes.
    rate: Option<Rate>,
    /// Addresses that are not counted.
    proxies: Vec<Network>,
    buckets: RateTable<Bucket>,
    began: Option<Instant>,
}

impl Arrivals {
    /// So many connections a second in the long run, and so many at once. Zero a second: no limit.
    pub(crate) fn new(per_second: u32, burst: u32, proxies: Vec<Network>) -> Arrivals {
        Arrivals {
            rate: Rate::per_second(per_second, burst),
            proxies,
            buckets: RateTable::new(MOST_ADDRESSES),
            began: None,
        }
    }

    /// Whether somebody from this address may connect now.
    pub(crate) fn admit(&mut self, address: IpAddr, now: Instant) -> bool {
        let address = address.to_canonical();
        let proxy = self.proxies.iter().any(|proxy| proxy.contains(address));
        let Some(rate) = self.rate.filter(|_| !proxy) else {
            return true;
        };
        let network = match address {
            IpAddr::V4(_) => address,
            IpAddr::V6(address) => {
                IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)))
            }
        };
        let now = now.saturating_duration_since(*self.began.get_or_insert(now));
        self.buckets.ask(&network, now, |bucket| {
            (bucket.take(&rate, now, 1), bucket.full_at(&rate))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
