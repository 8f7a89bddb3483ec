//! How a masked value looks. Owns the forms of MISSION Q21; pure and total.
//!
//! A form never shows more than half of the characters that matter, so that a short value is all stars. It
//! keeps the length where the value is text (email, name) or counts digits alone (phone, ssn), and has one
//! length for all where the mission shows it so (creditCard, redact). Characters are Unicode scalar values; a
//! letter with a combining accent counts as two. Null stays null. What is neither text nor, for the kinds of
//! digits, a number is `[REDACTED]` whatever the kind.

use std::{borrow::Cow, sync::Arc};

use rowcast_model::{ColumnMeta, JsonRow, MaskKind, Masks};

use crate::event::string;

/// What stands for a value of which nothing is shown.
const REDACTED: &str = "[REDACTED]";
/// What is shown of a run of digits at most.
const LAST_DIGITS: usize = 4;
/// A card number has at least so many digits; of less nothing is shown.
const CARD_DIGITS: usize = 12;
/// The longest top-level domain that is taken for one.
const LONGEST_TLD: usize = 63;

/// A row of which not everything is shown.
pub(crate) struct MaskedRow<'a> {
    pub(crate) row: &'a JsonRow,
    pub(crate) masks: &'a Masks,
    /// The masks that do not hold.
    pub(crate) plain: u64,
    /// Columns that the log does not hold, as they are large and did not change.
    pub(crate) unchanged: &'a [Arc<str>],
}

/// Appends the object of the wanted columns, masked where it is due; `plain_value` appends a value that is not. A
/// column of which nothing is shown looks the same whether the log holds it or not.
pub(crate) fn write_masked_row(
    out: &mut Vec<u8>,
    MaskedRow {
        row,
        masks,
        plain,
        unchanged,
    }: &MaskedRow<'_>,
    wanted: impl Fn(&ColumnMeta) -> bool,
    plain_value: impl Fn(&mut Vec<u8>, &ColumnMeta, &[u8]),
) {
    out.push(b'{');
    let mut first = true;
    for (i, column) in row.columns().iter().enumerate() {
        if !wanted(column) {
            continue;
        }
        let mask = masks.of(&column.name);
        let mask = mask.filter(|(i, _)| plain & 1 << i == 0);
        let value = row.value(i);
        let shown = value.is_some()
            || mask.is_some_and(|(_, mask)| {
                mask.kind == MaskKind::Redact && unchanged.contains(&column.name)
            });
        if !shown {
            continue;
        }
        if !first {
            out.push(b',');
        }
        first = false;
        out.extend_from_slice(column.label.as_bytes());
        match (mask, value) {
            (Some((_, mask)), Some(value)) => write_masked(mask.kind, value, out),
            (None, Some(value)) => plain_value(out, column, value),
            (_, None) => string(out, REDACTED),
        }
    }
    out.push(b'}');
}

/// Appends the masked form of a JSON value as a JSON value.
pub(crate) fn write_masked(kind: MaskKind, json: &[u8], out: &mut Vec<u8>) {
    let text = match json {
        b"null" => return out.extend_from_slice(b"null"),
        [b'"', ..] => serde_json::from_slice::<Cow<'_, str>>(json).ok(),
        [b'-' | b'0'..=b'9', ..] if of_digits(kind) => {
            std::str::from_utf8(json).ok().map(Cow::Borrowed)
        }
        _ => None,
    };
    match text {
        Some(text) => string(out, &mask(kind, &text)),
        None => string(out, REDACTED),
    }
}

fn of_digits(kind: MaskKind) -> bool {
    matches!(kind, MaskKind::Phone | MaskKind::Ssn | MaskKind::CreditCard)
}

/// The masked form of a text.
pub fn mask(kind: MaskKind, text: &str) -> String {
    match kind {
        MaskKind::Redact => REDACTED.to_owned(),
        _ if text.is_empty() => String::new(),
        MaskKind::Email => email(text),
        MaskKind::Phone | MaskKind::Ssn => digits(text),
        MaskKind::CreditCard => card(text),
        MaskKind::Name => first(text),
    }
}

fn stars(count: usize) -> impl Iterator<Item = char> {
    std::iter::repeat_n('*', count)
}

