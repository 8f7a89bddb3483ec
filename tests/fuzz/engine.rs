//! The search: mangles inputs, keeps those with a new outcome, reports the one that fails.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash, Hasher},
    time::{Duration, Instant},
};

use crate::rng::Rng;

/// Most inputs that are kept.
const MOST_KEPT: usize = 4096;
/// Longest input.
const LONGEST: usize = 16 * 1024;

/// Bytes that parsers tend to have opinions about.
const TOKENS: &[&[u8]] = &[
    b"\0",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\x80",
    b"\xed\xa0\x80",
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b"\\",
    b"\\u0000",
    b"\\ud800",
    b",",
    b":",
    b"null",
    b"true",
    b"1e999",
    b"-0",
    b"99999999999999999999999999",
    b"NaN",
    b"(",
    b")",
    b".",
    b"==",
];

/// Says what failed when the target panics.
struct Failing<'a> {
    seed: u64,
    input: &'a [u8],
}

impl Drop for Failing<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("repeat with FUZZ_SEED={}; the input was", self.seed);
            eprintln!("{:?}", String::from_utf8_lossy(self.input));
            let hex: String = self.input.iter().map(|b| format!("{b:02x}")).collect();
            eprintln!("{hex}");
        }
    }
}

fn from_env(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Runs a target for its time. It returns something that tells outcomes apart, and panics when
/// something is not as promised.
pub fn fuzz<O: Hash>(name: &str, mut kept: Vec<Vec<u8>>, target: impl Fn(&[u8]) -> O) {
    let seed = from_env("FUZZ_SEED").unwrap_or_else(Rng::fresh_seed);
    let time = Duration::from_secs(from_env("FUZZ_SECONDS").unwrap_or(1));
    let mut rng = Rng::new(seed);
    let mut seen = HashSet::new();
    let mut look = |input: &[u8]| {
        let failing = Failing { seed, input };
        let mut hasher = DefaultHasher::new();
        target(failing.input).hash(&mut hasher);
        seen.insert(hasher.finish())
    };
    for input in &kept {
        look(input);
    }
    let (begin, mut runs) = (Instant::now(), kept.len());
    while begin.elapsed() < time {
        for _ in 0..64 {
            let mut input = rng.pick(&kept).clone();
            for _ in 0..=rng.below(4) {
                mangle(&mut rng, &mut input, &kept);
            }
            input.truncate(LONGEST);
            runs += 1;
            if look(&input) && kept.len() < MOST_KEPT {
                kept.push(input);
            }
        }
    }
    eprintln!(
        "{name}: {runs} inputs, {} outcomes, seed {seed}",
        seen.len()
    );
}

fn mangle(rng: &mut Rng, input: &mut Vec<u8>, others: &[Vec<u8>]) {
    let at = rng.below(input.len() + 1);
    let end = (at + 1 + rng.below(16)).min(input.len());
    match rng.below(9) {
        0 if at < input.len() => input[at] ^= 1 << rng.below(8),
        1 if at < input.len() => input[at] = rng.next() as u8,
        2 if at < end => drop(input.drain(at..end)),
        3 => {
            let token = *rng.pick(TOKENS);
            input.splice(at..at, token.iter().copied());
        }
        4 if at < end => {
            let copy = input[at..end].to_vec();
            let times = 1 + rng.below(3);
            for _ in 0..times {
                input.splice(at..at, copy.iter().copied());
            }
        }
        5 => input.truncate(at),
        6 => {
            let other = rng.pick(others);
            let from = rng.below(other.len() + 1);
            let to = from + rng.below(other.len() - from + 1);
            input.splice(at..end.max(at), other[from..to].iter().copied());
        }
        7 if at < end => {
            let token = *rng.pick(TOKENS);
            input.splice(at..end, token.iter().copied());
        }
        _ => {
            let random: Vec<u8> = (0..rng.below(8)).map(|_| rng.next() as u8).collect();
            input.splice(at..at, random);
        }
    }
}
