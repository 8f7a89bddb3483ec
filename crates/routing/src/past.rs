//! From what `realtime_table_events` keeps to what those are told who come back from far behind. Owns the
//! decision what a kept row means today; by the rules of today, by the row, and by nothing else.
//!
//! Promises: nothing that changed is left out, as far as the rows reach, and no record id goes to anybody
//! who may not see the record by the rule of today, or was not meant when it was written. Where that
//! cannot be known the table as a whole is told, and where not even that can, nothing but a doubt.

use std::{collections::BTreeMap, sync::Arc};

use hashbrown::{HashMap, HashSet};
use rowcast_model::{
    Audience, Body, Changed, Cursor, Epoch, Lsn, Operation, OrgId, RelationId, RoutedEvent,
    TableName, Timestamp, Topic, UserId,
};

use crate::{Detail, Storage, TableRule, changed::Changed as What, delivery::members};

/// What all rows about one record for one user come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastRow {
    /// The table's oid, unless somebody wrote the row by hand.
    pub relation: Option<RelationId>,
    /// The table's name when the rows were written.
    pub table: TableName,
    /// Which record; `None`: the whole table.
    pub record_id: Option<Arc<str>>,
    /// The only user who is told.
    pub user: Option<UserId>,
    /// What happened.
    pub operations: Vec<Operation>,
    /// The number of the latest of them.
    pub newest: u64,
    /// When its transaction began.
    pub at: Timestamp,
    /// Which columns changed, where not all may know of it; an array as text.
    pub changed: Option<Arc<str>>,
}

/// A tracked table as it is now.
#[derive(Clone, Debug)]
pub struct PastTable {
    /// Its rule.
    pub rule: Arc<TableRule>,
    /// Its name.
    pub name: Arc<TableName>,
    /// The number of the latest change of the rule.
    pub changed: u64,
}

/// What happened to a table and left no row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// TRUNCATE.
    Truncated,
    /// Rows went from one organization to another without being written.
    Moved,
    /// Its rule ended.
    Untracked,
}

/// What is known of tables, besides their rows.
#[derive(Clone, Debug, Default)]
pub struct Past {
    tables: HashMap<RelationId, PastTable>,
    by_name: HashMap<TableName, RelationId>,
    /// By organization (`None`: all): table, what, and the number of the latest time.
    marks: HashMap<Option<OrgId>, Vec<(RelationId, Mark, u64)>>,
    untracked: HashSet<RelationId>,
}

/// A table about which something is said as a whole.
struct Whole<'a> {
    table: &'a PastTable,
    newest: u64,
    /// What happened, where that is known and always the same.
    op: Option<Operation>,
    at: Timestamp,
}

impl Past {
    /// Adds a tracked table.
    pub fn table(&mut self, table: PastTable) {
        let relation = table.rule.relation;
        self.by_name.insert((*table.name).clone(), relation);
        self.tables.insert(relation, table);
    }

    /// Adds a mark.
    pub fn mark(
        &mut self,
        relation: RelationId,
        mark: Mark,
        organization: Option<OrgId>,
        newest: u64,
    ) {
        match mark {
            Mark::Untracked => drop(self.untracked.insert(relation)),
            _ => {
                let marks = self.marks.entry(organization).or_default();
                marks.push((relation, mark, newest));
            }
        }
    }

