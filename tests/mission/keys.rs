//! API keys, from their making to their end: Q25.

use serde_json::json;

use crate::harness::{
    client::{Client, PATIENCE},
    fixture::TRACK,
    token, until_or,
    world::{World, subscribe},
};

/// A world in which somebody is told the log, and knows when the service is up to date.
async fn world(env: &[(&str, &str)]) -> (World, Client) {
    let world = World::prepared(TRACK, env).await;
    let witness = world.member("witness", "watch").await;
    (world, witness)
}

async fn settle(world: &World, witness: &mut Client) {
    world.events_so_far(witness, "watch").await;
}

/// The number of the error with which a key is refused, and the close; `None`: it is let in.
async fn refused(world: &World, key: &str) -> Option<(u64, u16)> {
    let mut client = Client::open(world.server.public).await;
    let reply = client.auth(key, "org_1").await.unwrap();
    match reply.json["code"].as_u64() {
        Some(code) => Some((code, client.until_closed().await.0)),
        None => None,
    }
}

async fn is_served(world: &World, client: &mut Client, organization: &str) {
    let fence = world.fence(organization).await;
    client.until_fence(fence).await;
}

fn id(key: &str) -> &str {
    key.split('_').nth(1).unwrap()
}

/// Q25: a rotated key has a new secret at once, and the old one until its time, also on open sockets.
#[tokio::test]
async fn q25_a_rotated_key_counts_with_both_secrets_until_the_grace_is_over() {
    let (world, mut witness) = world(&[]).await;
    let old = world.api_key("org_1").await;
    settle(&world, &mut witness).await;
    let mut before = Client::login(world.server.public, &old, "org_1").await;
    let new = world
        .sql
        .text(&format!(
            "SELECT rowcast.rotate_api_key('{}', '4 seconds')",
            id(&old)
        ))
        .await;
    assert_eq!(id(&new), id(&old), "the same key with another secret");
    settle(&world, &mut witness).await;
    let mut after = Client::login(world.server.public, &new, "org_1").await;
    let mut during = Client::login(world.server.public, &old, "org_1").await;
    assert!(during.seen[0].json["expiresIn"].as_u64().unwrap() <= 4);
    is_served(&world, &mut before, "org_1").await;
    // A machine that has the new secret may go on with its socket.
    let mut went_on = Client::login(world.server.public, &old, "org_1").await;
    let renewed = json!({ "type": "token", "token": new });
    assert!(went_on.ask(renewed).await.is("token_refreshed"));
    assert_eq!(before.until_closed().await.0, 4508);
    assert_eq!(during.until_closed().await.0, 4508);
    assert_eq!(refused(&world, &old).await, Some((202, 4508)));
    assert_eq!(refused(&world, &new).await, None);
    is_served(&world, &mut after, "org_1").await;
    is_served(&world, &mut went_on, "org_1").await;
    // Without a grace the secret before is worth nothing from that place of the log on.
    let third = world
        .sql
        .text(&format!(
            "SELECT rowcast.rotate_api_key('{}', '0')",
            id(&new)
        ))
        .await;
    settle(&world, &mut witness).await;
    assert_eq!(after.until_closed().await.0, 4503);
    assert_eq!(refused(&world, &new).await, Some((201, 4501)));
    assert_eq!(refused(&world, &third).await, None);
    // What is over cannot be rotated.
    world
        .exec(&format!("SELECT rowcast.revoke_api_key('{}')", id(&new)))
        .await;
    let again = format!("SELECT rowcast.rotate_api_key('{}')", id(&new));
    assert!(world.sql.fails(&again).await.1.contains("still counts"));
}

/// Q25: a key that expires closes its sockets then; the time may be changed while they are open.
#[tokio::test]
async fn q25_an_expired_key_closes_its_sockets() {
    let (world, mut witness) = world(&[]).await;
    let key = world
        .sql
        .text("SELECT rowcast.create_api_key('org_1', expires_at => now() + interval '3 seconds')")
        .await;
    let later = world
        .sql
        .text("SELECT rowcast.create_api_key('org_1', expires_at => now() + interval '1 hour')")
        .await;
    settle(&world, &mut witness).await;
    let mut one = Client::login(world.server.public, &key, "org_1").await;
    let mut other = Client::login(world.server.public, &later, "org_1").await;
    assert!(one.seen[0].json["expiresIn"].as_u64().unwrap() <= 3);
    assert_eq!(
        one.until_closed().await,
        (4508, "The API key has expired; use another one.".to_owned())
    );
    assert_eq!(refused(&world, &key).await, Some((202, 4508)));
    is_served(&world, &mut other, "org_1").await;
    // Longer than it had, then over at once.
    for at in ["NULL", "now()"] {
        world
            .exec(&format!(
                "SELECT rowcast.expire_api_key('{}', {at})",
                id(&later)
            ))
            .await;
        settle(&world, &mut witness).await;
    }
    assert_eq!(other.until_closed().await.0, 4508);
    let over = "SELECT rowcast.create_api_key('org_1', expires_at => now() - interval '1 s')";
    assert!(world.sql.fails(over).await.1.contains("over already"));
}

