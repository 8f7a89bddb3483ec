//! The hub's front: what the publisher and the gateway call. Owns the locks, decides nothing.

use std::{
    sync::Arc,
    time::{Instant, SystemTime, UNIX_EPOCH},
};

use parking_lot::{Mutex, MutexGuard};
use prometheus_client::registry::Registry;
use rowcast_model::{
    Batch, Channel, Cursor, HubOp, OrgId, Recovery, RecoveryWanted, Role, Timestamp,
};
use rowcast_wire::{Frame, Ref};
use tokio::sync::Notify;

use crate::{
    ApiKey, Auth, Connection, HubError, HubLimits, Identity, Sink, StreamState, Subscription,
    connection::Shared,
    metrics::Metrics,
    outbox::Budget,
    stage::{Mark, Stage},
    state::{About, Conn, Joins, State},
};

/// What a subscribe came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscribed {
    /// Everything after this position is delivered.
    pub cursor: Cursor,
    /// Tells this subscription from every other one, for [`Hub::unsubscribe`].
    pub generation: u64,
    /// Why the subscriber was told to read everything again, if it was.
    pub resync: Option<&'static str>,
}

/// All channels, connections and members of one process.
pub struct Hub {
    pub(crate) press: Mutex<Stage>,
    pub(crate) state: Mutex<State>,
    pub(crate) shared: Arc<Shared>,
    /// Most bytes of claims.
    pub(crate) claims_bytes: usize,
    /// The beginning of the time by which the past is forgotten.
    pub(crate) began: Instant,
    /// Rung when a transaction has been published to its end.
    pub(crate) settled: Notify,
}

impl Hub {
    /// An empty hub; its metrics go to `registry`.
    pub fn new(limits: HubLimits, registry: &mut Registry) -> Hub {
        let metrics = Metrics::register(registry);
        Hub {
            press: Mutex::default(),
            state: Mutex::new(State::new(limits, metrics.clone())),
            claims_bytes: limits.claims_bytes,
            began: Instant::now(),
            settled: Notify::new(),
            shared: Arc::new(Shared {
                budget: Budget {
                    limit: limits.total_outbox_bytes,
                    used: metrics.queued.clone(),
                    slow: metrics.slow_closes.clone(),
                },
                outbox_bytes: limits.outbox_bytes,
                latest_bytes: limits.latest_bytes,
                metrics,
            }),
        }
    }

    /// Takes the steps of a batch and writes what comes of them. Never waits for a socket; takes some
    /// microseconds for each socket that gets something, so call it where that is no harm. Batches must
    /// come one after the other, in log order.
    pub fn publish(&self, batch: Batch) {
        let mut stage = self.press.lock();
        stage.begin();
        let mut events = 0;
        let at = self.began.elapsed();
        let mut state = self.state.lock();
        state.now = at;
        let mut kept = 0;
        let mut ops = batch.ops.iter().enumerate().peekable();
        while let Some((i, op)) = ops.next() {
            match op {
                HubOp::Event(_) => events += 1,
                HubOp::Commit { .. } | HubOp::Position(_) => {}
                // Whatever else it is, it may ask what is kept.
                _ => kept = state.keep(&batch.ops, kept..i, at),
            }
            match op {
                // What follows at once is what holds instead: nobody loses what he keeps.
                HubOp::MembershipsCleared => {
                    let mut now = Vec::new();
                    while let Some((_, HubOp::Membership(change))) =
                        ops.next_if(|(_, op)| matches!(op, HubOp::Membership(_)))
                    {
                        now.push(change.clone());
                    }
                    state.settle(&mut stage);
                    state.replace_memberships(&now, &mut stage);
                }
                HubOp::ApiKeysCleared => {
                    let mut now = Vec::new();
                    while let Some((_, HubOp::ApiKey(change))) =
                        ops.next_if(|(_, op)| matches!(op, HubOp::ApiKey(_)))
                    {
                        now.push(change.clone());
                    }
                    state.settle(&mut stage);
                    state.replace_keys(&now, &mut stage);
                }
                HubOp::ChannelsCleared => {
                    let mut now = Vec::new();
                    while let Some((_, HubOp::Channel(change))) =
                        ops.next_if(|(_, op)| matches!(op, HubOp::Channel(_)))
                    {
                        now.push(change.clone());
                    }
                    state.settle(&mut stage);
                    state.replace_channels(&now, &mut stage);
                }
                _ => state.step(op, &mut stage),
            }
            // The state stays locked while anything is staged: a reply that came in between would line
            // up behind events that come after it.
            if stage.is_full() {
                state.settle(&mut stage);
                kept = state.keep(&batch.ops, kept..i + 1, at);
                MutexGuard::unlocked_fair(&mut state, || stage.flush(&self.shared, now));
            }
        }
        state.keep(&batch.ops, kept..batch.ops.len(), at);
        state.settle(&mut stage);
        state.history.expire(at);
        state.desk.expire(at);
        self.note_subscriptions(&state);
        self.note_history(&state);
        let inside = state.is_inside();
        drop(state);
        drop(batch);
        stage.flush(&self.shared, now);
        if !inside {
            self.settled.notify_waiters();
        }
        self.shared.metrics.events.inc_by(events);
    }

