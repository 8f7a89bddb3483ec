//! Client events, one after the other: each is decided again if it waited, then relayed, or the application is
//! asked, and then answered. Runs beside the socket's own task.

use std::sync::Arc;

use parking_lot::Mutex;
use rowcast_hub::{Connection, HubError, Sending};
use rowcast_model::{AskError, Asking, Becomes, Caller, Handler, Question, Topic};
use rowcast_wire::{ClientEvent, ErrorCode, server, server::EventError};
use serde_json::value::RawValue;

use super::{Job, lanes::Lanes};
use crate::{
    application::ask_error_code,
    ws::{Shared, say::between_transactions},
};

/// The name of the lane of a channel.
pub(super) fn lane(topic: &Topic) -> Arc<str> {
    match topic {
        Topic::Channel(None, name) => name.clone(),
        Topic::Channel(Some(organization), name) => {
            format!("{}\n{name}", organization.as_str()).into()
        }
        _ => "".into(),
    }
}

/// Handles an event, and then those of the socket whose turn it is.
pub(super) async fn one_after_the_other(
    shared: Arc<Shared>,
    connection: Arc<Connection>,
    lanes: Arc<Mutex<Lanes<Job>>>,
    lane: Arc<str>,
    job: Job,
) {
    let mut next = Some((lane, job));
    while let Some((lane, mut job)) = next {
        handle(&shared, &connection, &mut job).await;
        drop(job);
        next = lanes.lock().next(&lane);
        if let Some((_, job)) = &mut next {
            job.waited = true;
        }
    }
}

/// Why an event has no answer of the application.
enum Refused {
    Hub(HubError),
    Application(AskError),
}

async fn handle(shared: &Arc<Shared>, connection: &Arc<Connection>, job: &mut Job) {
    match outcome(shared, connection, job).await {
        Ok(data) => {
            shared.metrics.client_event("ok");
            if let Some(reference) = &job.frame.reference {
                let channel = job.frame.channel.to_string();
                let answer = server::EventAnswer::Data(&data);
                let reply = server::event_reply(reference, &channel, &job.frame.event, answer);
                connection.send(reply);
            }
        }
        Err(Refused::Hub(HubError::Closed)) => shared.metrics.client_event("abandoned"),
        Err(Refused::Hub(error)) => {
            let code = error.error_code();
            let outcome = if code.come_back() {
                "unavailable"
            } else {
                "forbidden"
            };
            let error = error.to_string();
            let error = EventError::new(code, &error);
            refuse(shared, connection, &job.frame, outcome, error);
        }
        Err(Refused::Application(AskError::Refused(refusal))) => {
            let code = ErrorCode::Refused;
            let sentence = match &*refusal.message {
                "" => code.sentence(),
                message => message,
            };
            let mut error = EventError::new(code, sentence);
            error.reason = Some(&refusal.code);
            refuse(shared, connection, &job.frame, "refused", error);
        }
        Err(Refused::Application(error)) => {
            let (code, outcome) = (ask_error_code(&error), error.code());
            let error = error.to_string();
            let error = EventError::new(code, &error);
            refuse(shared, connection, &job.frame, outcome, error);
        }
    }
}

async fn outcome(
    shared: &Arc<Shared>,
    connection: &Arc<Connection>,
    job: &mut Job,
) -> Result<Box<RawValue>, Refused> {
    if job.waited {
        let (again, caller) = decide(shared, connection, &job.frame).map_err(Refused::Hub)?;
        // Data was checked for another rule: its sender may say it again.
        if again.rule != job.sending.rule {
            return Err(Refused::Hub(HubError::Busy));
        }
        (job.sending, job.caller) = (again, caller);
    }
    match &job.sending.rule.becomes {
        Becomes::Relay(_) => {
            let relay = || {
                let payload = job.data.clone();
                shared.hub.relay_event(connection, &job.sending, payload)
            };
            let said = between_transactions(&shared.hub, relay).await;
            said.map_err(Refused::Hub)?;
            Ok(RawValue::NULL.to_owned())
        }
        Becomes::Question(handler) => {
            let failed = Refused::Application(AskError::Failed);
            let question = question(job, handler).ok_or(failed)?;
            let unavailable = || Refused::Application(AskError::Unavailable);
            let application = shared.application.clone();
            let asked = application.ok_or_else(unavailable)?.ask(question);
            asked.await.map_err(Refused::Application)
        }
    }
}

/// Whether the socket may send this event now, and who it is to the application if that is asked.
pub(super) fn decide(
    shared: &Shared,
    connection: &Connection,
    frame: &ClientEvent,
) -> Result<(Sending, Option<Caller>), HubError> {
    let (hub, organization) = (&shared.hub, frame.organization.as_ref());
    let sending = hub.client_event(connection, &frame.channel, organization, &frame.event)?;
    let caller = match sending.rule.becomes {
        Becomes::Question(_) => Some(hub.caller(connection, sending.topic.organization())?),
        Becomes::Relay(_) => None,
    };
    Ok((sending, caller))
}

fn question(job: &Job, handler: &Handler) -> Option<Question> {
    let Topic::Channel(_, channel) = &job.sending.topic else {
        return None;
    };
    let input = std::str::from_utf8(&job.data).ok()?;
    Some(Question {
        asking: Asking::Event,
        handler: handler.clone(),
        definition: Some(job.sending.rule.definition()),
        channel: channel.clone(),
        arguments: job.sending.arguments.clone(),
        input: RawValue::from_string(input.to_owned()).ok()?,
        caller: job.caller.clone()?,
    })
}

/// Answers with an error, and counts it.
pub(super) fn refuse(
    shared: &Shared,
    connection: &Connection,
    frame: &ClientEvent,
    outcome: &'static str,
    error: EventError<'_>,
) {
    shared.metrics.client_event(outcome);
    shared.metrics.error(error.code);
    let channel = frame.channel.to_string();
    let reference = frame.reference.as_ref();
    connection.send(server::event_error(
        reference,
        &channel,
        &frame.event,
        error,
    ));
}
