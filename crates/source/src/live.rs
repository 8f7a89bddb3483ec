//! One connection's worth of stream: WAL events to source events.
//!
//! Owns the relations and types of this connection, the place inside or outside a transaction, and what may
//! be acknowledged. A table is described with the catalog's help the first time it is seen.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use rowcast_model::{
    Lsn, OldTuple, Operation, Relation, ReplicaIdentity, RowChange, SourceEvent, TxHeader, WalItem,
};

use crate::{
    catalog_client::CatalogClient,
    conninfo::ConnInfo,
    error::SourceError,
    liveness::Walsender,
    pgoutput::{self, Message, Old, RelationMessage},
    progress::Progress,
    relation::{Types, describe},
    stream::WalEvent,
};

/// The state of one connection.
pub(crate) struct Live {
    catalog: CatalogClient,
    pub(crate) progress: Progress,
    relations: HashMap<u32, Arc<Relation>>,
    in_transaction: bool,
}

impl Live {
    pub(crate) async fn new(info: ConnInfo) -> Result<Live, SourceError> {
        Ok(Live {
            catalog: CatalogClient::connect(info).await?,
            progress: Progress::default(),
            relations: HashMap::new(),
            in_transaction: false,
        })
    }

    /// Whether the SQL connection beside the stream has ended.
    pub(crate) fn is_alone(&self) -> bool {
        self.catalog.is_closed()
    }

    /// Writes a heartbeat into the log, which must come back by the stream.
    pub(crate) async fn heartbeat(
        &self,
        slot: &str,
    ) -> Result<(Lsn, Option<Walsender>), SourceError> {
        self.catalog.heartbeat(slot).await
    }

    /// Fails when the publication is gone: newer servers say nothing of it and leave all changes out.
    pub(crate) async fn check_publication(&self, publication: &str) -> Result<(), SourceError> {
        match self.catalog.has_publication(publication).await? {
            true => Ok(()),
            false => Err(SourceError::PublicationMissing(publication.to_owned())),
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
            WalEvent::Logical { lsn, .. } | WalEvent::KeepAlive { lsn, .. } => {
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
        // The message comes once, and again when the table was altered: cheap enough to ask everything anew,
        // since enums and composites may have been altered as well.
        let mut types = Types::default();
        loop {
            // Composites bring the types of their attributes, arrays that of their element.
            let unknown = types.unknown(message.columns.iter().map(|column| column.type_oid));
            if unknown.is_empty() {
                break;
            }
            let rows = self.catalog.types(&unknown).await?;
            types.learn(&unknown, rows);
        }
        let key = match message.identity {
            // Then the log itself says which columns the primary key has, as of that time.
            ReplicaIdentity::Default => Vec::new(),
            _ => self.catalog.primary_key(message.id).await?,
        };
        self.relations
            .insert(message.id, Arc::new(describe(message, &types, &key)));
        Ok(())
    }
}