    /// Tells everybody whether the log is being read; to whom that is no news, nothing is said.
    pub fn announce(&self, stream: StreamState) {
        let mut state = self.state.lock();
        if state.stream == stream {
            return;
        }
        let frame = stream.frame();
        state.stream = stream;
        let all = state.conns.iter().map(|(_, conn)| conn);
        let welcomed: Vec<Arc<Connection>> = all
            .filter(|conn| conn.about.welcomed)
            .map(|conn| conn.connection.clone())
            .collect();
        for connection in &welcomed {
            connection.queue(frame.clone());
        }
        let joined = state.announce_to_joins();
        drop(state);
        for connection in welcomed.into_iter().chain(joined) {
            connection.pump();
        }
    }

    /// Queues the first frame of a connection, and behind it that the log is not being read, if so. What
    /// is announced later reaches this connection, too.
    pub fn welcome(&self, connection: &Connection, frame: Frame) {
        let mut state = self.state.lock();
        connection.queue(frame);
        if state.stream != StreamState::Live {
            connection.queue(state.stream.frame());
        }
        if let Some(conn) = state.conn(connection) {
            conn.about.welcomed = true;
        }
    }

    /// The position of what was published last.
    pub fn position(&self) -> Cursor {
        self.state.lock().position()
    }

    /// Registers an authenticated socket. It gets nothing before it subscribes.
    pub fn connect(&self, identity: Identity, sink: Arc<dyn Sink>) -> Arc<Connection> {
        self.enlist(identity, sink, None)
    }

    /// The same for a socket of the Supabase protocol: see [`Hub::join`].
    pub fn connect_phoenix(&self, identity: Identity, sink: Arc<dyn Sink>) -> Arc<Connection> {
        self.enlist(identity, sink, Some(Box::default()))
    }

    fn enlist(&self, identity: Identity, sink: Arc<dyn Sink>, joins: Joins) -> Arc<Connection> {
        let mut state = self.state.lock();
        let id = state.next_connection;
        state.next_connection += 1;
        let entry = state.conns.vacant_entry();
        let slot = u32::try_from(entry.key()).unwrap_or(u32::MAX);
        let connection = Arc::new(Connection::new(id, slot, sink, self.shared.clone()));
        entry.insert(Conn {
            connection: connection.clone(),
            mark: Mark::default(),
            about: Box::new(About {
                identity: identity.clone(),
                welcomed: false,
                subs: smallvec::SmallVec::new(),
                guests: 0,
                described: 0,
                joins,
            }),
        });
        match identity.auth {
            Auth::Session { .. } => state.by_user.entry(identity.user).or_default().push(slot),
            Auth::ApiKey { id, .. } => {
                state.by_key.entry(id).or_default().push(slot);
                // It may have ended since it was looked at.
                state.note_end_of_key(slot);
            }
        }
        self.shared.metrics.connections.inc();
        connection
    }

