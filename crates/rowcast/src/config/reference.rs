//! What is made from the declared tree for people: the reference and the effective configuration.

use std::fmt::Write;

use serde_json::Value;

use super::{Config, Entry};

/// The markdown of `docs/configuration.md`.
pub fn reference() -> String {
    let mut out = String::from(INTRODUCTION);
    let entries = Config::entries();
    for (section, doc) in Config::sections() {
        let of = || entries.iter().filter(|entry| entry.section == section);
        let own = if of().any(|entry| entry.named) {
            ".<name>"
        } else {
            ""
        };
        let _ = write!(out, "\n## `[{section}{own}]`\n\n{}\n", paragraph(doc));
        for entry in of() {
            describe(&mut out, entry);
        }
    }
    out
}

const INTRODUCTION: &str = "\
# Configuration

This page is made by `rowcast config --reference`; a test keeps it in step with the program.

Values come from, the later winning: the defaults; a TOML file (`--config PATH`, `$ROWCAST_CONFIG`, or
`rowcast.toml` in the current directory); the environment names below; `ROWCAST__SECTION__KEY`, for every
key; flags (`--set section.key=value`, and the short ones of `rowcast serve --help`). A secret can also be
read from a file: put the path into the same name with `_FILE` behind it. Empty variables count as not set.
Unknown keys are refused. `rowcast config` prints what is in force, with the secrets hidden.
";

fn describe(out: &mut String, entry: &Entry) {
    let _ = write!(
        out,
        "\n### `{}`\n\n{}\n\n",
        entry.key(),
        paragraph(entry.doc)
    );
    let default = match &entry.default {
        Value::Null => "none".to_owned(),
        Value::Array(list) if list.is_empty() => "empty".to_owned(),
        value => format!("`{}`", toml(value)),
    };
    let _ = writeln!(out, "- value: {}\n- default: {default}", entry.kind);
    let names: Vec<String> = entry
        .env
        .iter()
        .map(|name| (*name).to_owned())
        .chain([format!(
            "ROWCAST__{}{}__{}",
            entry.section.to_uppercase(),
            if entry.named { "__<NAME>" } else { "" },
            entry.name.to_uppercase()
        )])
        .map(|name| match entry.secret {
            true => format!("`{name}`, `{name}_FILE`"),
            false => format!("`{name}`"),
        })
        .collect();
    let _ = writeln!(out, "- environment: {}", names.join(", "));
}

fn paragraph(doc: &[&str]) -> String {
    doc.iter()
        .map(|line| line.trim())
        .collect::<Vec<_>>()
        .join("\n")
}

/// What is in force, as TOML that can be read again (but for the hidden secrets).
pub fn effective(config: &Config) -> String {
    let mut out = String::new();
    let mut section = String::new();
    for (key, entry) in config.keys() {
        let of = key.rsplit_once('.').map_or("", |(section, _)| section);
        if of != section {
            section = of.to_owned();
            let gap = if out.is_empty() { "" } else { "\n" };
            let _ = writeln!(out, "{gap}[{section}]");
        }
        let _ = match config.show(&key) {
            Value::Null => writeln!(out, "# {} is not set", entry.name),
            value if entry.secret => writeln!(out, "# {} = {}", entry.name, toml(&value)),
            value => writeln!(out, "{} = {}", entry.name, toml(&value)),
        };
    }
    out
}

/// JSON text and lists are TOML too.
fn toml(value: &Value) -> String {
    value.to_string()
}

#[cfg(test)]
mod tests {
    use super::super::{Secret, Sources, load};
    use super::*;

    #[test]
    fn the_effective_configuration_reads_back_and_hides_secrets() {
        let mut config = Config::default();
        config.server.port = 1234;
        config.server.allowed_origins = vec!["https://a \"b\"".into()];
        config.auth.jwt_secret = Some(Secret::from("very secret".to_owned()));
        config
            .webhooks
            .entry("rooms".into())
            .or_default()
            .connections = 3;
        let text = effective(&config);
        assert!(!text.contains("very secret"));
        let again = load(&Sources {
            file: Some(("x".into(), text)),
            env: Default::default(),
            flags: Vec::new(),
            read_file: &|_| Err(std::io::ErrorKind::NotFound.into()),
        })
        .unwrap();
        assert_eq!(again.server.port, 1234);
        assert_eq!(again.server.allowed_origins, config.server.allowed_origins);
        assert!(again.auth.jwt_secret.is_none());
        assert_eq!(again.webhooks["rooms"].connections, 3);
    }

    #[test]
    fn every_key_says_what_it_means() {
        for entry in Config::entries() {
            assert!(!entry.doc.is_empty(), "{}", entry.key());
            assert!(reference().contains(&format!("### `{}`", entry.key())));
        }
    }

    /// Set `UPDATE_DOCS=1` to write the page anew.
    #[test]
    fn the_page_in_docs_is_the_reference() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/configuration.md");
        if std::env::var_os("UPDATE_DOCS").is_some() {
            std::fs::write(page, reference()).unwrap();
        }
        let written = std::fs::read_to_string(page).unwrap_or_default();
        assert_eq!(
            written,
            reference(),
            "run: rowcast config --reference > docs/configuration.md"
        );
    }
}
