//! Promise 2: a subscriber can tell which events belong to one transaction, and when it has them all.

use crate::harness::{client::Frame, world::World};

/// The part of a cursor that all events of a transaction share.
fn transaction(event: &Frame) -> String {
    let cursor = event.text_of("cursor");
    let (transaction, _) = cursor
        .rsplit_once('-')
        .unwrap_or_else(|| panic!("{}", event.text));
    transaction.to_owned()
}

fn is_last(event: &Frame) -> bool {
    event.json["last"] == true
}

/// Two transactions of several rows each, on two organizations: on each channel the events of one
/// transaction say so, and exactly the last of them is marked.
#[tokio::test]
async fn promise_02_transactions_can_be_told_apart_and_end() {
    let world = World::start().await;
    let mut one = world.member("u1", "org_1").await;
    let mut two = world.member("u2", "org_2").await;
    for n in 0..2 {
        // The last row is of org_2: what ends the transaction for org_1 is its own last row.
        world
            .exec(&format!(
                "BEGIN;
                 INSERT INTO orders SELECT {n}0 + i, 'org_1', 1 FROM generate_series(1, 4) i;
                 UPDATE orders SET total = 2 WHERE id = {n}1;
                 INSERT INTO orders SELECT {n}5 + i, 'org_2', 1 FROM generate_series(1, 2) i;
                 COMMIT"
            ))
            .await;
    }
    for (client, organization, each) in [(&mut one, "org_1", 5), (&mut two, "org_2", 2)] {
        let events = world.events_so_far(client, organization).await;
        assert_eq!(events.len(), 2 * each);
        let (first, second) = events.split_at(each);
        for part in [first, second] {
            assert!(
                part.iter()
                    .all(|event| transaction(event) == transaction(&part[0]))
            );
            let last: Vec<bool> = part.iter().map(is_last).collect();
            let mut expected = vec![false; each];
            expected[each - 1] = true;
            assert_eq!(last, expected, "{part:#?}");
        }
        assert_ne!(transaction(&first[0]), transaction(&second[0]));
    }
}

/// The same for a transaction of one row, and for one that ends with something nobody sees.
#[tokio::test]
async fn promise_02_what_nobody_sees_does_not_hide_the_end() {
    let world = World::start().await;
    let mut client = world.member("u1", "org_1").await;
    world
        .exec(
            "CREATE TABLE untracked (id int PRIMARY KEY);
             BEGIN; INSERT INTO orders VALUES (1, 'org_1', 1); INSERT INTO untracked VALUES (1); COMMIT;
             INSERT INTO orders VALUES (2, 'org_1', 1)",
        )
        .await;
    let events = world.events_so_far(&mut client, "org_1").await;
    assert_eq!(events.len(), 2);
    assert!(events.iter().all(is_last), "{events:#?}");
    assert_ne!(transaction(&events[0]), transaction(&events[1]));
}
