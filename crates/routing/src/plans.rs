//! What a table is to routing, worked out once per version of its description and of the rules.

use std::sync::Arc;

use hashbrown::HashMap;
use rowcast_model::{Relation, RelationId, TableName};

use crate::{Catalog, plan::DataPlan, table_event::EventColumns};

/// The tables of Rowcast itself.
#[derive(Debug)]
pub(crate) enum Own {
    /// `public.realtime_table_events`.
    Events(EventColumns),
    /// `rowcast.tables`.
    Tables,
    /// `rowcast.membership_source`.
    MembershipSource,
    /// `rowcast.api_keys`.
    ApiKeys,
    /// `rowcast.channels`.
    Channels,
    /// `rowcast.event_namespaces`.
    Namespaces,
    /// `rowcast.plans` or `rowcast.organization_plans`.
    Plans,
    /// `rowcast.client_events`.
    ClientEvents,
}

/// What one version of a table is to routing.
#[derive(Debug)]
pub(crate) struct Plan {
    version: u64,
    relation: Arc<Relation>,
    pub(crate) own: Option<Own>,
    /// Memberships are read from it.
    pub(crate) memberships: bool,
    /// Its changes are paired and delivered.
    pub(crate) data: Option<Arc<DataPlan>>,
}

impl Plan {
    fn new(catalog: &Catalog, relation: &Arc<Relation>) -> Plan {
        let own = match (&*relation.schema, &*relation.name) {
            ("public", "realtime_table_events") => Some(Own::Events(EventColumns::new(relation))),
            ("rowcast", "tables") => Some(Own::Tables),
            ("rowcast", "membership_source") => Some(Own::MembershipSource),
            ("rowcast", "api_keys") => Some(Own::ApiKeys),
            ("rowcast", "channels") => Some(Own::Channels),
            ("rowcast", "event_namespaces") => Some(Own::Namespaces),
            ("rowcast", "plans" | "organization_plans") => Some(Own::Plans),
            ("rowcast", "client_events") => Some(Own::ClientEvents),
            _ => None,
        };
        let source = catalog.membership_source();
        let named = source.name.schema == relation.schema && source.name.name == relation.name;
        let memberships = match source.relation {
            Some(id) => id == relation.id,
            None => named,
        };
        let rule = catalog.table(relation.id).filter(|rule| rule.published);
        Plan {
            version: catalog.version(),
            own,
            memberships,
            data: rule.map(|rule| Arc::new(DataPlan::new(rule.clone(), relation.clone()))),
            relation: relation.clone(),
        }
    }
}

/// The plans of all tables seen.
#[derive(Debug, Default)]
pub(crate) struct Plans {
    by_relation: HashMap<RelationId, Arc<Plan>, foldhash::fast::FixedState>,
}

impl Plans {
    /// The plan of a table as the log describes it now. Each description comes once and is shared by
    /// its rows, so that comparing addresses is enough.
    pub(crate) fn of(&mut self, catalog: &Catalog, relation: &Arc<Relation>) -> Arc<Plan> {
        if let Some(plan) = self.by_relation.get(&relation.id)
            && plan.version == catalog.version()
            && Arc::ptr_eq(&plan.relation, relation)
        {
            return plan.clone();
        }
        let plan = Arc::new(Plan::new(catalog, relation));
        self.by_relation.insert(relation.id, plan.clone());
        plan
    }

    /// The name that a table has in the log; a table may have been renamed since it was tracked.
    pub(crate) fn name(&self, relation: RelationId) -> Option<Arc<TableName>> {
        let plan = self.by_relation.get(&relation)?;
        Some(plan.data.as_ref()?.table.clone())
    }
}
