//! Memberships and keys: they begin and end at their place in the log.

use rowcast_hub::{Auth, HubError, Identity};
use rowcast_model::{HubOp, KeyChange, KeyFacts, KeySecret, Timestamp};
use rowcast_wire::CloseCode;

use crate::support::*;

/// Promise 7.
#[test]
fn nothing_after_the_removal_is_delivered() {
    let hub = hub();
    let anna = Client::member(
        &hub,
        "anna",
        &["acme", "other"],
        &["org:acme", "tenant:acme:tasks", "org:other"],
    );
    let insert = |lsn, org| HubOp::from(event(org, at(lsn, 0), lsn as u32));
    // All in one batch: only the order of the log counts.
    hub.publish(batch(vec![
        insert(1, "acme"),
        commit(1),
        member("anna", "acme", None),
        commit(2),
        insert(3, "acme"),
        insert(4, "other"),
    ]));
    assert_eq!(
        anna.told(),
        [
            "INSERT 1 on org:acme",
            "INSERT 1 on tenant:acme:tasks",
            "commit org:acme",
            "commit tenant:acme:tasks",
            "unsubscribed org:acme",
            "unsubscribed tenant:acme:tasks",
            "membership \"acme\" null",
            "INSERT 4 on org:other",
        ]
    );
    let refused = hub.subscribe(&anna.connection, to("org:acme"));
    assert_eq!(refused, Err(HubError::NotMember("acme".into())));
}

#[test]
fn roles_are_followed_live() {
    let hub = hub();
    let anna = Client::member(&hub, "anna", &["acme"], &["org:acme"]);
    let for_admins = |lsn| {
        let mut event = event("acme", at(lsn, 0), lsn as u32);
        event.audience.required_roles = std::sync::Arc::new(["admin".into()]);
        event.last = true;
        HubOp::from(event)
    };
    hub.publish(batch(vec![
        for_admins(1),
        member("anna", "acme", Some("admin")),
        for_admins(2),
        member("anna", "acme", Some("member")),
        for_admins(3),
    ]));
    assert_eq!(
        anna.told(),
        [
            "membership \"acme\" [\"admin\"]",
            "INSERT 2 on org:acme!",
            "membership \"acme\" [\"member\"]",
        ]
    );
    assert_eq!(
        hub.roles(&Identity::session("anna"), &"acme".into()),
        Some(vec!["member".into()])
    );
}

#[test]
fn a_gained_membership_is_told_and_can_be_used() {
    let hub = hub();
    let anna = Client::member(&hub, "anna", &["acme"], &["user:anna"]);
    hub.publish(batch(vec![member("anna", "other", Some("member"))]));
    assert_eq!(anna.told(), ["membership \"other\" [\"member\"]"]);
    hub.subscribe(&anna.connection, to("org:other")).unwrap();
    assert_eq!(
        hub.organizations(&Identity::session("anna")),
        ["acme".into(), "other".into()]
    );
}

#[test]
fn when_all_memberships_are_void_only_claims_remain() {
    let hub = hub();
    let anna = Client::member(&hub, "anna", &["acme"], &["org:acme"]);
    let claims = Identity {
        user: "carl".into(),
        auth: Auth::Session {
            granted: std::sync::Arc::new([("acme".into(), std::sync::Arc::new([]))]),
        },
        claims: None,
    };
    let carl = Client::new(&hub, claims);
    hub.subscribe(&carl.connection, to("org:acme")).unwrap();
    carl.told();
    let mut ops = vec![HubOp::MembershipsCleared];
    ops.extend(single("acme", 1, 1).ops);
    hub.publish(batch(ops));
    assert_eq!(
        anna.told(),
        ["unsubscribed org:acme", "membership \"acme\" null"]
    );
    assert_eq!(carl.told(), ["INSERT 1 on org:acme!"]);
}

#[test]
fn a_revoked_key_closes_its_sockets_for_good() {
    let hub = hub();
    hub.publish(batch(vec![
        key("k1", Some("acme")),
        key("k2", Some("acme")),
    ]));
    let clients = ["k1", "k2"].map(|id| {
        let client = Client::new(&hub, machine(id));
        hub.subscribe(&client.connection, to("org:acme")).unwrap();
        client.told();
        client
    });
    let mut ops = vec![key("k1", None)];
    ops.extend(single("acme", 1, 1).ops);
    hub.publish(batch(ops));
    assert_eq!(clients[0].connection.closed(), Some(CloseCode::KeyRevoked));
    assert!(clients[0].told().is_empty());
    assert_eq!(clients[1].told(), ["INSERT 1 on org:acme!"]);
    assert_eq!(hub.api_key("k1"), None);
    assert!(
        hub.subscribe(&Client::new(&hub, machine("k1")).connection, to("org:acme"))
            .is_err()
    );
}

