//! Memberships and API keys as rows of text: the table of Rowcast or the application's own. Owns how
//! such a row becomes a [`MembershipChange`] or a [`KeyChange`], the same from a SELECT and from the log.

use std::sync::Arc;

use rowcast_model::{
    KeyChange, KeyFacts, KeySecret, MembershipChange, OrgId, RelationId, Role, TableName,
    Timestamp, UserId,
};

use crate::{RoutingError, array_text::text_elements, record_id::join_key};

/// The row of `rowcast.membership_source`: where memberships are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MembershipSource {
    /// The table's oid, when known; otherwise it is found by its name.
    pub relation: Option<RelationId>,
    /// The table.
    pub name: TableName,
    /// The column with the user.
    pub user_column: Arc<str>,
    /// The column with the organization.
    pub organization_column: Arc<str>,
    /// The column with the role.
    pub role_column: Option<Arc<str>>,
    /// The columns that identify a row.
    pub key_columns: Vec<Arc<str>>,
}

impl Default for MembershipSource {
    /// `rowcast.memberships`.
    fn default() -> Self {
        MembershipSource {
            relation: None,
            name: TableName {
                schema: "rowcast".into(),
                name: "memberships".into(),
            },
            user_column: "user_id".into(),
            organization_column: "organization_id".into(),
            role_column: Some("role".into()),
            key_columns: vec!["user_id".into(), "organization_id".into()],
        }
    }
}

impl MembershipSource {
    /// Reads the row of `rowcast.membership_source`; `get` gives the text of a column, `None` for null.
    ///
    /// # Errors
    /// When a column is missing or cannot be read.
    pub fn from_text<'a>(
        get: &dyn Fn(&str) -> Option<&'a str>,
    ) -> Result<MembershipSource, RoutingError> {
        const TABLE: &str = "membership_source";
        let need = |column| {
            get(column)
                .map(Arc::<str>::from)
                .ok_or(RoutingError::Missing {
                    table: TABLE,
                    column,
                })
        };
        let relation = match get("relid") {
            None => None,
            Some(text) => Some(RelationId(text.parse().map_err(|_| {
                RoutingError::invalid(TABLE, "relid", text, "the oid of a table")
            })?)),
        };
        let user_column = need("user_column")?;
        let organization_column = need("organization_column")?;
        let key_columns = match get("key_columns") {
            None => Vec::new(),
            Some(text) => text_elements(text)
                .ok_or_else(|| {
                    RoutingError::invalid(TABLE, "key_columns", text, "an array such as {a,b}")
                })?
                .into_iter()
                .map(Arc::from)
                .collect(),
        };
        let key_columns = match key_columns.is_empty() {
            true => vec![user_column.clone(), organization_column.clone()],
            false => key_columns,
        };
        Ok(MembershipSource {
            relation,
            name: TableName {
                schema: need("schema_name")?,
                name: need("table_name")?,
            },
            user_column,
            organization_column,
            role_column: get("role_column").map(Arc::from),
            key_columns,
        })
    }

    /// The membership that a row of the table stands for.
    pub fn change_from_text<'a>(&self, get: &dyn Fn(&str) -> Option<&'a str>) -> MembershipChange {
        let now = match (get(&self.user_column), get(&self.organization_column)) {
            (Some(user), Some(org)) => {
                let role = self.role_column.as_deref().and_then(get).map(Role::from);
                Some((UserId::from(user), OrgId::from(org), role))
            }
            _ => None,
        };
        MembershipChange {
            key: self.key_of(get),
            now,
        }
    }

    /// The text that identifies a row of the table.
    pub fn key_of<'a>(&self, get: &dyn Fn(&str) -> Option<&'a str>) -> Arc<str> {
        join_key(
            self.key_columns
                .iter()
                .map(|column| get(column).unwrap_or_default()),
        )
    }
}

