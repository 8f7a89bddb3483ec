//! Events of clients for the application: how many, how fast, and what is answered. Whether somebody may send one is
//! decided in the hub; what it means, by the application.
//!
//! Promises: nothing that a handler does keeps the socket's other frames waiting; the events of a channel are
//! handled in the order they were sent; every event with a `ref` has one answer while the socket lives; what waits is
//! bounded for each socket in number and for all in bytes.

mod form;
mod handle;
mod lanes;
mod pace;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use rowcast_hub::{Connection, Sending};
use rowcast_model::{Becomes, Caller, FixedWindow, OrgId, RateTable, UserId, Window};
use rowcast_wire::{ClientEvent, ErrorCode, server, server::EventError};

use super::{
    Shared,
    half::{Held, Incoming},
};
use crate::session::Session;

use lanes::{Entered, Lanes};
use pace::{Pace, Paced};

/// Most users whose events are counted at a time; newcomers beyond share one count.
pub const COUNTED_USERS: usize = 100_000;
/// What one of them takes, in bytes.
pub const COUNTED_BYTES: usize = RateTable::<FixedWindow>::ENTRY_BYTES;
/// What an event takes beside its texts.
const FIXED: usize = 1024;

/// What the events of all sockets share.
pub(crate) struct Events {
    /// Bytes of events that have no answer yet.
    bytes: Arc<Incoming>,
    /// How many each user sent, over all his sockets.
    counts: Mutex<RateTable<FixedWindow>>,
    /// The beginning of the time by which is counted.
    began: Instant,
}

impl Events {
    pub fn new(bytes: Arc<Incoming>) -> Events {
        Events {
            bytes,
            counts: Mutex::new(RateTable::new(COUNTED_USERS)),
            began: Instant::now(),
        }
    }

    fn since(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.began)
    }

    /// Counts one event of its sender. Else: when the window ends.
    fn count(&self, sending: &Sending, now: Instant) -> Result<(), Duration> {
        let Some(rate) = &sending.rule.rate else {
            return Ok(());
        };
        let window = Window {
            most: rate.limit,
            span: Duration::from_millis(rate.window_ms.into()),
        };
        let now = self.since(now);
        let machine = sending.grant.user.is_none();
        let subject = (&*rate.key, machine, sending.identity.user.as_str());
        self.counts.lock().ask(&subject, now, |count| {
            let taken = count.take(&window, now);
            let end = count.ends_at(&window);
            let answer = if taken {
                Ok(())
            } else {
                Err(end.saturating_sub(now))
            };
            (answer, end)
        })
    }
}

/// The events of one socket. Small while there are none, as for nearly all.
#[derive(Default)]
pub(super) struct Sent(Option<Box<SentOnce>>);

struct SentOnce {
    pace: Pace<Job>,
    lanes: Arc<Mutex<Lanes<Job>>>,
}

/// An event that is to be handled.
struct Job {
    frame: ClientEvent,
    sending: Sending,
    /// Who asks, where the application is asked.
    caller: Option<Caller>,
    /// The data, in form.
    data: bytes::Bytes,
    /// It waited, so what was decided may have changed.
    waited: bool,
    _room: Held,
}

/// The socket on which events come.
#[derive(Clone, Copy)]
pub(super) struct Sender<'a> {
    pub shared: &'a Arc<Shared>,
    pub connection: &'a Arc<Connection>,
    /// The organization that the socket is for.
    pub home: &'a OrgId,
}

impl Sent {
    /// When to call [`Sender::go_on`] at the latest, if it has to be.
    pub fn next(&self, shared: &Shared) -> Option<Instant> {
        let sent = self.0.as_ref()?;
        let next = sent.pace.next().or_else(|| sent.pace.idle_at())?;
        Some(shared.events.began + next)
    }
}

