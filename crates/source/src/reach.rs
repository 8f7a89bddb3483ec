//! Which address of a host answers.
//!
//! A name may stand for several addresses, of which some lead nowhere: IPv6 without a way out is the usual one.
//! They are tried one after the other, each for a short time; the one that answered last is tried first, so
//! that a dead one costs its time once and not with every connection.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio_postgres::{Config, config::Host};

/// How long one of several addresses may take to take a connection.
pub(crate) const ADDRESS_TIMEOUT: Duration = Duration::from_secs(3);

/// The address that answered last; shared by all copies of a database's address.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answered(Arc<Mutex<Option<IpAddr>>>);

impl Answered {
    pub(crate) fn get(&self) -> Option<IpAddr> {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set(&self, address: IpAddr) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(address);
    }
}

/// The addresses of a single host of several addresses, in the order in which to try them; none where there is no
/// choice, or where nobody can be asked: then the client itself says what is wrong.
pub(crate) async fn addresses(config: &Config, last: Option<IpAddr>) -> Vec<IpAddr> {
    let ([Host::Tcp(name)], []) = (config.get_hosts(), config.get_hostaddrs()) else {
        return Vec::new();
    };
    let port = config.get_ports().first().copied().unwrap_or(5432);
    let found = match tokio::net::lookup_host((name.as_str(), port)).await {
        Ok(found) => found.map(|address| address.ip()).collect(),
        Err(_) => Vec::new(),
    };
    in_order(found, last)
}

fn in_order(found: Vec<IpAddr>, last: Option<IpAddr>) -> Vec<IpAddr> {
    let mut order: Vec<IpAddr> = last
        .filter(|last| found.contains(last))
        .into_iter()
        .collect();
    for address in found {
        if !order.contains(&address) {
            order.push(address);
        }
    }
    match order.len() {
        0 | 1 => Vec::new(),
        _ => order,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn what_answered_last_comes_first() {
        let found = || ips(&["::1", "127.0.0.1", "127.0.0.1", "10.0.0.1"]);
        let last = |text: &str| Some(text.parse().unwrap());
        assert_eq!(
            in_order(found(), None),
            ips(&["::1", "127.0.0.1", "10.0.0.1"])
        );
        assert_eq!(
            in_order(found(), last("127.0.0.1")),
            ips(&["127.0.0.1", "::1", "10.0.0.1"])
        );
        // The name may stand for other addresses by now.
        assert_eq!(
            in_order(found(), last("10.9.9.9")),
            ips(&["::1", "127.0.0.1", "10.0.0.1"])
        );
        assert_eq!(in_order(ips(&["::1", "::1"]), last("::1")), ips(&[]));
        assert_eq!(in_order(ips(&[]), None), ips(&[]));
    }
}
