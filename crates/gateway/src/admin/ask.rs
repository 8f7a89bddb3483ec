//! What an operator may ask, as it comes: parameters of an address, or the fields of a body. Unknown ones are refused.

use rowcast_hub::Which;
use rowcast_model::{MAX_ID_BYTES, Operation, OrgId, is_name};
use rowcast_wire::CloseCode;
use serde::Deserialize;

use super::AdminError;

/// Longest reason that clients are told, in bytes.
const MAX_REASON_BYTES: usize = 200;
/// Entries of a page when nothing is said, and at most.
const PAGE: (usize, usize) = (100, 1000);

/// What is listed.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Select {
    /// Of this user.
    pub user: Option<String>,
    /// Of this API key.
    pub api_key: Option<String>,
    /// Of this organization.
    pub organization: Option<String>,
    /// Whose names begin so; for channels.
    pub prefix: Option<String>,
    /// `next` of the page before.
    pub after: Option<usize>,
    /// Entries of a page.
    pub limit: Option<usize>,
}

impl Select {
    pub(super) fn limit(&self) -> Result<usize, AdminError> {
        match self.limit {
            None => Ok(PAGE.0),
            Some(limit @ 1..) if limit <= PAGE.1 => Ok(limit),
            Some(_) => Err(AdminError::invalid(format!("`limit` is 1 to {}", PAGE.1))),
        }
    }
}

/// Whose connections are closed.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Disconnect {
    /// Of this user.
    pub user: Option<String>,
    /// Of this API key.
    pub api_key: Option<String>,
    /// Those on a channel of this organization.
    pub organization: Option<String>,
    /// This one.
    pub connection: Option<u64>,
    /// Number of the close; left out: 4507, which says not to come back.
    pub code: Option<u16>,
    /// What they are told before.
    pub reason: Option<String>,
}

impl Disconnect {
    pub(super) fn which(&self) -> Result<Which, AdminError> {
        let which = Which {
            user: self.user.clone(),
            api_key: self.api_key.clone(),
            organization: organization(self.organization.as_deref())?,
            connection: self.connection,
        };
        match which.is_everybody() {
            true => Err(AdminError::invalid(
                "say whose: `user`, `apiKey`, `organization` or `connection`",
            )),
            false => Ok(which),
        }
    }

    pub(super) fn code(&self) -> Result<CloseCode, AdminError> {
        let Some(number) = self.code else {
            return Ok(CloseCode::Kicked);
        };
        // A restart has words of its own.
        let code = CloseCode::from_number(number).filter(|code| *code != CloseCode::Restarting);
        code.ok_or_else(|| {
            AdminError::invalid(
                "`code` is the number of a close (docs/protocol.md#closes), such as 4507 or 4004",
            )
        })
    }

    pub(super) fn reason(&self) -> Result<Option<&str>, AdminError> {
        let reason = self.reason.as_deref();
        match reason.is_none_or(|reason| is_name(reason, MAX_REASON_BYTES)) {
            true => Ok(reason),
            false => Err(AdminError::invalid(format!(
                "`reason` has 1 to {MAX_REASON_BYTES} bytes without control characters"
            ))),
        }
    }
}

/// Who is taken off which channel.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Revoke {
    /// The channel.
    pub channel: String,
    /// Its organization, where the name means another one in each.
    pub organization: Option<String>,
    /// The number of the access list that counts from here on.
    pub epoch: Option<i64>,
    /// What they are told.
    pub reason: Option<String>,
}

/// What is to be explained.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct ExplainQuestion {
    /// Who.
    pub user: Option<String>,
    /// Or which machine.
    pub api_key: Option<String>,
    /// In which organization.
    pub organization: Option<String>,
    /// On which channel; left out: that of the organization.
    pub channel: Option<String>,
    /// Of which table, with its schema or without; left out: whatever came last on the channel.
    pub table: Option<String>,
    /// Of which record.
    pub record: Option<String>,
    /// What happens to it: `INSERT`, `UPDATE`, `DELETE`; left out: whatever is told of the table.
    pub operation: Option<String>,
}

impl ExplainQuestion {
    pub(super) fn operation(&self) -> Result<Option<Operation>, AdminError> {
        match self.operation.as_deref() {
            None => Ok(None),
            Some(text) if text.eq_ignore_ascii_case("insert") => Ok(Some(Operation::Insert)),
            Some(text) if text.eq_ignore_ascii_case("update") => Ok(Some(Operation::Update)),
            Some(text) if text.eq_ignore_ascii_case("delete") => Ok(Some(Operation::Delete)),
            Some(_) => Err(AdminError::invalid(
                "`operation` is INSERT, UPDATE or DELETE",
            )),
        }
    }
}

pub(super) fn organization(text: Option<&str>) -> Result<Option<OrgId>, AdminError> {
    match text {
        None => Ok(None),
        Some(text) if is_name(text, MAX_ID_BYTES) => Ok(Some(text.into())),
        Some(_) => Err(AdminError::invalid(
            "`organization` is a text of 1 to 255 bytes",
        )),
    }
}
