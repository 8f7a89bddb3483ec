//! What a client keeps of who is on a channel: it takes the list it is given and every difference since, and
//! minds that no number is missing.

use serde_json::{Map, Value};

use super::client::{Client, Frame, PATIENCE};

/// One user: its id, and the states of his connections.
#[derive(Clone, Debug, PartialEq)]
pub struct User {
    pub id: String,
    pub states: Map<String, Value>,
}

/// Who is there, as far as a follower was told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct List {
    pub users: Vec<User>,
    /// Users and connections in all.
    pub counts: (u64, u64),
    seq: Option<u64>,
    /// The list has not come to its end.
    more: bool,
}

impl List {
    /// Ids, in the order of their coming.
    pub fn ids(&self) -> Vec<&str> {
        self.users.iter().map(|user| user.id.as_str()).collect()
    }

    /// The only state of a user.
    pub fn state(&self, id: &str) -> Option<&Value> {
        let user = self.users.iter().find(|user| user.id == id)?;
        assert_eq!(user.states.len(), 1, "{user:?}");
        user.states.values().next()
    }

    /// Takes a frame, if it is one of presence.
    pub fn apply(&mut self, frame: &Frame) {
        let json = &frame.json;
        match frame.text_of("type") {
            "presence_state" => {
                if !std::mem::replace(&mut self.more, json["more"] == true) {
                    self.users.clear();
                }
                self.seq = json["seq"].as_u64();
                self.add(&json["members"]);
            }
            "presence_diff" => {
                let expected = self.seq.map(|seq| seq + 1);
                assert_eq!(json["seq"].as_u64(), expected, "a gap: {}", frame.text);
                self.seq = expected;
                for gone in json["leaves"].as_array().unwrap() {
                    let at = self.users.iter().position(|user| user.id == id(gone));
                    self.users.remove(at.expect("only who is there leaves"));
                }
                for update in json["updates"].as_array().unwrap() {
                    let mut users = self.users.iter_mut();
                    let user = users.find(|user| user.id == id(update));
                    let user = user.expect("only who is there changes");
                    for (connection, state) in update["connections"].as_object().unwrap() {
                        match state {
                            Value::Null => drop(user.states.remove(connection)),
                            state => drop(user.states.insert(connection.clone(), state.clone())),
                        }
                    }
                    assert!(!user.states.is_empty(), "an update is no leave");
                }
                self.add(&json["shown"]);
                self.add(&json["joins"]);
            }
            "presence_count" => {}
            _ => return,
        }
        let count = |name: &str| json[name].as_u64().unwrap();
        self.counts = (count("users"), count("connections"));
    }

    fn add(&mut self, users: &Value) {
        for user in users.as_array().into_iter().flatten() {
            assert!(!self.ids().contains(&id(user)), "{user} comes twice");
            assert!(user["joinedAt"].as_str().unwrap().ends_with('Z'));
            self.users.push(User {
                id: id(user).to_owned(),
                states: user["connections"].as_object().unwrap().clone(),
            });
        }
    }
}

fn id(user: &Value) -> &str {
    let id = user["userId"].as_str().or(user["apiKeyId"].as_str());
    id.expect("every user has an id")
}

/// A client and what it knows of one channel.
pub struct Watcher {
    pub client: Client,
    pub list: List,
    read: usize,
}

impl Watcher {
    /// Takes a client that follows one channel.
    pub fn new(client: Client) -> Watcher {
        Watcher {
            client,
            list: List::default(),
            read: 0,
        }
    }

    /// Frames about presence that came since the last call, applied.
    pub fn catch_up(&mut self) -> Vec<Frame> {
        let fresh = self.client.seen.iter().skip(self.read);
        let fresh: Vec<Frame> = fresh
            .filter(|frame| frame.text_of("type").starts_with("presence_"))
            .cloned()
            .collect();
        self.read = self.client.seen.len();
        fresh.iter().for_each(|frame| self.list.apply(frame));
        fresh
    }

    /// Reads until the list is as wanted; the frames on the way.
    pub async fn until(&mut self, what: &str, wanted: impl Fn(&List) -> bool) -> Vec<Frame> {
        let mut all = self.catch_up();
        while !wanted(&self.list) {
            let next = self.client.next(PATIENCE).await;
            next.unwrap_or_else(|end| panic!("{what}: {end:?}; the list is {:#?}", self.list));
            all.extend(self.catch_up());
        }
        all
    }

    /// Reads until these users are there, in this order.
    pub async fn until_there(&mut self, ids: &[&str]) -> Vec<Frame> {
        self.until(&format!("{ids:?} are there"), |list| list.ids() == ids)
            .await
    }
}
