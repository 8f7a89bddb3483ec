//! What an organization may use: G31 to G35, C18.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{
    client::{Client, Frame, PATIENCE},
    fixture::TRACK,
    server::{Server, get},
    token, until_or,
    world::{World, subscribe},
};

/// Everything committed before is known to the service.
async fn settle(world: &World, witness: &mut Client) {
    world.events_so_far(witness, "watch").await;
}

/// Somebody whose organization has no limit, to whom the log is told.
async fn witness(world: &World) -> Client {
    world.member("witness", "watch").await
}

/// Opens a socket: the socket, or the name of the error and the close code.
async fn come(world: &World, user: &str, organization: &str) -> Result<Client, (String, u16)> {
    let mut client = Client::open(world.server.public).await;
    let reply = client.auth(&token::session(user), organization).await;
    let reply = reply.unwrap();
    match reply.is("auth_success") {
        true => Ok(client),
        false => Err((
            reply.text_of("name").to_owned(),
            client.until_closed().await.0,
        )),
    }
}

fn full() -> (String, u16) {
    ("connections_limited".to_owned(), 4005)
}

async fn is_still_served(world: &World, client: &mut Client, organization: &str) {
    let fence = world.fence(organization).await;
    client.until_fence(fence).await;
}

/// G31, G32: open sockets of one organization, and nothing else, count; the plans have the numbers of the mission.
#[tokio::test]
async fn g31_g32_sockets_of_an_organization_are_limited_by_its_plan() {
    let world = World::start().await;
    let plans = "SELECT string_agg(name || '=' || coalesce(ws_connections::text, '-'), ' ' ORDER BY ws_connections) FROM rowcast.plans";
    assert_eq!(
        world.sql.text(plans).await,
        "hobby=50 pro=500 scale=5000 free=-"
    );
    world
        .exec("SELECT rowcast.set_plan('org_1', 'hobby')")
        .await;
    for organization in ["org_1", "org_2"] {
        world.add_member("anna", organization, "member").await;
    }
    let mut witness = witness(&world).await;
    settle(&world, &mut witness).await;
    let mut open = Vec::new();
    for _ in 0..50 {
        open.push(come(&world, "anna", "org_1").await.unwrap());
        // Visitors and requests are no sockets.
        let visited = get(world.server.public, "/healthz").await;
        assert_eq!(visited.unwrap().0, 200);
    }
    assert_eq!(come(&world, "anna", "org_1").await.err(), Some(full()));
    let metric = r#"limited_total{kind="connections",level="organization"}"#;
    assert_eq!(world.server.metric(metric).await, 1.0);
    // Another organization, and who is there already, notice nothing.
    let mut other = come(&world, "anna", "org_2").await.unwrap();
    is_still_served(&world, &mut other, "org_2").await;
    is_still_served(&world, &mut open[0], "org_1").await;
    // A place that is given back is there for the next one.
    drop(open.pop());
    until_or(
        "there is a place again",
        || world.server.log(),
        async || come(&world, "anna", "org_1").await.is_ok(),
    )
    .await;
}

