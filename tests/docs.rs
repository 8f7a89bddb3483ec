//! The documentation says what is so: generated tables are in step, the frames on the protocol page are
//! understood, links lead somewhere, and the tests that are named exist.
//!
//! `UPDATE_DOCS=1` (`make docs`) writes the generated parts anew.

// Helpers of tests are not inside test functions, where clippy allows these.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use rowcast_embedded::{Cluster, Options};
use rowcast_wire::{ClientFrame, Limits, close_codes_markdown, error_codes_markdown};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The pages for people.
fn pages() -> Vec<PathBuf> {
    let docs = fs::read_dir(root().join("docs")).unwrap();
    let mut pages: Vec<PathBuf> = docs
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "md"))
        .chain([root().join("README.md"), root().join("CHANGELOG.md")])
        .collect();
    pages.sort();
    pages
}

/// The blocks of a page whose fence has this info string, without the fences.
fn blocks<'a>(page: &'a str, info: &str) -> Vec<&'a str> {
    let fence = format!("```{info}\n");
    page.match_indices(&fence)
        .map(|(at, fence)| {
            let rest = &page[at + fence.len()..];
            rest.split_once("\n```").expect("a block ends").0
        })
        .collect()
}

/// Puts `text` between the markers of a generated part.
fn with_generated(page: &str, name: &str, text: &str) -> String {
    let begin = format!("<!-- generated: {name} -->\n");
    let (before, rest) = page.split_once(&begin).expect(name);
    let (_, after) = rest.split_once("<!-- end -->").expect(name);
    format!("{before}{begin}{text}<!-- end -->{after}")
}

#[test]
fn tables_of_codes_are_in_step() {
    let path = root().join("docs/protocol.md");
    let page = read(&path);
    let fresh = with_generated(&page, "error codes", &error_codes_markdown());
    let fresh = with_generated(&fresh, "close codes", &close_codes_markdown());
    if std::env::var_os("UPDATE_DOCS").is_some() {
        fs::write(&path, fresh).unwrap();
    } else {
        assert!(page == fresh, "docs/protocol.md is out of step: make docs");
    }
}

/// The documents for machines are those of the code.
#[test]
fn documents_for_machines_are_in_step() {
    for (name, document) in [
        ("openapi", rowcast_gateway::openapi()),
        ("asyncapi", rowcast_wire::asyncapi()),
    ] {
        let path = root().join(format!("docs/{name}.json"));
        let fresh = format!("{}\n", serde_json::to_string_pretty(&document).unwrap());
        if std::env::var_os("UPDATE_DOCS").is_some() {
            fs::write(&path, fresh).unwrap();
        } else {
            assert!(
                read(&path) == fresh,
                "docs/{name}.json is out of step: make docs"
            );
        }
    }
}

/// Every frame on the protocol page is one of the document of the sockets, field by field; and all of them are shown.
#[test]
fn frames_of_the_protocol_page_fit_the_document_of_the_sockets() {
    let document = rowcast_wire::asyncapi();
    let messages = document["components"]["messages"].as_object().unwrap();
    let page = read(root().join("docs/protocol.md"));
    let mut shown = BTreeSet::new();
    for side in ["client", "server"] {
        for line in blocks(&page, &format!("json {side}"))
            .iter()
            .flat_map(|b| b.lines())
        {
            let frame: serde_json::Value = serde_json::from_str(line).unwrap();
            let name = format!("{side}_{}", frame["type"].as_str().unwrap());
            let schema = &messages.get(&name).unwrap_or_else(|| panic!("{name}"))["payload"];
            for field in schema["required"].as_array().unwrap() {
                assert!(
                    !frame[field.as_str().unwrap()].is_null()
                        || frame.get(field.as_str().unwrap()).is_some(),
                    "{field} of {line}"
                );
            }
            for (field, value) in frame.as_object().unwrap() {
                let known = schema["properties"]
                    .get(field)
                    .unwrap_or_else(|| panic!("{field} of {line}"));
                let kind = match value {
                    serde_json::Value::Null => "null",
                    serde_json::Value::Bool(_) => "boolean",
                    serde_json::Value::Number(_) => "integer",
                    serde_json::Value::String(_) => "string",
                    serde_json::Value::Array(_) => "array",
                    serde_json::Value::Object(_) => "object",
                };
                let fits = |wanted: &serde_json::Value| {
                    wanted == kind || wanted == "number" && kind == "integer"
                };
                let fits = match &known["type"] {
                    serde_json::Value::Array(several) => several.iter().any(fits),
                    serde_json::Value::Null => true,
                    one => fits(one),
                };
                assert!(fits, "{field} of {line}: {known}");
            }
            shown.insert(name);
        }
    }
    let all: BTreeSet<String> = messages.keys().cloned().collect();
    assert_eq!(shown, all);
}

