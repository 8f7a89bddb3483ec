//! One frame as one line.

use serde_json::Value;

use crate::term::{Colour, Paint};

/// The line of a frame; `None` for those that say nothing to people.
pub fn frame(frame: &Value, paint: Paint) -> Option<String> {
    let text = |name: &str| frame[name].as_str().unwrap_or_default();
    match text("type") {
        "postgres_changes" => Some(change(frame, paint)),
        "invalidate" => {
            let record = frame["recordId"].as_str().unwrap_or("(whole table)");
            Some(format!(
                "{} {} {} {record}",
                time(frame, paint),
                paint.paint(Colour::Grey, format!("{:<8}", "INVALID")),
                table(frame, paint),
            ))
        }
        "auth_success" => Some(paint.paint(
            Colour::Grey,
            format!(
                "connected as {} of {}",
                text("userId"),
                text("organizationId")
            ),
        )),
        "subscribed" => Some(paint.paint(
            Colour::Grey,
            format!(
                "everything on {} from {} on",
                text("channel"),
                text("cursor")
            ),
        )),
        "recovered" => Some(paint.paint(
            Colour::Grey,
            format!("from here on {} is told row by row", text("channel")),
        )),
        kind @ ("unsubscribed" | "resync") => Some(paint.paint(
            Colour::Yellow,
            format!("{kind} {}: {}", text("channel"), text("reason")),
        )),
        "error" => Some(paint.paint(
            Colour::Red,
            format!(
                "error {} {}: {}",
                frame["code"],
                text("name"),
                text("message")
            ),
        )),
        "membership" => Some(paint.paint(
            Colour::Yellow,
            match frame["roles"].as_array() {
                Some(roles) => format!(
                    "roles in {}: {}",
                    text("organizationId"),
                    Value::from(roles.clone())
                ),
                None => format!("no longer a member of {}", text("organizationId")),
            },
        )),
        "ping" | "pong" | "commit" => None,
        kind => Some(format!("{} {frame}", paint.paint(Colour::Blue, kind))),
    }
}

fn change(frame: &Value, paint: Paint) -> String {
    let op = frame["eventType"].as_str().unwrap_or_default();
    let colour = match op {
        "INSERT" => Colour::Green,
        "UPDATE" => Colour::Yellow,
        _ => Colour::Red,
    };
    let (new, old) = (&frame["new"], &frame["old"]);
    let row = if new.is_null() { old } else { new };
    format!(
        "{} {} {} {}",
        time(frame, paint),
        paint.paint(colour, format!("{op:<8}")),
        table(frame, paint),
        columns(row, old, paint),
    )
}

/// `name=value` pairs; what an UPDATE changed stands out, when the old values are known.
fn columns(row: &Value, old: &Value, paint: Paint) -> String {
    let Some(columns) = row.as_object() else {
        return row.to_string();
    };
    let pairs = columns.iter().map(|(name, value)| {
        let pair = format!("{}{value}", paint.paint(Colour::Grey, format!("{name}=")));
        match old.get(name) {
            Some(before) if before != value => {
                format!(
                    "{pair}{}",
                    paint.paint(Colour::Yellow, format!(" (was {before})"))
                )
            }
            _ => pair,
        }
    });
    pairs.collect::<Vec<_>>().join(" ")
}

fn table(frame: &Value, paint: Paint) -> String {
    let name = |key: &str| frame[key].as_str().unwrap_or("?").to_owned();
    let full = match frame["schema"].as_str() {
        Some(schema) => format!("{schema}.{}", name("table")),
        None => name("table"),
    };
    paint.paint(Colour::Blue, full)
}

/// The time of day of the commit.
fn time(frame: &Value, paint: Paint) -> String {
    let whole = frame["commitTimestamp"].as_str().unwrap_or_default();
    let clock = whole.split_once('T').map_or(whole, |(_, clock)| clock);
    paint.paint(Colour::Grey, clock.trim_end_matches('Z'))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn shows_changes_and_hides_signs_of_life() {
        let shown = frame(
            &json!({
                "type": "postgres_changes", "table": "tasks", "schema": "public", "eventType": "UPDATE",
                "new": {"id": 1, "status": "done"}, "old": {"id": 1, "status": "open"},
                "commitTimestamp": "2026-01-02T03:04:05.678Z",
            }),
            Paint::plain(),
        );
        let expected = r#"03:04:05.678 UPDATE   public.tasks id=1 status="done" (was "open")"#;
        assert_eq!(shown.as_deref(), Some(expected));
        assert_eq!(frame(&json!({"type": "ping"}), Paint::plain()), None);
        for odd in [
            json!(null),
            json!({"type": "postgres_changes"}),
            json!({"type": 7}),
        ] {
            assert!(frame(&odd, Paint::plain()).is_some());
        }
    }
}
