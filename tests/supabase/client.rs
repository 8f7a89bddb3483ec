//! An unmodified Supabase client, in a Node of its own: commands go to the driver, and what happens comes back.

use std::{
    collections::VecDeque,
    path::Path,
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
    time::Instant,
};

use crate::harness::{client::PATIENCE, token, world::World};

/// Lines of the client's own log that a failure shows.
const LOG: usize = 60;

/// A version of the library, and the protocol that it is told to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Library {
    pub version: &'static str,
    /// What it speaks by itself, when it is told nothing.
    vsn: Option<&'static str>,
}

/// The newest: protocol 2.0.0.
pub const NEW: Library = Library {
    version: "2.119.0",
    vsn: None,
};
/// The newest, told to speak protocol 1.0.0.
pub const NEW_IN_1: Library = Library {
    version: "2.119.0",
    vsn: Some("1.0.0"),
};
/// One of those with an implementation of their own: protocol 1.0.0.
pub const OLD: Library = Library {
    version: "2.10.7",
    vsn: None,
};
pub const EACH: [Library; 2] = [NEW, OLD];

/// A key of the kind that a Supabase project has now; it is nobody's identity.
pub const PUBLISHABLE: &str = "sb_publishable_for_the_tests";

/// A running client.
pub struct Js {
    pub library: Library,
    _child: Child,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    log: Arc<Mutex<VecDeque<String>>>,
    /// What happened and was not asked for yet, in its order.
    unread: VecDeque<Value>,
    next_id: u64,
}

impl Js {
    /// A driver without a client.
    pub async fn start(library: Library) -> Js {
        let modules = modules(library.version).await;
        let driver = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/supabase/driver.mjs");
        let mut child = Command::new("node")
            .arg(driver)
            .arg(modules)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("Node is needed");
        let log = Arc::new(Mutex::new(VecDeque::new()));
        let mut said = BufReader::new(child.stderr.take().unwrap()).lines();
        let kept = log.clone();
        tokio::spawn(async move {
            while let Ok(Some(line)) = said.next_line().await {
                let mut kept = kept.lock().unwrap();
                kept.push_back(line);
                if kept.len() > LOG {
                    kept.pop_front();
                }
            }
        });
        Js {
            library,
            stdin: child.stdin.take().unwrap(),
            lines: BufReader::new(child.stdout.take().unwrap()).lines(),
            _child: child,
            log,
            unread: VecDeque::new(),
            next_id: 0,
        }
    }

    /// A client of a service; `key` is in the URL, `more` are further options of the library.
    pub async fn connect(world: &World, library: Library, key: &str, more: Value) -> Js {
        let mut js = Js::start(library).await;
        let url = format!("ws://{}/realtime/v1", world.server.public);
        let options = js.options(key, more);
        js.call(json!({"do": "connect", "url": url, "options": options}))
            .await;
        js
    }

    /// The options of the library; reconnects do not take the seconds that they do by default.
    pub fn options(&self, key: &str, more: Value) -> Value {
        let mut options = json!({"params": {"apikey": key}, "reconnectAfterMs": 200});
        if let Some(vsn) = self.library.vsn {
            options["vsn"] = json!(vsn);
        }
        if self.library == OLD {
            // Given one, it does not connect.
            options["transport"] = json!(false);
        }
        for (name, value) in more.as_object().into_iter().flatten() {
            options[name] = value.clone();
        }
        options
    }

    /// The client of somebody with his token, not connected yet.
    pub async fn of(world: &World, library: Library, user: &str) -> Js {
        let mut js = Js::connect(world, library, PUBLISHABLE, json!({})).await;
        js.set_auth(&token::session(user)).await;
        js
    }

    /// The client of a member, who is known to the service.
    pub async fn member(world: &World, library: Library, user: &str, organization: &str) -> Js {
        Js::member_as(world, library, user, organization, "member").await
    }

    pub async fn member_as(
        world: &World,
        library: Library,
        user: &str,
        organization: &str,
        role: &str,
    ) -> Js {
        drop(world.member_with_role(user, organization, role).await);
        Js::of(world, library, user).await
    }

