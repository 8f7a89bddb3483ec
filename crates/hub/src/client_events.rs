//! Which events clients may send: the rules of `rowcast.client_events`, as the log says.
//!
//! Owns the one decision whether somebody may send an event on a channel: only where he may listen, by the very
//! question that a subscription asks, and only what is defined for it. What becomes of it is for the gateway.

use std::{cmp::Ordering, sync::Arc};

use bytes::Bytes;
use rowcast_model::{
    Asking, Becomes, Caller, Channel, ClientEventChange, ClientEventRule, OrgId, ParameterKind,
    Pattern, Question, Topic, Who,
};
use serde_json::{Map as Json, Value, value::RawValue};
use smallvec::SmallVec;

use crate::{
    Connection, Grant, Hub, HubError, Identity, Sent, Turning,
    state::{Map, State},
    subscribe::Entry,
};

/// What the names of the service's own events begin with: no client sends them.
const PRESENCE_EVENTS: &str = "presence.";
/// A user came to a channel.
const PRESENCE_JOIN: &str = "presence.join";
/// A user left a channel.
const PRESENCE_LEAVE: &str = "presence.leave";

/// The rules of all events.
#[derive(Default)]
pub(crate) struct ClientEvents {
    /// By the name of the event, the most specific pattern first.
    by_event: Map<Arc<str>, Vec<Arc<ClientEventRule>>>,
}

impl ClientEvents {
    pub(crate) fn set(&mut self, change: &ClientEventChange) {
        if let Some(rules) = self.by_event.get_mut(&change.event) {
            rules.retain(|rule| rule.pattern.as_str() != &*change.pattern);
            if rules.is_empty() {
                self.by_event.remove(&change.event);
            }
        }
        if let Some(rule) = &change.now {
            let rules = self.by_event.entry(change.event.clone()).or_default();
            let before = |other: &Arc<ClientEventRule>| {
                other.pattern.precedence(&rule.pattern) == Ordering::Less
            };
            rules.insert(rules.partition_point(before), rule.clone());
        }
    }

    pub(crate) fn clear(&mut self) {
        self.by_event = Map::default();
    }

    /// Whether somebody does something about who comes and who leaves.
    pub(crate) fn handles_presence(&self) -> bool {
        [PRESENCE_JOIN, PRESENCE_LEAVE]
            .iter()
            .any(|event| self.by_event.contains_key(*event))
    }

    fn find(&self, event: &str, name: &str) -> Option<&Arc<ClientEventRule>> {
        let rules = self.by_event.get(event)?;
        rules.iter().find(|rule| rule.pattern.fit(name).is_some())
    }
}

/// An event that somebody may send, and as what.
#[derive(Clone, Debug)]
pub struct Sending {
    /// Its rule.
    pub rule: Arc<ClientEventRule>,
    /// Whose channel it is.
    pub topic: Topic,
    /// The values of the parameters of the channel's pattern, and of the event's.
    pub arguments: Json<String, Value>,
    /// Who sends.
    pub identity: Identity,
    /// What he is in the organization of the channel; on a global channel, without roles.
    pub grant: Grant,
}

impl Hub {
    /// Whether this connection may send an event on a channel now.
    ///
    /// # Errors
    /// [`HubError`]: as for a subscription, and when no such event is defined or it needs another role.
    pub fn client_event(
        &self,
        connection: &Connection,
        channel: &Channel,
        organization: Option<&OrgId>,
        event: &str,
    ) -> Result<Sending, HubError> {
        let mut state = self.state.lock();
        let conn = state.conn(connection).ok_or(HubError::Closed)?;
        let identity = conn.about.identity.clone();
        state.client_event(connection, identity, channel, organization, event)
    }

    /// What the application is to be asked about somebody who came to a channel or left it; `None`: nothing, as no
    /// function or webhook is defined for that, or he may not ask.
    pub fn presence_question(&self, turning: &Turning) -> Option<Question> {
        self.state.lock().presence_question(turning)
    }

    /// Says on the channel what such an event is relayed as, to all but the sender's own socket.
    ///
    /// # Errors
    /// [`HubError::Undeclared`] when the channel does not declare that, and as [`Hub::say`].
    pub fn relay_event(
        &self,
        connection: &Connection,
        sending: &Sending,
        payload: Bytes,
    ) -> Result<Sent, HubError> {
        let (Topic::Channel(_, name), Becomes::Relay(event)) =
            (&sending.topic, &sending.rule.becomes)
        else {
            return Err(HubError::NotReady);
        };
        let state = self.state.lock();
        let rule = state.channels.find(name);
        let allowed = rule.is_some_and(|rule| state.channels.allows(rule, event));
        // What was held back may come when its sender is no more on the channel.
        let asks = rule.is_some_and(|rule| matches!(rule.who, Who::Authorized(_)));
        let channel = Channel::Named(name.clone());
        let on = !asks || state.is_on(connection, &channel, &sending.topic);
        drop(state);
        if !on {
            return Err(HubError::Unasked(name.clone()));
        }
        if !allowed {
            return Err(HubError::Undeclared(event.clone()));
        }
        let (identity, topic) = (sending.identity.clone(), sending.topic.clone());
        self.pass_on(identity, topic, event.clone(), payload, Some(connection))
    }
}