#[test]
fn frames_of_the_protocol_page_are_understood() {
    let page = read(root().join("docs/protocol.md"));
    let mut kinds = BTreeSet::new();
    for line in blocks(&page, "json client").iter().flat_map(|b| b.lines()) {
        let frame = rowcast_wire::parse(line.as_bytes(), &Limits::default())
            .unwrap_or_else(|error| panic!("{error}\n{line}"));
        kinds.insert(match frame {
            ClientFrame::Auth(_) => "auth",
            ClientFrame::Subscribe(_) => "subscribe",
            ClientFrame::Unsubscribe { .. } => "unsubscribe",
            ClientFrame::Broadcast(_) => "broadcast",
            ClientFrame::Event(_) => "event",
            ClientFrame::Presence(_) => "presence",
            ClientFrame::Token { .. } => "token",
            ClientFrame::Ping { .. } => "ping",
            ClientFrame::Pong => "pong",
        });
    }
    assert_eq!(
        kinds.len(),
        9,
        "every frame of a client is shown: {kinds:?}"
    );

    let mut kinds = BTreeSet::new();
    for line in blocks(&page, "json server").iter().flat_map(|b| b.lines()) {
        let frame: serde_json::Value =
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}\n{line}"));
        kinds.insert(frame["type"].as_str().unwrap().to_owned());
        if let Some(cursor) = frame["cursor"].as_str() {
            cursor.parse::<rowcast_model::Cursor>().unwrap();
        }
    }
    let all = "ack auth_success broadcast closed commit data error event_reply goodbye invalidate membership ping pong position postgres_changes presence presence_count presence_diff presence_list presence_state recovered resync status subscribed token_refreshed unsubscribed";
    assert_eq!(kinds, all.split(' ').map(str::to_owned).collect());
}

/// The anchor that a heading gets.
fn anchor(heading: &str) -> String {
    heading
        .chars()
        .filter_map(|c| match c {
            ' ' => Some('-'),
            '-' | '_' => Some(c),
            c if c.is_alphanumeric() => Some(c.to_ascii_lowercase()),
            _ => None,
        })
        .collect()
}

#[test]
fn links_lead_somewhere() {
    let mut dead = Vec::new();
    for page in pages() {
        let text = read(&page);
        for (at, _) in text.match_indices("](") {
            let target = text[at + 2..].split(')').next().unwrap_or_default();
            if target.contains("://") || target.is_empty() {
                continue;
            }
            let (file, heading) = target.split_once('#').unwrap_or((target, ""));
            let path = match file {
                "" => page.clone(),
                file => page.parent().unwrap().join(file),
            };
            let there = path.exists()
                && (heading.is_empty()
                    || read(&path)
                        .lines()
                        .filter_map(|line| line.strip_prefix('#'))
                        .any(|line| anchor(line.trim_start_matches('#').trim()) == heading));
            if !there {
                dead.push(format!("{}: {target}", page.display()));
            }
        }
    }
    assert!(dead.is_empty(), "{dead:#?}");
}

/// The names of all functions below a folder.
fn functions(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            functions(&path, names);
        } else if path.extension().is_some_and(|end| end == "rs") {
            let text = read(&path);
            names.extend(text.match_indices("fn ").filter_map(|(at, _)| {
                let rest = &text[at + 3..];
                let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_')?;
                Some(rest[..end].to_owned())
            }));
        }
    }
}

#[test]
fn the_tests_that_pages_name_exist() {
    let mut known = BTreeSet::new();
    functions(&root().join("tests"), &mut known);
    functions(&root().join("crates"), &mut known);
    let page = read(root().join("docs/mission.md"));
    let rows: Vec<Vec<&str>> = page
        .lines()
        .filter(|line| line.starts_with("| "))
        .map(|line| line.split('|').map(str::trim).collect())
        .filter(|cells: &Vec<&str>| {
            cells.len() == 5 && !["line", "promise", "---"].contains(&cells[1])
        })
        .collect();
    for row in &rows {
        let tests: Vec<&str> = row[3].split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "{} has no test", row[1]);
        for test in tests {
            assert!(known.contains(test), "{}: there is no test {test}", row[1]);
        }
    }
    let page = read(root().join("docs/security.md"));
    let classes = page.split("## Classes of incidents").nth(1).unwrap();
    let classes = classes.split("\n## ").next().unwrap();
    let classes: Vec<&str> = classes
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| class"))
        .filter(|line| !line.starts_with("| ---"))
        .collect();
    assert!(classes.len() >= 20, "{classes:?}");
    for class in classes {
        let tests: Vec<&str> = class.split('`').skip(1).step_by(2).collect();
        assert!(!tests.is_empty(), "no test: {class}");
        for test in tests {
            assert!(known.contains(test), "{class}: there is no test {test}");
        }
    }
    let lines: BTreeSet<&str> = rows.iter().map(|row| row[1]).collect();
    let wanted = "Q1 Q2 Q3 Q4 Q5 Q8 Q9 Q10 Q24 Q25 Q26 Q29 G31 G32 G33 G34 G35 C18 T1 T2 T3 T4 T5 T6 T7 T8 T9 T17 X6 G1";
    for line in wanted.split(' ') {
        assert!(lines.contains(line), "{line} is missing");
    }
}

