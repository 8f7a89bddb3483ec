//! Somebody who waits for what the application says about him: a subscription of the native protocol, or a join.

use std::sync::Arc;

use rowcast_model::{AskError, Authorizer, Channel, Topic};
use rowcast_wire::{Frame, phoenix, server};

use crate::{Connection, HubError, Join, Subscription, error::ask_error_frame};

/// Somebody who wants to come in.
pub(crate) struct Guest {
    pub connection: Arc<Connection>,
    pub wanted: Wanted,
    pub topic: Topic,
    pub by: Arc<Authorizer>,
    /// The question under way; others do not count.
    pub asked: Option<u64>,
    pub cost: u32,
}

/// What he wants.
#[derive(Clone)]
pub(crate) enum Wanted {
    Subscription(Box<Subscription>),
    Join(Box<Join>),
}

impl Wanted {
    /// The channel of which the application says who may be on it.
    pub(crate) fn channel(&self) -> &Channel {
        match self {
            Wanted::Subscription(wanted) => &wanted.channel,
            Wanted::Join(join) => &join.room.channel,
        }
    }

    /// Whether it is a join of this topic.
    pub(crate) fn joins(&self, topic: &str) -> bool {
        matches!(self, Wanted::Join(join) if *join.topic == *topic)
    }

    fn refused(&self, error: &HubError) -> Frame {
        match self {
            Wanted::Subscription(wanted) => {
                let (reference, code) = (wanted.reference.as_ref(), error.error_code());
                server::error(reference, code, &error.to_string())
            }
            Wanted::Join(join) => join.refused(&error.to_string()),
        }
    }

    /// What he is told when the application has said no, or nothing.
    pub(crate) fn denied(&self, error: &AskError) -> Frame {
        match self {
            Wanted::Subscription(wanted) => ask_error_frame(wanted.reference.as_ref(), error),
            Wanted::Join(join) => match error {
                AskError::Refused(refusal) => join.refused(&refusal.message),
                _ => join.refused(&error.to_string()),
            },
        }
    }
}

impl Join {
    /// The answer of a join that is refused after all.
    fn refused(&self, why: &str) -> Frame {
        let (join_ref, own) = (Some(&*self.reference), self.own_reference.as_deref());
        let name = self.topic.strip_prefix(phoenix::TOPIC_PREFIX);
        let name = name.unwrap_or(&self.topic);
        let why = format!(
            "Unauthorized: You do not have permissions to read from this Channel topic: {name} ({why})"
        );
        phoenix::reply(self.version, join_ref, own, &self.topic, Err(&why))
    }
}

impl Guest {
    /// Tells him that he is not let in.
    pub(crate) fn refuse(&self, error: &HubError) {
        self.connection.queue(self.wanted.refused(error));
    }

    /// Sends him away who waits to join.
    pub(crate) fn turn_away(&self, why: &str) {
        if let Wanted::Join(join) = &self.wanted {
            self.connection.queue(join.refused(why));
        }
    }
}
