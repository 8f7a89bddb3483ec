//! Masks: which columns of a table are shown in part only, and to whom they are shown as they are.
//!
//! Owns the rule as data and the question which of its columns somebody sees plain. How a masked value looks
//! is the business of the wire. A rule is shared by all events that were committed under it, so that the
//! past is told by the rule of its time.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Role, UserId};

/// Most masks of one table: a set of them is one word.
pub const MOST_MASKS: usize = 64;

/// How a value is masked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum MaskKind {
    /// `j***@y*********.com`
    Email,
    /// `******4567`
    Phone,
    /// `*****6789`
    Ssn,
    /// `**** **** **** 1111`
    CreditCard,
    /// `J***`
    Name,
    /// `[REDACTED]`
    Redact,
}

impl MaskKind {
    /// Every kind.
    pub const ALL: [MaskKind; 6] = [
        MaskKind::Email,
        MaskKind::Phone,
        MaskKind::Ssn,
        MaskKind::CreditCard,
        MaskKind::Name,
        MaskKind::Redact,
    ];

    /// Its name in a rule.
    pub fn as_str(self) -> &'static str {
        match self {
            MaskKind::Email => "email",
            MaskKind::Phone => "phone",
            MaskKind::Ssn => "ssn",
            MaskKind::CreditCard => "creditCard",
            MaskKind::Name => "name",
            MaskKind::Redact => "redact",
        }
    }

    /// The kind of this name.
    pub fn from_name(name: &str) -> Option<MaskKind> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }
}

/// The mask of one column.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Mask {
    /// The column.
    pub column: Arc<str>,
    /// How it looks to those who do not see it plain.
    pub kind: MaskKind,
    /// Roles of which one is enough to see it plain.
    pub roles: Arc<[Role]>,
    /// Whether the owner of a row sees it plain.
    pub owner: bool,
}

/// The masks of one table.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Masks {
    columns: Box<[Mask]>,
    /// By role, sorted: the columns that it sees plain.
    by_role: Box<[(Role, u64)]>,
    by_owner: u64,
}

impl Masks {
    /// The masks of a table; `None` when there are more than [`MOST_MASKS`].
    pub fn new(columns: Vec<Mask>) -> Option<Masks> {
        if columns.len() > MOST_MASKS {
            return None;
        }
        let bits = |shown: &dyn Fn(&Mask) -> bool| {
            let shown = columns.iter().enumerate().filter(|(_, mask)| shown(mask));
            shown.fold(0, |bits, (i, _)| bits | 1 << i)
        };
        let mut roles: Vec<&Role> = columns.iter().flat_map(|mask| &*mask.roles).collect();
        roles.sort_unstable();
        roles.dedup();
        let by_role = roles.into_iter();
        let by_role = by_role.map(|role| (role.clone(), bits(&|mask| mask.roles.contains(role))));
        Some(Masks {
            by_role: by_role.collect(),
            by_owner: bits(&|mask| mask.owner),
            columns: columns.into(),
        })
    }

    /// All masks.
    pub fn columns(&self) -> &[Mask] {
        &self.columns
    }

    /// The number and the mask of a column that has one.
    pub fn of(&self, column: &str) -> Option<(usize, &Mask)> {
        let mut all = self.columns.iter().enumerate();
        all.find(|(_, mask)| &*mask.column == column)
    }

    /// The set of all masks.
    pub fn all(&self) -> u64 {
        match self.columns.len() {
            0 => 0,
            n => u64::MAX >> (MOST_MASKS - n.min(MOST_MASKS)),
        }
    }

    /// The masks that these roles see through: what one of them sees plain, is seen plain.
    pub fn plain_by_roles(&self, roles: &[Role]) -> u64 {
        let plain = |role: &Role| {
            let at = self.by_role.binary_search_by(|(other, _)| other.cmp(role));
            at.ok().and_then(|at| self.by_role.get(at))
        };
        roles
            .iter()
            .filter_map(plain)
            .fold(0, |bits, (_, more)| bits | more)
    }

    /// The masks that the owner of a row sees through.
    pub fn plain_by_owner(&self) -> u64 {
        self.by_owner
    }
}

/// What masks mean for one event.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Masked {
    /// The rule in force when the event was committed.
    pub masks: Arc<Masks>,
    /// Whose row it is after the change, if the log says.
    pub owner: Option<UserId>,
    /// Whose row it was before, if the log says.
    pub old_owner: Option<UserId>,
    /// When nothing changed but these masked columns: whoever sees none of them plain is not told.
    pub only: Option<u64>,
}

