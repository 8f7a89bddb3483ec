//! Explanations and lists, through the hub's public front.

use std::sync::Arc;

use rowcast_hub::{Identity, Question, StreamState, Verdict, Which};
use rowcast_model::{Channel, Timestamp};
use rowcast_wire::CloseCode;

use super::support::*;

fn question(user: &str, channel: &str) -> Question {
    Question {
        identity: Identity::session(user),
        organization: Some("acme".into()),
        channel: channel.parse::<Channel>().unwrap(),
        table: None,
        record: None,
        operation: None,
        otherwise: None,
    }
}

#[test]
fn a_stream_that_is_not_read_says_no() {
    let hub = hub();
    let anna = Client::member(&hub, "anna", &["acme"], &["org:acme"]);
    hub.publish(single("acme", 10, 1));
    let stops = |hub: &rowcast_hub::Hub| {
        let gates = hub.explain(&question("anna", "org:acme")).gates;
        let no = gates.into_iter().filter(|gate| gate.verdict == Verdict::No);
        no.map(|gate| gate.gate).collect::<Vec<_>>()
    };
    assert!(stops(&hub).is_empty());
    hub.announce(StreamState::Stale {
        since: Timestamp(0),
        reason: Arc::from("the cable is cut"),
    });
    assert_eq!(stops(&hub), ["stream"]);
    hub.disconnect(&anna.connection);
    assert_eq!(stops(&hub), ["socket", "stream"]);
}

#[test]
fn pages_show_everybody_once_and_closing_finds_whom_it_means() {
    let hub = hub();
    let clients: Vec<Client> = (0..250)
        .map(|n| {
            let organization = if n % 5 == 0 { "other" } else { "acme" };
            let channel = format!("org:{organization}");
            Client::member(&hub, &format!("u{}", n % 100), &[organization], &[&channel])
        })
        .collect();
    for client in clients.iter().skip(3).step_by(7) {
        hub.disconnect(&client.connection);
    }
    let (mut seen, mut from) = (Vec::new(), Some(0));
    while let Some(at) = from {
        let (page, next) = hub.connected(&Which::default(), at, 17);
        assert!(page.len() <= 17);
        seen.extend(page.into_iter().map(|one| one.id));
        from = next;
    }
    assert_eq!(seen.len(), hub.connections());
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), hub.connections());
    let (heard, all, complete) = hub.heard("org:", 1);
    assert_eq!((heard.len(), all, complete), (1, 2, true));
    let other = Which {
        organization: Some("other".into()),
        ..Which::default()
    };
    let (page, _) = hub.connected(&other, 0, 1000);
    assert_eq!(
        hub.disconnect_where(&other, CloseCode::Kicked, Some("bye")),
        page.len()
    );
    assert_eq!(hub.disconnect_where(&other, CloseCode::Kicked, None), 0);
    let closed = clients
        .iter()
        .filter(|client| client.connection.closed() == Some(CloseCode::Kicked));
    assert_eq!(closed.count(), page.len());
}
