//! What can go wrong between us and Postgres: what happened, and what mends it.

use crate::pgoutput::DecodeError;

/// Why the source cannot go on. `retry` says whether it tries again by itself.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SourceError {
    /// The address cannot be understood.
    #[error(
        "DATABASE_URL cannot be understood: {0}; it looks like postgres://user:password@host:5432/name"
    )]
    Address(String),
    /// TLS cannot be set up.
    #[error("TLS to the database cannot be set up: {0}")]
    Tls(String),
    /// Nobody answers, or the connection broke.
    #[error("the connection to the database broke: {0}")]
    Connection(String),
    /// The server wants to shut down.
    #[error("the database shuts down")]
    ShuttingDown,
    /// Nothing was heard for too long.
    #[error("the database has said nothing for {0} s; connecting again")]
    Silent(u64),
    /// Name or password is wrong, or pg_hba.conf does not let us in.
    #[error(
        "the database does not let us in: {0}; check user and password in DATABASE_URL and pg_hba.conf"
    )]
    AuthFailed(String),
    /// wal_level is not logical.
    #[error(
        "wal_level is `{0}`, logical decoding needs: ALTER SYSTEM SET wal_level = 'logical'; then restart Postgres"
    )]
    WalLevel(String),
    /// The role may not replicate.
    #[error(
        "role `{role}` lacks a privilege ({detail}); mend it with: ALTER ROLE {role} REPLICATION; SELECT rowcast.grant_service('{role}');"
    )]
    PermissionDenied {
        /// Who we are.
        role: String,
        /// What the server said.
        detail: String,
    },
    /// The migrations have not been applied.
    #[error("the schema `rowcast` is not there or too old ({0}); run: rowcast migrate")]
    NotMigrated(String),
    /// The publication is not there.
    #[error(
        "publication `{0}` does not exist; run: rowcast migrate, or SELECT rowcast.sync_publication();"
    )]
    PublicationMissing(String),
    /// The slot is used by somebody else.
    #[error(
        "standby: slot `{0}` is in use by another connection ({1}); taken over when it is free"
    )]
    SlotInUse(String, String),
    /// The slot vanished while we were reading.
    #[error("slot `{0}` is gone; it is created again and every client is told to fetch anew")]
    SlotMissing(String),
    /// The log that the slot needs was removed.
    #[error(
        "slot `{slot}` is lost ({detail}); it is dropped and created again, and every client is told to fetch anew"
    )]
    SlotLost {
        /// The slot.
        slot: String,
        /// What the server said.
        detail: String,
    },
    /// The slot is of another kind.
    #[error(
        "slot `{slot}` belongs to {owner}; choose another name (ROWCAST_SLOT) or: SELECT pg_drop_replication_slot('{slot}');"
    )]
    SlotForeign {
        /// The slot.
        slot: String,
        /// Plugin and database it belongs to.
        owner: String,
    },
    /// A name that cannot be a slot.
    #[error("`{0}` cannot be the name of a replication slot: use a-z, 0-9 and _, at most 63")]
    SlotName(String),
    /// No slot is free.
    #[error(
        "no replication slot is free: {0}; raise max_replication_slots and max_wal_senders and restart Postgres"
    )]
    TooManySlots(String),
    /// A message of the log cannot be read.
    #[error("{0}")]
    Decode(#[from] DecodeError),
    /// One message of the log is beyond the limit.
    #[error(
        "the log holds a single message of {bytes} bytes, the limit is {limit}; split the row, or take its table out with: SELECT rowcast.untrack('…'); and drop the slot to begin anew"
    )]
    MessageTooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The server that answers is a standby.
    #[error(
        "the server that answers is a standby; it can neither make a slot nor tell what the primary shows: name the primary in DATABASE_URL"
    )]
    Standby,
    /// The stream broke its own rules.
    #[error("the log stream is not in order: {0}")]
    Protocol(String),
    /// Anything else the server said.
    #[error("the database refused: {0}; its own log says more")]
    Server(String),
}

