//! Finds the known name that a mistyped one was meant to be.

/// The known name with the fewest edits, when they are few enough to be a slip.
pub(super) fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let most = (name.chars().count() / 3).max(2);
    known
        .into_iter()
        .map(|candidate| (distance(name, candidate), candidate))
        .filter(|(edits, _)| *edits <= most)
        .min()
        .map(|(_, candidate)| candidate.to_owned())
}

/// Levenshtein distance, without regard to case.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.to_lowercase().chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (j, y) in b.iter().enumerate() {
            let above = row[j + 1];
            let here = (diagonal + usize::from(x != *y))
                .min(above + 1)
                .min(left + 1);
            (diagonal, left) = (above, here);
            row[j] = if j == 0 { i + 1 } else { row[j] };
            row[j + 1] = here;
        }
        row[0] = i + 1;
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn finds_slips_and_leaves_strangers() {
        let known = ["server.port", "database.url", "auth.jwt_secret"];
        assert_eq!(
            nearest("server.prot", known).as_deref(),
            Some("server.port")
        );
        assert_eq!(
            nearest("auth.jwt_secert", known).as_deref(),
            Some("auth.jwt_secret")
        );
        assert_eq!(nearest("something.else.entirely", known), None);
    }

    proptest! {
        #[test]
        fn distance_is_a_distance(a in "[abc]{0,6}", b in "[abc]{0,6}") {
            prop_assert_eq!(distance(&a, &b), distance(&b, &a));
            prop_assert_eq!(distance(&a, &b) == 0, a == b);
            prop_assert!(distance(&a, &b) <= a.len().max(b.len()));
        }
    }
}
