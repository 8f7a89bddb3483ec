//! The `subscribe` frame: what somebody wants to hear, and from where.

use std::{borrow::Cow, sync::Arc};

use rowcast_model::{Channel, Cursor, OrgId};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::{
    Follow, FrameError, GrantText, Limits, channel, cursor, field, grant, organization, presence,
};
use crate::{ErrorCode, Filter, Ref, filter::ALLOCATION};

/// Longest name of a schema, table or column, in bytes (Postgres allows 63).
const MAX_NAME_BYTES: usize = 255;

/// What a subscriber wants to receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Forms {
    /// Rows: `postgres_changes`.
    pub changes: bool,
    /// Only that something changed: `invalidate`.
    pub invalidations: bool,
    /// What is not of a row: `broadcast`, and news about keys.
    pub broadcasts: bool,
}

impl Default for Forms {
    fn default() -> Self {
        Forms {
            changes: true,
            invalidations: false,
            broadcasts: true,
        }
    }
}

/// Every event, or only the latest of each record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Every event.
    #[default]
    All,
    /// Coalesced by record for some ten milliseconds.
    Latest,
}

/// Names of the columns that are sent.
pub type Columns = Arc<[Arc<str>]>;

/// One table of a subscription.
#[derive(Clone, Debug, PartialEq)]
pub struct TableSelection {
    /// Its schema; absent: any.
    pub schema: Option<Arc<str>>,
    /// Its name.
    pub table: Arc<str>,
    /// The columns that are sent; absent: all that may be seen.
    pub columns: Option<Columns>,
    /// Which rows.
    pub filter: Option<Filter>,
}

/// A `subscribe` frame.
#[derive(Clone, Debug, PartialEq)]
pub struct Subscribe {
    /// Echoed in the reply.
    pub reference: Option<Ref>,
    /// To what.
    pub channel: Channel,
    /// Rows, invalidations or both.
    pub forms: Forms,
    /// Every event or the latest.
    pub mode: Mode,
    /// Which tables; absent: all. An event that fits several entries comes once.
    pub tables: Option<Vec<TableSelection>>,
    /// Everything after this position is wanted.
    pub cursor: Option<Cursor>,
    /// In which organization a name of the application is meant; absent: that of the socket.
    pub organization: Option<OrgId>,
    /// What the application has signed, for the channels that take that.
    pub grant: Option<GrantText>,
    /// What it wants to know of who is there; absent: nothing.
    pub presence: Option<Follow>,
}

impl Subscribe {
    /// Bytes that its table list takes in memory, roughly.
    pub fn cost(&self) -> usize {
        // With the places in the indexes, and the class that it makes.
        const ENTRY: usize = 512;
        let of = |selection: &TableSelection| {
            let columns = selection.columns.iter().flat_map(|columns| columns.iter());
            let columns: usize = columns.map(|column| column.len() + ALLOCATION).sum();
            ENTRY
                + selection.table.len()
                + selection.schema.as_ref().map_or(0, |schema| schema.len())
                + columns
                + selection.filter.as_ref().map_or(0, Filter::cost)
        };
        self.tables.iter().flatten().map(of).sum()
    }

    /// Everything of a channel, as rows, from now on.
    pub fn to(channel: Channel) -> Subscribe {
        Subscribe {
            reference: None,
            channel,
            forms: Forms::default(),
            mode: Mode::All,
            tables: None,
            cursor: None,
            organization: None,
            grant: None,
            presence: None,
        }
    }
}

#[derive(Deserialize)]
pub(super) struct RawSubscribe<'a> {
    #[serde(borrow)]
    channel: Cow<'a, str>,
    #[serde(borrow)]
    events: Option<Vec<Cow<'a, str>>>,
    mode: Option<Mode>,
    #[serde(borrow)]
    tables: Option<Vec<RawTable<'a>>>,
    #[serde(borrow)]
    cursor: Option<Cow<'a, str>>,
    #[serde(rename = "organizationId")]
    organization: Option<String>,
    #[serde(borrow)]
    grant: Option<Cow<'a, str>>,
    #[serde(borrow)]
    presence: Option<presence::RawFollow<'a>>,
}

#[derive(Deserialize)]
struct RawTable<'a> {
    schema: Option<String>,
    table: String,
    columns: Option<Vec<String>>,
    #[serde(borrow)]
    filter: Option<&'a RawValue>,
}

pub(super) fn subscribe(
    raw: RawSubscribe<'_>,
    reference: Option<Ref>,
    limits: &Limits,
) -> Result<Subscribe, FrameError> {
    let channel = channel(&raw.channel)?;
    let mut forms = Forms::default();
    if let Some(events) = raw.events {
        (forms.changes, forms.broadcasts) = (false, false);
        for event in &events {
            match event.as_ref() {
                "changes" => forms.changes = true,
                "invalidations" => forms.invalidations = true,
                "broadcasts" => forms.broadcasts = true,
                _ => {
                    return Err(field(
                        "`events` may hold `changes`, `invalidations` and `broadcasts`",
                    ));
                }
            }
        }
        if events.is_empty() {
            return Err(field(
                "`events` is empty; leave it away to get changes and broadcasts",
            ));
        }
    }
    let cursor = cursor(raw.cursor)?;
    let tables = raw
        .tables
        .map(|tables| selections(tables, limits))
        .transpose()?;
    Ok(Subscribe {
        reference,
        channel,
        forms,
        mode: raw.mode.unwrap_or_default(),
        tables,
        cursor,
        organization: organization(raw.organization)?,
        grant: raw.grant.as_deref().map(grant::read).transpose()?,
        presence: match raw.presence {
            Some(raw) => raw.read()?,
            None => None,
        },
    })
}

fn selections(
    tables: Vec<RawTable<'_>>,
    limits: &Limits,
) -> Result<Vec<TableSelection>, FrameError> {
    if tables.is_empty() || tables.len() > limits.tables {
        let most = limits.tables;
        let message = format!("`tables` must have 1 to {most} entries, or be left away for all");
        return Err(FrameError::new(ErrorCode::InvalidTables, message));
    }
    tables
        .into_iter()
        .map(|raw| {
            let columns = raw
                .columns
                .map(|columns| {
                    if columns.is_empty() || columns.len() > limits.columns {
                        let most = limits.columns;
                        return Err(field(format!("`columns` must name 1 to {most} columns")));
                    }
                    columns
                        .into_iter()
                        .map(name)
                        .collect::<Result<Columns, _>>()
                })
                .transpose()?;
            let filter = raw
                .filter
                .filter(|raw| raw.get() != "null")
                .map(|raw| Filter::parse(raw.get(), &limits.filter))
                .transpose()
                .map_err(|error| FrameError::new(ErrorCode::InvalidFilter, error.to_string()))?;
            Ok(TableSelection {
                schema: raw.schema.map(name).transpose()?,
                table: name(raw.table)?,
                columns,
                filter,
            })
        })
        .collect()
}

fn name(text: String) -> Result<Arc<str>, FrameError> {
    match text.len() {
        1..=MAX_NAME_BYTES => Ok(text.into()),
        _ => Err(field(
            "names of schemas, tables and columns have 1 to 255 bytes",
        )),
    }
}