/// Q25: the secret before a rotation counts until its time, also on open sockets; the new one goes on.
#[test]
fn a_socket_of_a_key_ends_with_the_secret_it_has_shown() {
    let hub = hub();
    let facts = || key_of("k", "acme");
    let publish = |facts: KeyFacts| {
        let (id, now) = ("k".into(), Some(facts));
        hub.publish(batch(vec![HubOp::ApiKey(KeyChange { id, now })]));
    };
    publish(facts());
    let old = Client::new(&hub, machine("k"));
    assert_eq!(old.connection.work().ends, None);
    let secret = |hash: &str, until| KeySecret {
        hash: hash.into(),
        until,
    };
    let rotated = |until| KeyFacts {
        secrets: vec![secret("new", None), secret("hash of k", Some(until))],
        ..facts()
    };
    publish(rotated(Timestamp(500)));
    let new = Client::new(&hub, Identity::api_key("k", "new"));
    let ends = || [&old, &new].map(|client| client.connection.work().ends);
    assert_eq!(ends(), [Some(Timestamp(500)), None]);
    // The end of the key is the end of both; the earlier one counts.
    publish(KeyFacts {
        expires: Some(Timestamp(900)),
        ..rotated(Timestamp(500))
    });
    assert_eq!(ends(), [Some(Timestamp(500)), Some(Timestamp(900))]);
    // A socket that shows the new secret goes on with it.
    let renewed = hub.renew(&old.connection, Identity::api_key("k", "new"));
    assert_eq!((renewed, ends()[0]), (Ok(()), Some(Timestamp(900))));
    publish(rotated(Timestamp(500)));
    assert_eq!(ends(), [None, None]);
    // Without a grace period the old secret is worth nothing at once.
    let third = Client::new(&hub, machine("k"));
    hub.subscribe(&third.connection, to("org:acme")).unwrap();
    publish(KeyFacts {
        secrets: vec![secret("new", None)],
        ..facts()
    });
    let closed = [&old, &new, &third].map(|client| client.connection.closed());
    assert_eq!(closed, [None, None, Some(CloseCode::KeyRevoked)]);
    // Whoever comes with it after that is closed as well, and gets nothing.
    let late = Client::new(&hub, machine("k"));
    assert_eq!(late.connection.closed(), Some(CloseCode::KeyRevoked));
    assert!(hub.subscribe(&late.connection, to("org:acme")).is_err());
}

/// Q25: a key of several organizations hears each, and one that is taken away no more.
#[test]
fn a_key_is_for_the_organizations_it_names() {
    let hub = hub();
    let publish = |organizations: &[&str]| {
        let organizations = organizations.iter().map(|id| (*id).into()).collect();
        let now = Some(KeyFacts {
            organizations,
            ..key_of("k", "acme")
        });
        let id = "k".into();
        hub.publish(batch(vec![HubOp::ApiKey(KeyChange { id, now })]));
    };
    publish(&["acme", "beta"]);
    let client = Client::new(&hub, machine("k"));
    for channel in ["org:acme", "org:beta"] {
        hub.subscribe(&client.connection, to(channel)).unwrap();
    }
    assert!(hub.subscribe(&client.connection, to("org:other")).is_err());
    assert_eq!(hub.organizations(&machine("k")).len(), 2);
    client.told();
    hub.publish(single("beta", 1, 1));
    assert_eq!(client.told(), ["INSERT 1 on org:beta!"]);
    publish(&["acme"]);
    assert_eq!(
        client.told()[0],
        "unsubscribed org:beta",
        "taken away in log order"
    );
    hub.publish(single("beta", 2, 2));
    hub.publish(single("acme", 3, 3));
    assert_eq!(client.told(), ["INSERT 3 on org:acme!"]);
}

#[test]
fn changes_of_plans_are_counted() {
    let hub = hub();
    let before = hub.plans_version();
    hub.publish(batch(vec![HubOp::PlansChanged]));
    assert!(hub.plans_version() > before);
}

#[test]
fn a_refreshed_token_takes_away_what_it_does_not_grant() {
    let hub = hub();
    let claims = |orgs: &[&str]| Identity {
        user: "anna".into(),
        auth: Auth::Session {
            granted: orgs
                .iter()
                .map(|org| ((*org).into(), std::sync::Arc::from(["member".into()])))
                .collect(),
        },
        claims: None,
    };
    let anna = Client::new(&hub, claims(&["acme", "other"]));
    hub.subscribe(&anna.connection, to("org:acme")).unwrap();
    hub.subscribe(&anna.connection, to("org:other")).unwrap();
    anna.told();
    hub.renew(&anna.connection, claims(&["acme", "other"]))
        .unwrap();
    assert!(anna.told().is_empty());
    hub.renew(&anna.connection, claims(&["other"])).unwrap();
    assert_eq!(
        anna.told(),
        ["unsubscribed org:acme", "membership \"acme\" null"]
    );
    hub.publish(single("acme", 1, 1));
    hub.publish(single("other", 2, 2));
    assert_eq!(anna.told(), ["INSERT 2 on org:other!"]);
    assert_eq!(
        hub.renew(&anna.connection, Identity::session("bert")),
        Err(HubError::UserChanged)
    );
}

/// The log begins anew, so members and keys are read anew: who is what he was notices nothing.
#[test]
fn what_is_read_anew_takes_nothing_from_those_who_stay() {
    let hub = hub();
    let anna = Client::member(&hub, "anna", &["acme", "other"], &["org:acme", "org:other"]);
    hub.publish(batch(vec![
        key("k1", Some("acme")),
        key("k2", Some("acme")),
    ]));
    let with_key = |id: &str| {
        let client = Client::new(&hub, machine(id));
        hub.subscribe(&client.connection, to("org:acme")).unwrap();
        client.socket.frames();
        client
    };
    let (kept, revoked) = (with_key("k1"), with_key("k2"));
    hub.publish(batch(vec![
        HubOp::MembershipsCleared,
        member("anna", "acme", Some("member")),
        HubOp::ApiKeysCleared,
        key("k1", Some("acme")),
        HubOp::from(event("acme", at(5, 0), 5)),
    ]));
    assert_eq!(
        anna.told(),
        [
            "unsubscribed org:other",
            "membership \"other\" null",
            "INSERT 5 on org:acme",
        ]
    );
    assert_eq!(kept.told(), ["INSERT 5 on org:acme"]);
    assert_eq!(revoked.connection.closed(), Some(CloseCode::KeyRevoked));
}
