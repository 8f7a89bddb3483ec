//! How many sockets there are, in all, of one organization, and of people not known yet. Places are given
//! back when their ticket is dropped.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use rowcast_model::OrgId;

/// The counters.
#[derive(Debug, Default)]
pub struct Admission {
    sockets: AtomicUsize,
    strangers: AtomicUsize,
    organizations: Mutex<HashMap<OrgId, usize>>,
}

/// A place among the sockets; while `stranger`, also among those that have not said who they are.
#[derive(Debug)]
pub struct Ticket {
    admission: Arc<Admission>,
    stranger: bool,
    organization: Option<OrgId>,
}

fn take(counter: &AtomicUsize, most: usize) -> bool {
    let taken = counter.fetch_update(Ordering::AcqRel, Ordering::Acquire, |now| {
        (now < most).then_some(now + 1)
    });
    taken.is_ok()
}

impl Admission {
    /// A place for a socket that has not said who it is; `None` when there is none.
    pub fn stranger(
        self: &Arc<Self>,
        most_sockets: usize,
        most_strangers: usize,
    ) -> Option<Ticket> {
        if !take(&self.sockets, most_sockets) {
            return None;
        }
        if !take(&self.strangers, most_strangers) {
            self.sockets.fetch_sub(1, Ordering::AcqRel);
            return None;
        }
        Some(Ticket {
            admission: self.clone(),
            stranger: true,
            organization: None,
        })
    }
}

impl Ticket {
    /// The socket is of this organization now; false when it has as many as allowed.
    pub fn join(&mut self, organization: &OrgId, most: usize) -> bool {
        let mut organizations = self.admission.organizations.lock();
        let count = organizations.entry(organization.clone()).or_default();
        if *count >= most {
            return false;
        }
        *count += 1;
        drop(organizations);
        self.organization = Some(organization.clone());
        if std::mem::take(&mut self.stranger) {
            self.admission.strangers.fetch_sub(1, Ordering::AcqRel);
        }
        true
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.admission.sockets.fetch_sub(1, Ordering::AcqRel);
        if self.stranger {
            self.admission.strangers.fetch_sub(1, Ordering::AcqRel);
        }
        if let Some(organization) = &self.organization {
            let mut organizations = self.admission.organizations.lock();
            if let Some(count) = organizations.get_mut(organization) {
                *count -= 1;
                if *count == 0 {
                    organizations.remove(organization);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_come_back() {
        let admission = Arc::new(Admission::default());
        let org = OrgId::from("a");
        let mut first = admission.stranger(3, 1).unwrap();
        assert!(admission.stranger(3, 1).is_none(), "one stranger at a time");
        assert!(first.join(&org, 1));
        let mut second = admission.stranger(3, 1).unwrap();
        assert!(!second.join(&org, 1), "the organization is full");
        drop(first);
        assert!(second.join(&org, 1));
        drop(second);
        assert_eq!(admission.sockets.load(Ordering::Acquire), 0);
        assert_eq!(admission.strangers.load(Ordering::Acquire), 0);
        assert!(admission.organizations.lock().is_empty());
    }
}
