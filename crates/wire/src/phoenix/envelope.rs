//! What is around the payload of a text frame. Owns its order, which differs between the versions.

use super::Version;
use crate::{Frame, event::string, frame::FrameWriter};

/// To whom a message is said, and what it answers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Envelope<'a> {
    pub version: Version,
    /// The join that it belongs to; version 1 does not carry it.
    pub join_ref: Option<&'a str>,
    pub reference: Option<&'a str>,
    pub topic: &'a str,
    pub event: &'a str,
}

impl Envelope<'_> {
    /// Appends everything in front of the payload.
    pub(super) fn open(&self, json: &mut Vec<u8>) {
        match self.version {
            Version::V1 => {
                json.extend_from_slice(br#"{"topic":"#);
                string(json, self.topic);
                json.extend_from_slice(br#","event":"#);
                string(json, self.event);
                json.extend_from_slice(br#","payload":"#);
            }
            Version::V2 => {
                json.push(b'[');
                optional(json, self.join_ref);
                json.push(b',');
                optional(json, self.reference);
                json.push(b',');
                string(json, self.topic);
                json.push(b',');
                string(json, self.event);
                json.push(b',');
            }
        }
    }

    /// Appends everything behind the payload.
    pub(super) fn shut(&self, json: &mut Vec<u8>) {
        match self.version {
            Version::V1 => {
                json.extend_from_slice(br#","ref":"#);
                optional(json, self.reference);
                json.push(b'}');
            }
            Version::V2 => json.push(b']'),
        }
    }

    /// The whole frame around what `payload` appends: one JSON object.
    pub(super) fn frame(&self, payload: impl FnOnce(&mut Vec<u8>)) -> Frame {
        let mut out = Vec::with_capacity(256);
        let mut frame = FrameWriter::begin(&mut out);
        let json = frame.payload();
        self.open(json);
        payload(json);
        self.shut(json);
        frame.finish();
        Frame::from(out)
    }
}

fn optional(json: &mut Vec<u8>, text: Option<&str>) {
    match text {
        Some(text) => string(json, text),
        None => json.extend_from_slice(b"null"),
    }
}
