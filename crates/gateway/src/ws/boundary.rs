//! Where in the stream of frames a socket is: pure. What has come of a message that is not whole yet is
//! memory that one client can make the service hold for as long as it likes, so it is counted, byte by byte.

/// Follows the frames of one client as their bytes come in.
#[derive(Debug, Default)]
pub(super) struct Boundary {
    /// The header of a frame, as far as it has come.
    header: [u8; 10],
    got: u8,
    /// Bytes of the frame (mask and payload) that are still to come.
    left: u64,
    /// The message is not at its end with this frame.
    continued: bool,
    /// Bytes of messages that are not whole, headers and all.
    unfinished: usize,
}

impl Boundary {
    /// Takes the next bytes of the stream. What comes after a broken header is counted somehow: the
    /// WebSocket reader refuses it.
    pub fn feed(&mut self, mut bytes: &[u8]) {
        while let Some(first) = bytes.first() {
            if self.left > 0 {
                let now = bytes
                    .len()
                    .min(usize::try_from(self.left).unwrap_or(usize::MAX));
                bytes = bytes.get(now..).unwrap_or_default();
                self.unfinished = self.unfinished.saturating_add(now);
                self.left -= now as u64;
                self.end_of_frame();
                continue;
            }
            if let Some(place) = self.header.get_mut(usize::from(self.got)) {
                *place = *first;
            }
            self.got += 1;
            self.unfinished = self.unfinished.saturating_add(1);
            bytes = bytes.get(1..).unwrap_or_default();
            if self.got == self.header_length() {
                self.left = self.payload_length() + if self.is_masked() { 4 } else { 0 };
                let [kind, ..] = self.header;
                // Control frames come between the parts of a message.
                if kind & 0x08 == 0 {
                    self.continued = kind & 0x80 == 0;
                }
                self.got = 0;
                self.end_of_frame();
            }
        }
    }

    /// Bytes of what is not whole yet, with what the present frame says that it will have, for which room is
    /// made at once; `most` of it, as a larger one is refused.
    pub fn held(&self, most: usize) -> usize {
        let left = usize::try_from(self.left).unwrap_or(usize::MAX);
        self.unfinished.saturating_add(left.min(most))
    }

    fn end_of_frame(&mut self) {
        if self.left == 0 && !self.continued {
            self.unfinished = 0;
        }
    }

    fn is_masked(&self) -> bool {
        let [_, length, ..] = self.header;
        length & 0x80 != 0
    }

    /// Without the mask.
    fn header_length(&self) -> u8 {
        let [_, length, ..] = self.header;
        match (self.got, length & 0x7F) {
            (..2, _) => 2,
            (_, 126) => 4,
            (_, 127) => 10,
            _ => 2,
        }
    }

    fn payload_length(&self) -> u64 {
        let [_, length, long @ ..] = self.header;
        let [a, b, ..] = long;
        match length & 0x7F {
            126 => u64::from(u16::from_be_bytes([a, b])),
            127 => u64::from_be_bytes(long) & (u64::MAX >> 1),
            short => u64::from(short),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A masked frame.
    fn frame(kind: u8, last: bool, payload: usize) -> Vec<u8> {
        let mut bytes = vec![kind | if last { 0x80 } else { 0 }];
        match payload {
            0..126 => bytes.push(0x80 | payload as u8),
            126..65_536 => {
                bytes.push(0x80 | 126);
                bytes.extend_from_slice(&(payload as u16).to_be_bytes());
            }
            _ => {
                bytes.push(0x80 | 127);
                bytes.extend_from_slice(&(payload as u64).to_be_bytes());
            }
        }
        bytes.extend_from_slice(&[1, 2, 3, 4]);
        bytes.resize(bytes.len() + payload, b'x');
        bytes
    }

    #[test]
    fn a_message_counts_until_its_last_byte_is_there() {
        for payload in [0, 1, 125, 126, 1000, 65_535, 65_536, 100_000] {
            let bytes = frame(1, true, payload);
            let mut boundary = Boundary::default();
            for (at, byte) in bytes.iter().enumerate() {
                assert_eq!(boundary.held(0), at, "{payload}");
                boundary.feed(&[*byte]);
            }
            assert_eq!(boundary.held(1 << 20), 0, "{payload}");
        }
    }

    #[test]
    fn what_is_announced_counts_at_once() {
        let bytes = frame(1, true, 60_000);
        let mut boundary = Boundary::default();
        boundary.feed(&bytes[..20]);
        assert_eq!(boundary.held(1 << 20), bytes.len());
        assert_eq!(boundary.held(100), 120);
    }

    proptest! {
        /// However the bytes are cut, and with pings between the parts of a message.
        #[test]
        fn only_the_end_of_a_message_ends_it(
            parts in prop::collection::vec(0_usize..70_000, 1..5),
            ping in any::<bool>(),
            cut in 1_usize..5000,
        ) {
            let mut bytes = Vec::new();
            let last = parts.len() - 1;
            for (at, payload) in parts.iter().enumerate() {
                bytes.extend(frame(u8::from(at == 0), at == last, *payload));
                if ping && at < last {
                    bytes.extend(frame(9, true, 4));
                }
            }
            let mut boundary = Boundary::default();
            let mut seen = 0;
            for piece in bytes.chunks(cut) {
                prop_assert_eq!(boundary.held(0), seen);
                boundary.feed(piece);
                seen += piece.len();
            }
            prop_assert_eq!(boundary.held(0), 0);
        }

        #[test]
        fn any_bytes_are_taken(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut boundary = Boundary::default();
            boundary.feed(&bytes);
            prop_assert!(boundary.held(0) <= bytes.len());
        }
    }
}