impl Sender<'_> {
    /// Takes an event. `false`: it was refused for a reason that costs patience.
    pub fn take(&self, session: &mut Session, sent: &mut Sent, mut frame: ClientEvent) -> bool {
        let Sender {
            shared,
            connection,
            home,
        } = *self;
        frame.organization.get_or_insert_with(|| home.clone());
        let may = handle::decide(shared, connection, &frame);
        let (sending, caller) = match may {
            Ok(may) => may,
            Err(error) => {
                let code = error.error_code();
                let error = error.to_string();
                self.refuse(&frame, "forbidden", EventError::new(code, &error));
                return code.come_back();
            }
        };
        let user: Option<&UserId> = sending.grant.user.as_ref();
        let data = match form::form(&sending.rule, &frame.data, user) {
            Ok(data) => data,
            Err(error) => {
                let code = ErrorCode::InvalidData;
                self.refuse(&frame, "invalid", EventError::new(code, &error.to_string()));
                return true;
            }
        };
        // It is in `data` from here on.
        frame.data = bytes::Bytes::new();
        let mut room = Held::nothing(shared.events.bytes.clone());
        if !room.set(FIXED + data.len()) {
            self.refuse(&frame, "overloaded", EventError::of(ErrorCode::Overloaded));
            return true;
        }
        let sent = sent.0.get_or_insert_with(|| {
            Box::new(SentOnce {
                pace: Pace::default(),
                lanes: Arc::new(Mutex::new(Lanes::new(shared.limits.client_events))),
            })
        });
        let throttle = sending.rule.throttle;
        let job = Job {
            frame,
            sending,
            caller,
            data,
            waited: false,
            _room: room,
        };
        let now = Instant::now();
        let Some(throttle) = throttle else {
            self.begin(session, sent, job, now);
            return true;
        };
        let name = job.sending.topic.organization();
        let name = name.map_or("", OrgId::as_str).to_owned();
        let channel = job.frame.channel.to_string();
        let event = job.frame.event.clone();
        let name = (&*name, &*channel, &*event);
        match sent
            .pace
            .offer(name, throttle, shared.events.since(now), job)
        {
            Paced::Now(job, before) => {
                before.into_iter().for_each(|job| self.drop_job(&job));
                self.begin(session, sent, job, now);
            }
            Paced::Held(before) => before.into_iter().for_each(|job| self.drop_job(&job)),
            Paced::Dropped(job) => self.drop_job(&job),
            Paced::Full(job) => {
                let error = EventError::of(ErrorCode::TooManyEvents);
                self.refuse(&job.frame, "too_many", error);
            }
        }
        true
    }

    /// Handles what was held and whose time has come.
    pub fn go_on(&self, session: &mut Session, sent: &mut Sent, now: Instant) {
        let Some(once) = &mut sent.0 else {
            return;
        };
        let since = self.shared.events.since(now);
        for mut job in once.pace.due(since) {
            job.waited = true;
            self.begin(session, once, job, now);
        }
        if once.pace.forget_idle(since) && once.lanes.lock().is_empty() {
            sent.0 = None;
        }
    }

    /// Counts an event and has it handled, behind those of its channel.
    fn begin(&self, session: &mut Session, sent: &SentOnce, job: Job, now: Instant) {
        if let Err(left) = self.shared.events.count(&job.sending, now) {
            let mut error = EventError::of(ErrorCode::RateLimitExceeded);
            error.retry_after_ms = u64::try_from(left.as_millis()).ok();
            return self.refuse(&job.frame, "rate_limited", error);
        }
        let relayed = matches!(job.sending.rule.becomes, Becomes::Relay(_));
        // What has a throttle of its own need not share that of broadcasts.
        if relayed
            && job.sending.rule.throttle.is_none()
            && !session.may_say(&self.shared.limits, now)
        {
            let error = EventError::of(ErrorCode::SendLimited);
            return self.refuse(&job.frame, "send_limited", error);
        }
        let lane: Arc<str> = handle::lane(&job.sending.topic);
        let entered = sent.lanes.lock().enter(&lane, job);
        match entered {
            Entered::Waits => {}
            Entered::Begin(job) => {
                let (shared, lanes) = (self.shared.clone(), sent.lanes.clone());
                let connection = self.connection.clone();
                let tracked = self.shared.sockets.clone();
                tracked.spawn(handle::one_after_the_other(
                    shared, connection, lanes, lane, job,
                ));
            }
            Entered::Full(job) => {
                let error = EventError::of(ErrorCode::TooManyEvents);
                self.refuse(&job.frame, "too_many", error);
            }
        }
    }

    fn drop_job(&self, job: &Job) {
        self.shared.metrics.client_event("throttled");
        if let Some(reference) = &job.frame.reference {
            let channel = job.frame.channel.to_string();
            let answer = server::EventAnswer::Dropped;
            let reply = server::event_reply(reference, &channel, &job.frame.event, answer);
            self.connection.send(reply);
        }
    }

    fn refuse(&self, frame: &ClientEvent, outcome: &'static str, error: EventError<'_>) {
        handle::refuse(self.shared, self.connection, frame, outcome, error);
    }
}
