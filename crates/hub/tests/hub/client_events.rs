//! Who may send which client event: the same who may listen, by the same question.

use std::sync::Arc;

use proptest::prelude::*;
use rowcast_hub::{Hub, HubError, Identity, Subscription};
use rowcast_model::{
    Becomes, ChannelChange, ChannelRule, ClientEventChange, ClientEventRule, HubOp, OrgId,
    ParameterKind, Role, Scope, Who,
};
use rowcast_wire::ErrorCode;
use serde_json::json;

use crate::support::*;

fn channel(pattern: &str, who: Who, scope: Scope) -> HubOp {
    let pattern_read: rowcast_model::Pattern = pattern.parse().unwrap();
    let parameters = pattern_read.parameters().map(|_| ParameterKind::Int);
    HubOp::Channel(ChannelChange {
        pattern: pattern.into(),
        now: Some(Arc::new(ChannelRule {
            parameters: parameters.collect(),
            pattern: pattern_read,
            who,
            scope,
            relay: false,
            presence: false,
            events: None,
        })),
    })
}

fn defined(pattern: &str, event: &str, roles: &[&str]) -> HubOp {
    HubOp::ClientEvent(ClientEventChange {
        pattern: pattern.into(),
        event: event.into(),
        now: Some(Arc::new(ClientEventRule {
            pattern: pattern.parse().unwrap(),
            event: event.into(),
            becomes: Becomes::Relay("out".into()),
            roles: roles.iter().map(|role| Role::from(*role)).collect(),
            input: None,
            max_bytes: 100,
            throttle: None,
            rate: None,
        })),
    })
}

/// Channels of every kind, events on some of them, people, roles and a machine.
fn world() -> Hub {
    let hub = hub();
    let admins: Arc<[Role]> = [Role::from("admin")].into();
    hub.publish(batch(vec![
        member("anna", "acme", Some("member")),
        member("anna", "other", Some("admin")),
        member("bert", "acme", Some("admin")),
        key("k1", Some("acme")),
        channel("room:{id}", Who::Public, Scope::Organization),
        channel("hall:*", Who::Public, Scope::Global),
        channel("staff", Who::Roles(admins), Scope::Organization),
        channel("inbox:{user}", Who::Public, Scope::Organization),
        channel("quiet:*", Who::Public, Scope::Organization),
        defined("room:*", "wave", &[]),
        defined("room:7", "wave", &["admin"]),
        defined("room:*", "close", &["admin"]),
        defined("hall:*", "wave", &[]),
        defined("hall:*", "close", &["admin"]),
        defined("staff", "wave", &[]),
        defined("nowhere:*", "wave", &[]),
    ]));
    hub
}

proptest! {
    /// Whoever may not subscribe may not send, and gets the same answer; whoever may, may send what is defined if
    /// he has the role.
    #[test]
    fn who_may_send_may_listen(
        who in 0..4_usize,
        name in "(room|hall|quiet|nowhere):(7|8|x)|staff|org:acme|user:anna|tenant:acme:tasks",
        organization in 0..3_usize,
        event in "wave|close|nothing",
    ) {
        let hub = world();
        let identity = [
            Identity::session("anna"),
            Identity::session("bert"),
            Identity::session("carl"),
            machine("k1"),
        ][who].clone();
        let roles: &[(&str, &str)] = [
            &[("acme", "member"), ("other", "admin")][..],
            &[("acme", "admin")],
            &[],
            &[("acme", "member")],
        ][who];
        let client = Client::new(&hub, identity);
        let organization = ["acme", "other", ""][organization];
        let organization = (!organization.is_empty()).then(|| OrgId::from(organization));
        let sent = hub.client_event(&client.connection, &name.parse().unwrap(), organization.as_ref(), &event);
        let subscribed = hub.subscribe(&client.connection, Subscription { organization: organization.clone(), ..to(&name) });
        let named = ["room", "hall", "staff", "quiet"].iter().any(|first| name.starts_with(first));
        let needs_admin = event == "close" || (name == "room:7" && event == "wave");
        let is_admin = |of: &OrgId| roles.contains(&(of.as_str(), "admin"));
        let global = name.starts_with("hall");
        match (sent, subscribed) {
            (Err(error), Err(why)) => prop_assert_eq!(error, why),
            (Ok(_), Err(why)) => prop_assert!(false, "sent without listening: {why}"),
            (sent, Ok(_)) => {
                let defined = named && !name.starts_with("quiet") && event != "nothing"
                    && !(name == "staff" && event == "close");
                let admin = !global && organization.as_ref().is_some_and(is_admin);
                match sent {
                    Ok(sending) => {
                        prop_assert!(defined && (!needs_admin || admin));
                        prop_assert_eq!(sending.topic.organization(), organization.as_ref().filter(|_| !global));
                    }
                    Err(HubError::EventForbidden(_)) => prop_assert!(defined && needs_admin && !admin),
                    Err(error) => {
                        prop_assert!(!defined, "{}", error);
                        prop_assert_eq!(error.error_code(), ErrorCode::UnknownEvent);
                    }
                }
            }
        }
    }
}

#[test]
fn x11_arguments_come_from_both_patterns() {
    let hub = hub();
    hub.publish(batch(vec![
        member("anna", "acme", Some("member")),
        channel("room:{id}", Who::Public, Scope::Organization),
        defined("room:{room}", "wave", &[]),
    ]));
    let client = Client::new(&hub, Identity::session("anna"));
    let acme = OrgId::from("acme");
    let ask = |name: &str| {
        let channel = name.parse().unwrap();
        hub.client_event(&client.connection, &channel, Some(&acme), "wave")
    };
    let arguments = ask("room:7").unwrap().arguments;
    assert_eq!(json!(arguments), json!({ "id": 7, "room": "7" }));
    let error = ask("room:x").unwrap_err();
    assert_eq!(error.error_code(), ErrorCode::UnknownChannel);
    // Gone, and what it may is gone with it.
    hub.disconnect(&client.connection);
    assert_eq!(ask("room:7").unwrap_err(), HubError::Closed);
}
