//! A table event as the triggers write it into the log (`storage => 'log'`). Owns its JSON form.

use std::{borrow::Cow, fmt};

use rowcast_model::Operation;
use serde::{Deserialize, Deserializer, de};

/// Text that is borrowed from the message wherever nothing in it was escaped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Text<'a>(pub(crate) Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text")
            }
            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Visitor)
    }
}

type Texts<'a> = Option<Vec<Option<Text<'a>>>>;

/// One statement on one table.
#[derive(Debug, Deserialize)]
pub(crate) struct LogMessage<'a> {
    v: u32,
    /// The table's oid.
    pub(crate) t: u32,
    op: Operation,
    /// Rows of the statement.
    #[serde(default)]
    pub(crate) n: u64,
    #[serde(borrow, default)]
    org: Option<Text<'a>>,
    #[serde(borrow, default)]
    orgs: Texts<'a>,
    #[serde(borrow, default)]
    old: Texts<'a>,
    #[serde(borrow, default)]
    users: Texts<'a>,
    #[serde(borrow, default)]
    old_users: Texts<'a>,
    #[serde(borrow, default)]
    bulk: Texts<'a>,
    #[serde(borrow, default)]
    ids: Texts<'a>,
    #[serde(borrow, default)]
    old_ids: Texts<'a>,
    /// By row, or by organization of `bulk`: which columns changed, where not all may know of it.
    #[serde(borrow, default)]
    changed: Texts<'a>,
}

/// What a message says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Says {
    /// All rows went.
    Truncate,
    /// Too many rows to name.
    Bulk,
    /// Organization by row, to be paired with the changes.
    Rows,
    /// Organization and record by row; the changes are not in the log.
    Ids,
}

/// Where one row of the message belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place<'a> {
    pub(crate) org: Option<&'a str>,
    pub(crate) user: Option<&'a str>,
}

impl<'a> LogMessage<'a> {
    /// Reads a message; `None` when it is none, or its lists do not fit its number of rows.
    pub(crate) fn parse(content: &'a [u8]) -> Option<LogMessage<'a>> {
        let message: LogMessage<'a> = serde_json::from_slice(content).ok()?;
        (message.v == 1 && message.fits()).then_some(message)
    }

    fn fits(&self) -> bool {
        let fits = |list: &Texts<'_>| {
            list.as_ref()
                .is_none_or(|list| u64::try_from(list.len()) == Ok(self.n))
        };
        let changed = match &self.bulk {
            None => fits(&self.changed),
            Some(bulk) => {
                let list = self.changed.as_ref();
                list.is_none_or(|list| list.len() == bulk.len())
            }
        };
        let named = self.op == Operation::Truncate
            || self.bulk.is_some()
            || self.org.is_some()
            || self.orgs.is_some();
        named
            && changed
            && [
                &self.orgs,
                &self.old,
                &self.users,
                &self.old_users,
                &self.ids,
                &self.old_ids,
            ]
            .into_iter()
            .all(fits)
    }

    pub(crate) fn op(&self) -> Operation {
        self.op
    }

    pub(crate) fn says(&self) -> Says {
        match self {
            _ if self.op == Operation::Truncate => Says::Truncate,
            _ if self.bulk.is_some() => Says::Bulk,
            _ if self.ids.is_some() => Says::Ids,
            _ => Says::Rows,
        }
    }

    /// Positions that the message takes up: one for each event that could come of it. Depends on
    /// nothing but its text, and is bounded by its length, whatever `n` says.
    pub(crate) fn positions(&self) -> u32 {
        let len = |list: &Texts<'_>| list.as_ref().map_or(0, Vec::len);
        let organizations = usize::from(self.org.is_some()) + len(&self.orgs) + len(&self.old);
        let records = len(&self.ids).saturating_mul(self.step() as usize);
        let most = organizations.max(records).max(len(&self.bulk)).max(1);
        u32::try_from(most).unwrap_or(u32::MAX)
    }

    /// Positions of one row: an UPDATE may be a departure and an arrival.
    pub(crate) fn step(&self) -> u32 {
        match self.op {
            Operation::Update => 2,
            _ => 1,
        }
    }

    /// Organizations that have a row in a large statement, and what changed there.
    pub(crate) fn bulk(&self) -> impl Iterator<Item = (&str, Option<&str>)> {
        let orgs = self.bulk.iter().flatten().enumerate();
        orgs.filter_map(|(at, org)| Some((&*org.as_ref()?.0, self.changed(at))))
    }

    /// Which columns changed in a row, where not all may know of it.
    pub(crate) fn changed(&self, row: usize) -> Option<&str> {
        at(&self.changed, row)
    }

    pub(crate) fn id(&self, row: usize) -> Option<&str> {
        at(&self.ids, row)
    }

