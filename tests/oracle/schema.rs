//! Random schemas: tables with an organization column, children found over foreign keys, junctions,
//! composite keys, partitions, odd types, and every option of `rowcast.track` that routes.

use super::values::{TYPES, TYPES_DDL, Type};
use crate::harness::rng::Rng;

/// The organizations of every run.
pub const ORGANIZATIONS: &[&str] = &["org_a", "org_b", "org: \"c\""];

/// What a key is made of; every key is a function of a small number, so that writers meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Key {
    /// `id bigint`
    Number,
    /// `id uuid`
    Uuid,
    /// `id text` with characters that need escaping
    Text,
    /// `(k1 int, k2 text)`
    Composite,
}

impl Key {
    pub fn columns(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Key::Number => &[("id", "bigint")],
            Key::Uuid => &[("id", "uuid")],
            Key::Text => &[("id", "text")],
            Key::Composite => &[("k1", "int"), ("k2", "text")],
        }
    }

    /// The literals of key number `n`, one a column.
    pub fn literals(self, n: usize) -> Vec<String> {
        match self {
            Key::Number => vec![n.to_string()],
            Key::Uuid => vec![format!("'00000000-0000-4000-9000-{n:012}'::uuid")],
            Key::Text => vec![format!("'k \"{n}\\,é'")],
            Key::Composite => vec![(n % 5).to_string(), format!("'b\"{n}'")],
        }
    }

    /// The same as SQL expressions of an integer column `i`.
    pub fn expressions(self) -> Vec<String> {
        match self {
            Key::Number => vec!["i".into()],
            Key::Uuid => {
                vec!["('00000000-0000-4000-9000-' || lpad(i::text, 12, '0'))::uuid".into()]
            }
            Key::Text => vec!["'k \"' || i || '\\,é'".into()],
            Key::Composite => vec!["i % 5".into(), "'b\"' || i".into()],
        }
    }
}

/// How a row finds its organization.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The column `organization_id`.
    Column,
    /// The column `parent_id` refers to the table of this index.
    Parent(usize),
    /// `left_id` (which says the organization) and `right_id` refer to tables; both are the key.
    Junction(usize, usize),
}

/// One random table.
#[derive(Clone, Debug)]
pub struct Table {
    pub name: String,
    pub key: Key,
    pub scope: Scope,
    pub columns: Vec<(String, Type)>,
    pub full_identity: bool,
    pub partitioned: bool,
    pub log: bool,
    pub rows: bool,
    pub max_rows: Option<usize>,
    /// A text column stored out of line, which most updates leave alone.
    pub toast: bool,
    /// An own trigger of the application that writes the table again.
    pub nested: bool,
}

/// A whole random schema.
#[derive(Clone, Debug)]
pub struct Schema {
    pub tables: Vec<Table>,
}

impl Schema {
    pub fn random(rng: &mut Rng) -> Schema {
        let mut tables: Vec<Table> = Vec::new();
        let roots = 1 + rng.below(3);
        for i in 0..roots {
            let key = *rng.pick(&[Key::Number, Key::Uuid, Key::Text, Key::Composite]);
            tables.push(Table::random(rng, format!("root{i}"), key, Scope::Column));
        }
        // A parent must have one key column, since the path names one.
        if tables.iter().all(|table| table.key == Key::Composite) {
            tables[0].key = Key::Uuid;
        }
        for i in 0..1 + rng.below(2) {
            let parent = pick_parent(rng, &tables);
            let key = *rng.pick(&[Key::Number, Key::Uuid, Key::Composite]);
            tables.push(Table::random(
                rng,
                format!("child{i}"),
                key,
                Scope::Parent(parent),
            ));
        }
        let (left, right) = (pick_parent(rng, &tables), pick_parent(rng, &tables));
        let scope = Scope::Junction(left, right);
        tables.push(Table::random(rng, "junction".into(), Key::Number, scope));
        Schema { tables }
    }

    /// The tables whose rows refer to `table`, with the referring column.
    pub fn dependents(&self, table: usize) -> Vec<(usize, &'static str)> {
        let mut found = Vec::new();
        for (i, other) in self.tables.iter().enumerate() {
            match other.scope {
                Scope::Parent(parent) if parent == table => found.push((i, "parent_id")),
                Scope::Junction(left, _) if left == table => found.push((i, "left_id")),
                _ => {}
            }
        }
        found
    }

    /// SQL for the organization of a row named `alias`, as text.
    pub fn organization_of(&self, table: usize, alias: &str) -> String {
        match self.tables[table].scope {
            Scope::Column => format!("{alias}.organization_id"),
            Scope::Parent(parent) => self.organization_over(parent, &format!("{alias}.parent_id")),
            Scope::Junction(left, _) => self.organization_over(left, &format!("{alias}.left_id")),
        }
    }

    fn organization_over(&self, parent: usize, reference: &str) -> String {
        let alias = format!("p{parent}");
        let organization = self.organization_of(parent, &alias);
        format!(
            "(SELECT {organization} FROM {} {alias} WHERE {alias}.id = {reference})",
            self.tables[parent].name
        )
    }

    /// The path over foreign keys for `rowcast.track`, `None` for a column.
    pub fn path(&self, table: usize) -> Option<String> {
        let (column, mut at) = match self.tables[table].scope {
            Scope::Column => return None,
            Scope::Parent(parent) => ("parent_id", parent),
            Scope::Junction(left, _) => ("left_id", left),
        };
        let mut path = format!("{column} -> {}", self.tables[at].name);
        while let Scope::Parent(parent) = self.tables[at].scope {
            path += &format!(".parent_id -> {}", self.tables[parent].name);
            at = parent;
        }
        Some(path + ".organization_id")
    }

