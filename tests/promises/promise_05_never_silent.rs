//! Promise 5: never silent. A client always knows how far it is.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{
    client::{Client, PATIENCE},
    token,
    world::World,
};

#[tokio::test]
async fn promise_05_an_idle_socket_is_told_its_position() {
    let world = World::start().await;
    let mut client = world.member("u1", "org_1").await;
    let mut heard = Instant::now();
    let mut last = String::new();
    for round in 0..2 {
        world
            .exec(&format!("INSERT INTO orders VALUES ({round}, 'org_1', 1)"))
            .await;
        let event = client.event("orders").await;
        let frame = client
            .until("the position", |frame| frame.is("position"))
            .await;
        // The promise is 10 s; a machine that runs all tests at once may be late.
        assert!(heard.elapsed() < Duration::from_secs(12), "{round}");
        heard = Instant::now();
        last = frame.text_of("cursor").to_owned();
        assert!(behind(&last, event.text_of("cursor")), "{last}");
    }
    drop(client);
    // It is worth as much as the cursor of an event: nothing before it comes again, everything behind it does.
    world
        .exec("INSERT INTO orders VALUES (7, 'org_1', 1)")
        .await;
    let mut client = Client::open(world.server.public).await;
    let auth = json!({ "type": "auth", "token": token::session("u1"), "organizationId": "org_1", "cursor": last });
    client.send(auth).await;
    let replies = [
        client.next(PATIENCE).await.unwrap(),
        client.next(PATIENCE).await.unwrap(),
    ];
    assert!(replies[0].is("auth_success"), "{}", replies[0].text);
    assert_eq!(replies[1].text_of("cursor"), last, "{}", replies[1].text);
    assert_eq!(client.event("orders").await.json["new"]["id"], 7);
}

fn behind(a: &str, b: &str) -> bool {
    let cursor = |text: &str| text.parse::<rowcast_model::Cursor>().unwrap();
    cursor(a).compare(&cursor(b)) == Some(std::cmp::Ordering::Greater)
}