/// The first character and stars; of a single one nothing.
fn first(text: &str) -> String {
    let mut chars = text.chars();
    let (first, rest) = (chars.next(), chars.count());
    first
        .map(|first| if rest == 0 { '*' } else { first })
        .into_iter()
        .chain(stars(rest))
        .collect()
}

/// `first@first.*.tld`; stars for what is no address.
fn email(text: &str) -> String {
    let Some((local, domain, tld)) = address(text) else {
        return stars(text.chars().count()).collect();
    };
    let mut masked = first(local);
    masked.push('@');
    for (i, label) in domain.split('.').enumerate() {
        match i {
            0 => masked.push_str(&first(label)),
            _ => masked.extend(stars(label.chars().count())),
        }
        masked.push('.');
    }
    masked.push_str(tld);
    masked
}

/// Local part, domain without its last label, and that; `None` when it is no address. Strict, as the last
/// label is shown: free text with an `@` must not pass.
fn address(text: &str) -> Option<(&str, &str, &str)> {
    let odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '<' | '>' | ',' | ';');
    let (local, host) = text.rsplit_once('@')?;
    let (domain, tld) = host.rsplit_once('.')?;
    let letters = tld.chars().all(char::is_alphabetic) || tld.starts_with("xn--");
    let plausible = !local.is_empty()
        && domain.split('.').all(|label| !label.is_empty())
        && !tld.is_empty()
        && tld.len() <= LONGEST_TLD
        && letters
        && !text.contains(odd);
    plausible.then_some((local, domain, tld))
}

/// A star for each digit but the last four, and never more than half of them plain. What is between them is
/// dropped; stars for what has none.
fn digits(text: &str) -> String {
    let digits: Vec<char> = text.chars().filter(char::is_ascii_digit).collect();
    if digits.is_empty() {
        return stars(text.chars().count()).collect();
    }
    let hidden = digits.len() - LAST_DIGITS.min(digits.len() / 2);
    stars(hidden)
        .chain(digits.into_iter().skip(hidden))
        .collect()
}

