//! What routing knows of the configuration: the rules of all tables and where memberships are.
//! Loaded once by SELECT, then followed from the log in its order.

use std::sync::Arc;

use hashbrown::HashMap;
use rowcast_model::RelationId;

use crate::{MembershipSource, TableRule};

/// The configuration that routing decides by.
#[derive(Clone, Debug, Default)]
pub struct Catalog {
    tables: HashMap<RelationId, Arc<TableRule>>,
    membership: MembershipSource,
    version: u64,
}

impl Catalog {
    /// Nothing tracked; memberships in `rowcast.memberships`.
    pub fn new() -> Catalog {
        Catalog::default()
    }

    /// Adds or replaces the rule of a table.
    pub fn set_table(&mut self, rule: TableRule) {
        self.version += 1;
        self.tables.insert(rule.relation, Arc::new(rule));
    }

    /// Forgets a table.
    pub fn remove_table(&mut self, relation: RelationId) {
        self.version += 1;
        self.tables.remove(&relation);
    }

    /// Forgets all tables.
    pub fn clear_tables(&mut self) {
        self.version += 1;
        self.tables.clear();
    }

    /// Says where memberships are.
    pub fn set_membership_source(&mut self, source: MembershipSource) {
        self.version += 1;
        self.membership = source;
    }

    /// The rule of a table.
    pub fn table(&self, relation: RelationId) -> Option<&Arc<TableRule>> {
        self.tables.get(&relation)
    }

    /// The rule of a table by its name.
    pub fn table_named(&self, schema: &str, name: &str) -> Option<&Arc<TableRule>> {
        self.tables
            .values()
            .find(|rule| &*rule.name.schema == schema && &*rule.name.name == name)
    }

    /// All rules.
    pub fn tables(&self) -> impl Iterator<Item = &Arc<TableRule>> {
        self.tables.values()
    }

    /// Where memberships are.
    pub fn membership_source(&self) -> &MembershipSource {
        &self.membership
    }

    /// Grows with every change: what was worked out from an older version is stale.
    pub(crate) fn version(&self) -> u64 {
        self.version
    }
}
