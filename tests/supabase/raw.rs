//! The wire as it is: frames of either version, and every byte that came.

use std::net::SocketAddr;

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::Instant};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error, Message, client::IntoClientRequest},
};

use super::client::PUBLISHABLE;
use crate::harness::client::PATIENCE;

/// The versions of the protocol.
pub const V1: &str = "1.0.0";
pub const V2: &str = "2.0.0";
pub const EACH: [&str; 2] = [V1, V2];

/// A frame of the service, whichever the version.
#[derive(Clone, Debug)]
pub struct Said {
    pub join_ref: Value,
    pub reference: Value,
    pub topic: String,
    pub event: String,
    pub payload: Value,
    /// As it came; of a binary frame what can be read.
    pub text: String,
}

impl Said {
    /// What a reply says: `ok` or `error`.
    pub fn status(&self) -> &str {
        self.payload["status"].as_str().unwrap_or_default()
    }

    /// Why not.
    pub fn reason(&self) -> &str {
        self.payload["response"]["reason"]
            .as_str()
            .unwrap_or_default()
    }
}

/// A socket, and all that it received.
pub struct Raw {
    pub vsn: &'static str,
    socket: WebSocketStream<TcpStream>,
    next_ref: u64,
    pub seen: Vec<Said>,
    /// Every byte of every frame.
    pub bytes: Vec<u8>,
    /// How many of the frames a fence has ended.
    told: usize,
}

/// The address with a key.
pub fn path(vsn: &str, key: &str) -> String {
    format!("/realtime/v1/websocket?apikey={key}&vsn={vsn}")
}

impl Raw {
    /// Opens a socket of nobody.
    pub async fn open(address: SocketAddr, vsn: &'static str) -> Raw {
        Raw::open_at(address, vsn, &path(vsn, PUBLISHABLE)).await
    }

    /// The same with a key in the header that counts instead of that of the address.
    pub async fn with_key(address: SocketAddr, vsn: &'static str, path: &str, key: &str) -> Raw {
        let mut request = format!("ws://{address}{path}")
            .into_client_request()
            .unwrap();
        let key = key.parse().unwrap();
        request.headers_mut().insert("x-api-key", key);
        let stream = TcpStream::connect(address).await.unwrap();
        let (socket, _) = client_async(request, stream).await.unwrap();
        Raw::over(socket, vsn)
    }

    pub fn over(socket: WebSocketStream<TcpStream>, vsn: &'static str) -> Raw {
        Raw {
            vsn,
            socket,
            next_ref: 0,
            seen: Vec::new(),
            bytes: Vec::new(),
            told: 0,
        }
    }

    pub async fn open_at(address: SocketAddr, vsn: &'static str, path: &str) -> Raw {
        let opened = Raw::try_open(address, vsn, path).await;
        opened.unwrap_or_else(|(status, body)| panic!("{path} is refused: {status} {body}"))
    }

