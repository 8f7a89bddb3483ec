//! Starts a private cluster, prints its addresses, and holds it until its input ends:
//! `cargo run -p rowcast-embedded --example cluster -- 18`.

use std::io::Read;

use rowcast_embedded::{Cluster, Options};

#[allow(clippy::print_stdout, reason = "an example talks")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let major = std::env::args().nth(1).map(|arg| arg.parse()).transpose()?;
    let cluster = Cluster::start(Options {
        major,
        ..Options::default()
    })?;
    println!("{}", cluster.url("postgres"));
    println!("{}", cluster.socket_url("postgres"));
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
