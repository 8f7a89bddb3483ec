//! `make bench`: each figure is a ratio of Rowcast to a limit or a peer, measured in the same run.

mod bare;
mod broadcast;
mod database;
mod fanout;
mod latency;
mod masks;
mod memory;
mod ours;
mod presence;
mod process;
mod reader;
mod report;
mod service;
mod sockets;
mod stalled;
mod writes;

use std::{io::Write, path::PathBuf, time::Duration};

use anyhow::Result;
use clap::{Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Benchmarks of Rowcast.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Inner>,
    /// Which of: writes, fanout, masks, latency, memory, stalled, reader, broadcast, presence; all when none is named.
    only: Vec<String>,
    /// Counted runs of each.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Rows of the reader's backlog.
    #[arg(long, default_value_t = 1_000_000)]
    rows: usize,
    /// Of the fan-out, only the shapes whose name has this in it.
    #[arg(long, default_value = "")]
    shape: String,
    /// Of the join storms, only those of at most so many members.
    #[arg(long, default_value_t = 10_000)]
    members: usize,
    /// Where the report goes.
    #[arg(long, default_value = "docs")]
    docs: PathBuf,
}

#[derive(Subcommand)]
enum Inner {
    /// One side of a fan-out run; started by the benchmark itself.
    #[command(hide = true)]
    FanoutServer(fanout::Load),
}

fn main() -> Result<()> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let arguments = Arguments::parse();
    let workers = 1;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build()?;
    runtime.block_on(async move {
        match arguments.command {
            Some(Inner::FanoutServer(load)) if load.side == "bare" => bare::serve(load).await,
            Some(Inner::FanoutServer(load)) => ours::run(load).await,
            None => all(&arguments).await,
        }
    })
}

async fn all(arguments: &Arguments) -> Result<()> {
    let wanted =
        |name: &str| arguments.only.is_empty() || arguments.only.iter().any(|only| only == name);
    let rounds = arguments.rounds;
    if wanted("writes") {
        finish(
            arguments,
            "writes",
            writes::run(rounds, Duration::from_secs(4)).await?,
        )?;
    }
    if wanted("fanout") {
        finish(
            arguments,
            "fanout",
            fanout::run(rounds, 4.0, &arguments.shape).await?,
        )?;
    }
    if wanted("masks") {
        finish(arguments, "masks", masks::run(rounds, 3.0).await?)?;
    }
    if wanted("latency") {
        finish(
            arguments,
            "latency",
            latency::run(rounds, Duration::from_secs(8)).await?,
        )?;
    }
    if wanted("memory") {
        finish(arguments, "memory", memory::run(rounds).await?)?;
    }
    if wanted("stalled") {
        finish(
            arguments,
            "stalled",
            stalled::run(rounds, Duration::from_secs(8)).await?,
        )?;
    }
    if wanted("reader") {
        finish(
            arguments,
            "reader",
            reader::run(rounds, arguments.rows).await?,
        )?;
    }
    if wanted("broadcast") {
        finish(
            arguments,
            "broadcast",
            broadcast::run(rounds, Duration::from_secs(2)).await?,
        )?;
    }
    if wanted("presence") {
        finish(
            arguments,
            "presence",
            presence::run(rounds, arguments.members).await?,
        )?;
    }
    Ok(())
}

/// Shows and keeps what was measured, group by group, so that an interrupted run leaves what it has.
fn finish(arguments: &Arguments, group: &str, figures: Vec<report::Figure>) -> Result<()> {
    let mut out = std::io::stdout();
    writeln!(out, "{group}")?;
    for figure in &figures {
        let met = if figure.met { "" } else { "   NOT MET" };
        writeln!(
            out,
            "  {:32} {:>14.2} {:>14.2} {:14} ratio {:>6.3}  goal {}{met}",
            figure.name, figure.ours, figure.reference, figure.unit, figure.ratio, figure.goal
        )?;
    }
    out.flush()?;
    report::write(&arguments.docs, &figures)
}
