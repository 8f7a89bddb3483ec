//! A client that does what libraries do not: bytes as they are, from a thread of its own.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

/// The request that becomes a socket.
pub fn request(address: SocketAddr) -> Vec<u8> {
    format!(
        "GET /realtime/v1/websocket HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    .into_bytes()
}

/// A client's frame; the mask is zero, which is a mask too. `first` is FIN and opcode.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    match payload.len() {
        short @ 0..126 => out.push(0x80 | short as u8),
        medium => {
            out.push(0x80 | 126);
            out.extend(u16::try_from(medium).unwrap().to_be_bytes());
        }
    }
    out.extend([0; 4]);
    out.extend(payload);
    out
}

pub const TEXT: u8 = 0x81;
pub const PING: u8 = 0x89;
pub const CLOSE: u8 = 0x88;
/// The beginning of a text message that goes on.
pub const TEXT_BEGINS: u8 = 0x01;
/// The middle of a message.
pub const MIDDLE: u8 = 0x00;

/// Opens a socket, sends `first`, then `noise` as fast as it is taken, and reads on the side. How long it took
/// until the other side closed; `None` when it had not after `most`.
pub fn flood(
    address: SocketAddr,
    first: Vec<u8>,
    noise: Vec<u8>,
    most: Duration,
) -> Option<Duration> {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(&request(address)).unwrap();
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "no answer");
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 101"));
    stream.write_all(&first).unwrap();
    let mut reading = stream.try_clone().unwrap();
    let reader = std::thread::spawn(move || {
        let mut rest = [0; 65_536];
        while matches!(reading.read(&mut rest), Ok(1..)) {}
    });
    stream
        .set_write_timeout(Some(Duration::from_millis(200)))
        .unwrap();
    let start = Instant::now();
    while start.elapsed() < most {
        match stream.write(&noise) {
            Err(error)
                if !matches!(
                    error.kind(),
                    std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                ) =>
            {
                return Some(start.elapsed());
            }
            _ if reader.is_finished() => return Some(start.elapsed()),
            _ => {}
        }
    }
    let _ = stream.shutdown(std::net::Shutdown::Both);
    None
}
