//! Names and texts of the database as TypeScript: literals, properties, comments. Owns that none of them can end the
//! place it stands in, or look like something else than it is.

/// Longest text in a comment, in characters.
const COMMENT: usize = 300;

/// A character that changes how a text looks without being seen, or ends a line.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// A string literal.
pub fn literal(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if is_hidden(c) => {
                let mut units = [0; 2];
                for unit in c.encode_utf16(&mut units) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// Several of them, with something between.
pub fn literals<'t>(texts: impl IntoIterator<Item = &'t String>, between: &str) -> String {
    let texts: Vec<String> = texts.into_iter().map(|text| literal(text)).collect();
    texts.join(between)
}

/// A union of them; of nothing: `never`.
pub fn union<'t>(texts: impl IntoIterator<Item = &'t String>) -> String {
    let union = literals(texts, " | ");
    match union.is_empty() {
        true => "never".to_owned(),
        false => union,
    }
}

/// The name of a member of a type: bare where that is plain, in quotes otherwise.
pub fn member(name: &str) -> String {
    // Words that can begin a member of another kind.
    const WORDS: [&str; 9] = [
        "abstract",
        "accessor",
        "constructor",
        "declare",
        "get",
        "new",
        "readonly",
        "set",
        "static",
    ];
    let mut chars = name.chars();
    let starts = chars
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || matches!(c, '_' | '$'));
    let plain = starts && chars.all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '$'));
    match plain && !WORDS.contains(&name) && name != "__proto__" {
        true => name.to_owned(),
        false => literal(name),
    }
}

/// The name of a member of an object. `__proto__` would set what the object inherits from.
pub fn property(name: &str) -> String {
    match name {
        "__proto__" => format!("[{}]", literal(name)),
        name => member(name),
    }
}

/// What stands in a comment: one line that cannot end it, and says nothing to the compiler.
pub fn comment(text: &str) -> String {
    let mut words = String::new();
    for word in text
        .split(|c: char| c.is_whitespace() || is_hidden(c))
        .filter(|word| !word.is_empty())
    {
        if !words.is_empty() {
            words.push(' ');
        }
        words.push_str(word);
    }
    let mut short: String = words.chars().take(COMMENT).collect();
    if short.len() < words.len() {
        short.push('…');
    }
    short.replace("*/", "* /").replace('@', "@ ")
}

/// What a table is called: its name, with the schema before it where that is not `public`. Parts with a dot or a quote are quoted as
/// in SQL, so that no two tables have the same name.
pub fn table(schema: &str, name: &str) -> String {
    let part = |text: &str| match text.contains(['.', '"']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.to_owned(),
    };
    match schema {
        "public" => part(name),
        _ => format!("{}.{}", part(schema), part(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_that_are_none_are_quoted() {
        for plain in ["id", "organization_id", "$x", "_", "delete", "class"] {
            assert_eq!(member(plain), plain);
            assert_eq!(property(plain), plain);
        }
        for other in [
            "",
            "1",
            "a-b",
            "new",
            "get",
            "constructor",
            "é",
            "a b",
            "__proto__",
        ] {
            assert_eq!(member(other), literal(other));
        }
        assert_eq!(property("__proto__"), "[\"__proto__\"]");
        assert_eq!(union([]), "never");
    }

    #[test]
    fn what_is_not_seen_is_written_out() {
        assert_eq!(literal("a\u{202e}b\u{2028}\n"), r#""a\u202eb\u2028\u000a""#);
        assert_eq!(comment("a\r\n b\u{2028}c\u{202e}d"), "a b c d");
        assert_eq!(
            comment("*/ evil @ts-ignore **//"),
            "* / evil @ ts-ignore ** //"
        );
        assert_eq!(comment(&"x ".repeat(400)).chars().count(), COMMENT + 1);
    }

    #[test]
    fn no_two_tables_share_a_name() {
        assert_eq!(table("public", "claims"), "claims");
        assert_eq!(table("audit", "log"), "audit.log");
        assert_eq!(table("public", "audit.log"), "\"audit.log\"");
        assert_eq!(table("a.b", "c\"d"), "\"a.b\".\"c\"\"d\"");
    }

    proptest! {
        /// A literal is JSON that says the text again, and a JavaScript that is on one line.
        #[test]
        fn literals_say_the_text(text in any::<String>()) {
            let written = literal(&text);
            prop_assert_eq!(serde_json::from_str::<String>(&written).unwrap(), text);
            prop_assert!(!written.chars().any(is_hidden));
        }

        /// Whatever is in a comment, it is one line and does not end it.
        #[test]
        fn comments_stay_comments(text in "[*/@ \n\r\u{2028}a-z]{0,40}") {
            let said = comment(&text);
            prop_assert!(!said.contains("*/") && !said.contains("@t") && !said.chars().any(is_hidden));
        }

        /// Different tables have different names.
        #[test]
        fn names_of_tables_are_their_own(a in ("[a.\"]{1,3}|public", "[a.\"]{1,4}"), b in ("[a.\"]{1,3}|public", "[a.\"]{1,4}")) {
            prop_assert_eq!(table(&a.0, &a.1) == table(&b.0, &b.1), a == b);
        }
    }
}