    /// Forgets a connection with all its subscriptions, and gives back what waited for it. Must be
    /// called once the socket is gone; calling it again does nothing.
    pub fn disconnect(&self, connection: &Connection) {
        let mut state = self.state.lock();
        state.dismiss(connection, None);
        state.now = self.began.elapsed();
        let Some(conn) = state.conn(connection) else {
            return;
        };
        let (subs, identity) = (conn.about.subs.clone(), conn.about.identity.clone());
        for id in subs {
            state.remove_sub(id);
        }
        if let Some(conn) = state.conns.try_remove(connection.slot as usize) {
            state.forget_joins(&conn.about.joins);
        }
        let slot = connection.slot;
        match &identity.auth {
            Auth::Session { .. } => forget(&mut state.by_user, &identity.user, slot),
            Auth::ApiKey { id, .. } => forget(&mut state.by_key, id, slot),
        }
        self.note_subscriptions(&state);
        drop(state);
        connection.abandon();
        self.shared.metrics.connections.dec();
    }

    /// Subscribes to a channel, in place of an earlier subscription to it. The `subscribed` reply, and a
    /// `resync` if the cursor cannot be gone on from, are sent to the connection before this returns.
    ///
    /// # Errors
    /// [`HubError`] when the channel, a table or a filter is refused; nothing was sent then, and an
    /// earlier subscription is as it was.
    pub fn subscribe(
        &self,
        connection: &Arc<Connection>,
        subscription: Subscription,
    ) -> Result<Subscribed, HubError> {
        let mut state = self.state.lock();
        state.now = self.began.elapsed();
        let result = state.subscribe(connection, subscription, None);
        self.note_subscriptions(&state);
        drop(state);
        connection.pump();
        result
    }

    /// Tells more of the past to a connection whose [`Connection::work`] says so: a bounded part of it. False
    /// when so much waits for all sockets that this has to wait, too: try again in a while.
    pub fn replay(&self, connection: &Arc<Connection>) -> bool {
        if self.shared.budget.is_nearly_used() {
            self.shared.metrics.replay_waits.inc();
            return false;
        }
        let mut state = self.state.lock();
        state.replay(connection, &self.shared.budget);
        // The publisher shall not wait behind many who come back.
        MutexGuard::unlock_fair(state);
        connection.pump();
        true
    }

    /// Waits until something of the past is wanted that is not known here, and says what. Whoever asks this
    /// has to answer each time with [`Hub::recover`], one question after the other.
    pub async fn recovery_wanted(&self) -> RecoveryWanted {
        let bell = self.state.lock().desk.bell.clone();
        loop {
            let wanted = self.state.lock().recovery_wanted();
            match wanted {
                Some(wanted) => return wanted,
                None => bell.notified().await,
            }
        }
    }

    /// Takes the answers to the last question. Those who waited for an answer that is not among them are
    /// told to read everything again.
    pub fn recover(&self, answers: Vec<Recovery>) {
        let mut state = self.state.lock();
        state.now = self.began.elapsed();
        let woken = state.recover(answers);
        drop(state);
        for connection in woken {
            connection.wake();
        }
    }

    /// Tells a connection how far it is, unless some past has still to be told.
    pub fn tell_position(&self, connection: &Arc<Connection>) {
        let mut state = self.state.lock();
        state.tell_position(connection);
        drop(state);
        connection.pump();
    }

