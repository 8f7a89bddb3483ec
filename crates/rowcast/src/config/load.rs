//! Puts the sources on top of each other. The environment and the files are handed in, so that tests
//! need neither.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Config, ConfigError, Entry, nearest::nearest};

/// Where values come from, weakest first.
pub struct Sources<'a> {
    /// Path and text of the TOML file, if there is one.
    pub file: Option<(String, String)>,
    /// The environment.
    pub env: BTreeMap<String, String>,
    /// Flags: keys and values as text.
    pub flags: Vec<(String, String)>,
    /// Reads the files that `<NAME>_FILE` names.
    pub read_file: &'a dyn Fn(&str) -> std::io::Result<String>,
}

const PREFIX: &str = "ROWCAST__";

/// Reads everything; the first mistake is returned.
pub fn load(sources: &Sources<'_>) -> Result<Config, ConfigError> {
    let mut config = Config::default();
    let entries = Config::entries();
    if let Some((path, text)) = &sources.file {
        for (key, value) in file_values(path, text)? {
            set(&mut config, &entries, path, &key, &value)?;
        }
    }
    for entry in &entries {
        for name in entry.env {
            if let Some((origin, text)) = variable(sources, entry, name)? {
                set(&mut config, &entries, &origin, &entry.key(), &text.into())?;
                break;
            }
        }
    }
    for (name, text) in &sources.env {
        let Some(rest) = name.strip_prefix(PREFIX) else {
            continue;
        };
        let key = rest.to_ascii_lowercase().replace("__", ".");
        let origin = format!("environment variable {name}");
        match key.strip_suffix("_file") {
            Some(stem) if find(&entries, stem).is_some_and(|entry| entry.secret) => {
                let text = read(sources, name, text)?;
                set(&mut config, &entries, &origin, stem, &text.into())?;
            }
            _ if text.is_empty() => {}
            _ => set(
                &mut config,
                &entries,
                &origin,
                &key,
                &Value::from(text.as_str()),
            )?,
        }
    }
    for (key, text) in &sources.flags {
        set(
            &mut config,
            &entries,
            "command line",
            key,
            &Value::from(text.as_str()),
        )?;
    }
    Ok(config)
}

fn find<'e>(entries: &'e [Entry], key: &str) -> Option<&'e Entry> {
    entries.iter().find(|entry| entry.is(key))
}

fn set(
    config: &mut Config,
    entries: &[Entry],
    origin: &str,
    key: &str,
    value: &Value,
) -> Result<(), ConfigError> {
    if find(entries, key).is_none() {
        let keys: Vec<String> = entries.iter().map(Entry::key).collect();
        return Err(ConfigError::UnknownKey {
            origin: origin.to_owned(),
            key: key.to_owned(),
            nearest: nearest(key, keys.iter().map(String::as_str)),
        });
    }
    config.set(key, value).map_err(|why| ConfigError::Invalid {
        origin: origin.to_owned(),
        key: key.to_owned(),
        why,
    })
}

/// The value of a known variable, or of the file that `<NAME>_FILE` names. Empty ones count as absent,
/// since compose files pass on what is not set as empty.
fn variable(
    sources: &Sources<'_>,
    entry: &Entry,
    name: &str,
) -> Result<Option<(String, String)>, ConfigError> {
    let given = |name: &str| sources.env.get(name).filter(|text| !text.is_empty());
    if let Some(text) = given(name) {
        return Ok(Some((format!("environment variable {name}"), text.clone())));
    }
    let file_name = format!("{name}_FILE");
    match given(&file_name).filter(|_| entry.secret) {
        Some(path) => {
            let text = read(sources, &file_name, path)?;
            Ok(Some((format!("environment variable {file_name}"), text)))
        }
        None => Ok(None),
    }
}

fn read(sources: &Sources<'_>, name: &str, path: &str) -> Result<String, ConfigError> {
    (sources.read_file)(path).map_err(|error| ConfigError::File {
        path: path.to_owned(),
        why: format!("(named by {name}) cannot be read: {error}"),
    })
}

