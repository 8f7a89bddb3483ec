//! Bodies of `POST /broadcast` that take their time: memory for all of them is bounded, and none is waited for
//! without end.

#![allow(missing_docs, clippy::unwrap_used)]

use std::{net::SocketAddr, sync::Arc, time::Duration};

use prometheus_client::registry::Registry;
use rowcast_gateway::{
    AuthConfig, BroadcastConfig, Gateway, GatewayConfig, GatewayMetrics, Readiness, Services,
    SocketLimits, serve,
};
use rowcast_hub::{Hub, HubLimits};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
};

const TOKEN: &str = "the token of the application";

async fn gateway() -> (Gateway, watch::Sender<Readiness>) {
    let mut registry = Registry::default();
    let hub = Arc::new(Hub::new(HubLimits::default(), &mut registry));
    let metrics = GatewayMetrics::register(&mut registry);
    let (ready, readiness) = watch::channel(Readiness::Ready);
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let config = GatewayConfig {
        public: any,
        internal: any,
        proxies: Vec::new(),
        allowed_origins: Vec::new(),
        limits: SocketLimits::default(),
        auth: AuthConfig {
            secrets: vec!["a secret of more than thirty-two bytes".into()],
            ..AuthConfig::default()
        },
        grants: rowcast_gateway::GrantConfig::default(),
        broadcast: BroadcastConfig {
            access_token: Some(TOKEN.into()),
            body_bytes: 1_000,
            bodies_bytes: 1_000,
            patience: Duration::from_millis(300),
            ..BroadcastConfig::default()
        },
    };
    let registry = Arc::new(registry);
    let gateway = serve(
        config,
        hub,
        readiness,
        metrics,
        registry,
        Services::default(),
    );
    (gateway.await.unwrap(), ready)
}

/// Sends the head with this length and this body; the whole answer.
async fn post(address: SocketAddr, head: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "POST /broadcast HTTP/1.1\r\nhost: x\r\nconnection: close\r\nauthorization: Bearer {TOKEN}\r\n{head}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let reading = stream.read_to_string(&mut answer);
    let read = tokio::time::timeout(Duration::from_secs(10), reading).await;
    read.unwrap().unwrap();
    answer
}

#[tokio::test]
async fn bodies_share_a_budget_and_slow_ones_end() {
    let (gateway, _ready) = gateway().await;
    let address = gateway.public;
    let slow = (0..5).map(|_| tokio::spawn(post(address, "content-length: 1000", "{")));
    let mut codes = Vec::new();
    for answer in slow.collect::<Vec<_>>() {
        let answer = answer.await.unwrap();
        let known = ["too_slow", "overloaded"].into_iter();
        codes.extend(known.filter(|code| answer.contains(&format!("\"code\":\"{code}\""))));
    }
    assert_eq!(codes.len(), 5, "{codes:?}");
    assert!(
        codes.contains(&"too_slow") && codes.contains(&"overloaded"),
        "{codes:?}"
    );

    // There is room again; this hub was told of no log yet.
    let body = r#"{"type":"broadcast","event":"e","organizationId":"o"}"#;
    let head = format!("content-length: {}", body.len());
    let answer = post(address, &head, body).await;
    assert!(
        answer.starts_with("HTTP/1.1 503") && answer.contains("not_ready"),
        "{answer}"
    );
    assert!(
        answer.to_ascii_lowercase().contains("retry-after: 1"),
        "{answer}"
    );

    // Too large, with its length said before and without.
    let large = "x".repeat(2_000);
    let answer = post(address, "content-length: 2000", &large).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    let chunked = format!("7d0\r\n{large}\r\n0\r\n\r\n");
    let answer = post(address, "transfer-encoding: chunked", &chunked).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    gateway.stop(Duration::from_secs(5)).await;
}
