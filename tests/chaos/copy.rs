//! One subscriber's copy, by key: what events do to it, and what they say that must not be. Pure.

use std::cmp::Ordering::Less;

use rowcast_model::Cursor;

use super::app::{Rows, TABLES, Table, View, Who, known, plain};
use crate::harness::{client::Frame, json::member_row};

/// What an application has to read to go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Need {
    Nothing,
    /// One record, or the whole table.
    Read(usize, Option<String>),
}

/// What is wrong with an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// At or before the position behind which events were promised.
    Duplicate(String),
    /// Somebody else's.
    Foreign(String),
    /// Not what the protocol says.
    Odd(String),
}

/// The rows of a subscriber, and how far they go.
#[derive(Clone, Debug)]
pub struct Copy {
    who: Who,
    channel: String,
    pub rows: Vec<Rows>,
    /// Where to go on after a reconnect.
    pub cursor: Option<Cursor>,
    /// Nothing at or before it may come (again).
    after: Option<Cursor>,
}

impl Copy {
    pub fn new(who: Who) -> Copy {
        Copy {
            who,
            channel: who.channel(),
            rows: vec![Rows::new(); TABLES.len()],
            cursor: None,
            after: None,
        }
    }

    /// From here on events behind `cursor` are due.
    pub fn begin(&mut self, cursor: Cursor) {
        self.cursor = Some(cursor);
        self.after = Some(cursor);
    }

    /// The service says that everything up to `cursor` is here.
    pub fn reached(&mut self, cursor: Cursor) -> Result<(), Wrong> {
        let Some(known) = self.cursor else {
            return Ok(());
        };
        match cursor.compare(&known) {
            None => Err(Wrong::Odd(format!("position {cursor} after {known}"))),
            Some(Less) => Ok(()),
            Some(_) => {
                self.cursor = Some(cursor);
                Ok(())
            }
        }
    }

    /// Whether the subscriber may see an event at all.
    pub fn look(&self, frame: &Frame) -> Result<(), Wrong> {
        match frame.text_of("channel") == self.channel {
            true => self.check_owner(frame),
            false => self.of_another_channel(frame),
        }
    }

    pub fn apply(&mut self, frame: &Frame) -> Result<Need, Wrong> {
        self.look(frame)?;
        if frame.text_of("channel") != self.channel {
            return Ok(Need::Nothing);
        }
        let cursor: Cursor = frame
            .text_of("cursor")
            .parse()
            .map_err(|_| Wrong::Odd(format!("no cursor: {}", frame.text)))?;
        // What changed before the past that is known stands at the cursor that was come back with.
        let farther_back = frame.is("invalidate") && self.after == Some(cursor);
        if let Some(after) = self.after.filter(|_| !farther_back) {
            if cursor.compare(&after) != Some(std::cmp::Ordering::Greater) {
                return Err(Wrong::Duplicate(format!(
                    "{after} was there: {}",
                    short(frame)
                )));
            }
            self.after = Some(cursor);
        }
        self.cursor = Some(cursor);
        let Some(at) = TABLES.iter().position(|t| t.name == frame.table()) else {
            return Err(Wrong::Odd(format!("of no table: {}", short(frame))));
        };
        if frame.is("invalidate") {
            let record = frame.json["recordId"].as_str().map(str::to_owned);
            return Ok(Need::Read(at, record));
        }
        self.change(frame, at, &TABLES[at])
    }

    fn change(&mut self, frame: &Frame, at: usize, table: &Table) -> Result<Need, Wrong> {
        let member = |name| member_row(&frame.text, name);
        let id = |name| member(name).and_then(|row| plain(&row, "id"));
        let odd = || Wrong::Odd(short(frame));
        let rows = &mut self.rows[at];
        if frame.event_type() == "DELETE" {
            rows.remove(&id("old").ok_or_else(odd)?);
            return Ok(Need::Nothing);
        }
        let key = id("new").ok_or_else(odd)?;
        let before = id("old").unwrap_or_else(|| key.clone());
        let new = member("new").ok_or_else(odd)?;
        // An INSERT is the row as a whole; an UPDATE leaves out what is large and did not change.
        let mut row = match rows.remove(&before) {
            Some(row) if frame.event_type() == "UPDATE" => row,
            _ => crate::harness::json::Row::new(),
        };
        row.extend(
            new.into_iter()
                .filter(|(name, _)| table.columns.contains(&name.as_str())),
        );
        if !self.who.shows(table.name, &row) {
            return Ok(Need::Nothing);
        }
        let whole = table.columns.iter().all(|name| row.contains_key(*name));
        rows.insert(key.clone(), row);
        Ok(match whole {
            true => Need::Nothing,
            false => Need::Read(at, Some(key)),
        })
    }

