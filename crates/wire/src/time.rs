//! A timestamp as text. Owns the calendar arithmetic, so that no clock or time library is needed here.

use rowcast_model::Timestamp;

/// Appends `2026-11-21T09:41:07.123Z`: milliseconds, UTC. Years outside 0..=9999 get a sign and six digits.
pub fn write_iso_millis(time: Timestamp, out: &mut Vec<u8>) {
    let millis = time.0.div_euclid(1000);
    let days = millis.div_euclid(86_400_000);
    let in_day = millis.rem_euclid(86_400_000);
    let (year, month, day) = civil(days);
    if (0..=9999).contains(&year) {
        digits(out, year, 4);
    } else {
        out.push(if year < 0 { b'-' } else { b'+' });
        digits(out, year.abs(), 6);
    }
    out.push(b'-');
    digits(out, month, 2);
    out.push(b'-');
    digits(out, day, 2);
    out.push(b'T');
    digits(out, in_day / 3_600_000, 2);
    out.push(b':');
    digits(out, in_day / 60_000 % 60, 2);
    out.push(b':');
    digits(out, in_day / 1000 % 60, 2);
    out.push(b'.');
    digits(out, in_day % 1000, 3);
    out.push(b'Z');
}

fn digits(out: &mut Vec<u8>, value: i64, width: usize) {
    let mut text = [b'0'; 6];
    let mut left = value;
    for digit in text.iter_mut().rev() {
        *digit = b'0' + u8::try_from(left % 10).unwrap_or(0);
        left /= 10;
    }
    out.extend_from_slice(&text[text.len() - width.min(text.len())..]);
}

/// Year, month and day of a day counted from 1970-01-01, in the proleptic Gregorian calendar.
/// Years run from March, so that the leap day is the last of its year.
fn civil(days: i64) -> (i64, i64, i64) {
    let from_march_0000 = days + 719_468;
    let era = from_march_0000.div_euclid(146_097);
    let day_of_era = from_march_0000.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn iso(micros: i64) -> String {
        let mut out = Vec::new();
        write_iso_millis(Timestamp(micros), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn known_days() {
        assert_eq!(iso(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(iso(951_782_400_000_000), "2000-02-29T00:00:00.000Z");
        assert_eq!(iso(1_795_254_067_123_999), "2026-11-21T09:41:07.123Z");
        assert_eq!(iso(-1), "1969-12-31T23:59:59.999Z");
    }

    proptest! {
        #[test]
        fn never_panics_and_orders(a: i64, b in 0_i64..4_000_000_000_000_000, c in 0_i64..4_000_000_000_000_000) {
            let _ = iso(a);
            prop_assert_eq!(iso(b).cmp(&iso(c)), (b / 1000).cmp(&(c / 1000)));
        }
    }
}
