//! How a join comes in: what is checked before, and its parts in the indexes.

use std::sync::Arc;

use rowcast_model::{Channel, OrgId, Topic};
use rowcast_wire::{
    Filter, Follow, Forms, Mode, Subscribe,
    phoenix::{Voice, What},
};
use smallvec::SmallVec;

use super::{Binding, Join, Joined, Room, stay::late};
use crate::{
    Connection, Grant, HubError, StreamState,
    guest::Wanted,
    pass::Pass,
    state::State,
    subscribe::{Begins, Entry},
    topics::SubId,
};

/// A subscription with its places in the indexes.
const EACH: usize = 1024;

/// What is wrong with a binding, for the client.
pub(super) struct Problem {
    binding: u32,
    pub(super) says: String,
}

/// What the application has said about somebody who wants into a room.
pub(crate) enum Said {
    /// Nothing: it is asked, where it decides.
    Nothing,
    /// Yes.
    Yes(Pass),
    /// No, or it could not be asked.
    No,
}

impl State {
    /// Where the application says who may be in the room, it is asked first, unless it has said so.
    pub(crate) fn join(
        &mut self,
        connection: &Arc<Connection>,
        mut join: Join,
        said: Said,
    ) -> Result<(), HubError> {
        let most = self.limits.subscriptions;
        let conn = self.conn(connection).ok_or(HubError::Closed)?;
        let identity = conn.about.identity.clone();
        self.dismiss_join(connection.id, &join.topic);
        join.forget_equals();
        let Room {
            channel,
            organization,
            ..
        } = &join.room;
        let mut pass = None;
        let mut room = match self.admit(&identity, channel, organization.as_ref()) {
            Ok(entry) => Some(entry),
            Err(_) if join.has_other_wishes() => None,
            Err(error) => return Err(error),
        };
        let decides = room.as_ref().and_then(|entry| {
            let by = entry.authorizer.clone()?;
            Some((entry.topic.clone()?, by))
        });
        if let Some((topic, by)) = decides {
            match said {
                Said::Yes(given) if given.by == by => pass = Some(given),
                Said::No if join.has_other_wishes() => room = None,
                _ if by.handler.is_some() => {
                    let cost = u32::try_from(join.waiting_cost()).unwrap_or(u32::MAX);
                    self.may_keep(connection, 0, cost as usize)?;
                    return self.wait(connection, Wanted::Join(Box::new(join)), topic, by, cost);
                }
                _ if join.has_other_wishes() => room = None,
                _ => return Err(HubError::GrantNeeded(channel.to_string().into())),
            }
        }
        let organizations = self.directory.organizations_of(&identity);
        let joins = self.joins_of(connection.slot, connection.id);
        let before = joins.iter().find(|joined| joined.topic == join.topic);
        let (joins, before) = (joins.len() - usize::from(before.is_some()), before.cloned());
        let (others, freed) = self.subs_beside(connection, before.as_deref());
        let wanted = join.bindings.len() * organizations.len() + usize::from(room.is_some());
        if others + wanted.max(1) > most || joins >= most {
            return Err(HubError::TooManySubscriptions(others.max(joins)));
        }
        let (cost, each) = (join.kept_cost(), join.each_cost());
        let all = cost + EACH + each * organizations.len();
        self.may_keep(connection, freed, all)?;
        if let Some(before) = before {
            self.leave(connection.slot, connection.id, &before.topic);
            connection.queue(before.close());
        }
        connection.queue(join.reply);
        let ready = join.replication_ready;
        let number = self.generation();
        let joined = Arc::new(Joined {
            number,
            version: join.version,
            topic: join.topic,
            reference: join.reference,
            bindings: join.bindings.into(),
            cost,
            each,
        });
        self.described += cost;
        if let Some(conn) = self.conns.get_mut(connection.slot as usize) {
            conn.about.described += cost;
            conn.about
                .joins
                .get_or_insert_default()
                .push(joined.clone());
        }
        // Whoever is not let in and says something there is told.
        if let Some(entry) = room {
            self.enter_room(connection, &joined, &join.room, entry, pass);
        }
        for problem in &join.refused {
            connection.queue(joined.system("postgres_changes", false, problem));
        }
        let untracked = joined.bindings.iter();
        let mut problems: Vec<Problem> = untracked
            .filter_map(|binding| self.untracked(binding))
            .collect();
        for organization in &organizations {
            problems.extend(self.bind(connection, &joined, organization));
        }
        let mut unheard: Vec<u32> = problems.iter().map(|problem| problem.binding).collect();
        unheard.sort_unstable();
        unheard.dedup();
        let mut said: Vec<&str> = problems.iter().map(|problem| &*problem.says).collect();
        said.sort_unstable();
        said.dedup();
        for problem in said {
            connection.queue(joined.system("postgres_changes", false, problem));
        }
        let heard = |binding: &Binding| !unheard.contains(&binding.id);
        if joined.bindings.iter().any(heard) {
            connection.queue(joined.subscribed());
        }
        match &self.stream {
            StreamState::Stale { reason, .. } if !joined.bindings.is_empty() => {
                connection.queue(joined.system("postgres_changes", false, &late(reason)));
            }
            StreamState::Live if ready => {
                let message = "Replication connection established";
                connection.queue(joined.system("system", true, message));
            }
            _ => {}
        }
        Ok(())
    }