/// Four groups of four, of which the last is plain.
fn card(text: &str) -> String {
    let digits: Vec<char> = text.chars().filter(char::is_ascii_digit).collect();
    let shown = match digits.len() {
        CARD_DIGITS.. => digits.iter().skip(digits.len() - LAST_DIGITS).collect(),
        _ => "****".to_owned(),
    };
    format!("**** **** **** {shown}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of_json(kind: MaskKind, json: &str) -> String {
        let mut out = Vec::new();
        write_masked(kind, json.as_bytes(), &mut out);
        String::from_utf8(out).unwrap()
    }

    /// MISSION Q21.
    #[test]
    fn q21_the_examples_of_the_mission() {
        for (kind, value, masked) in [
            (
                MaskKind::Email,
                "john@yourdomain.com",
                "j***@y*********.com",
            ),
            (MaskKind::Phone, "5551234567", "******4567"),
            (MaskKind::Ssn, "123456789", "*****6789"),
            (MaskKind::Ssn, "123-45-6789", "*****6789"),
            (
                MaskKind::CreditCard,
                "4111111111111111",
                "**** **** **** 1111",
            ),
            (MaskKind::Name, "John", "J***"),
            (MaskKind::Redact, "anything", "[REDACTED]"),
        ] {
            assert_eq!(mask(kind, value), masked);
        }
    }

    /// MISSION Q22: the cases that the examples leave open.
    #[test]
    fn q22_the_edges() {
        use MaskKind::{CreditCard, Email, Name, Phone, Redact, Ssn};
        for (kind, value, masked) in [
            // Empty: nothing to hide, except where even that is hidden.
            (Email, "", ""),
            (Name, "", ""),
            (CreditCard, "", ""),
            (Redact, "", "[REDACTED]"),
            // One character would be all of it.
            (Name, "J", "*"),
            (Name, "Jo", "J*"),
            (Email, "a@b.com", "*@*.com"),
            (Email, "x", "*"),
            (Phone, "7", "*"),
            // Short runs of digits: half at most.
            (Phone, "4567", "**67"),
            (Phone, "12345", "***45"),
            (Phone, "12345678", "****5678"),
            (Phone, "+1 (555) 123-4567", "*******4567"),
            (Phone, "none yet", "********"),
            (Ssn, "١٢٣٤٥٦٧٨٩", "*********"),
            (CreditCard, "4111-1111-1111-1111", "**** **** **** 1111"),
            (CreditCard, "378282246310005", "**** **** **** 0005"),
            (CreditCard, "1234567", "**** **** **** ****"),
            (CreditCard, "no card", "**** **** **** ****"),
            // Unicode: by characters, not bytes.
            (Name, "Łukasz", "Ł*****"),
            (Name, "李小龍", "李**"),
            (Name, "Anna Maria", "A*********"),
            (Email, "łu@żółw.pl", "ł*@ż***.pl"),
            (Email, "ich@beispiel.укр", "i**@b*******.укр"),
            (Email, "ich@beispiel.xn--p1ai", "i**@b*******.xn--p1ai"),
            // Several labels of a domain.
            (Email, "john@mail.example.co.uk", "j***@m***.*******.**.uk"),
            // No addresses.
            (Email, "root@localhost", "**************"),
            (Email, "john.doe.com", "************"),
            (Email, "@x.com", "******"),
            (Email, "a@.com", "******"),
            (Email, "a@b..com", "********"),
            (Email, "a@b.", "****"),
            (Email, "a@10.0.0.1", "**********"),
            (Email, "me@home. ask 7", "**************"),
            (Email, "Anna <anna@x.org>", "*****************"),
            (Email, "a@b.org,c@d.org", "***************"),
        ] {
            assert_eq!(mask(kind, value), masked, "{kind:?} of {value:?}");
        }
    }

    /// MISSION Q22: what is not text.
    #[test]
    fn q22_values_that_are_no_text() {
        for kind in MaskKind::ALL {
            assert_eq!(of_json(kind, "null"), "null");
            for odd in ["true", r#"{"a":1}"#, "[1,2]", r#"["5551234567"]"#] {
                assert_eq!(of_json(kind, odd), "\"[REDACTED]\"");
            }
        }
        assert_eq!(of_json(MaskKind::Phone, "5551234567"), "\"******4567\"");
        assert_eq!(of_json(MaskKind::Ssn, "-12.5e3"), "\"**53\"");
        assert_eq!(of_json(MaskKind::Name, "12345"), "\"[REDACTED]\"");
        assert_eq!(of_json(MaskKind::Email, "1"), "\"[REDACTED]\"");
        // Escapes go in and come out.
        assert_eq!(of_json(MaskKind::Name, r#""\"x\ny""#), r#""\"***""#);
        assert_eq!(of_json(MaskKind::Name, r#""\u00e9a""#), "\"é*\"");
    }

    proptest! {
        /// MISSION Q22: at most half of a value is shown, whatever it is, and what is shown is JSON.
        #[test]
        fn q22_never_more_than_half_of_a_run_is_plain(text in ".{0,40}", kind in 0usize..6) {
            let kind = MaskKind::ALL[kind];
            let masked = mask(kind, &text);
            if kind != MaskKind::Redact && kind != MaskKind::Email {
                let shown = masked.chars().filter(|c| *c != '*' && *c != ' ').count();
                prop_assert!(shown <= text.chars().count().div_ceil(2), "{text:?} {masked:?}");
            }
            let json = serde_json::to_string(&text).unwrap();
            let written: String = serde_json::from_str(&of_json(kind, &json)).unwrap();
            prop_assert_eq!(written, masked);
        }

        /// MISSION Q22: addresses keep their length; nothing but two letters and the last label is plain.
        #[test]
        fn q22_addresses_keep_their_form(
            local in "[a-z0-9.+é]{2,12}", labels in prop::collection::vec("[a-zö]{2,9}", 1..4), tld in "[a-z]{2,6}",
        ) {
            let address = format!("{local}@{}.{tld}", labels.join("."));
            let masked = mask(MaskKind::Email, &address);
            prop_assert_eq!(masked.chars().count(), address.chars().count());
            let letters = masked.chars().filter(|c| !matches!(c, '*' | '@' | '.')).count();
            prop_assert!(letters <= 2 + tld.len());
            let end = format!(".{tld}");
            prop_assert!(masked.ends_with(&end));
        }

        /// Bytes that are no JSON at all are masked as well.
        #[test]
        fn never_panics(json in prop::collection::vec(any::<u8>(), 0..60), kind in 0usize..6) {
            let mut out = Vec::new();
            write_masked(MaskKind::ALL[kind], &json, &mut out);
            prop_assert!(serde_json::from_slice::<serde_json::Value>(&out).is_ok());
        }
    }
}
