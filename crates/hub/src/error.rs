//! Why a request to the hub is refused.

use std::sync::Arc;

use rowcast_model::{ArgumentError, AskError, Channel, OrgId};
use rowcast_wire::{ErrorCode, Frame, Ref, server};

/// A refused request; the socket stays open.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HubError {
    /// The user is no member of the organization whose channel this is.
    #[error("you are not a member of organization `{0}`; ask one of its owners to add you")]
    NotMember(OrgId),
    /// Somebody else's `user:` channel.
    #[error("the channel `{0}` belongs to another user; subscribe to your own")]
    Forbidden(Channel),
    /// Too many subscriptions on one connection.
    #[error("this socket has {0} subscriptions, as many as allowed; unsubscribe some first")]
    TooManySubscriptions(usize),
    /// The table lists and filters of one connection take too much memory.
    #[error(
        "the table lists and filters of this socket would take more than {0} bytes; ask for less, or unsubscribe some first"
    )]
    SubscriptionsTooLarge(usize),
    /// The table lists and filters of all connections take too much memory.
    #[error("the service holds as many table lists and filters as allowed; try again later")]
    TooManyFilters,
    /// A filter or column list names a column that the table does not publish.
    #[error(
        "table `{table}` publishes no column `{column}`; leave it out of the filter or column list"
    )]
    UnknownColumn {
        /// The table.
        table: String,
        /// The column.
        column: String,
    },
    /// A filter names a column that this subscriber does not see as it is.
    #[error(
        "column `{column}` of table `{table}` is masked for you, so a filter cannot use it; leave it out"
    )]
    MaskedColumn {
        /// The table.
        table: String,
        /// The column.
        column: String,
    },
    /// A `tenant:` channel with a table list that names another table.
    #[error("the channel `{0}` is of one table; name only that one in `tables`")]
    WrongTable(Channel),
    /// A table list for a channel that no table has changes on.
    #[error("the channel `{0}` has no tables; leave `tables` away")]
    NoTables(Channel),
    /// There was no room for the claims of this socket, which the application wants to know.
    #[error("the service holds as many claims of tokens as allowed; come back later")]
    NoClaims,
    /// No rule is about this name.
    #[error(
        "no pattern of rowcast.channels fits the channel `{0}`; define it: SELECT rowcast.define_channel('{0}', 'public')"
    )]
    NoSuchChannel(Arc<str>),
    /// A part of the name is not what the rule wants.
    #[error("channel `{channel}`: {error}")]
    Argument {
        /// The name.
        channel: Arc<str>,
        /// What is wrong.
        error: ArgumentError,
    },
    /// The name means another channel in each organization, and none was named.
    #[error("the channel `{0}` belongs to an organization; say which: organizationId")]
    OrganizationNeeded(Arc<str>),
    /// The rule does not let this user in.
    #[error("the rule of `{pattern}` does not let you on the channel `{channel}`")]
    NotAdmitted {
        /// The name.
        channel: Arc<str>,
        /// The pattern that it fits.
        pattern: Arc<str>,
    },
    /// The application has to say yes first, and has not.
    #[error("the application has not let you on the channel `{0}`; subscribe to it first")]
    Unasked(Arc<str>),
    /// The application says who is on the channel, and somebody without a socket is not.
    #[error(
        "the application decides who is on the channel `{0}`: subscribe to it on a socket, and send there"
    )]
    SocketsOnly(Arc<str>),
    /// Nobody can be asked; the application signs who may.
    #[error(
        "the channel `{0}` is for those who bring a grant of the application; send it as `grant`"
    )]
    GrantNeeded(Arc<str>),
    /// A grant for somebody or something else.
    #[error("the grant is for another {0}; get one from the application")]
    GrantOfAnother(&'static str),
    /// A grant that has ended, or of before a revocation.
    #[error(
        "the grant has ended, or access was revoked since; get another one from the application"
    )]
    GrantOver,
    /// As many as allowed wait for the application.
    #[error("as many as allowed wait for the application; try again later")]
    TooManyGuests,
    /// Clients may not send there.
    #[error("clients may not send on the channel `{0}`; its rule has to say relay => true")]
    NoRelay(Channel),
    /// An API key that only listens.
    #[error("this API key may not send; it was made with may_send => false")]
    KeyReadsOnly,
    /// Where events are declared, this one is not.
    #[error(
        "the event `{0}` is not declared; see rowcast.declare_events and the events of the channel"
    )]
    Undeclared(Arc<str>),
    /// Clients may not send this event there.
    #[error(
        "no client event `{event}` is defined for the channel `{channel}`; define it: SELECT rowcast.define_client_event(...)"
    )]
    NoSuchEvent {
        /// The event.
        event: Arc<str>,
        /// The name of the channel.
        channel: Arc<str>,
    },
    /// The sender has none of the roles that the event needs.
    #[error("the client event `{0}` needs a role that you do not have")]
    EventForbidden(Arc<str>),
    /// The channel has no members.
    #[error("the channel `{0}` has no members; its rule has to say presence => true")]
    NoPresence(Channel),
    /// As many connections are on the channel as may be.
    #[error("there are {0} connections on this channel, as many as allowed; try again later")]
    ChannelFull(usize),
    /// As many connections of this user are on the channel as may be.
    #[error("{0} of your connections are on this channel, as many as allowed; close one first")]
    FullOfUser(usize),
    /// The members of all channels take as much memory as they may.
    #[error("the service keeps as many members of channels as allowed; try again later")]
    PresenceFull,
    /// A state that is too large.
    #[error("the state may have {0} bytes; send less")]
    StateTooLarge(usize),
    /// A state of somebody who is not there.
    #[error("this connection is not among the members of `{0}`; join first")]
    NotPresent(Channel),
    /// The log was not read up to the present yet.
    #[error("the service is not streaming yet; try again")]
    NotReady,
    /// A transaction is on its way, or there is no place left behind the newest record of the log.
    #[error(
        "the log has to move on first: a large transaction is on its way, or as much was said as fits behind its newest record; try again"
    )]
    Busy,
    /// There is nothing to unsubscribe.
    #[error("there is no subscription to `{0}` on this socket")]
    NotSubscribed(Channel),
    /// A refreshed token of somebody else.
    #[error("the new token is of another user; open a new socket for it")]
    UserChanged,
    /// The connection is closed already.
    #[error("the connection is closed")]
    Closed,
}