/// G33: `user_credits.plan` of the owner, then `apps.plan`, then `free`; then `pricing_tiers.features.wsConnections`
/// of that plan. Tables that are not there say nothing.
#[tokio::test]
async fn g33_the_plan_is_looked_up_in_the_order_of_the_mission() {
    let world = World::start().await;
    let sql = &world.sql;
    let limits = async |organization: &str| {
        let query = format!("SELECT rowcast.limits_for('{organization}')");
        let limits: Value = serde_json::from_str(&sql.text(&query).await).unwrap();
        (limits["plan"].clone(), limits["connections"].clone())
    };
    let app = "0b0e7a5e-0000-4000-8000-000000000001";
    assert_eq!(limits(app).await, (json!("free"), Value::Null));
    // An application may have some of the tables, and ids of a type of their own.
    sql.exec(&format!(
        "CREATE TABLE apps (id uuid PRIMARY KEY, owner_id bigint, plan text);
         INSERT INTO apps VALUES ('{app}', 7, NULL)"
    ))
    .await;
    assert_eq!(limits(app).await, (json!("free"), Value::Null));
    assert_eq!(limits("no uuid").await, (json!("free"), Value::Null));
    sql.exec("UPDATE apps SET plan = 'hobby'").await;
    assert_eq!(limits(app).await, (json!("hobby"), json!(50)));
    sql.exec(
        "CREATE TABLE user_credits (user_id bigint, plan text);
         INSERT INTO user_credits VALUES (8, 'scale')",
    )
    .await;
    assert_eq!(limits(app).await, (json!("hobby"), json!(50)));
    sql.exec("INSERT INTO user_credits VALUES (7, 'pro')").await;
    assert_eq!(limits(app).await, (json!("pro"), json!(500)));
    sql.exec(
        r#"CREATE TABLE pricing_tiers (plan text PRIMARY KEY, features jsonb);
           INSERT INTO pricing_tiers VALUES ('pro', '{"wsConnections": 2}'), ('free', '{"wsConnections": 1}'),
               ('hobby', '{}')"#,
    )
    .await;
    assert_eq!(limits(app).await, (json!("pro"), json!(2)));
    assert_eq!(limits("no uuid").await, (json!("free"), json!(1)));
    sql.exec("DELETE FROM user_credits").await;
    assert_eq!(limits(app).await, (json!("hobby"), json!(50)));
    // What was said to Rowcast comes first; a plan that nobody knows has no row.
    sql.exec(&format!("SELECT rowcast.set_plan('{app}', 'scale')"))
        .await;
    assert_eq!(limits(app).await, (json!("scale"), json!(5000)));
    sql.exec("UPDATE apps SET plan = 'unheard of'").await;
    sql.exec(&format!("SELECT rowcast.set_plan('{app}', NULL)"))
        .await;
    let nothing = format!("SELECT rowcast.limits_for('{app}') IS NULL");
    assert_eq!(sql.text(&nothing).await, "t");
    // The role of the service may ask, and needs no right to those tables.
    sql.exec("CREATE ROLE asking; SELECT rowcast.grant_service('asking'); SET ROLE asking")
        .await;
    assert_eq!(limits("no uuid").await, (json!("free"), json!(1)));
    sql.exec("RESET ROLE; DROP OWNED BY asking; DROP ROLE asking")
        .await;
    // The service holds to it.
    world.add_member("anna", "app", "member").await;
    let mut witness = world.member("witness", "free_too").await;
    world.events_so_far(&mut witness, "free_too").await;
    let _one = come(&world, "anna", "app").await.unwrap();
    assert_eq!(come(&world, "anna", "app").await.err(), Some(full()));
}

/// G34: no row, an error, nonsense and no answer at all: the setting of the service counts, and only those who ask
/// for that organization wait.
#[tokio::test]
async fn g34_what_cannot_be_resolved_is_the_setting_of_the_service() {
    let world = World::prepared(
        &format!(
            "{TRACK};
             CREATE OR REPLACE FUNCTION rowcast.limits_for(organization_id text) RETURNS jsonb LANGUAGE plpgsql AS $$
             BEGIN
                 IF $1 = 'failing' THEN RAISE EXCEPTION 'no such table'; END IF;
                 IF $1 = 'slow' THEN PERFORM pg_sleep(600); END IF;
                 RETURN CASE $1 WHEN 'odd' THEN '\"many\"'::jsonb WHEN 'ok' THEN '{{\"connections\": 2}}'::jsonb END;
             END $$"
        ),
        &[("ROWCAST_WS_MAX_CONNECTIONS_PER_APP", "1")],
    )
    .await;
    for organization in ["failing", "slow", "odd", "unknown", "ok"] {
        world.add_member("anna", organization, "member").await;
    }
    let mut witness = witness(&world).await;
    settle(&world, &mut witness).await;
    for organization in ["failing", "odd", "unknown"] {
        let mut one = come(&world, "anna", organization).await.unwrap();
        assert_eq!(come(&world, "anna", organization).await.err(), Some(full()));
        is_still_served(&world, &mut one, organization).await;
    }
    let begun = Instant::now();
    let slow = async {
        let one = come(&world, "anna", "slow").await;
        (one, begun.elapsed())
    };
    let quick = async {
        // The answer for `slow` is awaited by now, or soon: this one does not wait for it.
        let first = come(&world, "anna", "ok").await.unwrap();
        let second = come(&world, "anna", "ok").await.unwrap();
        assert_eq!(come(&world, "anna", "ok").await.err(), Some(full()));
        (begun.elapsed(), first, second)
    };
    let ((one, after), (others_after, ..)) = tokio::join!(slow, quick);
    assert!(after >= Duration::from_secs(1), "{after:?}");
    assert!(others_after < after, "{others_after:?} and {after:?}");
    let _one = one.unwrap();
    assert_eq!(come(&world, "anna", "slow").await.err(), Some(full()));
    // What was given up is given up in the database, too.
    world
        .sql
        .until_true(
            "nothing is asked any more",
            "SELECT count(*) = 0 FROM pg_stat_activity WHERE application_name = 'rowcast plans' AND state = 'active'",
        )
        .await;
    let log = world.server.log();
    assert!(
        log.contains("what the organization may use is not known"),
        "{log}"
    );
    let metric = r#"plans_asked_total{reason="no_answer"}"#;
    assert!(world.server.metric(metric).await >= 1.0);
}