/// The names given to `Registry::register` in the code.
fn metric_names(folder: &Path, names: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            metric_names(&path, names);
        } else if path.extension().is_some_and(|end| end == "rs") {
            let text = read(&path);
            for part in text.split(".register(").skip(1) {
                names.extend(literal(part).map(str::to_owned));
            }
            for part in text.split(".register_with_unit(").skip(1) {
                let unit = part.split("Unit::").nth(1).unwrap_or_default();
                let unit = unit.split(',').next().unwrap_or_default().to_lowercase();
                names.extend(literal(part).map(|name| format!("{name}_{unit}")));
            }
            if let Some(table) = text.split("const COUNTED").nth(1) {
                let table = table.split("];").next().unwrap_or_default();
                names.extend(
                    table
                        .split('(')
                        .filter_map(literal)
                        .filter(|name| name.starts_with("routing_"))
                        .map(str::to_owned),
                );
            }
        }
    }
}

/// The text literal that `code` begins with.
fn literal(code: &str) -> Option<&str> {
    code.trim_start().strip_prefix('"')?.split('"').next()
}

#[test]
fn every_metric_is_on_the_page() {
    let mut names = BTreeSet::new();
    metric_names(&root().join("crates"), &mut names);
    assert!(names.len() > 20, "{names:?}");
    let page = read(root().join("docs/operations.md"));
    names.retain(|name| !page.contains(&format!("`{name}`")));
    assert!(names.is_empty(), "not on the page: {names:?}");
}

/// G19: the table of verbs in the guide names each, and each is there.
#[test]
fn g19_the_guide_says_which_verb_is_for_what() {
    let guide = read(root().join("docs/guide.md"));
    let table = guide.split("Which verb for what:").nth(1).unwrap();
    let table = table.split("\n## ").next().unwrap();
    let migration = read(root().join("sql/0010_channels.sql"));
    for verb in ["invalidate", "refresh", "emit", "broadcast", "send"] {
        assert!(table.contains(&format!("`rowcast.{verb}(")), "{verb}");
        let made = format!("CREATE OR REPLACE FUNCTION rowcast.{verb}(");
        assert!(migration.contains(&made), "{verb}");
    }
    assert!(table.contains("told by itself") && table.contains("authorized channel"));
}

/// Every statement on these pages runs on a database that was migrated before, in the order of the page.
#[tokio::test]
async fn statements_on_the_pages_run() {
    let major = std::env::var("ROWCAST_TEST_PG")
        .ok()
        .and_then(|major| major.parse().ok());
    let cluster = Cluster::start(Options {
        major,
        ..Options::default()
    })
    .unwrap();
    for name in ["guide", "operations", "security", "sql"] {
        let sql = connect(&cluster.url("postgres")).await;
        sql.batch_execute(&format!("CREATE DATABASE {name}"))
            .await
            .unwrap();
        let url = cluster.url(name);
        let migrated = std::process::Command::new(env!("CARGO_BIN_EXE_rowcast"))
            .arg("migrate")
            .env_clear()
            .env("DATABASE_URL", &url)
            .output()
            .unwrap();
        assert!(migrated.status.success(), "{migrated:?}");
        let page = read(root().join(format!("docs/{name}.md")));
        if !page.contains("CREATE ROLE rowcast_service") {
            sql.batch_execute("CREATE ROLE rowcast_service")
                .await
                .unwrap();
        }
        let statements = blocks(&page, "sql");
        assert!(!statements.is_empty(), "{name}");
        let client = connect(&url).await;
        for statement in statements {
            if let Err(error) = client.batch_execute(statement).await {
                panic!("docs/{name}.md: {:?}\n{statement}", error.as_db_error());
            }
        }
        client
            .batch_execute("DROP OWNED BY rowcast_service; DROP ROLE rowcast_service")
            .await
            .unwrap();
    }
}

async fn connect(url: &str) -> tokio_postgres::Client {
    let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls)
        .await
        .unwrap();
    tokio::spawn(connection);
    client
}
