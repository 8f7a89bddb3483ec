//! Why a request to the hub is refused.

use rowcast_model::{Channel, OrgId};
use rowcast_wire::ErrorCode;

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
            HubError::TooManyFilters => ErrorCode::Overloaded,
            HubError::UnknownColumn { .. } => ErrorCode::UnknownColumn,
            HubError::MaskedColumn { .. } => ErrorCode::MaskedColumn,
            HubError::WrongTable(_) => ErrorCode::InvalidTables,
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
