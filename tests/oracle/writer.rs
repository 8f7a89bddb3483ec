//! Random transactions over a random schema, as several applications at once would write them.
//!
//! Rows to be moved to another organization are locked first, which keeps other writers from hanging
//! new rows below them while they move.

use tokio_postgres::{Client, error::SqlState};

use super::{
    schema::{ORGANIZATIONS, Schema, Scope},
    values::literal,
};
use crate::harness::{postgres, rng::Rng};

/// Numbers of keys that the writers fight for.
const KEYS: usize = 24;

/// Writes random transactions; the same seed writes the same statements.
pub struct Writer<'a> {
    schema: &'a Schema,
    rng: Rng,
    /// Transactions that a conflict rolled back.
    pub refused: usize,
}

impl<'a> Writer<'a> {
    pub fn new(schema: &'a Schema, rng: Rng) -> Self {
        Writer {
            schema,
            rng,
            refused: 0,
        }
    }

    /// Runs one random transaction. A conflict with another writer rolls it back, anything else panics.
    pub async fn transaction(&mut self, client: &Client) {
        let statements = self.statements();
        for statement in &statements {
            let Err(error) = client.batch_execute(statement).await else {
                continue;
            };
            client.batch_execute("ROLLBACK").await.unwrap();
            self.refused += 1;
            let state = error.as_db_error().map(|error| error.code().clone());
            let expected = [
                SqlState::T_R_DEADLOCK_DETECTED,
                // The row went to another partition meanwhile.
                SqlState::T_R_SERIALIZATION_FAILURE,
                SqlState::FOREIGN_KEY_VIOLATION,
                SqlState::UNIQUE_VIOLATION,
                SqlState::LOCK_NOT_AVAILABLE,
                // ON CONFLICT DO UPDATE with the same key twice.
                SqlState::CARDINALITY_VIOLATION,
            ];
            assert!(
                state.is_some_and(|state| expected.contains(&state)),
                "a write failed: {error:?}\n{statement}\nin {statements:#?}"
            );
            return;
        }
    }

    fn statements(&mut self) -> Vec<String> {
        if self.rng.chance(30) {
            return vec![self.statement()];
        }
        let mut all = vec!["BEGIN".to_owned()];
        for _ in 0..1 + self.rng.below(5) {
            if self.rng.chance(20) {
                all.push("SAVEPOINT s".into());
                for _ in 0..1 + self.rng.below(2) {
                    all.push(self.statement());
                }
                let back = self.rng.chance(60);
                all.push(
                    if back {
                        "ROLLBACK TO SAVEPOINT s"
                    } else {
                        "RELEASE SAVEPOINT s"
                    }
                    .into(),
                );
            } else {
                all.push(self.statement());
            }
        }
        all.push(
            if self.rng.chance(8) {
                "ROLLBACK"
            } else {
                "COMMIT"
            }
            .into(),
        );
        all
    }

    fn statement(&mut self) -> String {
        let table = self.rng.below(self.schema.tables.len());
        match self.rng.below(100) {
            0..30 => self.insert(table),
            30..42 => self.bulk_insert(table),
            42..60 => self.update(table),
            60..65 => self.bulk_update(table),
            65..78 => self.move_rows(table),
            78..82 => self.change_key(table),
            82..92 => self.delete(table),
            92..95 => self.replace(table),
            95..97 => self.merge(table),
            97..98 => format!("TRUNCATE {} CASCADE", self.schema.tables[table].name),
            _ => format!(
                "DELETE FROM {} WHERE touched % 3 = 1",
                self.schema.tables[table].name
            ),
        }
    }

    fn organization(&mut self) -> String {
        match self.rng.chance(6) {
            true => "NULL".into(),
            false => format!("'{}'", self.rng.pick(ORGANIZATIONS)),
        }
    }

    /// `a = 1 AND b = 'x'` for some key of `table`; `alias` is empty or ends in a dot.
    fn key_is(&mut self, table: usize, alias: &str) -> String {
        let (n, m) = (self.rng.below(KEYS), self.rng.below(KEYS));
        let literals = match self.schema.tables[table].scope {
            Scope::Junction(left, right) => vec![
                self.schema.tables[left].key.literals(n)[0].clone(),
                self.schema.tables[right].key.literals(m)[0].clone(),
            ],
            _ => self.schema.tables[table].key.literals(n),
        };
        let columns = self.schema.tables[table].key_columns();
        let parts: Vec<String> = columns
            .iter()
            .zip(literals)
            .map(|(name, value)| format!("{alias}{name} = {value}"))
            .collect();
        format!("({})", parts.join(" AND "))
    }