    /// Sends a command without waiting for its result; its number.
    pub async fn begin(&mut self, mut command: Value) -> u64 {
        self.next_id += 1;
        command["id"] = json!(self.next_id);
        let line = format!("{command}\n");
        self.stdin.write_all(line.as_bytes()).await.unwrap();
        self.next_id
    }

    /// What became of a command.
    pub async fn result(&mut self, id: u64) -> Result<Value, String> {
        let mine = move |event: &Value| event["event"] == "result" && event["id"] == json!(id);
        let result = self
            .take(&format!("the result of command {id}"), mine)
            .await;
        match result["error"].as_str() {
            Some(error) => Err(error.to_owned()),
            None => Ok(result["value"].clone()),
        }
    }

    /// Runs a command to its end; the value that the library gave.
    pub async fn call(&mut self, command: Value) -> Value {
        let id = self.begin(command.clone()).await;
        let result = self.result(id).await;
        result.unwrap_or_else(|error| panic!("{command}: {error}"))
    }

    pub async fn set_auth(&mut self, token: &str) {
        self.call(json!({"do": "setAuth", "token": token})).await;
    }

    /// Makes a channel with bindings to rows, each with a name for what comes of it; `fence` is one more, and
    /// `system` what the service says about the channel. It is named as its topic and not subscribed yet.
    pub async fn channel(&mut self, topic: &str, config: Value, rows: &[(&str, Value)]) {
        let channel = json!({"do": "channel", "channel": topic, "topic": topic, "config": config});
        self.call(channel).await;
        self.on(topic, "system", "system", json!({})).await;
        let fence = json!({"event": "*", "schema": "public", "table": "fences"});
        for (name, filter) in rows.iter().chain([&("fence", fence)]) {
            self.on(topic, name, "postgres_changes", filter.clone())
                .await;
        }
    }

    pub async fn on(&mut self, channel: &str, name: &str, kind: &str, filter: Value) {
        let on =
            json!({"do": "on", "channel": channel, "name": name, "type": kind, "filter": filter});
        self.call(on).await;
    }

    pub async fn begin_subscribe(&mut self, channel: &str) {
        self.call(json!({"do": "subscribe", "channel": channel}))
            .await;
    }

    /// Subscribes a channel, which succeeds.
    pub async fn subscribe(&mut self, channel: &str) {
        self.begin_subscribe(channel).await;
        self.until_status(channel, "SUBSCRIBED").await;
    }

    /// A channel with these bindings, subscribed.
    pub async fn listen(&mut self, topic: &str, rows: &[(&str, Value)]) {
        self.channel(topic, json!({}), rows).await;
        self.subscribe(topic).await;
    }

    /// Comes in again with what has changed, after a join that was refused: the newer libraries try again by
    /// themselves, the older do not.
    pub async fn retry(&mut self, topic: &str, rows: &[(&str, Value)]) {
        if self.library == OLD {
            self.call(json!({"do": "unsubscribe", "channel": topic}))
                .await;
            self.until_some_day(topic, "CLOSED").await;
            self.channel(topic, json!({}), rows).await;
            self.begin_subscribe(topic).await;
        }
        self.until_some_day(topic, "SUBSCRIBED").await;
    }

    /// The next status of a channel, and the error that came with it.
    pub async fn status(&mut self, channel: &str) -> (String, String) {
        let mine = |event: &Value| event["event"] == "status" && event["channel"] == channel;
        let event = self.take(&format!("a status of {channel}"), mine).await;
        let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
        (text("status"), text("error"))
    }

    /// The next status of a channel, which has to be this one.
    pub async fn until_status(&mut self, channel: &str, status: &str) {
        let (found, error) = self.status(channel).await;
        assert_eq!(found, status, "{channel}: {error}\n{}", self.log());
    }

    /// Passes over other statuses of a channel, such as those of a broken connection.
    pub async fn until_some_day(&mut self, channel: &str, status: &str) {
        while self.status(channel).await.0 != status {}
    }

