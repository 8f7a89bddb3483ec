//! A client of the event stream, as plain as possible: a request as curl would send it, and every event it got.

use std::{net::SocketAddr, time::Instant};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

use super::client::{Frame, PATIENCE};

/// An event as it came.
#[derive(Clone, Debug)]
pub struct Event {
    /// Its `id:` line.
    pub id: Option<String>,
    pub frame: Frame,
}

/// An open stream and all it received.
pub struct Events {
    stream: TcpStream,
    buffer: Vec<u8>,
    pub head: String,
    /// The last `retry:` line.
    pub retry: Option<u64>,
    /// What a browser would send as `Last-Event-ID`.
    pub last_id: Option<String>,
    pub seen: Vec<Event>,
}

/// The answer to a request that opens no stream.
#[derive(Debug)]
pub struct Refused {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Refused {
    /// The code of the error, or nothing.
    pub fn code(&self) -> String {
        let json: Value = serde_json::from_str(&self.body).unwrap_or_default();
        json["error"]["code"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    }
}

/// Asks with any method and headers.
pub async fn request(
    address: SocketAddr,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
) -> Result<Events, Refused> {
    let stream = TcpStream::connect(address).await.unwrap();
    request_over(stream, method, target, headers).await
}

/// The same on a connection that can hold very little unread.
pub async fn narrow(
    address: SocketAddr,
    target: &str,
    headers: &[(&str, &str)],
) -> Result<Events, Refused> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let stream = socket.connect(address).await.unwrap();
    request_over(stream, "GET", target, headers).await
}

async fn request_over(
    mut stream: TcpStream,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
) -> Result<Events, Refused> {
    let mut text =
        format!("{method} {target} HTTP/1.1\r\nHost: test\r\nAccept: text/event-stream\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut buffer = Vec::new();
    let end = loop {
        if let Some(end) = buffer.windows(4).position(|part| part == b"\r\n\r\n") {
            break end;
        }
        let read = tokio::time::timeout(PATIENCE, stream.read_buf(&mut buffer)).await;
        assert!(read.unwrap().unwrap() > 0, "no answer to {target}");
    };
    let head = String::from_utf8(buffer.drain(..end + 4).collect()).unwrap();
    let status: u16 = head.split(' ').nth(1).unwrap().parse().unwrap();
    if status == 200 && head.contains("text/event-stream") {
        return Ok(Events {
            stream,
            buffer,
            head,
            retry: None,
            last_id: None,
            seen: Vec::new(),
        });
    }
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length")
            .then(|| value.trim().parse().unwrap())
    });
    while method != "HEAD" && buffer.len() < length.unwrap_or(0_usize) {
        let read = tokio::time::timeout(PATIENCE, stream.read_buf(&mut buffer)).await;
        assert!(read.unwrap().unwrap() > 0, "half an answer to {target}");
    }
    let body = String::from_utf8(buffer).unwrap();
    Err(Refused { status, head, body })
}

impl Events {
    /// The next event; `None` at the end of the stream.
    pub async fn next(&mut self) -> Option<Event> {
        let (mut id, mut data) = (None, String::new());
        loop {
            let line = self.line().await?;
            match line.split_once(": ") {
                None if line.is_empty() && data.is_empty() => {}
                None if line.is_empty() => break,
                Some(("id", value)) => id = Some(value.to_owned()),
                Some(("retry", value)) => self.retry = Some(value.parse().unwrap()),
                Some(("data", value)) => {
                    assert!(data.is_empty(), "one line for each event");
                    data = value.to_owned();
                }
                _ => panic!("not a line of an event stream: {line:?}"),
            }
        }
        if id.is_some() {
            self.last_id.clone_from(&id);
        }
        let json = serde_json::from_str(&data).unwrap_or_else(|error| panic!("{error}: {data}"));
        let frame = Frame { text: data, json };
        let event = Event { id, frame };
        self.seen.push(event.clone());
        Some(event)
    }

    async fn line(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Some(String::from_utf8(line[..end].to_vec()).unwrap());
            }
            let read = tokio::time::timeout(PATIENCE, self.stream.read_buf(&mut self.buffer));
            match read.await.expect("the stream is silent") {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// Reads until an event fulfils `wanted`.
    pub async fn until(&mut self, what: &str, wanted: impl Fn(&Frame) -> bool) -> Event {
        let (start, deadline) = (self.seen.len(), Instant::now() + PATIENCE);
        while Instant::now() < deadline {
            match self.next().await {
                Some(event) if wanted(&event.frame) => return event,
                Some(_) => {}
                None => break,
            }
        }
        let seen = self.seen[start..].iter().rev().take(20);
        let seen: Vec<&str> = seen.map(|event| event.frame.text.as_str()).collect();
        panic!("waiting for {what}; last events, latest first: {seen:#?}");
    }

    /// The next event of a table.
    pub async fn event(&mut self, table: &str) -> Event {
        let what = format!("an event of {table}");
        self.until(&what, |frame| frame.is_event() && frame.table() == table)
            .await
    }

    /// Reads until the event of the fence row `id`; returns the events of other tables before it.
    pub async fn until_fence(&mut self, id: i64) -> Vec<Frame> {
        let start = self.seen.len();
        let record = id.to_string();
        self.until(&format!("fence {id}"), |frame| {
            frame.table() == "fences"
                && (frame.json["new"]["id"] == id || frame.text_of("recordId") == record)
        })
        .await;
        let frames = self.seen[start..].iter().map(|event| &event.frame);
        let events = frames.filter(|frame| frame.is_event() && frame.table() != "fences");
        events.cloned().collect()
    }

    /// Reads to the end of the stream; the last event says why.
    pub async fn until_closed(&mut self) -> Frame {
        while self.next().await.is_some() {}
        let last = self.seen.last().expect("a stream ends with its reason");
        assert!(last.frame.is("closed"), "{}", last.frame.text);
        last.frame.clone()
    }
}
