//! Grants on an event stream: taken, refused and ended as on a socket; G25 and G27 without a WebSocket.

use serde_json::{Value, json};

use super::{
    authorized::{GRANTS, world},
    sse::{PATH, bearer},
};
use crate::harness::{
    client::Frame,
    events::{self, Events, Refused},
    token, until,
    world::World,
};

const DOCS: &str =
    "SELECT rowcast.define_channel('doc:{id}', 'authorized', grants => true);
     SELECT rowcast.define_channel('both:{id}', 'authorized', authorizer => 'app.may_join', grants => true);";

/// A grant for anna on `doc:1`, but for what `change` says.
fn grant(change: Value) -> String {
    // The log is read from before the first grant on.
    let now = token::now() + 1;
    let mut claims = json!({ "channel": "doc:1", "sub": "anna", "organizationId": "org_1", "epoch": 5, "iat": now, "exp": now + 120 });
    for (name, value) in change.as_object().unwrap() {
        claims[name] = value.clone();
    }
    token::sign_with(&claims, GRANTS)
}

async fn open(
    world: &World,
    query: &str,
    lines: &[&str],
    last: Option<&str>,
) -> Result<Events, Refused> {
    let token = bearer("anna");
    let mut headers = vec![("Authorization", token.as_str())];
    headers.extend(lines.iter().map(|line| ("Rowcast-Grant", *line)));
    headers.extend(last.map(|last| ("Last-Event-ID", last)));
    let target = format!("{PATH}?organization=org_1{query}");
    events::request(world.server.public, "GET", &target, &headers).await
}

async fn say(world: &World, channel: &str, number: i64) {
    let says = "SELECT rowcast.send($1, 'e', to_jsonb($2::bigint), 'org_1')";
    world.sql.execute(says, &[&channel, &number]).await.unwrap();
}

async fn hears(stream: &mut Events, channel: &str, number: i64) -> Frame {
    let wanted = |frame: &Frame| frame.is("broadcast") && frame.text_of("channel") == channel;
    let event = stream.until("what was said", wanted).await;
    assert_eq!(event.frame.json["payload"], number, "{}", event.frame.text);
    event.frame
}

/// MISSION G25: what a socket may not bring, a stream may not either, with the same names; nothing of it is in an answer,
/// and nothing in the log of the service.
#[tokio::test]
async fn g25_sse_grants_are_those_of_a_socket() {
    let world = world(DOCS).await;
    world.member("anna", "org_1").await;
    let good = grant(json!({}));
    let long = "x".repeat(4097);
    let two = format!("{good},{good}");
    let crowd = vec!["x"; 17].join(",");
    let other = "another key of more than thirty-two bytes";
    let forged = token::sign_with(&json!({ "channel": "doc:1", "sub": "anna" }), other);
    let past = token::now() - 10;
    let mut secrets = Vec::new();
    for (what, query, line, status, code) in [
        (
            "none",
            "&channel=doc:1",
            String::new(),
            403,
            "grant_invalid",
        ),
        ("forged", "&channel=doc:1", forged, 403, "grant_invalid"),
        (
            "a token",
            "&channel=doc:1",
            token::session("anna"),
            403,
            "grant_invalid",
        ),
        (
            "another's",
            "&channel=doc:1",
            grant(json!({"sub": "bert"})),
            403,
            "grant_invalid",
        ),
        (
            "another organization",
            "&channel=doc:1",
            grant(json!({"organizationId": "org_2"})),
            403,
            "grant_invalid",
        ),
        (
            "no organization",
            "&channel=doc:1",
            grant(json!({"organizationId": null})),
            403,
            "grant_invalid",
        ),
        (
            "another channel",
            "&channel=doc:2",
            good.clone(),
            403,
            "grant_invalid",
        ),
        (
            "no such channel here",
            "",
            good.clone(),
            403,
            "grant_invalid",
        ),
        (
            "no way around a function",
            "&channel=both:1",
            good.clone(),
            403,
            "grant_invalid",
        ),
        (
            "expired",
            "&channel=doc:1",
            grant(json!({"exp": past})),
            403,
            "grant_expired",
        ),
        (
            "issued long ago",
            "&channel=doc:1",
            grant(json!({"iat": past - 100_000})),
            403,
            "grant_expired",
        ),
        ("too long", "&channel=doc:1", long, 400, "invalid_field"),
        ("twice", "&channel=doc:1", two, 400, "invalid_parameter"),
        (
            "too many",
            "&channel=doc:1",
            crowd,
            400,
            "invalid_parameter",
        ),
    ] {
        let refused = open(&world, query, &[&line], None).await.err().expect(what);
        assert_eq!(
            (refused.status, refused.code().as_str()),
            (status, code),
            "{what}: {refused:?}"
        );
        let signature = line.rsplit('.').next().unwrap_or_default();
        assert!(
            signature.len() < 9 || !refused.body.contains(signature),
            "{what}: {refused:?}"
        );
        secrets.push(line);
    }
    let refused = open(&world, &format!("&channel=doc:1&grant={good}"), &[], None).await;
    let refused = refused.err().unwrap();
    assert_eq!(refused.code(), "token_in_address");
    assert!(refused.body.contains("Rowcast-Grant") && !refused.body.contains(&good));
    assert!(
        world
            .server
            .metric("handshakes_total{reason=\"grant_invalid\"}")
            .await
            >= 9.0
    );

    // A key is nobody, whatever its grant says.
    let key: String = world.api_key("org_1").await;
    let key = format!("Bearer {key}");
    until("the key is known", async || {
        let headers = [("Authorization", &*key), ("Rowcast-Grant", &*good)];
        let target = format!("{PATH}?channel=doc:1");
        let refused = events::request(world.server.public, "GET", &target, &headers).await;
        let code = refused.err().unwrap().code();
        assert!(
            ["token_invalid", "grant_invalid"].contains(&&*code),
            "{code}"
        );
        code == "grant_invalid"
    })
    .await;

    // Several, on one line and on two, beside a channel that needs none.
    let both = grant(json!({"channel": "both:1"}));
    let query = "&channel=org:org_1&channel=both:1&channel=doc:1";
    let line = format!("{good}, {both}");
    for lines in [&[line.as_str()][..], &[&good, &both]] {
        let mut stream = open(&world, query, lines, None).await.unwrap();
        for (number, channel) in [(1, "doc:1"), (2, "both:1")] {
            say(&world, channel, number).await;
            hears(&mut stream, channel, number).await;
        }
    }
    // Where no grants are taken, the function is asked all the same.
    let useless = grant(json!({"channel": "room:2"}));
    let mut stream = open(&world, "&channel=room:2", &[&useless], None)
        .await
        .unwrap();
    let refused = stream.until("the answer", |frame| frame.is("error")).await;
    assert_eq!(refused.frame.json["code"], 320);
    let log = world.server.log();
    for secret in secrets.iter().chain([&good, &both, &useless]) {
        let signature = secret.rsplit('.').next().unwrap_or_default();
        assert!(signature.len() < 9 || !log.contains(signature), "{log}");
    }
}

