//! Around the event stream: who is refused and how, what counts, and the programs that people read it with.

use super::sse::{PATH, bearer, get, stream};
use crate::harness::{
    browser::{self, Browser},
    client::Client,
    events,
    fixture::TRACK,
    token, until,
    world::World,
};

/// Who may not, or asks wrongly, gets an ordinary answer that says what would be right.
#[tokio::test]
async fn sse_refusals() {
    let origins = [("ALLOWED_ORIGINS", "https://app.example.com")];
    let world = World::prepared(TRACK, &origins).await;
    world.member("u1", "org_1").await;
    world.add_member("u1", "org_2", "member").await;
    for (query, status, code) in [
        ("?organization=org_9", 403, "not_member"),
        ("?organization=org_1&chanel=x", 400, "invalid_parameter"),
        ("?organization=org_1&token=x", 400, "token_in_address"),
        ("?organization=org_1&mode=some", 400, "invalid_field"),
        ("?organization=org_1&events=rows", 400, "invalid_field"),
        (
            "?organization=org_1&tables=%5B%7B",
            400,
            "invalid_parameter",
        ),
        ("?organization=org_1&channel=nope", 404, "unknown_channel"),
        (
            "?organization=org_1&channel=user:u2",
            403,
            "channel_forbidden",
        ),
        ("?organization=org_1&channel=org:org_9", 403, "not_member"),
        ("?organization=org_1&cursor=x", 400, "invalid_cursor"),
    ] {
        let refused = get(&world, "u1", query)
            .await
            .err()
            .unwrap_or_else(|| panic!("{query}"));
        assert_eq!(
            (refused.status, refused.code().as_str()),
            (status, code),
            "{query}: {refused:?}"
        );
    }
    let address = world.server.public;
    let refused = events::request(address, "GET", PATH, &[])
        .await
        .err()
        .unwrap();
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (401, "auth_required")
    );
    let token = bearer("u1");
    let auth = ("Authorization", token.as_str());
    let two = [auth, ("X-Organization-Id", "org_2")];
    let refused =
        events::request(address, "GET", &format!("{PATH}?organization=org_1"), &two).await;
    assert_eq!(refused.err().unwrap().code(), "invalid_parameter");
    let wrong = [("Authorization", "Bearer nonsense")];
    let refused = events::request(address, "GET", PATH, &wrong)
        .await
        .err()
        .unwrap();
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (401, "token_invalid")
    );
    for method in ["HEAD", "POST", "DELETE"] {
        let headers = [auth, ("Content-Length", "0")];
        let refused = events::request(address, method, PATH, &headers)
            .await
            .err()
            .unwrap();
        assert_eq!(refused.status, 405, "{method}");
        assert!(
            refused.head.to_ascii_lowercase().contains("allow: get"),
            "{refused:?}"
        );
    }

    // Pages of other origins are refused, and cannot read why; a page of ours may ask and read.
    let elsewhere = [auth, ("Origin", "https://evil.example")];
    let refused = events::request(address, "GET", PATH, &elsewhere)
        .await
        .err()
        .unwrap();
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (403, "origin_forbidden")
    );
    assert!(
        !refused.head.to_ascii_lowercase().contains("access-control"),
        "{refused:?}"
    );
    let ours = ("Origin", "https://app.example.com");
    let asked = [ours, ("Access-Control-Request-Headers", "authorization")];
    let preflight = events::request(address, "OPTIONS", PATH, &asked)
        .await
        .err()
        .unwrap();
    let head = preflight.head.to_ascii_lowercase();
    assert_eq!(preflight.status, 204);
    for line in [
        "access-control-allow-origin: https://app.example.com",
        "last-event-id",
        "rowcast-grant",
        "vary: origin",
    ] {
        assert!(head.contains(line), "{head}");
    }
    assert!(!head.contains("allow-credentials"));
    let named = [auth, ours, ("X-Organization-Id", "org_1")];
    let stream = events::request(address, "GET", PATH, &named)
        .await
        .ok()
        .unwrap();
    assert!(
        stream
            .head
            .contains("access-control-allow-origin: https://app.example.com")
    );
}

/// Streams count as sockets: against the limit of an organization, and in the figures; and what ends is given back.
#[tokio::test]
async fn sse_counts_as_a_socket() {
    let env = [("ROWCAST__LIMITS__CONNECTIONS_PER_ORGANIZATION", "2")];
    let world = World::prepared(TRACK, &env).await;
    let socket = world.member("u1", "org_1").await;
    let stream = stream(&world, "u1", "").await;
    let refused = get(&world, "u1", "").await.err().unwrap();
    assert_eq!(
        (refused.status, refused.code().as_str()),
        (429, "connections_limited")
    );
    let mut third = Client::open(world.server.public).await;
    let refused = third.auth(&token::session("u1"), "org_1").await.unwrap();
    assert_eq!(refused.text_of("name"), "connections_limited");
    assert_eq!(world.server.metric("event_streams").await, 1.0);
    drop(stream);
    until("its place is free", async || {
        get(&world, "u1", "").await.is_ok()
    })
    .await;
    drop(socket);
}

/// The program `curl`, and a page that reads the stream with `fetch`, where there are such programs.
#[tokio::test]
async fn sse_curl_and_a_browser() {
    let world = World::prepared(TRACK, &[("ROWCAST_DEMO_PAGE", "true")]).await;
    world.member("u1", "org_1").await;
    let url = format!("http://{}{PATH}", world.server.public);
    let curl = tokio::process::Command::new("curl")
        .args([
            "-sSN",
            "--max-time",
            "3",
            "-H",
            &format!("Authorization: {}", bearer("u1")),
            &url,
        ])
        .output()
        .await;
    if let Ok(output) = curl {
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(text.starts_with("retry: "), "{text}");
        assert!(text.contains("data: {\"type\":\"subscribed\""), "{text}");
    }
    let Some(program) = browser::installed() else {
        return;
    };
    let mut page =
        Browser::open(&program, &format!("http://{}/healthz", world.server.public)).await;
    page.until(
        "the page",
        "document.readyState == 'complete' && location.pathname == '/healthz'",
    )
    .await;
    let script = format!(
        "window.text = ''; fetch('{PATH}', {{ headers: {{ Authorization: '{}' }} }}).then(async answer => {{
            const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
            for (;;) {{ const {{ done, value }} = await reader.read(); if (done) break; window.text += value; }}
        }}); true",
        bearer("u1")
    );
    page.eval(&script).await;
    page.until(
        "subscribed",
        "window.text.includes('\"type\":\"subscribed\"')",
    )
    .await;
    world
        .exec("INSERT INTO orders VALUES (77, 'org_1', 1)")
        .await;
    page.until("the row", "window.text.includes('\"new\":{\"id\":77')")
        .await;
}
