//! What crosses from routing to the hub: a typed, versioned message without pointers into the reader.
//!
//! The hub never sees Postgres; it sees events with an audience, changes of who may see what, and
//! positions, all in log order.

use std::sync::{Arc, LazyLock};

use serde::{Deserialize, Serialize};

use crate::{
    ChannelChange, ClientEventChange, Cursor, Epoch, JsonRow, Lsn, Masked, Masks, Message,
    NamespaceChange, OrgId, Revocation, Role, Timestamp, UserId,
};

/// Version of the messages in this module; raised with every incompatible change.
pub const ROUTED_VERSION: u16 = 4;

/// What happened to a row or a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Operation {
    /// A row came.
    Insert,
    /// A row changed.
    Update,
    /// A row went.
    Delete,
    /// All rows went.
    Truncate,
}

impl Operation {
    /// `INSERT`, `UPDATE`, `DELETE`, `TRUNCATE`.
    pub fn as_str(self) -> &'static str {
        match self {
            Operation::Insert => "INSERT",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
            Operation::Truncate => "TRUNCATE",
        }
    }
}

/// Schema and name of a table.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TableName {
    /// The schema.
    pub schema: Arc<str>,
    /// The table.
    pub name: Arc<str>,
}

impl TableName {
    /// What stands where an event is of no table: a name that no table can have.
    pub fn none() -> &'static Arc<TableName> {
        static NONE: LazyLock<Arc<TableName>> = LazyLock::new(|| {
            Arc::new(TableName {
                schema: "".into(),
                name: "".into(),
            })
        });
        &NONE
    }
}

/// Whose subscribers are asked at all.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Topic {
    /// One organization.
    Org(OrgId),
    /// Every organization: only for events that say nothing of any row, such as TRUNCATE.
    AllOrgs,
    /// A channel with a name of its own: of one organization, or of none (global). A name of a `tenant:`
    /// channel means those who are on that channel, not the table.
    Channel(Option<OrgId>, Arc<str>),
    /// One user, whatever he is a member of.
    User(UserId),
}

impl Topic {
    /// The organization whose members are asked, if it is one.
    pub fn organization(&self) -> Option<&OrgId> {
        match self {
            Topic::Org(organization) | Topic::Channel(Some(organization), _) => Some(organization),
            Topic::AllOrgs | Topic::Channel(None, _) | Topic::User(_) => None,
        }
    }
}

/// Who of the topic may see the event. An empty role list means every member.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Audience {
    /// At least one of these roles is needed, unless empty.
    pub required_roles: Arc<[Role]>,
    /// Only this user.
    pub user: Option<UserId>,
    /// Which columns are masked, and for whom; `None` where none is.
    #[serde(default)]
    pub masked: Option<Arc<Masked>>,
}

/// What of a table may be seen at all, and what in part only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// Only these columns; `None`: all.
    pub columns: Option<Arc<[Arc<str>]>>,
    /// Masks, if there are any.
    pub masks: Option<Arc<Masks>>,
}

/// What the event says.
// Nearly all bodies are rows: boxing them would cost an allocation for each.
#[allow(clippy::large_enum_variant)]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// A row with its values.
    Change {
        /// The row after; `None` for a delete.
        new: Option<JsonRow>,
        /// The row before, or its key; `None` for an insert.
        old: Option<JsonRow>,
        /// Columns whose value the log does not hold because the UPDATE left them alone.
        unchanged: Arc<[Arc<str>]>,
    },
    /// Only that something changed: one record, or (without `record_id`) the table as a whole.
    Invalidate,
    /// Not of a row at all. Such an event has the table [`TableName::none`].
    Message(Arc<Message>),
}

/// One event on its way to its subscribers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoutedEvent {
    /// Its position.
    pub cursor: Cursor,
    /// When its transaction committed.
    pub commit_time: Timestamp,
    /// Whose subscribers are asked.
    pub topic: Topic,
    /// Who of them may see it.
    pub audience: Audience,
    /// The table.
    pub table: Arc<TableName>,
    /// What happened.
    pub op: Operation,
    /// Which record: the key columns as text, joined as `docs/sql.md` says; `None` for the whole table.
    pub record_id: Option<Arc<str>>,
    /// Which record it was before an UPDATE that changed the key: that one is gone.
    #[serde(default)]
    pub old_record_id: Option<Arc<str>>,
    /// What is said of it.
    pub body: Body,
    /// The last event of its transaction on this topic.
    pub last: bool,
}

impl RoutedEvent {
    /// An event that is of no row.
    pub fn message(
        cursor: Cursor,
        commit_time: Timestamp,
        topic: Topic,
        audience: Audience,
        message: Arc<Message>,
    ) -> RoutedEvent {
        RoutedEvent {
            cursor,
            commit_time,
            topic,
            audience,
            table: TableName::none().clone(),
            op: Operation::Insert,
            record_id: None,
            old_record_id: None,
            body: Body::Message(message),
            last: false,
        }
    }

