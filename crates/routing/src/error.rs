//! What can be wrong with a row of Rowcast's own configuration. Owns the stable codes of these errors.

/// Why a configuration row cannot be used. A table with such a row is not delivered at all.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RoutingError {
    /// A column that must be there is missing or null.
    #[error(
        "a row of rowcast.{table} has no {column}; run `rowcast migrate`, then track the table again"
    )]
    Missing {
        /// The configuration table.
        table: &'static str,
        /// Its column.
        column: &'static str,
    },
    /// A column holds what cannot be read.
    #[error(
        "rowcast.{table}.{column} holds `{value}`, expected {expected}; mend the row with rowcast.track or rowcast.use_memberships"
    )]
    Invalid {
        /// The configuration table.
        table: &'static str,
        /// Its column.
        column: &'static str,
        /// The beginning of what it holds.
        value: String,
        /// What would be right.
        expected: &'static str,
    },
}

impl RoutingError {
    /// The stable code of this error.
    pub fn code(&self) -> &'static str {
        match self {
            RoutingError::Missing { .. } => "routing_config_missing",
            RoutingError::Invalid { .. } => "routing_config_invalid",
        }
    }

    pub(crate) fn invalid(
        table: &'static str,
        column: &'static str,
        value: &str,
        expected: &'static str,
    ) -> Self {
        RoutingError::Invalid {
            table,
            column,
            value: value.chars().take(60).collect(),
            expected,
        }
    }
}
