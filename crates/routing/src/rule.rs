//! One row of `rowcast.tables`: what is delivered of a table and to whom. Owns reading it from text.

use std::{collections::BTreeMap, sync::Arc};

use rowcast_model::{Operation, RelationId, Role, TableName};

use crate::{RoutingError, array_text::text_elements};

/// Where a table's events are written by its triggers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// Rows of `realtime_table_events`.
    Table,
    /// Logical messages; nothing is stored.
    Log,
}

/// How much an event may say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// The row.
    Rows,
    /// Which record.
    Records,
    /// Only that the table changed: tables whose policies decide who sees which row.
    Table,
}

/// What is delivered of a table and to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableRule {
    /// The table's oid.
    pub relation: RelationId,
    /// Its name when it was tracked.
    pub name: Arc<TableName>,
    /// The column that holds the organization, when it is one of the table itself.
    pub organization_column: Option<Arc<str>>,
    /// Operations that are delivered.
    pub operations: Vec<Operation>,
    /// Columns that may be seen; `None`: all.
    pub columns: Option<Vec<Arc<str>>>,
    /// Columns with a mask. They are left out wherever a mask cannot be applied.
    pub masked: Vec<Arc<str>>,
    /// Roles of which one is needed; empty: every member.
    pub required_roles: Arc<[Role]>,
    /// The column with the only user who may see a row.
    pub user_column: Option<Arc<str>>,
    /// The column with the owner of a row.
    pub owner_column: Option<Arc<str>>,
    /// How much is said.
    pub detail: Detail,
    /// Where its events are written.
    pub storage: Storage,
    /// What `record_id` is made of, in order; empty: the table's own key.
    pub key_columns: Vec<Arc<str>>,
    /// Its row data is in the publication.
    pub published: bool,
    raw: BTreeMap<&'static str, Box<str>>,
}

const TABLE: &str = "tables";

const COLUMNS: [&str; 15] = [
    "relid",
    "schema_name",
    "table_name",
    "organization_column",
    "operations",
    "columns",
    "required_roles",
    "user_column",
    "owner_column",
    "mask",
    "rows",
    "visibility",
    "storage",
    "key_columns",
    "published",
];

impl TableRule {
    /// Reads a row of `rowcast.tables`; `get` gives the text of a column, `None` for null.
    ///
    /// # Errors
    /// When a column is missing or cannot be read. Such a table must not be delivered.
    pub fn from_text<'a>(get: &dyn Fn(&str) -> Option<&'a str>) -> Result<TableRule, RoutingError> {
        let raw: BTreeMap<&'static str, Box<str>> = COLUMNS
            .into_iter()
            .filter_map(|column| Some((column, get(column)?.into())))
            .collect();
        Self::from_raw(raw)
    }

    /// The text this rule was read from; for columns that an UPDATE did not touch.
    pub(crate) fn raw(&self, column: &str) -> Option<&str> {
        self.raw.get(column).map(|text| &**text)
    }

    fn from_raw(raw: BTreeMap<&'static str, Box<str>>) -> Result<TableRule, RoutingError> {
        let get = |column: &'static str| raw.get(column).map(|text| &**text);
        let need = |column| {
            get(column).ok_or(RoutingError::Missing {
                table: TABLE,
                column,
            })
        };
        let relid = need("relid")?;
        let relation = relid
            .parse()
            .map(RelationId)
            .map_err(|_| RoutingError::invalid(TABLE, "relid", relid, "the oid of a table"))?;
        let list = |column| match get(column) {
            None => Ok(None),
            Some(text) => text_elements(text).map(Some).ok_or_else(|| {
                RoutingError::invalid(TABLE, column, text, "an array such as {a,b}")
            }),
        };
        let flag = |column, default| match get(column) {
            None => Ok(default),
            Some("t" | "true") => Ok(true),
            Some("f" | "false") => Ok(false),
            Some(other) => Err(RoutingError::invalid(TABLE, column, other, "true or false")),
        };
        let text = |column| get(column).map(Arc::from);
        let names = |list: Vec<String>| list.into_iter().map(Arc::from).collect();

        let operations = match list("operations")? {
            None => vec![
                Operation::Insert,
                Operation::Update,
                Operation::Delete,
                Operation::Truncate,
            ],
            Some(words) => words
                .iter()
                .map(|word| {
                    operation(word).ok_or_else(|| {
                        RoutingError::invalid(
                            TABLE,
                            "operations",
                            word,
                            "INSERT, UPDATE, DELETE or TRUNCATE",
                        )
                    })
                })
                .collect::<Result<_, _>>()?,
        };
        let storage = match get("storage") {
            None | Some("table") => Storage::Table,
            Some("log") => Storage::Log,
            Some(other) => {
                return Err(RoutingError::invalid(
                    TABLE,
                    "storage",
                    other,
                    "table or log",
                ));
            }
        };
        let rows = flag("rows", true)?;
        let detail = match get("visibility") {
            None | Some("organization" | "everyone") if rows => Detail::Rows,
            None | Some("organization" | "everyone") => Detail::Records,
            Some("policies") => Detail::Table,
            Some(other) => {
                return Err(RoutingError::invalid(
                    TABLE,
                    "visibility",
                    other,
                    "organization, policies or everyone",
                ));
            }
        };
        Ok(TableRule {
            relation,
            name: Arc::new(TableName {
                schema: need("schema_name")?.into(),
                name: need("table_name")?.into(),
            }),
            organization_column: text("organization_column"),
            operations,
            columns: list("columns")?.map(names),
            masked: masked(get("mask"))?,
            required_roles: list("required_roles")?
                .unwrap_or_default()
                .into_iter()
                .map(Role::from)
                .collect(),
            user_column: text("user_column"),
            owner_column: text("owner_column"),
            detail,
            storage,
            key_columns: list("key_columns")?.map(names).unwrap_or_default(),
            published: flag("published", rows)?,
            raw,
        })
    }

    /// Whether a column of this name may be seen.
    pub fn shows(&self, column: &str) -> bool {
        let listed = match &self.columns {
            None => true,
            Some(columns) => columns.iter().any(|name| &**name == column),
        };
        listed && !self.masked.iter().any(|name| &**name == column)
    }

    /// Whether changes of this kind are delivered.
    pub fn delivers(&self, op: Operation) -> bool {
        self.operations.contains(&op)
    }
}