    /// What was read takes the place of what was there.
    pub fn put(&mut self, at: usize, record: Option<&str>, found: Rows) {
        match record {
            None => self.rows[at] = found,
            Some(record) => {
                self.rows[at].remove(record);
                self.rows[at].extend(found);
            }
        }
    }

    /// The largest mark that arrived.
    pub fn mark(&self) -> i64 {
        let (at, id) = match self.who.view {
            View::Personal => (2, "mark"),
            _ => (4, self.who.organization),
        };
        self.rows[at]
            .get(id)
            .and_then(|row| row.get("n")?.parse().ok())
            .unwrap_or(-1)
    }

    /// Events for the user come on his own channel too, which nobody subscribed here.
    fn of_another_channel(&self, frame: &Frame) -> Result<(), Wrong> {
        let personal = frame.text_of("channel") == format!("user:{}", self.who.user);
        let mine = |name: &str| {
            member_row(&frame.text, name)
                .and_then(|row| plain(&row, "user_id"))
                .is_none_or(|user| user == self.who.user)
        };
        match personal && mine("new") && mine("old") {
            true => Ok(()),
            false => Err(Wrong::Foreign(short(frame))),
        }
    }

    fn check_owner(&self, frame: &Frame) -> Result<(), Wrong> {
        let personal = self.who.view == View::Personal;
        let foreign = || Wrong::Foreign(short(frame));
        if !personal
            && frame.is("invalidate")
            && frame.json["organizationId"] != self.who.organization
            && frame.json["organizationId"] != "*"
            && !frame.json["organizationId"].is_null()
        {
            return Err(foreign());
        }
        for row in ["new", "old"]
            .iter()
            .filter_map(|name| member_row(&frame.text, name))
        {
            let other_organization = plain(&row, "organization_id")
                .is_some_and(|of| !personal && of != self.who.organization);
            let other_user = plain(&row, "user_id").is_some_and(|user| user != self.who.user);
            // The writers put the owner into the title, too.
            let other_title = frame.table() == "items"
                && plain(&row, "title").is_some_and(|title| !title.contains(self.who.organization));
            if other_organization || other_user || other_title {
                return Err(foreign());
            }
        }
        Ok(())
    }

    /// Where it differs from what Postgres says, for people.
    pub fn differences(&self, truth: &[Rows]) -> Vec<(String, String)> {
        let mut found = Vec::new();
        for (at, table) in TABLES.iter().enumerate() {
            let (mine, theirs) = (&self.rows[at], &truth[at]);
            for (id, row) in theirs {
                match mine.get(id) {
                    None => found.push((
                        id.clone(),
                        format!("{} {id} is missing; {}", table.name, show(row)),
                    )),
                    Some(got) if got != row => found.push((
                        id.clone(),
                        format!(
                            "{} {id} is {}; Postgres has {}",
                            table.name,
                            show(got),
                            show(row)
                        ),
                    )),
                    Some(_) => {}
                }
            }
            for (id, row) in mine.iter().filter(|(id, _)| !theirs.contains_key(*id)) {
                found.push((
                    id.clone(),
                    format!("{} {id} is too much: {}", table.name, show(row)),
                ));
            }
        }
        found
    }
}

fn show(row: &crate::harness::json::Row) -> String {
    let parts: Vec<String> = row
        .iter()
        .map(|(name, value)| format!("{name}={value:.40}"))
        .collect();
    parts.join(" ")
}