/// Q25: a key is for the organizations it names, with its roles in each; changes are followed while it is connected.
#[tokio::test]
async fn q25_a_key_of_several_organizations_with_roles() {
    let world = World::prepared(
        &format!("{TRACK}; SELECT rowcast.track('orders', required_roles => '{{auditor}}')"),
        &[],
    )
    .await;
    let mut witness = world.member("witness", "watch").await;
    let key = world
        .sql
        .text("SELECT rowcast.create_api_key('org_1', '{auditor}', 'ci', organizations => '{org_2,org_1}')")
        .await;
    settle(&world, &mut witness).await;
    // The first is meant where none is named; others may be named, or subscribed to.
    let mut machine = Client::open(world.server.public).await;
    machine.send(json!({ "type": "auth", "token": key })).await;
    let reply = machine.next(PATIENCE).await.unwrap();
    assert_eq!(reply.json["organizationId"], "org_1", "{}", reply.text);
    assert_eq!(reply.json["authMethod"], "api_key");
    let reply = machine.ask(subscribe("org:org_2", json!({}))).await;
    assert!(reply.is("subscribed"), "{}", reply.text);
    let reply = machine.ask(subscribe("org:org_3", json!({}))).await;
    assert_eq!(reply.text_of("name"), "not_member");
    let mut second = Client::login(world.server.public, &key, "org_2").await;
    assert_eq!(second.seen[0].json["roles"], json!(["auditor"]));
    world
        .exec("INSERT INTO orders VALUES (1, 'org_1', 1), (2, 'org_2', 1)")
        .await;
    let ids = [
        machine.event("orders").await.json["new"]["id"].clone(),
        machine.event("orders").await.json["new"]["id"].clone(),
    ];
    assert_eq!(ids, [json!(1), json!(2)]);
    assert_eq!(second.event("orders").await.json["new"]["id"], 2);
    world
        .exec("UPDATE rowcast.api_keys SET organizations = '{}'")
        .await;
    world
        .exec("INSERT INTO orders VALUES (3, 'org_2', 1)")
        .await;
    world
        .exec("INSERT INTO orders VALUES (4, 'org_1', 1)")
        .await;
    let ended = machine.until("the end", |frame| frame.is("unsubscribed"));
    assert_eq!(ended.await.text_of("channel"), "org:org_2");
    assert_eq!(machine.event("orders").await.json["new"]["id"], 4);
    second
        .until("the end", |frame| frame.is("unsubscribed"))
        .await;
    // Roles as well: what is committed after the change is seen by the roles of after.
    world
        .exec("UPDATE rowcast.api_keys SET roles = '{member}'")
        .await;
    world
        .exec("INSERT INTO orders VALUES (5, 'org_1', 1)")
        .await;
    let seen = world.events_so_far(&mut machine, "org_1").await;
    assert!(seen.is_empty(), "{seen:?}");
    assert_eq!(second.events().count(), 1, "nothing after the end");
}