/// The keys of a file, flat: `section.key`.
fn file_values(path: &str, text: &str) -> Result<Vec<(String, Value)>, ConfigError> {
    let wrong = |error: config::ConfigError| ConfigError::File {
        path: path.to_owned(),
        why: format!("is not valid TOML: {error}"),
    };
    let tree: BTreeMap<String, Value> = config::Config::builder()
        .add_source(config::File::from_str(text, config::FileFormat::Toml))
        .build()
        .and_then(config::Config::try_deserialize)
        .map_err(wrong)?;
    let mut flat = Vec::new();
    for (section, value) in tree {
        match value {
            Value::Object(keys) => {
                for (key, value) in keys {
                    let key = format!("{section}.{key}");
                    match value {
                        Value::Object(own) => flat.extend(
                            own.into_iter()
                                .map(|(name, value)| (format!("{key}.{name}"), value)),
                        ),
                        value => flat.push((key, value)),
                    }
                }
            }
            other => flat.push((section, other)),
        }
    }
    Ok(flat)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(
        file: &str,
        env: &[(&str, &str)],
        flags: &[(&str, &str)],
    ) -> Result<Config, ConfigError> {
        let own = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            pairs
                .iter()
                .map(|(k, v)| (k.to_string(), v.to_string()))
                .collect()
        };
        load(&Sources {
            file: Some(("rowcast.toml".into(), file.into())),
            env: own(env).into_iter().collect(),
            flags: own(flags),
            read_file: &|path| match path {
                "/run/secret" => Ok("from a file\n".into()),
                _ => Err(std::io::ErrorKind::NotFound.into()),
            },
        })
    }

    #[test]
    fn flags_beat_environment_beats_file_beats_default() {
        let file = "[server]\nport = 1\n";
        let port = |result: Result<Config, ConfigError>| result.unwrap().server.port;
        assert_eq!(port(with("", &[], &[])), 4000);
        assert_eq!(port(with(file, &[], &[])), 1);
        assert_eq!(port(with(file, &[("PORT", "2")], &[])), 2);
        let both = [("PORT", "2"), ("ROWCAST__SERVER__PORT", "3")];
        assert_eq!(port(with(file, &both, &[])), 3);
        assert_eq!(port(with(file, &both, &[("server.port", "4")])), 4);
        assert_eq!(port(with(file, &[("PORT", "")], &[])), 1);
    }

    #[test]
    fn secrets_come_from_files() {
        let config = with("", &[("JWT_SECRET_FILE", "/run/secret")], &[]).unwrap();
        assert_eq!(config.auth.jwt_secret.unwrap().expose(), "from a file");
        let own = [("ROWCAST__AUTH__JWT_SECRET_FILE", "/run/secret")];
        let config = with("", &own, &[]).unwrap();
        assert_eq!(config.auth.jwt_secret.unwrap().expose(), "from a file");
        let error = with("", &[("JWT_SECRET_FILE", "/not/there")], &[]).unwrap_err();
        assert_eq!(error.code(), "config_file");
    }

    #[test]
    fn sections_have_names_of_their_own() {
        let file = "[webhooks.rooms]\nurl = \"https://a\"\n[webhooks.other]\ntimeout = \"1 s\"\n";
        let env = [
            ("ROWCAST__WEBHOOKS__ROOMS__SECRET_FILE", "/run/secret"),
            ("ROWCAST__WEBHOOKS__ROOMS__FAILURES", "9"),
        ];
        let config = with(file, &env, &[]).unwrap();
        let rooms = &config.webhooks["rooms"];
        assert_eq!(rooms.url.as_ref().unwrap().expose(), "https://a");
        assert_eq!(rooms.secret.as_ref().unwrap().expose(), "from a file");
        assert_eq!((rooms.failures, config.webhooks.len()), (9, 2));
        for wrong in [
            "[webhooks.a]\nsecert = 1",
            "[webhooks]\nurl = 1",
            "[webhooks.a.b]\nurl = 1",
            "[webhooks.\"a b\"]\nurl = \"x\"",
        ] {
            assert_eq!(
                with(wrong, &[], &[]).unwrap_err().code(),
                "config_unknown_key",
                "{wrong}"
            );
        }
    }

    #[test]
    fn unknown_keys_are_refused_with_the_nearest() {
        let nearest = |result: Result<Config, ConfigError>| match result.unwrap_err() {
            ConfigError::UnknownKey { nearest, .. } => nearest,
            other => panic!("{other}"),
        };
        let expected = Some("server.port".to_owned());
        assert_eq!(nearest(with("[server]\nprot = 1", &[], &[])), expected);
        assert_eq!(
            nearest(with("", &[("ROWCAST__SERVER__PORTT", "1")], &[])),
            expected
        );
        assert_eq!(nearest(with("", &[], &[("servr.port", "1")])), expected);
        assert_eq!(nearest(with("colour = 1", &[], &[])), None);
    }

    #[test]
    fn wrong_values_are_named_and_not_repeated() {
        let error = with("", &[("PORT", "s3cret")], &[]).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("environment variable PORT") && text.contains("65535"),
            "{text}"
        );
        assert!(!text.contains("s3cret"), "{text}");
        assert_eq!(
            with("nonsense", &[], &[]).unwrap_err().code(),
            "config_file"
        );
    }
}