    /// How many subscriptions a connection has beside those of a join, and the bytes that this join keeps.
    fn subs_beside(&self, connection: &Connection, joined: Option<&Joined>) -> (usize, usize) {
        let conn = self.conns.get(connection.slot as usize);
        let subs = conn.map_or(&[][..], |conn| &conn.about.subs[..]);
        let mut own = 0;
        let mut bytes = joined.map_or(0, |joined| joined.cost);
        let there = subs.iter().filter_map(|id| self.subs.get(*id as usize));
        for sub in there {
            let number = sub.join.as_ref().map(|join| join.number);
            if number.is_some() && number == joined.map(|joined| joined.number) {
                own += 1;
                bytes += sub.cost as usize;
            }
        }
        (subs.len() - own, bytes)
    }

    /// Whether there is room for so many bytes more, when so many are given back.
    pub(super) fn may_keep(
        &self,
        connection: &Connection,
        freed: usize,
        all: usize,
    ) -> Result<(), HubError> {
        let conn = self.conns.get(connection.slot as usize);
        let own = conn.map_or(0, |conn| conn.about.described);
        if own.saturating_sub(freed) + all > self.limits.subscriptions_bytes {
            return Err(HubError::SubscriptionsTooLarge(
                self.limits.subscriptions_bytes,
            ));
        }
        let others = self.described.saturating_sub(freed);
        if all > freed && others + all > self.limits.total_subscriptions_bytes {
            return Err(HubError::TooManyFilters);
        }
        Ok(())
    }

    fn enter_room(
        &mut self,
        connection: &Arc<Connection>,
        joined: &Arc<Joined>,
        room: &Room,
        entry: Entry,
        pass: Option<Pass>,
    ) {
        let wanted = Subscribe {
            forms: Forms {
                changes: false,
                invalidations: false,
                broadcasts: true,
            },
            // What is said on the channel of a table is listed by itself, as it is not said to the organization.
            tables: matches!(room.channel, Channel::Tenant(..)).then(Vec::new),
            ..Subscribe::to(room.channel.clone())
        };
        let follow = room.presence.then_some(Follow::List);
        // A channel without members has nobody to be told of.
        let follow = follow.filter(|_| {
            let may = self.may_follow(&room.channel, entry.topic.as_ref(), follow);
            may.is_ok()
        });
        let admitted = (entry.topic, entry.grant);
        let voice = joined.spoken(What::Room);
        let id = self.place(connection, joined, wanted, admitted, voice, pass);
        self.take_seat(id, None, follow);
    }

    /// What is to be said of a binding to a table of which nothing is told.
    fn untracked(&self, binding: &Binding) -> Option<Problem> {
        let (schema, table) = (
            binding.rows.schema.as_deref(),
            binding.rows.table.as_deref()?,
        );
        if binding.is_of_events() || self.rules.tracks(schema, table) {
            return None;
        }
        let schema = schema.unwrap_or("public");
        let name = format!("{schema}.{table}").replace('\'', "''");
        Some(refusal(
            binding,
            &format!("the table is not tracked; mend it: SELECT rowcast.track('{name}')"),
        ))
    }

