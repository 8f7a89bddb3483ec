//! From a paired change to its events: audience, form and rows. Owns the decision what of a row is
//! told to whom; it decides by the rule, the row and the table event, and by nothing else.

use std::sync::Arc;

use crate::{
    Detail, Stats, TableRule,
    changed::Changed,
    outbox::Outbox,
    plan::{DataPlan, Row, Side},
    queue::{Delivery, Target},
    rows::Rows,
};
use rowcast_model::{
    Audience, Body, Cursor, Epoch, HubOp, Masked, Operation, RoutedEvent, TableName, Timestamp,
    Topic, TxHeader, UserId,
};

/// What all events of one transaction have in common.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Head {
    pub(crate) epoch: Epoch,
    pub(crate) tx: TxHeader,
}

impl Head {
    pub(crate) fn cursor(&self, index: u32) -> Cursor {
        Cursor {
            epoch: self.epoch,
            commit_lsn: self.tx.commit_lsn,
            index,
        }
    }

    /// The position after the whole transaction.
    pub(crate) fn end(&self) -> Cursor {
        Cursor::after_commit(self.epoch, self.tx.commit_lsn)
    }

    /// When it committed.
    pub(crate) fn time(&self) -> Timestamp {
        self.tx.commit_time
    }

    /// Whether this was committed before a rule was made of which the former is not known.
    pub(crate) fn is_before(&self, rule: &TableRule) -> bool {
        rule.since.is_some_and(|since| self.tx.commit_time < since)
    }

    /// An event without row data: of one record, or of the table.
    pub(crate) fn invalidation(&self, index: u32, about: About<'_>) -> RoutedEvent {
        RoutedEvent {
            cursor: self.cursor(index),
            commit_time: self.tx.commit_time,
            topic: about.topic,
            audience: about.audience,
            table: about.table.clone(),
            op: about.op,
            record_id: about.record_id,
            old_record_id: None,
            body: Body::Invalidate,
            last: false,
        }
    }
}

/// What an invalidation is about.
#[derive(Debug)]
pub(crate) struct About<'a> {
    pub(crate) topic: Topic,
    pub(crate) audience: Audience,
    pub(crate) table: &'a Arc<TableName>,
    pub(crate) op: Operation,
    pub(crate) record_id: Option<Arc<str>>,
}

/// Every member with one of the required roles: for events that say nothing of any row, but that it changed.
pub(crate) fn members(rule: &TableRule, changed: Changed) -> Audience {
    Audience {
        required_roles: rule.required_roles.clone(),
        user: None,
        masked: changed.only().and_then(|_| rule.masked(changed)),
    }
}

/// Who may see an event of a row whose user is `user`; `None`: nobody.
pub(crate) fn audience(
    rule: &TableRule,
    user: Option<UserId>,
    masked: Option<Arc<Masked>>,
) -> Option<Audience> {
    if rule.user_column.is_some() && user.is_none() {
        return None;
    }
    Some(Audience {
        required_roles: rule.required_roles.clone(),
        user: user.filter(|_| rule.user_column.is_some()),
        masked,
    })
}

/// What masks mean for an event about a row that is in the log.
fn masked(plan: &DataPlan, row: &Row, op: Operation, changed: Changed) -> Option<Arc<Masked>> {
    let common = plan.rule.masked(changed)?;
    let owner = |side: Side| {
        let there = match side {
            Side::New => op != Operation::Delete,
            Side::Old => op != Operation::Insert,
        };
        let owner = plan.owner(row, side).filter(|_| there)?;
        Some(UserId::from(&*String::from_utf8_lossy(owner)))
    };
    let (new, old) = (owner(Side::New), owner(Side::Old));
    if new.is_none() && old.is_none() {
        return Some(common);
    }
    Some(Arc::new(Masked {
        masks: common.masks.clone(),
        owner: new,
        old_owner: old,
        only: common.only,
    }))
}

/// Works out the events of changes.
#[derive(Debug, Default)]
pub(crate) struct Deliverer {
    rows: Rows,
}

impl Deliverer {
    /// Emits the events of a paired change: usually one, two for a move.
    #[expect(clippy::too_many_arguments, reason = "the parts of one change")]
    pub(crate) fn deliver(
        &mut self,
        head: Head,
        index: u32,
        plan: &DataPlan,
        row: &Row,
        delivery: Delivery,
        outbox: &mut Outbox,
        stats: &mut Stats,
    ) {
        let mut step = Step {
            head,
            plan,
            row,
            outbox,
            stats,
        };
        match split_by_user(plan, row, delivery) {
            Delivery::Here(target) => {
                let side = match row.op {
                    Operation::Delete => Side::Old,
                    _ => Side::New,
                };
                let changed = target.changed.and(plan.changed(row));
                self.one(&mut step, index, row.op, side, target, Some(changed));
            }
            Delivery::Moved { leave, enter } => {
                if let Some(target) = leave {
                    self.one(&mut step, index, Operation::Delete, Side::Old, target, None);
                }
                // The arrival of a moved row has a position of its own.
                let index = match row.op {
                    Operation::Update => index.saturating_add(1),
                    _ => index,
                };
                if let Some(target) = enter {
                    self.one(&mut step, index, Operation::Insert, Side::New, target, None);
                }
            }
        }
    }