/// `INSERT` and so on, as written by triggers and in `rowcast.tables`.
pub(crate) fn operation(word: &str) -> Option<Operation> {
    Some(match word {
        "INSERT" => Operation::Insert,
        "UPDATE" => Operation::Update,
        "DELETE" => Operation::Delete,
        "TRUNCATE" => Operation::Truncate,
        _ => return None,
    })
}

fn masked(mask: Option<&str>) -> Result<Vec<Arc<str>>, RoutingError> {
    let Some(text) = mask else {
        return Ok(Vec::new());
    };
    match serde_json::from_str(text) {
        Ok(serde_json::Value::Null) => Ok(Vec::new()),
        Ok(serde_json::Value::Object(columns)) => {
            Ok(columns.into_iter().map(|(name, _)| name.into()).collect())
        }
        _ => Err(RoutingError::invalid(
            TABLE,
            "mask",
            text,
            "an object by column",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<'a>(pairs: &'a [(&'a str, &'a str)]) -> Result<TableRule, RoutingError> {
        TableRule::from_text(&|column| {
            pairs
                .iter()
                .find(|(name, _)| *name == column)
                .map(|(_, text)| *text)
        })
    }

    const BASE: [(&str, &str); 3] = [
        ("relid", "16400"),
        ("schema_name", "public"),
        ("table_name", "materials"),
    ];

    fn with(more: &[(&'static str, &'static str)]) -> Result<TableRule, RoutingError> {
        read(&[&BASE[..], more].concat())
    }

    #[test]
    fn reads_a_row() {
        let rule = with(&[
            ("organization_column", "organization_id"),
            ("operations", "{INSERT,DELETE}"),
            ("columns", r#"{id,"odd name"}"#),
            ("required_roles", "{admin}"),
            ("rows", "t"),
            ("storage", "log"),
            ("key_columns", "{id}"),
            ("mask", r#"{"id":{"kind":"redact"}}"#),
            ("published", "t"),
        ])
        .unwrap();
        assert_eq!(rule.relation, RelationId(16400));
        assert!(rule.shows("odd name") && !rule.shows("id") && !rule.shows("other"));
        assert!(rule.delivers(Operation::Delete) && !rule.delivers(Operation::Update));
        assert_eq!(
            (rule.storage, rule.detail, rule.published),
            (Storage::Log, Detail::Rows, true)
        );
        assert_eq!(rule.raw("columns"), Some(r#"{id,"odd name"}"#));
    }

    #[test]
    fn is_closed_where_it_cannot_be_read() {
        assert_eq!(read(&[]).unwrap_err().code(), "routing_config_missing");
        for bad in [
            ("relid", "x"),
            ("operations", "{EXPLODE}"),
            ("columns", "id"),
            ("rows", "maybe"),
            ("visibility", "nobody"),
            ("storage", "tape"),
            ("mask", "[]"),
        ] {
            let mut pairs: Vec<_> = BASE.iter().filter(|(name, _)| *name != bad.0).collect();
            pairs.push(&bad);
            let pairs: Vec<_> = pairs.into_iter().copied().collect();
            assert_eq!(
                read(&pairs).unwrap_err().code(),
                "routing_config_invalid",
                "{bad:?}"
            );
        }
        assert_eq!(
            with(&[("visibility", "policies")]).unwrap().detail,
            Detail::Table
        );
        assert_eq!(with(&[("rows", "f")]).unwrap().detail, Detail::Records);
        assert!(!with(&[("rows", "f")]).unwrap().published);
    }
}
