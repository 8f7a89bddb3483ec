//! pgoutput, protocol version 1: bytes to messages.
//!
//! Total: malformed input is an error with the place where it went wrong, never a panic. Values are slices
//! of the message they came in, so nothing of a row is copied.

use std::sync::Arc;

use bytes::Bytes;
use rowcast_model::{Lsn, ReplicaIdentity, Timestamp, Tuple, Value};

/// Microseconds between 1970-01-01 and 2000-01-01, where the clock of Postgres starts.
pub const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;

/// One message of the plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A transaction begins; everything in it is committed already.
    Begin {
        /// LSN of the commit record.
        final_lsn: Lsn,
        /// When it committed.
        commit_time: Timestamp,
        /// Its id.
        xid: u32,
    },
    /// A transaction ends.
    Commit {
        /// LSN of the commit record.
        commit_lsn: Lsn,
        /// End of the commit record.
        end_lsn: Lsn,
        /// When it committed.
        commit_time: Timestamp,
    },
    /// Where a replicated transaction came from; of no use here.
    Origin,
    /// What a table looks like from here on.
    Relation(RelationMessage),
    /// The name of a type; the catalog says more.
    Type {
        /// Its oid.
        oid: u32,
    },
    /// A row came.
    Insert {
        /// The table.
        relation: u32,
        /// The row.
        new: Tuple,
    },
    /// A row changed.
    Update {
        /// The table.
        relation: u32,
        /// What the log holds of the row before.
        old: Option<Old>,
        /// The row after.
        new: Tuple,
    },
    /// A row went.
    Delete {
        /// The table.
        relation: u32,
        /// What the log holds of it.
        old: Old,
    },
    /// Tables were emptied.
    Truncate {
        /// The tables.
        relations: Vec<u32>,
    },
    /// A logical message.
    Logical {
        /// Part of the transaction around it.
        transactional: bool,
        /// Its prefix.
        prefix: Arc<str>,
        /// Its content.
        content: Bytes,
    },
}

/// The row before a change, as far as it is in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Old {
    /// The columns of the replica identity; the rest is null.
    Key(Tuple),
    /// The whole row.
    Full(Tuple),
}

/// The description of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelationMessage {
    /// Its oid.
    pub id: u32,
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub name: String,
    /// What old rows hold.
    pub identity: ReplicaIdentity,
    /// Its published columns.
    pub columns: Vec<ColumnMessage>,
}

/// The description of a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ColumnMessage {
    /// Part of the replica identity.
    pub key: bool,
    /// Its name.
    pub name: String,
    /// The oid of its type.
    pub type_oid: u32,
}

/// The message is not what protocol version 1 allows.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the log holds a message that cannot be read: {what} at byte {at} of a message of kind `{kind}`"
)]
pub struct DecodeError {
    /// First byte of the message.
    pub kind: char,
    /// Where reading stopped.
    pub at: usize,
    /// What was missing or wrong there.
    pub what: &'static str,
}

/// Reads one message.
pub fn decode(message: Bytes) -> Result<Message, DecodeError> {
    let mut cursor = Reader {
        message: &message,
        at: 0,
    };
    let decoded = cursor.message();
    decoded.map_err(|what| DecodeError {
        kind: message.first().map_or('?', |&byte| char::from(byte)),
        at: cursor.at,
        what,
    })
}

struct Reader<'a> {
    message: &'a Bytes,
    at: usize,
}

type Read<T> = Result<T, &'static str>;

