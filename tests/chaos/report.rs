//! The report of a run: the tables of docs/reliability.md.

use std::{path::Path, sync::atomic::Ordering, time::Duration};

use super::tally::Tally;

const BEGIN: &str = "<!-- generated: chaos -->\n";
const END: &str = "<!-- end -->";

/// The report as Markdown.
pub fn text(tally: &Tally, faults: usize, took: Duration, seed: u64) -> String {
    let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let counts = tally.counts();
    let of = |name: &str| counts.get(name).copied().unwrap_or(0);
    let server = crate::harness::postgres::major().map_or("newest".into(), |n| n.to_string());
    let mut text = format!(
        "{faults} faults in {} min, seed {seed}, PostgreSQL {server}; {} transactions written, {} refused or cut off.\n\n",
        took.as_secs().div_ceil(60),
        of("transactions"),
        of("transactions that failed"),
    );
    text += "| | |\n| --- | ---: |\n";
    for (name, value) in [
        ("events that arrived", load(&tally.events)),
        ("copies compared with Postgres", of("copies compared")),
        ("lost", load(&tally.lost)),
        ("twice", load(&tally.duplicates)),
        ("of another organization or user", load(&tally.foreign)),
        ("silent for more than 10 s", load(&tally.silences)),
        ("resumed with a cursor", of("resumed")),
    ] {
        text += &format!("| {name} | {value} |\n");
    }
    text += &format!(
        "| longest time without a position | {:.1} s |\n",
        tally.longest_gap().as_secs_f64()
    );
    for (name, value) in counts.iter().filter(|(name, _)| {
        [
            "resync ", "closed ", "status ", "goodbye", "left ", "service ",
        ]
        .iter()
        .any(|begin| name.starts_with(begin))
    }) {
        text += &format!("| {name} | {value} |\n");
    }
    text +=
        "\n| fault | times | recovered after (middle) | longest |\n| --- | ---: | ---: | ---: |\n";
    for (kind, (times, middle, longest)) in tally.recoveries() {
        text += &format!(
            "| {} | {times} | {} ms | {} ms |\n",
            kind.replace('_', " "),
            middle.as_millis(),
            longest.as_millis()
        );
    }
    text
}

/// Puts the report into the page.
pub fn write(report: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/reliability.md");
    let page = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, placed(&page, report)).unwrap();
}

fn placed(page: &str, report: &str) -> String {
    let (head, rest) = page
        .split_once(BEGIN)
        .expect("the page has a place for the report");
    let (_, tail) = rest.split_once(END).expect("the place has an end");
    format!("{head}{BEGIN}{report}{END}{tail}")
}

#[test]
fn the_report_takes_the_place_of_the_one_before() {
    let page = format!("a\n{BEGIN}old\n{END}\nb\n");
    assert_eq!(placed(&page, "new\n"), format!("a\n{BEGIN}new\n{END}\nb\n"));
}
