//! What the log says tables look like, and how their values become JSON.
//!
//! Owns the cache of relations by oid; a relation message replaces the entry, and changes already handed on
//! keep theirs. The oids of types that are not built in are looked up once, by whoever owns a connection.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use rowcast_model::{Column, Kind, Relation, RelationId, ReplicaIdentity};

use crate::pgoutput::RelationMessage;

/// What the catalog says of a type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeRow {
    /// Its oid.
    pub oid: u32,
    /// `typname`.
    pub name: Arc<str>,
    /// `typtype`: b, c, d, e, p, r or m.
    pub class: char,
    /// `typcategory`: `A` for arrays.
    pub category: char,
    /// The element of an array.
    pub element: u32,
    /// The base of a domain.
    pub base: u32,
    /// The delimiter of its arrays.
    pub delimiter: u8,
    /// Names and types of the attributes of a composite, in order.
    pub attributes: Vec<(String, u32)>,
}

/// Deepest nesting of types inside types that is followed; beyond it a value is a string.
const MAX_DEPTH: usize = 16;

/// The types known so far.
#[derive(Debug, Default)]
pub struct Types {
    rows: HashMap<u32, TypeRow>,
    missing: HashSet<u32>,
}

/// The types that every server has under the same oid: their name, and how their values become JSON.
fn built_in(oid: u32) -> Option<(&'static str, Kind)> {
    Some(match oid {
        16 => ("bool", Kind::Bool),
        20 => ("int8", Kind::Number),
        21 => ("int2", Kind::Number),
        23 => ("int4", Kind::Number),
        700 => ("float4", Kind::Number),
        701 => ("float8", Kind::Number),
        1700 => ("numeric", Kind::Number),
        114 => ("json", Kind::Json),
        3802 => ("jsonb", Kind::Json),
        1114 => ("timestamp", Kind::Timestamp),
        1184 => ("timestamptz", Kind::Timestamp),
        _ => (built_in_text(oid)?, Kind::Text),
    })
}

/// Those that are strings in JSON; `oid` too, as `to_json` has it.
fn built_in_text(oid: u32) -> Option<&'static str> {
    Some(match oid {
        17 => "bytea",
        18 => "char",
        19 => "name",
        25 => "text",
        26 => "oid",
        142 => "xml",
        600 => "point",
        601 => "lseg",
        602 => "path",
        603 => "box",
        604 => "polygon",
        628 => "line",
        650 => "cidr",
        718 => "circle",
        774 => "macaddr8",
        790 => "money",
        829 => "macaddr",
        869 => "inet",
        1042 => "bpchar",
        1043 => "varchar",
        1082 => "date",
        1083 => "time",
        1186 => "interval",
        1266 => "timetz",
        1560 => "bit",
        1562 => "varbit",
        2950 => "uuid",
        3220 => "pg_lsn",
        3614 => "tsvector",
        3615 => "tsquery",
        4072 => "jsonpath",
        _ => return None,
    })
}

impl Types {
    /// How values of a type become JSON; `None` when the catalog has to be asked first.
    pub fn kind(&self, oid: u32) -> Option<Kind> {
        self.kind_at(oid, 0)
    }

    fn kind_at(&self, oid: u32, depth: usize) -> Option<Kind> {
        if let Some((_, kind)) = built_in(oid) {
            return Some(kind);
        }
        if depth > MAX_DEPTH || self.missing.contains(&oid) {
            return Some(Kind::Text);
        }
        let row = self.rows.get(&oid)?;
        Some(match row.class {
            'd' => self.kind_at(row.base, depth + 1)?,
            'c' => {
                let attributes = row.attributes.iter();
                let kinds = attributes
                    .map(|(name, oid)| {
                        Some((Arc::from(name.as_str()), self.kind_at(*oid, depth + 1)?))
                    })
                    .collect::<Option<Vec<_>>>()?;
                Kind::Composite(kinds.into())
            }
            _ if row.category == 'A' && row.element != 0 => {
                let delimiter = self
                    .rows
                    .get(&row.element)
                    .map_or(b',', |element| element.delimiter);
                // box is the one built-in type whose arrays are not separated by commas.
                let delimiter = if row.element == 603 { b';' } else { delimiter };
                Kind::Array(Box::new(self.kind_at(row.element, depth + 1)?), delimiter)
            }
            _ => Kind::Text,
        })
    }

    /// The name of a type; `text` for one that does not exist any more, as its values are told as strings.
    pub fn name(&self, oid: u32) -> Arc<str> {
        match (built_in(oid), self.rows.get(&oid)) {
            (Some((name, _)), _) => name.into(),
            (None, Some(row)) => row.name.clone(),
            (None, None) => "text".into(),
        }
    }