    /// What it says, if it is of no row.
    pub fn as_message(&self) -> Option<&Arc<Message>> {
        match &self.body {
            Body::Message(message) => Some(message),
            Body::Change { .. } | Body::Invalidate => None,
        }
    }
}

/// A change of a membership, in log order. `key` identifies the row of the membership table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembershipChange {
    /// The key of the row, as text.
    pub key: Arc<str>,
    /// Who is in which organization with which role from here on; `None`: the row is gone.
    pub now: Option<(UserId, OrgId, Option<Role>)>,
}

/// A change of an API key, in log order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyChange {
    /// The id of the key.
    pub id: Arc<str>,
    /// What it is from here on; `None`: revoked or gone.
    pub now: Option<KeyFacts>,
}

/// What an API key is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyFacts {
    /// Its secret, and the one before while that still counts.
    pub secrets: Vec<KeySecret>,
    /// Its organization: the first, and the one that is meant when none is named.
    pub organizations: Vec<OrgId>,
    /// Its roles, in each of them.
    pub roles: Vec<Role>,
    /// It ends then.
    pub expires: Option<Timestamp>,
    /// Its sockets may send, where a channel lets clients.
    pub may_send: bool,
}

/// One secret of an API key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeySecret {
    /// Hex SHA-256 of the key with this secret.
    pub hash: Arc<str>,
    /// It counts no longer than this.
    pub until: Option<Timestamp>,
}

impl KeyFacts {
    /// A key with one secret and one organization, and no end.
    pub fn new(hash: &str, organization: impl Into<OrgId>, roles: Vec<Role>) -> KeyFacts {
        KeyFacts {
            secrets: vec![KeySecret {
                hash: hash.into(),
                until: None,
            }],
            organizations: vec![organization.into()],
            roles,
            expires: None,
            may_send: true,
        }
    }
}

/// One step for the hub, in log order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HubOp {
    /// Deliver an event. Made once and not moved any more.
    Event(Arc<RoutedEvent>),
    /// The transaction at this position is complete.
    Commit {
        /// The position after the whole transaction.
        cursor: Cursor,
        /// When it committed.
        commit_time: Timestamp,
    },
    /// A membership changed.
    Membership(MembershipChange),
    /// All memberships are void (the table was truncated or exchanged).
    MembershipsCleared,
    /// An API key changed.
    ApiKey(KeyChange),
    /// All API keys are void.
    ApiKeysCleared,
    /// What the plans of organizations allow may be something else from here on.
    PlansChanged,
    /// The rule of a channel changed.
    Channel(ChannelChange),
    /// All rules of channels are void; those that follow at once hold instead.
    ChannelsCleared,
    /// The declared events of a namespace changed.
    Namespace(NamespaceChange),
    /// No namespace is declared; those that follow at once are.
    NamespacesCleared,
    /// What becomes of an event of clients changed.
    ClientEvent(ClientEventChange),
    /// No client event is defined; those that follow at once are.
    ClientEventsCleared,
    /// Those who are on a channel are taken off it.
    Revoke(Revocation),
    /// The rule of a table is another one from here on, or there is none any more.
    Rule {
        /// The table.
        table: Arc<TableName>,
        /// What is shown of it; `None`: it is not tracked any more.
        now: Option<Shown>,
    },
    /// All rules are void.
    RulesCleared,
    /// Everything up to here was handed on, and nothing was in it.
    Position(Cursor),
    /// The reader begins, or begins again, to read the log.
    LogBegins {
        /// Everything from here on was read, or will be, so the past reaches back to here and no further. Where
        /// this process has already handed on more, the older past stays known.
        floor: Cursor,
        /// How far the log was written when reading began. What comes up to here is the past, told again: it
        /// serves those who come back with a cursor, and nobody who asks for what comes from now on.
        target: Cursor,
    },
    /// Positions of before mean nothing any more.
    NewEpoch {
        /// The epoch from here on.
        epoch: Epoch,
        /// Why.
        reason: Arc<str>,
    },
}

impl From<RoutedEvent> for HubOp {
    fn from(event: RoutedEvent) -> HubOp {
        HubOp::Event(Arc::new(event))
    }
}

/// What routing hands on at once: a part of one transaction, or news between transactions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// The transaction (low 32 bits) whose end must be visible to new snapshots before this is published.
    pub xid: Option<u32>,
    /// What to do, in order.
    pub ops: Vec<HubOp>,
    /// What may be acknowledged to Postgres when this is published.
    pub ack: Option<Lsn>,
    /// Bytes that this batch keeps alive.
    pub bytes: usize,
}
