//! Table events as they come, as messages and as rows, applied to the running transaction. Owns the
//! decision what an event means when its changes are there, were given up, or never came.

use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use rowcast_model::{Audience, Operation, OrgId, RelationId, TableName, Topic};

use crate::{
    Detail, Stats, TableRule,
    changed::Changed,
    delivery::{About, audience, members},
    message::{LogMessage, Place, Says},
    pairing::{Found, Part, Taken, Unit},
    plans::Plans,
    queue::{Delivery, Target},
    table_event::EventRow,
    transaction::Transaction,
};

/// Rows of `realtime_table_events` that one statement above the row limit wrote, one for each
/// organization: its changes are given up once.
#[derive(Debug)]
pub(crate) struct BulkRun {
    relation: RelationId,
    op: Operation,
    rows: u64,
    next: u32,
    seen: HashSet<(OrgId, Operation), foldhash::fast::RandomState>,
}

/// Rows of `realtime_table_events` that one statement wrote for a table without a key. Only all of
/// them together can be paired, by their number.
#[derive(Debug, Default)]
pub(crate) struct Nameless {
    rule: Option<Arc<TableRule>>,
    op: Option<Operation>,
    events: Vec<(u32, Operation, Target)>,
}

impl Nameless {
    pub(crate) fn bytes(&self) -> usize {
        self.events.len() * size_of::<(u32, Operation, Target)>()
    }

    fn goes_on(&self, relation: RelationId, op: Operation) -> bool {
        self.op == Some(op)
            && self
                .rule
                .as_ref()
                .is_some_and(|rule| rule.relation == relation)
    }
}

/// What a message says has changed in a row; of a row that moved, everything.
fn changed(rule: &TableRule, message: &LogMessage<'_>, row: usize) -> Changed {
    let moved = message.op() == Operation::Update && message.now(row) != message.before(row);
    match moved {
        true => Changed::Seen,
        false => rule.changed(message.changed(row)),
    }
}

/// What is needed besides the transaction.
pub(crate) struct Context<'a> {
    pub(crate) plans: &'a Plans,
    pub(crate) stats: &'a mut Stats,
}

impl Context<'_> {
    fn name(&self, rule: &TableRule) -> Arc<TableName> {
        self.plans
            .name(rule.relation)
            .unwrap_or_else(|| rule.name.clone())
    }
}

impl Transaction {
    /// A log message of the triggers that stands at `index`.
    pub(crate) fn message(
        &mut self,
        context: &mut Context<'_>,
        rule: &TableRule,
        message: &LogMessage<'_>,
        index: u32,
    ) {
        let (op, relation) = (message.op(), rule.relation);
        match message.says() {
            Says::Truncate => {
                let name = context.name(rule);
                let changed = Changed::Seen;
                self.table_event(index, rule, &name, Topic::AllOrgs, op, changed);
            }
            Says::Bulk => {
                self.give_up_last(relation, op, message.n);
                let told = message.bulk().map(|(org, said)| (org, rule.changed(said)));
                self.table_events(context, rule, op, index, told);
            }
            Says::Ids => self.named_rows(context, rule, message, index),
            Says::Rows => match self.pairing.take_last(relation, op, message.n) {
                Taken::All(units) => {
                    for (row, unit) in units.into_iter().enumerate() {
                        self.pair_row(context, rule, message, row, unit);
                    }
                }
                incomplete => {
                    if incomplete == Taken::Missing {
                        context.stats.unmatched_events += 1;
                    }
                    let told = message
                        .organizations()
                        .map(|(org, row)| (org, changed(rule, message, row)));
                    self.table_events(context, rule, op, index, told);
                }
            },
        }
    }

    fn pair_row(
        &mut self,
        context: &mut Context<'_>,
        rule: &TableRule,
        message: &LogMessage<'_>,
        row: usize,
        unit: Unit,
    ) {
        let now = message.now(row);
        let before = match message.op() {
            Operation::Update => message.before(row),
            _ => now,
        };
        let delivery = if now == before {
            let changed = changed(rule, message, row);
            self.place(now, changed).map(Delivery::Here)
        } else {
            let place = |place| self.place(place, Changed::Seen);
            let (leave, enter) = ([before, now].map(place)).into();
            (leave.is_some() || enter.is_some()).then_some(Delivery::Moved { leave, enter })
        };
        match delivery {
            Some(delivery) => self.pairing.pair(unit, delivery),
            None => {
                context.stats.unmapped += 1;
                self.pairing.give_up(unit);
            }
        }
    }

