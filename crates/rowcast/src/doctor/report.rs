//! Findings as text for people and as JSON for programs.

use serde_json::json;

use super::judge::{Finding, Level};
use crate::term::{Colour, Paint};

/// For people.
pub fn text(findings: &[Finding], paint: Paint) -> String {
    let mut lines = Vec::new();
    for finding in findings {
        let mark = match finding.level {
            Level::Good => paint.paint(Colour::Green, "ok  "),
            Level::Note => paint.paint(Colour::Blue, "note"),
            Level::Warn => paint.paint(Colour::Yellow, "warn"),
            Level::Fail => paint.paint(Colour::Red, "FAIL"),
        };
        lines.push(format!("{mark}  {}", finding.what));
        for step in &finding.mend {
            lines.push(format!("        {}", paint.paint(Colour::Bold, step)));
        }
    }
    let count = |level| findings.iter().filter(|f| f.level == level).count();
    let (fails, warns) = (count(Level::Fail), count(Level::Warn));
    lines.push(String::new());
    lines.push(match (fails, warns) {
        (0, 0) => paint.paint(Colour::Green, "Everything is in order."),
        (0, warns) => paint.paint(Colour::Yellow, format!("It works; {warns} to look at.")),
        (fails, _) => paint.paint(
            Colour::Red,
            format!("{fails} in the way; run what is printed below each, and ask again."),
        ),
    });
    lines.join("\n")
}

/// For programs.
pub fn json(findings: &[Finding]) -> String {
    let level = |level| match level {
        Level::Good => "ok",
        Level::Note => "note",
        Level::Warn => "warn",
        Level::Fail => "fail",
    };
    let list: Vec<_> = findings
        .iter()
        .map(|finding| {
            json!({
                "level": level(finding.level),
                "code": finding.code,
                "what": finding.what,
                "mend": finding.mend,
            })
        })
        .collect();
    let ok = !findings.iter().any(|finding| finding.level == Level::Fail);
    json!({"ok": ok, "findings": list}).to_string()
}
