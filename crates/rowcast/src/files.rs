//! How many connections the file descriptors of the process are enough for. The sockets of clients never get
//! all: what is kept back is for the database, the internal port and the log.

use rowcast_gateway::INTERNAL_CONNECTIONS;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::memory::Places;

/// Descriptors that no client gets: for the internal port, the database, the log.
const KEPT_BACK: u64 = INTERNAL_CONNECTIONS as u64 + 50;
/// HTTP connections at a time, where there are descriptors enough.
const REQUESTS: u64 = 2_000;

/// Raises the limit of open files as far as the process may, and says what it is then; `None`: no limit.
pub fn raise() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit {
            current: limit.maximum,
            ..limit
        };
        // What cannot be raised stays, and is counted below.
        let _ = setrlimit(Resource::Nofile, raised);
    }
    getrlimit(Resource::Nofile).current
}

/// How the descriptors are shared out among `connections` sockets and the requests that come before them.
pub fn places(files: Option<u64>, connections: u32) -> Places {
    let free = files.map_or(u64::MAX, |files| files.saturating_sub(KEPT_BACK));
    let requests = (free / 8).clamp(4, REQUESTS);
    let sockets = free.saturating_sub(requests).max(1);
    let whole = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    Places {
        sockets: whole(sockets.min(u64::from(connections))),
        requests: whole(requests),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn something_is_left_for_the_service_itself() {
        let of = |files, connections| {
            let Places { sockets, requests } = places(files, connections);
            (sockets, requests)
        };
        assert_eq!(of(None, 100_000), (100_000, 2_000));
        assert_eq!(of(Some(1_000_000), 100_000), (100_000, 2_000));
        assert_eq!(of(Some(20_000), 100_000), (17_886, 2_000));
        assert_eq!(of(Some(1024), 100_000), (797, 113));
        assert_eq!(of(Some(1024), 50), (50, 113));
        assert_eq!(of(Some(10), 50), (1, 4));
        for files in 200..5000 {
            let (sockets, requests) = of(Some(files), 100_000);
            assert!(sockets as u64 + requests as u64 + KEPT_BACK <= files);
        }
    }

    #[test]
    fn the_limit_can_be_raised() {
        let limit = raise();
        assert_eq!(limit, getrlimit(Resource::Nofile).maximum);
        assert_eq!(raise(), limit);
    }
}
