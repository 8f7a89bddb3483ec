//! One test's world: a database with the example application, and the service on it.

use std::sync::atomic::{AtomicI64, Ordering};

use rowcast_embedded::Cluster;
use serde_json::{Value, json};

use super::{
    client::{Client, Frame},
    fixture,
    postgres::{Database, Sql},
    server::{self, Server},
    token,
};

/// A database, a connection to it, and a ready service.
pub struct World {
    pub database: Database,
    pub sql: Sql,
    pub server: Server,
    fences: AtomicI64,
}

impl World {
    /// The example application, tracked, in the shared cluster.
    pub async fn start() -> World {
        World::prepared(fixture::TRACK, &[]).await
    }

    /// The same with other SQL after the tables were made, and more environment for the service.
    pub async fn prepared(sql: &str, env: &[(&str, &str)]) -> World {
        let database = Database::fresh().await;
        World::on(database, sql, env).await
    }

    /// The same in a cluster of its own.
    pub async fn in_cluster(cluster: &Cluster, sql: &str, env: &[(&str, &str)]) -> World {
        let database = Database::fresh_in(cluster).await;
        World::on(database, sql, env).await
    }

    async fn on(database: Database, prepare: &str, env: &[(&str, &str)]) -> World {
        migrate(&database).await;
        let sql = database.connect().await;
        sql.exec(fixture::TABLES).await;
        sql.exec(prepare).await;
        let server = Server::start(&database, env).await;
        World {
            database,
            sql,
            server,
            fences: AtomicI64::new(1),
        }
    }

    pub async fn exec(&self, sql: &str) {
        self.sql.exec(sql).await;
    }

    /// Makes `user` a member.
    pub async fn add_member(&self, user: &str, organization: &str, role: &str) {
        self.sql
            .execute(
                "INSERT INTO rowcast.memberships (user_id, organization_id, role) VALUES ($1, $2, $3)",
                &[&user, &organization, &role],
            )
            .await
            .unwrap();
    }

    /// Makes `user` a member and opens a socket, which is subscribed to the organization.
    pub async fn member(&self, user: &str, organization: &str) -> Client {
        self.member_with_role(user, organization, "member").await
    }

    pub async fn member_with_role(&self, user: &str, organization: &str, role: &str) -> Client {
        self.add_member(user, organization, role).await;
        self.login(user, organization).await
    }

    /// Opens a socket for somebody whose membership was just written: the service learns of it from
    /// the log, so the first tries may come too early.
    pub async fn login(&self, user: &str, organization: &str) -> Client {
        let mut found = None;
        super::until_or(
            "the membership is known",
            || self.server.log(),
            async || {
                let mut client = Client::open(self.server.public).await;
                let reply = client.auth(&token::session(user), organization).await;
                let accepted = reply.is_ok_and(|frame| frame.is("auth_success"));
                if accepted {
                    found = Some(client);
                }
                accepted
            },
        )
        .await;
        found.unwrap()
    }

    /// The secret of a new API key of an organization; the service knows it soon.
    pub async fn api_key(&self, organization: &str) -> String {
        self.sql
            .text(&format!("SELECT rowcast.create_api_key('{organization}')"))
            .await
    }

    /// Commits a fence row for an organization; everything committed before comes before its event.
    pub async fn fence(&self, organization: &str) -> i64 {
        let id = self.fences.fetch_add(1, Ordering::Relaxed);
        self.sql
            .execute(
                "INSERT INTO fences (id, organization_id) VALUES ($1, $2)",
                &[&id, &organization],
            )
            .await
            .unwrap();
        id
    }

    /// The events that `client` got since it was last read, up to now.
    pub async fn events_so_far(&self, client: &mut Client, organization: &str) -> Vec<Frame> {
        let fence = self.fence(organization).await;
        client.until_fence(fence).await
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.server.kill();
        self.database.finished();
    }
}

/// Applies the migrations through the program itself.
pub async fn migrate(database: &Database) {
    let done = server::run(&["migrate"], &[("DATABASE_URL", &database.url)]).await;
    assert_eq!(done.code, Some(0), "rowcast migrate failed:\n{}", done.said);
}

/// A subscribe frame for a channel; `more` adds or replaces members.
pub fn subscribe(channel: &str, more: Value) -> Value {
    let mut frame = json!({ "type": "subscribe", "channel": channel });
    if let Value::Object(more) = more {
        for (name, value) in more {
            frame[name] = value;
        }
    }
    frame
}
