//! Who is there: C5 to C10, X26: members come, change and go, on sockets that live, break and are killed.

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{
    client::{Client, End},
    fixture::TRACK,
    present::Watcher,
    rng::Rng,
    server::Server,
    token,
    world::{World, subscribe},
};

pub(super) const DOCUMENTS: &str =
    "SELECT rowcast.define_channel('document:*', 'public', presence => true);";

pub(super) async fn world(env: &[(&str, &str)]) -> World {
    with(DOCUMENTS, env).await
}

pub(super) async fn with(channels: &str, env: &[(&str, &str)]) -> World {
    World::prepared(&format!("{TRACK} {channels}"), env).await
}

/// What a client says about itself on `document:7`; the reply.
pub(super) async fn says(client: &mut Client, action: &str, state: Value) -> Value {
    let frame =
        json!({ "type": "presence", "channel": "document:7", "action": action, "state": state });
    client.ask(frame).await.json
}

pub(super) async fn joins(client: &mut Client, name: &str) {
    let reply = says(client, "join", json!({ "name": name })).await;
    assert_eq!(reply["action"], "join", "{reply}");
}

/// Subscribes to `document:7`, with presence or without; the reply's type, or the name of the error.
pub(super) async fn follows(client: &mut Client, presence: Value) -> String {
    let reply = client
        .ask(subscribe("document:7", json!({ "presence": presence })))
        .await;
    let field = if reply.is("error") { "name" } else { "type" };
    reply.text_of(field).to_owned()
}

pub(super) async fn watcher(world: &World, user: &str) -> Watcher {
    watcher_in(world, user, "org_1").await
}

pub(super) async fn watcher_in(world: &World, user: &str, organization: &str) -> Watcher {
    let mut client = world.member(user, organization).await;
    assert_eq!(follows(&mut client, json!(true)).await, "subscribed");
    Watcher::new(client)
}

/// Somebody on the document, who does not look at who else is.
pub(super) async fn writer(world: &World, user: &str) -> Client {
    let mut client = world.member(user, "org_1").await;
    assert_eq!(follows(&mut client, json!(false)).await, "subscribed");
    client
}

/// The name of the error that a request is refused with.
pub(super) async fn refused(client: &mut Client, frame: Value) -> String {
    client.ask(frame).await.text_of("name").to_owned()
}

/// Reads what has come of presence up to now: nothing is on its way any more when a later change has arrived.
async fn kinds(watcher: &mut Watcher, by: &mut Client, mark: u64) -> Vec<String> {
    says(by, "join", json!({ "mark": mark })).await;
    let frames = watcher
        .until("the mark", |list| {
            let mut states = list.users.iter().flat_map(|user| user.states.values());
            states.any(|state| state["mark"] == mark)
        })
        .await;
    frames
        .iter()
        .flat_map(|frame| {
            ["joins", "updates", "leaves", "shown"]
                .into_iter()
                .flat_map(|kind| {
                    let entries = frame.json[kind].as_array().into_iter().flatten();
                    entries
                        .map(move |entry| format!("{kind} {}", entry["userId"].as_str().unwrap()))
                })
                .collect::<Vec<_>>()
        })
        .collect()
}

