//! A row as JSON values, column by column, so that any subset of columns can be put together by copying.
//!
//! Owns the layout: one buffer with all values behind each other, and where each ends. A column that
//! is not there (unchanged, hidden, not part of a key) has an empty value, which no JSON value is.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use crate::Kind;

/// Name, type and kind of a column of a [`JsonRow`]; `label` is the name as JSON with a colon (`"id":`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnMeta {
    /// The column's name.
    pub name: Arc<str>,
    /// `"name":`, escaped once.
    pub label: Arc<str>,
    /// The name of its type, as `pg_type.typname` has it.
    pub type_name: Arc<str>,
    /// How the value was written; filters compare by it.
    pub kind: Kind,
    /// Part of what tells one record from another.
    #[serde(default)]
    pub key: bool,
}

impl ColumnMeta {
    /// Describes a column of which no more is known than how its values are written; its type is named by that.
    pub fn new(name: Arc<str>, kind: Kind) -> Self {
        ColumnMeta::of_type(name, kind.type_name(), kind)
    }

    /// Describes a column, escaping its name once.
    pub fn of_type(name: Arc<str>, type_name: Arc<str>, kind: Kind) -> Self {
        let escaped = serde_json::Value::from(&*name).to_string();
        ColumnMeta {
            label: format!("{escaped}:").into(),
            name,
            type_name,
            kind,
            key: false,
        }
    }

    /// The same as part of the key, or not.
    pub fn in_key(self, key: bool) -> Self {
        ColumnMeta { key, ..self }
    }
}

/// One row (or its key) as JSON values.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JsonRow {
    columns: Arc<[ColumnMeta]>,
    json: Bytes,
    ends: SmallVec<[u32; 12]>,
}

impl JsonRow {
    /// The columns that could be there.
    pub fn columns(&self) -> &Arc<[ColumnMeta]> {
        &self.columns
    }

    /// The JSON text of column `i`; `None` when it is not there.
    pub fn value(&self, i: usize) -> Option<&[u8]> {
        let end = *self.ends.get(i)? as usize;
        let start = match i {
            0 => 0,
            _ => *self.ends.get(i - 1)? as usize,
        };
        self.json.get(start..end).filter(|value| !value.is_empty())
    }

    /// The JSON text of the named column; `None` when it is not there.
    pub fn get(&self, name: &str) -> Option<(&ColumnMeta, &[u8])> {
        let i = self
            .columns
            .iter()
            .position(|column| &*column.name == name)?;
        Some((self.columns.get(i)?, self.value(i)?))
    }

    /// The columns that are there, in order.
    pub fn present(&self) -> impl Iterator<Item = (&ColumnMeta, &[u8])> {
        self.columns
            .iter()
            .enumerate()
            .filter_map(|(i, column)| Some((column, self.value(i)?)))
    }

    /// Appends the object `{"a":1,…}` of the columns that `keep` accepts.
    pub fn write_object(&self, out: &mut Vec<u8>, mut keep: impl FnMut(&ColumnMeta) -> bool) {
        out.push(b'{');
        let mut first = true;
        for (column, value) in self.present().filter(|(column, _)| keep(column)) {
            if !first {
                out.push(b',');
            }
            first = false;
            out.extend_from_slice(column.label.as_bytes());
            out.extend_from_slice(value);
        }
        out.push(b'}');
    }

    /// All values behind each other.
    pub fn json(&self) -> &[u8] {
        &self.json
    }

    /// Where in [`JsonRow::json`] the value of each column ends.
    pub fn ends(&self) -> &[u32] {
        &self.ends
    }

    /// A row of what [`JsonRow::columns`], [`JsonRow::json`] and [`JsonRow::ends`] of another one said.
    pub fn from_parts(
        columns: Arc<[ColumnMeta]>,
        json: Bytes,
        ends: impl IntoIterator<Item = u32>,
    ) -> JsonRow {
        JsonRow {
            columns,
            json,
            ends: ends.into_iter().collect(),
        }
    }

    /// Bytes kept alive by this row.
    pub fn cost(&self) -> usize {
        self.json.len() + self.ends.len() * 4
    }
}

/// Builds a [`JsonRow`] column by column.
#[derive(Debug)]
pub struct JsonRowBuilder<'a> {
    columns: Arc<[ColumnMeta]>,
    buffer: &'a mut BytesMut,
    ends: SmallVec<[u32; 12]>,
}

impl<'a> JsonRowBuilder<'a> {
    /// Starts a row; `buffer` must be empty and may have spare capacity, which is used up row by row.
    pub fn new(columns: Arc<[ColumnMeta]>, buffer: &'a mut BytesMut) -> Self {
        JsonRowBuilder {
            columns,
            buffer,
            ends: SmallVec::new(),
        }
    }

    /// Writes the next column with `write`, which appends one JSON value, or nothing for "not there".
    pub fn column(&mut self, write: impl FnOnce(&mut BytesMut)) {
        write(self.buffer);
        self.ends
            .push(u32::try_from(self.buffer.len()).unwrap_or(u32::MAX));
    }

    /// The row; columns not written are not there.
    pub fn finish(self) -> JsonRow {
        JsonRow {
            columns: self.columns,
            json: self.buffer.split().freeze(),
            ends: self.ends,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_columns_are_left_out() {
        let columns: Arc<[ColumnMeta]> = ["id", "a\"b", "c"]
            .map(|name| ColumnMeta::new(name.into(), Kind::Number))
            .into();
        let mut buffer = BytesMut::new();
        let mut row = JsonRowBuilder::new(columns, &mut buffer);
        row.column(|out| out.extend_from_slice(b"1"));
        row.column(|out| out.extend_from_slice(b"null"));
        row.column(|_| ());
        let row = row.finish();
        let mut out = Vec::new();
        row.write_object(&mut out, |_| true);
        assert_eq!(String::from_utf8_lossy(&out), r#"{"id":1,"a\"b":null}"#);
        assert_eq!(row.get("c"), None);
        out.clear();
        row.write_object(&mut out, |column| &*column.name != "id");
        assert_eq!(String::from_utf8_lossy(&out), r#"{"a\"b":null}"#);
    }
}
