//! Reads the text form of a Postgres array token by token. Owns its quoting rules; total on any bytes.

use std::borrow::Cow;

/// One piece of an array's text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Token<'a> {
    /// `{`
    Open,
    /// `}`
    Close,
    /// An unquoted NULL.
    Null,
    /// An element, with quotes and escapes taken away.
    Element(Cow<'a, [u8]>),
}

/// The text is not an array.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// What may come next.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Expect {
    Value,
    ValueOrClose,
    DelimiterOrClose,
    End,
}

/// Goes through an array's text. Ends with `None` only when the array was complete and well-formed.
pub(crate) struct Tokens<'a> {
    rest: &'a [u8],
    delimiter: u8,
    depth: u32,
    expect: Expect,
}

/// More braces than any array of Postgres has (it allows six).
const MAX_DEPTH: u32 = 32;

impl<'a> Tokens<'a> {
    /// Starts reading; a prefix of bounds such as `[2:4]=` is skipped, as `to_json` ignores it too.
    pub(crate) fn new(text: &'a [u8], delimiter: u8) -> Self {
        Tokens {
            rest: without_bounds(text),
            delimiter,
            depth: 0,
            expect: Expect::Value,
        }
    }

    /// The next token, or `None` after the last brace.
    pub(crate) fn next(&mut self) -> Result<Option<Token<'a>>, Malformed> {
        if self.expect == Expect::End {
            return if self.rest.is_empty() {
                Ok(None)
            } else {
                Err(Malformed)
            };
        }
        let first = self.peek()?;
        if self.expect == Expect::DelimiterOrClose && first == self.delimiter {
            self.skip(1);
            self.expect = Expect::Value;
            return self.value().map(Some);
        }
        if first == b'}' && self.expect != Expect::Value {
            self.skip(1);
            self.depth = self.depth.saturating_sub(1);
            self.expect = match self.depth {
                0 => Expect::End,
                _ => Expect::DelimiterOrClose,
            };
            return Ok(Some(Token::Close));
        }
        if self.expect == Expect::DelimiterOrClose {
            return Err(Malformed);
        }
        self.value().map(Some)
    }

    fn value(&mut self) -> Result<Token<'a>, Malformed> {
        match self.peek()? {
            b'{' => {
                self.skip(1);
                self.depth += 1;
                if self.depth > MAX_DEPTH {
                    return Err(Malformed);
                }
                self.expect = Expect::ValueOrClose;
                Ok(Token::Open)
            }
            _ if self.depth == 0 => Err(Malformed),
            b'"' => {
                self.skip(1);
                self.expect = Expect::DelimiterOrClose;
                self.quoted().map(Token::Element)
            }
            _ => {
                self.expect = Expect::DelimiterOrClose;
                self.bare()
            }
        }
    }

    fn quoted(&mut self) -> Result<Cow<'a, [u8]>, Malformed> {
        let plain = self
            .rest
            .iter()
            .position(|b| matches!(b, b'"' | b'\\'))
            .ok_or(Malformed)?;
        let (head, tail) = self.rest.split_at(plain);
        if tail.first() == Some(&b'"') {
            self.rest = head;
            let whole = self.rest;
            self.rest = tail.get(1..).unwrap_or_default();
            return Ok(Cow::Borrowed(whole));
        }
        let mut out = head.to_vec();
        self.rest = tail;
        loop {
            match self.peek()? {
                b'"' => {
                    self.skip(1);
                    return Ok(Cow::Owned(out));
                }
                b'\\' => {
                    self.skip(1);
                    out.push(self.peek()?);
                    self.skip(1);
                }
                other => {
                    out.push(other);
                    self.skip(1);
                }
            }
        }
    }

    fn bare(&mut self) -> Result<Token<'a>, Malformed> {
        let delimiter = self.delimiter;
        let end = self
            .rest
            .iter()
            .position(|&b| b == delimiter || matches!(b, b'}' | b'{' | b'"' | b'\\'))
            .ok_or(Malformed)?;
        let (head, tail) = self.rest.split_at(end);
        let ends_well = tail.first() == Some(&delimiter) || tail.first() == Some(&b'}');
        if head.is_empty() || !ends_well {
            return Err(Malformed);
        }
        self.rest = tail;
        Ok(match head {
            b"NULL" => Token::Null,
            _ => Token::Element(Cow::Borrowed(head)),
        })
    }

    fn peek(&self) -> Result<u8, Malformed> {
        self.rest.first().copied().ok_or(Malformed)
    }

    fn skip(&mut self, n: usize) {
        self.rest = self.rest.get(n..).unwrap_or_default();
    }
}

fn without_bounds(text: &[u8]) -> &[u8] {
    if text.first() != Some(&b'[') {
        return text;
    }
    let Some(end) = text.windows(2).position(|pair| pair == b"={") else {
        return text;
    };
    let (bounds, array) = text.split_at(end);
    let allowed = |b: &u8| matches!(b, b'[' | b']' | b':' | b'-' | b'+' | b'0'..=b'9');
    match bounds.iter().all(allowed) {
        true => array.get(1..).unwrap_or_default(),
        false => text,
    }
}

/// The elements of a one-dimensional `text[]`; nulls are left out. `None` when it is not an array.
pub(crate) fn text_elements(text: &str) -> Option<Vec<String>> {
    let mut tokens = Tokens::new(text.as_bytes(), b',');
    let mut out = Vec::new();
    let mut depth = 0;
    while let Some(token) = tokens.next().ok()? {
        match token {
            Token::Open => depth += 1,
            Token::Close | Token::Null => {}
            Token::Element(bytes) => out.push(String::from_utf8_lossy(&bytes).into_owned()),
        }
    }
    (depth == 1).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_postgres_prints() {
        let read = |text| text_elements(text);
        assert_eq!(read("{}"), Some(vec![]));
        assert_eq!(
            read(r#"{a,"b c",NULL,"NULL","q\"x\\",""}"#),
            Some(
                ["a", "b c", "NULL", "q\"x\\", ""]
                    .map(String::from)
                    .to_vec()
            )
        );
        assert_eq!(read("[0:1]={a,b}"), Some(vec!["a".into(), "b".into()]));
    }

    #[test]
    fn refuses_what_it_never_prints() {
        for bad in [
            "",
            "a",
            "{",
            "}",
            "{a",
            "{a,}",
            "{,a}",
            "{a}}",
            "{{a}}",
            r#"{"a}"#,
            r#"{"a"b}"#,
            "{a}x",
            "{a b\"c}",
            "[1:2]={",
            "{a{b}}",
        ] {
            assert_eq!(text_elements(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn quoted_elements_come_back(elements in prop::collection::vec(".{0,8}", 0..5)) {
            let quoted: Vec<_> = elements
                .iter()
                .map(|e| format!("\"{}\"", e.replace('\\', "\\\\").replace('"', "\\\"")))
                .collect();
            prop_assert_eq!(text_elements(&format!("{{{}}}", quoted.join(","))), Some(elements));
        }

        #[test]
        fn never_panics(text in prop::collection::vec(prop::sample::select(&b"{},\"\\N[]:=1a "[..]), 0..40)) {
            let mut tokens = Tokens::new(&text, b',');
            while let Ok(Some(_)) = tokens.next() {}
        }
    }
}