    fn keys_are(&mut self, table: usize, alias: &str) -> String {
        let count = 1 + self.rng.below(4);
        let parts: Vec<String> = (0..count).map(|_| self.key_is(table, alias)).collect();
        format!("({})", parts.join(" OR "))
    }

    /// Names and values of the columns that are not key and not scope.
    fn values(&mut self, table: usize) -> (Vec<String>, Vec<String>) {
        let schema = self.schema;
        let table = &schema.tables[table];
        let (mut names, mut values) = (Vec::new(), Vec::new());
        for (name, kind) in &table.columns {
            names.push(name.clone());
            let literal = literal(&mut self.rng, *kind);
            values.push(format!("CAST({literal} AS {})", kind.0));
        }
        if table.toast {
            names.push("big".into());
            let salt = self.rng.next();
            values.push(match self.rng.chance(70) {
                true => format!(
                    "(SELECT string_agg(md5('{salt}' || g), '') FROM generate_series(1, 150) g)"
                ),
                false => "'short'".into(),
            });
        }
        (names, values)
    }

    fn insert(&mut self, table: usize) -> String {
        let schema = self.schema;
        let this = &schema.tables[table];
        let (mut names, mut values) = self.values(table);
        let n = self.rng.below(KEYS);
        let mut from = String::new();
        match this.scope {
            Scope::Column => {
                names.push("organization_id".into());
                values.push(self.organization());
            }
            Scope::Parent(parent) => {
                names.push("parent_id".into());
                values.push("p.id".into());
                let key = self.key_is(parent, "p.");
                from = format!(" FROM {} p WHERE {key}", schema.tables[parent].name);
            }
            Scope::Junction(left, right) => {
                names.extend(["left_id".into(), "right_id".into()]);
                values.extend(["l.id".into(), "r.id".into()]);
                let (l, r) = (self.keys_are(left, "l."), self.keys_are(right, "r."));
                from = format!(
                    " FROM {} l, {} r WHERE {l} AND {r}",
                    schema.tables[left].name, schema.tables[right].name
                );
            }
        }
        if !matches!(this.scope, Scope::Junction(..)) {
            names.extend(
                this.key
                    .columns()
                    .iter()
                    .map(|(name, _)| (*name).to_owned()),
            );
            values.extend(this.key.literals(n));
        }
        let conflict = if self.rng.chance(40) {
            let set: Vec<String> = this
                .columns
                .iter()
                .map(|(name, _)| format!("{name} = EXCLUDED.{name}"))
                .chain(["touched = 7".to_owned()])
                .collect();
            format!(
                "({}) DO UPDATE SET {}",
                this.key_columns().join(", "),
                set.join(", ")
            )
        } else {
            "DO NOTHING".into()
        };
        format!(
            "INSERT INTO {} ({}) SELECT {}{from} ON CONFLICT {conflict}",
            this.name,
            names.join(", "),
            values.join(", ")
        )
    }

    fn bulk_insert(&mut self, table: usize) -> String {
        let schema = self.schema;
        let this = &schema.tables[table];
        let (from, count) = (self.rng.below(KEYS), 5 + self.rng.below(20));
        let series = format!("generate_series({from}, {}) AS i", from + count);
        let keys = this.key.expressions();
        let names = this.key_columns().join(", ");
        let spread = "CASE i % 3 WHEN 0 THEN 'org_a' WHEN 1 THEN 'org_b' ELSE 'org: \"c\"' END";
        let one = self.organization();
        match this.scope {
            Scope::Column => {
                let organization = if self.rng.chance(50) { spread } else { &one };
                format!(
                    "INSERT INTO {} ({names}, organization_id) SELECT {}, {organization} FROM {series} ON CONFLICT DO NOTHING",
                    this.name,
                    keys.join(", ")
                )
            }
            Scope::Parent(parent) => format!(
                "INSERT INTO {} ({names}, parent_id) SELECT {}, (SELECT id FROM {} ORDER BY md5(id::text || i) LIMIT 1) FROM {series} ON CONFLICT DO NOTHING",
                this.name,
                keys.join(", "),
                schema.tables[parent].name
            ),
            Scope::Junction(left, right) => format!(
                "INSERT INTO {} (left_id, right_id) SELECT l.id, r.id FROM {} l, {} r ORDER BY md5(l.id::text || r.id::text || '{from}') LIMIT {count} ON CONFLICT DO NOTHING",
                this.name, schema.tables[left].name, schema.tables[right].name
            ),
        }
    }

