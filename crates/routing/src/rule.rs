//! One row of `rowcast.tables`: what is delivered of a table and to whom. Owns reading it from text.

use std::{collections::BTreeMap, sync::Arc};

use rowcast_model::{Masked, Masks, Operation, RelationId, Role, Shown, TableName, Timestamp};

use crate::{RoutingError, array_text::text_elements, changed::Changed};

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
    /// Columns that are shown in part only, if there are any.
    pub masks: Option<Arc<Masks>>,
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
    /// What was committed before belongs to an earlier rule, which nobody knows any more: of that is told only
    /// that the table changed. `None` for a rule that came by the log, in its place.
    pub since: Option<Timestamp>,
    /// What most events of a table with masks have in common.
    common: Option<Arc<Masked>>,
    raw: BTreeMap<&'static str, Box<str>>,
}

const TABLE: &str = "tables";

const COLUMNS: [&str; 16] = [
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
    "changed_us",
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
        let columns: Option<Vec<Arc<str>>> = list("columns")?.map(names);
        let key_columns: Vec<Arc<str>> = list("key_columns")?.map(names).unwrap_or_default();
        let mask = get("mask").filter(|text| *text != "null");
        let masks = match mask.map(|text| (text, text.parse::<Masks>())) {
            None => None,
            Some((_, Ok(masks))) => Some(masks).filter(|masks| !masks.columns().is_empty()),
            Some((text, Err(_))) => {
                return Err(RoutingError::invalid(
                    TABLE,
                    "mask",
                    text,
                    "an object by column of type and show, with at most 64 columns",
                ));
            }
        };
        let masks = masks.map(Arc::new);
        // A record id would show what its mask hides.
        let named = |key: &Arc<str>| masks.as_ref().is_some_and(|masks| masks.of(key).is_some());
        let detail = match key_columns.iter().any(named) {
            true => Detail::Table,
            false => detail,
        };
        let since = match get("changed_us").map(|text| (text, text.parse())) {
            None => None,
            Some((_, Ok(micros))) => Some(Timestamp(micros)),
            Some((text, Err(_))) => {
                return Err(RoutingError::invalid(
                    TABLE,
                    "changed_us",
                    text,
                    "microseconds since 1970",
                ));
            }
        };
        let common = masks.as_ref().map(|masks| {
            Arc::new(Masked {
                masks: masks.clone(),
                owner: None,
                old_owner: None,
                only: None,
            })
        });
        Ok(TableRule {
            relation,
            name: Arc::new(TableName {
                schema: need("schema_name")?.into(),
                name: need("table_name")?.into(),
            }),
            organization_column: text("organization_column"),
            operations,
            columns,
            masks,
            required_roles: list("required_roles")?
                .unwrap_or_default()
                .into_iter()
                .map(Role::from)
                .collect(),
            user_column: text("user_column"),
            owner_column: text("owner_column"),
            detail,
            storage,
            key_columns,
            published: flag("published", rows)?,
            since,
            common,
            raw,
        })
    }

    /// Whether a column of this name may be seen.
    pub fn shows(&self, column: &str) -> bool {
        match &self.columns {
            None => true,
            Some(columns) => columns.iter().any(|name| &**name == column),
        }
    }

    /// What is shown of the table, for those who ask for it.
    pub fn shown(&self) -> Shown {
        Shown {
            columns: self.columns.as_deref().map(Arc::from),
            masks: self.masks.clone(),
        }
    }

    /// What masks mean for an event that only says what changed, and nothing of a row's owner.
    pub(crate) fn masked(&self, changed: Changed) -> Option<Arc<Masked>> {
        match (changed, &self.common) {
            (Changed::Seen, common) => common.clone(),
            (Changed::Only(_), None) => None,
            (Changed::Only(only), Some(common)) => Some(Arc::new(Masked {
                only: Some(only),
                ..(**common).clone()
            })),
        }
    }

    /// What a trigger says of the columns that changed: names, and nothing when one of them is for all.
    pub(crate) fn changed(&self, said: Option<&str>) -> Changed {
        let Some(names) = said.and_then(text_elements) else {
            return Changed::Seen;
        };
        let mut only = 0;
        for name in names {
            let mask = self.masks.as_ref().and_then(|masks| masks.of(&name));
            match mask {
                _ if !self.shows(&name) => {}
                Some((i, _)) => only |= 1 << i,
                None => return Changed::Seen,
            }
        }
        Changed::Only(only)
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
            ("mask", r#"{"odd name":{"type":"redact"}}"#),
            ("published", "t"),
            ("changed_us", "17"),
        ])
        .unwrap();
        assert_eq!(rule.relation, RelationId(16400));
        assert!(rule.shows("odd name") && rule.shows("id") && !rule.shows("other"));
        assert_eq!(rule.masks.as_ref().unwrap().columns().len(), 1);
        assert_eq!(rule.since, Some(Timestamp(17)));
        let changed = |said| rule.changed(said);
        assert_eq!(changed(None), Changed::Seen);
        assert_eq!(changed(Some("{}")), Changed::Only(0));
        assert_eq!(changed(Some(r#"{"odd name",other}"#)), Changed::Only(1));
        assert_eq!(changed(Some(r#"{"odd name",id}"#)), Changed::Seen);
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
            ("mask", r#"{"id":{"type":"shred"}}"#),
            ("changed_us", "now"),
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
        let masked_key = [
            ("key_columns", "{id}"),
            ("mask", r#"{"id":{"type":"ssn"}}"#),
        ];
        assert_eq!(with(&masked_key).unwrap().detail, Detail::Table);
        assert!(!with(&[("rows", "f")]).unwrap().published);
    }
}