/// G35: changed numbers count for those who come, without a restart and after one; who is there stays.
#[tokio::test]
async fn g35_changed_numbers_count_for_new_connections() {
    let mut world = World::start().await;
    world
        .exec(
            "INSERT INTO rowcast.plans (name, ws_connections) VALUES ('own', 1);
             SELECT rowcast.set_plan('org_1', 'own')",
        )
        .await;
    world.add_member("anna", "org_1", "member").await;
    let mut witness = witness(&world).await;
    settle(&world, &mut witness).await;
    let mut first = come(&world, "anna", "org_1").await.unwrap();
    assert_eq!(come(&world, "anna", "org_1").await.err(), Some(full()));
    world
        .exec("UPDATE rowcast.plans SET ws_connections = 2 WHERE name = 'own'")
        .await;
    settle(&world, &mut witness).await;
    let mut second = come(&world, "anna", "org_1").await.unwrap();
    assert_eq!(come(&world, "anna", "org_1").await.err(), Some(full()));
    // Fewer than there are: nobody has to go.
    world.exec("SELECT rowcast.set_plan('org_1', 'free')").await;
    world
        .exec("UPDATE rowcast.plans SET ws_connections = 0 WHERE name = 'free'")
        .await;
    settle(&world, &mut witness).await;
    assert_eq!(come(&world, "anna", "org_1").await.err(), Some(full()));
    is_still_served(&world, &mut first, "org_1").await;
    is_still_served(&world, &mut second, "org_1").await;
    world.server.kill();
    world
        .exec("UPDATE rowcast.plans SET ws_connections = 1 WHERE name = 'free'")
        .await;
    world.server = Server::start(&world.database, &[]).await;
    let mut again = world.login("anna", "org_1").await;
    assert_eq!(come(&world, "anna", "org_1").await.err(), Some(full()));
    is_still_served(&world, &mut again, "org_1").await;
}

async fn joins(client: &mut Client, channel: &str) -> Frame {
    client.ask(subscribe(channel, json!({}))).await
}

/// C18: a fixed window for each user, all sockets together, with the sentence of the mission; signs of life do not
/// count, and others are not touched.
#[tokio::test]
async fn c18_a_fixed_window_for_each_user() {
    let world = World::prepared(
        &format!("{TRACK}; SELECT rowcast.define_channel('room:*', 'public')"),
        &[("ROWCAST__LIMITS__USER_REQUESTS", "100/60 s")],
    )
    .await;
    let mut one = world.member("anna", "org_1").await;
    let mut two = world.login("anna", "org_1").await;
    let mut bert = world.member("bert", "org_1").await;
    for i in 0..50 {
        for client in [&mut one, &mut two] {
            let reply = joins(client, &format!("room:{}", i % 5)).await;
            assert!(reply.is("subscribed"), "{i}: {}", reply.text);
        }
    }
    for client in [&mut one, &mut two] {
        let reply = joins(client, "room:1").await;
        assert_eq!(reply.json["code"], 404);
        assert_eq!(
            reply.text_of("message"),
            "Rate limit exceeded. Try again later."
        );
    }
    let left = json!({ "type": "unsubscribe", "channel": "room:1" });
    assert_eq!(one.ask(left).await.json["code"], 404);
    assert!(one.ask(json!({ "type": "ping" })).await.is("pong"));
    assert!(joins(&mut bert, "room:1").await.is("subscribed"));
    // Events come as before, and the socket is not closed for it.
    is_still_served(&world, &mut one, "org_1").await;
    let metric = r#"limited_total{kind="requests",level="user"}"#;
    assert_eq!(world.server.metric(metric).await, 3.0);
}

