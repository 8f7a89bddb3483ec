//! How one value is read from a file, a variable or a flag, and shown again.

use std::{path::PathBuf, time::Duration};

use rowcast_model::{Rate, RateError};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;

/// A type that a key can have. Text stands for every type, since variables and flags are text.
pub trait Setting: Sized {
    /// What the reference says of the type.
    const KIND: &'static str;
    /// Values that are never shown, and may come from a file named by `<NAME>_FILE`.
    const SECRET: bool = false;

    /// Reads a value; the error says what is wanted and never repeats the value.
    fn read(value: &Value) -> Result<Self, String>;

    /// The value as the reference and `rowcast config` show it.
    fn show(&self) -> Value;
}

/// A text that is never printed.
#[derive(Clone, Debug)]
pub struct Secret(SecretString);

impl Secret {
    /// The text itself, for the place that needs it.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Secret(SecretString::from(text))
    }
}

/// A number of bytes; `512 KiB` and `1 GB` are understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// As a size in memory.
    pub fn as_usize(self) -> usize {
        usize::try_from(self.0).unwrap_or(usize::MAX)
    }
}

/// A span of time; `500 ms`, `10 s`, `2 min`, `1 h`; a bare number is seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

impl Span {
    /// Whole milliseconds, for declarations.
    pub const fn ms(ms: u64) -> Span {
        Span(Duration::from_millis(ms))
    }
}

const fn mib(n: u64) -> u64 {
    n * 1024 * 1024
}

impl ByteSize {
    /// KiB, for declarations.
    pub const fn kib(n: u64) -> ByteSize {
        ByteSize(n * 1024)
    }

    /// MiB, for declarations.
    pub const fn mib(n: u64) -> ByteSize {
        ByteSize(mib(n))
    }
}

/// How often something may happen; `20/s`, `100/60 s`, `50/s burst 200`, or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Often(pub Option<Rate>);

impl Often {
    /// As often as one likes.
    pub const OFF: Often = Often(None);

    /// So many a second, and so many at once, for declarations.
    pub fn per_second(amount: u32, burst: u32) -> Often {
        Often(Rate::per_second(amount, burst))
    }
}

impl Setting for Often {
    const KIND: &'static str = "rate, such as `20/s`, `100/60 s` or `50/s burst 200`, or `off`";

    fn read(value: &Value) -> Result<Self, String> {
        match value.as_str().map(str::trim) {
            Some("off") => Ok(Often::OFF),
            Some(text) => match text.parse() {
                Ok(rate) => Ok(Often(Some(rate))),
                Err(error) => Err(format!("{error}, or \"off\"")),
            },
            None => Err(format!("{RateError}, or \"off\"")),
        }
    }

    fn show(&self) -> Value {
        Value::from(match self.0 {
            Some(rate) => rate.to_string(),
            None => "off".to_owned(),
        })
    }
}

impl Setting for bool {
    const KIND: &'static str = "true or false";

    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Bool(yes) => Ok(*yes),
            Value::String(text) => match text.trim().to_ascii_lowercase().as_str() {
                "true" | "yes" | "on" | "1" => Ok(true),
                "false" | "no" | "off" | "0" => Ok(false),
                _ => Err("must be true or false".into()),
            },
            _ => Err("must be true or false".into()),
        }
    }

    fn show(&self) -> Value {
        Value::Bool(*self)
    }
}

macro_rules! numbers {
    ($($type:ty),*) => { $(
        impl Setting for $type {
            const KIND: &'static str = "whole number";

            fn read(value: &Value) -> Result<Self, String> {
                let wanted = || format!("must be a whole number from 0 to {}", <$type>::MAX);
                match value {
                    Value::Number(n) => n
                        .as_u64()
                        .and_then(|n| <$type>::try_from(n).ok())
                        .ok_or_else(wanted),
                    Value::String(text) => text.trim().replace('_', "").parse().map_err(|_| wanted()),
                    _ => Err(wanted()),
                }
            }

            fn show(&self) -> Value {
                Value::from(*self as u64)
            }
        }
    )* };
}
numbers!(u16, u32, u64, usize);

