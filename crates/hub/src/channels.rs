//! What names of channels mean: the rules of `rowcast.channels` and the declared events, as the log says.
//!
//! Owns the search for the rule of a name, and what a change of a rule does to those who are on its channels.
//! A name without a rule is nobody's.

use std::{cmp::Ordering, sync::Arc};

use rowcast_model::{
    Admits, Authorizer, Channel, ChannelChange, ChannelRule, NamespaceChange, OrgId, Scope, Topic,
};
use rowcast_wire::server;

use crate::{
    Auth, Grant, HubError, Identity,
    stage::Stage,
    state::{Map, State},
    topics::SubId,
};

/// Why a subscription ended when its rule did.
const RULE_CHANGED: &str = "channel_rule_changed";

/// The rules of all channels.
#[derive(Default)]
pub(crate) struct Channels {
    /// Rules whose pattern begins with a text, by that text, the most specific first.
    by_first: Map<Arc<str>, Vec<Arc<ChannelRule>>>,
    /// The others, likewise.
    others: Vec<Arc<ChannelRule>>,
    namespaces: Map<Arc<str>, Arc<[Arc<str>]>>,
}

impl Channels {
    /// The rule of a name.
    pub(crate) fn find(&self, name: &str) -> Option<&Arc<ChannelRule>> {
        let first = name.split(':').next().unwrap_or(name);
        let named = self.by_first.get(first).into_iter().flatten();
        named
            .chain(&self.others)
            .find(|rule| rule.pattern.fit(name).is_some())
    }

    fn set(&mut self, change: &ChannelChange) {
        let gone = |rule: &Arc<ChannelRule>| rule.pattern.as_str() != &*change.pattern;
        self.others.retain(gone);
        self.by_first.retain(|_, rules| {
            rules.retain(gone);
            !rules.is_empty()
        });
        if let Some(rule) = &change.now {
            let rules = match rule.pattern.first_text() {
                Some(first) => self.by_first.entry(first.into()).or_default(),
                None => &mut self.others,
            };
            let before = |other: &Arc<ChannelRule>| {
                other.pattern.precedence(&rule.pattern) == Ordering::Less
            };
            rules.insert(rules.partition_point(before), rule.clone());
        }
    }

    fn clear(&mut self) {
        self.by_first = Map::default();
        self.others = Vec::new();
    }

    pub(crate) fn declare(&mut self, change: &NamespaceChange) {
        match &change.events {
            Some(events) => drop(
                self.namespaces
                    .insert(change.namespace.clone(), events.clone()),
            ),
            None => drop(self.namespaces.remove(&change.namespace)),
        }
    }

    pub(crate) fn clear_namespaces(&mut self) {
        self.namespaces = Map::default();
    }

    /// Whether an event may have this name: where its namespace is declared, only the declared ones.
    pub(crate) fn declares(&self, event: &str) -> bool {
        let Some((namespace, name)) = event.split_once(':') else {
            return true;
        };
        let events = self.namespaces.get(namespace);
        events.is_none_or(|events| events.iter().any(|one| **one == *name))
    }

    /// Whether an event may be sent on a channel: one of those that its rule declares, else those of its namespace.
    pub(crate) fn allows(&self, rule: &ChannelRule, event: &str) -> bool {
        match rule.events {
            Some(_) => rule.declares(event),
            None => self.declares(event),
        }
    }

    /// The rule of a name, its topic, and the values of its parameters.
    pub(crate) fn resolve<'n>(
        &self,
        name: &'n str,
        organization: Option<&OrgId>,
    ) -> Result<Resolved<'n>, HubError> {
        let rule = self
            .find(name)
            .ok_or_else(|| HubError::NoSuchChannel(name.into()))?;
        let arguments = match rule.arguments(name) {
            Some(Ok(arguments)) => arguments,
            Some(Err(error)) => {
                let channel = name.into();
                return Err(HubError::Argument { channel, error });
            }
            None => return Err(HubError::NoSuchChannel(name.into())),
        };
        let own = rule.who.organization(&arguments);
        let organization = match (own, rule.scope) {
            (Some(own), _) => Some(own),
            (None, Scope::Global) => None,
            (None, Scope::Organization) => {
                let needed = || HubError::OrganizationNeeded(name.into());
                Some(organization.ok_or_else(needed)?.clone())
            }
        };
        Ok(Resolved {
            rule: rule.clone(),
            topic: Topic::Channel(organization, name.into()),
            arguments,
        })
    }
}

/// What a name means.
pub(crate) struct Resolved<'n> {
    pub rule: Arc<ChannelRule>,
    pub topic: Topic,
    pub arguments: rowcast_model::Arguments<'n>,
}

/// Somebody whom the rule of a channel does not keep out.
pub(crate) struct Admitted {
    pub topic: Topic,
    pub grant: Grant,
    /// The application has to say yes, too.
    pub authorizer: Option<Arc<Authorizer>>,
}