    /// Opens it, or gives the status and the body of the refusal.
    pub async fn try_open(
        address: SocketAddr,
        vsn: &'static str,
        path: &str,
    ) -> Result<Raw, (u16, String)> {
        let stream = TcpStream::connect(address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        match client_async(format!("ws://{address}{path}"), stream).await {
            Ok((socket, _)) => Ok(Raw::over(socket, vsn)),
            Err(Error::Http(answer)) => {
                let body = answer.body().clone().unwrap_or_default();
                Err((
                    answer.status().as_u16(),
                    String::from_utf8_lossy(&body).into_owned(),
                ))
            }
            Err(error) => panic!("{path}: {error}"),
        }
    }

    pub async fn send_message(&mut self, message: Message) {
        let _ = self.socket.send(message).await;
    }

    /// Sends an event with these refs.
    pub async fn send(
        &mut self,
        join_ref: Value,
        reference: Value,
        topic: &str,
        event: &str,
        payload: Value,
    ) {
        let frame = match self.vsn {
            V1 => {
                let mut frame =
                    json!({"topic": topic, "event": event, "payload": payload, "ref": reference});
                if !join_ref.is_null() {
                    frame["join_ref"] = join_ref;
                }
                frame
            }
            _ => json!([join_ref, reference, topic, event, payload]),
        };
        self.send_message(Message::text(frame.to_string())).await;
    }

    /// Sends an event with a new ref, which is given.
    pub async fn push(
        &mut self,
        join_ref: &str,
        topic: &str,
        event: &str,
        payload: Value,
    ) -> String {
        let reference = self.new_ref();
        let join_ref = if join_ref.is_empty() {
            Value::Null
        } else {
            json!(join_ref)
        };
        self.send(join_ref, json!(reference), topic, event, payload)
            .await;
        reference
    }

    fn new_ref(&mut self) -> String {
        self.next_ref += 1;
        self.next_ref.to_string()
    }

    /// Sends an event; the reply to it.
    pub async fn ask(&mut self, join_ref: &str, topic: &str, event: &str, payload: Value) -> Said {
        let reference = self.push(join_ref, topic, event, payload).await;
        self.reply(&reference).await
    }

    pub async fn reply(&mut self, reference: &str) -> Said {
        self.until("a reply", |said| {
            said.event == "phx_reply" && said.reference == reference
        })
        .await
    }

    /// Joins; the reply, and the ref of the join.
    pub async fn join(&mut self, topic: &str, token: &str, changes: Value) -> (Said, String) {
        let mut payload = json!({"config": {
            "broadcast": {"ack": false, "self": false},
            "presence": {"key": "", "enabled": false},
            "postgres_changes": changes,
            "private": false,
        }});
        if !token.is_empty() {
            payload["access_token"] = json!(token);
        }
        self.join_with(topic, payload).await
    }

    pub async fn join_with(&mut self, topic: &str, payload: Value) -> (Said, String) {
        let reference = self.new_ref();
        let own = json!(reference);
        self.send(own.clone(), own, topic, "phx_join", payload)
            .await;
        (self.reply(&reference).await, reference)
    }

    /// The same, which succeeds; the ref of the join.
    pub async fn joined(&mut self, topic: &str, token: &str, changes: Value) -> String {
        let (reply, reference) = self.join(topic, token, changes).await;
        assert_eq!(reply.status(), "ok", "{}", reply.text);
        reference
    }

    /// The next frame, or the code of the close; 1006 for a connection that broke.
    pub async fn next(&mut self) -> Result<Said, u16> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let message = tokio::time::timeout_at(deadline, self.socket.next()).await;
            let message = message.unwrap_or_else(|_| panic!("silence; seen: {:#?}", self.last()));
            let said = match message {
                None | Some(Err(_)) => return Err(1006),
                Some(Ok(Message::Close(close))) => {
                    return Err(close.map_or(1005, |close| close.code.into()));
                }
                Some(Ok(Message::Text(text))) => {
                    self.bytes.extend_from_slice(text.as_bytes());
                    self.read_text(&text)
                }
                Some(Ok(Message::Binary(bytes))) => {
                    self.bytes.extend_from_slice(&bytes);
                    read_binary(&bytes)
                }
                Some(Ok(_)) => continue,
            };
            self.seen.push(said.clone());
            return Ok(said);
        }
    }

    fn read_text(&self, text: &str) -> Said {
        let json: Value = serde_json::from_str(text).expect("every text frame is JSON");
        let string = |value: &Value| value.as_str().expect("a text").to_owned();
        let (join_ref, reference, topic, event, payload) = match self.vsn {
            V1 => {
                let members = json.as_object().expect("an object");
                let names: Vec<&str> = members.keys().map(String::as_str).collect();
                assert_eq!(names.len(), 4, "{text}");
                let [topic, event, payload, reference] =
                    ["topic", "event", "payload", "ref"].map(|name| members[name].clone());
                (
                    Value::Null,
                    reference,
                    string(&topic),
                    string(&event),
                    payload,
                )
            }
            _ => {
                let parts = json.as_array().expect("an array");
                let [join_ref, reference, topic, event, payload] =
                    <[Value; 5]>::try_from(parts.clone()).expect("five parts");
                (join_ref, reference, string(&topic), string(&event), payload)
            }
        };
        // Anything else throws in the client.
        assert!(payload.is_object(), "{text}");
        Said {
            join_ref,
            reference,
            topic,
            event,
            payload,
            text: text.to_owned(),
        }
    }

    /// Reads until a frame is as wanted.
    pub async fn until(&mut self, what: &str, wanted: impl Fn(&Said) -> bool) -> Said {
        loop {
            match self.next().await {
                Ok(said) if wanted(&said) => return said,
                Ok(_) => {}
                Err(code) => panic!("waiting for {what}: closed with {code}; {:#?}", self.last()),
            }
        }
    }

    /// Reads until the end; its code.
    pub async fn until_closed(&mut self) -> u16 {
        loop {
            if let Err(code) = self.next().await {
                return code;
            }
        }
    }

    /// Reads to the event of the fence row; the rows of other tables that came since the last one, as the service
    /// says them.
    pub async fn until_fence(&mut self, id: i64) -> Vec<Value> {
        let start = self.told;
        self.until(&format!("fence {id}"), |said| {
            let data = &said.payload["data"];
            data["table"] == "fences" && data["record"]["id"] == json!(id)
        })
        .await;
        self.told = self.seen.len();
        rows(&self.seen[start..])
    }

    fn last(&self) -> Vec<&str> {
        let last = self.seen.iter().rev().take(20);
        last.map(|said| said.text.as_str()).collect()
    }
}

