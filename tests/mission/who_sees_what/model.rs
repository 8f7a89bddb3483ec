//! Who sees what, as a person would say it: knows the rules and the rows, and nothing of the service.

use std::collections::BTreeSet;

use serde_json::json;

use crate::harness::rng::Rng;

pub const ROLES: [&str; 5] = ["admin", "hr", "support", "editor", "member"];
/// What everybody has read once is behind everything before: such rows, one for each person.
pub const FENCES: usize = 1_000_000;

/// On which channels somebody listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listens {
    /// As a socket begins: the organization's, and his own.
    Both,
    Organization,
    User,
    Table,
    /// A member of another organization, on that.
    Elsewhere,
    /// Nowhere: he is not connected.
    Nowhere,
}

/// Somebody.
#[derive(Clone, Debug)]
pub struct Who {
    pub n: usize,
    pub name: String,
    pub roles: BTreeSet<&'static str>,
    pub listens: Listens,
    /// Whether he is on `room:1`, too.
    pub room: bool,
}

impl Who {
    /// His channels; that on which rows come is the first.
    pub fn channels(&self) -> Vec<String> {
        let user = format!("user:{}", self.name);
        let mut channels: Vec<String> = match self.listens {
            Listens::Both => vec!["org:org_1".into(), user],
            Listens::Organization => vec!["org:org_1".into()],
            Listens::User => vec![user],
            Listens::Table => vec!["tenant:org_1:secrets".into()],
            Listens::Elsewhere => vec!["org:org_2".into(), user],
            Listens::Nowhere => Vec::new(),
        };
        channels.extend(self.room.then(|| "room:1".into()));
        channels
    }

    pub fn organization(&self) -> &'static str {
        match self.listens {
            Listens::Elsewhere => "org_2",
            _ => "org_1",
        }
    }
}

/// One rule of the table.
#[derive(Clone, Debug)]
pub struct Rule {
    pub required: BTreeSet<&'static str>,
    /// Roles that see `a` and `b`, and whether the owner does; `None`: no mask.
    pub masks: [Option<(BTreeSet<&'static str>, bool)>; 2],
    pub for_reader: bool,
}

pub fn some_roles(rng: &mut Rng, most: usize) -> BTreeSet<&'static str> {
    let count = rng.below(most + 1);
    (0..count).map(|_| *rng.pick(&ROLES)).collect()
}

impl Rule {
    pub fn random(rng: &mut Rng) -> Rule {
        let mut mask = || (rng.below(4) > 0).then(|| (some_roles(rng, 2), rng.below(2) == 0));
        let masks = [mask(), mask()];
        let required = match rng.below(3) {
            0 => some_roles(rng, 3),
            _ => BTreeSet::new(),
        };
        Rule {
            required,
            masks,
            for_reader: rng.below(4) == 0,
        }
    }

    /// Under which every reader gets his own rows, and nobody else's.
    pub fn fence() -> Rule {
        Rule {
            required: BTreeSet::new(),
            masks: [None, None],
            for_reader: true,
        }
    }

    pub fn sql(&self, rng: &mut Rng) -> String {
        let mut masks = json!({});
        for (column, mask) in ["a", "b"].iter().zip(&self.masks) {
            if let Some((roles, owner)) = mask {
                masks[*column] = json!({ "type": "redact", "show": { "roles": roles } });
                if *owner {
                    masks[*column]["show"]["or"] = "owner".into();
                }
            }
        }
        let reader = if self.for_reader { "'reader'" } else { "NULL" };
        let required: Vec<&str> = self.required.iter().copied().collect();
        // Both ways to change a rule.
        match rng.below(2) {
            0 => format!(
                "SELECT rowcast.track('secrets', owner_column => 'owner', mask => '{masks}', required_roles => '{{{}}}', user_column => {reader}, storage => '{}')",
                required.join(","),
                rng.pick(&["table", "log"]),
            ),
            _ => format!(
                "UPDATE rowcast.tables SET mask = '{masks}', required_roles = '{{{}}}', user_column = {reader} WHERE table_name = 'secrets'",
                required.join(","),
            ),
        }
    }
}

/// What an UPDATE does.
#[derive(Clone, Debug)]
pub struct Change {
    /// Which of `a` and `b`.
    columns: [bool; 2],
    owner: Option<String>,
}

/// A row under a rule: it comes, may change, and goes.
#[derive(Clone, Debug)]
pub struct Row {
    pub id: usize,
    pub rule: Rule,
    pub reader: String,
    owner: String,
    pub change: Option<Change>,
}

/// An event as somebody gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    pub op: &'static str,
    pub id: usize,
    pub new: Option<[String; 2]>,
    pub old: Option<[String; 2]>,
}

/// What is sent masked, in the row after and in the row before.
pub type Masked = (Option<[bool; 2]>, Option<[bool; 2]>);

impl Row {
    pub fn random(rng: &mut Rng, id: usize, people: usize) -> Row {
        let owner = |rng: &mut Rng| format!("u{}", rng.below(people + 5));
        let change = match rng.below(5) {
            0 => None,
            n => Some(Change {
                columns: [n != 2, n > 1],
                owner: (n == 4).then(|| owner(rng)),
            }),
        };
        Row {
            id,
            rule: Rule::random(rng),
            reader: format!("u{}", rng.below(people)),
            owner: owner(rng),
            change,
        }
    }

