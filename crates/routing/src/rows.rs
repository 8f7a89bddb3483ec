//! Turns the images of a row into [`JsonRow`]s. Owns which columns an old row shows. Hidden columns
//! never get in here: only the plan's visible ones are walked.

use std::sync::Arc;

use bytes::BytesMut;
use rowcast_model::{JsonRow, JsonRowBuilder, OldTuple, Value};

use crate::{
    json::write_value,
    plan::{DataPlan, Row, Seen, Side},
};

/// Rows of many events share one allocation of this size.
const BLOCK: usize = 16 << 10;

/// Where the JSON of rows is written.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    buffer: BytesMut,
}

impl Rows {
    fn build<'r>(
        &mut self,
        plan: &DataPlan,
        mut value: impl FnMut(&Seen) -> Option<&'r Value>,
    ) -> JsonRow {
        if self.buffer.capacity() < BLOCK / 16 {
            self.buffer = BytesMut::with_capacity(BLOCK);
        }
        let mut row = JsonRowBuilder::new(plan.columns.clone(), &mut self.buffer);
        for (seen, column) in plan.seen.iter().zip(plan.columns.iter()) {
            row.column(|out| match value(seen) {
                Some(Value::Text(text)) => write_value(out, &column.kind, text),
                Some(Value::Null) => out.extend_from_slice(b"null"),
                Some(Value::Unchanged) | None => {}
            });
        }
        row.finish()
    }

    /// The row after the change, and the columns whose value the log does not hold.
    pub(crate) fn new_row(&mut self, plan: &DataPlan, row: &Row) -> (JsonRow, Arc<[Arc<str>]>) {
        let mut unchanged: Vec<Arc<str>> = Vec::new();
        let json = self.build(plan, |seen| {
            let value = plan.value(row, Side::New, seen.at);
            if value == Some(&Value::Unchanged)
                && let Some(column) = plan.relation.columns.get(seen.at)
            {
                unchanged.push(column.name.clone());
            }
            value
        });
        let unchanged = match unchanged.is_empty() {
            true => plan.none_unchanged.clone(),
            false => unchanged.into(),
        };
        (json, unchanged)
    }

    /// The row before the change: whole where the log holds it whole, else its key.
    pub(crate) fn old_row(&mut self, plan: &DataPlan, row: &Row) -> JsonRow {
        match &row.old {
            Some(OldTuple::Full(old)) => self.build(plan, |seen| old.0.get(seen.at)),
            _ => self.build(plan, |seen| {
                (seen.record_key || plan.is_identity(seen.at))
                    .then(|| plan.value(row, Side::Old, seen.at))
                    .flatten()
            }),
        }
    }

    /// The key of the row before the change, whatever else the log holds.
    pub(crate) fn key_row(&mut self, plan: &DataPlan, row: &Row) -> JsonRow {
        self.build(plan, |seen| {
            seen.record_key
                .then(|| plan.value(row, Side::Old, seen.at))
                .flatten()
        })
    }
}

/// The same row in memory of its own, so that keeping it keeps nothing else.
pub(crate) fn compact(row: &JsonRow) -> JsonRow {
    let mut buffer = BytesMut::with_capacity(row.cost());
    let mut copy = JsonRowBuilder::new(row.columns().clone(), &mut buffer);
    for i in 0..row.columns().len() {
        copy.column(|out| out.extend_from_slice(row.value(i).unwrap_or_default()));
    }
    copy.finish()
}
