//! Configuration, memberships and API keys as the log changes them. Owns what each such change means
//! for the catalog and for the hub.

use rowcast_model::{
    ChannelChange, ClientEventChange, HubOp, MembershipChange, NamespaceChange, OldTuple,
    Operation, Relation, RelationId, RowChange, Tuple, Value,
};

use crate::{
    Catalog, MembershipSource, RoutingError, TableRule, channel_from_text, client_event_from_text,
    key_from_text, namespace_from_text, plans::Own,
};

/// What follows from a change of the configuration.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    /// For the hub, in order.
    pub(crate) ops: Vec<HubOp>,
    /// Memberships are elsewhere from here on.
    pub(crate) reload: Option<MembershipSource>,
    /// A row that cannot be used.
    pub(crate) problem: Option<RoutingError>,
}

/// The text of the named column.
fn text<'a>(relation: &Relation, tuple: &'a Tuple, name: &str) -> Option<&'a str> {
    match value(relation, tuple, name)? {
        Value::Text(bytes) => std::str::from_utf8(bytes).ok(),
        Value::Null | Value::Unchanged => None,
    }
}

fn value<'a>(relation: &Relation, tuple: &'a Tuple, name: &str) -> Option<&'a Value> {
    let at = relation
        .columns
        .iter()
        .position(|column| &*column.name == name)?;
    tuple.0.get(at)
}

fn old(change: &RowChange) -> Option<&Tuple> {
    match change.old.as_ref()? {
        OldTuple::Key(tuple) | OldTuple::Full(tuple) => Some(tuple),
    }
}

/// A changed row of one of Rowcast's own tables.
pub(crate) fn changed(catalog: &mut Catalog, own: &Own, change: &RowChange) -> Effects {
    let mut effects = Effects::default();
    match own {
        Own::Events(_) => {}
        Own::Tables => effects.problem = table_changed(catalog, change, &mut effects.ops).err(),
        Own::MembershipSource => {
            if let Err(problem) = source_changed(catalog, change, &mut effects) {
                effects.problem = Some(problem);
            }
        }
        Own::ApiKeys => {
            if let Err(problem) = key_changed(change, &mut effects.ops) {
                effects.problem = Some(problem);
            }
        }
        Own::Channels => effects.problem = channel_changed(change, &mut effects.ops).err(),
        Own::Namespaces => effects.problem = namespace_changed(change, &mut effects.ops).err(),
        // What they say is asked for when somebody connects.
        Own::Plans => effects.ops.push(HubOp::PlansChanged),
        Own::ClientEvents => effects.problem = client_event_changed(change, &mut effects.ops).err(),
    }
    effects
}

/// TRUNCATE of one of Rowcast's own tables.
pub(crate) fn truncated(catalog: &mut Catalog, own: &Own) -> Option<HubOp> {
    match own {
        Own::Tables => {
            catalog.clear_tables();
            return Some(HubOp::RulesCleared);
        }
        Own::ApiKeys => return Some(HubOp::ApiKeysCleared),
        Own::Channels => return Some(HubOp::ChannelsCleared),
        Own::Namespaces => return Some(HubOp::NamespacesCleared),
        Own::Plans => return Some(HubOp::PlansChanged),
        Own::ClientEvents => return Some(HubOp::ClientEventsCleared),
        Own::Events(_) | Own::MembershipSource => {}
    }
    None
}

fn table_changed(
    catalog: &mut Catalog,
    change: &RowChange,
    ops: &mut Vec<HubOp>,
) -> Result<(), RoutingError> {
    let relation = &*change.relation;
    let relid = |tuple| text(relation, tuple, "relid")?.parse().ok().map(RelationId);
    let before = old(change).and_then(relid);
    let now = change.new.as_ref().and_then(relid);
    let previous = before.or(now).and_then(|id| catalog.table(id)).cloned();
    // Whatever happens below: a rule that cannot be read must not live on as it was.
    for id in [before, now].into_iter().flatten() {
        catalog.remove_table(id);
    }
    let gone = previous.as_ref().map(|rule| HubOp::Rule {
        table: rule.name.clone(),
        now: None,
    });
    let Some(new) = &change.new else {
        ops.extend(gone);
        return Ok(());
    };
    let rule = TableRule::from_text(&|name| match value(relation, new, name) {
        Some(Value::Unchanged) => previous.as_ref().and_then(|rule| rule.raw(name)),
        _ => text(relation, new, name),
    });
    let mut rule = rule.inspect_err(|_| ops.extend(gone.clone()))?;
    // It stands in the log where it begins.
    rule.since = None;
    if previous.is_some_and(|previous| previous.name != rule.name) {
        ops.extend(gone);
    }
    ops.push(HubOp::Rule {
        table: rule.name.clone(),
        now: Some(rule.shown()),
    });
    catalog.set_table(rule);
    Ok(())
}