    /// What is written: each change of the row in a transaction of its own, or all in one.
    pub fn transactions(&self, rng: &mut Rng) -> Vec<String> {
        let id = self.id;
        let [a, b] = self.values(false);
        let (owner, reader) = (&self.owner, &self.reader);
        let mut statements = vec![format!(
            "INSERT INTO secrets VALUES ({id}, 'org_1', '{owner}', '{reader}', '{a}', '{b}')"
        )];
        if self.change.is_some() {
            let ([a, b], owner) = (self.values(true), self.owner(true));
            statements.push(format!(
                "UPDATE secrets SET a = '{a}', b = '{b}', owner = '{owner}' WHERE id = {id}"
            ));
        }
        statements.push(format!("DELETE FROM secrets WHERE id = {id}"));
        match rng.below(2) {
            0 => statements,
            _ => vec![statements.join("; ")],
        }
    }

    fn values(&self, changed: bool) -> [String; 2] {
        [0, 1].map(|i| {
            let changed = changed && self.change.as_ref().is_some_and(|change| change.columns[i]);
            let (column, version) = (["a", "b"][i], 1 + usize::from(changed));
            format!("{column}-{}-secret-{version}", self.id)
        })
    }

    fn owner(&self, changed: bool) -> &str {
        let other = self
            .change
            .as_ref()
            .and_then(|change| change.owner.as_ref());
        other.filter(|_| changed).unwrap_or(&self.owner)
    }

    /// Whether a member sees each column plain, while somebody owns the row.
    fn plain(&self, who: &Who, owner: &str) -> [bool; 2] {
        [0, 1].map(|i| match &self.rule.masks[i] {
            None => true,
            Some((roles, of_owner)) => {
                !roles.is_disjoint(&who.roles) || *of_owner && owner == who.name
            }
        })
    }

    pub fn operations(&self) -> impl Iterator<Item = &'static str> {
        let update = self.change.as_ref().map(|_| "UPDATE");
        ["INSERT"].into_iter().chain(update).chain(["DELETE"])
    }

    /// Which part of the rule keeps an event from a member; if none does, what he gets of it masked.
    pub fn judge(&self, who: &Who, op: &str) -> Result<Masked, &'static str> {
        if !self.rule.required.is_empty() && self.rule.required.is_disjoint(&who.roles) {
            return Err("required_roles");
        }
        if self.rule.for_reader && self.reader != who.name {
            return Err("user_column");
        }
        let masked = |changed: bool| self.plain(who, self.owner(changed)).map(|plain| !plain);
        let (new, old) = match op {
            "INSERT" => (Some(masked(false)), None),
            "UPDATE" => (Some(masked(true)), Some(masked(false))),
            _ => (None, Some(masked(true))),
        };
        if let (Some(new), Some(old), Some(change)) = (new, old, &self.change) {
            let moved = self.owner(true) != self.owner(false);
            let all = |i: usize| !change.columns[i] || self.rule.masks[i].is_some();
            let some = |i: usize| change.columns[i] && !(new[i] && old[i]);
            if !moved && all(0) && all(1) && !some(0) && !some(1) {
                return Err("masks");
            }
        }
        Ok((new, old))
    }

    /// An event as a member gets it who listens to the organization.
    fn told(&self, who: &Who, op: &'static str) -> Option<Told> {
        let (new, old) = self.judge(who, op).ok()?;
        let show = |masked: Option<[bool; 2]>, changed: bool| {
            let masked = masked?;
            let mut values = self.values(changed);
            for i in [0, 1] {
                if masked[i] {
                    values[i] = "[REDACTED]".into();
                }
            }
            Some(values)
        };
        let (id, gone) = (self.id, op == "DELETE");
        Some(Told {
            op,
            id,
            new: show(new, op == "UPDATE"),
            old: show(old, gone),
        })
    }

    /// Which gate keeps an event from him on a channel, whoever he is; if none does, what comes masked.
    pub fn gate(&self, who: &Who, channel: &str, op: &str) -> Result<Masked, &'static str> {
        let own = format!("user:{}", who.name);
        let listens = |channel: &str| who.channels().iter().any(|one| one == channel);
        let for_him = self.rule.for_reader && self.reader == who.name;
        match channel.split(':').next() {
            _ if who.listens == Listens::Elsewhere || channel == "org:org_2" => {
                return Err("membership");
            }
            Some("user") if channel != own => return Err("channel"),
            Some("user") if !for_him => return Err("carries"),
            _ => {}
        }
        let masked = self.judge(who, op)?;
        match () {
            () if who.listens == Listens::Nowhere => Err("socket"),
            () if !listens(channel) => Err("subscription"),
            // It comes on the other one.
            () if channel == own && listens("org:org_1") => Err("filter"),
            () => Ok(masked),
        }
    }

    /// What he is told of it.
    pub fn all_told(&self, who: &Who) -> Vec<Told> {
        let channels = who.channels();
        let comes = |op: &&'static str| {
            let on = channels.iter().filter(|channel| *channel != "room:1");
            let on = on.filter(|channel| self.gate(who, channel, op).is_ok());
            on.count() == 1
        };
        let operations = self.operations().filter(comes);
        operations.filter_map(|op| self.told(who, op)).collect()
    }
}
