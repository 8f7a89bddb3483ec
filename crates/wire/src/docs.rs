//! The tables of codes as markdown, for the documentation, which is generated and checked.

use crate::{CloseCode, ErrorCode};

fn table(rows: impl Iterator<Item = (u16, &'static str, bool, &'static str)>) -> String {
    let mut out =
        String::from("| number | name | try again | meaning |\n| --- | --- | --- | --- |\n");
    for (number, name, back, sentence) in rows {
        let back = if back { "yes" } else { "no" };
        out.push_str(&format!("| {number} | `{name}` | {back} | {sentence} |\n"));
    }
    out
}

/// All [`ErrorCode`]s as a markdown table.
pub fn error_codes_markdown() -> String {
    table(
        ErrorCode::ALL
            .iter()
            .map(|c| (c.number(), c.name(), c.come_back(), c.sentence())),
    )
}

/// All [`CloseCode`]s as a markdown table.
pub fn close_codes_markdown() -> String {
    table(
        CloseCode::ALL
            .iter()
            .map(|c| (c.number(), c.name(), c.come_back(), c.sentence())),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_has_its_row() {
        assert_eq!(
            error_codes_markdown().lines().count(),
            ErrorCode::ALL.len() + 2
        );
        assert!(close_codes_markdown().contains("| 4001 | `slow` | yes |"));
    }
}
