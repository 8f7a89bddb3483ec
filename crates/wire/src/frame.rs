//! WebSocket framing of what the service sends: unmasked, unfragmented, in one piece.
//!
//! A [`Frame`] is ready for the socket; it is encoded once and shared by everybody who gets it.

use bytes::Bytes;

use crate::CloseCode;

/// A complete unmasked WebSocket frame: header and payload.
pub type Frame = Bytes;

const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
const PONG: u8 = 0x8a;
/// Room kept in front of a payload whose length is not known yet.
const HEADER_ROOM: usize = 10;

/// Writes frames behind each other into one buffer, each in place.
#[derive(Debug)]
pub struct FrameWriter<'a> {
    out: &'a mut Vec<u8>,
    start: usize,
    opcode: u8,
}

impl<'a> FrameWriter<'a> {
    /// Begins a text frame at the end of `out`.
    pub fn begin(out: &'a mut Vec<u8>) -> FrameWriter<'a> {
        FrameWriter::of(TEXT, out)
    }

    /// Begins a binary frame at the end of `out`.
    pub fn begin_binary(out: &'a mut Vec<u8>) -> FrameWriter<'a> {
        FrameWriter::of(BINARY, out)
    }

    fn of(opcode: u8, out: &'a mut Vec<u8>) -> FrameWriter<'a> {
        let start = out.len();
        // Nearly all payloads are of 126 to 65,535 bytes and need four bytes of header.
        out.extend_from_slice(&[0; 4]);
        FrameWriter { out, start, opcode }
    }

    /// Where to append the payload.
    pub fn payload(&mut self) -> &mut Vec<u8> {
        self.out
    }

    /// Ends the frame; its header is put in front, moving the payload when it is short or very long.
    pub fn finish(self) {
        let length = self.out.len() - self.start - 4;
        if let (126.., Ok(short), Some(header)) = (
            length,
            u16::try_from(length),
            self.out.get_mut(self.start..self.start + 4),
        ) {
            let [high, low] = short.to_be_bytes();
            header.copy_from_slice(&[self.opcode, 126, high, low]);
            return;
        }
        let mut header = [0_u8; HEADER_ROOM];
        let used = write_header(&mut header, self.opcode, length);
        let header = header.get(..used).unwrap_or_default();
        self.out
            .splice(self.start..self.start + 4, header.iter().copied());
    }
}

/// Writes the header and says how many bytes it has.
fn write_header(header: &mut [u8; HEADER_ROOM], opcode: u8, length: usize) -> usize {
    header[0] = opcode;
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short), _) if short < 126 => {
            header[1] = short;
            2
        }
        (_, Ok(medium)) => {
            header[1] = 126;
            header[2..4].copy_from_slice(&medium.to_be_bytes());
            4
        }
        _ => {
            header[1] = 127;
            header[2..10].copy_from_slice(&(length as u64).to_be_bytes());
            10
        }
    }
}

/// A text frame of a payload that is there already.
pub fn text_frame(payload: &[u8]) -> Frame {
    framed(TEXT, payload)
}

/// Whether a frame that this crate made is binary.
pub fn is_binary(frame: &[u8]) -> bool {
    frame.first() == Some(&BINARY)
}

/// The answer to a WebSocket ping; payloads longer than 125 bytes are cut, as the protocol allows none.
pub fn pong_frame(payload: &[u8]) -> Frame {
    framed(PONG, payload.get(..125).unwrap_or(payload))
}

/// A close frame with the code's number and sentence.
pub fn close_frame(code: CloseCode) -> Frame {
    let mut payload = code.number().to_be_bytes().to_vec();
    payload.extend_from_slice(code.sentence().as_bytes());
    payload.truncate(125);
    framed(CLOSE, &payload)
}

fn framed(opcode: u8, payload: &[u8]) -> Frame {
    let mut header = [0_u8; HEADER_ROOM];
    let used = write_header(&mut header, opcode, payload.len());
    let mut out = Vec::with_capacity(used + payload.len());
    out.extend_from_slice(header.get(..used).unwrap_or_default());
    out.extend_from_slice(payload);
    Bytes::from(out)
}

/// Cuts the first complete frame off `bytes`: its payload and the rest. For tests and tools.
pub fn payload_of(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (header, length) = match *bytes.get(1)? {
        126 => (
            4,
            u64::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)),
        ),
        127 => (10, u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?)),
        short => (2, u64::from(short)),
    };
    let end = usize::try_from(length).ok()?.checked_add(header)?;
    Some((bytes.get(header..end)?, bytes.get(end..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_has_the_right_header() {
        for length in [0, 1, 125, 126, 65_535, 65_536, 100_000] {
            let payload = vec![b'x'; length];
            let whole = text_frame(&payload);
            assert_eq!(payload_of(&whole), Some((&payload[..], &b""[..])));
            let mut out = b"before".to_vec();
            let mut writer = FrameWriter::begin(&mut out);
            writer.payload().extend_from_slice(&payload);
            writer.finish();
            assert_eq!(&out[6..], &whole[..], "{length}");
        }
    }

    #[test]
    fn a_close_frame_is_a_control_frame() {
        for code in CloseCode::ALL {
            let frame = close_frame(*code);
            assert_eq!(frame[0], 0x88);
            assert!(frame[1] <= 125);
            assert_eq!(&frame[2..4], &code.number().to_be_bytes());
        }
    }
}
