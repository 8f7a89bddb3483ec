//! Key sets over real HTTP, from servers that do not do as they should.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

use super::*;

const KEY: &str = r#"{"kty":"OKP","crv":"Ed25519","kid":"one","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
/// Everything is asked again at once.
const EAGER: Pace = Pace {
    max_age: Duration::ZERO,
    min_age: Duration::ZERO,
    retry: Duration::ZERO,
};

/// A server that answers the nth request with `answer(n)`, closes, and counts; each answer takes a permit.
struct Server {
    url: String,
    asked: Arc<AtomicUsize>,
    permits: Arc<Semaphore>,
}

impl Server {
    async fn start(answer: impl Fn(usize) -> Vec<u8> + Send + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/keys", listener.local_addr().unwrap());
        let asked = Arc::new(AtomicUsize::new(0));
        let permits = Arc::new(Semaphore::new(1000));
        let (count, gate) = (asked.clone(), permits.clone());
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                read_head(&mut stream).await;
                let bytes = answer(count.fetch_add(1, Ordering::SeqCst));
                gate.acquire().await.unwrap().forget();
                // A client that has read enough hangs up; that is its right.
                let _ = stream.write_all(&bytes).await;
            }
        });
        Server {
            url,
            asked,
            permits,
        }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn jwks(&self, pace: Pace) -> Jwks {
        Jwks::with_pace(&self.url, None, pace).unwrap()
    }
}

async fn read_head(stream: &mut TcpStream) {
    let mut head = Vec::new();
    let mut part = [0; 1024];
    while !head.windows(4).any(|four| four == b"\r\n\r\n") {
        match stream.read(&mut part).await {
            Ok(count @ 1..) => head.extend_from_slice(&part[..count]),
            _ => return,
        }
    }
}

fn ok(body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}")
        .into_bytes()
}

