//! One connection's worth of stream: WAL events to source events.
//!
//! Owns the relations and types of this connection, the place inside or outside a transaction, and what may
//! be acknowledged. A table is described with the catalog's help the first time it is seen.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use rowcast_model::{OldTuple, Operation, Relation, RowChange, SourceEvent, TxHeader, WalItem};
use tokio_postgres::Client;

use crate::{
    error::SourceError,
    pgoutput::{self, Message, Old, RelationMessage},
    progress::Progress,
    relation::{Types, describe},
    stream::WalEvent,
    typequery,
};

/// The prefix of heartbeats: written into the log, expected back, told to nobody.
pub const HEARTBEAT_PREFIX: &str = "rowcast.heartbeat";

/// The state of one connection.
pub(crate) struct Live {
    pub(crate) sql: Client,
    pub(crate) progress: Progress,
    relations: HashMap<u32, Arc<Relation>>,
    types: Types,
    in_transaction: bool,
}

impl Live {
    pub(crate) fn new(sql: Client) -> Live {
        Live {
            sql,
            progress: Progress::default(),
            relations: HashMap::new(),
            types: Types::default(),
            in_transaction: false,
        }
    }

    /// Turns one WAL event into at most one source event.
    pub(crate) async fn take(
        &mut self,
        event: WalEvent,
    ) -> Result<Option<SourceEvent>, SourceError> {
        Ok(match event {
            WalEvent::Begin {
                final_lsn,
                xid,
                commit_time,
            } => {
                self.in_transaction = true;
                Some(SourceEvent::Begin(TxHeader {
                    xid,
                    commit_lsn: final_lsn,
                    commit_time,
                }))
            }
            WalEvent::Commit { end_lsn } => {
                self.in_transaction = false;
                self.progress.read(end_lsn);
                Some(SourceEvent::Commit { end_lsn })
            }
            WalEvent::Logical {
                transactional: true,
                prefix,
                content,
                ..
            } => {
                let bytes = u32::try_from(content.len()).unwrap_or(u32::MAX);
                Some(SourceEvent::Item {
                    item: WalItem::Message {
                        prefix: prefix.into(),
                        content,
                    },
                    bytes,
                })
            }
            // Every transaction that committed before a message outside of transactions was told before it.
            WalEvent::Logical { lsn, .. } | WalEvent::KeepAlive { lsn } => {
                let news = !self.in_transaction && lsn > self.progress.read_to();
                self.progress
                    .read(if news { lsn } else { self.progress.read_to() });
                news.then_some(SourceEvent::Idle { lsn })
            }
            WalEvent::Data(data) => self.data(data).await?,
        })
    }

    async fn data(&mut self, data: Bytes) -> Result<Option<SourceEvent>, SourceError> {
        let bytes = u32::try_from(data.len()).unwrap_or(u32::MAX);
        let item = match pgoutput::decode(data)? {
            Message::Insert { relation, new } => {
                self.change(relation, Operation::Insert, Some(new), None)?
            }
            Message::Update { relation, old, new } => {
                self.change(relation, Operation::Update, Some(new), old)?
            }
            Message::Delete { relation, old } => {
                self.change(relation, Operation::Delete, None, Some(old))?
            }
            Message::Truncate { relations } => {
                let relations = relations
                    .into_iter()
                    .map(|id| self.relation(id))
                    .collect::<Result<_, _>>()?;
                WalItem::Truncate(relations)
            }
            Message::Relation(message) => {
                self.learn(&message).await?;
                return Ok(None);
            }
            Message::Logical {
                transactional: true,
                prefix,
                content,
            } => WalItem::Message { prefix, content },
            Message::Begin { .. }
            | Message::Commit { .. }
            | Message::Logical { .. }
            | Message::Origin
            | Message::Type { .. } => {
                return Ok(None);
            }
        };
        Ok(Some(SourceEvent::Item { item, bytes }))
    }

    fn relation(&self, id: u32) -> Result<Arc<Relation>, SourceError> {
        let known = self.relations.get(&id).cloned();
        known.ok_or_else(|| {
            SourceError::Protocol(format!(
                "a change of table {id} came before its description"
            ))
        })
    }

    fn change(
        &self,
        relation: u32,
        op: Operation,
        new: Option<rowcast_model::Tuple>,
        old: Option<Old>,
    ) -> Result<WalItem, SourceError> {
        let old = old.map(|old| match old {
            Old::Key(tuple) => OldTuple::Key(tuple),
            Old::Full(tuple) => OldTuple::Full(tuple),
        });
        Ok(WalItem::Change(RowChange {
            relation: self.relation(relation)?,
            op,
            new,
            old,
        }))
    }

    async fn learn(&mut self, message: &RelationMessage) -> Result<(), SourceError> {
        let oids = || message.columns.iter().map(|column| column.type_oid);
        // Composites bring the types of their attributes, arrays that of their element: ask until all is known.
        loop {
            let unknown = self.types.unknown(oids());
            if unknown.is_empty() {
                break;
            }
            let rows = typequery::types(&self.sql, &unknown).await?;
            self.types.learn(&unknown, rows);
        }
        let key = typequery::primary_key(&self.sql, message.id).await?;
        self.relations
            .insert(message.id, Arc::new(describe(message, &self.types, &key)));
        Ok(())
    }
}
