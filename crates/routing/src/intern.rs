//! Organizations and users repeat from row to row: their texts are shared. Bounded.

use hashbrown::HashSet;
use rowcast_model::{OrgId, UserId};

/// So many texts are remembered at most.
const MOST: usize = 8192;

/// Texts that came lately.
#[derive(Debug, Default)]
pub(crate) struct Intern {
    last: Option<OrgId>,
    orgs: HashSet<OrgId, foldhash::fast::RandomState>,
    users: HashSet<UserId, foldhash::fast::RandomState>,
}

impl Intern {
    pub(crate) fn org(&mut self, text: &str) -> OrgId {
        if let Some(last) = &self.last
            && last.as_str() == text
        {
            return last.clone();
        }
        if self.orgs.len() >= MOST {
            self.orgs.clear();
        }
        let org = self.orgs.get_or_insert_with(text, |text| text.into());
        self.last = Some(org.clone());
        org.clone()
    }

    pub(crate) fn user(&mut self, text: &str) -> UserId {
        if self.users.len() >= MOST {
            self.users.clear();
        }
        self.users
            .get_or_insert_with(text, |text| text.into())
            .clone()
    }
}
