//! How long the decoder takes for a row: `cargo run --release -p rowcast-source --example decode`.

#![allow(clippy::print_stdout)]

use std::{hint::black_box, time::Instant};

use bytes::{BufMut, Bytes, BytesMut};
use rowcast_source::pgoutput;

const COLUMNS: u16 = 10;
const ROWS: u32 = 2_000_000;

fn insert() -> Bytes {
    let mut message = BytesMut::new();
    message.put_u8(b'I');
    message.put_u32(16_384);
    message.put_u8(b'N');
    message.put_u16(COLUMNS);
    for _ in 0..COLUMNS {
        message.put_u8(b't');
        message.put_u32(20);
        message.put_slice(b"twenty bytes of text");
    }
    message.freeze()
}

fn main() {
    let message = insert();
    for _ in 0..3 {
        let begin = Instant::now();
        for _ in 0..ROWS {
            black_box(pgoutput::decode(black_box(message.clone()))).ok();
        }
        let nanoseconds = begin.elapsed().as_nanos() / u128::from(ROWS);
        println!(
            "{nanoseconds} ns per row of {COLUMNS} columns, {} bytes",
            message.len()
        );
    }
}
