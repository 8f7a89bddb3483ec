//! `rowcast tail`: prints live events as any client gets them: same socket, same protocol, same rights.

mod show;

use std::time::Duration;

use anyhow::Context;
use futures_util::{SinkExt, StreamExt};
use reqwest::{Upgraded, header};
use serde_json::{Value, json};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message, Utf8Bytes,
        handshake::client::generate_key,
        protocol::{CloseFrame, Role},
    },
};

use crate::{
    cli::TailArgs,
    commands::token::{Wanted, make},
    config::{Config, Span},
    term::{Paint, line, note},
};

type Socket = WebSocketStream<Upgraded>;

/// First wait before coming back, growing by half to [`LONGEST_WAIT`].
const FIRST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(15);
const PING_EVERY: Duration = Duration::from_secs(20);

/// What goes on from one connection to the next.
struct Tail<'a> {
    config: &'a Config,
    args: &'a TailArgs,
    organization: Option<&'a str>,
    /// The last position that was printed.
    cursor: Option<String>,
    wait: Duration,
    paint: Paint,
}

/// How a connection ended.
enum End {
    /// Come back.
    Again(String),
    /// Coming back is of no use.
    Never(String),
}

/// Prints events until interrupted, coming back after every loss.
pub async fn run(config: &Config, args: &TailArgs) -> anyhow::Result<()> {
    let mut tail = Tail {
        config,
        args,
        organization: args
            .organization
            .as_deref()
            .or_else(|| organization_of(args.channel.as_deref()?)),
        cursor: None,
        wait: FIRST_WAIT,
        paint: Paint::detect(),
    };
    loop {
        let end = tokio::select! {
            end = tail.connection() => end?,
            _ = tokio::signal::ctrl_c() => return Ok(()),
        };
        match end {
            End::Never(why) => anyhow::bail!(why),
            End::Again(why) => {
                note(format!("{why}; again in {} s", tail.wait.as_secs()));
                tokio::time::sleep(tail.wait).await;
                tail.wait = (tail.wait * 3 / 2).min(LONGEST_WAIT);
            }
        }
    }
}

/// The organization that a channel's name holds.
fn organization_of(channel: &str) -> Option<&str> {
    let (kind, rest) = channel.split_once(':')?;
    match kind {
        "org" => Some(rest),
        "tenant" => rest.rsplit_once(':').map(|(organization, _)| organization),
        _ => None,
    }
}

impl Tail<'_> {
    async fn connection(&mut self) -> anyhow::Result<End> {
        let token = self.token()?;
        let mut socket = match dial(&self.args.url).await {
            Ok(socket) => socket,
            Err(error) => return Ok(End::Again(format!("{error:#}"))),
        };
        let mut auth = json!({"type": "auth", "token": token});
        if let Some(organization) = self.organization {
            auth["organizationId"] = organization.into();
        }
        if send(&mut socket, &auth).await.is_err() {
            return Ok(End::Again("the connection was lost".to_owned()));
        }
        let mut ping = tokio::time::interval(PING_EVERY);
        ping.tick().await;
        let mut refused = None;
        loop {
            let message = tokio::select! {
                message = socket.next() => message,
                _ = ping.tick() => {
                    let _ = send(&mut socket, &json!({"type": "ping"})).await;
                    continue;
                }
            };
            match message {
                Some(Ok(Message::Text(text))) => {
                    let frame: Value =
                        serde_json::from_str(&text).context("a frame is not JSON")?;
                    if frame["type"] == "error" {
                        refused = frame["message"].as_str().map(str::to_owned);
                    }
                    self.frame(&mut socket, &frame, &text).await?;
                }
                Some(Ok(Message::Close(close))) => return Ok(ended(close, refused)),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Ok(End::Again(error.to_string())),
                None => return Ok(End::Again("the connection was lost".to_owned())),
            }
        }
    }

    /// The given token, or one for development.
    fn token(&self) -> anyhow::Result<String> {
        match &self.args.token {
            Some(token) => Ok(token.clone()),
            None => make(
                self.config,
                Wanted {
                    user: &self.args.user,
                    organization: None,
                    roles: &[],
                    good_for: Span::ms(12 * 3_600_000),
                },
            )
            .context("no --token was given, and none can be made"),
        }
    }

    async fn frame(
        &mut self,
        socket: &mut Socket,
        frame: &Value,
        text: &str,
    ) -> anyhow::Result<()> {
        let kind = frame["type"].as_str().unwrap_or_default();
        match (kind, &self.args.channel) {
            ("ping", _) => send(socket, &json!({"type": "pong"})).await?,
            // The socket is on its organization and its user already.
            ("auth_success", Some(channel)) if self.cursor.is_some() || !is_own(channel, frame) => {
                let mut subscribe = json!({"type": "subscribe", "ref": 1, "channel": channel});
                if let Some(cursor) = &self.cursor {
                    subscribe["cursor"] = cursor.as_str().into();
                }
                send(socket, &subscribe).await?;
            }
            ("auth_success" | "subscribed", _) => self.wait = FIRST_WAIT,
            _ => {}
        }
        let elsewhere = frame["channel"]
            .as_str()
            .zip(self.args.channel.as_deref())
            .is_some_and(|(channel, wanted)| channel != wanted);
        if elsewhere {
            return Ok(());
        }
        if let Some(cursor) = frame["cursor"].as_str() {
            self.cursor = Some(cursor.to_owned());
        }
        if self.args.json {
            line(text);
        } else if let Some(shown) = show::frame(frame, self.paint) {
            line(shown);
        }
        Ok(())
    }
}