fn source_changed(
    catalog: &mut Catalog,
    change: &RowChange,
    effects: &mut Effects,
) -> Result<(), RoutingError> {
    let Some(new) = &change.new else {
        return Ok(());
    };
    let source = MembershipSource::from_text(&|name| text(&change.relation, new, name))?;
    let known = catalog.membership_source();
    let same = source == *known
        || (known.relation.is_none()
            && *known
                == MembershipSource {
                    relation: None,
                    ..source.clone()
                });
    if !same {
        catalog.set_membership_source(source.clone());
        effects.ops.push(HubOp::MembershipsCleared);
        effects.reload = Some(source);
    }
    Ok(())
}

fn key_changed(change: &RowChange, ops: &mut Vec<HubOp>) -> Result<(), RoutingError> {
    let relation = &*change.relation;
    let before = old(change).and_then(|tuple| text(relation, tuple, "id"));
    let now = change
        .new
        .as_ref()
        .map(|tuple| key_from_text(&|name| whole_text(change, tuple, name)));
    let now = now.transpose();
    let same = matches!(&now, Ok(Some(key)) if Some(&*key.id) == before);
    if let Some(id) = before.filter(|_| !same) {
        ops.push(HubOp::ApiKey(rowcast_model::KeyChange {
            id: id.into(),
            now: None,
        }));
    }
    ops.extend(now?.map(HubOp::ApiKey));
    Ok(())
}

/// The text of a column of the new row; of one that the UPDATE left alone, as it was.
fn whole_text<'a>(change: &'a RowChange, new: &'a Tuple, name: &str) -> Option<&'a str> {
    match (value(&change.relation, new, name), &change.old) {
        (Some(Value::Unchanged), Some(OldTuple::Full(old))) => text(&change.relation, old, name),
        _ => text(&change.relation, new, name),
    }
}

/// Whatever cannot be read must not live on as it was: first the old rule goes, then the new one comes.
fn channel_changed(change: &RowChange, ops: &mut Vec<HubOp>) -> Result<(), RoutingError> {
    let relation = &*change.relation;
    let now = change
        .new
        .as_ref()
        .map(|tuple| channel_from_text(&|name| whole_text(change, tuple, name)));
    let before = old(change).or(change.new.as_ref());
    let before = before.and_then(|tuple| text(relation, tuple, "pattern"));
    let same = matches!(&now, Some(Ok(now)) if Some(&*now.pattern) == before);
    if let Some(pattern) = before.filter(|_| !same) {
        let pattern = pattern.into();
        ops.push(HubOp::Channel(ChannelChange { pattern, now: None }));
    }
    ops.extend(now.transpose()?.map(HubOp::Channel));
    Ok(())
}

fn namespace_changed(change: &RowChange, ops: &mut Vec<HubOp>) -> Result<(), RoutingError> {
    let relation = &*change.relation;
    let now = change
        .new
        .as_ref()
        .map(|tuple| namespace_from_text(&|name| whole_text(change, tuple, name)));
    let before = old(change).and_then(|tuple| text(relation, tuple, "namespace"));
    let same = matches!(&now, Some(Ok(now)) if Some(&*now.namespace) == before);
    if let Some(namespace) = before.filter(|_| !same) {
        let namespace = namespace.into();
        let events = None;
        ops.push(HubOp::Namespace(NamespaceChange { namespace, events }));
    }
    ops.extend(now.transpose()?.map(HubOp::Namespace));
    Ok(())
}

/// As for channels: what cannot be read does not live on.
fn client_event_changed(change: &RowChange, ops: &mut Vec<HubOp>) -> Result<(), RoutingError> {
    let relation = &*change.relation;
    let now = change
        .new
        .as_ref()
        .map(|tuple| client_event_from_text(&|name| whole_text(change, tuple, name)));
    let key = |tuple| {
        let pattern = text(relation, tuple, "pattern")?;
        Some((pattern, text(relation, tuple, "event")?))
    };
    let before = old(change).or(change.new.as_ref()).and_then(key);
    let same = matches!(&now, Some(Ok(now)) if Some((&*now.pattern, &*now.event)) == before);
    if let Some((pattern, event)) = before.filter(|_| !same) {
        ops.push(HubOp::ClientEvent(ClientEventChange {
            pattern: pattern.into(),
            event: event.into(),
            now: None,
        }));
    }
    ops.extend(now.transpose()?.map(HubOp::ClientEvent));
    Ok(())
}

/// A changed row of the table that memberships are read from.
pub(crate) fn membership_changed(source: &MembershipSource, change: &RowChange) -> Vec<HubOp> {
    let relation = &*change.relation;
    let before = match (&change.old, change.op) {
        (_, Operation::Insert) | (None, _) => None,
        (Some(OldTuple::Key(tuple) | OldTuple::Full(tuple)), _) => {
            Some(source.key_of(&|name| text(relation, tuple, name)))
        }
    };
    let now = change
        .new
        .as_ref()
        .map(|new| source.change_from_text(&|name| whole_text(change, new, name)));
    let mut ops = Vec::new();
    if let Some(key) = before
        && now.as_ref().is_none_or(|now| now.key != key)
    {
        ops.push(HubOp::Membership(MembershipChange { key, now: None }));
    }
    ops.extend(now.map(HubOp::Membership));
    ops
}