    /// What changed for an organization from the number `since` on, oldest first; `None`: there is a row of
    /// which nobody knows who may see it. `now` stands where no better time is known.
    pub fn tell(
        &self,
        organization: &OrgId,
        rows: Vec<PastRow>,
        since: u64,
        now: Timestamp,
    ) -> Option<Vec<Changed>> {
        let mut wholes: BTreeMap<u32, Whole<'_>> = BTreeMap::new();
        let mut whole = |table, newest, op, at| {
            if newest < since {
                return;
            }
            let whole = Whole {
                table,
                newest,
                op,
                at,
            };
            let known = wholes.entry(whole.table.rule.relation.0);
            let known = known.or_insert_with(|| Whole { ..whole });
            known.op = match (known.op, op) {
                (Some(one), Some(other)) if one != other => Some(Operation::Update),
                (one, other) => one.or(other),
            };
            known.newest = known.newest.max(newest);
            known.at = known.at.max(at);
        };
        for table in self.tables.values() {
            let newest = match table.rule.storage {
                // Nothing of it is kept.
                Storage::Log => u64::MAX,
                // What came before was told by another rule.
                Storage::Table => table.changed,
            };
            whole(table, newest, None, now);
        }
        for of in [None, Some(organization.clone())] {
            for (relation, mark, newest) in self.marks.get(&of).into_iter().flatten() {
                let op = match mark {
                    Mark::Truncated => Operation::Truncate,
                    _ => Operation::Update,
                };
                if let Some(table) = self.tables.get(relation) {
                    whole(table, *newest, Some(op), now);
                }
            }
        }
        let mut told = Vec::new();
        for row in rows {
            let Some(table) = self.find(&row) else {
                // A trigger attached by hand, for every member; unless there was a rule once.
                if row.relation.is_none_or(|of| self.untracked.contains(&of)) {
                    return None;
                }
                told.push((None, record(organization, row, None, What::Seen)));
                continue;
            };
            if row.newest <= table.changed {
                continue;
            }
            let rule = &*table.rule;
            let nobody = rule.user_column.is_some() && row.user.is_none();
            let what = rule.changed(row.changed.as_deref());
            if what.is_nothing() {
                continue;
            }
            if (rule.detail == Detail::Table || row.record_id.is_none() || nobody)
                && what == What::Seen
            {
                whole(table, row.newest, Some(operation(&row.operations)), row.at);
                continue;
            }
            told.push((
                Some(rule.relation.0),
                record(organization, row, Some(table), what),
            ));
        }
        // Whoever hears of the table need not hear of its records.
        told.retain(|(relation, changed)| {
            let whole = relation.and_then(|relation| wholes.get(&relation));
            whole.is_none_or(|whole| whole.newest < changed.newest)
        });
        let mut told: Vec<Changed> = told.into_iter().map(|(_, changed)| changed).collect();
        told.extend(wholes.into_values().map(|whole| about(organization, whole)));
        told.sort_by_key(|changed| changed.newest);
        Some(told)
    }

    fn find(&self, row: &PastRow) -> Option<&PastTable> {
        let relation = match row.relation {
            Some(relation) => relation,
            None => *self.by_name.get(&row.table)?,
        };
        self.tables.get(&relation)
    }
}

/// One word for what happened: when it was not always the same, it is to be read again.
fn operation(operations: &[Operation]) -> Operation {
    match operations {
        [only] => *only,
        _ => Operation::Update,
    }
}

fn record(organization: &OrgId, row: PastRow, table: Option<&PastTable>, what: What) -> Changed {
    let members = table.map(|table| members(&table.rule, what));
    let audience = Audience {
        user: row.user,
        ..members.unwrap_or_default()
    };
    let rule = table.map(|table| &table.rule);
    // Said of the table as a whole, to those who see what changed.
    let whole = rule.is_some_and(|rule| {
        rule.detail == Detail::Table || rule.user_column.is_some() && audience.user.is_none()
    });
    let record_id = row.record_id.filter(|_| !whole);
    let by_user = rule.is_some_and(|rule| rule.user_column.is_some());
    let personal = by_user && audience.user.is_none();
    let name = match table {
        Some(table) => table.name.clone(),
        None => Arc::new(row.table),
    };
    let op = operation(&row.operations);
    let mut event = invalidation(organization, audience, name, op, row.at);
    event.record_id = record_id;
    Changed {
        newest: row.newest,
        personal,
        event,
    }
}

fn about(organization: &OrgId, whole: Whole<'_>) -> Changed {
    let Whole {
        table,
        newest,
        op,
        at,
    } = whole;
    let audience = members(&table.rule, What::Seen);
    let op = op.unwrap_or(Operation::Update);
    Changed {
        newest,
        personal: table.rule.user_column.is_some(),
        event: invalidation(organization, audience, table.name.clone(), op, at),
    }
}

fn invalidation(
    organization: &OrgId,
    audience: Audience,
    table: Arc<TableName>,
    op: Operation,
    at: Timestamp,
) -> RoutedEvent {
    RoutedEvent {
        cursor: Cursor::after_commit(Epoch(0), Lsn::ZERO),
        commit_time: at,
        topic: Topic::Org(organization.clone()),
        audience,
        table,
        op,
        record_id: None,
        old_record_id: None,
        body: Body::Invalidate,
        last: false,
    }
}

#[cfg(test)]
#[path = "past_tests.rs"]
mod tests;