    fn place(&mut self, place: Place<'_>, changed: Changed) -> Option<Target> {
        Some(self.target(place.org?, place.user, changed))
    }

    /// A message with record ids: the changes are not in the log.
    fn named_rows(
        &mut self,
        context: &mut Context<'_>,
        rule: &TableRule,
        message: &LogMessage<'_>,
        index: u32,
    ) {
        let name = context.name(rule);
        let rows = u32::try_from(message.n).unwrap_or(u32::MAX);
        for (row, at) in (0..rows).map(|row| (row as usize, row.saturating_mul(message.step()))) {
            let at = index.saturating_add(at);
            let (id, old_id) = (message.id(row), message.old_id(row));
            let (now, before) = (message.now(row), message.before(row));
            let op = message.op();
            if op != Operation::Update || (now == before && id == old_id) {
                let changed = changed(rule, message, row);
                self.record_event(context, rule, &name, at, op, id, (now, changed));
            } else {
                let after = at.saturating_add(1);
                let (before, now) = ((before, Changed::Seen), (now, Changed::Seen));
                self.record_event(context, rule, &name, at, Operation::Delete, old_id, before);
                self.record_event(context, rule, &name, after, Operation::Insert, id, now);
            }
        }
    }

    /// An event about one record without its row.
    #[expect(clippy::too_many_arguments, reason = "the parts of one event")]
    fn record_event(
        &mut self,
        context: &mut Context<'_>,
        rule: &TableRule,
        name: &Arc<TableName>,
        index: u32,
        op: Operation,
        record_id: Option<&str>,
        (place, changed): (Place<'_>, Changed),
    ) {
        let Some(Target { org, user, .. }) = self.place(place, changed) else {
            context.stats.unmapped += 1;
            return;
        };
        let topic = Topic::Org(org);
        // Without a record id the event says only that the table changed.
        if rule.detail == Detail::Table || record_id.is_none() || self.head.is_before(rule) {
            return self.table_event(index, rule, name, topic, op, changed);
        }
        let Some(audience) = audience(rule, user, rule.masked(changed)) else {
            context.stats.unmapped += 1;
            return;
        };
        if changed.is_nothing() {
            return;
        }
        let about = About {
            topic,
            audience,
            table: name,
            op,
            record_id: record_id.map(Arc::from),
        };
        self.invalidate(index, about);
    }

    fn table_event(
        &mut self,
        index: u32,
        rule: &TableRule,
        table: &Arc<TableName>,
        topic: Topic,
        op: Operation,
        changed: Changed,
    ) {
        if changed.is_nothing() {
            return;
        }
        let about = About {
            topic,
            audience: members(rule, changed),
            table,
            op,
            record_id: None,
        };
        self.invalidate(index, about);
    }

    /// One event about the table for each organization. They are never more than the message has
    /// positions, so each has its own.
    fn table_events<'m>(
        &mut self,
        context: &Context<'_>,
        rule: &TableRule,
        op: Operation,
        index: u32,
        told: impl Iterator<Item = (&'m str, Changed)>,
    ) {
        let name = context.name(rule);
        let mut places: HashMap<&str, usize> = HashMap::new();
        let mut orgs: Vec<(&str, Changed)> = Vec::new();
        for (org, changed) in told {
            let at = *places.entry(org).or_insert(orgs.len());
            match orgs.get_mut(at) {
                Some((_, all)) => *all = all.or(changed),
                None => orgs.push((org, changed)),
            }
        }
        for (at, (org, changed)) in (0u32..).zip(orgs) {
            let topic = Topic::Org(self.intern.org(org));
            self.table_event(index.saturating_add(at), rule, &name, topic, op, changed);
        }
    }

    /// A row of `realtime_table_events` that stands at `index`. Without a rule the table was not
    /// tracked, only its trigger attached by hand: then every member of the organization is told.
    pub(crate) fn event_row(
        &mut self,
        context: &mut Context<'_>,
        rule: Option<&Arc<TableRule>>,
        row: &EventRow<'_>,
        index: u32,
    ) {
        let EventRow {
            event, operation, ..
        } = *row;
        let Some(rule) = rule else {
            self.end_nameless(context);
            let table = Arc::new(TableName {
                schema: row.schema.into(),
                name: row.table.into(),
            });
            let about = About {
                topic: self.topic(row),
                audience: Audience::default(),
                table: &table,
                op: event,
                record_id: row.record_id.map(Arc::from),
            };
            return self.invalidate(index, about);
        };
        let relation = rule.relation;
        let paired = rule.published && event != Operation::Truncate && row.org != "*";
        if paired && row.record_id.is_none() && row.row_count.is_none() {
            if !self.nameless.goes_on(relation, operation) {
                self.end_nameless(context);
                self.nameless.rule = Some(rule.clone());
                self.nameless.op = Some(operation);
            }
            let target = self.target(row.org, row.user, rule.changed(row.changed));
            self.nameless.events.push((index, event, target));
            return;
        }
        self.end_nameless(context);
        let name = context.name(rule);
        match (row.record_id, row.row_count) {
            (None, Some(rows)) if event != Operation::Truncate => {
                self.bulk_row(rule, row, rows, index);
                let topic = self.topic(row);
                let changed = rule.changed(row.changed);
                self.table_event(index, rule, &name, topic, event, changed);
            }
            (Some(record_id), _) if paired => {
                self.paired_row(context, rule, row, record_id, index);
            }
            (record_id, _) if event != Operation::Truncate && row.org != "*" => {
                let place = Place {
                    org: Some(row.org),
                    user: row.user,
                };
                let place = (place, rule.changed(row.changed));
                self.record_event(context, rule, &name, index, event, record_id, place);
            }
            _ => {
                let topic = self.topic(row);
                let changed = rule.changed(row.changed);
                self.table_event(index, rule, &name, topic, event, changed);
            }
        }
    }

    fn topic(&mut self, row: &EventRow<'_>) -> Topic {
        match (row.org, row.event) {
            ("*", Operation::Truncate) => Topic::AllOrgs,
            (org, _) => Topic::Org(self.intern.org(org)),
        }
    }

    fn paired_row(
        &mut self,
        context: &mut Context<'_>,
        rule: &TableRule,
        row: &EventRow<'_>,
        record_id: &str,
        index: u32,
    ) {
        let part = match (row.event, row.operation) {
            (Operation::Delete, Operation::Update) => Part::Leave,
            (Operation::Insert, Operation::Update) => Part::Enter,
            _ => Part::Whole,
        };
        let changed = rule.changed(row.changed);
        let target = self.target(row.org, row.user, changed);
        let found = self
            .pairing
            .pair_record(rule.relation, row.operation, part, record_id, target);
        let name = context.name(rule);
        match found {
            Found::Paired => {}
            Found::Shed => {
                let topic = self.topic(row);
                self.table_event(index, rule, &name, topic, row.event, changed);
            }
            Found::Missing => {
                context.stats.unmatched_events += 1;
                let place = Place {
                    org: Some(row.org),
                    user: row.user,
                };
                self.record_event(
                    context,
                    rule,
                    &name,
                    index,
                    row.event,
                    Some(record_id),
                    (place, changed),
                );
            }
        }
    }

    /// Gives up the changes of a statement above the row limit, once for all its organizations.
    fn bulk_row(&mut self, rule: &TableRule, row: &EventRow<'_>, rows: u64, index: u32) {
        let key = (self.intern.org(row.org), row.event);
        if let Some(run) = &mut self.bulk
            && (run.relation, run.op, run.rows) == (rule.relation, row.operation, rows)
            && run.next == index
            && run.seen.insert(key.clone())
        {
            run.next = index.saturating_add(1);
            return;
        }
        self.give_up_last(rule.relation, row.operation, rows);
        self.bulk = Some(BulkRun {
            relation: rule.relation,
            op: row.operation,
            rows,
            next: index.saturating_add(1),
            seen: HashSet::from_iter([key]),
        });
    }

    /// The events of a statement on a table without a key are complete: they are as many as the
    /// changes that wait, or nobody knows which is which.
    pub(crate) fn end_nameless(&mut self, context: &mut Context<'_>) {
        let run = std::mem::take(&mut self.nameless);
        let (Some(rule), Some(op)) = (run.rule, run.op) else {
            return;
        };
        let (units, shed) = self.pairing.take_all(rule.relation, op);
        let certain = shed == 0
            && units.len() == run.events.len()
            && run.events.iter().all(|(_, event, _)| *event == op);
        if certain {
            for (unit, (_, _, target)) in units.into_iter().zip(run.events) {
                self.pairing.pair(unit, Delivery::Here(target));
            }
            return;
        }
        context.stats.unmatched_events += 1;
        for unit in units {
            self.pairing.give_up(unit);
        }
        let name = context.name(&rule);
        for (index, event, target) in run.events {
            let topic = Topic::Org(target.org);
            self.table_event(index, &rule, &name, topic, event, target.changed);
        }
    }
}