/// C5 to C8: a row of presence with name and cursor, written again every 30 seconds, changed, removed; it is the
/// server that says who it is.
#[tokio::test]
async fn c05_c08_a_member_comes_moves_his_cursor_and_goes() {
    let world = world(&[]).await;
    let mut ada = watcher(&world, "ada").await;
    ada.until("the list", |list| list.counts == (0, 0)).await;
    let mut bert = writer(&world, "bert").await;
    let state = json!({ "name": "Bert", "cursor": { "x": 1, "y": 2 }, "userId": "ada" });
    let reply = says(&mut bert, "join", state.clone()).await;
    assert_eq!(
        (&reply["type"], &reply["channel"], &reply["organizationId"]),
        (&json!("presence"), &json!("document:7"), &json!("org_1"))
    );
    ada.until_there(&["bert"]).await;
    assert_eq!(ada.list.state("bert"), Some(&state));
    // The same again is a sign of life and no news; a cursor that moves is an update of the same member.
    says(&mut bert, "join", state).await;
    for x in 0..5 {
        let moved = json!({ "name": "Bert", "cursor": { "x": x, "y": 2 } });
        says(&mut bert, "update", moved).await;
    }
    let told = ada
        .until("the last place of the cursor", |list| {
            list.state("bert").unwrap()["cursor"]["x"] == 4
        })
        .await;
    for frame in &told {
        assert_eq!(
            (&frame.json["joins"], &frame.json["leaves"]),
            (&json!([]), &json!([]))
        );
    }
    says(&mut bert, "leave", Value::Null).await;
    ada.until_there(&[]).await;
    // To leave again is nothing, and who is not there has no state.
    assert_eq!(
        says(&mut bert, "leave", Value::Null).await["action"],
        "leave"
    );
    assert_eq!(
        says(&mut bert, "update", json!({})).await["name"],
        "not_present"
    );
    assert_eq!(ada.list.counts, (0, 0));
}

/// C7: one row for each user, however many connections he has; users and connections are counted apart.
#[tokio::test]
async fn c07_a_user_with_two_connections_is_there_once() {
    let world = world(&[]).await;
    let mut ada = watcher(&world, "ada").await;
    let mut counting = world.member("carl", "org_1").await;
    assert_eq!(follows(&mut counting, json!("count")).await, "subscribed");
    let mut counting = Watcher::new(counting);
    let mut first = writer(&world, "bert").await;
    let mut second = world.login("bert", "org_1").await;
    follows(&mut second, json!(false)).await;
    joins(&mut first, "desk").await;
    joins(&mut second, "phone").await;
    ada.until("both connections", |list| list.counts == (1, 2))
        .await;
    assert_eq!(ada.list.users[0].states.len(), 2);
    counting.until("both", |list| list.counts == (1, 2)).await;
    second.send_message(Message::Close(None)).await;
    ada.until("one connection", |list| list.counts == (1, 1))
        .await;
    assert_eq!(ada.list.state("bert"), Some(&json!({ "name": "desk" })));
    first.send_message(Message::Close(None)).await;
    ada.until_there(&[]).await;
    // Who asked for the counts got them and nothing else.
    counting.until("nobody", |list| list.counts == (0, 0)).await;
    let frames = counting.client.seen.iter();
    assert!(frames.clone().any(|frame| frame.is("presence_count")));
    assert!(
        !frames
            .clone()
            .any(|frame| frame.is("presence_diff") || frame.is("presence_state"))
    );
}

/// X26: a socket that breaks and is back in time shows neither a leave nor a join; one that is not, leaves.
#[tokio::test]
async fn x26_a_broken_socket_that_comes_back_is_not_missed() {
    let world = world(&[("ROWCAST__PRESENCE__GRACE", "20s")]).await;
    let mut ada = watcher(&world, "ada").await;
    let mut carl = writer(&world, "carl").await;
    let mut bert = writer(&world, "bert").await;
    joins(&mut bert, "Bert").await;
    ada.until_there(&["bert"]).await;
    drop(bert.into_stream());
    let mut back = world.login("bert", "org_1").await;
    follows(&mut back, json!(false)).await;
    joins(&mut back, "Bert again").await;
    let mut told = kinds(&mut ada, &mut carl, 1).await;
    told.sort();
    assert_eq!(told, ["joins carl", "updates bert"]);
    assert_eq!(
        ada.list.state("bert"),
        Some(&json!({ "name": "Bert again" }))
    );
    // A goodbye is one at once, whatever the grace.
    back.send_message(Message::Close(None)).await;
    ada.until_there(&["carl"]).await;
}

