//! Postgres text to JSON, straight from the text form, without a tree in between.
//!
//! Promises: whatever the bytes are, exactly one valid JSON value is appended; text that is not what
//! its kind should look like becomes a JSON string; nothing panics. For well-formed text the value
//! equals what `to_json` prints at timezone UTC.

mod composite;
mod nested;
mod scalar;
mod string;
mod validate;

use bytes::BufMut;
use rowcast_model::Kind;

pub use string::write_string;

/// Where JSON is appended to.
pub trait Sink: BufMut {
    /// Bytes written so far.
    fn written(&self) -> usize;
    /// Takes back everything after `len`.
    fn take_back(&mut self, len: usize);
}

impl Sink for Vec<u8> {
    fn written(&self) -> usize {
        self.len()
    }
    fn take_back(&mut self, len: usize) {
        self.truncate(len);
    }
}

impl Sink for bytes::BytesMut {
    fn written(&self) -> usize {
        self.len()
    }
    fn take_back(&mut self, len: usize) {
        self.truncate(len);
    }
}

/// Appends the JSON of a value in its text form.
pub fn write_value<S: Sink>(out: &mut S, kind: &Kind, text: &[u8]) {
    match kind {
        Kind::Text => write_string(out, text),
        Kind::Number => match validate::is_number(text) {
            true => out.put_slice(text),
            false => write_string(out, text),
        },
        Kind::Bool => match text {
            b"t" | b"true" => out.put_slice(b"true"),
            b"f" | b"false" => out.put_slice(b"false"),
            other => write_string(out, other),
        },
        Kind::Json => match validate::is_json(text) {
            true => out.put_slice(text),
            false => write_string(out, text),
        },
        Kind::Timestamp => scalar::write_timestamp(out, text),
        Kind::Array(element, delimiter) => {
            let start = out.written();
            if nested::write_array(out, element, *delimiter, text).is_err() {
                out.take_back(start);
                write_string(out, text);
            }
        }
        Kind::Composite(attributes) => {
            let start = out.written();
            if composite::write_composite(out, attributes, text).is_err() {
                out.take_back(start);
                write_string(out, text);
            }
        }
    }
}

#[cfg(test)]
mod tests;
