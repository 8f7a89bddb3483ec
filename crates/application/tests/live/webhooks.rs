//! Webhooks, against an HTTP server of the test's own.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Redirect},
    routing::post,
};
use hmac::{Hmac, Mac};
use parking_lot::Mutex;
use rowcast_application::{Application, WebhookConfig};
use rowcast_model::{AskError, Handler};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::harness::{self, SECRET, person, refused, webhook};

type Got = Arc<Mutex<Vec<(HeaderMap, Bytes)>>>;

/// Serves these routes, and remembers what came to `/echo`.
async fn serve() -> (String, Got, Arc<AtomicUsize>) {
    let got = Got::default();
    let elsewhere = Arc::new(AtomicUsize::new(0));
    let remember = got.clone();
    let echo = move |headers: HeaderMap, body: Bytes| {
        remember.lock().push((headers, body.clone()));
        async move { body }
    };
    let steered = elsewhere.clone();
    let routes = Router::new()
        .route("/echo", post(echo))
        .route(
            "/redirect",
            post(async || Redirect::temporary("/elsewhere")),
        )
        .route(
            "/elsewhere",
            post(async move || {
                steered.fetch_add(1, Ordering::SeqCst);
                "true"
            }),
        )
        .route(
            "/no",
            post(async || {
                let body = json!({"code": "accessdenied", "message": "Not a member of this room"});
                (StatusCode::FORBIDDEN, body.to_string()).into_response()
            }),
        )
        .route("/broken", post(async || StatusCode::INTERNAL_SERVER_ERROR))
        .route("/text", post(async || "<html>"))
        .route("/long", post(async || format!("\"{}\"", "x".repeat(2000))))
        .route("/slow", post(std::future::pending::<&'static str>));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, routes).await });
    (format!("http://{address}"), got, elsewhere)
}

fn application(url: &str, change: impl Fn(&mut WebhookConfig)) -> Arc<Application> {
    let names = ["echo", "redirect", "no", "broken", "text", "long", "slow"];
    let all = names.map(|name| {
        let mut config = webhook(&format!("{url}/{name}"));
        change(&mut config);
        (name.to_owned(), config)
    });
    harness::webhooks(BTreeMap::from(all))
}

async fn ask(application: &Application, name: &str, input: Value) -> Result<Value, AskError> {
    let handler = Handler::Webhook(name.into());
    harness::ask(
        application,
        &harness::question(handler, person("anna"), input),
    )
    .await
}

#[tokio::test]
async fn a_request_is_signed_and_says_who_asks() {
    let (url, got, _) = serve().await;
    let application = application(&url, |config| {
        config.secret_previous = Some(
            "the secret of more than 32 bytes before that"
                .to_owned()
                .into(),
        );
    });
    let answer = ask(&application, "echo", json!({"text": "hi"}))
        .await
        .unwrap();
    assert_eq!(answer["input"], json!({"text": "hi"}));
    assert_eq!(answer["caller"]["userId"], "anna");
    assert_eq!(
        (&answer["channel"], &answer["arguments"]),
        (&json!("room:42"), &json!({"roomId": "42"}))
    );
    assert_eq!(
        (&answer["asking"], &answer["v"]),
        (&json!("event"), &json!(1))
    );

    let (headers, body) = got.lock().pop().unwrap();
    let header = headers["rowcast-signature"].to_str().unwrap();
    let mut parts = header.split(',');
    let time = parts.next().unwrap().strip_prefix("t=").unwrap();
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs();
    assert!(now.abs_diff(time.parse().unwrap()) < 60);
    let keys = [SECRET, "the secret of more than 32 bytes before that"];
    for (key, part) in keys.iter().zip(parts.by_ref()) {
        let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).unwrap();
        mac.update(format!("{time}.").as_bytes());
        mac.update(&body);
        let hex: String = mac
            .finalize()
            .into_bytes()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert_eq!(part, format!("v1={hex}"));
    }
    assert_eq!(parts.next(), None);
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_statuses_mean_what_they_say() {
    let (url, _, elsewhere) = serve().await;
    let application = application(&url, |_| {});
    assert_eq!(
        ask(&application, "redirect", Value::Null).await,
        Err(AskError::Unavailable)
    );
    assert_eq!(elsewhere.load(Ordering::SeqCst), 0);
    let denied = (
        "accessdenied".to_owned(),
        "Not a member of this room".to_owned(),
    );
    assert_eq!(refused(ask(&application, "no", Value::Null).await), denied);
    assert_eq!(
        ask(&application, "broken", Value::Null).await,
        Err(AskError::Unavailable)
    );
    assert_eq!(
        ask(&application, "text", Value::Null).await,
        Err(AskError::Failed)
    );
    assert_eq!(
        ask(&application, "long", Value::Null).await,
        Err(AskError::Failed)
    );
    // Only names of the configuration; what looks like an address is none.
    for name in ["other", &format!("{url}/echo"), "", "../echo"] {
        assert_eq!(
            ask(&application, name, Value::Null).await,
            Err(AskError::Failed),
            "{name}"
        );
    }
}

#[tokio::test]
async fn who_does_not_answer_is_left_alone_for_a_while() {
    let (url, got, _) = serve().await;
    let slow = application(&url, |config| {
        config.timeout = Duration::from_millis(500);
        config.pause = Duration::from_secs(3600);
    });
    for _ in 0..3 {
        assert_eq!(
            ask(&slow, "slow", Value::Null).await,
            Err(AskError::Unavailable)
        );
    }
    let began = std::time::Instant::now();
    assert_eq!(
        ask(&slow, "slow", Value::Null).await,
        Err(AskError::Unavailable)
    );
    assert!(
        began.elapsed() < Duration::from_millis(450),
        "nobody was asked"
    );
    // The others are not meant.
    assert!(ask(&slow, "echo", Value::Null).await.is_ok());
    assert_eq!(got.lock().len(), 1);

    // Nobody listens; then somebody does.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap();
    let gone = harness::webhooks(BTreeMap::from([(
        "echo".to_owned(),
        webhook(&format!("http://{address}/echo")),
    )]));
    for _ in 0..4 {
        assert_eq!(
            ask(&gone, "echo", Value::Null).await,
            Err(AskError::Unavailable)
        );
    }
    let listener = socket.listen(16).unwrap();
    let routes = Router::new().route("/echo", post(async |body: Bytes| body));
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while ask(&gone, "echo", Value::Null).await.is_err() {
        assert!(std::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn so_many_at_a_time_and_so_many_bytes_wait() {
    let (url, _, _) = serve().await;
    let application = application(&url, |config| config.timeout = Duration::from_secs(2));
    let large = json!("x".repeat(300_000));
    // A budget of 1 MiB has room for three of them, of which two are under way.
    let asked = (0..5).map(|_| ask(&application, "slow", large.clone()));
    let mut asked: Vec<_> = asked.map(Box::pin).collect();
    let mut answers = Vec::new();
    for one in &mut asked {
        let answer = tokio::time::timeout(Duration::from_millis(50), one).await;
        answers.push(answer.map_err(drop));
    }
    assert_eq!(
        answers[3..],
        [Ok(Err(AskError::Overloaded)), Ok(Err(AskError::Overloaded))]
    );
    assert_eq!(answers[..3], [Err(()), Err(()), Err(())]);
    drop(asked);
    assert!(
        ask(&application, "echo", json!(1)).await.is_ok(),
        "all of it came back"
    );
}