#[tokio::test]
async fn x26_a_killed_socket_leaves_after_its_grace() {
    let world = world(&[("ROWCAST__PRESENCE__GRACE", "300ms")]).await;
    let mut ada = watcher(&world, "ada").await;
    let mut bert = writer(&world, "bert").await;
    joins(&mut bert, "Bert").await;
    ada.until_there(&["bert"]).await;
    drop(bert.into_stream());
    let told = ada.until_there(&[]).await;
    assert_eq!(
        told.last().unwrap().json["leaves"],
        json!([{ "userId": "bert" }])
    );
}

/// C8, C9: whoever gives no sign of life is not there any more after the time that is set; any frame is one.
#[tokio::test]
async fn c08_c09_the_silent_expire() {
    let world = world(&[("ROWCAST__PRESENCE__EXPIRY", "1s")]).await;
    let mut ada = watcher(&world, "ada").await;
    let mut bert = writer(&world, "bert").await;
    let mut carl = writer(&world, "carl").await;
    joins(&mut bert, "Bert").await;
    joins(&mut carl, "Carl").await;
    ada.until_there(&["bert", "carl"]).await;
    // Carl goes on; Bert says nothing, and his socket stays open.
    let alive = async {
        loop {
            carl.send(json!({ "type": "ping" })).await;
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        told = ada.until_there(&["carl"]) => drop(told),
        () = alive => {}
    }
    let told = bert.until("to be told", |frame| frame.is("presence")).await;
    assert_eq!(
        (told.text_of("action"), told.text_of("reason")),
        ("leave", "expired")
    );
    joins(&mut bert, "Bert").await;
    ada.until("Bert is back", |list| list.ids().contains(&"bert"))
        .await;
}

/// C9, research 18: nobody is there after a crash until he comes back, and nobody is told otherwise.
#[tokio::test]
async fn c09_after_a_crash_nobody_is_there_until_he_comes_back() {
    let mut world = world(&[]).await;
    let mut ada = watcher(&world, "ada").await;
    let mut bert = writer(&world, "bert").await;
    joins(&mut bert, "Bert").await;
    joins(&mut ada.client, "Ada").await;
    ada.until_there(&["bert", "ada"]).await;
    world.server.kill();
    assert!(matches!(
        ada.client.until_closed_any().await,
        End::Broken(_)
    ));
    world.server = Server::start(&world.database, &[]).await;
    let mut ada = Watcher::new(world.login("ada", "org_1").await);
    follows(&mut ada.client, json!(true)).await;
    ada.client
        .until("the list", |frame| frame.is("presence_state"))
        .await;
    ada.catch_up();
    assert_eq!((ada.list.ids().len(), ada.list.counts), (0, (0, 0)));
    let mut bert = world.login("bert", "org_1").await;
    follows(&mut bert, json!(false)).await;
    joins(&mut bert, "Bert").await;
    ada.until_there(&["bert"]).await;
}

/// C10: who wants to show five faces and how many more there are has what he needs, and those who move up.
#[tokio::test]
async fn c10_the_first_few_are_listed_and_all_are_counted() {
    let world = world(&[("ROWCAST__PRESENCE__LISTED", "5")]).await;
    let mut ada = watcher(&world, "ada").await;
    let mut members = Vec::new();
    for at in 0..7 {
        let mut client = writer(&world, &format!("u{at}")).await;
        joins(&mut client, &format!("User {at}")).await;
        members.push(client);
    }
    ada.until("seven", |list| list.counts == (7, 7)).await;
    assert_eq!(ada.list.ids(), ["u0", "u1", "u2", "u3", "u4"]);
    assert_eq!(ada.list.state("u0"), Some(&json!({ "name": "User 0" })));
    members.remove(1).send_message(Message::Close(None)).await;
    let told = ada.until("six", |list| list.counts == (6, 6)).await;
    assert_eq!(ada.list.ids(), ["u0", "u2", "u3", "u4", "u5"]);
    let last = &told.last().unwrap().json;
    assert_eq!(
        (&last["shown"][0]["userId"], &last["joins"]),
        (&json!("u5"), &json!([]))
    );
    // The rest is there for who asks, page by page.
    let mut all: Vec<String> = Vec::new();
    let mut after = Value::Null;
    loop {
        let ask = json!({ "type": "presence", "channel": "document:7", "action": "list", "limit": 4, "after": after });
        let page = ada.client.ask(ask).await;
        assert_eq!(page.json["users"], 6);
        let members = page.json["members"].as_array().unwrap();
        all.extend(
            members
                .iter()
                .map(|user| user["userId"].as_str().unwrap().to_owned()),
        );
        after = page.json["next"].clone();
        if after.is_null() {
            break;
        }
    }
    assert_eq!(all, ["u0", "u2", "u3", "u4", "u5", "u6"]);
}

/// Hundreds come, move and go at once: every follower ends with the same list, the room's, and nobody is told each
/// change one by one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c06_c07_everybody_has_the_same_list_after_a_storm() {
    const SOCKETS: usize = 200;
    let world = world(&[("ROWCAST__PRESENCE__LISTED", "40")]).await;
    world
        .exec("INSERT INTO rowcast.memberships (user_id, organization_id) SELECT 'u' || n, 'org_1' FROM generate_series(0, 99) n")
        .await;
    drop(world.login("u99", "org_1").await);
    let mut storm = tokio::task::JoinSet::new();
    for at in 0..SOCKETS {
        let address = world.server.public;
        storm.spawn(async move {
            let mut rng = Rng::new(at as u64);
            let user = format!("u{}", at % 100);
            let mut client = Client::login(address, &token::session(&user), "org_1").await;
            let presence = if at % 10 == 0 { json!("count") } else { json!(true) };
            follows(&mut client, presence).await;
            for step in 0..12 {
                let (action, state) = match rng.below(4) {
                    0 => ("leave", Value::Null),
                    _ => ("join", json!({ "name": user, "step": step })),
                };
                client
                    .send(json!({ "type": "presence", "channel": "document:7", "action": action, "state": state }))
                    .await;
                if rng.chance(20) {
                    tokio::task::yield_now().await;
                }
            }
            let stays = rng.chance(70);
            let (action, state) = match stays {
                true => ("join", json!({ "name": user, "at": at })),
                false => ("leave", Value::Null),
            };
            says(&mut client, action, state).await;
            (at, stays, Watcher::new(client))
        });
    }
    let mut watchers = Vec::new();
    let mut there = vec![0_u64; 100];
    while let Some(done) = storm.join_next().await {
        let (at, stays, watcher) = done.unwrap();
        there[at % 100] += u64::from(stays);
        watchers.push((at, watcher));
    }
    let expected = (
        there.iter().filter(|connections| **connections > 0).count() as u64,
        there.iter().sum::<u64>(),
    );
    // One more, so that all that came before has been told when it is.
    let mut last = writer(&world, "last").await;
    joins(&mut last, "Last").await;
    let expected = (expected.0 + 1, expected.1 + 1);
    let mut lists = Vec::new();
    for (at, watcher) in &mut watchers {
        let frames = watcher
            .until("the end", |list| list.counts == expected)
            .await;
        // 2,400 steps, in some ten differences a second.
        assert!(frames.len() < 400, "{}", frames.len());
        if *at % 10 != 0 {
            lists.push(watcher.list.users.clone());
        }
    }
    let first = lists.first().unwrap().clone();
    assert_eq!(first.len(), 40.min(expected.0 as usize));
    for list in &lists {
        assert_eq!(*list, first);
    }
    // What they have is what the service says when it is asked.
    let ask = json!({ "type": "presence", "channel": "document:7", "action": "list", "limit": 40 });
    let page = last.ask(ask).await.json;
    let members = page["members"].as_array().unwrap();
    assert_eq!(
        (&page["users"], &page["connections"]),
        (&json!(expected.0), &json!(expected.1))
    );
    for (member, user) in members.iter().zip(&first) {
        assert_eq!(member["userId"], user.id.as_str());
        assert_eq!(member["connections"].as_object(), Some(&user.states));
    }
    assert_eq!(
        world.server.metric("presence_members").await,
        expected.1 as f64
    );
}