impl Setting for String {
    const KIND: &'static str = "text";

    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::String(text) => Ok(text.clone()),
            Value::Number(n) => Ok(n.to_string()),
            _ => Err("must be text".into()),
        }
    }

    fn show(&self) -> Value {
        Value::from(self.as_str())
    }
}

impl Setting for PathBuf {
    const KIND: &'static str = "path";

    fn read(value: &Value) -> Result<Self, String> {
        String::read(value).map(PathBuf::from)
    }

    fn show(&self) -> Value {
        Value::from(self.display().to_string())
    }
}

impl Setting for Secret {
    const KIND: &'static str = "secret text";
    const SECRET: bool = true;

    fn read(value: &Value) -> Result<Self, String> {
        let text = String::read(value)?;
        let text = text.trim_end_matches(['\n', '\r']);
        if text.is_empty() {
            return Err("must not be empty".into());
        }
        Ok(Secret::from(text.to_owned()))
    }

    fn show(&self) -> Value {
        Value::from("(hidden)")
    }
}

impl<T: Setting> Setting for Option<T> {
    const KIND: &'static str = T::KIND;
    const SECRET: bool = T::SECRET;

    fn read(value: &Value) -> Result<Self, String> {
        T::read(value).map(Some)
    }

    fn show(&self) -> Value {
        self.as_ref().map_or(Value::Null, T::show)
    }
}

impl Setting for Vec<String> {
    const KIND: &'static str = "list of texts (in a variable: with commas between)";

    fn read(value: &Value) -> Result<Self, String> {
        match value {
            Value::Array(items) => items.iter().map(String::read).collect(),
            Value::String(text) => Ok(text
                .split(',')
                .map(str::trim)
                .filter(|part| !part.is_empty())
                .map(str::to_owned)
                .collect()),
            _ => Err("must be a list of texts".into()),
        }
    }

    fn show(&self) -> Value {
        Value::from(self.clone())
    }
}

impl Setting for ByteSize {
    const KIND: &'static str = "bytes, such as `64 MiB`";

    fn read(value: &Value) -> Result<Self, String> {
        let wanted = "must be a number of bytes, such as 65536, \"64 KiB\" or \"1 GB\"";
        let unit = |unit: &str| match unit.to_ascii_lowercase().as_str() {
            "" | "b" => Some(1),
            "kib" | "k" => Some(1 << 10),
            "mib" | "m" => Some(1 << 20),
            "gib" | "g" => Some(1 << 30),
            "kb" => Some(1_000),
            "mb" => Some(1_000_000),
            "gb" => Some(1_000_000_000),
            _ => None,
        };
        quantity(value, unit).map(ByteSize).ok_or(wanted.into())
    }

    fn show(&self) -> Value {
        let (mut size, mut unit) = (self.0, "B");
        for next in ["KiB", "MiB", "GiB"] {
            if size == 0 || size % 1024 != 0 {
                break;
            }
            (size, unit) = (size / 1024, next);
        }
        Value::from(format!("{size} {unit}"))
    }
}

impl Setting for Span {
    const KIND: &'static str = "time, such as `10 s`";

    fn read(value: &Value) -> Result<Self, String> {
        let wanted = "must be a time, such as \"500 ms\", \"10 s\", \"5 min\" or \"1 h\"";
        let unit = |unit: &str| match unit.to_ascii_lowercase().as_str() {
            "ms" => Some(1),
            "" | "s" | "sec" => Some(1_000),
            "min" | "m" => Some(60_000),
            "h" => Some(3_600_000),
            "d" => Some(86_400_000),
            _ => None,
        };
        quantity(value, unit).map(Span::ms).ok_or(wanted.into())
    }