/// The API key that a row of `rowcast.api_keys` stands for. A revoked key, or one without hash or
/// organization, is `None` from here on.
///
/// # Errors
/// When the row has no id, or a list or a time in it cannot be read.
pub fn key_from_text<'a>(get: &dyn Fn(&str) -> Option<&'a str>) -> Result<KeyChange, RoutingError> {
    const TABLE: &str = "api_keys";
    let id = get("id").ok_or(RoutingError::Missing {
        table: TABLE,
        column: "id",
    })?;
    let list = |column| match get(column) {
        None => Ok(Vec::new()),
        Some(text) => text_elements(text)
            .ok_or_else(|| RoutingError::invalid(TABLE, column, text, "an array such as {a,b}")),
    };
    let time = |column| match get(column) {
        None => Ok(None),
        Some(text) => {
            let micros = text.parse().map_err(|_| {
                RoutingError::invalid(TABLE, column, text, "microseconds since 1970")
            })?;
            Ok(Some(Timestamp(micros)))
        }
    };
    let (Some(hash), Some(home), None) = (get("hash"), get("organization_id"), get("revoked_at"))
    else {
        let id = id.into();
        return Ok(KeyChange { id, now: None });
    };
    let mut secrets = vec![KeySecret {
        hash: hash.into(),
        until: None,
    }];
    // One without an end is none: it would count for ever.
    if let (Some(previous), until @ Some(_)) = (get("previous_hash"), time("previous_until_us")?) {
        secrets.push(KeySecret {
            hash: previous.into(),
            until,
        });
    }
    let mut organizations = vec![OrgId::from(home)];
    let more = list("organizations")?;
    organizations.extend(more.into_iter().filter(|id| id != home).map(OrgId::from));
    let now = KeyFacts {
        secrets,
        organizations,
        roles: list("roles")?.into_iter().map(Role::from).collect(),
        expires: time("expires_us")?,
        may_send: !matches!(get("may_send"), Some("f" | "false")),
    };
    Ok(KeyChange {
        id: id.into(),
        now: Some(now),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row<'a>(pairs: &'a [(&'a str, &'a str)]) -> impl Fn(&str) -> Option<&'a str> {
        move |column| {
            pairs
                .iter()
                .find(|(name, _)| *name == column)
                .map(|(_, text)| *text)
        }
    }

    #[test]
    fn reads_memberships_of_both_kinds() {
        let own = MembershipSource::default();
        let change = own.change_from_text(&row(&[
            ("user_id", "u1"),
            ("organization_id", "o1"),
            ("role", "admin"),
        ]));
        assert_eq!(&*change.key, r#"["u1","o1"]"#);
        assert_eq!(
            change.now,
            Some(("u1".into(), "o1".into(), Some("admin".into())))
        );

        let custom = MembershipSource::from_text(&row(&[
            ("relid", "7"),
            ("schema_name", "app"),
            ("table_name", "team"),
            ("user_column", "person"),
            ("organization_column", "company"),
            ("key_columns", "{id}"),
        ]))
        .unwrap();
        let change = custom.change_from_text(&row(&[("id", "9"), ("person", "u2")]));
        assert_eq!((&*change.key, change.now), ("9", None));
    }

    #[test]
    fn reads_api_keys() {
        let pairs = [
            ("id", "k"),
            ("hash", "ab"),
            ("organization_id", "o"),
            ("roles", "{r}"),
        ];
        let key = key_from_text(&row(&pairs)).unwrap();
        assert_eq!(key.now, Some(KeyFacts::new("ab", "o", vec!["r".into()])));
        let more = [
            ("organizations", "{p,o,q}"),
            ("expires_us", "7"),
            ("previous_hash", "cd"),
            ("previous_until_us", "5"),
            ("may_send", "f"),
        ];
        let all = [&pairs[..], &more].concat();
        let facts = key_from_text(&row(&all)).unwrap().now.unwrap();
        assert_eq!(facts.organizations, ["o".into(), "p".into(), "q".into()]);
        assert_eq!((facts.expires, facts.may_send), (Some(Timestamp(7)), false));
        let until = facts.secrets.iter().map(|secret| secret.until);
        assert!(until.eq([None, Some(Timestamp(5))]));
        // A previous secret without an end does not count.
        let endless = [&pairs[..], &more[2..3]].concat();
        let facts = key_from_text(&row(&endless)).unwrap().now.unwrap();
        assert_eq!(facts.secrets.len(), 1);
        let bad = [&pairs[..], &[("expires_us", "soon")]].concat();
        assert!(key_from_text(&row(&bad)).is_err());
        let revoked = [&pairs[..], &[("revoked_at", "2026-01-01")]].concat();
        assert_eq!(key_from_text(&row(&revoked)).unwrap().now, None);
        assert!(key_from_text(&row(&[])).is_err());
    }
}
