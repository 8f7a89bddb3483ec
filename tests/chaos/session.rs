//! One socket of a subscriber: opened over a line that may fail, read by a task of its own that can be
//! told to stall, and that notices when the service falls silent.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use serde_json::Value;
use tokio::{
    net::TcpStream,
    sync::{mpsc, watch},
    task::JoinHandle,
};
use tokio_tungstenite::{
    WebSocketStream, client_async_with_config,
    tungstenite::{Message, protocol::WebSocketConfig},
};

use super::{proxy::Proxy, tally::Tally};
use crate::harness::client::Frame;

/// The promise is ten seconds; the rest is for a machine that has two cores for everything.
const SILENCE: Duration = Duration::from_millis(12_500);
/// How often a reader looks at the clock.
const TICK: Duration = Duration::from_millis(200);
const OPENING: Duration = Duration::from_secs(5);

type Socket = WebSocketStream<TcpStream>;

/// What a reader hands over.
#[derive(Debug)]
pub enum Arrival {
    Frame(Frame),
    /// The connection ended: the close code, if the service said one.
    End(Option<u16>, String),
}

/// An open socket.
pub struct Session {
    to: SplitSink<Socket, Message>,
    pub from: mpsc::UnboundedReceiver<Arrival>,
    reader: JoinHandle<()>,
}

/// What the reader of a socket has to know about its subscriber.
#[derive(Clone)]
pub struct Surroundings {
    pub name: String,
    pub line: Arc<Proxy>,
    pub stall: watch::Receiver<bool>,
    pub tally: Arc<Tally>,
}

impl Session {
    pub async fn open(around: Surroundings) -> Result<Session, String> {
        let address = around.line.address;
        let socket = tokio::time::timeout(OPENING, connect(address))
            .await
            .map_err(|_| "nobody answered".to_owned())??;
        let (to, from) = socket.split();
        let (hand, taken) = mpsc::unbounded_channel();
        let reader = tokio::spawn(read(from, hand, around));
        Ok(Session {
            to,
            from: taken,
            reader,
        })
    }