/// The rows of other tables than that of the fences.
pub fn rows(seen: &[Said]) -> Vec<Value> {
    let rows = seen.iter().filter(|said| said.event == "postgres_changes");
    let rows = rows.map(|said| said.payload["data"].clone());
    rows.filter(|data| data["table"] != "fences").collect()
}

/// A broadcast of version 2: kind 4, sizes of topic, event, metadata; encoding; then they.
fn read_binary(bytes: &[u8]) -> Said {
    assert_eq!(bytes[0], 4, "the client reads no other kind");
    let [topic, event, meta] = [1, 2, 3].map(|at| usize::from(bytes[at]));
    let text = |from: usize, size: usize| {
        String::from_utf8(bytes[from..from + size].to_vec()).expect("names are text")
    };
    let rest = &bytes[5 + topic + event + meta..];
    let payload = match bytes[4] {
        1 => serde_json::from_slice(rest).expect("the payload is JSON"),
        _ => json!({ "bytes": rest }),
    };
    let mut said =
        json!({"type": "broadcast", "event": text(5 + topic, event), "payload": payload});
    if meta > 0 {
        let meta = text(5 + topic + event, meta);
        said["meta"] = serde_json::from_str(&meta).expect("metadata is JSON");
    }
    Said {
        join_ref: Value::Null,
        reference: Value::Null,
        topic: text(5, topic),
        event: "broadcast".into(),
        payload: said,
        text: String::from_utf8_lossy(bytes).into_owned(),
    }
}

/// A broadcast from the client in version 2: kind 3.
pub fn broadcast(
    join_ref: &str,
    reference: &str,
    topic: &str,
    event: &str,
    payload: &[u8],
    json: bool,
) -> Message {
    let mut frame = vec![3];
    let parts = [join_ref, reference, topic, event, ""];
    frame.extend(parts.map(|part| u8::try_from(part.len()).unwrap()));
    frame.push(u8::from(json));
    parts.iter().for_each(|part| frame.extend(part.as_bytes()));
    frame.extend(payload);
    Message::binary(frame)
}