impl SourceError {
    /// The stable code.
    pub fn code(&self) -> &'static str {
        match self {
            SourceError::Address(_) => "address_invalid",
            SourceError::Tls(_) => "tls_failed",
            SourceError::Connection(_) => "connection_lost",
            SourceError::ShuttingDown => "database_shuts_down",
            SourceError::Silent(_) => "connection_silent",
            SourceError::AuthFailed(_) => "auth_failed",
            SourceError::WalLevel(_) => "wal_level_not_logical",
            SourceError::PermissionDenied { .. } => "permission_denied",
            SourceError::NotMigrated(_) => "not_migrated",
            SourceError::PublicationMissing(_) => "publication_missing",
            SourceError::SlotInUse(..) => "slot_in_use",
            SourceError::SlotMissing(_) => "slot_missing",
            SourceError::SlotLost { .. } => "slot_lost",
            SourceError::SlotForeign { .. } => "slot_foreign",
            SourceError::SlotName(_) => "slot_name_invalid",
            SourceError::TooManySlots(_) => "no_free_slot",
            SourceError::Decode(_) => "decode_failed",
            SourceError::MessageTooLarge { .. } => "message_too_large",
            SourceError::Standby => "standby",
            SourceError::Protocol(_) => "protocol_violation",
            SourceError::Server(_) => "server_error",
        }
    }

    /// Whether trying again may help without anybody doing anything.
    pub fn retry(&self) -> bool {
        matches!(
            self,
            SourceError::Connection(_)
                | SourceError::ShuttingDown
                | SourceError::Silent(_)
                | SourceError::SlotInUse(..)
                | SourceError::SlotMissing(_)
                | SourceError::SlotLost { .. }
                // A failover may be under way.
                | SourceError::Standby
                | SourceError::Protocol(_)
                | SourceError::Server(_)
        )
    }
}

/// The SQLSTATE that stands in the text of a server error: `… (SQLSTATE 55006)`.
pub fn sqlstate(text: &str) -> Option<&str> {
    let (_, rest) = text.split_once("SQLSTATE ")?;
    let state = rest.get(..5)?;
    state
        .bytes()
        .all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
        .then_some(state)
}

/// What a server error means for the slot, the publication and the role we use.
pub fn classify(
    state: Option<&str>,
    detail: &str,
    slot: &str,
    publication: &str,
    role: &str,
) -> SourceError {
    let detail = detail.to_owned();
    match state {
        Some("28000" | "28P01") => SourceError::AuthFailed(detail),
        Some("3D000") => SourceError::AuthFailed(detail),
        Some("42501") => SourceError::PermissionDenied {
            role: role.into(),
            detail,
        },
        Some("55006") => SourceError::SlotInUse(slot.into(), detail),
        Some("53400") => SourceError::TooManySlots(detail),
        Some("42704") if detail.contains("publication") => {
            SourceError::PublicationMissing(publication.into())
        }
        Some("42704") => SourceError::SlotMissing(slot.into()),
        Some("55000") if detail.contains("recovery is in progress") => SourceError::Standby,
        Some("55000" | "58P01") if detail.contains("wal_level") => {
            SourceError::WalLevel("replica".into())
        }
        Some("55000" | "58P01") => SourceError::SlotLost {
            slot: slot.into(),
            detail,
        },
        Some("42P01" | "42883" | "3F000") => SourceError::NotMigrated(detail),
        Some(state) if state.starts_with("08") || state.starts_with("57") => {
            SourceError::Connection(detail)
        }
        _ => SourceError::Server(detail),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_is_read_from_the_text() {
        assert_eq!(
            sqlstate("server error: slot is active for PID 1 (SQLSTATE 55006)"),
            Some("55006")
        );
        for none in ["", "SQLSTATE ", "SQLSTATE 55é06", "SQLSTATE abcde"] {
            assert_eq!(sqlstate(none), None, "{none}");
        }
    }

    #[test]
    fn each_state_has_its_answer() {
        let code = |state, detail| classify(Some(state), detail, "s", "p", "r").code();
        assert_eq!(code("55006", ""), "slot_in_use");
        assert_eq!(
            code("42704", "replication slot \"s\" does not exist"),
            "slot_missing"
        );
        assert_eq!(
            code("42704", "publication \"p\" does not exist"),
            "publication_missing"
        );
        assert_eq!(
            code("55000", "can no longer get changes from replication slot"),
            "slot_lost"
        );
        assert_eq!(code("55000", "recovery is in progress"), "standby");
        assert_eq!(code("28P01", ""), "auth_failed");
        assert_eq!(code("57P01", ""), "connection_lost");
        assert_eq!(code("42501", ""), "permission_denied");
    }
}
