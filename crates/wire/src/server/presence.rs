//! Frames that say who is there: the list when somebody begins to follow a channel, what changed since, how many
//! there are. Owns their size: what is longer than a piece is told in several frames.

use rowcast_model::{OrgId, PresenceCounts, PresenceDiff, PresentUser, Sender};
use std::{io::Write, sync::Arc};

use crate::{Frame, Ref, event::string, text_frame, write_iso_millis};

/// A frame that has grown to this is sent, and the rest in another one.
const PIECE_BYTES: usize = 32 * 1024;

/// Which channel it is about, and how many are there.
#[derive(Clone, Copy, Debug)]
pub struct PresencePlace<'a> {
    /// The name of the channel.
    pub channel: &'a str,
    /// Its organization; `None` for one that has none.
    pub organization: Option<&'a OrgId>,
    /// How many are there.
    pub counts: PresenceCounts,
}

impl PresencePlace<'_> {
    /// Begins a frame with what all of them have.
    fn begin(&self, kind: &str, reference: Option<&Ref>) -> Vec<u8> {
        let mut json = Vec::with_capacity(256);
        json.extend_from_slice(br#"{"type":""#);
        json.extend_from_slice(kind.as_bytes());
        json.push(b'"');
        if let Some(reference) = reference {
            json.extend_from_slice(br#","ref":"#);
            let _ = serde_json::to_writer(&mut json, reference);
        }
        json.extend_from_slice(br#","channel":"#);
        string(&mut json, self.channel);
        if let Some(organization) = self.organization {
            json.extend_from_slice(br#","organizationId":"#);
            string(&mut json, organization.as_str());
        }
        json
    }

    fn counts(&self, json: &mut Vec<u8>) {
        let PresenceCounts { users, connections } = self.counts;
        let _ = write!(json, r#","users":{users},"connections":{connections}"#);
    }
}

fn finish(mut json: Vec<u8>) -> Frame {
    json.push(b'}');
    text_frame(&json)
}

/// `"name":[…]` of entries that were written behind each other, each with a comma behind it.
fn list(json: &mut Vec<u8>, name: &str, entries: &[u8]) {
    json.extend_from_slice(b",\"");
    json.extend_from_slice(name.as_bytes());
    json.extend_from_slice(b"\":[");
    json.extend_from_slice(entries.strip_suffix(b",").unwrap_or(entries));
    json.push(b']');
}

fn who(json: &mut Vec<u8>, who: &Sender) {
    json.extend_from_slice(match who {
        Sender::User(_) => br#"{"userId":"#,
        Sender::ApiKey(_) => br#"{"apiKeyId":"#,
    });
    string(json, who.id());
}

fn connections<'a>(json: &mut Vec<u8>, states: impl Iterator<Item = (u64, Option<&'a [u8]>)>) {
    json.extend_from_slice(br#","connections":{"#);
    for (at, (connection, state)) in states.enumerate() {
        let comma = if at == 0 { "" } else { "," };
        let _ = write!(json, r#"{comma}"{connection}":"#);
        json.extend_from_slice(state.unwrap_or(b"null"));
    }
    json.extend_from_slice(b"}},");
}

fn user(json: &mut Vec<u8>, user: &PresentUser) {
    who(json, &user.who);
    json.extend_from_slice(br#","joinedAt":""#);
    write_iso_millis(user.since, json);
    json.push(b'"');
    let seats = user.connections.iter();
    connections(
        json,
        seats.map(|seat| (seat.connection, Some(&*seat.state))),
    );
}

/// Who is there, for somebody who begins to follow: users in the order of their coming, in one frame or several.
/// The next difference has the number behind `seq`.
pub fn presence_state(
    place: &PresencePlace<'_>,
    seq: u64,
    users: &[Arc<PresentUser>],
) -> Vec<Frame> {
    let mut frames = Vec::new();
    let mut entries = Vec::new();
    let frame = |entries: &[u8], more: bool| {
        let mut json = place.begin("presence_state", None);
        let _ = write!(json, r#","seq":{seq}"#);
        place.counts(&mut json);
        list(&mut json, "members", entries);
        if more {
            json.extend_from_slice(br#","more":true"#);
        }
        finish(json)
    };
    for (at, one) in users.iter().enumerate() {
        user(&mut entries, one);
        if entries.len() >= PIECE_BYTES && at + 1 < users.len() {
            frames.push(frame(&entries, true));
            entries.clear();
        }
    }
    frames.push(frame(&entries, false));
    frames
}

/// What changed, in one frame or several: they have the numbers from `seq` on.
pub fn presence_diff(place: &PresencePlace<'_>, seq: u64, diff: &PresenceDiff) -> Vec<Frame> {
    #[derive(Default)]
    struct Entries {
        joins: Vec<u8>,
        shown: Vec<u8>,
        updates: Vec<u8>,
        leaves: Vec<u8>,
    }
    enum Entry<'a> {
        Left(&'a Sender),
        Came(&'a PresentUser),
        Shown(&'a PresentUser),
        Update(&'a rowcast_model::PresenceUpdate),
    }
    // Whoever left is told first, so that no list grows longer than it may be.
    let all = (diff.leaves.iter().map(Entry::Left))
        .chain(diff.updates.iter().map(Entry::Update))
        .chain(diff.shown.iter().map(|user| Entry::Shown(user)))
        .chain(diff.joins.iter().map(|user| Entry::Came(user)));
    let mut frames: Vec<Frame> = Vec::new();
    let frame = |number: usize, entries: &Entries, more: bool| {
        let mut json = place.begin("presence_diff", None);
        let seq = seq.saturating_add(number as u64);
        let _ = write!(json, r#","seq":{seq}"#);
        place.counts(&mut json);
        list(&mut json, "joins", &entries.joins);
        list(&mut json, "updates", &entries.updates);
        list(&mut json, "leaves", &entries.leaves);
        if !entries.shown.is_empty() {
            list(&mut json, "shown", &entries.shown);
        }
        if more {
            json.extend_from_slice(br#","more":true"#);
        }
        finish(json)
    };
    let mut entries = Entries::default();
    let mut all = all.peekable();
    while let Some(entry) = all.next() {
        match entry {
            Entry::Left(sender) => {
                who(&mut entries.leaves, sender);
                entries.leaves.extend_from_slice(b"},");
            }
            Entry::Came(one) => user(&mut entries.joins, one),
            Entry::Shown(one) => user(&mut entries.shown, one),
            Entry::Update(update) => {
                who(&mut entries.updates, &update.who);
                let states = update.connections.iter();
                connections(
                    &mut entries.updates,
                    states.map(|(connection, state)| (*connection, state.as_deref())),
                );
            }
        }
        let bytes = entries.joins.len()
            + entries.shown.len()
            + entries.updates.len()
            + entries.leaves.len();
        if bytes >= PIECE_BYTES && all.peek().is_some() {
            frames.push(frame(frames.len(), &entries, true));
            entries = Entries::default();
        }
    }
    frames.push(frame(frames.len(), &entries, false));
    frames
}

/// How many are there.
pub fn presence_count(place: &PresencePlace<'_>) -> Frame {
    let mut json = place.begin("presence_count", None);
    place.counts(&mut json);
    finish(json)
}

/// Some of those who are there, for somebody who asked; `next` is what to ask for the following ones.
pub fn presence_list(
    reference: Option<&Ref>,
    place: &PresencePlace<'_>,
    users: &[Arc<PresentUser>],
    next: Option<u64>,
) -> Frame {
    let mut json = place.begin("presence_list", reference);
    place.counts(&mut json);
    let mut entries = Vec::new();
    for one in users {
        user(&mut entries, one);
    }
    list(&mut json, "members", &entries);
    if let Some(next) = next {
        let _ = write!(json, r#","next":{next}"#);
    }
    finish(json)
}

/// The answer to a `presence` frame, or (with a reason) what happened without being asked for: `leave`, this
/// connection is not there any more; `off`, the channel has no members any more.
pub fn presence_done(
    reference: Option<&Ref>,
    place: &PresencePlace<'_>,
    action: &str,
    reason: Option<&str>,
) -> Frame {
    let mut json = place.begin("presence", reference);
    json.extend_from_slice(br#","action":"#);
    string(&mut json, action);
    if let Some(reason) = reason {
        json.extend_from_slice(br#","reason":"#);
        string(&mut json, reason);
    }
    finish(json)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use rowcast_model::{PresenceUpdate, Present, Timestamp};
    use serde_json::Value;

    fn text(frame: &Frame) -> String {
        let (payload, rest) = crate::payload_of(frame).unwrap();
        assert!(rest.is_empty());
        String::from_utf8(payload.to_vec()).unwrap()
    }

    fn present(name: &str, order: u64, states: &[(u64, &str)]) -> Arc<PresentUser> {
        let seat = |(connection, state): &(u64, &str)| Present {
            connection: *connection,
            state: Bytes::copy_from_slice(state.as_bytes()),
            lost: false,
        };
        Arc::new(PresentUser {
            who: Sender::User(name.into()),
            order,
            since: Timestamp(0),
            connections: states.iter().map(seat).collect(),
        })
    }

    const COUNTS: PresenceCounts = PresenceCounts {
        users: 2,
        connections: 3,
    };

    /// MISSION C6: who, his name and his cursor.
    #[test]
    fn say_what_the_documents_say() {
        let organization = OrgId::from("acme");
        let place = PresencePlace {
            channel: "document:7",
            organization: Some(&organization),
            counts: COUNTS,
        };
        let ada = present(
            "ada",
            0,
            &[(4, r#"{"name":"Ada","cursor":{"x":1,"y":2}}"#), (9, "{}")],
        );
        let head = r#""channel":"document:7","organizationId":"acme""#;
        let ada_text = r#"{"userId":"ada","joinedAt":"1970-01-01T00:00:00.000Z","connections":{"4":{"name":"Ada","cursor":{"x":1,"y":2}},"9":{}}}"#;
        let [state] = &presence_state(&place, 3, std::slice::from_ref(&ada))[..] else {
            panic!("one frame");
        };
        assert_eq!(
            text(state),
            format!(
                r#"{{"type":"presence_state",{head},"seq":3,"users":2,"connections":3,"members":[{ada_text}]}}"#
            )
        );
        let diff = PresenceDiff {
            joins: vec![ada.clone()],
            shown: Vec::new(),
            updates: vec![PresenceUpdate {
                who: Sender::ApiKey("key".into()),
                connections: [(5, None), (6, Some(Bytes::from_static(b"{}")))]
                    .into_iter()
                    .collect(),
            }],
            leaves: vec![Sender::User("carl\"".into())],
        };
        let [diff] = &presence_diff(&place, 4, &diff)[..] else {
            panic!("one frame");
        };
        assert_eq!(
            text(diff),
            format!(
                r#"{{"type":"presence_diff",{head},"seq":4,"users":2,"connections":3,"joins":[{ada_text}],"updates":[{{"apiKeyId":"key","connections":{{"5":null,"6":{{}}}}}}],"leaves":[{{"userId":"carl\""}}]}}"#
            )
        );
        assert_eq!(
            text(&presence_count(&place)),
            format!(r#"{{"type":"presence_count",{head},"users":2,"connections":3}}"#)
        );
        let reference = Ref::from_json("7").unwrap();
        assert_eq!(
            text(&presence_list(Some(&reference), &place, &[ada], Some(1))),
            format!(
                r#"{{"type":"presence_list","ref":7,{head},"users":2,"connections":3,"members":[{ada_text}],"next":1}}"#
            )
        );
        let nowhere = PresencePlace {
            organization: None,
            ..place
        };
        assert_eq!(
            text(&presence_done(Some(&reference), &nowhere, "join", None)),
            r#"{"type":"presence","ref":7,"channel":"document:7","action":"join"}"#
        );
        assert_eq!(
            text(&presence_done(None, &place, "leave", Some("expired"))),
            format!(r#"{{"type":"presence",{head},"action":"leave","reason":"expired"}}"#)
        );
    }

    #[test]
    fn what_is_long_comes_in_pieces_with_nothing_left_out() {
        let place = PresencePlace {
            channel: "room",
            organization: None,
            counts: COUNTS,
        };
        let state = format!(r#"{{"text":"{}"}}"#, "x".repeat(1000));
        let users: Vec<_> = (0..200_u64)
            .map(|at| present(&format!("user {at}"), at, &[(at, &*state)]))
            .collect();
        let read = |frames: &[Frame], lists: &[&str]| {
            let mut names = Vec::new();
            for (at, frame) in frames.iter().enumerate() {
                assert!(frame.len() < PIECE_BYTES + 2000);
                let frame: Value = serde_json::from_str(&text(frame)).unwrap();
                let more = at + 1 < frames.len();
                assert_eq!(frame["more"], if more { true.into() } else { Value::Null });
                for list in lists {
                    let entries = frame[list].as_array().into_iter().flatten();
                    names.extend(entries.map(|entry| entry["userId"].as_str().unwrap().to_owned()));
                }
            }
            names
        };
        let state = presence_state(&place, 1, &users);
        assert!(state.len() > 5);
        let names: Vec<String> = (0..200).map(|at| format!("user {at}")).collect();
        assert_eq!(read(&state, &["members"]), names);
        let diff = PresenceDiff {
            joins: users.iter().skip(100).cloned().collect(),
            shown: users.iter().take(100).cloned().collect(),
            ..PresenceDiff::default()
        };
        let diff = presence_diff(&place, 8, &diff);
        assert_eq!(read(&diff, &["shown", "joins"]), names);
        for (at, frame) in diff.iter().enumerate() {
            let frame: Value = serde_json::from_str(&text(frame)).unwrap();
            assert_eq!(frame["seq"], 8 + at);
        }
    }
}
