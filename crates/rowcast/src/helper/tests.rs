//! What a module says of a schema, as far as it can be told without a compiler; `tests/mission/helper.rs` has the real one.

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn column(name: &str, value: Value) -> Column {
    Column {
        name: name.into(),
        type_name: "some */ type".into(),
        value,
        nullable: false,
        generated: false,
    }
}

fn table(name: &str) -> Table {
    Table {
        schema: "public".into(),
        name: name.into(),
        columns: ["id", "title", "organization_id", "person"]
            .map(|name| column(name, Value::Text))
            .into(),
        key: vec!["id".into()],
        told: None,
        rows: true,
        open: true,
        operations: vec!["INSERT".into()],
        organization: Some("organization_id".into()),
        roles: Vec::new(),
        user: None,
        owner: None,
        masks: Map::new(),
    }
}

fn namespace(name: &str, events: &[&str]) -> Namespace {
    Namespace {
        name: name.into(),
        events: events.iter().map(|&event| event.into()).collect(),
        description: None,
    }
}

fn of(tables: Vec<Table>, namespaces: Vec<Namespace>) -> Schema {
    Schema { tables, namespaces }
}

fn text(schema: &Schema) -> String {
    module(schema).unwrap().text
}

/// The lines between one and the closing brace that is indented like it.
fn block<'t>(text: &'t str, begin: &str) -> Vec<&'t str> {
    let at = text
        .find(&format!("{begin}\n"))
        .unwrap_or_else(|| panic!("{begin}"));
    let indent: String = begin.chars().take_while(|c| *c == ' ').collect();
    let lines = text[at..].lines().skip(1);
    lines
        .take_while(|line| !line.starts_with(&format!("{indent}}}")))
        .map(str::trim)
        .collect()
}

#[test]
fn nothing_is_generated_where_nothing_can_be_told() {
    let declared = vec![namespace("extraction", &["started"])];
    assert!(matches!(
        module(&of(Vec::new(), declared)),
        Err(HelperError::NothingTracked)
    ));
    let hidden = Table {
        open: false,
        ..table("a")
    };
    let Err(HelperError::NothingTold(why)) = module(&of(vec![hidden], Vec::new())) else {
        panic!("its policies are not asked");
    };
    assert!(why.contains("a is left out"), "{why}");
}

