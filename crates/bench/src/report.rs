//! What a benchmark run leaves behind: `docs/benchmarks.json`, a table and a plot.
//!
//! A figure is a ratio of ours to a reference measured in the same run; absolute numbers are kept
//! beside it so that the ratio can be checked.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// One line of the report.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Figure {
    /// Name of the benchmark.
    pub name: String,
    /// Median of ours.
    pub ours: f64,
    /// Median of the reference.
    pub reference: f64,
    /// Median of the ratios run by run (ours / reference).
    pub ratio: f64,
    /// The bound on the ratio (or, for memory, on ours).
    pub goal: String,
    /// Whether it is kept.
    pub met: bool,
    /// Unit of ours and reference.
    pub unit: String,
    /// How it was measured.
    pub method: String,
}

/// The bound of a figure.
#[derive(Clone, Copy, Debug)]
pub enum Goal {
    /// The ratio is at least this.
    AtLeast(f64),
    /// The ratio is at most this.
    AtMost(f64),
}

/// The median; `NaN` of nothing.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted: Vec<f64> = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match (sorted.len(), sorted.len() / 2) {
        (0, _) => f64::NAN,
        (len, half) if len % 2 == 1 => sorted[half],
        (_, half) => (sorted[half - 1] + sorted[half]) / 2.0,
    }
}

/// The quantile `q` (0 to 1) of unsorted values; `NaN` of nothing.
pub fn quantile(values: &mut [f64], q: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    // Truncation is wanted: the index of the value below.
    values
        .get((last as f64 * q) as usize)
        .copied()
        .unwrap_or(f64::NAN)
}

impl Figure {
    /// Makes a figure of pairs (ours, reference), one pair a run.
    pub fn of(name: &str, unit: &str, goal: Goal, method: &str, runs: &[(f64, f64)]) -> Figure {
        let ratio = median(
            &runs
                .iter()
                .map(|(ours, reference)| ours / reference)
                .collect::<Vec<_>>(),
        );
        let (goal, met) = match goal {
            Goal::AtLeast(bound) => (format!(">= {bound}"), ratio >= bound),
            Goal::AtMost(bound) => (format!("<= {bound}"), ratio <= bound),
        };
        Figure {
            name: name.into(),
            ours: median(&runs.iter().map(|run| run.0).collect::<Vec<_>>()),
            reference: median(&runs.iter().map(|run| run.1).collect::<Vec<_>>()),
            ratio,
            goal,
            met,
            unit: unit.into(),
            method: format!("{method}; median of {} runs", runs.len()),
        }
    }
}

/// Puts new figures into what an earlier run left (by name) and writes JSON, table and plot to `docs`.
pub fn write(docs: &Path, fresh: &[Figure]) -> Result<()> {
    let json = docs.join("benchmarks.json");
    let mut all: Vec<Figure> = match fs::read(&json) {
        Ok(bytes) => {
            serde_json::from_slice(&bytes).context("docs/benchmarks.json is not readable")?
        }
        Err(_) => Vec::new(),
    };
    for figure in fresh {
        match all.iter_mut().find(|old| old.name == figure.name) {
            Some(old) => *old = figure.clone(),
            None => all.push(figure.clone()),
        }
    }
    all.sort_by(|a, b| a.name.cmp(&b.name));
    fs::write(&json, serde_json::to_string_pretty(&all)? + "\n")?;
    fs::write(docs.join("benchmarks.md"), markdown(&all))?;
    fs::create_dir_all(docs.join("images"))?;
    fs::write(docs.join("images/benchmarks.svg"), plot(&all))?;
    Ok(())
}

/// The document, rendered from the figures.
pub fn markdown(figures: &[Figure]) -> String {
    let mut out = String::from(
        "# Benchmarks\n\n\
         Rendered from `benchmarks.json` by `make bench`; do not edit. Each figure is a ratio of Rowcast to a\n\
         reference that was measured in the same run on the same machine (2 cores), alternating, so that the\n\
         speed of the machine cancels out. Absolute numbers are there to check the ratio, not to compare machines.\n\n\
         ![ratios](images/benchmarks.svg)\n\n\
         | name | ours | reference | unit | ratio | goal | met |\n\
         | --- | ---: | ---: | --- | ---: | --- | --- |\n",
    );
    for f in figures {
        let met = if f.met { "yes" } else { "**no**" };
        let _ = writeln!(
            out,
            "| `{}` | {} | {} | {} | {:.2} | {} | {met} |",
            f.name,
            short(f.ours),
            short(f.reference),
            f.unit,
            f.ratio,
            f.goal
        );
    }
    out.push_str("\n## Method\n\n");
    for f in figures {
        let _ = writeln!(out, "- `{}`: {}.", f.name, f.method);
    }
    out.push_str(
        "\nWith `synchronous_commit = off` every reader of the log is late: the log is streamed only when the WAL\n\
         writer has flushed it, which is 120 to 160 ms at the median. That is not Rowcast's share, and no reader\n\
         of the log can be faster.\n",
    );
    out
}

fn short(value: f64) -> String {
    match value.abs() {
        v if v >= 100_000.0 => format!("{:.0}k", value / 1000.0),
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

/// Bars of the ratios with their goals, as SVG that reads on light and dark pages.
fn plot(figures: &[Figure]) -> String {
    const ROW: usize = 26;
    let height = figures.len() * ROW + 50;
    let x = |ratio: f64| 230.0 + (ratio.clamp(0.0, 2.5) / 2.5) * 420.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 720 {height}\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"720\" height=\"{height}\" rx=\"8\" fill=\"#fff\"/>\n\
         <text x=\"16\" y=\"22\" font-size=\"14\" font-weight=\"bold\">Rowcast against its reference (ratio; the line is the goal)</text>\n"
    );
    for (i, f) in figures.iter().enumerate() {
        let y = 38 + i * ROW;
        let colour = if f.met { "#2a9d5c" } else { "#d1495b" };
        let goal: f64 = f
            .goal
            .trim_start_matches([' ', '<', '>', '='])
            .parse()
            .unwrap_or(1.0);
        let _ = writeln!(
            out,
            "<text x=\"220\" y=\"{}\" text-anchor=\"end\">{}</text>\
             <rect x=\"230\" y=\"{y}\" width=\"{:.1}\" height=\"16\" rx=\"3\" fill=\"{colour}\"/>\
             <text x=\"{:.1}\" y=\"{}\">{:.2}</text>\
             <line x1=\"{:.1}\" x2=\"{:.1}\" y1=\"{}\" y2=\"{}\" stroke=\"#333\" stroke-width=\"2\"/>",
            y + 13,
            f.name,
            x(f.ratio) - 230.0,
            x(f.ratio.max(goal)) + 8.0,
            y + 13,
            f.ratio,
            x(goal),
            x(goal),
            y - 2,
            y + 18,
        );
    }
    out.push_str("</svg>\n");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_goals() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0]), 2.5);
        assert_eq!(quantile(&mut [5.0, 1.0, 3.0], 0.5), 3.0);
        let figure = Figure::of(
            "x",
            "u",
            Goal::AtLeast(0.9),
            "m",
            &[(95.0, 100.0), (80.0, 100.0), (99.0, 100.0)],
        );
        assert!(figure.met && figure.ratio == 0.95);
        assert!(!Figure::of("x", "u", Goal::AtMost(0.9), "m", &[(1.0, 1.0)]).met);
    }
}
