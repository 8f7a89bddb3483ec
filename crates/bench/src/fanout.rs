//! Fan-out: delivered frames a second and CPU a frame, ours against a program that writes the same bytes.
//!
//! Each side is a process of its own pinned to core 0; this process reads on core 1. `paced`: one event at
//! a time to all subscribers before the next (one frame a send). `saturated`: 16 events at once (16 frames
//! a send).
//!
//! The reader looks at all sockets every 5 ms instead of waiting for them. On one machine the sender pays
//! for waking a reader that waits, as much again as for the send, and whether it waits depends on a few
//! percent of either side's speed: the ratio would jump between two values. Readers of the real world wait
//! on machines of their own. For the same reason the kernel is told to acknowledge alike on all of its sockets
//! ([`sockets::sweep`]).
//!
//! Ours begins with a past that is full, as it is in a service that has run for a while: what is measured is keeping
//! one event and forgetting another, and not how fast the system hands out fresh memory.

use std::{
    io::{BufRead, BufReader, Write},
    path::PathBuf,
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, bail};

use crate::{
    ours, process,
    report::{Figure, Goal},
    sockets::{self, Counter},
};

/// Bytes of the row in one event, as JSON.
pub const PAYLOAD_BYTES: usize = 200;

/// One side of one run, handed to the child process on its command line.
#[derive(Clone, Debug, clap::Args)]
pub struct Load {
    /// `ours` or `bare`.
    #[arg(long)]
    pub side: String,
    /// Sockets in all.
    #[arg(long)]
    pub sockets: usize,
    /// Channels they are spread over.
    #[arg(long)]
    pub channels: usize,
    /// Frames written to a socket at once.
    #[arg(long)]
    pub burst: usize,
    /// Bytes of all frames of one burst on one socket.
    #[arg(long)]
    pub burst_bytes: usize,
    /// How long to write.
    #[arg(long)]
    pub seconds: f64,
    /// Rows with six more columns, which the sockets see in so many ways; with 0 there are no masks.
    #[arg(long)]
    pub classes: Option<usize>,
}

impl Load {
    /// One line to the parent.
    pub fn say(&self, line: &str) {
        let mut out = std::io::stdout();
        // A parent that is gone ends this process anyway, at its next read.
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    }

    /// The result line.
    pub fn report(&self, frames: u64, took: Duration, cpu: f64) {
        self.say(&format!("done {frames} {} {cpu}", took.as_secs_f64()));
    }
}

/// What one side of a run reached.
#[derive(Clone, Copy, Debug)]
pub struct Reached {
    /// Frames that all sockets together were written in a second.
    pub frames_per_second: f64,
    /// The same for each second of CPU that the process used.
    pub frames_per_cpu_second: f64,
}

/// Measures the four shapes, or those with `shape` in their name, `rounds` times each.
pub async fn run(rounds: usize, seconds: f64, shape: &str) -> Result<Vec<Figure>> {
    let shapes = [
        ("fanout_1x1000_paced", 1, 1),
        ("fanout_1x1000_saturated", 1, 16),
        ("fanout_100x10_paced", 100, 1),
        ("fanout_100x10_saturated", 100, 16),
    ];
    let _pinned = process::stay_on(1);
    let mut figures = Vec::new();
    for (name, channels, burst) in shapes {
        if !name.contains(shape) {
            continue;
        }
        let (mut rates, mut costs) = (Vec::new(), Vec::new());
        for round in 0..rounds {
            let load = |side: &str| Load {
                side: side.into(),
                sockets: 1000,
                channels,
                burst,
                burst_bytes: ours::burst_bytes(burst, None),
                seconds,
                classes: None,
            };
            // Alternate who goes first, so that a drift favours nobody.
            let (ours, bare) = if round % 2 == 0 {
                let ours = side(load("ours")).await?;
                (ours, side(load("bare")).await?)
            } else {
                let bare = side(load("bare")).await?;
                (side(load("ours")).await?, bare)
            };
            rates.push((ours.frames_per_second, bare.frames_per_second));
            costs.push((ours.frames_per_cpu_second, bare.frames_per_cpu_second));
        }
        let method = format!(
            "1000 sockets on {channels} channel(s), rows of {PAYLOAD_BYTES} bytes in frames of {}, {burst} frame(s) a \
             send, server process (gateway and hub, real sockets, a past that is full) pinned to one core, a reader that looks at all sockets every 5 ms on the other; reference: \
             a loop that writes the same bytes to plain sockets",
            ours::burst_bytes(burst, None) / burst
        );
        figures.push(Figure::of(
            name,
            "frames/s",
            Goal::AtLeast(0.8),
            &method,
            &rates,
        ));
        let cpu = format!("as `{name}`: frames for each second of CPU the server process used");
        figures.push(Figure::of(
            &format!("{name}_cpu"),
            "frames/CPU s",
            Goal::AtLeast(0.8),
            &cpu,
            &costs,
        ));
    }
    Ok(figures)
}

