//! The helper module for servers of the application: from what is tracked and declared to the text of one TypeScript
//! module with `createRealtime`. Owns what such a module holds, as a plain value in and text out, without IO.
//!
//! Promises: the same description gives the same bytes; no name or text of the database gets out of the literal or
//! comment that it stands in; the module tells of a row nothing that the rule of its table would not tell.

mod error;
mod module;
mod names;
mod value;

pub use error::HelperError;
pub use module::{MARK, module};
pub use value::{PgType, Value, value_of};

use serde_json::{Map, Value as Json};

/// What is tracked and declared, as of one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Schema {
    /// Tracked tables.
    pub tables: Vec<Table>,
    /// Declared namespaces.
    pub namespaces: Vec<Namespace>,
}

/// A tracked table and its rule.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// Its columns, in order.
    pub columns: Vec<Column>,
    /// Columns of the key.
    pub key: Vec<String>,
    /// The columns that are sent; `None`: all.
    pub told: Option<Vec<String>>,
    /// Rows are sent, not only that something changed.
    pub rows: bool,
    /// Every member may see it; otherwise policies of the database say who.
    pub open: bool,
    /// The column with the organization, where it is one of its own.
    pub organization: Option<String>,
    /// The operations that are told from the log.
    pub operations: Vec<String>,
    /// Roles of which one is needed; empty: every member.
    pub roles: Vec<String>,
    /// The column with the only user who gets it.
    pub user: Option<String>,
    /// The column with the owner.
    pub owner: Option<String>,
    /// Masks by column, as the rule has them.
    pub masks: Map<String, Json>,
}

/// A column.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type, as Postgres writes it.
    pub type_name: String,
    /// What its values are.
    pub value: Value,
    /// It may be null.
    pub nullable: bool,
    /// It is worked out by Postgres: the log does not tell it.
    pub generated: bool,
}

/// A declared namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Namespace {
    /// Its name.
    pub name: String,
    /// Its events.
    pub events: Vec<String>,
    /// What they are about.
    pub description: Option<String>,
}

#[cfg(test)]
mod tests;