fn set() -> Vec<u8> {
    ok(&format!(r#"{{"keys":[{KEY}]}}"#))
}

async fn found(jwks: &Jwks, kid: &str) -> Result<usize, ErrorCode> {
    let keys = jwks.keys_for(Some(kid), Algorithm::EdDSA).await;
    keys.map(|keys| keys.len()).map_err(|refused| refused.code)
}

#[tokio::test]
async fn answers_that_are_no_key_set_are_our_fault_not_the_tokens() {
    let padded = |bytes: usize| format!(r#"{{"keys":[{KEY}],"pad":"{}"}}"#, "x".repeat(bytes));
    let endless = || {
        // No length is told, and it goes on for longer than we read.
        let mut bytes = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".to_vec();
        bytes.extend(padded(2_000_000).into_bytes());
        bytes
    };
    let cases = [
        ("too large", ok(&padded(MAX_BYTES))),
        ("too large, and unannounced", endless()),
        (
            "an error",
            b"HTTP/1.1 500 No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".to_vec(),
        ),
        ("not JSON", ok("<html>")),
        ("no HTTP", b"hello".to_vec()),
        ("nothing", Vec::new()),
    ];
    for (what, answer) in cases {
        let server = Server::start(move |_| answer.clone()).await;
        let jwks = server.jwks(EAGER);
        assert_eq!(
            found(&jwks, "one").await,
            Err(ErrorCode::AuthUnavailable),
            "{what}"
        );
        assert_eq!(server.asked(), 1, "{what}");
    }
    let server = Server::start(move |_| ok(&padded(MAX_BYTES - 1000))).await;
    assert_eq!(
        found(&server.jwks(EAGER), "one").await,
        Ok(1),
        "just small enough"
    );
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let elsewhere = Server::start(|_| set()).await;
    let to = elsewhere.url.clone();
    let server = Server::start(move |_| {
        format!(
            "HTTP/1.1 302 Found\r\nLocation: {to}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
        )
        .into_bytes()
    })
    .await;
    assert_eq!(
        found(&server.jwks(EAGER), "one").await,
        Err(ErrorCode::AuthUnavailable)
    );
    assert_eq!((server.asked(), elsewhere.asked()), (1, 0));
}

#[tokio::test]
async fn old_keys_count_while_the_set_cannot_be_fetched() {
    let server = Server::start(|n| match n {
        0 => set(),
        1 => b"HTTP/1.1 503 Later\r\nConnection: close\r\nContent-Length: 0\r\n\r\n".to_vec(),
        _ => ok(r#"{"keys":[]}"#),
    })
    .await;
    let jwks = server.jwks(EAGER);
    assert_eq!(found(&jwks, "one").await, Ok(1));
    assert_eq!(
        found(&jwks, "one").await,
        Ok(1),
        "old, but there is nothing better"
    );
    assert_eq!(
        found(&jwks, "one").await,
        Ok(0),
        "taken out of the set: it counts no more"
    );
    assert_eq!(server.asked(), 3);
}

#[tokio::test]
async fn a_new_key_is_found_when_its_first_token_comes() {
    let server = Server::start(|n| match n {
        0 => set(),
        _ => ok(&format!(
            r#"{{"keys":[{KEY},{}]}}"#,
            KEY.replace("one", "two")
        )),
    })
    .await;
    let jwks = server.jwks(Pace {
        min_age: Duration::ZERO,
        ..Pace::default()
    });
    assert_eq!(found(&jwks, "one").await, Ok(1));
    assert_eq!(found(&jwks, "two").await, Ok(1));
    assert_eq!(found(&jwks, "one").await, Ok(1));
    assert_eq!(server.asked(), 2);
    // With the usual pace, ids that nobody knows make us ask no more.
    let server = Server::start(|_| set()).await;
    let jwks = server.jwks(Pace::default());
    for kid in ["one", "x", "y", "z", "one"] {
        assert_eq!(found(&jwks, kid).await, Ok(usize::from(kid == "one")));
    }
    assert_eq!(server.asked(), 1);
}

/// Many ask for a key while the set is on its way; all of them get this.
async fn all_find(server: &Server, expected: Result<usize, ErrorCode>) {
    server.permits.forget_permits(1000);
    let jwks = Arc::new(server.jwks(Pace::default()));
    let waiting: Vec<_> = (0..50)
        .map(|_| {
            let jwks = jwks.clone();
            tokio::spawn(async move { found(&jwks, "one").await })
        })
        .collect();
    while server.asked() < 1 {
        tokio::task::yield_now().await;
    }
    server.permits.add_permits(1000);
    for one in waiting {
        assert_eq!(one.await.unwrap(), expected);
    }
}

#[tokio::test]
async fn many_who_need_the_set_ask_once() {
    let server = Server::start(|_| set()).await;
    all_find(&server, Ok(1)).await;
    assert_eq!(server.asked(), 1);
}

#[tokio::test]
async fn many_who_wait_in_vain_do_not_wait_for_each_other() {
    let server = Server::start(|_| Vec::new()).await;
    all_find(&server, Err(ErrorCode::AuthUnavailable)).await;
    assert_eq!(server.asked(), 1, "one attempt for all");
}

#[test]
fn a_set_is_asked_when_it_helps_and_not_too_often() {
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    // (a key fits, age of the set, since the last attempt) and whether it is asked.
    for (found, age, since, asked) in [
        (false, None, None, true),
        (false, None, Some(Duration::from_millis(999)), false),
        (false, None, seconds(1), true),
        (true, seconds(599), seconds(599), false),
        (true, seconds(600), seconds(600), true),
        // The set cannot be fetched: its old keys count, and it is tried again every 30 s.
        (true, seconds(700), seconds(29), false),
        (true, seconds(700), seconds(30), true),
        // An unknown key id.
        (false, seconds(29), seconds(29), false),
        (false, seconds(30), seconds(30), true),
    ] {
        let allowed = Pace::default().allowed(found, age, since);
        assert_eq!(allowed, asked, "{found} {age:?} {since:?}");
    }
}

#[test]
fn keys_of_unknown_kinds_spoil_no_others() {
    let odd = [
        r#"{"kty":"EC","crv":"secp256k1","kid":"a","x":"AA","y":"AA"}"#,
        r#"{"kty":"OKP","crv":"X25519","kid":"b","x":"AA"}"#,
        r#"{"kty":"AKP","alg":"ML-DSA-65","kid":"c"}"#,
        r#"{"kty":"oct","kid":"d","k":"c2VjcmV0"}"#,
        r#"{"kty":"RSA","kid":"e","n":"!","e":"!"}"#,
        r#"{"kid":7}"#,
        "7",
    ];
    let body = format!(r#"{{"keys":[{},{KEY}]}}"#, odd.join(","));
    let keys = read(body.as_bytes()).unwrap();
    let usable: Vec<_> = keys
        .iter()
        .filter(|(_, key)| key.takes(Algorithm::EdDSA))
        .filter_map(|(id, _)| id.as_deref())
        .collect();
    assert_eq!(usable, ["one"]);
    assert!(keys.iter().all(|(id, _)| id.as_deref() != Some("d")));
    assert!(read(b"[]").is_err());
}

#[test]
fn a_key_for_encryption_or_with_another_algorithm_is_not_used() {
    let with = |extra: &str| {
        let key = KEY.replace(r#""kid":"one""#, extra);
        read(format!(r#"{{"keys":[{key}]}}"#).as_bytes())
            .unwrap()
            .len()
    };
    assert_eq!(with(r#""kid":"one""#), 1);
    assert_eq!(with(r#""use":"sig","alg":"EdDSA""#), 1);
    assert_eq!(with(r#""use":"enc""#), 0);
    assert_eq!(with(r#""alg":"RS256""#), 0);
}
