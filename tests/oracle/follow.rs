//! One subscriber: applies events to its copy until the fence, then compares it with Postgres.

use std::time::Duration;

use super::{
    copy::{Copy, Difference, Mode, differences},
    schema::Schema,
};
use crate::harness::{
    client::{Client, Frame, PATIENCE},
    postgres::Database,
};

/// An event and the record that it was about.
struct Applied {
    frame: Frame,
    record: Option<String>,
}

/// Panics when the copy does not become equal to what the organization may see.
pub async fn follow(
    schema: &Schema,
    database: &Database,
    mut client: Client,
    organization: &str,
    mode: Mode,
) {
    let sql = database.connect().await;
    let mut copy = Copy::new(schema, organization);
    let mut history = Vec::new();
    let mut fenced = false;
    loop {
        // What is coalesced may come a little after the fence.
        let patience = if fenced {
            Duration::from_secs(5)
        } else {
            PATIENCE
        };
        let ended = match client.next(patience).await {
            Ok(frame) if frame.table() == "fences" => {
                fenced = true;
                false
            }
            Ok(frame) if frame.is_event() => {
                let channel = format!("org:{organization}");
                assert_eq!(frame.json["channel"], channel, "{}", frame.text);
                let record = copy.apply(&frame, &sql).await;
                history.push(Applied { frame, record });
                false
            }
            Ok(_) => continue,
            Err(end) if !fenced => panic!("{organization} {mode:?}: {end:?}"),
            Err(_) => true,
        };
        if !fenced {
            continue;
        }
        let wrong = differences(&copy.rows, &copy.truth(&sql).await);
        if wrong.is_empty() {
            break;
        }
        if ended || mode != Mode::Latest {
            panic!("{organization} {mode:?}: {}", explain(&wrong, &history));
        }
    }
    if mode == Mode::Changes {
        in_order(&history);
    }
}

/// The differences, and the last events of the first of them.
fn explain(wrong: &[Difference], history: &[Applied]) -> String {
    let mut text = format!(
        "{} differences after {} events\n",
        wrong.len(),
        history.len()
    );
    for Difference { table, record, how } in wrong.iter().take(5) {
        text += &format!("{table} {record}: {how:.1500}\n");
    }
    let Difference { table, record, .. } = &wrong[0];
    let about: Vec<&Applied> = history
        .iter()
        .filter(|applied| applied.frame.table() == table)
        .filter(|applied| applied.record.as_ref().is_none_or(|about| about == record))
        .collect();
    text += "last events of the first:\n";
    for applied in &about[about.len().saturating_sub(8)..] {
        text += &format!("{:.1500}\n", applied.frame.text);
    }
    text
}

/// Promise 1: positions only grow. Cursors are opaque to clients; tests may know their parts.
fn in_order(history: &[Applied]) {
    let position = |applied: &Applied| {
        let cursor: rowcast_model::Cursor = applied.frame.text_of("cursor").parse().unwrap();
        (cursor.epoch.0, cursor.commit_lsn.0, cursor.index)
    };
    for pair in history.windows(2) {
        let [before, after] = pair else { return };
        assert!(
            position(before) <= position(after),
            "{}\n{}",
            before.frame.text,
            after.frame.text
        );
    }
}
