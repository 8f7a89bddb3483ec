//! Times written in one way or another. Owns which texts are one, and their order.
//!
//! ISO dates with or without a time of day, fractions to a microsecond and an offset; `infinity` and `-infinity`.
//! A time without an offset is one of UTC.

use std::cmp::Ordering;

/// A point in time, or on a calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Time {
    /// Microseconds since 1970, before the offset is taken into account.
    local: i64,
    /// Microseconds east of UTC; `None`: not said.
    offset: Option<i64>,
}

const SECOND: i64 = 1_000_000;

/// `None`: not a time.
pub(super) fn read(text: &str) -> Option<Time> {
    let text = text.trim_ascii();
    let endless = |local| Time {
        local,
        offset: None,
    };
    match text {
        "infinity" => return Some(endless(i64::MAX)),
        "-infinity" => return Some(endless(i64::MIN)),
        _ => {}
    }
    let (date, clock) = match text.find(['T', 't', ' ']) {
        Some(at) => (text.get(..at)?, Some(text.get(at + 1..)?)),
        None => (text, None),
    };
    let mut fields = date.split('-');
    let (year, month, day) = (fields.next()?, fields.next()?, fields.next()?);
    if fields.next().is_some() || !(4..=6).contains(&year.len()) {
        return None;
    }
    let day = days(number(year)?, pair(month)?, pair(day)?)?;
    let (in_day, offset) = match clock {
        Some(clock) => time_of_day(clock.trim_ascii_start())?,
        None => (0, None),
    };
    Some(Time {
        local: day.checked_mul(86_400 * SECOND)?.checked_add(in_day)?,
        offset,
    })
}

/// How a value of a column compares with what somebody wrote. A value without an offset is of a calendar, and then
/// what was written is as well.
pub(super) fn compare(value: &str, written: &str) -> Option<Ordering> {
    let (value, written) = (read(value)?, read(written)?);
    let Some(offset) = value.offset else {
        return Some(value.local.cmp(&written.local));
    };
    let utc = |local: i64, offset: i64| match local {
        i64::MAX | i64::MIN => local,
        local => local.saturating_sub(offset),
    };
    let written = utc(written.local, written.offset.unwrap_or(0));
    Some(utc(value.local, offset).cmp(&written))
}

fn number(digits: &str) -> Option<i64> {
    let all = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    all.then(|| digits.parse().ok()).flatten()
}

/// One or two digits.
fn pair(digits: &str) -> Option<i64> {
    (digits.len() <= 2).then(|| number(digits)).flatten()
}

/// `10:34`, `10:34:56.123456`, and behind it `Z`, `+02`, `-02:30` or `+0230`.
fn time_of_day(text: &str) -> Option<(i64, Option<i64>)> {
    let cut = text.find(['Z', 'z', '+', '-']);
    let (clock, zone) = text.split_at(cut.unwrap_or(text.len()));
    let mut fields = clock.trim_ascii_end().split(':');
    let (hours, minutes) = (pair(fields.next()?)?, pair(fields.next()?)?);
    let seconds = fields.next().unwrap_or("0");
    let (seconds, fraction) = seconds.split_once('.').unwrap_or((seconds, "0"));
    let fraction = fraction.get(..6).unwrap_or(fraction);
    let scale = 10_i64.pow(6 - u32::try_from(fraction.len()).ok()?);
    let seconds = pair(seconds)?;
    if fields.next().is_some() || hours > 24 || minutes > 59 || seconds > 60 {
        return None;
    }
    let micros = (hours * 3600 + minutes * 60 + seconds) * SECOND + number(fraction)? * scale;
    Some((micros, offset(zone)?))
}

fn offset(zone: &str) -> Option<Option<i64>> {
    let (sign, digits) = match zone.split_at_checked(1) {
        None => return Some(None),
        Some(("Z" | "z", "")) => return Some(Some(0)),
        Some(("+", digits)) => (1, digits),
        Some(("-", digits)) => (-1, digits),
        Some(_) => return None,
    };
    let mut fields = digits.split(':');
    let (hours, minutes) = match (fields.next()?, fields.next()) {
        (hours, Some(minutes)) => (hours, minutes),
        (digits, None) if digits.len() == 4 => digits.split_at_checked(2)?,
        (hours, None) => (hours, "0"),
    };
    let seconds = pair(fields.next().unwrap_or("0"))?;
    let (hours, minutes) = (pair(hours)?, pair(minutes)?);
    if fields.next().is_some() || hours > 15 || minutes > 59 || seconds > 59 {
        return None;
    }
    Some(Some(
        sign * (hours * 3600 + minutes * 60 + seconds) * SECOND,
    ))
}

/// Days since 1970-01-01. Years run from March, so that the leap day is the last of its year.
fn days(year: i64, month: i64, day: i64) -> Option<i64> {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let longest = match month {
        4 | 6 | 9 | 11 => 30,
        2 => 28 + i64::from(leap),
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=longest).contains(&day) {
        return None;
    }
    let from_march = year - i64::from(month <= 2);
    let era = from_march.div_euclid(400);
    let year_of_era = from_march.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 719_468)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::write_iso_millis;
    use proptest::prelude::*;
    use rowcast_model::Timestamp;

    #[test]
    fn times_compare_however_they_are_written() {
        use Ordering::{Equal, Greater, Less};
        for (value, written, order) in [
            (
                "2026-11-21T10:34:56.1+00:00",
                "2026-11-21 12:34:56.100+02",
                Equal,
            ),
            ("2026-11-21T10:34:56+00:00", "2026-11-21T10:34:56Z", Equal),
            ("2026-11-21T10:34:56+00:00", "2026-11-21", Greater),
            ("2026-11-21T10:34:56+05:30", "2026-11-21 05:04:56", Equal),
            (
                "2026-11-21T10:34:56+00:00",
                "2026-11-21 10:34:56-0100",
                Less,
            ),
            // Of a calendar: what was written is of the same one.
            ("2026-11-21T10:34:56", "2026-11-21T10:34:56+07", Equal),
            ("2026-02-28T23:59:59.999999", "2026-03-01", Less),
            ("infinity", "9999-12-31", Greater),
            ("-infinity", "0001-01-01", Less),
            ("2026-01-01T00:00:00+00:00", "infinity", Less),
        ] {
            assert_eq!(compare(value, written), Some(order), "{value} {written}");
        }
    }

    #[test]
    fn what_is_no_time_is_none() {
        for text in [
            "",
            "7",
            "2026",
            "2026-13-01",
            "2026-02-29",
            "26-01-01",
            "2026-01-01T",
            "2026-01-01T10",
            "2026-01-01T10:61",
            "2026-01-01T10:00+",
            "2026-01-01T10:00+16",
            "2026-01-01T10:00é",
            "12345678-1234-1234-1234-123456789012",
            "2026-01-01T10:00:00.",
            "acme",
            "T",
            "--",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "[0-9TZ:+. é-]{0,30}", other in "\\PC{0,20}") {
            let _ = (read(&text), read(&other), compare(&text, &other));
        }

        #[test]
        fn reads_what_is_written(millis in -62_000_000_000_000_i64..250_000_000_000_000) {
            let mut text = Vec::new();
            write_iso_millis(Timestamp(millis * 1000), &mut text);
            let time = read(std::str::from_utf8(&text).unwrap());
            prop_assert_eq!(time, Some(Time { local: millis * 1000, offset: Some(0) }));
        }
    }
}
