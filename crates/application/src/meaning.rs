//! What an error of a function means for its caller: a refusal in the words of the application, or something
//! that only the log shall know. Pure.

use rowcast_model::Refusal;

use crate::line::Trouble;

/// The state of `rowcast.refuse`: the code stands in the detail.
pub(crate) const REFUSED: &str = "RCREF";
/// A plain `RAISE EXCEPTION`.
const RAISED: &str = "P0001";

/// What the error with this state means.
pub(crate) fn meaning(state: &str, message: &str, detail: Option<&str>) -> Trouble {
    let told = |code: &str| Trouble::Refused(Refusal::new(code, message));
    let log = || match detail {
        Some(detail) => format!("{state}: {message} ({detail})"),
        None => format!("{state}: {message}"),
    };
    let class = state.get(..2).unwrap_or_default();
    match (state, class) {
        (REFUSED, _) => told(detail.unwrap_or("refused")),
        (RAISED, _) => told("refused"),
        // Row level security, or a right that is missing: no, but how and where is nobody's business.
        ("42501", _) => Trouble::Denied(log()),
        ("57014", _) => Trouble::Silent("timeout", log()),
        (_, "40" | "55") => Trouble::Silent("conflict", log()),
        (_, "08" | "53" | "57" | "58") => Trouble::Gone("database", log()),
        _ if is_of_an_application(state) => told(state),
        _ => Trouble::Broken("error", log()),
    }
}

/// Classes that begin with 5 to 9 or I to Z are nobody's in the standard; some are Postgres's own.
fn is_of_an_application(state: &str) -> bool {
    let class = state.get(..2).unwrap_or_default();
    let ours = ["53", "54", "55", "57", "58", "72", "P0", "XX"];
    matches!(class.bytes().next(), Some(b'5'..=b'9' | b'I'..=b'Z')) && !ours.contains(&class)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_keep_their_words_and_all_else_is_for_the_log() {
        let told = |state, detail| match meaning(state, "Not a member of this room", detail) {
            Trouble::Refused(refusal) => Some((refusal.code, refusal.message)),
            _ => None,
        };
        let refusal = |code: &str| Some((code.to_owned(), "Not a member of this room".to_owned()));
        assert_eq!(told("RCREF", Some("accessdenied")), refusal("accessdenied"));
        assert_eq!(told("RCREF", None), refusal("refused"));
        assert_eq!(told("RCREF", Some("a b")), refusal("refused"));
        assert_eq!(told("P0001", None), refusal("refused"));
        assert_eq!(told("PT403", None), refusal("PT403"));
        for state in [
            "42501", "42P01", "23505", "22P02", "57014", "53300", "57P01", "XX000", "P0002",
            "40001", "54000", "", "é",
        ] {
            assert_eq!(told(state, Some("x")), None, "{state}");
        }
        assert!(matches!(meaning("57P01", "x", None), Trouble::Gone(..)));
        assert!(matches!(meaning("57014", "x", None), Trouble::Silent(..)));
        assert!(matches!(meaning("42883", "x", None), Trouble::Broken(..)));
        let denied = meaning("42501", "permission denied for table salaries", None).tell();
        assert!(!denied.to_string().contains("salaries"), "{denied}");
    }
}