/// The text of a frame, without large values.
pub fn short(frame: &Frame) -> String {
    let (mut head, text) = (250, &frame.text);
    if text.len() <= 700 {
        return text.clone();
    }
    let mut tail = text.len() - 250;
    while !text.is_char_boundary(head) {
        head -= 1;
    }
    while !text.is_char_boundary(tail) {
        tail += 1;
    }
    format!("{} … {}", &text[..head], &text[tail..])
}

#[cfg(test)]
mod tests {
    use known as row;

    use super::*;
    use crate::chaos::app::WHO;

    fn frame(text: &str) -> Frame {
        Frame {
            text: text.to_owned(),
            json: serde_json::from_str(text).unwrap(),
        }
    }

    fn change(cursor: u32, kind: &str, table: &str, new: &str, old: &str) -> Frame {
        frame(&format!(
            r#"{{"type":"postgres_changes","table":"{table}","eventType":"{kind}","new":{new},"old":{old},"channel":"org:org_a","cursor":"00000001-{cursor:x}-0"}}"#
        ))
    }

    fn copy() -> Copy {
        let mut copy = Copy::new(WHO[0]);
        copy.begin("00000001-10-z".parse().unwrap());
        copy
    }

    #[test]
    fn a_copy_follows_changes() {
        let mut copy = copy();
        let insert = change(
            0x20,
            "INSERT",
            "ledger",
            r#"{"id":"l1","organization_id":"org_a","pad":"x"}"#,
            "null",
        );
        assert_eq!(copy.apply(&insert), Ok(Need::Nothing));
        assert_eq!(
            copy.rows[3]["l1"],
            row(&TABLES[3], r#"{"id":"l1","organization_id":"org_a"}"#)
        );
        let part = change(
            0x21,
            "UPDATE",
            "items",
            r#"{"id":"i1","organization_id":"org_a","title":"[org_a]","status":"open","n":2}"#,
            r#"{"id":"i1"}"#,
        );
        assert_eq!(copy.apply(&part), Ok(Need::Read(0, Some("i1".into()))));
        let gone = change(0x22, "DELETE", "ledger", "null", r#"{"id":"l1"}"#);
        assert_eq!(copy.apply(&gone), Ok(Need::Nothing));
        assert!(copy.rows[3].is_empty());
    }

    #[test]
    fn what_comes_twice_is_noticed() {
        let mut copy = copy();
        let old = change(0x10, "DELETE", "ledger", "null", r#"{"id":"l1"}"#);
        assert!(matches!(copy.apply(&old), Err(Wrong::Duplicate(_))));
        let new = change(0x11, "DELETE", "ledger", "null", r#"{"id":"l1"}"#);
        assert!(copy.apply(&new).is_ok());
        assert!(matches!(copy.apply(&new), Err(Wrong::Duplicate(_))));
    }

    #[test]
    fn what_is_foreign_is_noticed() {
        for new in [
            r#"{"id":"i1","organization_id":"org_b","title":"[org_a]"}"#,
            r#"{"id":"i1","organization_id":"org_a","title":"[org_b]"}"#,
            r#"{"id":"i1","organization_id":"org_a","user_id":"u2"}"#,
        ] {
            let wrong = copy().apply(&change(0x20, "INSERT", "items", new, "null"));
            assert!(matches!(wrong, Err(Wrong::Foreign(_))), "{new}");
        }
        let mut other = change(0x20, "DELETE", "items", "null", r#"{"id":"i1"}"#);
        other.json["channel"] = "org:org_b".into();
        assert!(matches!(copy().apply(&other), Err(Wrong::Foreign(_))));
    }

    #[test]
    fn differences_are_named() {
        let mut copy = copy();
        let mut truth = vec![Rows::new(); TABLES.len()];
        assert!(copy.differences(&truth).is_empty());
        truth[3].insert("l1".into(), row(&TABLES[3], r#"{"id":"l1"}"#));
        copy.rows[4].insert("m".into(), row(&TABLES[4], r#"{"id":"m"}"#));
        assert_eq!(copy.differences(&truth).len(), 2);
    }
}
