//! The text of a database address: a value without IO.
//!
//! Owns what libpq understands and the SQL client does not: `sslmode=verify-ca`, `verify-full`, `allow` and
//! `sslrootcert`, in a URI as well as in `key=value` text. They are taken out, the rest goes to the client.

use std::path::PathBuf;

use tokio_postgres::Config;

use crate::tls::Verify;

/// What the text says.
#[derive(Clone, Debug)]
pub(crate) struct Address {
    /// For the SQL client.
    pub(crate) config: Config,
    /// `sslmode` stands there.
    pub(crate) mode_said: bool,
    /// What is checked of the server, by `sslmode` alone.
    pub(crate) verify: Verify,
    /// Certificates to trust.
    pub(crate) ca_file: Option<PathBuf>,
}

/// Reads a URI or `key=value` text; the error says what is wrong, never the password.
pub(crate) fn parse(text: &str) -> Result<Address, String> {
    let text = text.trim();
    let mut tls = Tls::default();
    let clean = match text.starts_with("postgres://") || text.starts_with("postgresql://") {
        true => uri(text, &mut tls)?,
        false => pairs(text, &mut tls)?,
    };
    let config =
        clean
            .parse::<Config>()
            .map_err(|error| match std::error::Error::source(&error) {
                Some(cause) => cause.to_string(),
                None => error.to_string(),
            })?;
    Ok(Address {
        config,
        mode_said: tls.mode_said,
        verify: tls.verify,
        ca_file: tls.ca_file,
    })
}

struct Tls {
    mode_said: bool,
    verify: Verify,
    ca_file: Option<PathBuf>,
}

impl Default for Tls {
    fn default() -> Self {
        Tls {
            mode_said: false,
            verify: Verify::Nothing,
            ca_file: None,
        }
    }
}

impl Tls {
    /// What the client is told instead of this setting; `None`: nothing.
    fn take(&mut self, key: &str, value: &str) -> Option<(String, String)> {
        let kept = |value: &str| Some((key.to_owned(), value.to_owned()));
        self.mode_said |= key == "sslmode";
        match (key, value) {
            ("sslmode", "verify-full") => self.verify = Verify::Host,
            ("sslmode", "verify-ca") => self.verify = Verify::Issuer,
            ("sslmode", "allow") => return kept("prefer"),
            // `system` is what is trusted anyway.
            ("sslrootcert", "" | "system") => return None,
            ("sslrootcert", file) => {
                self.ca_file = Some(file.into());
                return None;
            }
            _ => return kept(value),
        }
        kept("require")
    }
}

fn uri(text: &str, tls: &mut Tls) -> Result<String, String> {
    let Some((head, query)) = text.split_once('?') else {
        return Ok(text.to_owned());
    };
    let mut kept = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        match key {
            "sslmode" | "sslrootcert" => {
                let value = decoded(value)?;
                kept.extend(
                    tls.take(key, &value)
                        .map(|(key, value)| format!("{key}={value}")),
                );
            }
            _ => kept.push(pair.to_owned()),
        }
    }
    Ok(match kept.is_empty() {
        true => head.to_owned(),
        false => format!("{head}?{}", kept.join("&")),
    })
}

/// Undoes `%41`.
fn decoded(text: &str) -> Result<String, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
        match (digit(), digit()) {
            (Some(high), Some(low)) => bytes.push((high * 16 + low) as u8),
            _ => return Err("a `%` that is not followed by two hex digits".into()),
        }
    }
    String::from_utf8(bytes).map_err(|_| "a value that is not UTF-8".into())
}

fn pairs(text: &str, tls: &mut Tls) -> Result<String, String> {
    let mut kept = String::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=').ok_or(
            "a setting without a value; write key=value, or a URI that begins with postgres://",
        )?;
        let (value, after) = value(after.trim_start())?;
        if let Some((key, value)) = tls.take(key.trim(), &value) {
            let value = value.replace('\\', "\\\\").replace('\'', "\\'");
            kept.push_str(&format!("{key}='{value}' "));
        }
        rest = after.trim_start();
    }
    Ok(kept)
}