/// Whether every socket of this identity is on the channel anyway.
fn is_own(channel: &str, auth_success: &Value) -> bool {
    [("org:", "organizationId"), ("user:", "userId")]
        .iter()
        .any(|(kind, field)| {
            let own = channel.strip_prefix(kind);
            own.is_some() && own == auth_success[*field].as_str()
        })
}

fn ended(close: Option<CloseFrame>, refused: Option<String>) -> End {
    let Some(close) = close else {
        return End::Again("the service closed the socket".to_owned());
    };
    let code = u16::from(close.code);
    let why = match refused {
        Some(message) => format!("closed with {code} {}: {message}", close.reason),
        None => format!("closed with {code} {}", close.reason),
    };
    match code {
        4500..=4999 => End::Never(why),
        _ => End::Again(why),
    }
}

async fn send(socket: &mut Socket, frame: &Value) -> anyhow::Result<()> {
    Ok(socket
        .send(Message::Text(Utf8Bytes::from(frame.to_string())))
        .await?)
}

/// Opens the socket: an HTTP request that is upgraded, so TLS and proxies are as everywhere.
async fn dial(url: &str) -> anyhow::Result<Socket> {
    let base = url.trim_end_matches('/');
    let base = match base.split_once("://") {
        Some(("ws", rest)) => format!("http://{rest}"),
        Some(("wss", rest)) => format!("https://{rest}"),
        _ => base.to_owned(),
    };
    let client = reqwest::Client::builder()
        .http1_only()
        .connect_timeout(Duration::from_secs(10))
        .build()?;
    let answer = client
        .get(format!("{base}/realtime/v1/websocket"))
        .header(header::CONNECTION, "Upgrade")
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_VERSION, "13")
        .header(header::SEC_WEBSOCKET_KEY, generate_key())
        .send()
        .await
        .map_err(|error| {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            anyhow::anyhow!("{base} does not answer: {}", cause.unwrap_or_default())
        })?;
    if answer.status() != reqwest::StatusCode::SWITCHING_PROTOCOLS {
        anyhow::bail!(
            "{base} answered {} instead of opening a socket",
            answer.status()
        );
    }
    let upgraded = answer.upgrade().await?;
    Ok(WebSocketStream::from_raw_socket(upgraded, Role::Client, None).await)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn channels_name_their_organization() {
        assert_eq!(organization_of("org:a:b"), Some("a:b"));
        assert_eq!(organization_of("tenant:acme:tasks"), Some("acme"));
        assert_eq!(organization_of("user:x"), None);
        assert_eq!(organization_of("x"), None);
    }

    #[test]
    fn own_channels_need_no_subscribing() {
        let success = json!({"organizationId": "acme", "userId": "alice"});
        assert!(is_own("org:acme", &success) && is_own("user:alice", &success));
        assert!(!is_own("tenant:acme:x", &json!({})));
        assert!(!is_own("org:globex", &success) && !is_own("tenant:acme:x", &success));
    }

    #[test]
    fn the_range_of_a_close_decides_about_coming_back() {
        let end = |code: u16| {
            ended(
                Some(CloseFrame {
                    code: code.into(),
                    reason: "x".into(),
                }),
                None,
            )
        };
        assert!(matches!(end(4001), End::Again(_)));
        assert!(matches!(end(1006), End::Again(_)));
        assert!(matches!(end(4501), End::Never(_)));
        assert!(matches!(ended(None, None), End::Again(_)));
    }
}
