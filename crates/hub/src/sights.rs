//! What the members of a class see of a table with masks, worked out once for many events.
//!
//! Owns the groups of members by the masks that their roles see through. They hold until somebody comes or
//! goes or gets other roles; owners are told apart event by event.

use std::sync::Arc;

use rowcast_model::{Masked, Masks, UserId};
use slab::Slab;
use smallvec::SmallVec;

use crate::{
    cast::Cast,
    classes::ClassId,
    run::Stretches,
    state::{Map, Sub},
    topics::Member,
};

/// Tables whose groups a class remembers.
const TABLES: usize = 4;

impl Cast<'_> {
    /// Offers an event that looks different to some to all members of a class: by groups that are worked out once.
    /// Neighbours become one run; an event whose owner is among those who listen is told to each at once, to the
    /// owners apart.
    pub(crate) fn offer_masked(&mut self, id: ClassId, members: &[Member], masked: &Masked) {
        let masks = &masked.masks;
        let owners = Owners::of(masked, self.by_user);
        if !owners.is_empty() || !self.run.is_of(id, Some(masks)) {
            self.settle();
        }
        let Some(class) = self.classes.get(id) else {
            return;
        };
        let mut sights = std::mem::take(&mut class.sights);
        let table = sights.of(masks, self.listeners_version, members, self.subs);
        let groups = table.map_or(&[][..], |table| &table.groups);
        if owners.is_empty() {
            let stretch = |(plain, _): &(u64, Vec<u32>)| {
                let view = masked.view_by(*plain, (false, false));
                class.event(self.step, self.event, view, self.stage).clone()
            };
            let stretches: Stretches = groups.iter().map(stretch).collect();
            class.sights = sights;
            if !self.run.extend(id, Some(masks), &stretches) {
                self.settle();
                self.run.begin(id, Some(masks), stretches);
            }
            return;
        }
        for (plain, conns) in groups {
            let nobodys = masked.view_by(*plain, (false, false));
            let stretch = class.event(self.step, self.event, nobodys, self.stage);
            let stretch = stretch.clone();
            for slot in conns {
                let Some(conn) = self.conns.get_mut(*slot as usize) else {
                    continue;
                };
                let owns = owners.own(*slot);
                if owns == (false, false) {
                    self.stage.push(&mut conn.mark, &conn.connection, &stretch);
                    continue;
                }
                let view = masked.view_by(*plain, owns);
                let own = class.event(self.step, self.event, view, self.stage);
                self.stage.push(&mut conn.mark, &conn.connection, own);
            }
        }
        class.sights = sights;
    }
}

/// The groups of one class.
#[derive(Default)]
pub(crate) struct Sights {
    tables: Vec<Table>,
    next: usize,
}

/// The groups of one rule.
pub(crate) struct Table {
    masks: Arc<Masks>,
    /// As of which state of members and roles.
    version: u64,
    /// Connections by the masks that their roles see through.
    pub groups: Vec<(u64, Vec<u32>)>,
}

impl Sights {
    /// The groups that were worked out last for these masks.
    pub(crate) fn groups(&self, masks: &Arc<Masks>) -> &[(u64, Vec<u32>)] {
        let mut tables = self.tables.iter();
        let table = tables.find(|table| Arc::ptr_eq(&table.masks, masks));
        table.map_or(&[], |table| &table.groups)
    }

    /// The groups for an event; worked out anew when anything changed.
    pub(crate) fn of(
        &mut self,
        masks: &Arc<Masks>,
        version: u64,
        members: &[Member],
        subs: &Slab<Sub>,
    ) -> Option<&Table> {
        let known = self.tables.iter();
        let known = known.take_while(|table| !Arc::ptr_eq(&table.masks, masks));
        let mut at = known.count();
        if at == self.tables.len() && at == TABLES {
            at = self.next % TABLES;
            self.next += 1;
        }
        let fresh = |table: &Table| table.version == version && Arc::ptr_eq(&table.masks, masks);
        if !self.tables.get(at).is_some_and(fresh) {
            let table = Table::new(masks.clone(), version, members, subs);
            match self.tables.get_mut(at) {
                Some(there) => *there = table,
                None => self.tables.push(table),
            }
        }
        self.tables.get(at)
    }
}

impl Table {
    fn new(masks: Arc<Masks>, version: u64, members: &[Member], subs: &Slab<Sub>) -> Table {
        let mut groups: Vec<(u64, Vec<u32>)> = Vec::new();
        let mut places: Map<u64, usize> = Map::default();
        for member in members {
            let Some(sub) = subs.get(member.sub as usize) else {
                continue;
            };
            let plain = masks.plain_by_roles(&sub.grant.roles);
            let at = *places.entry(plain).or_insert(groups.len());
            match groups.get_mut(at) {
                Some((_, conns)) => conns.push(member.conn),
                None => groups.push((plain, vec![member.conn])),
            }
        }
        Table {
            masks,
            version,
            groups,
        }
    }
}

/// The connections of those who own the row of an event, after and before.
#[derive(Default)]
pub(crate) struct Owners {
    new: SmallVec<[u32; 2]>,
    old: SmallVec<[u32; 2]>,
}

impl Owners {
    pub(crate) fn of(masked: &Masked, by_user: &Map<UserId, SmallVec<[u32; 2]>>) -> Owners {
        let slots = |owner: &Option<UserId>| {
            let owner = owner
                .as_ref()
                .filter(|_| masked.masks.plain_by_owner() != 0);
            owner.and_then(|owner| by_user.get(owner)).cloned()
        };
        Owners {
            new: slots(&masked.owner).unwrap_or_default(),
            old: slots(&masked.old_owner).unwrap_or_default(),
        }
    }

    /// Whether no owner is connected who would see more than others.
    pub(crate) fn is_empty(&self) -> bool {
        self.new.is_empty() && self.old.is_empty()
    }

    /// Whether a connection is the owner's, after and before.
    pub(crate) fn own(&self, conn: u32) -> (bool, bool) {
        (self.new.contains(&conn), self.old.contains(&conn))
    }
}