    fn show(&self) -> Value {
        let ms = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        let units = [(3_600_000, "h"), (60_000, "min"), (1_000, "s")];
        let fitting = units.iter().find(|(size, _)| ms > 0 && ms % size == 0);
        Value::from(match fitting {
            Some((size, unit)) => format!("{} {unit}", ms / size),
            None => format!("{ms} ms"),
        })
    }
}

/// A whole number with a unit behind it.
fn quantity(value: &Value, unit: impl Fn(&str) -> Option<u64>) -> Option<u64> {
    match value {
        Value::Number(n) => n.as_u64()?.checked_mul(unit("")?),
        Value::String(text) => {
            let text = text.trim().replace('_', "");
            let digits = text
                .find(|c: char| !c.is_ascii_digit())
                .unwrap_or(text.len());
            let (number, rest) = text.split_at(digits);
            number.parse::<u64>().ok()?.checked_mul(unit(rest.trim())?)
        }
        _ => None,
    }
}

/// Declares an enum whose values are words.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$vdoc])* $variant),* }

        impl $crate::config::Setting for $name {
            const KIND: &'static str = concat!("one of" $(, " `", $word, "`")*);

            fn read(value: &serde_json::Value) -> Result<Self, String> {
                match value.as_str().map(|word| word.trim().to_ascii_lowercase()).as_deref() {
                    $(Some($word) => Ok($name::$variant),)*
                    _ => Err(format!("must be {}", Self::KIND)),
                }
            }

            fn show(&self) -> serde_json::Value {
                serde_json::Value::from(match self { $($name::$variant => $word),* })
            }
        }
    };
}
pub(super) use words;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn reads_sizes_and_times_with_units() {
        assert_eq!(ByteSize::read(&json!("64 KiB")), Ok(ByteSize(65_536)));
        assert_eq!(ByteSize::read(&json!("1gb")), Ok(ByteSize(1_000_000_000)));
        assert_eq!(ByteSize::read(&json!(7)), Ok(ByteSize(7)));
        assert_eq!(Span::read(&json!("250ms")), Ok(Span::ms(250)));
        assert_eq!(Span::read(&json!(3)), Ok(Span::ms(3_000)));
        for bad in [json!("5 miles"), json!("x"), json!(-1), json!(null)] {
            assert!(Span::read(&bad).is_err());
            assert!(ByteSize::read(&bad).is_err());
        }
    }

    #[test]
    fn reads_rates() {
        let rate = Often::per_second(20, 200);
        assert_eq!(Often::read(&json!("20/s burst 200")), Ok(rate));
        assert_eq!(Often::read(&rate.show()), Ok(rate));
        assert_eq!(Often::read(&json!("off")), Ok(Often::OFF));
        assert_eq!(Often::read(&Often::OFF.show()), Ok(Often::OFF));
        for bad in [json!(""), json!("often"), json!(5), json!(null)] {
            let error = Often::read(&bad).unwrap_err();
            assert!(error.contains("off") && error.contains("20/s"), "{error}");
        }
    }

    #[test]
    fn a_secret_is_never_shown() {
        let secret = Secret::read(&json!("hunter2\n")).unwrap();
        assert_eq!(secret.expose(), "hunter2");
        assert!(!format!("{secret:?} {}", secret.show()).contains("hunter2"));
        assert!(Secret::read(&json!("\n")).is_err());
    }

    proptest! {
        #[test]
        fn what_is_shown_can_be_read(bytes in 0..1u64 << 50, ms in 0..1u64 << 40, flag: bool) {
            prop_assert_eq!(ByteSize::read(&ByteSize(bytes).show()), Ok(ByteSize(bytes)));
            prop_assert_eq!(Span::read(&Span::ms(ms).show()), Ok(Span::ms(ms)));
            prop_assert_eq!(bool::read(&Value::from(flag.to_string())), Ok(flag));
        }

        #[test]
        fn no_text_makes_it_panic(text in ".*") {
            let value = Value::from(text);
            let _ = (ByteSize::read(&value), Span::read(&value), u16::read(&value), bool::read(&value), Often::read(&value));
        }
    }
}