    /// The record id before an UPDATE.
    pub(crate) fn old_id(&self, row: usize) -> Option<&str> {
        match self.old_ids {
            Some(_) => at(&self.old_ids, row),
            None => self.id(row),
        }
    }

    /// Where row number `row` belongs after the change (for a DELETE: where it was).
    pub(crate) fn now(&self, row: usize) -> Place<'_> {
        Place {
            org: match &self.org {
                Some(org) => Some(&org.0),
                None => at(&self.orgs, row),
            },
            user: at(&self.users, row),
        }
    }

    /// Where row number `row` belonged before an UPDATE.
    pub(crate) fn before(&self, row: usize) -> Place<'_> {
        let now = self.now(row);
        Place {
            org: match self.old {
                Some(_) => at(&self.old, row),
                None => now.org,
            },
            user: match self.old_users {
                Some(_) => at(&self.old_users, row),
                None => now.user,
            },
        }
    }

    /// All organizations that have a row in it, after or before, with the number of that row; with repeats.
    pub(crate) fn organizations(&self) -> impl Iterator<Item = (&str, usize)> {
        // Of one organization, only those rows are many of which something is said.
        let rows = self.changed.as_ref().map_or(1, |list| list.len().max(1));
        let one = self.org.iter();
        let one = one.flat_map(move |org| (0..rows).map(move |row| (&*org.0, row)));
        let listed = [&self.orgs, &self.old].into_iter().flatten();
        let listed = listed.flat_map(|list| list.iter().enumerate());
        one.chain(listed.filter_map(|(row, org)| Some((&*org.as_ref()?.0, row))))
    }
}

fn at<'t>(list: &'t Texts<'_>, row: usize) -> Option<&'t str> {
    list.as_ref()?.get(row)?.as_ref().map(|text| &*text.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_every_form() {
        let read = |text: &'static str| LogMessage::parse(text.as_bytes());
        let one = read(r#"{"v":1,"t":5,"op":"INSERT","n":3,"org":"x"}"#).unwrap();
        assert_eq!(
            (one.says(), one.positions(), one.now(2).org),
            (Says::Rows, 1, Some("x"))
        );
        let moved = read(
            r#"{"v":1,"t":5,"op":"UPDATE","n":2,"orgs":["a",null],"old":["b","b"],"users":["u","v"]}"#,
        )
        .unwrap();
        assert_eq!(moved.positions(), 4);
        assert_eq!(
            moved.before(0),
            Place {
                org: Some("b"),
                user: Some("u")
            }
        );
        assert_eq!(moved.now(1).org, None);
        let bulk = read(r#"{"v":1,"t":5,"op":"DELETE","n":9,"bulk":["a","b\n"]}"#).unwrap();
        assert_eq!(
            bulk.bulk().collect::<Vec<_>>(),
            [("a", None), ("b\n", None)]
        );
        let bulk = read(
            r#"{"v":1,"t":5,"op":"UPDATE","n":9,"bulk":["a","b"],"changed":["{email}",null]}"#,
        )
        .unwrap();
        assert_eq!(
            bulk.bulk().collect::<Vec<_>>(),
            [("a", Some("{email}")), ("b", None)]
        );
        let hidden =
            read(r#"{"v":1,"t":5,"op":"UPDATE","n":2,"org":"a","changed":["{}",null]}"#).unwrap();
        assert_eq!((hidden.changed(0), hidden.changed(1)), (Some("{}"), None));
        let ids = read(r#"{"v":1,"t":5,"op":"DELETE","n":1,"orgs":["a"],"ids":["7"]}"#).unwrap();
        assert_eq!((ids.says(), ids.id(0)), (Says::Ids, Some("7")));
        let truncate = read(r#"{"v":1,"t":5,"op":"TRUNCATE","n":0}"#).unwrap();
        assert_eq!((truncate.says(), truncate.positions()), (Says::Truncate, 1));
    }

    #[test]
    fn refuses_what_does_not_fit() {
        for bad in [
            "",
            "{}",
            r#"{"v":2,"t":5,"op":"INSERT","n":1,"org":"x"}"#,
            r#"{"v":1,"t":5,"op":"INSERT","n":1}"#,
            r#"{"v":1,"t":5,"op":"INSERT","n":2,"orgs":["x"]}"#,
            r#"{"v":1,"t":5,"op":"UPDATE","n":2,"org":"x","changed":["{}"]}"#,
            r#"{"v":1,"t":5,"op":"UPDATE","n":2,"bulk":["x"],"changed":["{}","{}"]}"#,
            r#"{"v":1,"t":5,"op":"INSERT","n":-1,"org":"x"}"#,
            r#"{"v":1,"t":5,"op":"EXPLODE","n":1,"org":"x"}"#,
        ] {
            assert!(LogMessage::parse(bad.as_bytes()).is_none(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(content in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = LogMessage::parse(&content);
        }
    }
}
