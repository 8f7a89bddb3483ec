//! The state to begin with, as a role with no more rights than it needs.

use rowcast_source::{ConnInfo, load_catalog};

use crate::harness::{PUBLICATION, Stream, World};

#[tokio::test]
async fn a_role_with_the_least_rights_reads_and_streams() {
    let world = World::new().await;
    let role = format!("svc_{}", world.slot);
    world
        .exec(&format!(
            "CREATE ROLE {role} LOGIN REPLICATION;
             SELECT rowcast.grant_service('{role}');
             CREATE TABLE \"Members\" (\"Who\" uuid, org int, \"the role\" text, secret text, PRIMARY KEY (\"Who\", org));
             INSERT INTO \"Members\" VALUES ('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 7, null, 'x');
             SELECT rowcast.use_memberships('\"Members\"', 'Who', 'org', 'the role');
             SELECT rowcast.create_api_key('7', '{{admin}}', 'k')",
        ))
        .await;
    let url = world
        .url
        .replacen("postgres://postgres", &format!("postgres://{role}"), 1);
    let info = ConnInfo::parse(&url, None).unwrap();
    let rows = load_catalog(&info).await.unwrap();
    assert_eq!(rows.memberships.len(), 1);
    let member = &rows.memberships[0];
    assert_eq!(
        member.len(),
        3,
        "nothing but what a membership is made of: {member:?}"
    );
    assert_eq!(member["org"].as_deref(), Some("7"));
    assert_eq!(member["the role"], None);
    assert_eq!(rows.api_keys.len(), 1);
    assert_eq!(rows.api_keys[0]["roles"].as_deref(), Some("{admin}"));
    assert!(rows.membership_source.is_some());

    let mut source = Stream::new(rowcast_source::SourceConfig {
        replication: info.clone(),
        sql: info,
        publication: PUBLICATION.into(),
        ..world.config()
    });
    source.start().await;
    world
        .exec("INSERT INTO \"Members\" VALUES ('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a12', 7)")
        .await;
    assert_eq!(&*source.changes().await[0].relation.name, "Members");

    world
        .exec(&format!("ALTER ROLE {role} NOREPLICATION"))
        .await;
    let mut source = Stream::new(rowcast_source::SourceConfig {
        slot: format!("{}_x", world.slot),
        ..source_config(&world, &url)
    });
    let error = source.try_next().await.unwrap_err();
    assert_eq!((error.code(), error.retry()), ("permission_denied", false));
    assert!(
        error
            .to_string()
            .contains(&format!("ALTER ROLE {role} REPLICATION"))
    );
}

fn source_config(world: &World, url: &str) -> rowcast_source::SourceConfig {
    let info = ConnInfo::parse(url, None).unwrap();
    rowcast_source::SourceConfig {
        replication: info.clone(),
        sql: info,
        ..world.config()
    }
}

#[tokio::test]
async fn a_membership_table_that_is_gone_leaves_no_members() {
    let world = World::new().await;
    world
        .exec(
            "CREATE TABLE m (id int PRIMARY KEY, u text, o text);
               SELECT rowcast.use_memberships('m', 'u', 'o'); INSERT INTO m VALUES (1, 'a', 'b');
               ALTER TABLE m RENAME TO m2",
        )
        .await;
    assert_eq!(
        load_catalog(&world.info).await.unwrap().memberships.len(),
        1
    );
    world.exec("DROP TABLE m2").await;
    assert_eq!(
        load_catalog(&world.info).await.unwrap().memberships.len(),
        0
    );
}