    /// Forgets what channels have said of their status so far.
    pub fn forget_statuses(&mut self) {
        self.unread.retain(|event| event["event"] != "status");
    }

    /// The payload of the next callback of this name.
    pub async fn callback(&mut self, name: &str) -> Value {
        let mine = |event: &Value| event["event"] == "callback" && event["name"] == name;
        let event = self.take(&format!("a callback of {name}"), mine).await;
        event["payload"].clone()
    }

    /// The next thing the service says of a channel by `system`: its status and message.
    pub async fn system(&mut self) -> (String, String) {
        let said = self.callback("system").await;
        let text = |name: &str| said[name].as_str().unwrap_or_default().to_owned();
        (text("status"), text("message"))
    }

    /// What came of the rows before the fence, in order: the names of the bindings, and what they got.
    pub async fn until_fence(&mut self, id: i64) -> Vec<(String, Value)> {
        let mut found = Vec::new();
        loop {
            let event = self
                .take(&format!("fence {id}"), |event| {
                    event["event"] == "callback" && event["name"] != "system"
                })
                .await;
            match event["name"].as_str().unwrap() {
                "fence" if event["payload"]["new"]["id"] == json!(id) => return found,
                "fence" => {}
                // Of a binding to every table.
                _ if event["payload"]["table"] == "fences" => {}
                name => found.push((name.to_owned(), event["payload"].clone())),
            }
        }
    }

    /// Writes a fence of an organization and reads up to it.
    pub async fn so_far(&mut self, world: &World, organization: &str) -> Vec<(String, Value)> {
        let id = world.fence(organization).await;
        self.until_fence(id).await
    }

    /// The first event that is as wanted, of those that were not taken yet; the others stay.
    pub async fn take(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        let mut from = 0;
        loop {
            if let Some(at) = self.unread.iter().skip(from).position(&wanted) {
                return self.unread.remove(from + at).unwrap();
            }
            from = self.unread.len();
            match tokio::time::timeout_at(deadline, self.lines.next_line()).await {
                Ok(Ok(Some(line))) => {
                    let event: Value = serde_json::from_str(&line)
                        .unwrap_or_else(|error| panic!("{error}: {line}\n{}", self.log()));
                    let broken = event["event"] == "unhandled";
                    assert!(!broken, "the client failed: {event}\n{}", self.log());
                    self.unread.push_back(event);
                }
                end => panic!(
                    "waiting for {what}: {}; unread: {:#?}\n{}",
                    if end.is_err() { "silence" } else { "it ended" },
                    self.unread,
                    self.log()
                ),
            }
        }
    }

    /// Whether something of this kind is there already; only after what comes behind it was read.
    pub fn has(&self, wanted: impl Fn(&Value) -> bool) -> bool {
        self.unread.iter().any(wanted)
    }

    /// The last lines of the client's own log.
    pub fn log(&self) -> String {
        let lines: Vec<String> = self.log.lock().unwrap().iter().cloned().collect();
        format!("--- the client's log ---\n{}", lines.join("\n"))
    }
}

/// Where the packages of a version are; fetched when they are not there yet.
async fn modules(version: &str) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/realtime-js.sh");
    let mut command = Command::new(script);
    command.arg(version).stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(Duration::from_secs(120), command.output());
    let output = output.await.expect("the packages do not come").unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// What came, as `name TYPE id`.
pub fn told(events: &[(String, Value)]) -> Vec<String> {
    let tell = |(name, payload): &(String, Value)| {
        let id = ["new", "old"].map(|image| payload[image]["id"].clone());
        let id = if id[0].is_null() { &id[1] } else { &id[0] };
        let id = id.as_str().map_or_else(|| id.to_string(), str::to_owned);
        format!("{name} {} {id}", payload["eventType"].as_str().unwrap())
    };
    events.iter().map(tell).collect()
}

/// A binding to a table of the schema `public`.
pub fn table(name: &str) -> Value {
    json!({"event": "*", "schema": "public", "table": name})
}

/// The same with a filter.
pub fn filtered(name: &str, filter: &str) -> Value {
    json!({"event": "*", "schema": "public", "table": name, "filter": filter})
}
