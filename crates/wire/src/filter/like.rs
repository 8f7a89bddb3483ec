//! SQL LIKE: `%` any text, `_` one character, `\` takes the next character literally.
//!
//! Runs in time proportional to text times pattern at worst: only the last `%` is ever retried.

pub(super) fn like(text: &str, pattern: &str) -> bool {
    let mut text_left = text.chars();
    let mut pattern_left = pattern.chars();
    // Where to go on when a match behind the last `%` fails: one character further in the text.
    let mut retry: Option<(std::str::Chars<'_>, std::str::Chars<'_>)> = None;
    loop {
        let mut step_pattern = pattern_left.clone();
        let wanted = step_pattern.next();
        if wanted == Some('%') {
            pattern_left = step_pattern;
            retry = Some((text_left.clone(), pattern_left.clone()));
            continue;
        }
        let mut step_text = text_left.clone();
        let met = step_text.next();
        let fits = match (wanted, met) {
            (None, None) => return true,
            (Some('_'), Some(_)) => true,
            (Some('\\'), Some(met)) => step_pattern.next().unwrap_or('\\') == met,
            (Some(wanted), Some(met)) => wanted == met,
            _ => false,
        };
        if fits {
            (text_left, pattern_left) = (step_text, step_pattern);
            continue;
        }
        // Nothing to retry, or no text left to retry with: no match.
        let Some((from, behind)) = &mut retry else {
            return false;
        };
        if from.next().is_none() {
            return false;
        }
        (text_left, pattern_left) = (from.clone(), behind.clone());
    }
}

/// The text with every character in lower case, as far as that is one character: `_` still counts them.
pub(super) fn folded(text: &str) -> String {
    let fold = |c: char| {
        let mut lower = c.to_lowercase();
        match (lower.next(), lower.next()) {
            (Some(one), None) => one,
            _ => c,
        }
    };
    text.chars().map(fold).collect()
}

#[cfg(test)]
mod tests {
    use super::like;
    use proptest::prelude::*;

    #[test]
    fn known_matches() {
        for (text, pattern, expected) in [
            ("", "", true),
            ("", "%", true),
            ("a", "", false),
            ("abc", "a%", true),
            ("abc", "%b%", true),
            ("abc", "_b_", true),
            ("abc", "__", false),
            ("é", "_", true),
            ("a%c", r"a\%c", true),
            ("abc", r"a\%c", false),
            ("aab", "%ab", true),
            ("a\\", r"a\", true),
        ] {
            assert_eq!(like(text, pattern), expected, "{text} {pattern}");
        }
    }

    fn naive(text: &[char], pattern: &[char]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => true,
            (None, Some(_)) => false,
            (Some(('%', rest)), _) => (0..=text.len()).any(|cut| naive(&text[cut..], rest)),
            (Some(('_', rest)), Some((_, text))) => naive(text, rest),
            (Some((wanted, rest)), Some((met, text))) => wanted == met && naive(text, rest),
            (Some(_), None) => false,
        }
    }

    proptest! {
        #[test]
        fn as_the_naive_one(text in "[abé]{0,8}", pattern in "[abé%_]{0,6}") {
            let chars = |s: &str| s.chars().collect::<Vec<_>>();
            prop_assert_eq!(like(&text, &pattern), naive(&chars(&text), &chars(&pattern)));
        }
    }
}