/// MISSION G25, G27: the channel ends with the grant, and with a revocation that the grant does not outlast; the stream
/// says so and goes on, and whoever comes back with a fresh one misses nothing.
#[tokio::test]
async fn g25_g27_a_grant_on_a_stream_ends_and_is_revoked() {
    let world = world(DOCS).await;
    let mut anna = world.member("anna", "org_1").await;
    let query = "&channel=org:org_1&channel=doc:1";
    let short = grant(json!({"exp": token::now() + 4}));
    let mut stream = open(&world, query, &[&short], None).await.unwrap();
    say(&world, "doc:1", 1).await;
    hears(&mut stream, "doc:1", 1).await;
    let gone = |frame: &Frame| frame.is("unsubscribed") && frame.text_of("channel") == "doc:1";
    let told = stream.until("the end", gone).await;
    assert_eq!(told.frame.text_of("reason"), "authorization_expired");
    say(&world, "doc:1", 2).await;
    let fence = world.fence("org_1").await;
    let after = stream.until_fence(fence).await;
    assert!(after.is_empty(), "{after:?}");
    let last = stream.last_id.clone().unwrap();

    let refused = open(&world, query, &[&short], Some(&last))
        .await
        .err()
        .unwrap();
    assert_eq!(refused.code(), "grant_expired");
    let good = grant(json!({}));
    let mut stream = open(&world, query, &[&good], Some(&last)).await.unwrap();
    hears(&mut stream, "doc:1", 2).await;
    // A revocation of an earlier list does not touch it, a later one ends it at its place.
    world
        .exec(
            "SELECT rowcast.revoke('doc:1', 5, NULL, 'org_1');
             SELECT rowcast.send('doc:1', 'e', '3', 'org_1')",
        )
        .await;
    hears(&mut stream, "doc:1", 3).await;
    world
        .exec(
            "SELECT rowcast.revoke('doc:1', 6, 'privacy', 'org_1');
             SELECT rowcast.send('doc:1', 'e', '4', 'org_1')",
        )
        .await;
    let told = stream.until("the end", gone).await.frame;
    assert_eq!(
        (told.text_of("reason"), &told.json["epoch"]),
        ("privacy", &json!(6))
    );
    let fence = world.fence("org_1").await;
    let after = stream.until_fence(fence).await;
    assert!(after.is_empty(), "{after:?}");
    let refused = open(&world, query, &[&good], None).await.err().unwrap();
    assert_eq!(refused.code(), "grant_expired");
    anna.until_fence(fence).await;
}
