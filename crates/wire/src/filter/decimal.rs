//! Numbers compared exactly, whatever their length: by sign, magnitude and digits of the text.

use std::cmp::Ordering;

/// A number read from text, without loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Number<'a> {
    NegInfinity,
    Finite(Decimal<'a>),
    Infinity,
    /// Equal to itself and above everything, as Postgres orders it.
    NaN,
}

/// `±0.d₁d₂d₃… × 10^exponent`; the significant digits are those of `head` and `tail` behind each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Decimal<'a> {
    negative: bool,
    exponent: i64,
    head: &'a [u8],
    tail: &'a [u8],
}

impl<'a> Number<'a> {
    /// Reads `-12.50e3`, `NaN`, `Infinity`, `-Infinity`; `None` for everything else.
    pub(super) fn parse(text: &'a [u8]) -> Option<Number<'a>> {
        match text {
            b"NaN" => return Some(Number::NaN),
            b"Infinity" => return Some(Number::Infinity),
            b"-Infinity" => return Some(Number::NegInfinity),
            _ => {}
        }
        let (negative, rest) = match text {
            [b'-', rest @ ..] => (true, rest),
            [b'+', rest @ ..] => (false, rest),
            rest => (false, rest),
        };
        let (mantissa, power) = match rest.iter().position(|b| matches!(b, b'e' | b'E')) {
            Some(at) => (rest.get(..at)?, power(rest.get(at + 1..)?)?),
            None => (rest, 0),
        };
        let (whole, fraction) = match mantissa.iter().position(|b| *b == b'.') {
            Some(at) => (mantissa.get(..at)?, mantissa.get(at + 1..)?),
            None => (mantissa, &b""[..]),
        };
        let digits = |part: &[u8]| part.iter().all(u8::is_ascii_digit);
        if whole.len() + fraction.len() == 0 || !digits(whole) || !digits(fraction) {
            return None;
        }
        Some(Number::Finite(normal(negative, whole, fraction, power)?))
    }
}

fn power(text: &[u8]) -> Option<i64> {
    let digits = text
        .strip_prefix(b"-")
        .or(text.strip_prefix(b"+"))
        .unwrap_or(text);
    let fits = (1..=9).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    fits.then(|| std::str::from_utf8(text).ok()?.parse().ok())
        .flatten()
}

/// Strips zeros at both ends, so that equal numbers have equal parts (up to where the two parts meet).
fn normal<'a>(
    negative: bool,
    whole: &'a [u8],
    fraction: &'a [u8],
    power: i64,
) -> Option<Decimal<'a>> {
    let leading = |part: &[u8]| part.iter().take_while(|b| **b == b'0').count();
    let trailing = |part: &[u8]| part.iter().rev().take_while(|b| **b == b'0').count();
    let mut head = whole.get(leading(whole)..)?;
    let mut tail = fraction;
    let mut exponent = power.checked_add(i64::try_from(head.len()).ok()?)?;
    if head.is_empty() {
        let zeros = leading(tail);
        tail = tail.get(zeros..)?;
        exponent = exponent.checked_sub(i64::try_from(zeros).ok()?)?;
    }
    tail = tail.get(..tail.len() - trailing(tail))?;
    if tail.is_empty() {
        head = head.get(..head.len() - trailing(head))?;
    }
    let zero = head.is_empty() && tail.is_empty();
    Some(Decimal {
        negative: negative && !zero,
        exponent: if zero { 0 } else { exponent },
        head,
        tail,
    })
}

impl Decimal<'_> {
    fn is_zero(&self) -> bool {
        self.head.is_empty() && self.tail.is_empty()
    }

    fn digits(&self) -> impl Iterator<Item = u8> {
        self.head.iter().chain(self.tail).copied()
    }

    fn cmp_magnitude(&self, other: &Decimal<'_>) -> Ordering {
        match (self.is_zero(), other.is_zero()) {
            (true, true) => Ordering::Equal,
            (true, false) => Ordering::Less,
            (false, true) => Ordering::Greater,
            (false, false) => self
                .exponent
                .cmp(&other.exponent)
                .then_with(|| self.digits().cmp(other.digits())),
        }
    }
}

impl Number<'_> {
    /// The order of Postgres: -Infinity, finite, Infinity, NaN.
    pub(super) fn compare(&self, other: &Number<'_>) -> Ordering {
        let rank = |n: &Number<'_>| match n {
            Number::NegInfinity => 0,
            Number::Finite(_) => 1,
            Number::Infinity => 2,
            Number::NaN => 3,
        };
        match (self, other) {
            (Number::Finite(a), Number::Finite(b)) => match (a.negative, b.negative) {
                (false, true) => Ordering::Greater,
                (true, false) => Ordering::Less,
                (false, false) => a.cmp_magnitude(b),
                (true, true) => b.cmp_magnitude(a),
            },
            _ => rank(self).cmp(&rank(other)),
        }
    }

    /// Appends bytes that are equal exactly when the numbers are.
    pub(super) fn write_key(&self, out: &mut Vec<u8>) {
        match self {
            Number::NegInfinity => out.push(b'<'),
            Number::Infinity => out.push(b'>'),
            Number::NaN => out.push(b'?'),
            Number::Finite(decimal) => {
                out.push(if decimal.negative { b'-' } else { b'+' });
                out.extend_from_slice(&decimal.exponent.to_be_bytes());
                out.extend(decimal.digits());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn number(text: &str) -> Number<'_> {
        Number::parse(text.as_bytes()).unwrap()
    }

    fn key(text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        number(text).write_key(&mut out);
        out
    }

    #[test]
    fn orders_exactly() {
        let ordered = [
            "-Infinity",
            "-1e30",
            "-2",
            "-1.5",
            "-0.001",
            "0",
            "0.0001",
            "0.1",
            "1",
            "9007199254740992",
            "9007199254740993",
            "9007199254740993.0000000000000001",
            "1e300",
            "Infinity",
            "NaN",
        ];
        for (i, a) in ordered.iter().enumerate() {
            for (j, b) in ordered.iter().enumerate() {
                assert_eq!(number(a).compare(&number(b)), i.cmp(&j), "{a} {b}");
            }
        }
    }

    #[test]
    fn equal_numbers_have_equal_keys() {
        for same in [
            ["1", "1.000"],
            ["100", "1e2"],
            ["-0", "0.00"],
            ["0.5", "05e-1"],
            ["12.30", "123E-1"],
        ] {
            assert_eq!(
                number(same[0]).compare(&number(same[1])),
                Ordering::Equal,
                "{same:?}"
            );
            assert_eq!(key(same[0]), key(same[1]), "{same:?}");
        }
    }

    proptest! {
        #[test]
        fn as_integers_compare(a: i64, b: i64, scale in 0_u32..5) {
            let shift = 10_i128.pow(scale);
            let text = |n: i64| format!("{}e-{scale}", i128::from(n) * shift);
            let (a_text, b_text) = (text(a), format!("{b}.000"));
            prop_assert_eq!(number(&a_text).compare(&number(&b_text)), a.cmp(&b));
            prop_assert_eq!(key(&a_text) == key(&b_text), a == b);
        }

        #[test]
        fn never_panics(text in "[-+0-9.eE]{0,12}", any: Vec<u8>) {
            let _ = Number::parse(text.as_bytes());
            let _ = Number::parse(&any);
        }
    }
}
