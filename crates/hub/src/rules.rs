//! What is shown of each table, as the log says, and what follows for filters.
//!
//! A filter is an oracle: who may filter on a column finds out its value, bit by bit. So a filter may name a
//! column only if the subscriber sees it plain in every row, by his roles: not one that is hidden, nor one that
//! is masked for him or shown to owners alone. Owns that check, when somebody subscribes and whenever a rule
//! or his roles change: then a subscription that may no longer be, ends and says so.

use std::sync::Arc;

use rowcast_model::{Body, Channel, Role, RoutedEvent, Shown, TableName};
use rowcast_wire::{Filter, TableSelection, server};
use smallvec::SmallVec;

use crate::{
    HubError,
    stage::Stage,
    state::{Map, Part, State, Sub},
    topics::SubId,
};

/// Why a subscription ended by itself.
pub(crate) const COLUMN_HIDDEN: &str = "column_hidden";
/// Why a subscriber has to read everything again: the past cannot be filtered by what was hidden then.
pub(crate) const RULE_CHANGED: &str = "rule_changed";

/// Why a filter may not name a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    Hidden,
    Masked,
}

/// The rule of the table of a name in one schema.
struct InSchema {
    schema: Arc<str>,
    shown: Shown,
}

/// The rules of all tables, by name and there by schema.
#[derive(Default)]
pub(crate) struct Rules {
    tables: Map<Arc<str>, SmallVec<[InSchema; 1]>>,
}

impl Rules {
    fn set(&mut self, table: &TableName, now: Option<Shown>) {
        let there = self.tables.entry(table.name.clone()).or_default();
        there.retain(|rule| rule.schema != table.schema);
        there.extend(now.map(|shown| InSchema {
            schema: table.schema.clone(),
            shown,
        }));
        if there.is_empty() {
            self.tables.remove(&table.name);
        }
    }

    fn named<'a>(
        &'a self,
        schema: Option<&'a str>,
        table: &str,
    ) -> impl Iterator<Item = &'a Shown> {
        let named = self.tables.get(table).into_iter().flatten();
        let named = named.filter(move |rule| schema.is_none_or(|schema| *rule.schema == *schema));
        named.map(|rule| &rule.shown)
    }

    /// Whether anything is told of a table of this name.
    pub(crate) fn tracks(&self, schema: Option<&str>, table: &str) -> bool {
        self.named(schema, table).next().is_some()
    }

    fn kept(
        &self,
        schema: Option<&str>,
        table: &str,
        column: &str,
        roles: &[Role],
    ) -> Option<Kept> {
        self.named(schema, table)
            .find_map(|shown| kept(shown, column, roles))
    }
}

fn kept(shown: &Shown, column: &str, roles: &[Role]) -> Option<Kept> {
    let listed = shown.columns.as_ref();
    if listed.is_some_and(|columns| columns.iter().all(|listed| **listed != *column)) {
        return Some(Kept::Hidden);
    }
    let masks = shown.masks.as_ref()?;
    let (i, _) = masks.of(column)?;
    (masks.plain_by_roles(roles) & 1 << i == 0).then_some(Kept::Masked)
}

/// The first column of a filter of which `found` says something.
fn first<T>(filter: &Filter, mut found: impl FnMut(&str) -> Option<T>) -> Option<(String, T)> {
    let mut first = None;
    filter.each_column(&mut |column| {
        if first.is_none() {
            first = found(column).map(|what| (column.to_owned(), what));
        }
    });
    first
}

impl Part {
    /// Whether the filter asks for what the event does not show to these roles. Such a filter must not be
    /// evaluated. It is refused beforehand: this is for events that were committed under another rule.
    pub(crate) fn is_blind(&self, event: &RoutedEvent, roles: &[Role]) -> bool {
        let (Some(filter), Some(masked)) = (&self.filter, &event.audience.masked) else {
            return false;
        };
        let hidden = |column: &str| {
            let (i, _) = masked.masks.of(column)?;
            (masked.masks.plain_by_roles(roles) & 1 << i == 0).then_some(())
        };
        // Where there is no row, there is nothing to ask.
        let row = matches!(event.body, Body::Change { .. });
        row && self.table == event.table.name && first(filter, hidden).is_some()
    }
}