impl Masked {
    /// The columns that somebody sees plain.
    pub fn view(&self, user: Option<&UserId>, roles: &[Role]) -> View {
        let owns = |owner: &Option<UserId>| owner.is_some() && owner.as_ref() == user;
        let by_roles = self.masks.plain_by_roles(roles);
        self.view_by(by_roles, (owns(&self.owner), owns(&self.old_owner)))
    }

    /// The same for somebody of whom is known what his roles see through, and whether the row is his, after
    /// and before.
    pub fn view_by(&self, by_roles: u64, (owns, owned): (bool, bool)) -> View {
        let image = |owns: bool| {
            let bits = by_roles | if owns { self.masks.by_owner } else { 0 };
            // Who sees all is like anybody where nothing is masked.
            if bits == self.masks.all() {
                u64::MAX
            } else {
                bits
            }
        };
        View {
            new: image(owns),
            old: image(owned),
        }
    }

    /// Whether somebody with this view may know of the event.
    pub fn tells(&self, view: View) -> bool {
        self.only
            .is_none_or(|only| (view.new | view.old) & only != 0)
    }
}

/// Which masked columns are shown plain, by their number, in the row after a change and in the row before:
/// the owner of the one need not be the owner of the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct View {
    /// In `new`.
    pub new: u64,
    /// In `old`.
    pub old: u64,
}

impl View {
    /// Everything as it is.
    pub const PLAIN: View = View {
        new: u64::MAX,
        old: u64::MAX,
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mask(column: &str, roles: &[&str], owner: bool) -> Mask {
        Mask {
            column: column.into(),
            kind: MaskKind::Redact,
            roles: roles.iter().map(|role| Role::from(*role)).collect(),
            owner,
        }
    }

    fn roles(names: &[&str]) -> Vec<Role> {
        names.iter().map(|role| Role::from(*role)).collect()
    }

    #[test]
    fn roles_add_up_and_each_image_has_its_owner() {
        let masks = Masks::new(vec![
            mask("a", &["admin"], false),
            mask("b", &["billing", "admin"], true),
            mask("c", &[], true),
        ]);
        let masked = Masked {
            masks: Arc::new(masks.unwrap()),
            owner: Some("anna".into()),
            old_owner: Some("bert".into()),
            only: None,
        };
        let view = |user: &str, names: &[&str]| masked.view(Some(&user.into()), &roles(names));
        assert_eq!(view("eve", &["member"]), View { new: 0, old: 0 });
        assert_eq!(view("eve", &["billing"]), View { new: 2, old: 2 });
        assert_eq!(view("eve", &["admin", "billing"]), View { new: 3, old: 3 });
        assert_eq!(view("anna", &["member"]), View { new: 6, old: 0 });
        let all = u64::MAX;
        assert_eq!(view("bert", &["admin"]), View { new: 3, old: all });
        // A machine is nobody, also where nobody is the owner.
        let of_nobody = Masked {
            owner: None,
            ..masked.clone()
        };
        assert_eq!(of_nobody.view(None, &[]), View { new: 0, old: 0 });
    }

    #[test]
    fn a_change_of_masked_columns_alone_is_for_those_who_see_one_of_them() {
        let masks = Masks::new(vec![
            mask("a", &["admin"], false),
            mask("b", &["billing"], false),
        ]);
        let masked = |only| Masked {
            masks: Arc::new(masks.clone().unwrap()),
            owner: None,
            old_owner: None,
            only,
        };
        let told = |only, names: &[&str]| {
            let masked = masked(only);
            masked.tells(masked.view(None, &roles(names)))
        };
        assert!(told(None, &[]));
        assert!(told(Some(1), &["admin"]) && !told(Some(1), &["billing"]) && !told(Some(1), &[]));
        assert!(told(Some(3), &["billing"]));
        assert!(!told(Some(0), &["admin", "billing"]));
    }

    #[test]
    fn so_many_masks_and_no_more() {
        let many = |n: usize| Masks::new((0..n).map(|i| mask(&i.to_string(), &[], true)).collect());
        let most = many(MOST_MASKS).unwrap();
        assert_eq!((most.all(), most.plain_by_owner()), (u64::MAX, u64::MAX));
        assert_eq!(many(1).unwrap().all(), 1);
        assert_eq!(many(0).unwrap().all(), 0);
        assert_eq!(many(MOST_MASKS + 1), None);
    }

    #[test]
    fn kinds_have_names() {
        for kind in MaskKind::ALL {
            assert_eq!(MaskKind::from_name(kind.as_str()), Some(kind));
        }
        assert_eq!(MaskKind::from_name("creditcard"), None);
    }
}