    /// One event; `stays` is what changed of a row that is where it was.
    fn one(
        &mut self,
        step: &mut Step<'_>,
        index: u32,
        op: Operation,
        side: Side,
        target: Target,
        stays: Option<Changed>,
    ) {
        let changed = stays.unwrap_or_default();
        if changed.is_nothing() {
            return;
        }
        let Step {
            head, plan, row, ..
        } = *step;
        let rule = &*plan.rule;
        let wrong = plan.contradicts(row, side, target.org.as_str())
            || (op == Operation::Update && plan.contradicts(row, Side::Old, target.org.as_str()));
        if wrong {
            step.stats.mismatched += 1;
        }
        let topic = Topic::Org(target.org);
        if wrong || plan.detail == Detail::Table || head.is_before(rule) {
            let about = About {
                topic,
                audience: members(rule, changed),
                table: &plan.table,
                op,
                record_id: None,
            };
            let event = head.invalidation(index, about);
            return step.outbox.emit(index, event.into(), step.stats);
        }
        let user = match plan.own_user(row, side) {
            Some(own) => own.map(|bytes| UserId::from(&*String::from_utf8_lossy(bytes))),
            None => target.user,
        };
        let masked = masked(plan, row, op, changed);
        let Some(audience) = audience(rule, user, masked) else {
            step.stats.unmapped += 1;
            return;
        };
        let record_id: Option<Arc<str>> =
            plan.with_record_id(row, side, |id| match std::str::from_utf8(id) {
                Ok(id) => Arc::from(id),
                Err(_) => Arc::from(&*String::from_utf8_lossy(id)),
            });
        let old_record_id = match (op, &row.old) {
            (Operation::Update, Some(_)) => plan.with_record_id(row, Side::Old, |id| {
                let changed = record_id.as_deref().map(str::as_bytes) != Some(id);
                changed.then(|| Arc::from(&*String::from_utf8_lossy(id)))
            }),
            _ => None,
        };
        let body = match plan.detail {
            Detail::Rows => self.body(plan, row, op, stays.is_none()),
            Detail::Records | Detail::Table => Body::Invalidate,
        };
        let event = HubOp::from(RoutedEvent {
            cursor: head.cursor(index),
            commit_time: head.tx.commit_time,
            topic,
            audience,
            table: plan.table.clone(),
            op,
            record_id,
            old_record_id: old_record_id.flatten(),
            body,
            last: false,
        });
        step.outbox.emit(index, event, step.stats);
    }

    fn body(&mut self, plan: &DataPlan, row: &Row, op: Operation, moved: bool) -> Body {
        let nothing = plan.none_unchanged.clone();
        match op {
            Operation::Insert | Operation::Update => {
                let (new, unchanged) = self.rows.new_row(plan, row);
                let old = (op == Operation::Update).then(|| self.rows.old_row(plan, row));
                Body::Change {
                    new: Some(new),
                    old,
                    unchanged,
                }
            }
            Operation::Delete | Operation::Truncate => {
                let old = match moved {
                    true => self.rows.key_row(plan, row),
                    false => self.rows.old_row(plan, row),
                };
                Body::Change {
                    new: None,
                    old: Some(old),
                    unchanged: nothing,
                }
            }
        }
    }
}

struct Step<'a> {
    head: Head,
    plan: &'a DataPlan,
    row: &'a Row,
    outbox: &'a mut Outbox,
    stats: &'a mut Stats,
}

/// A row that stays in its organization but goes to another user is a move too, whether or not the
/// table event says so.
fn split_by_user(plan: &DataPlan, row: &Row, delivery: Delivery) -> Delivery {
    let Delivery::Here(target) = &delivery else {
        return delivery;
    };
    if row.op != Operation::Update || plan.rule.user_column.is_none() {
        return delivery;
    }
    match (plan.own_user(row, Side::Old), plan.own_user(row, Side::New)) {
        (Some(before), Some(now)) if before != now => Delivery::Moved {
            leave: before.is_some().then(|| target.clone()),
            enter: now.is_some().then(|| target.clone()),
        },
        _ => delivery,
    }
}
