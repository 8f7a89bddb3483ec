//! A client of the native protocol, as plain as possible: it sends JSON, and keeps every frame it got.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error, Message, protocol::WebSocketConfig},
};

use super::json::{Row, member_row};

/// How long a test waits for what must come; generous, since two cores run everything.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// One text frame, as it came and as it reads.
#[derive(Clone, Debug)]
pub struct Frame {
    pub text: String,
    pub json: Value,
}

impl Frame {
    pub fn is(&self, kind: &str) -> bool {
        self.json["type"] == kind
    }

    /// True for what tells of data: changes, invalidations, broadcasts.
    pub fn is_event(&self) -> bool {
        ["postgres_changes", "invalidate", "broadcast"]
            .iter()
            .any(|kind| self.is(kind))
    }

    pub fn text_of(&self, member: &str) -> &str {
        self.json[member].as_str().unwrap_or_default()
    }

    pub fn table(&self) -> &str {
        self.text_of("table")
    }

    pub fn event_type(&self) -> &str {
        self.text_of("eventType")
    }

    /// `new` with every value as canonical JSON text.
    pub fn new_row(&self) -> Option<Row> {
        member_row(&self.text, "new")
    }

    /// `old` with every value as canonical JSON text.
    pub fn old_row(&self) -> Option<Row> {
        member_row(&self.text, "old")
    }
}

/// Why no further frame came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The server closed, with its code and reason.
    Closed(u16, String),
    /// The connection broke without a close frame.
    Broken(String),
    /// Nothing came in time.
    Silent,
}

/// An open socket and all it received.
pub struct Client {
    socket: WebSocketStream<TcpStream>,
    pub seen: Vec<Frame>,
    /// How many of them the test has had; a reply that is waited for passes over nothing.
    told: usize,
    next_ref: u64,
}

impl Client {
    /// Opens the socket, without the auth frame.
    pub async fn open(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Client::over(stream, address).await
    }

    /// The same over a connection that the test has prepared.
    pub async fn over(stream: TcpStream, address: SocketAddr) -> Client {
        let url = format!("ws://{address}/realtime/v1/websocket");
        let config = WebSocketConfig::default()
            .max_message_size(None)
            .max_frame_size(None);
        let (socket, _) = tokio_tungstenite::client_async_with_config(url, stream, Some(config))
            .await
            .unwrap();
        Client {
            socket,
            seen: Vec::new(),
            told: 0,
            next_ref: 0,
        }
    }

    /// The same, if the other side takes it as a socket.
    pub async fn try_over(stream: TcpStream, address: SocketAddr) -> Option<Client> {
        let url = format!("ws://{address}/realtime/v1/websocket");
        let (socket, _) = client_async(url, stream).await.ok()?;
        Some(Client {
            socket,
            seen: Vec::new(),
            told: 0,
            next_ref: 0,
        })
    }

    /// The connection beneath; what was read ahead of it is lost.
    pub fn into_stream(self) -> TcpStream {
        self.socket.into_inner()
    }

    /// The HTTP status with which the upgrade is refused.
    pub async fn refused(address: SocketAddr, path: &str) -> u16 {
        let stream = TcpStream::connect(address).await.unwrap();
        match client_async(format!("ws://{address}{path}"), stream).await {
            Err(Error::Http(response)) => response.status().as_u16(),
            other => panic!("expected a refusal, got {:?}", other.map(|_| "a socket")),
        }
    }

    /// Opens the socket and authenticates; the frame `auth_success` is the first one seen.
    pub async fn login(address: SocketAddr, token: &str, organization: &str) -> Client {
        let mut client = Client::open(address).await;
        let reply = client.auth(token, organization).await;
        assert_eq!(
            reply.unwrap().json["type"],
            "auth_success",
            "login to {organization}"
        );
        client
    }

    /// Sends the auth frame and returns what is answered first.
    pub async fn auth(&mut self, token: &str, organization: &str) -> Result<Frame, End> {
        self.send(json!({ "type": "auth", "token": token, "organizationId": organization }))
            .await;
        self.next(PATIENCE).await
    }

    pub async fn send(&mut self, frame: Value) {
        self.send_text(&frame.to_string()).await;
    }