    fn update(&mut self, table: usize) -> String {
        let (names, values) = self.values(table);
        let mut set: Vec<String> = names
            .iter()
            .zip(&values)
            .filter(|(name, _)| *name != "big" || self.rng.chance(20))
            .map(|(name, value)| format!("{name} = {value}"))
            .collect();
        set.push("touched = touched + 1".into());
        let keys = self.keys_are(table, "");
        format!(
            "UPDATE {} SET {} WHERE {keys}",
            self.schema.tables[table].name,
            set.join(", ")
        )
    }

    fn bulk_update(&mut self, table: usize) -> String {
        let rest = self.rng.below(3);
        let some = if rest == 0 {
            String::new()
        } else {
            format!(" WHERE touched % 3 <> {rest}")
        };
        format!(
            "UPDATE {} SET touched = touched + 1{some}",
            self.schema.tables[table].name
        )
    }

    fn move_rows(&mut self, table: usize) -> String {
        let schema = self.schema;
        let this = &schema.tables[table];
        let keys = self.keys_are(table, "t.");
        let lock = format!("SELECT 1 FROM {} t WHERE {keys} FOR UPDATE", this.name);
        // With rows below it, which change hands without being written, or only without.
        let alone = self.rng.chance(60);
        let free: String = schema
            .dependents(table)
            .into_iter()
            .filter(|_| alone)
            .map(|(child, column)| {
                let child = &schema.tables[child].name;
                format!(" AND NOT EXISTS (SELECT FROM {child} d WHERE d.{column} = t.id)")
            })
            .collect();
        let set = match this.scope {
            Scope::Column => format!("organization_id = {}", self.organization()),
            Scope::Parent(parent) => {
                let key = self.key_is(parent, "");
                let name = &schema.tables[parent].name;
                format!("parent_id = coalesce((SELECT id FROM {name} WHERE {key}), parent_id)")
            }
            Scope::Junction(left, _) => {
                let key = self.key_is(left, "");
                let name = &schema.tables[left].name;
                // Left is part of the key as well: a move that changes the record's id.
                format!("left_id = coalesce((SELECT id FROM {name} WHERE {key}), left_id)")
            }
        };
        // Both go in one simple query, which is one transaction even outside of a block.
        format!(
            "{lock}; UPDATE {} t SET {set} WHERE {keys}{free}",
            this.name
        )
    }

    fn change_key(&mut self, table: usize) -> String {
        let this = &self.schema.tables[table];
        if matches!(this.scope, Scope::Junction(..)) {
            return self.move_rows(table);
        }
        let new = this.key.literals(self.rng.below(KEYS));
        let set: Vec<String> = this
            .key_columns()
            .iter()
            .zip(new)
            .map(|(name, value)| format!("{name} = {value}"))
            .collect();
        let old = self.key_is(table, "");
        let taken = set.join(" AND ");
        format!(
            "UPDATE {0} SET {1} WHERE {old} AND NOT EXISTS (SELECT FROM {0} WHERE {taken})",
            this.name,
            set.join(", ")
        )
    }

    fn delete(&mut self, table: usize) -> String {
        let keys = self.keys_are(table, "");
        format!(
            "DELETE FROM {} WHERE {keys}",
            self.schema.tables[table].name
        )
    }

    /// One statement that inserts, updates and deletes.
    fn merge(&mut self, table: usize) -> String {
        let this = &self.schema.tables[table];
        if this.scope != Scope::Column || postgres::major().is_some_and(|major| major < 15) {
            return self.replace(table);
        }
        let from = self.rng.below(KEYS);
        let names = this.key_columns();
        let sources: Vec<String> = names
            .iter()
            .zip(this.key.expressions())
            .map(|(name, value)| format!("{value} AS {name}"))
            .collect();
        let same: Vec<String> = names
            .iter()
            .map(|name| format!("t.{name} = s.{name}"))
            .collect();
        let given: Vec<String> = names.iter().map(|name| format!("s.{name}")).collect();
        format!(
            "MERGE INTO {} t USING (SELECT i, {} FROM generate_series({from}, {}) AS i) s ON {}
             WHEN MATCHED AND s.i % 3 = 0 THEN DELETE
             WHEN MATCHED THEN UPDATE SET touched = t.touched + 1
             WHEN NOT MATCHED THEN INSERT ({}, organization_id) VALUES ({}, {})",
            this.name,
            sources.join(", "),
            from + 8,
            same.join(" AND "),
            names.join(", "),
            given.join(", "),
            self.organization()
        )
    }

    /// One statement that deletes and inserts: two kinds of triggers after one query.
    fn replace(&mut self, table: usize) -> String {
        let delete = self.delete(table);
        let insert = self.insert(table);
        format!("WITH gone AS ({delete} RETURNING 1) {insert}")
    }
}
