//! Tables that change while they are read.

use crate::harness::{World, row};

async fn inserted(
    world: &World,
    source: &mut crate::harness::Stream,
    sql: &str,
) -> (String, Vec<(String, String)>) {
    world.exec(sql).await;
    let change = source.changes().await.remove(0);
    let names = change.relation.columns.iter().map(|c| c.name.to_string());
    let new = change.new.as_ref().unwrap();
    let row = row(new).into_iter().map(str::to_owned);
    (
        format!("{}.{}", change.relation.schema, change.relation.name),
        names.zip(row).collect(),
    )
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .collect()
}

#[tokio::test]
async fn columns_and_names_change_while_streaming() {
    let world = World::new().await;
    world
        .exec("CREATE TABLE t (id int PRIMARY KEY, a text)")
        .await;
    let mut source = world.started().await;
    let insert = async |source: &mut _, sql: &str| inserted(&world, source, sql).await;
    assert_eq!(
        insert(&mut source, "INSERT INTO t VALUES (1, 'x')").await,
        ("public.t".into(), pairs(&[("id", "1"), ("a", "x")]))
    );
    world.exec("ALTER TABLE t ADD b int DEFAULT 7").await;
    assert_eq!(
        insert(&mut source, "INSERT INTO t VALUES (2, 'x')").await.1,
        pairs(&[("id", "2"), ("a", "x"), ("b", "7")])
    );
    world
        .exec("ALTER TABLE t DROP a; ALTER TABLE t RENAME b TO c")
        .await;
    assert_eq!(
        insert(&mut source, "INSERT INTO t VALUES (3, 8)").await.1,
        pairs(&[("id", "3"), ("c", "8")])
    );
    world
        .exec("ALTER TABLE t ALTER c TYPE text USING c || '!'")
        .await;
    assert_eq!(
        insert(&mut source, "INSERT INTO t VALUES (4, 'y')").await.1,
        pairs(&[("id", "4"), ("c", "y")])
    );
    world.exec("CREATE SCHEMA \"Odd.Schema\"; ALTER TABLE t RENAME TO \"T \"\"2\"; ALTER TABLE \"T \"\"2\" SET SCHEMA \"Odd.Schema\"").await;
    assert_eq!(
        insert(
            &mut source,
            "INSERT INTO \"Odd.Schema\".\"T \"\"2\" VALUES (5, 'z')"
        )
        .await
        .0,
        "Odd.Schema.T \"2"
    );
    // A change in the same transaction as the alteration before and after it.
    world
        .exec("DROP TABLE \"Odd.Schema\".\"T \"\"2\"; CREATE TABLE t (id int PRIMARY KEY)")
        .await;
    world
        .exec("BEGIN; INSERT INTO t VALUES (1); ALTER TABLE t ADD d int; INSERT INTO t VALUES (2, 3); COMMIT")
        .await;
    let changes = source.changes().await;
    let widths: Vec<_> = changes.iter().map(|c| c.relation.columns.len()).collect();
    assert_eq!(widths, [1, 2]);
}

/// The catalog says what is now, the log what was then: a backlog keeps the key it had.
#[tokio::test]
async fn a_backlog_is_read_with_the_key_of_its_time() {
    let world = World::new().await;
    world
        .exec("CREATE TABLE t (id int PRIMARY KEY, a int); CREATE TABLE full_t (id int PRIMARY KEY, a int);
               ALTER TABLE full_t REPLICA IDENTITY FULL;
               CREATE TABLE by_index (id int PRIMARY KEY, a int NOT NULL UNIQUE);
               ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_a_key")
        .await;
    world.started().await.source.close().await;
    world
        .exec("INSERT INTO t VALUES (1, 2); INSERT INTO full_t VALUES (1, 2); INSERT INTO by_index VALUES (1, 2);
               ALTER TABLE t RENAME id TO ident; DROP TABLE by_index")
        .await;
    let mut source = world.started().await;
    let keys = |relation: &rowcast_model::Relation| {
        let keys = relation.columns.iter().filter(|column| column.record_key);
        keys.map(|column| column.name.to_string())
            .collect::<Vec<_>>()
    };
    let changes = source.changes().await;
    let found: Vec<_> = changes
        .iter()
        .map(|change| keys(&change.relation))
        .collect();
    // The last table is gone, and with it what the catalog knew: its replica identity stands in.
    assert_eq!(found, [vec!["id"], vec!["id"], vec!["a"]]);
}

#[tokio::test]
async fn partitions_speak_for_their_root() {
    let world = World::new().await;
    world
        .exec(
            "CREATE TABLE p (id int, at date, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
             CREATE TABLE p1 PARTITION OF p FOR VALUES FROM ('2020-01-01') TO ('2021-01-01')",
        )
        .await;
    let mut source = world.started().await;
    let (name, _) = inserted(
        &world,
        &mut source,
        "INSERT INTO p1 VALUES (1, '2020-05-05')",
    )
    .await;
    assert_eq!(name, "public.p");
}