impl HubError {
    /// The number that clients see.
    pub fn error_code(&self) -> ErrorCode {
        match self {
            HubError::NotMember(_) => ErrorCode::NotMember,
            HubError::Forbidden(_) => ErrorCode::ChannelForbidden,
            HubError::TooManySubscriptions(_) | HubError::SubscriptionsTooLarge(_) => {
                ErrorCode::TooManySubscriptions
            }
            HubError::TooManyFilters | HubError::NoClaims | HubError::TooManyGuests => {
                ErrorCode::Overloaded
            }
            HubError::UnknownColumn { .. } => ErrorCode::UnknownColumn,
            HubError::MaskedColumn { .. } => ErrorCode::MaskedColumn,
            HubError::WrongTable(_) | HubError::NoTables(_) => ErrorCode::InvalidTables,
            HubError::NoSuchChannel(_) | HubError::Argument { .. } => ErrorCode::UnknownChannel,
            HubError::OrganizationNeeded(_) => ErrorCode::OrganizationNeeded,
            HubError::NotAdmitted { .. } | HubError::Unasked(_) | HubError::SocketsOnly(_) => {
                ErrorCode::ChannelForbidden
            }
            HubError::GrantNeeded(_) | HubError::GrantOfAnother(_) => ErrorCode::GrantInvalid,
            HubError::GrantOver => ErrorCode::GrantExpired,
            HubError::NoRelay(_) | HubError::KeyReadsOnly => ErrorCode::SendForbidden,
            HubError::Undeclared(_) => ErrorCode::UndeclaredEvent,
            HubError::NoSuchEvent { .. } => ErrorCode::UnknownEvent,
            HubError::EventForbidden(_) => ErrorCode::EventForbidden,
            HubError::NoPresence(_) => ErrorCode::PresenceOff,
            HubError::ChannelFull(_) | HubError::FullOfUser(_) => ErrorCode::PresenceFull,
            HubError::PresenceFull => ErrorCode::Overloaded,
            HubError::StateTooLarge(_) => ErrorCode::StateTooLarge,
            HubError::NotPresent(_) => ErrorCode::NotPresent,
            HubError::NotReady | HubError::Busy => ErrorCode::NotReady,
            HubError::NotSubscribed(_) => ErrorCode::NotSubscribed,
            HubError::UserChanged => ErrorCode::UserChanged,
            HubError::Closed => ErrorCode::Internal,
        }
    }

    /// The stable name of the error.
    pub fn code(&self) -> &'static str {
        self.error_code().name()
    }
}

/// The number of the error that whoever asked the application is answered with.
pub fn ask_error_code(error: &AskError) -> ErrorCode {
    match error {
        AskError::Refused(_) => ErrorCode::Refused,
        AskError::Unavailable => ErrorCode::ApplicationUnavailable,
        AskError::Overloaded => ErrorCode::Overloaded,
        AskError::Failed => ErrorCode::ApplicationFailed,
    }
}

/// The `error` frame that he is answered with; a refusal keeps the code and the words of the application.
pub fn ask_error_frame(reference: Option<&Ref>, error: &AskError) -> Frame {
    let code = ask_error_code(error);
    match error {
        AskError::Refused(refusal) => {
            server::refusal(reference, code, &refusal.message, &refusal.code)
        }
        _ => server::error(reference, code, &error.to_string()),
    }
}