    /// Sends a frame. A line that hangs must not hold the subscriber for ever; a socket that is gone is
    /// found out by its reader.
    pub async fn send(&mut self, frame: Value) {
        let message = Message::text(frame.to_string());
        let _ = tokio::time::timeout(OPENING, self.to.send(message)).await;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

async fn connect(address: SocketAddr) -> Result<Socket, String> {
    let stream = TcpStream::connect(address)
        .await
        .map_err(|error| error.to_string())?;
    let config = WebSocketConfig::default()
        .max_message_size(None)
        .max_frame_size(None);
    let url = format!("ws://{address}/realtime/v1/websocket");
    client_async_with_config(url, stream, Some(config))
        .await
        .map(|(socket, _)| socket)
        .map_err(|error| error.to_string())
}

async fn read(
    mut from: SplitStream<Socket>,
    hand: mpsc::UnboundedSender<Arrival>,
    mut around: Surroundings,
) {
    let mut silence = Silence::new();
    loop {
        if *around.stall.borrow_and_update() {
            let over = around.stall.wait_for(|stalled| !stalled).await.is_ok();
            silence.disturbed(Instant::now());
            if !over {
                return;
            }
        }
        let next = tokio::select! {
            next = tokio::time::timeout(TICK, from.next()) => next,
            _ = around.stall.changed() => continue,
        };
        match around.line.clear_since() {
            Some(since) => silence.disturbed_until(since),
            None => silence.disturbed(Instant::now()),
        }
        let end = match next {
            Err(_) => None,
            Ok(None) => Some((None, "end of stream".to_owned())),
            Ok(Some(Err(error))) => Some((None, error.to_string())),
            Ok(Some(Ok(Message::Close(close)))) => Some(match close {
                Some(close) => (Some(u16::from(close.code)), close.reason.to_string()),
                None => (None, "closed without a code".into()),
            }),
            Ok(Some(Ok(Message::Text(text)))) => {
                let text = text.to_string();
                let json = serde_json::from_str(&text).expect("every frame is JSON");
                let frame = Frame { text, json };
                if let Some(gap) = silence.hears(&frame, Instant::now()) {
                    around.tally.gap(gap);
                }
                let _ = hand.send(Arrival::Frame(frame));
                None
            }
            Ok(Some(Ok(_))) => None,
        };
        if let Some((code, why)) = end {
            let _ = hand.send(Arrival::End(code, why));
            return;
        }
        if let Some(gap) = silence.too_long(Instant::now()) {
            let text = format!("{}: no word of the position for {gap:?}", around.name);
            around.tally.wrong(&around.tally.silences, text);
        }
    }
}

/// Notices when a socket that should hear something does not. Pure.
struct Silence {
    /// The last sign of where the service stands, or the end of what was in its way.
    last: Instant,
    subscribed: bool,
    /// The service said itself that it knows nothing new.
    stale: bool,
    reported: bool,
    /// Something else than the service was in the way since the last sign.
    disturbed: bool,
}

impl Silence {
    fn new() -> Silence {
        Silence {
            last: Instant::now(),
            subscribed: false,
            stale: false,
            reported: false,
            disturbed: true,
        }
    }

    fn disturbed(&mut self, now: Instant) {
        (self.last, self.disturbed) = (now, true);
    }

    fn disturbed_until(&mut self, since: Instant) {
        if since > self.last {
            self.disturbed(since);
        }
    }

    /// Takes note of a frame; returns how long the service was silent, where that can be said.
    fn hears(&mut self, frame: &Frame, now: Instant) -> Option<Duration> {
        let sign = [
            "position",
            "commit",
            "subscribed",
            "recovered",
            "resync",
            "status",
        ]
        .iter()
        .any(|kind| frame.is(kind));
        if !sign && !frame.is_event() {
            return None;
        }
        self.subscribed |= frame.is("subscribed");
        let measured = self.subscribed && !self.stale && !self.disturbed;
        let gap = measured.then(|| now.saturating_duration_since(self.last));
        if frame.is("status") {
            self.stale = frame.text_of("state") == "stale";
        }
        (self.last, self.disturbed, self.reported) = (now, false, false);
        gap
    }

    /// The silence that has become too long, said once.
    fn too_long(&mut self, now: Instant) -> Option<Duration> {
        let gap = now.saturating_duration_since(self.last);
        let bad = self.subscribed && !self.stale && !self.reported && gap > SILENCE;
        self.reported |= bad;
        bad.then_some(gap)
    }
}

#[test]
fn silence_is_noticed_once_and_not_when_it_was_announced() {
    let frame = |text: &str| Frame {
        text: text.to_owned(),
        json: serde_json::from_str(text).unwrap(),
    };
    let begin = Instant::now();
    let at = |seconds| begin + Duration::from_secs(seconds);
    let mut silence = Silence::new();
    assert_eq!(silence.too_long(at(100)), None);
    silence.hears(&frame(r#"{"type":"subscribed"}"#), at(100));
    let position = frame(r#"{"type":"position"}"#);
    assert_eq!(
        silence.hears(&position, at(109)),
        Some(Duration::from_secs(9))
    );
    assert_eq!(silence.hears(&frame(r#"{"type":"pong"}"#), at(115)), None);
    assert_eq!(silence.too_long(at(119)), None);
    assert_eq!(silence.too_long(at(122)), Some(Duration::from_secs(13)));
    assert_eq!(silence.too_long(at(123)), None);
    silence.disturbed(at(130));
    assert_eq!(silence.hears(&position, at(131)), None);
    silence.hears(&frame(r#"{"type":"status","state":"stale"}"#), at(132));
    assert_eq!(silence.too_long(at(200)), None);
    silence.hears(&frame(r#"{"type":"status","state":"live"}"#), at(201));
    assert_eq!(silence.too_long(at(214)), Some(Duration::from_secs(13)));
}
