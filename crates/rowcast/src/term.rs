//! What the commands print: plain lines to standard output, coloured when a person looks.

use std::{
    fmt::Display,
    io::{self, IsTerminal, Write},
};

/// Prints one line; a closed pipe is not an error (`rowcast tail | head`).
pub fn line(text: impl Display) {
    let mut out = io::stdout().lock();
    if writeln!(out, "{text}").and_then(|()| out.flush()).is_err() {
        std::process::exit(0);
    }
}

/// Prints one line to standard error.
pub fn note(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Colours of the terminal, or none.
#[derive(Clone, Copy, Debug)]
pub struct Paint {
    on: bool,
}

/// A colour.
#[derive(Clone, Copy, Debug)]
pub enum Colour {
    /// Good, or new.
    Green,
    /// To look at, or changed.
    Yellow,
    /// Bad, or gone.
    Red,
    /// A name.
    Blue,
    /// Less important.
    Grey,
    /// More important.
    Bold,
}

impl Paint {
    /// Colours when standard output is a terminal and `NO_COLOR` is not set.
    pub fn detect() -> Paint {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Paint {
            on: wanted && io::stdout().is_terminal(),
        }
    }

    /// No colours.
    #[cfg(test)]
    pub fn plain() -> Paint {
        Paint { on: false }
    }

    /// The text in a colour.
    pub fn paint(self, colour: Colour, text: impl Display) -> String {
        let code = match colour {
            Colour::Green => "32",
            Colour::Yellow => "33",
            Colour::Red => "31",
            Colour::Blue => "36",
            Colour::Grey => "90",
            Colour::Bold => "1",
        };
        match self.on {
            true => format!("\x1b[{code}m{text}\x1b[0m"),
            false => text.to_string(),
        }
    }
}