impl<'a> Reader<'a> {
    fn message(&mut self) -> Read<Message> {
        Ok(match self.u8()? {
            b'B' => Message::Begin {
                final_lsn: self.lsn()?,
                commit_time: self.time()?,
                xid: self.u32()?,
            },
            b'C' => {
                self.u8()?;
                Message::Commit {
                    commit_lsn: self.lsn()?,
                    end_lsn: self.lsn()?,
                    commit_time: self.time()?,
                }
            }
            b'O' => Message::Origin,
            b'R' => Message::Relation(self.relation()?),
            b'Y' => Message::Type { oid: self.u32()? },
            b'I' => {
                let relation = self.u32()?;
                match self.u8()? {
                    b'N' => Message::Insert {
                        relation,
                        new: self.tuple()?,
                    },
                    _ => return Err("expected the new row"),
                }
            }
            b'U' => {
                let relation = self.u32()?;
                let (old, mark) = match self.u8()? {
                    b'K' => (Some(Old::Key(self.tuple()?)), self.u8()?),
                    b'O' => (Some(Old::Full(self.tuple()?)), self.u8()?),
                    mark => (None, mark),
                };
                match mark {
                    b'N' => Message::Update {
                        relation,
                        old,
                        new: self.tuple()?,
                    },
                    _ => return Err("expected the new row"),
                }
            }
            b'D' => {
                let relation = self.u32()?;
                let old = match self.u8()? {
                    b'K' => Old::Key(self.tuple()?),
                    b'O' => Old::Full(self.tuple()?),
                    _ => return Err("expected the old row or its key"),
                };
                Message::Delete { relation, old }
            }
            b'T' => {
                let count = self.u32()? as usize;
                self.u8()?;
                // The count is the sender's word; what is there bounds what is reserved.
                let mut relations = Vec::with_capacity(count.min(self.left() / 4));
                for _ in 0..count {
                    relations.push(self.u32()?);
                }
                Message::Truncate { relations }
            }
            b'M' => {
                let transactional = self.u8()? & 1 == 1;
                self.lsn()?;
                let prefix = Arc::from(self.text()?);
                let length = self.u32()? as usize;
                Message::Logical {
                    transactional,
                    prefix,
                    content: self.slice(length)?,
                }
            }
            _ => return Err("unknown kind"),
        })
    }

    fn relation(&mut self) -> Read<RelationMessage> {
        let (id, schema, name) = (
            self.u32()?,
            self.text()?.to_owned(),
            self.text()?.to_owned(),
        );
        let identity = match self.u8()? {
            b'd' => ReplicaIdentity::Default,
            b'n' => ReplicaIdentity::Nothing,
            b'f' => ReplicaIdentity::Full,
            b'i' => ReplicaIdentity::Index,
            _ => return Err("unknown replica identity"),
        };
        let count = self.u16()?;
        let mut columns = Vec::with_capacity(usize::from(count).min(self.left() / 10));
        for _ in 0..count {
            let (flags, name, type_oid) = (self.u8()?, self.text()?.to_owned(), self.u32()?);
            self.u32()?;
            columns.push(ColumnMessage {
                key: flags & 1 == 1,
                name,
                type_oid,
            });
        }
        // pg_catalog travels as an empty name.
        let schema = if schema.is_empty() {
            "pg_catalog".to_owned()
        } else {
            schema
        };
        Ok(RelationMessage {
            id,
            schema,
            name,
            identity,
            columns,
        })
    }

    fn tuple(&mut self) -> Read<Tuple> {
        let count = usize::from(self.u16()?);
        let mut values = Vec::with_capacity(count.min(self.left()));
        for _ in 0..count {
            values.push(match self.u8()? {
                b'n' => Value::Null,
                b'u' => Value::Unchanged,
                b't' => {
                    let length = self.u32()? as usize;
                    Value::Text(self.slice(length)?)
                }
                _ => return Err("a value that is not text"),
            });
        }
        Ok(Tuple(values))
    }

    fn left(&self) -> usize {
        self.message.len().saturating_sub(self.at)
    }

    fn slice(&mut self, length: usize) -> Read<Bytes> {
        if length > self.left() {
            return Err("it ends early");
        }
        let slice = self.message.slice(self.at..self.at + length);
        self.at += length;
        Ok(slice)
    }

    fn array<const N: usize>(&mut self) -> Read<[u8; N]> {
        let chunk = self
            .message
            .get(self.at..)
            .and_then(|rest| rest.first_chunk::<N>());
        let chunk = *chunk.ok_or("it ends early")?;
        self.at += N;
        Ok(chunk)
    }

    fn u8(&mut self) -> Read<u8> {
        Ok(self.array::<1>()?[0])
    }

    fn u16(&mut self) -> Read<u16> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    fn u32(&mut self) -> Read<u32> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    fn lsn(&mut self) -> Read<Lsn> {
        Ok(Lsn(u64::from_be_bytes(self.array()?)))
    }

    fn time(&mut self) -> Read<Timestamp> {
        Ok(Timestamp(
            i64::from_be_bytes(self.array()?).saturating_add(POSTGRES_EPOCH_US),
        ))
    }

    fn text(&mut self) -> Read<&'a str> {
        let rest = self.message.get(self.at..).unwrap_or_default();
        let length = rest
            .iter()
            .position(|&byte| byte == 0)
            .ok_or("a name without its end")?;
        let text = std::str::from_utf8(&rest[..length]).map_err(|_| "a name that is not UTF-8")?;
        self.at += length + 1;
        Ok(text)
    }
}

#[cfg(test)]
mod tests;