    /// Ends a subscription and sends the `unsubscribed` reply. A name of the application is looked up in this
    /// organization. With a generation only that subscription, not a fresher one to the same channel.
    ///
    /// # Errors
    /// [`HubError::NotSubscribed`] when there is none.
    pub fn unsubscribe(
        &self,
        connection: &Arc<Connection>,
        channel: &Channel,
        organization: Option<&OrgId>,
        generation: Option<u64>,
        reference: Option<&Ref>,
    ) -> Result<(), HubError> {
        let mut state = self.state.lock();
        state.now = self.began.elapsed();
        let result = state.unsubscribe(connection, channel, organization, generation, reference);
        self.note_subscriptions(&state);
        drop(state);
        connection.pump();
        result
    }

    /// Takes the identity of a refreshed token; subscriptions that it no longer allows end.
    ///
    /// # Errors
    /// [`HubError::UserChanged`] when it is of somebody else.
    pub fn renew(&self, connection: &Arc<Connection>, identity: Identity) -> Result<(), HubError> {
        let mut state = self.state.lock();
        state.now = self.began.elapsed();
        let result = state.renew(connection, identity);
        drop(state);
        connection.pump();
        result
    }

    /// Roles of somebody in an organization, sorted; `None`: no member.
    pub fn roles(&self, identity: &Identity, organization: &OrgId) -> Option<Vec<Role>> {
        let grant = self.state.lock().grant(identity, organization)?;
        Some(grant.roles.to_vec())
    }

    /// Organizations that somebody may subscribe to, sorted.
    pub fn organizations(&self, identity: &Identity) -> Vec<OrgId> {
        self.state.lock().directory.organizations_of(identity)
    }

    /// Grows whenever what the plans of organizations allow may have changed.
    pub fn plans_version(&self) -> u64 {
        self.state.lock().plans_version
    }

    /// The API key with this id. The caller compares the hashes in constant time.
    pub fn api_key(&self, id: &str) -> Option<Arc<ApiKey>> {
        self.state.lock().directory.key(id).cloned()
    }

    /// Number of connections.
    pub fn connections(&self) -> usize {
        self.state.lock().conns.len()
    }

    /// Number of subscriptions of all connections.
    pub fn subscriptions(&self) -> usize {
        self.state.lock().subs.len()
    }

    /// Bytes that wait for all sockets together.
    pub fn queued_bytes(&self) -> usize {
        usize::try_from(self.shared.budget.used.get()).unwrap_or(0)
    }

    /// Closes every connection with this code.
    pub fn close_all(&self, code: rowcast_wire::CloseCode) {
        let connections: Vec<Arc<Connection>> = {
            let state = self.state.lock();
            let all = state.conns.iter();
            all.map(|(_, conn)| conn.connection.clone()).collect()
        };
        for connection in connections {
            connection.close(code);
        }
    }

    pub(crate) fn note_history(&self, state: &State) {
        let metrics = &self.shared.metrics;
        let bytes = i64::try_from(state.history.bytes()).unwrap_or(i64::MAX);
        metrics.history.set(bytes);
        let evicted = state.history.evicted();
        metrics
            .evicted
            .inc_by(evicted.saturating_sub(metrics.evicted.get()));
    }

    pub(crate) fn note_subscriptions(&self, state: &State) {
        let count = i64::try_from(state.subs.len()).unwrap_or(i64::MAX);
        self.shared.metrics.subscriptions.set(count);
        let described = i64::try_from(state.described).unwrap_or(i64::MAX);
        self.shared.metrics.described.set(described);
    }
}

fn forget<K: Eq + std::hash::Hash>(
    map: &mut crate::state::Map<K, smallvec::SmallVec<[u32; 2]>>,
    key: &K,
    slot: u32,
) {
    if let Some(slots) = map.get_mut(key) {
        slots.retain(|other| *other != slot);
        if slots.is_empty() {
            map.remove(key);
        }
    }
}

pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    let micros = since.map_or(0, |since| since.as_micros());
    Timestamp(i64::try_from(micros).unwrap_or(i64::MAX))
}
