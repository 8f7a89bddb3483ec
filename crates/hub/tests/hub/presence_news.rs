//! What handlers are told of who comes and leaves.

use rowcast_hub::Identity;
use rowcast_model::{Becomes, ClientEventChange, ClientEventRule, Handler, UserId};
use serde_json::value::RawValue;

use super::*;

fn handler(event: &str) -> HubOp {
    HubOp::ClientEvent(ClientEventChange {
        pattern: "room:*".into(),
        event: event.into(),
        now: Some(Arc::new(ClientEventRule {
            pattern: "room:*".parse().unwrap(),
            event: event.into(),
            becomes: Becomes::Question(Handler::Webhook("hook".into())),
            roles: Arc::new([]),
            input: None,
            max_bytes: 1000,
            throttle: None,
            rate: None,
        })),
    })
}

/// For handlers: the first connection of a user, and his last, while there are handlers.
#[test]
fn x12_comings_and_goings_of_users_are_put_into_a_queue_that_is_bounded() {
    let hub = hub(limits());
    let mut news = hub.presence_news(2);
    let unheard = follower(&hub, "anna");
    joins(&hub, &unheard);
    hub.disconnect(&unheard.connection);
    assert!(news.try_recv().is_err());
    hub.publish(batch(vec![
        handler("presence.join"),
        handler("presence.leave"),
    ]));
    hub.publish(batch(vec![member("anna", "acme", Some("member"))]));
    let [first, second] = [0, 1].map(|_| {
        let claims = RawValue::from_string(r#"{"sub":"anna"}"#.into()).unwrap();
        let identity = Identity {
            claims: hub.keep_claims(claims),
            ..Identity::session("anna")
        };
        let client = Client::new(&hub, identity);
        follows(&hub, &client, json!(true));
        client
    });
    act(&hub, &first, "join", json!({"name": "Ada"})).unwrap();
    joins(&hub, &second);
    hub.disconnect(&first.connection);
    hub.publish(batch(vec![member("anna", "acme", None)]));
    let came = news.try_recv().unwrap();
    let it = &came.news;
    assert_eq!(
        (it.event(), &*it.channel, it.who.id()),
        ("presence.join", "room:1", "anna")
    );
    assert_eq!(it.topic.organization().map(OrgId::as_str), Some("acme"));
    // He is no member any more, so nobody asks in his name as if he were; that he left is told all the same.
    assert!(hub.presence_question(&came).is_none());
    let left = news.try_recv().unwrap();
    assert_eq!(
        (left.news.event(), left.news.connection),
        ("presence.leave", second.connection.id())
    );
    let question = hub.presence_question(&left).unwrap();
    let caller = &question.caller;
    assert_eq!(caller.user_id.as_ref().map(UserId::as_str), Some("anna"));
    assert_eq!(
        caller.organization_id.as_ref().map(OrgId::as_str),
        Some("acme")
    );
    assert!(caller.roles.is_empty());
    let connection = second.connection.id();
    let input: Value = serde_json::from_str(question.input.get()).unwrap();
    assert_eq!(
        input,
        json!({"connectionId": connection.to_string(), "state": {}})
    );
    assert!(news.try_recv().is_err());
    // Nobody waits for a handler.
    for _ in 0..5 {
        let bert = follower(&hub, "bert");
        joins(&hub, &bert);
        hub.disconnect(&bert.connection);
    }
    assert_eq!(std::iter::from_fn(|| news.try_recv().ok()).count(), 2);
    // No client says these itself.
    let bert = follower(&hub, "bert");
    let channel = "room:1".parse().unwrap();
    let sent = hub.client_event(
        &bert.connection,
        &channel,
        Some(&"acme".into()),
        "presence.join",
    );
    assert_eq!(sent.unwrap_err().error_code(), ErrorCode::UnknownEvent);
}