impl Sub {
    /// Whether some filter must not be evaluated for an event.
    pub(crate) fn is_blind(&self, event: &RoutedEvent, roles: &[Role]) -> bool {
        let mut parts = self.parts.iter().flatten();
        parts.any(|part| part.is_blind(event, roles))
    }

    /// The roles by which filters are judged: on a channel over several organizations, none.
    fn filter_roles(&self) -> &[Role] {
        match self.channel {
            Channel::User(_) => &[],
            _ => &self.grant.roles,
        }
    }
}

impl State {
    /// Checks the columns that somebody with these roles names.
    pub(crate) fn check_columns(
        &self,
        selection: &TableSelection,
        roles: &[Role],
    ) -> Result<(), HubError> {
        let (schema, table) = (selection.schema.as_deref(), &*selection.table);
        let unknown = |column: &str| HubError::UnknownColumn {
            table: table.to_owned(),
            column: column.to_owned(),
        };
        let rule = |column: &str| self.rules.kept(schema, table, column, roles);
        let lacks = |column: &str| {
            rule(column) == Some(Kept::Hidden) || self.lacks_column(schema, table, column)
        };
        let listed = selection.columns.iter().flat_map(|columns| columns.iter());
        if let Some(column) = listed.into_iter().find(|column| lacks(column)) {
            return Err(unknown(column));
        }
        let Some(filter) = &selection.filter else {
            return Ok(());
        };
        if let Some((column, ())) = first(filter, |column| lacks(column).then_some(())) {
            return Err(unknown(&column));
        }
        match first(filter, rule) {
            None => Ok(()),
            Some((column, _)) => Err(HubError::MaskedColumn {
                table: table.to_owned(),
                column,
            }),
        }
    }

    /// Whether a subscription filters by what it may not see.
    pub(crate) fn filters_hidden(&self, sub: &Sub) -> bool {
        let roles = sub.filter_roles();
        sub.parts.iter().flatten().any(|part| {
            let schema = part.schema.as_deref();
            let kept = |column: &str| self.rules.kept(schema, &part.table, column, roles);
            let filter = part.filter.as_ref();
            filter.is_some_and(|filter| first(filter, kept).is_some())
        })
    }

    /// The rule of a table is another one from here on.
    pub(crate) fn change_rule(&mut self, table: &TableName, now: Option<Shown>, stage: &mut Stage) {
        let narrows = now.is_some();
        self.rules.set(table, now);
        self.forget_columns(table);
        if !narrows {
            return;
        }
        let ended: Vec<(SubId, u64)> = self
            .subs
            .iter()
            .filter(|(_, sub)| sub.parts.is_some() && self.filters_hidden(sub))
            .map(|(id, sub)| (u32::try_from(id).unwrap_or(u32::MAX), sub.generation))
            .collect();
        self.end_subs(ended, stage);
    }

    /// All rules are void.
    pub(crate) fn clear_rules(&mut self) {
        self.rules = Rules::default();
    }

    /// Ends subscriptions whose filter must not be evaluated any more.
    pub(crate) fn end_subs(&mut self, ended: Vec<(SubId, u64)>, stage: &mut Stage) {
        for (id, generation) in ended {
            let there = self.subs.get(id as usize).map(|sub| sub.generation);
            if there != Some(generation) {
                continue;
            }
            let Some(sub) = self.remove_sub(id) else {
                continue;
            };
            let ended = self.end_of_join(&sub, COLUMN_HIDDEN);
            if let Some(conn) = self.conns.get_mut(sub.conn as usize) {
                let channel = sub.channel.to_string();
                let native = || Some(server::unsubscribed(None, &channel, Some(COLUMN_HIDDEN)));
                if let Some(frame) = ended.unwrap_or_else(native) {
                    stage.push_frame(&mut conn.mark, &conn.connection, &frame);
                }
            }
        }
    }
}