    /// The oids that have to be looked up before `kind` answers for all of `oids`.
    pub fn unknown(&self, oids: impl IntoIterator<Item = u32>) -> Vec<u32> {
        let mut unknown = Vec::new();
        let mut open: Vec<u32> = oids.into_iter().collect();
        let mut seen = HashSet::new();
        while let Some(oid) = open.pop() {
            if oid == 0
                || built_in(oid).is_some()
                || self.missing.contains(&oid)
                || !seen.insert(oid)
            {
                continue;
            }
            match self.rows.get(&oid) {
                None => unknown.push(oid),
                Some(row) => {
                    open.extend([row.element, row.base]);
                    open.extend(row.attributes.iter().map(|(_, oid)| *oid));
                }
            }
        }
        unknown
    }

    /// Takes in what the catalog said about `asked`; what it did not know stays a string.
    pub fn learn(&mut self, asked: &[u32], rows: Vec<TypeRow>) {
        self.rows.extend(rows.into_iter().map(|row| (row.oid, row)));
        self.missing
            .extend(asked.iter().filter(|oid| !self.rows.contains_key(oid)));
    }
}

/// Makes the relation of a message; `primary_key` holds the names of the primary key columns where the replica
/// identity is another one. They are of now, the message is of then: when a name is not in it, the key of the
/// replica identity stands in.
pub fn describe(message: &RelationMessage, types: &Types, primary_key: &[String]) -> Relation {
    let has = |name: &String| message.columns.iter().any(|column| column.name == *name);
    let known = !primary_key.is_empty() && primary_key.iter().all(has);
    let columns = message.columns.iter().map(|column| Column {
        name: column.name.as_str().into(),
        type_oid: column.type_oid,
        type_name: types.name(column.type_oid),
        key: column.key,
        record_key: match known {
            true => primary_key.contains(&column.name),
            false => column.key && message.identity != ReplicaIdentity::Full,
        },
        kind: types.kind(column.type_oid).unwrap_or(Kind::Text),
    });
    Relation {
        id: RelationId(message.id),
        schema: message.schema.as_str().into(),
        name: message.name.as_str().into(),
        identity: message.identity,
        columns: columns.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pgoutput::ColumnMessage;

    fn row(oid: u32, class: char, category: char, element: u32, base: u32) -> TypeRow {
        TypeRow {
            oid,
            name: format!("type_{oid}").into(),
            class,
            category,
            element,
            base,
            delimiter: b',',
            attributes: Vec::new(),
        }
    }

    #[test]
    fn what_is_not_known_is_asked_for_once() {
        let mut types = Types::default();
        assert_eq!(types.unknown([23, 25, 90, 90]), [90]);
        types.learn(&[90], vec![row(90, 'b', 'A', 91, 0)]);
        assert_eq!(types.unknown([90]), [91]);
        assert_eq!(types.kind(90), None);
        // Dropped since: a string, and not asked again.
        types.learn(&[91], Vec::new());
        let names = [23, 90, 91].map(|oid| types.name(oid).to_string());
        assert_eq!(names, ["int4", "type_90", "text"]);
        assert_eq!(types.unknown([90]), [0u32; 0]);
        assert_eq!(
            types.kind(90),
            Some(Kind::Array(Box::new(Kind::Text), b','))
        );
    }

    #[test]
    fn types_that_go_round_in_circles_end_as_strings() {
        let mut types = Types::default();
        types.learn(
            &[90, 91],
            vec![row(90, 'd', 'U', 0, 91), row(91, 'd', 'U', 0, 90)],
        );
        assert!(types.unknown([90]).is_empty());
        assert_eq!(types.kind(90), Some(Kind::Text));
    }

    #[test]
    fn the_key_of_a_record() {
        let keys = |identity, primary: &[&str]| {
            let column = |name: &str, key| ColumnMessage {
                key,
                name: name.into(),
                type_oid: 23,
            };
            let full = identity == ReplicaIdentity::Full;
            let message = RelationMessage {
                id: 1,
                schema: "s".into(),
                name: "t".into(),
                identity,
                columns: vec![column("a", true), column("b", full)],
            };
            let primary: Vec<_> = primary.iter().map(|name| name.to_string()).collect();
            let relation = describe(&message, &Types::default(), &primary);
            let keys = relation.columns.iter().map(|column| column.record_key);
            keys.collect::<Vec<_>>()
        };
        use ReplicaIdentity::{Default, Full, Index};
        assert_eq!(keys(Default, &[]), [true, false]);
        assert_eq!(keys(Index, &["b"]), [false, true]);
        assert_eq!(keys(Full, &["b"]), [false, true]);
        // Renamed since: the names of now say nothing about then.
        assert_eq!(keys(Index, &["b", "c"]), [true, false]);
        assert_eq!(keys(Full, &["c"]), [false, false]);
        assert_eq!(keys(Full, &[]), [false, false]);
    }
}