    /// SQL for `record_id` of a row named `alias`.
    pub fn record_id(&self, table: usize, alias: &str) -> String {
        match self.tables[table].key_columns().as_slice() {
            [one] => format!("{alias}.{one}::text"),
            several => {
                let parts: Vec<String> = several
                    .iter()
                    .map(|column| format!("to_json({alias}.{column}::text)::text"))
                    .collect();
                format!("'[' || {} || ']'", parts.join(" || ',' || "))
            }
        }
    }

    /// Everything that makes the schema, tracking included.
    pub fn ddl(&self) -> String {
        let mut sql = TYPES_DDL.to_owned();
        for i in 0..self.tables.len() {
            sql += &self.table_ddl(i);
        }
        for i in 0..self.tables.len() {
            sql += &self.track(i);
        }
        sql
    }

    fn table_ddl(&self, i: usize) -> String {
        let table = &self.tables[i];
        let name = &table.name;
        let mut columns: Vec<String> = Vec::new();
        let reference = |column: &str, to: usize| {
            let to = &self.tables[to];
            let kind = to.key.columns()[0].1;
            format!(
                "{column} {kind} REFERENCES {} ON DELETE CASCADE ON UPDATE CASCADE",
                to.name
            )
        };
        match table.scope {
            Scope::Column => columns.push("organization_id text".into()),
            Scope::Parent(parent) => columns.push(reference("parent_id", parent)),
            Scope::Junction(left, right) => {
                columns.push(reference("left_id", left));
                columns.push(reference("right_id", right));
            }
        }
        if !matches!(table.scope, Scope::Junction(..)) {
            columns.extend(
                table
                    .key
                    .columns()
                    .iter()
                    .map(|(name, kind)| format!("{name} {kind}")),
            );
        }
        columns.extend(
            table
                .columns
                .iter()
                .map(|(name, kind)| format!("{name} {}", kind.0)),
        );
        columns.push("touched int DEFAULT 0".into());
        if table.toast {
            columns.push("big text".into());
        }
        columns.push(format!("PRIMARY KEY ({})", table.key_columns().join(", ")));
        let mut sql = format!("CREATE TABLE {name} ({})", columns.join(", "));
        if table.partitioned {
            let by = table.key_columns()[0];
            sql += &format!(" PARTITION BY HASH ({by});\n");
            for part in 0..2 {
                sql += &format!(
                    "CREATE TABLE {name}_{part} PARTITION OF {name} FOR VALUES WITH (MODULUS 2, REMAINDER {part});\n"
                );
            }
        } else {
            sql += ";\n";
        }
        let parts: Vec<String> = match table.partitioned {
            true => (0..2)
                .map(|part| format!("{name}_{part}"))
                .chain([name.clone()])
                .collect(),
            false => vec![name.clone()],
        };
        for part in &parts {
            if table.full_identity {
                sql += &format!("ALTER TABLE {part} REPLICA IDENTITY FULL;\n");
            }
        }
        if table.toast {
            sql += &format!("ALTER TABLE {name} ALTER big SET STORAGE EXTERNAL;\n");
        }
        if table.nested {
            let keys = table.key_columns();
            let same: Vec<String> = keys
                .iter()
                .map(|key| format!("{key} = NEW.{key}"))
                .collect();
            sql += &format!(
                "CREATE FUNCTION {name}_touch() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN
                    UPDATE {name} SET touched = touched + 1 WHERE {};
                    RETURN NULL; END $f$;
                 CREATE TRIGGER a_touch AFTER INSERT ON {name} FOR EACH ROW EXECUTE FUNCTION {name}_touch();\n",
                same.join(" AND ")
            );
        }
        sql
    }

    fn track(&self, i: usize) -> String {
        let table = &self.tables[i];
        let mut options = vec![format!("'{}'", table.name)];
        match self.path(i) {
            Some(path) => options.push(format!("organization_path => '{path}'")),
            None => options.push("organization_column => 'organization_id'".into()),
        }
        if table.log {
            options.push("storage => 'log'".into());
        }
        if !table.rows {
            options.push("rows => false".into());
        }
        if let Some(max) = table.max_rows {
            options.push(format!("max_rows => {max}"));
        }
        format!("SELECT rowcast.track({});\n", options.join(", "))
    }
}

fn pick_parent(rng: &mut Rng, tables: &[Table]) -> usize {
    loop {
        let i = rng.below(tables.len());
        if tables[i].key != Key::Composite {
            return i;
        }
    }
}

impl Table {
    fn random(rng: &mut Rng, name: String, key: Key, scope: Scope) -> Table {
        let columns = (0..1 + rng.below(5))
            .map(|i| (format!("c{i}"), *rng.pick(TYPES)))
            .collect();
        let junction = matches!(scope, Scope::Junction(..));
        Table {
            name,
            key,
            scope,
            columns,
            full_identity: rng.chance(30),
            // A partitioned parent would need its key in the partition key, which a hash of it is.
            partitioned: rng.chance(15) && !junction,
            log: rng.chance(50),
            rows: rng.chance(85),
            max_rows: rng.chance(40).then(|| 5 + rng.below(30)),
            toast: rng.chance(40),
            nested: rng.chance(25) && !junction,
        }
    }

    pub fn key_columns(&self) -> Vec<&'static str> {
        match self.scope {
            Scope::Junction(..) => vec!["left_id", "right_id"],
            _ => self.key.columns().iter().map(|(name, _)| *name).collect(),
        }
    }
}
