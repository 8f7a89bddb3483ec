//! Who listens to a topic: an organization or a channel. Owns the indexes that find the subscriptions of an event: those of
//! everything, by table, and by the value of one column.
//!
//! The index yields candidates; whether an event is delivered is decided with each of them again.

use std::sync::Arc;

use hashbrown::HashMap;
use rowcast_model::{Body, JsonRow, Operation, RoutedEvent};
use rowcast_wire::{Filter, eq_key_of_literal, eq_key_of_value};

use crate::classes::ClassId;

type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// The number of a subscription.
pub(crate) type SubId = u32;

/// A subscription, and which entry of its table list; `None` for one of all tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub sub: SubId,
    pub part: u32,
}

/// A subscription of everything, and its connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Member {
    pub sub: SubId,
    pub conn: u32,
}

/// One topic.
#[derive(Default)]
pub(crate) struct Topic {
    /// Its subscriptions; none for a topic without.
    pub listeners: Option<Box<Listeners>>,
}

/// Subscriptions of one topic.
#[derive(Default)]
pub(crate) struct Listeners {
    /// Of all tables, by class.
    pub everything: Vec<(ClassId, Vec<Member>)>,
    tables: Map<Arc<str>, TableIndex>,
}

#[derive(Default)]
struct TableIndex {
    plain: Vec<Candidate>,
    columns: Vec<ColumnIndex>,
}

struct ColumnIndex {
    column: Arc<str>,
    values: Map<Box<[u8]>, Vec<Candidate>>,
}

impl Listeners {
    pub(crate) fn is_empty(&self) -> bool {
        self.everything.is_empty() && self.tables.is_empty()
    }

    /// Subscriptions of everything that are of one class.
    pub(crate) fn members(&self, class: ClassId) -> Option<&[Member]> {
        let (_, members) = self.everything.iter().find(|(of, _)| *of == class)?;
        Some(members)
    }

    pub(crate) fn add_to_everything(&mut self, class: ClassId, member: Member) {
        match self.everything.iter_mut().find(|(of, _)| *of == class) {
            Some((_, members)) => members.push(member),
            None => self.everything.push((class, vec![member])),
        }
    }

    pub(crate) fn remove_from_everything(&mut self, class: ClassId, sub: SubId) {
        if let Some(at) = self.everything.iter().position(|(of, _)| *of == class)
            && let Some((_, members)) = self.everything.get_mut(at)
        {
            if let Some(at) = members.iter().position(|member| member.sub == sub) {
                members.swap_remove(at);
            }
            if members.is_empty() {
                self.everything.swap_remove(at);
            }
        }
    }

    pub(crate) fn add_to_table(
        &mut self,
        table: &Arc<str>,
        filter: Option<&Filter>,
        who: Candidate,
    ) {
        let index = self.tables.entry(table.clone()).or_default();
        let Some((column, literal)) = filter.and_then(Filter::needed_equality) else {
            index.plain.push(who);
            return;
        };
        let at = match index.columns.iter().position(|of| of.column == *column) {
            Some(at) => at,
            None => {
                index.columns.push(ColumnIndex {
                    column: column.clone(),
                    values: Map::default(),
                });
                index.columns.len() - 1
            }
        };
        if let Some(of) = index.columns.get_mut(at) {
            for key in eq_key_of_literal(literal) {
                of.values.entry(key.into()).or_default().push(who);
            }
        }
    }

    pub(crate) fn remove_from_table(
        &mut self,
        table: &Arc<str>,
        filter: Option<&Filter>,
        who: Candidate,
    ) {
        let Some(index) = self.tables.get_mut(table) else {
            return;
        };
        match filter.and_then(Filter::needed_equality) {
            None => index.plain.retain(|other| *other != who),
            Some((column, literal)) => {
                for of in index.columns.iter_mut().filter(|of| of.column == *column) {
                    for key in eq_key_of_literal(literal) {
                        if let Some(there) = of.values.get_mut(&*key) {
                            there.retain(|other| *other != who);
                            if there.is_empty() {
                                of.values.remove(&*key);
                            }
                        }
                    }
                }
                index.columns.retain(|of| !of.values.is_empty());
            }
        }
        if index.plain.is_empty() && index.columns.is_empty() {
            self.tables.remove(table);
        }
    }

    /// Everybody with a table list who may want this event, some perhaps twice.
    pub(crate) fn candidates(&self, event: &RoutedEvent, visit: &mut impl FnMut(Candidate)) {
        let Some(index) = self.tables.get(&event.table.name) else {
            return;
        };
        index.plain.iter().copied().for_each(&mut *visit);
        for of in &index.columns {
            of.candidates(event, visit);
        }
    }
}

/// What a row says of the column.
enum Known<'a> {
    Value(&'a rowcast_model::Kind, &'a [u8]),
    Missing,
    Hidden,
}

impl ColumnIndex {
    fn in_row<'a>(&self, row: &'a JsonRow) -> Known<'a> {
        let columns = row.columns();
        match columns.iter().position(|column| column.name == self.column) {
            None => Known::Hidden,
            Some(i) => match (columns.get(i), row.value(i)) {
                (Some(column), Some(json)) => Known::Value(&column.kind, json),
                _ => Known::Missing,
            },
        }
    }

    fn candidates(&self, event: &RoutedEvent, visit: &mut impl FnMut(Candidate)) {
        let Body::Change { new, old, .. } = &event.body else {
            return self.all(visit);
        };
        // To look a masked value up would be to filter by it.
        let masked = event.audience.masked.as_ref();
        if masked.is_some_and(|masked| masked.masks.of(&self.column).is_some()) {
            return self.all(visit);
        }
        let new = new.as_ref().map(|row| self.in_row(row));
        let old = old.as_ref().map(|row| self.in_row(row));
        match (event.op, new, old) {
            (Operation::Insert, Some(Known::Value(kind, json)), _) => self.find(kind, json, visit),
            (Operation::Insert, Some(_), _) => {}
            (Operation::Update, Some(new), old) => {
                match (&new, &old) {
                    (Known::Value(kind, json), _) => self.find(kind, json, visit),
                    // The value before is the value now; without it, anybody may be meant.
                    (Known::Missing, Some(Known::Value(..))) | (Known::Hidden, _) => {}
                    (Known::Missing, _) => return self.all(visit),
                }
                if let Some(Known::Value(kind, json)) = old {
                    self.find(kind, json, visit);
                }
            }
            (Operation::Delete, _, Some(Known::Value(kind, json))) => self.find(kind, json, visit),
            _ => self.all(visit),
        }
    }

    fn find(&self, kind: &rowcast_model::Kind, json: &[u8], visit: &mut impl FnMut(Candidate)) {
        let mut key = Vec::with_capacity(json.len() + 10);
        if eq_key_of_value(kind, json, &mut key)
            && let Some(there) = self.values.get(&*key)
        {
            there.iter().copied().for_each(visit);
        }
    }

    fn all(&self, visit: &mut impl FnMut(Candidate)) {
        self.values.values().flatten().copied().for_each(visit);
    }
}
