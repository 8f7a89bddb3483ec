//! So that very many do not do the same at the same moment.

use std::time::Duration;

/// Most reads of everything a second that many are asked for at once.
const READS_PER_SECOND: u64 = 1_000;
/// Longest time that anybody is asked to wait with it.
const LONGEST: Duration = Duration::from_secs(10);

/// A number from 0 to 1 for each number; those of neighbours lie far apart.
pub fn spread(number: u64) -> f64 {
    // The golden ratio: whatever range of numbers is open, it is covered evenly.
    let scattered = number.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32;
    f64::from(u32::try_from(scattered).unwrap_or(0)) / f64::from(u32::MAX)
}

/// Milliseconds after which connection `number` of `all` should read everything again.
pub(crate) fn read_after(number: u64, all: usize) -> u64 {
    let needed = Duration::from_secs(all as u64) / u32::try_from(READS_PER_SECOND).unwrap_or(1);
    let after = needed.min(LONGEST).mul_f64(spread(number));
    u64::try_from(after.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_read_one_after_the_other_and_few_at_once() {
        assert!((0..10).all(|number| read_after(number, 10) < 10));
        let mut times: Vec<u64> = (5000..10_000)
            .map(|number| read_after(number, 5000))
            .collect();
        times.sort_unstable();
        for (second, from) in (0..5).zip((0_u64..).step_by(1000)) {
            let within = times.iter().filter(|at| (from..from + 1000).contains(at));
            let count = within.count();
            assert!((950..1050).contains(&count), "{count} in second {second}");
        }
        assert!((0..100_000).all(|number| read_after(number, 100_000) <= 10_000));
    }
}