/// The value at the beginning, perhaps between quotes, and what follows it.
fn value(text: &str) -> Result<(String, &str), String> {
    let (quoted, body) = match text.strip_prefix('\'') {
        Some(body) => (true, body),
        None => (false, text),
    };
    let mut value = String::new();
    let mut letters = body.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\\' => value.extend(letters.next().map(|(_, letter)| letter)),
            '\'' if quoted => return Ok((value, body.get(at + 1..).unwrap_or_default())),
            space if !quoted && space.is_whitespace() => {
                return Ok((value, body.get(at..).unwrap_or_default()));
            }
            letter => value.push(letter),
        }
    }
    match quoted {
        true => Err("a quote that is not closed".into()),
        false => Ok((value, "")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio_postgres::config::{Host, SslMode};

    #[test]
    fn understands_what_libpq_understands() {
        for (text, mode, verify, ca_file) in [
            ("postgres://a@b/c", SslMode::Prefer, Verify::Nothing, None),
            (
                "postgres://a@b/c?sslmode=disable",
                SslMode::Disable,
                Verify::Nothing,
                None,
            ),
            (
                "postgres://a@b/c?sslmode=require",
                SslMode::Require,
                Verify::Nothing,
                None,
            ),
            (
                "postgresql://a@b/c?sslmode=verify-full&sslrootcert=%2fx&connect_timeout=3",
                SslMode::Require,
                Verify::Host,
                Some("/x"),
            ),
            (
                "postgres://a@b/c?sslrootcert=/x&sslmode=require",
                SslMode::Require,
                Verify::Nothing,
                Some("/x"),
            ),
            (
                "host=b sslmode = verify-ca user='a' sslrootcert='/a b'",
                SslMode::Require,
                Verify::Issuer,
                Some("/a b"),
            ),
            (
                "host=b sslmode=allow",
                SslMode::Prefer,
                Verify::Nothing,
                None,
            ),
            (
                "host=b sslrootcert=system sslmode=verify-full",
                SslMode::Require,
                Verify::Host,
                None,
            ),
        ] {
            let address = parse(text).unwrap();
            assert_eq!(address.config.get_ssl_mode(), mode, "{text}");
            assert_eq!(address.verify, verify, "{text}");
            assert_eq!(address.ca_file, ca_file.map(PathBuf::from), "{text}");
        }
        for bad in [
            "postgres://a@b/c?nonsense=1",
            "postgres://a@b/c?sslmode=%zz",
            "host='a",
            "nonsense",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn odd_passwords_and_socket_directories() {
        let address =
            parse(r"host=/run/pg port=5433 user=a password='a?b\'c\\d e' dbname=x").unwrap();
        assert_eq!(address.config.get_password(), Some(&br"a?b'c\d e"[..]));
        assert_eq!(address.config.get_hosts(), [Host::Unix("/run/pg".into())]);
        let address = parse("postgres://u:p%3Fq@%2Frun%2Fpg:5433/x").unwrap();
        assert_eq!(address.config.get_password(), Some(&b"p?q"[..]));
        assert_eq!(address.config.get_hosts(), [Host::Unix("/run/pg".into())]);
    }

    proptest! {
        #[test]
        fn never_panics(text in ".*", query in ".*") {
            let _ = parse(&text);
            let _ = parse(&format!("postgres://a@b/c?sslmode={query}"));
            let _ = parse(&format!("host={query}"));
        }

        #[test]
        fn any_value_survives_quoting(password in "[^\0]{1,20}") {
            let quoted = password.replace('\\', "\\\\").replace('\'', "\\'");
            let address = parse(&format!("password='{quoted}' host=h")).unwrap();
            prop_assert_eq!(address.config.get_password(), Some(password.as_bytes()));
        }
    }
}
