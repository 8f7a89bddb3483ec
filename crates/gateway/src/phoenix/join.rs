//! From a join as a client sends it to one that the hub understands. Pure.

use std::sync::Arc;

use rowcast_hub::{Binding, Join, Room};
use rowcast_model::Channel;
use rowcast_wire::phoenix::{self, Push, Version};

/// The channel with the name of a topic.
pub(super) fn channel_of(topic: &str) -> Result<Channel, String> {
    let name = topic.strip_prefix(phoenix::TOPIC_PREFIX);
    let name = name.ok_or_else(|| "unmatched topic".to_owned())?;
    if name.is_empty() {
        return Err("TopicNameRequired: You must provide a topic name".to_owned());
    }
    name.parse()
        .map_err(|error| format!("Unauthorized: {error}"))
}

/// The join, with the answer to it.
pub(super) fn of(version: Version, push: &Push, wanted: &phoenix::Join, room: Room) -> Join {
    let reference = push.join_ref.clone().or_else(|| push.reference.clone());
    let reference = reference.unwrap_or_else(|| Arc::from(""));
    let mut bindings = Vec::new();
    let mut refused = Vec::new();
    let mut echoes = Vec::new();
    for binding in &wanted.bindings {
        echoes.push((binding.echo.clone(), binding.id));
        match &binding.asks {
            Ok(rows) => bindings.push(Binding {
                id: binding.id,
                described: binding.described.clone(),
                rows: rows.clone(),
            }),
            // Of several bindings, the client has to know which.
            Err(error) => match error.to_string() {
                named if named.contains(&*binding.described) => refused.push(named),
                unnamed => refused.push(format!("{unnamed}: {}", binding.described)),
            },
        }
    }
    let own = push.reference.as_deref();
    let reply = phoenix::joined(version, Some(&reference), own, &push.topic, &echoes);
    Join {
        version,
        topic: push.topic.clone(),
        reference,
        own_reference: push.reference.clone(),
        bindings,
        refused,
        cost: wanted.cost(),
        room,
        replication_ready: wanted.replication_ready,
        reply,
    }
}