    /// Sends text as it is. A socket that is closed already is found out by the next read.
    pub async fn send_text(&mut self, text: &str) {
        let _ = self.socket.send(Message::text(text)).await;
    }

    pub async fn send_message(&mut self, message: Message) {
        let _ = self.socket.send(message).await;
    }

    /// The next text frame, or why there is none.
    pub async fn next(&mut self, patience: Duration) -> Result<Frame, End> {
        let deadline = tokio::time::Instant::now() + patience;
        loop {
            let message = match tokio::time::timeout_at(deadline, self.socket.next()).await {
                Err(_) => return Err(End::Silent),
                Ok(None) => return Err(End::Broken("end of stream".into())),
                Ok(Some(Err(error))) => return Err(End::Broken(error.to_string())),
                Ok(Some(Ok(message))) => message,
            };
            match message {
                Message::Text(text) => {
                    let text = text.to_string();
                    let json = serde_json::from_str(&text).expect("every frame is JSON");
                    let frame = Frame { text, json };
                    self.seen.push(frame.clone());
                    return Ok(frame);
                }
                Message::Close(Some(close)) => {
                    return Err(End::Closed(close.code.into(), close.reason.to_string()));
                }
                Message::Close(None) => return Err(End::Closed(1005, String::new())),
                _ => {}
            }
        }
    }

    /// Reads until a frame fulfils `wanted`; panics with what came instead.
    pub async fn until(&mut self, what: &str, wanted: impl Fn(&Frame) -> bool) -> Frame {
        let frame = self.until_reply(what, wanted).await;
        self.told = self.seen.len();
        frame
    }

    async fn until_reply(&mut self, what: &str, wanted: impl Fn(&Frame) -> bool) -> Frame {
        let start = self.seen.len();
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.next(left).await {
                Ok(frame) if wanted(&frame) => return frame,
                Ok(_) => {}
                Err(end) => {
                    let seen: Vec<&str> = self.seen[start..]
                        .iter()
                        .rev()
                        .take(20)
                        .map(|frame| frame.text.as_str())
                        .collect();
                    panic!("waiting for {what}: {end:?}; last frames, latest first: {seen:#?}");
                }
            }
        }
    }

    /// The next event of a table.
    pub async fn event(&mut self, table: &str) -> Frame {
        let what = format!("an event of {table}");
        self.until(&what, |frame| frame.is_event() && frame.table() == table)
            .await
    }

    /// Reads until the event of the fence row `id`; whatever was committed before it came before it.
    /// Returns the events (of other tables) that came since the last call of `until_fence` and the like, also
    /// those that came before a reply.
    pub async fn until_fence(&mut self, id: i64) -> Vec<Frame> {
        let start = self.told;
        let record = id.to_string();
        self.until(&format!("fence {id}"), |frame| {
            frame.table() == "fences"
                && (frame.json["new"]["id"] == id || frame.text_of("recordId") == record)
        })
        .await;
        self.seen[start..]
            .iter()
            .filter(|frame| frame.is_event() && frame.table() != "fences")
            .cloned()
            .collect()
    }

    /// Sends a frame with a fresh `ref` and returns the reply that carries it.
    pub async fn ask(&mut self, mut frame: Value) -> Frame {
        self.next_ref += 1;
        let reference = format!("r{}", self.next_ref);
        frame["ref"] = json!(reference);
        let from_a_cursor = frame["cursor"].is_string();
        self.send(frame).await;
        let reply = self
            .until_reply("a reply", |frame| frame.json["ref"] == json!(reference))
            .await;
        if from_a_cursor {
            // What was live before comes again.
            self.told = self.seen.len();
        }
        reply
    }

    /// Reads until the server ends the connection with a close frame.
    pub async fn until_closed(&mut self) -> (u16, String) {
        match self.until_closed_any().await {
            End::Closed(code, reason) => (code, reason),
            other => panic!("expected a close frame, got {other:?}"),
        }
    }

    /// Reads until the connection ends in any way.
    pub async fn until_closed_any(&mut self) -> End {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if let Err(end) = self.next(left).await {
                return end;
            }
        }
    }

    /// All events seen so far.
    pub fn events(&self) -> impl Iterator<Item = &Frame> {
        self.seen.iter().filter(|frame| frame.is_event())
    }
}