impl State {
    /// Whether somebody may listen to a channel of the application, and as what.
    pub(crate) fn admit_named(
        &self,
        identity: &Identity,
        name: &str,
        organization: Option<&OrgId>,
    ) -> Result<Admitted, HubError> {
        let resolved = self.channels.resolve(name, organization)?;
        let grant = match resolved.topic.organization() {
            Some(organization) => self
                .grant(identity, organization)
                .ok_or_else(|| HubError::NotMember(organization.clone()))?,
            None => Grant {
                user: matches!(identity.auth, Auth::Session { .. }).then(|| identity.user.clone()),
                roles: Arc::new([]),
            },
        };
        let Resolved {
            rule, arguments, ..
        } = &resolved;
        let admitted = rule
            .who
            .admits(arguments, grant.user.as_ref(), &grant.roles);
        let authorizer = match admitted {
            Admits::Yes => None,
            Admits::Ask(authorizer) => Some(authorizer.clone()),
            Admits::No => {
                return Err(HubError::NotAdmitted {
                    channel: name.into(),
                    pattern: rule.pattern.as_str().into(),
                });
            }
        };
        Ok(Admitted {
            topic: resolved.topic,
            grant,
            authorizer,
        })
    }

    pub(crate) fn change_channel(&mut self, change: &ChannelChange, stage: &mut Stage) {
        self.channels.set(change);
        self.admit_again(stage);
        self.close_rooms(stage);
    }

    /// All rules are void but these: who may stay notices nothing.
    pub(crate) fn replace_channels(&mut self, now: &[ChannelChange], stage: &mut Stage) {
        self.channels.clear();
        for change in now {
            self.channels.set(change);
        }
        self.admit_again(stage);
        self.close_rooms(stage);
    }

    /// Takes those off their channels whom the rules no longer let in.
    fn admit_again(&mut self, stage: &mut Stage) {
        let mut gone: Vec<SubId> = Vec::new();
        for (id, sub) in &self.subs {
            let (Channel::Named(name), Some(conn)) =
                (&sub.channel, self.conns.get(sub.conn as usize))
            else {
                continue;
            };
            let organization = sub.topic.as_ref().and_then(Topic::organization);
            let admitted = self.admit_named(&conn.about.identity, name, organization);
            let by = sub.pass.as_ref().map(|pass| &pass.by);
            let same = |admitted: Admitted| {
                Some(admitted.topic) == sub.topic && admitted.authorizer.as_ref() == by
            };
            if !admitted.is_ok_and(same) {
                gone.extend(SubId::try_from(id));
            }
        }
        for id in gone {
            self.end_sub(id, None, RULE_CHANGED, stage);
        }
    }

    pub(crate) fn end_sub(
        &mut self,
        id: SubId,
        epoch: Option<i64>,
        reason: &str,
        stage: &mut Stage,
    ) {
        let Some(sub) = self.remove_sub(id) else {
            return;
        };
        let ended = self.end_of_join(&sub, reason);
        if let Some(conn) = self.conns.get_mut(sub.conn as usize) {
            let organization = sub.topic.as_ref().and_then(Topic::organization);
            let channel = sub.channel.to_string();
            let native = || Some(server::taken_off(&channel, organization, reason, epoch));
            if let Some(frame) = ended.unwrap_or_else(native) {
                stage.push_frame(&mut conn.mark, &conn.connection, &frame);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rowcast_model::{Overlap, Pattern, Who};

    fn rule(pattern: &str) -> Arc<ChannelRule> {
        Arc::new(ChannelRule {
            pattern: pattern.parse().unwrap(),
            parameters: Default::default(),
            who: Who::Public,
            scope: Scope::Global,
            relay: false,
            presence: false,
            events: None,
        })
    }

    fn change(pattern: &str, there: bool) -> ChannelChange {
        ChannelChange {
            pattern: pattern.into(),
            now: there.then(|| rule(pattern)),
        }
    }

    proptest! {
        /// Against a look at every pattern, over all sets in which nothing is ambiguous.
        #[test]
        fn finds_the_most_specific(
            steps in prop::collection::vec(("[ab]|[ab]\\*|\\*", "[ab]|[ab]\\*|\\*|\\{p\\}", any::<bool>()), 0..20),
            names in prop::collection::vec("[ab]{1,2}:[ab]{1,2}", 10),
        ) {
            let mut channels = Channels::default();
            let mut naive: Vec<Pattern> = Vec::new();
            for (first, second, there) in steps {
                let text = format!("{first}:{second}");
                let pattern: Pattern = text.parse().unwrap();
                naive.retain(|other| other.as_str() != text);
                let clear = naive.iter().all(|other| other.overlap(&pattern) != Overlap::Ambiguous);
                channels.set(&change(&text, there && clear));
                if there && clear {
                    naive.push(pattern);
                }
            }
            for name in names {
                let fitting: Vec<&Pattern> = naive.iter().filter(|one| one.fit(&name).is_some()).collect();
                let best = fitting.iter().find(|one| {
                    fitting.iter().all(|other| one == &other || one.overlap(other) == Overlap::Narrower)
                });
                let found = channels.find(&name).map(|rule| rule.pattern.as_str());
                // Several may fit of which none is inside all others; then the order decides, always the same.
                match best {
                    Some(best) => prop_assert_eq!(found, Some(best.as_str())),
                    None => prop_assert_eq!(found.is_some(), !fitting.is_empty()),
                }
            }
        }
    }

    #[test]
    fn namespaces_refuse_only_what_they_do_not_list() {
        let mut channels = Channels::default();
        assert!(channels.declares("extraction:startd"));
        channels.declare(&NamespaceChange {
            namespace: "extraction".into(),
            events: Some([Arc::from("started")].into()),
        });
        assert!(channels.declares("extraction:started"));
        assert!(!channels.declares("extraction:startd"));
        assert!(channels.declares("plain") && channels.declares("other:x"));
        channels.declare(&NamespaceChange {
            namespace: "extraction".into(),
            events: None,
        });
        assert!(channels.declares("extraction:startd"));
    }
}
