//! Which transactions a new snapshot sees: a value without IO.

/// The text of `pg_current_snapshot()`, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    xmin: u64,
    xmax: u64,
    running: Vec<u64>,
}

impl Snapshot {
    /// Reads `xmin:xmax:xip,xip,…`; `None` when it is something else.
    pub fn parse(text: &str) -> Option<Snapshot> {
        let mut parts = text.split(':');
        let (xmin, xmax, running) = (parts.next()?, parts.next()?, parts.next()?);
        if parts.next().is_some() {
            return None;
        }
        let running = running.split(',').filter(|xid| !xid.is_empty());
        let mut running = running
            .map(|xid| xid.parse().ok())
            .collect::<Option<Vec<u64>>>()?;
        running.sort_unstable();
        Some(Snapshot {
            xmin: xmin.parse().ok()?,
            xmax: xmax.parse().ok()?,
            running,
        })
    }

    /// Whether the transaction with these low 32 bits has ended for this snapshot. Transactions more than
    /// two thousand million away do not exist, so the nearest full id to `xmax` is meant.
    pub fn sees(&self, xid: u32) -> bool {
        let distance = xid.wrapping_sub(self.xmax as u32).cast_signed();
        let full = self.xmax.saturating_add_signed(i64::from(distance));
        full < self.xmin || (full < self.xmax && self.running.binary_search(&full).is_err())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn never_panics(text in "[0-9:,x]{0,40}", xid: u32) {
            if let Some(snapshot) = Snapshot::parse(&text) {
                snapshot.sees(xid);
            }
        }

        #[test]
        fn the_low_half_of_a_number_is_enough(xmin in 3u64..1 << 40, running in prop::collection::btree_set(0u64..1000, 0..20), open in 0u64..1000, asked in 0u64..3000) {
            let xmax = xmin + 1000 + open;
            let list: Vec<_> = running.iter().map(|xid| (xmin + xid).to_string()).collect();
            let snapshot = Snapshot::parse(&format!("{xmin}:{xmax}:{}", list.join(","))).unwrap();
            let over = asked < xmax - xmin && !running.contains(&asked);
            prop_assert_eq!(snapshot.sees((xmin + asked) as u32), over);
            prop_assert!(snapshot.sees((xmin - 1) as u32));
        }
    }

    #[test]
    fn sees_what_has_ended() {
        let snapshot = Snapshot::parse("10:20:10,14").unwrap();
        assert_eq!(
            [9, 10, 13, 14, 19, 20, 25].map(|xid| snapshot.sees(xid)),
            [true, false, true, false, true, false, false]
        );
        assert!(Snapshot::parse("5:5:").unwrap().sees(4));
        for bad in ["", "1:2", "1:2:3:4", "a:2:", "1:2:x"] {
            assert_eq!(Snapshot::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn survives_the_wrap_of_transaction_ids() {
        let wrapped = (1u64 << 32) + 5;
        let snapshot =
            Snapshot::parse(&format!("{}:{wrapped}:{}", wrapped - 10, wrapped - 10)).unwrap();
        assert!(!snapshot.sees((wrapped - 10) as u32));
        assert!(snapshot.sees((wrapped - 9) as u32));
        assert!(snapshot.sees(4));
        assert!(!snapshot.sees(5));
    }
}
