//! Promise 9: the application's write never fails because of Rowcast, and what could not be mapped is
//! recorded; strict mode turns such cases into errors.

use crate::harness::{
    fixture::{PROJECT_1, TRACK},
    world::World,
};

/// Both ways of storing, lenient.
async fn worlds() -> Vec<World> {
    let mut worlds = Vec::new();
    for storage in ["table", "log"] {
        let track = TRACK.replace(");", &format!(", storage => '{storage}');"));
        worlds.push(World::prepared(&track, &[]).await);
    }
    worlds
}

async fn problems(world: &World) -> i64 {
    world
        .sql
        .text("SELECT count(*) FROM rowcast.problems")
        .await
        .parse()
        .unwrap()
}

/// Rows without an organization are written, recorded, and told to nobody.
#[tokio::test]
async fn promise_09_unmapped_rows_are_written_and_recorded() {
    for world in worlds().await {
        let mut client = world.member("u1", "org_1").await;
        world
            .exec(&format!(
                "INSERT INTO projects VALUES ('{PROJECT_1}', NULL, 'of nobody');
                 INSERT INTO tasks VALUES (1, '{PROJECT_1}', 'of nobody');
                 UPDATE tasks SET title = 'of nobody';
                 DELETE FROM tasks"
            ))
            .await;
        assert!(world.events_so_far(&mut client, "org_1").await.is_empty());
        assert!(problems(&world).await > 0);
        // The mapped rows of a statement that has unmapped ones as well are told.
        world
            .exec("INSERT INTO projects (organization_id, name) VALUES (NULL, 'x'), ('org_1', 'y'), (NULL, 'z')")
            .await;
        let events = world.events_so_far(&mut client, "org_1").await;
        assert_eq!(events.len(), 1, "{events:#?}");
        assert_eq!(events[0].json["new"]["name"], "y");
    }
}

/// The table that a path leads over is dropped: writes go on, and the problem is written down.
#[tokio::test]
async fn promise_09_a_dropped_parent_does_not_stop_writes() {
    for world in worlds().await {
        world
            .exec(&format!(
                "INSERT INTO projects VALUES ('{PROJECT_1}', 'org_1', 'p');
                 INSERT INTO tasks VALUES (1, '{PROJECT_1}', 'a');
                 DROP TABLE projects CASCADE;
                 INSERT INTO tasks VALUES (2, '{PROJECT_1}', 'b');
                 UPDATE tasks SET title = 'c';
                 DELETE FROM tasks WHERE id = 1;
                 TRUNCATE tasks CASCADE"
            ))
            .await;
        assert!(problems(&world).await > 0);
    }
}

/// A writer who has no right to anything of Rowcast, also when the tables it writes to lost theirs.
#[tokio::test]
async fn promise_09_a_writer_without_privileges() {
    for world in worlds().await {
        let mut client = world.member("u1", "org_1").await;
        let role = format!("writer_{}_{}", world.database.name, std::process::id());
        world
            .exec(&format!(
                "CREATE ROLE {role};
                 GRANT INSERT, UPDATE, DELETE, TRUNCATE, SELECT ON orders TO {role};
                 SET ROLE {role};
                 INSERT INTO orders VALUES (1, 'org_1', 1);
                 UPDATE orders SET total = 2;
                 DELETE FROM orders;
                 RESET ROLE"
            ))
            .await;
        let events = world.events_so_far(&mut client, "org_1").await;
        assert_eq!(events.len(), 3, "{events:#?}");
        // Nor may that role read or forge table events.
        world.exec(&format!("SET ROLE {role}")).await;
        for statement in [
            "INSERT INTO realtime_table_events (organization_id, table_schema, table_name, event_type) VALUES ('org_1', 'public', 'orders', 'INSERT')",
            "SELECT * FROM realtime_table_events",
            "SELECT * FROM rowcast.memberships",
            "SELECT rowcast.track('orders')",
        ] {
            assert_eq!(world.sql.fails(statement).await.0, "42501", "{statement}");
        }
        world
            .exec(&format!(
                "RESET ROLE; DROP OWNED BY {role}; DROP ROLE {role}"
            ))
            .await;
    }
}

/// Even the loss of Rowcast's own tables does not stop the application.
#[tokio::test]
async fn promise_09_the_loss_of_rowcasts_own_tables_does_not_stop_writes() {
    for world in worlds().await {
        world
            .exec(
                "DROP TABLE realtime_table_events CASCADE;
                 DROP TABLE rowcast.problems CASCADE;
                 INSERT INTO orders VALUES (1, 'org_1', 1);
                 INSERT INTO orders VALUES (2, NULL_TO_ORG(), 1);
                 UPDATE orders SET total = 2;
                 DELETE FROM orders"
                    .replace("NULL_TO_ORG()", "'org_2'")
                    .as_str(),
            )
            .await;
    }
}

/// A column that tracking needs is dropped.
#[tokio::test]
async fn promise_09_a_dropped_organization_column_does_not_stop_writes() {
    for world in worlds().await {
        world
            .exec(
                "ALTER TABLE orders DROP COLUMN organization_id;
                 INSERT INTO orders VALUES (1, 1);
                 UPDATE orders SET total = 2;
                 DELETE FROM orders",
            )
            .await;
    }
}

/// Strict: what cannot be mapped is an error, what can be is not.
#[tokio::test]
async fn promise_09_strict_mode_refuses_what_cannot_be_mapped() {
    for storage in ["table", "log"] {
        let track = format!(
            "SELECT rowcast.track('fences', organization_column => 'organization_id');
             SELECT rowcast.track('projects', organization_column => 'organization_id', strict => true, storage => '{storage}');"
        );
        let world = World::prepared(&track, &[]).await;
        let mut client = world.member("u1", "org_1").await;
        let (_, message) = world
            .sql
            .fails("INSERT INTO projects (organization_id, name) VALUES (NULL, 'x')")
            .await;
        assert!(
            message.contains("projects"),
            "the message names the table: {message}"
        );
        assert_eq!(world.sql.text("SELECT count(*) FROM projects").await, "0");
        world
            .exec("INSERT INTO projects (organization_id, name) VALUES ('org_1', 'x')")
            .await;
        world
            .sql
            .fails("UPDATE projects SET organization_id = NULL")
            .await;
        let events = world.events_so_far(&mut client, "org_1").await;
        assert_eq!(events.len(), 1, "{events:#?}");
    }
}