    /// Lists the bindings of a join in one organization; what is wrong with them.
    pub(super) fn bind(
        &mut self,
        connection: &Arc<Connection>,
        joined: &Arc<Joined>,
        organization: &OrgId,
    ) -> Vec<Problem> {
        let mut problems = Vec::new();
        let Some(conn) = self.conn(connection) else {
            return problems;
        };
        let identity = conn.about.identity.clone();
        let Some(grant) = self.grant(&identity, organization) else {
            return problems;
        };
        for binding in &joined.bindings {
            let tables = binding.tables();
            let checked = tables.iter().flatten();
            let checked = checked
                .map(|selection| self.check_columns(selection, &grant.roles))
                .find_map(Result::err);
            if let Some(error) = checked {
                problems.push(refusal(binding, &error.to_string()));
                continue;
            }
            if tables.is_none() && binding.rows.filter.is_some() && !binding.is_of_events() {
                problems.push(refusal(binding, "a filter needs a `table`"));
                continue;
            }
            let what = match binding.what() {
                Ok(_) if binding.hears_nothing() => continue,
                Ok(what) => what,
                Err(error) => {
                    problems.push(refusal(binding, &error));
                    continue;
                }
            };
            let wanted = Subscribe {
                forms: Forms {
                    changes: true,
                    invalidations: false,
                    broadcasts: false,
                },
                tables,
                ..Subscribe::to(Channel::Org(organization.clone()))
            };
            let admitted = (Some(Topic::Org(organization.clone())), grant.clone());
            let voice = joined.spoken(what);
            self.place(connection, joined, wanted, admitted, voice, None);
        }
        problems
    }

    fn place(
        &mut self,
        connection: &Arc<Connection>,
        joined: &Arc<Joined>,
        wanted: Subscribe,
        admitted: (Option<Topic>, Grant),
        voice: Voice,
        pass: Option<Pass>,
    ) -> SubId {
        let position = self.position();
        let tables = wanted.tables.clone();
        let name: Arc<str> = wanted.channel.to_string().into();
        let filters = tables.iter().flatten().flat_map(|table| &table.filter);
        let shared: usize = filters.map(Filter::shared_cost).sum();
        let cost = (wanted.cost() + 512).saturating_sub(shared);
        let begins = Begins {
            cost: u32::try_from(cost).unwrap_or(u32::MAX),
            since: position,
            skip_until: None,
            replay: None,
            pass: pass.map(Box::new),
            join: Some(joined.clone()),
            voice,
        };
        debug_assert_eq!(wanted.mode, Mode::All);
        let (id, _) = self.insert(connection, name, wanted, tables, admitted, begins);
        id
    }
}

fn refusal(binding: &Binding, why: &str) -> Problem {
    let says = format!(
        "Unable to subscribe to changes with given parameters. Please check Realtime is enabled for the given connect parameters: {}. {why}",
        binding.described
    );
    Problem {
        binding: binding.id,
        says,
    }
}

impl Join {
    /// Whether it is fine without its room: the client did not demand that, and asks for rows, too.
    pub(crate) fn has_other_wishes(&self) -> bool {
        let rows = !self.bindings.is_empty() || !self.refused.is_empty();
        rows && !self.room.required
    }

    /// Leaves out bindings that are equal to another one: they have one number, by which clients find all of their
    /// callbacks.
    fn forget_equals(&mut self) {
        let mut known: SmallVec<[u32; 16]> = SmallVec::new();
        self.bindings.retain(|binding| {
            let new = !known.contains(&binding.id);
            known.push(binding.id);
            new
        });
    }

    /// Bytes that it takes while it waits.
    fn waiting_cost(&self) -> usize {
        let refused: usize = self.refused.iter().map(String::len).sum();
        size_of::<Join>() + self.topic.len() + self.cost + self.reply.len() + refused
    }

    /// Bytes that it takes when it is in, beside its subscriptions.
    fn kept_cost(&self) -> usize {
        size_of::<Joined>() + self.topic.len() + self.cost
    }

    /// Bytes of its subscriptions in one organization.
    fn each_cost(&self) -> usize {
        let filters = self.bindings.iter();
        let filters = filters.flat_map(|binding| &binding.rows.filter);
        let shared: usize = filters.map(Filter::shared_cost).sum();
        self.cost.saturating_sub(shared) + EACH * self.bindings.len()
    }
}