/// Runs one side in a process of its own and reads what it writes.
pub async fn side(load: Load) -> Result<Reached> {
    let me: PathBuf = std::env::current_exe()?;
    let classes = load.classes.map(|classes| format!("--classes={classes}"));
    let mut child = process::pinned(0, &me)
        .arg("fanout-server")
        .args(["--side", &load.side, "--sockets", &load.sockets.to_string()])
        .args([
            "--channels",
            &load.channels.to_string(),
            "--burst",
            &load.burst.to_string(),
        ])
        .args([
            "--burst-bytes",
            &load.burst_bytes.to_string(),
            "--seconds",
            &load.seconds.to_string(),
        ])
        .args(classes)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let guard = process::Guard::of(child.id())?;
    let mut stdin = child.stdin.take().context("stdin")?;
    let mut lines = BufReader::new(child.stdout.take().context("stdout")?).lines();
    let mut expect = move |word: &str| -> Result<Vec<String>> {
        for line in lines.by_ref() {
            let line = line?;
            let mut words = line.split(' ').map(str::to_owned);
            if words.next().as_deref() == Some(word) {
                return Ok(words.collect());
            }
        }
        bail!("the {word} line did not come")
    };
    let ready = expect("ready")?;
    let address = ready.first().context("address")?.clone();
    let counter = Counter::default();
    let secret = rowcast_fanout_secret();
    let mut readers = Vec::with_capacity(load.sockets);
    for i in 0..load.sockets {
        let organization = ours::organization(i % load.channels);
        let token = sockets::token(secret, &format!("user_{i}"))?;
        let socket = sockets::subscribe(&address, &token, &organization).await?;
        readers.push(socket);
    }
    sockets::sweep(readers, &counter)?;
    expect("connected")?;
    let before = settled(&counter).await;
    writeln!(stdin, "go")?;
    stdin.flush()?;
    let waiting = tokio::task::spawn_blocking(move || (expect("done"), expect));
    let (done, _keep) = waiting.await?;
    let done = done?;
    let number = |i: usize| -> Result<f64> { Ok(done.get(i).context("done")?.parse()?) };
    let (frames, seconds, cpu) = (number(0)?, number(1)?, number(2)?);
    let expected = before + (frames as u64) / load.burst as u64 * load.burst_bytes as u64;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while counter.bytes() < expected {
        if tokio::time::Instant::now() > deadline {
            bail!(
                "{} bytes were written, {} arrived",
                expected - before,
                counter.bytes() - before
            );
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    writeln!(stdin, "stop")?;
    drop(stdin);
    child.wait()?;
    drop(guard);
    Ok(Reached {
        frames_per_second: frames / seconds,
        frames_per_cpu_second: frames / cpu.max(0.01),
    })
}

/// The count once the replies to the subscriptions have all arrived.
async fn settled(counter: &Counter) -> u64 {
    let mut last = counter.bytes();
    loop {
        tokio::time::sleep(Duration::from_millis(300)).await;
        match counter.bytes() {
            now if now == last => return now,
            now => last = now,
        }
    }
}

/// The secret that both processes of a run know.
pub fn rowcast_fanout_secret() -> &'static str {
    "only for this benchmark, on this machine"
}
