//! A real gateway over a real hub, real sockets, and the frames between them.

#![allow(dead_code, missing_docs, clippy::unwrap_used)]

pub mod raw;

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_util::{SinkExt, StreamExt};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use prometheus_client::registry::Registry;
use rowcast_gateway::{
    AuthConfig, BroadcastConfig, Gateway, GatewayConfig, GatewayMetrics, Readiness, Services,
    SocketLimits, serve,
};
use rowcast_hub::{Hub, HubLimits};
use rowcast_model::{
    Audience, Batch, Body, Cursor, Epoch, HubOp, Lsn, MembershipChange, Operation, RoutedEvent,
    TableName, Timestamp, Topic,
};
use serde_json::{Value, json};
use tokio::{net::TcpStream, sync::watch};
use tokio_tungstenite::{WebSocketStream, tungstenite::Message};

pub const SECRET: &str = "a secret of more than thirty-two bytes";
pub const DEADLINE: Duration = Duration::from_secs(10);

pub struct World {
    pub gateway: Gateway,
    pub hub: Arc<Hub>,
    pub ready: watch::Sender<Readiness>,
    next_lsn: std::sync::atomic::AtomicU64,
}

pub fn auth() -> AuthConfig {
    AuthConfig {
        secrets: vec![SECRET.into()],
        leeway: Duration::from_secs(1),
        ..AuthConfig::default()
    }
}

pub async fn world() -> World {
    world_with(auth(), SocketLimits::default(), HubLimits::default(), &[]).await
}

pub async fn world_with(
    auth: AuthConfig,
    limits: SocketLimits,
    hub: HubLimits,
    origins: &[&str],
) -> World {
    let mut registry = Registry::default();
    let hub = Arc::new(Hub::new(hub, &mut registry));
    let metrics = GatewayMetrics::register(&mut registry);
    let (ready, readiness) = watch::channel(Readiness::Ready);
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = GatewayConfig {
        public: any,
        internal: any,
        proxies: Vec::new(),
        allowed_origins: origins.iter().map(|origin| (*origin).to_owned()).collect(),
        limits,
        auth,
        grants: rowcast_gateway::GrantConfig::default(),
        broadcast: BroadcastConfig::default(),
    };
    let gateway = serve(
        config,
        hub.clone(),
        readiness,
        metrics,
        Arc::new(registry),
        Services::default(),
    )
    .await
    .unwrap();
    let world = World {
        gateway,
        hub,
        ready,
        next_lsn: 100.into(),
    };
    world.publish(vec![HubOp::NewEpoch {
        epoch: Epoch(1),
        reason: "start".into(),
    }]);
    world.member("ann", "acme", Some("admin"));
    world.member("bob", "globex", Some("member"));
    world
}

impl World {
    pub fn cursor(&self) -> Cursor {
        let lsn = self
            .next_lsn
            .fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        Cursor {
            epoch: Epoch(1),
            commit_lsn: Lsn(lsn),
            index: 0,
        }
    }

    pub fn publish(&self, ops: Vec<HubOp>) {
        self.hub.publish(Batch {
            ops,
            ..Batch::default()
        });
    }

    /// Adds a membership, or ends it.
    pub fn member(&self, user: &str, organization: &str, role: Option<&str>) {
        let now = role.map(|role| (user.into(), organization.into(), Some(role.into())));
        self.publish(vec![HubOp::Membership(MembershipChange {
            key: format!("{user}/{organization}").into(),
            now,
        })]);
    }

    /// An invalidation of a record, told to an organization.
    pub fn tell(&self, organization: &str, record: &str) {
        let cursor = self.cursor();
        let event = RoutedEvent {
            cursor,
            commit_time: Timestamp(0),
            topic: Topic::Org(organization.into()),
            audience: Audience::default(),
            table: Arc::new(TableName {
                schema: "public".into(),
                name: "tasks".into(),
            }),
            op: Operation::Update,
            record_id: Some(record.into()),
            old_record_id: None,
            body: Body::Invalidate,
            last: true,
        };
        let commit = HubOp::Commit {
            cursor: Cursor::after_commit(cursor.epoch, cursor.commit_lsn),
            commit_time: Timestamp(0),
        };
        self.publish(vec![HubOp::from(event), commit]);
    }

    pub async fn dial(&self) -> Client {
        let stream = TcpStream::connect(self.gateway.public).await.unwrap();
        let url = format!("ws://{}/realtime/v1/websocket", self.gateway.public);
        let (socket, _) = tokio_tungstenite::client_async(url, stream).await.unwrap();
        Client(socket)
    }

    /// A socket of a member, past its `subscribed` replies.
    pub async fn join(&self, user: &str, organization: &str) -> Client {
        let mut client = self.dial().await;
        client.auth(&token(user), organization).await;
        assert_eq!(client.next().await["type"], "auth_success");
        client
            .until(|frame| {
                frame["type"] == "subscribed" && frame["channel"] == format!("user:{user}")
            })
            .await;
        client
    }

    /// That a socket hears the next event of its organization: nothing has harmed it.
    pub async fn unharmed(&self, client: &mut Client, organization: &str) {
        let record = format!("proof-{}", self.cursor());
        self.tell(organization, &record);
        client
            .until(|frame| frame["recordId"] == record.as_str())
            .await;
    }
}

pub struct Client(pub WebSocketStream<TcpStream>);

/// How a socket ended.
pub struct End {
    pub code: Option<u16>,
    pub frames: Vec<Value>,
}

impl Client {
    pub async fn send(&mut self, frame: Value) {
        self.raw(Message::text(frame.to_string())).await;
    }

    pub async fn raw(&mut self, message: Message) {
        self.0.send(message).await.unwrap();
    }

    pub async fn auth(&mut self, token: &str, organization: &str) {
        self.send(json!({"type": "auth", "token": token, "organizationId": organization}))
            .await;
    }

    /// The next text frame.
    pub async fn next(&mut self) -> Value {
        loop {
            match tokio::time::timeout(DEADLINE, self.0.next())
                .await
                .expect("a frame in time")
                .unwrap()
                .unwrap()
            {
                Message::Text(text) => return serde_json::from_str(&text).unwrap(),
                Message::Close(frame) => panic!("closed: {frame:?}"),
                _ => {}
            }
        }
    }

    /// Reads until a frame fits.
    pub async fn until(&mut self, fits: impl Fn(&Value) -> bool) -> Value {
        loop {
            let frame = self.next().await;
            if fits(&frame) {
                return frame;
            }
        }
    }

    /// Reads to the end.
    pub async fn end(mut self) -> End {
        let mut frames = Vec::new();
        loop {
            match tokio::time::timeout(DEADLINE, self.0.next())
                .await
                .expect("an end in time")
            {
                Some(Ok(Message::Text(text))) => frames.push(serde_json::from_str(&text).unwrap()),
                Some(Ok(Message::Close(frame))) => {
                    return End {
                        code: frame.map(|frame| frame.code.into()),
                        frames,
                    };
                }
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return End { code: None, frames },
            }
        }
    }
}

pub fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

pub fn claims(user: &str) -> Value {
    json!({"sub": user, "exp": now() + 600})
}

pub fn token(user: &str) -> String {
    sign(&claims(user), SECRET)
}

pub fn sign(claims: &Value, secret: &str) -> String {
    jsonwebtoken::encode(
        &Header::new(Algorithm::HS256),
        claims,
        &EncodingKey::from_secret(secret.as_bytes()),
    )
    .unwrap()
}
