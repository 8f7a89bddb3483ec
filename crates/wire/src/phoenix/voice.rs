//! How a class of subscribers is spoken to, and which events it is told. Nothing here decides who may see an event.

use std::sync::Arc;

use rowcast_model::{Body, Operation, RoutedEvent, Says};

use super::TableEventFilter;

/// The form of the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// 1.0.0: objects, text only.
    V1,
    /// 2.0.0: lists, and binary frames for broadcasts.
    V2,
}

impl Version {
    /// Reads what clients say as `vsn`.
    pub fn parse(text: &str) -> Option<Version> {
        match text {
            "1.0.0" => Some(Version::V1),
            "2.0.0" => Some(Version::V2),
            _ => None,
        }
    }

    /// As clients say it.
    pub fn as_str(self) -> &'static str {
        match self {
            Version::V1 => "1.0.0",
            Version::V2 => "2.0.0",
        }
    }
}

/// How a class of subscribers is spoken to; part of what tells classes apart.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub enum Voice {
    /// In the frames of `docs/protocol.md`.
    #[default]
    Native,
    /// In those of Phoenix channels.
    Phoenix(Arc<Spoken>),
}

/// What frames of one class of Phoenix subscribers depend on, besides the columns.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Spoken {
    /// The form of the frames.
    pub version: Version,
    /// The whole topic, such as `realtime:room:1`.
    pub topic: Arc<str>,
    /// What of the events is told.
    pub what: What,
}

/// What a class of Phoenix subscribers is told.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum What {
    /// The broadcasts of the channel.
    Room,
    /// The rows of one binding to `postgres_changes`. Its table, filter and columns are those of the subscription.
    Rows {
        /// The binding's number.
        id: u32,
        /// Which of them.
        operations: Operations,
        /// Only tables of this schema; `None`: of any.
        schema: Option<Arc<str>>,
    },
    /// Table events, as rows of a table that is not there (see [`super::TABLE_EVENTS`]).
    TableEvents {
        /// The binding's number.
        id: u32,
        /// Which of them; `None`: all.
        filter: Option<TableEventFilter>,
    },
}

/// A set of INSERT, UPDATE and DELETE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Operations(u8);

impl Operations {
    /// All three.
    pub const ALL: Operations = Operations(0b111);

    /// One of them; of TRUNCATE none, as there is no row.
    pub const fn only(operation: Operation) -> Operations {
        Operations(match operation {
            Operation::Insert => 1,
            Operation::Update => 2,
            Operation::Delete => 4,
            Operation::Truncate => 0,
        })
    }

    /// Whether it is one of them.
    pub const fn contains(self, operation: Operation) -> bool {
        self.0 & Operations::only(operation).0 != 0
    }

    /// As bindings say it: `*`, or the name of the only one.
    pub fn as_str(self) -> &'static str {
        match self.0 {
            1 => "INSERT",
            2 => "UPDATE",
            4 => "DELETE",
            _ => "*",
        }
    }
}

impl Voice {
    /// For classes that are borrowed.
    pub const NATIVE: &'static Voice = &Voice::Native;

    /// A voice of Phoenix.
    pub fn phoenix(version: Version, topic: impl Into<Arc<str>>, what: What) -> Voice {
        Voice::Phoenix(Arc::new(Spoken {
            version,
            topic: topic.into(),
            what,
        }))
    }

    /// Whether an event makes a frame in this voice; of the native one, the forms of the class decide.
    pub fn wants(&self, event: &RoutedEvent) -> bool {
        match self {
            Voice::Native => true,
            Voice::Phoenix(spoken) => spoken.what.wants(event),
        }
    }
}

impl What {
    pub(super) fn wants(&self, event: &RoutedEvent) -> bool {
        match (self, &event.body) {
            (What::Room, Body::Message(message)) => matches!(message.says, Says::Broadcast { .. }),
            (
                What::Rows {
                    operations, schema, ..
                },
                Body::Change { .. },
            ) => {
                operations.contains(event.op)
                    && schema
                        .as_ref()
                        .is_none_or(|schema| *schema == event.table.schema)
            }
            (What::TableEvents { filter, .. }, Body::Change { .. } | Body::Invalidate) => {
                filter.as_ref().is_none_or(|filter| filter.wants(event))
            }
            (What::Room, Body::Change { .. } | Body::Invalidate)
            | (What::Rows { .. }, Body::Message(_) | Body::Invalidate)
            | (What::TableEvents { .. }, Body::Message(_)) => false,
        }
    }
}