/// Rates of a plan: of sockets, of a user and of the organization, each refused with its number and counted.
#[tokio::test]
async fn rates_of_a_plan_hold_for_its_organization_alone() {
    let world = World::prepared(
        &format!(
            r#"{TRACK}; SELECT rowcast.define_channel('room:*', 'public');
            INSERT INTO rowcast.plans VALUES ('small', NULL, '{{
                "connection": {{"joins": "3/h", "bytes": "100000/h burst 2000"}},
                "user": {{"joins": "5/h", "connects": "3/h"}},
                "organization": {{"messages": "20/h", "connects": "5/h"}}}}');
            SELECT rowcast.set_plan('org_1', 'small')"#
        ),
        &[],
    )
    .await;
    for user in ["anna", "bert"] {
        world.add_member(user, "org_1", "member").await;
        world.add_member(user, "org_2", "member").await;
    }
    let mut witness = witness(&world).await;
    settle(&world, &mut witness).await;
    let code = |frame: Frame| frame.json["code"].as_u64().unwrap_or_default();
    let mut one = come(&world, "anna", "org_1").await.unwrap();
    let mut two = come(&world, "anna", "org_1").await.unwrap();
    let mut outside = come(&world, "anna", "org_2").await.unwrap();
    let mut codes = Vec::new();
    for i in 0..4 {
        codes.push(code(joins(&mut one, &format!("room:{i}")).await));
    }
    assert_eq!(codes, [0, 0, 0, 405], "three for a socket");
    codes.clear();
    for i in 0..3 {
        codes.push(code(joins(&mut two, &format!("room:{i}")).await));
    }
    assert_eq!(codes, [0, 0, 405], "five for a user");
    let large = json!({ "type": "ping", "padding": "x".repeat(3000) });
    assert!(one.ask(large.clone()).await.is("pong"));
    one.send(json!({ "type": "ping" })).await;
    let limited = |frame: &Frame| frame.is("error");
    let refused = one.until("a refusal", limited).await;
    assert_eq!(refused.json["code"], 406, "what was large is paid for");
    // Eight messages so far, since what a socket may not send is not counted to the others: twelve are left.
    let mut codes = Vec::new();
    for _ in 0..14 {
        two.send(json!({ "type": "ping" })).await;
        let reply = two.next(PATIENCE).await.unwrap();
        codes.push(match reply.is("pong") {
            true => 0,
            false => code(reply),
        });
    }
    assert_eq!(codes[..12], [0; 12]);
    assert_eq!(codes[12..], [401, 401]);
    // Connections: a third one of hers in that organization, and no fourth; a fifth of all, and no sixth.
    let third = come(&world, "anna", "org_1").await;
    assert!(third.is_ok());
    let too_fast = ("connects_limited".to_owned(), 4008);
    assert_eq!(
        come(&world, "anna", "org_1").await.err(),
        Some(too_fast.clone())
    );
    let _bert = [
        come(&world, "bert", "org_1").await.unwrap(),
        come(&world, "bert", "org_1").await.unwrap(),
    ];
    assert_eq!(come(&world, "bert", "org_1").await.err(), Some(too_fast));
    // The same people elsewhere have what the service is configured with.
    for i in 0..10 {
        let reply = joins(&mut outside, &format!("room:{i}")).await;
        assert!(reply.is("subscribed"), "{}", reply.text);
        assert!(outside.ask(large.clone()).await.is("pong"));
    }
    is_still_served(&world, &mut one, "org_1").await;
    is_still_served(&world, &mut two, "org_1").await;
    for (kind, level, count) in [
        ("joins", "connection", 1.0),
        ("joins", "user", 1.0),
        ("bytes", "connection", 1.0),
        ("messages", "organization", 2.0),
        ("connects", "user", 1.0),
        ("connects", "organization", 1.0),
    ] {
        let metric = format!(r#"limited_total{{kind="{kind}",level="{level}"}}"#);
        assert_eq!(world.server.metric(&metric).await, count, "{metric}");
    }
}

/// What makes no sense in a plan is refused when it is written.
#[tokio::test]
async fn limits_of_a_plan_are_checked_when_they_are_written() {
    let world = World::start().await;
    let put = |limits: &str| format!("INSERT INTO rowcast.plans VALUES ('p', 1, '{limits}')");
    for (limits, why) in [
        (r#"{"socket": {}}"#, "none of connection"),
        (r#"{"user": []}"#, "must be an object"),
        (r#"{"user": {"joins": "often"}}"#, "\"joins\" of \"user\""),
        (r#"{"user": {"joins": 5}}"#, "\"joins\" of \"user\""),
        (r#"{"user": {"jokes": "5/s"}}"#, "\"jokes\" of \"user\""),
        (r#"{"user": {"joins": "0/s"}}"#, "\"joins\" of \"user\""),
        ("[]", "must be an object"),
    ] {
        let (code, message) = world.sql.fails(&put(limits)).await;
        assert!(
            code == "22023" && message.contains(why),
            "{limits}: {message}"
        );
    }
    world
        .exec(&put(
            r#"{"user": {"joins": "off", "bytes": "1000/60 s burst 5000"}, "connection": {"messages": "5/min"}}"#,
        ))
        .await;
    let (_, message) = world
        .sql
        .fails("SELECT rowcast.set_plan('org_1', 'nonsense')")
        .await;
    assert!(
        message.contains("there is no plan \"nonsense\""),
        "{message}"
    );
}