/// Q25: keys are listed without their secrets, with when they were used; a busy key is not written about each time.
#[tokio::test]
async fn q25_keys_are_listed_without_secrets_and_with_their_last_use() {
    let (world, mut witness) =
        world(&[("ROWCAST__REPLICATION__MAINTENANCE_INTERVAL", "1 s")]).await;
    let used = world
        .sql
        .text("SELECT rowcast.create_api_key('org_1', '{admin}', 'used')")
        .await;
    let unused = world
        .sql
        .text("SELECT rowcast.create_api_key('org_2', '{admin}', 'unused', organizations => '{org_1}')")
        .await;
    world
        .exec(&format!("SELECT rowcast.rotate_api_key('{}')", id(&unused)))
        .await;
    let listed = "SELECT string_agg(k::text, ' ') FROM rowcast.list_api_keys('org_1') k";
    let all = world.sql.text(listed).await;
    assert!(
        all.contains(id(&used)) && all.contains(id(&unused)),
        "{all}"
    );
    let kept = world
        .sql
        .text("SELECT string_agg(concat_ws(' ', hash, previous_hash), ' ') FROM rowcast.api_keys")
        .await;
    let secrets = [&used, &unused].map(|key| key.rsplit('_').next().unwrap().to_owned());
    let hidden = kept.split(' ').map(str::to_owned).chain(secrets);
    for hidden in hidden {
        assert!(hidden.len() > 30 && !all.contains(&hidden), "{all}");
    }
    let states = "SELECT string_agg(name || ' ' || state || ' ' || (last_used_at IS NOT NULL), ', ' ORDER BY name)
        FROM rowcast.list_api_keys()";
    assert_eq!(
        world.sql.text(states).await,
        "unused rotating false, used active false"
    );
    settle(&world, &mut witness).await;
    drop(Client::login(world.server.public, &used, "org_1").await);
    world
        .sql
        .until_true(
            "its use is noted",
            "SELECT last_used_at IS NOT NULL FROM rowcast.list_api_keys() WHERE name = 'used'",
        )
        .await;
    let version = "SELECT xmin FROM rowcast.api_key_uses";
    let written = world.sql.text(version).await;
    // Noted again, and not written again: ten minutes are exact enough.
    drop(Client::login(world.server.public, &used, "org_1").await);
    world
        .exec("SELECT rowcast.note_api_keys_used(array_agg(id)) FROM rowcast.list_api_keys() WHERE name = 'used'")
        .await;
    assert_eq!(world.sql.text(version).await, written);
    assert_eq!(
        world.sql.text(states).await,
        "unused rotating false, used active true"
    );
    // A key that nobody used for long is what `rowcast doctor` says.
    world
        .exec("UPDATE rowcast.api_keys SET created_at = now() - interval '91 days' WHERE name = 'unused'")
        .await;
    let said = "SELECT string_agg(what, '; ') FROM rowcast.check() WHERE topic = 'API key'";
    let said = world.sql.text(said).await;
    assert!(
        said.contains(id(&unused)) && !said.contains(id(&used)),
        "{said}"
    );
}

/// A key that only listens.
#[tokio::test]
async fn q25_a_key_may_be_made_that_only_listens() {
    let world = World::prepared(
        &format!("{TRACK}; SELECT rowcast.define_channel('room:*', 'public', relay => true)"),
        &[],
    )
    .await;
    let mut witness = world.member("witness", "org_1").await;
    let mut keys = Vec::new();
    for may_send in [true, false] {
        let query = format!("SELECT rowcast.create_api_key('org_1', may_send => {may_send})");
        keys.push(world.sql.text(&query).await);
    }
    world.events_so_far(&mut witness, "org_1").await;
    let mut answers = Vec::new();
    for key in &keys {
        let mut client = Client::login(world.server.public, key, "org_1").await;
        let said = json!({ "type": "broadcast", "channel": "room:1", "event": "e", "payload": {} });
        answers.push(client.ask(said).await);
    }
    assert!(answers[0].is("ack"), "{}", answers[0].text);
    assert_eq!(answers[1].text_of("name"), "send_forbidden");
}

/// A key of nobody, half a key, a key with the right id and another secret, a hash instead of a key: refused, and
/// nothing of it is in the log of the service.
#[tokio::test]
async fn q25_what_is_no_key_is_refused_and_not_written_anywhere() {
    let (world, mut witness) = world(&[]).await;
    let key = world.api_key("org_1").await;
    settle(&world, &mut witness).await;
    let hash = world.sql.text("SELECT hash FROM rowcast.api_keys").await;
    let mut wrong = key.clone();
    wrong.replace_range(key.len() - 1.., if key.ends_with('0') { "1" } else { "0" });
    for bad in [
        wrong,
        key[..key.len() - 1].to_owned(),
        format!("rk_{}_{hash}", id(&key)),
        format!("rk_nobody_{hash}"),
        "rk_".to_owned(),
        "rk__".to_owned(),
        hash.clone(),
    ] {
        assert_eq!(refused(&world, &bad).await, Some((201, 4501)), "{bad}");
    }
    assert_eq!(refused(&world, &key).await, None);
    let log = world.server.log();
    let secret = key.rsplit('_').next().unwrap();
    assert!(!log.contains(secret) && !log.contains(&hash), "{log}");
    // A key in the place of a token of a person changes nobody's identity.
    let mut person = world.member("anna", "org_1").await;
    let reply = person.ask(json!({ "type": "token", "token": key })).await;
    assert_eq!(reply.text_of("name"), "user_changed");
    let renewed = json!({ "type": "token", "token": token::session("anna") });
    assert!(person.ask(renewed).await.is("token_refreshed"));
    until_or(
        "the refused are counted",
        || world.server.log(),
        async || {
            let metric = r#"auth_refused_total{reason="token_invalid"}"#;
            world.server.metric(metric).await >= 7.0
        },
    )
    .await;
}