#[test]
fn what_the_rule_does_not_tell_is_not_in_it() {
    let mut claims = Table {
        told: Some(vec!["id".into(), "title".into(), "sum".into()]),
        roles: vec!["member".into(), "admin".into()],
        user: Some("person".into()),
        owner: Some("person".into()),
        ..table("claims")
    };
    claims.columns.push(Column {
        generated: true,
        ..column("sum", Value::Wide)
    });
    let mask = json!({ "type": "name", "show": { "roles": ["a\"b"], "or": "owner" } });
    claims.masks.insert("title".into(), mask);
    let quiet = Table {
        rows: false,
        ..table("quiet")
    };
    let text = text(&of(vec![quiet, claims], Vec::new()));

    let claims = block(&text, "  claims: {");
    for line in [
        "id: string; // some * / type",
        "title: string; // some * / type",
        r#"key: "id";"#,
        r#"untold: "organization_id" | "person" | "sum";"#,
        r#"roles: "member" | "admin";"#,
    ] {
        assert!(claims.contains(&line), "{line} in {claims:#?}");
    }
    assert!(!claims.iter().any(|line| line.starts_with("person")));
    let rule = block(&text, r#"  ["claims", {"#);
    for line in [
        r#"["id", to.plain],"#,
        r#"["title", to.plain],"#,
        r#"roles: ["member", "admin"],"#,
        r#"organization: "organization_id","#,
        r#"user: "person","#,
        r#"owner: "person","#,
    ] {
        assert!(rule.contains(&line), "{line} in {rule:#?}");
    }
    assert!(rule.iter().any(|line| line.starts_with("title: {")
        && line.contains(r#"["a\"b"]"#)
        && line.contains(r#"or: "owner""#)));
    assert_eq!(
        rule.iter().filter(|line| line.contains("to.plain")).count(),
        2
    );
    let quiet = block(&text, r#"  ["quiet", {"#);
    assert_eq!(
        quiet
            .iter()
            .filter(|line| line.contains("to.plain"))
            .count(),
        1
    );
}

#[test]
fn what_cannot_be_said_is_noted() {
    let keyless = Table {
        key: Vec::new(),
        ..table("keyless")
    };
    let strange = Table {
        name: "a\nb".into(),
        ..table("")
    };
    let schema = of(
        vec![table("a"), keyless, strange],
        vec![
            namespace("delete", &["all"]),
            namespace("jobs", &["then", "done", "toJSON", "done"]),
        ],
    );
    let module = module(&schema).unwrap();
    assert_eq!(module.notes.len(), 5, "{:#?}", module.notes);
    for note in &module.notes {
        let said = format!("// {}", note.replace('\n', " "));
        assert!(module.text.lines().any(|line| line == said), "{said}");
    }
    // It stays declared, so that what is misspelt is found.
    assert!(block(&module.text, "export interface Declared {").contains(&r#"delete: "all";"#));
    let methods = block(&module.text, "  return {");
    assert_eq!(methods, ["jobs: {", r#"done: event("jobs:done"),"#, "},"]);
}

#[test]
fn order_in_the_database_does_not_matter() {
    let one = of(
        vec![table("a"), table("b")],
        vec![namespace("x", &["1"]), namespace("y", &["2"])],
    );
    let mut other = one.clone();
    other.tables.reverse();
    other.namespaces.reverse();
    assert_eq!(text(&one), text(&other));
    assert!(text(&one).starts_with(MARK));
}

/// Takes literals and comments out of a text; what is left is what runs. Fails where one does not end.
fn code(text: &str) -> String {
    let mut left = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if rest.starts_with("//") {
            rest = &rest[rest.find('\n').unwrap()..];
        } else if rest.starts_with("/*") {
            rest = &rest[2 + rest[2..].find("*/").unwrap() + 2..];
        } else if c == '"' {
            let mut inside = rest[1..].char_indices();
            let end = loop {
                match inside.next().unwrap() {
                    (_, '\\') => drop(inside.next().unwrap()),
                    (at, '"') => break at,
                    (_, '\n') => panic!("a literal over two lines: {rest:.80}"),
                    _ => {}
                }
            };
            left.push_str("\"\"");
            rest = &rest[1 + end + 1..];
        } else {
            left.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    left
}

proptest! {
    /// Whatever tables, columns, types, roles, events and descriptions are called, and whatever masks say: what runs is the same.
    #[test]
    fn names_change_nothing_of_what_runs(name in "[\"'`*/\\\\${};\u{2028}\u{202e}a\n]{1,12}") {
        let with = |name: &str| {
            let mut table = Table {
                schema: format!("s{name}").replace(char::is_control, ""),
                name: format!("t{name}").replace(char::is_control, ""),
                roles: vec![name.into()],
                organization: Some(name.into()),
                user: Some(name.into()),
                owner: Some(name.into()),
                ..table("")
            };
            table.columns.push(Column { type_name: name.into(), ..column(&format!("-{name}"), Value::Labels(vec![name.into()])) });
            table.masks.insert(format!("-{name}"), json!({ "type": name, "show": { "roles": [name] } }));
            let namespace = Namespace { description: Some(name.into()), ..namespace(&format!("-{name}"), &[&format!("-{name}")]) };
            code(&text(&of(vec![table], vec![namespace])))
        };
        // The runtime has literals of its own kind, which this reader does not know.
        let outside = |text: String| {
            let begin = text.find("export type TableName").unwrap();
            let end = text.find("const RULES").unwrap();
            format!("{}{}", &text[..begin], &text[end..])
        };
        prop_assert_eq!(outside(with(&name)), outside(with("plain -")));
    }
}