impl State {
    fn client_event(
        &self,
        connection: &Connection,
        identity: Identity,
        channel: &Channel,
        organization: Option<&OrgId>,
        event: &str,
    ) -> Result<Sending, HubError> {
        let none = || HubError::NoSuchEvent {
            event: event.into(),
            channel: channel.to_string().into(),
        };
        // Who may not listen does not get to know what is defined.
        let Entry {
            topic,
            grant,
            authorizer,
        } = self.admit(&identity, channel, organization)?;
        let (Channel::Named(name), Some(topic)) = (channel, topic) else {
            return Err(none());
        };
        // Whom the application lets in is known of those who are in.
        if authorizer.is_some() && !self.is_on(connection, channel, &topic) {
            return Err(HubError::Unasked(name.clone()));
        }
        if !self.directory.may_send(&identity) {
            return Err(HubError::KeyReadsOnly);
        }
        // These the service alone says.
        if event.starts_with(PRESENCE_EVENTS) {
            return Err(none());
        }
        let rule = self.client_events.find(event, name).ok_or_else(none)?;
        let has = |role| grant.roles.contains(role);
        if !rule.roles.is_empty() && !rule.roles.iter().any(has) {
            return Err(HubError::EventForbidden(event.into()));
        }
        let arguments = self.arguments(rule, name);
        Ok(Sending {
            rule: rule.clone(),
            topic,
            arguments,
            identity,
            grant,
        })
    }

    /// The values of the parameters of an event's pattern and of its channel's.
    fn arguments(&self, rule: &ClientEventRule, name: &str) -> Json<String, Value> {
        let mut arguments = Json::new();
        for (parameter, value) in rule.pattern.parameters().zip(fit(&rule.pattern, name)) {
            arguments.insert(parameter.to_string(), value.into());
        }
        // Those of the channel's rule were checked, so they count where the names are the same.
        if let Some(channel) = self.channels.find(name) {
            let parameters = channel.pattern.parameters().zip(&channel.parameters);
            for ((parameter, kind), value) in parameters.zip(fit(&channel.pattern, name)) {
                let number = match kind {
                    ParameterKind::Int => value.parse::<i64>().ok(),
                    _ => None,
                };
                let value = number.map_or_else(|| value.into(), Value::from);
                arguments.insert(parameter.to_string(), value);
            }
        }
        arguments
    }

    /// What the application is asked about somebody who came or left; `None`: nothing.
    fn presence_question(&self, turning: &Turning) -> Option<Question> {
        let Turning { news, identity } = turning;
        let rule = self.client_events.find(news.event(), &news.channel)?;
        let Becomes::Question(handler) = &rule.becomes else {
            return None;
        };
        let organization = news.topic.organization();
        let caller = match self.caller(identity, news.connection, organization) {
            // Whoever left since he is no member any more is told all the same, without a role.
            Err(HubError::NotMember(organization)) if !news.came => {
                let caller = self.caller(identity, news.connection, None).ok()?;
                Caller {
                    organization_id: Some(organization),
                    ..caller
                }
            }
            caller => caller.ok()?,
        };
        let has = |role| caller.roles.contains(role);
        if news.came && !rule.roles.is_empty() && !rule.roles.iter().any(has) {
            return None;
        }
        let state = std::str::from_utf8(&news.state).ok()?;
        let input = format!(
            r#"{{"connectionId":"{}","state":{state}}}"#,
            news.connection
        );
        Some(Question {
            asking: Asking::Event,
            handler: handler.clone(),
            definition: Some(rule.definition()),
            channel: news.channel.clone(),
            arguments: self.arguments(rule, &news.channel),
            input: RawValue::from_string(input).ok()?,
            caller,
        })
    }
}

fn fit<'n>(pattern: &Pattern, name: &'n str) -> SmallVec<[&'n str; 4]> {
    pattern.fit(name).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(pattern: &str, event: &str, there: bool) -> ClientEventChange {
        let rule = ClientEventRule {
            pattern: pattern.parse().unwrap(),
            event: event.into(),
            becomes: Becomes::Relay("out".into()),
            roles: [].into(),
            input: None,
            max_bytes: 100,
            throttle: None,
            rate: None,
        };
        ClientEventChange {
            pattern: pattern.into(),
            event: event.into(),
            now: there.then(|| Arc::new(rule)),
        }
    }

    #[test]
    fn the_most_specific_pattern_counts_and_events_are_exact() {
        let mut events = ClientEvents::default();
        for (pattern, event) in [
            ("room:*", "join"),
            ("*:*", "join"),
            ("room:7", "join"),
            ("room:*", "leave"),
        ] {
            events.set(&change(pattern, event, true));
        }
        let found = |events: &ClientEvents, event, name| {
            let rule = events.find(event, name);
            rule.map(|rule| rule.pattern.as_str().to_owned())
        };
        assert_eq!(found(&events, "join", "room:7").as_deref(), Some("room:7"));
        assert_eq!(found(&events, "join", "room:8").as_deref(), Some("room:*"));
        assert_eq!(found(&events, "join", "hall:8").as_deref(), Some("*:*"));
        assert_eq!(found(&events, "leave", "room:7").as_deref(), Some("room:*"));
        assert_eq!(found(&events, "leave", "hall:8"), None);
        assert_eq!(found(&events, "joi", "room:7"), None);
        events.set(&change("room:7", "join", false));
        assert_eq!(found(&events, "join", "room:7").as_deref(), Some("room:*"));
        events.set(&change("room:*", "leave", false));
        assert!(!events.by_event.contains_key("leave"));
    }
}
