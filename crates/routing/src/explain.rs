//! What would be told of a row if it were written now: its event without the row, for who asks why he gets nothing.
//! The audience is that of a delivery.

use std::sync::Arc;

use rowcast_model::{
    Audience, Body, Cursor, Masked, Operation, OrgId, RoutedEvent, Timestamp, Topic, UserId,
};

use crate::{
    Detail, TableRule,
    changed::Changed,
    delivery::{audience, members},
};

/// Where a row stands.
#[derive(Clone, Debug)]
pub struct Standing {
    /// Its organization.
    pub organization: OrgId,
    /// Its key as text.
    pub record_id: Option<Arc<str>>,
    /// What its user column says.
    pub user: Option<UserId>,
    /// What its owner column says.
    pub owner: Option<UserId>,
}

/// The event; `None`: nobody may see it, since its user column names nobody.
pub fn would_tell(rule: &TableRule, op: Operation, row: Standing) -> Option<RoutedEvent> {
    let owner = row.owner.filter(|_| rule.owner_column.is_some());
    let masked = rule.masked(Changed::Seen).map(|common| {
        Arc::new(Masked {
            owner: owner.clone(),
            old_owner: owner,
            ..(*common).clone()
        })
    });
    let whole_table = rule.detail == Detail::Table;
    let audience: Audience = match whole_table {
        true => members(rule, Changed::Seen),
        false => audience(rule, row.user, masked)?,
    };
    Some(RoutedEvent {
        cursor: Cursor::NOWHERE,
        commit_time: Timestamp(0),
        topic: Topic::Org(row.organization),
        audience,
        table: rule.name.clone(),
        op,
        record_id: row.record_id.filter(|_| !whole_table),
        old_record_id: None,
        body: Body::Invalidate,
        last: true,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(more: &[(&str, &'static str)]) -> TableRule {
        let get = |column: &str| {
            let given = more.iter().find(|(name, _)| *name == column);
            match (given, column) {
                (Some((_, value)), _) => Some(*value),
                (None, "relid") => Some("7"),
                (None, "schema_name") => Some("public"),
                (None, "table_name") => Some("notes"),
                _ => None,
            }
        };
        TableRule::from_text(&get).unwrap()
    }

    fn told(more: &[(&str, &'static str)], user: Option<&str>) -> Option<RoutedEvent> {
        let row = Standing {
            organization: "a".into(),
            record_id: Some("1".into()),
            user: user.map(UserId::from),
            owner: Some("olga".into()),
        };
        would_tell(&rule(more), Operation::Update, row)
    }

    #[test]
    fn the_audience_is_that_of_the_rule() {
        let plain = told(&[("required_roles", "{hr}")], Some("anna")).unwrap();
        assert_eq!(
            (plain.audience.required_roles.len(), plain.audience.user),
            (1, None)
        );
        let user = ("user_column", "reader");
        assert_eq!(
            told(&[user], Some("anna")).unwrap().audience.user,
            Some("anna".into())
        );
        assert!(told(&[user], None).is_none());
        let mask = (
            "mask",
            r#"{"email":{"type":"email","show":{"or":"owner"}}}"#,
        );
        let masked = told(&[mask, ("owner_column", "by")], None)
            .unwrap()
            .audience
            .masked
            .unwrap();
        assert_eq!(masked.owner, Some("olga".into()));
        assert!(
            told(&[mask], None)
                .unwrap()
                .audience
                .masked
                .unwrap()
                .owner
                .is_none()
        );
        let table = told(&[("visibility", "policies")], None).unwrap();
        assert_eq!(table.record_id, None);
    }
}
