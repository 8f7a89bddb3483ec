//! The words everybody in Rowcast uses.
//!
//! Owns: positions ([`Lsn`], [`Epoch`], [`Cursor`]), identities ([`OrgId`], [`UserId`], [`Role`],
//! [`Channel`], its [`Pattern`]s and [`ChannelRule`]s), the rule of masks ([`Masks`]), what is said without a row ([`Message`]), what the source
//! says ([`SourceEvent`]), how often something may happen ([`Rate`], [`Window`], [`Throttle`]), what is asked of
//! the application ([`Question`]), what crosses from routing to the hub ([`Batch`] of [`HubOp`]), what the hub asks of
//! the past ([`RecoveryWanted`], [`Recovery`]), and who is there ([`PresenceOp`]). What crosses is a versioned message: it may one day travel between
//! machines, so it holds no pointer into the reader.
//!
//! Promises: no IO, no clock, no async; every parser here is total and never panics.

mod application;
mod channel_rule;
mod client_event;
mod cursor;
mod ids;
mod input;
mod json_row;
mod lsn;
mod mask_text;
mod masks;
mod message;
mod pattern;
mod presence;
mod rate_table;
mod rates;
mod recovery;
mod relation;
mod routed;
mod source;

pub use application::{
    AskError, Asking, Caller, Claims, Definition, FunctionName, FunctionNameError, Handler,
    MAX_CODE_BYTES, MAX_SENTENCE_BYTES, Method, Question, Refusal,
};
pub use channel_rule::{
    Admits, ArgumentError, Arguments, Authorizer, ChannelChange, ChannelRule, NamespaceChange,
    PARAMETER_BYTES, ParameterKind, Revocation, Scope, Who,
};
pub use client_event::{
    Becomes, CLIENT_EVENT_BYTES, ClientEventChange, ClientEventRule, Edge, RateRule, SENDER_FIELD,
    ThrottleRule,
};
pub use cursor::{Cursor, CursorError, Epoch};
pub use ids::{Channel, ChannelError, OrgId, Role, UserId};
pub use input::{
    FIELD_CHARS, Field, FieldKind, Fields, InputError, InputSchema, MOST_FIELDS, check_json,
    read_fields, write_fields,
};
pub use json_row::{ColumnMeta, JsonRow, JsonRowBuilder};
pub use lsn::{Lsn, LsnError};
pub use mask_text::MaskError;
pub use masks::{MOST_MASKS, Mask, MaskKind, Masked, Masks, View};
pub use message::{
    MAX_EVENT_BYTES, MAX_ID_BYTES, MAX_PAYLOAD_BYTES, MAX_TARGET_ROLES, Message, Says, Sender,
    is_name,
};
pub use pattern::{MAX_PARTS, MAX_PATTERN_BYTES, Overlap, Pattern, PatternError};
pub use presence::{
    PRESENCE_VERSION, PresenceAct, PresenceCounts, PresenceDiff, PresenceNews, PresenceOp,
    PresenceUpdate, Present, PresentUser,
};
pub use rate_table::RateTable;
pub use rates::{Bucket, FixedWindow, Rate, RateError, Throttle, Throttled, Window};
pub use recovery::{Changed, Recovery, RecoveryWanted, Sample, Samples};
pub use relation::{Column, Kind, Relation, RelationId, ReplicaIdentity};
pub use routed::{
    Audience, Batch, Body, HubOp, KeyChange, KeyFacts, KeySecret, MembershipChange, Operation,
    ROUTED_VERSION, RoutedEvent, Shown, TableName, Topic,
};
pub use source::{OldTuple, RowChange, SourceEvent, Timestamp, Tuple, TxHeader, Value, WalItem};
