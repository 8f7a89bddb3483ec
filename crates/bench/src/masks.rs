//! What masks cost: one channel of 1,000 sockets that see a table in 1, 5 or 50 ways, against the same rows
//! without masks, both by our own gateway and hub. Work that is done once for each way of seeing may grow with
//! their number; work for each subscriber must stay what it is.

use anyhow::Result;

use crate::{
    fanout::{Load, side},
    ours, process,
    report::{Figure, Goal},
};

/// Numbers of ways to see a row, with the least ratio of frames a second. Fifty ways are fifty encodings of
/// each event instead of one, for a thousand sockets; everything else is done once for each write, masks or not.
const SHAPES: [(usize, f64); 3] = [(1, 0.9), (5, 0.85), (50, 0.8)];
const SOCKETS: usize = 1000;
const BURST: usize = 16;

/// Measures each number of classes, `rounds` times.
pub async fn run(rounds: usize, seconds: f64) -> Result<Vec<Figure>> {
    let _pinned = process::stay_on(1);
    let mut figures = Vec::new();
    for (classes, goal) in SHAPES {
        let (mut rates, mut costs) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            let load = |classes: usize| Load {
                side: "ours".into(),
                sockets: SOCKETS,
                channels: 1,
                burst: BURST,
                burst_bytes: ours::burst_bytes(BURST, Some(classes)),
                seconds,
                classes: Some(classes),
            };
            // Alternate who goes first, so that a drift favours nobody.
            let (masked, plain) = if round % 2 == 0 {
                let masked = side(load(classes)).await?;
                (masked, side(load(0)).await?)
            } else {
                let plain = side(load(0)).await?;
                (side(load(classes)).await?, plain)
            };
            rates.push((masked.frames_per_second, plain.frames_per_second));
            costs.push((masked.frames_per_cpu_second, plain.frames_per_cpu_second));
        }
        let name = format!("masks_{classes}_classes");
        let method = format!(
            "{SOCKETS} sockets on one channel whose roles see six masked columns in {classes} way(s), {BURST} frames a send; \
             reference: the same sockets and rows of the same length without masks, in the same run"
        );
        let goal = Goal::AtLeast(goal);
        figures.push(Figure::of(&name, "frames/s", goal, &method, &rates));
        let cpu = format!("as `{name}`: frames for each second of CPU the server process used");
        figures.push(Figure::of(
            &format!("{name}_cpu"),
            "frames/CPU s",
            goal,
            &cpu,
            &costs,
        ));
    }
    Ok(figures)
}
