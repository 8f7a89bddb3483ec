//! The application whose rows are written: its tables, who may see what of them, and how it reads them.

use std::collections::BTreeMap;

use tokio_postgres::{Client, Error, NoTls};

use crate::harness::json::{Row, canonical};

pub const ORGANIZATIONS: [&str; 3] = ["org_a", "org_b", "org_c"];

/// Who is a member where from the beginning; [`LEAVING`] comes and goes.
pub const MEMBERS: [(&str, &str); 7] = [
    ("u1", "org_a"),
    ("u1", "org_b"),
    ("u1", "org_c"),
    ("u2", "org_a"),
    ("u2", "org_b"),
    ("u3", "org_b"),
    ("u3", "org_c"),
];

/// The membership that ends and begins again.
pub const LEAVING: (&str, &str) = ("u3", "org_b");

/// The tables, tracked in all ways: by column and by path, paired over the table and over the log.
pub const SCHEMA: &str = "
CREATE TABLE items (id text PRIMARY KEY, organization_id text NOT NULL, title text, status text, n int NOT NULL DEFAULT 0, body text);
ALTER TABLE items REPLICA IDENTITY FULL;
ALTER TABLE items ALTER body SET STORAGE EXTERNAL;
CREATE TABLE notes (id text PRIMARY KEY, item_id text NOT NULL REFERENCES items ON DELETE CASCADE, words text, body text);
ALTER TABLE notes ALTER body SET STORAGE EXTERNAL;
CREATE TABLE alerts (id text PRIMARY KEY, organization_id text NOT NULL, user_id text NOT NULL, title text, n bigint NOT NULL DEFAULT 0);
CREATE TABLE ledger (id text PRIMARY KEY, organization_id text NOT NULL, pad text);
CREATE TABLE marks (id text PRIMARY KEY, organization_id text NOT NULL, n bigint NOT NULL);
CREATE TABLE untracked (id bigint GENERATED ALWAYS AS IDENTITY, pad text);
SELECT rowcast.track('items', organization_column => 'organization_id');
SELECT rowcast.track('notes', organization_path => 'item_id -> items.organization_id', storage => 'log');
SELECT rowcast.track('alerts', organization_column => 'organization_id', user_column => 'user_id');
SELECT rowcast.track('ledger', organization_column => 'organization_id', storage => 'log');
SELECT rowcast.track('marks', organization_column => 'organization_id');
INSERT INTO marks SELECT o, o, 0 FROM unnest(ARRAY['org_a', 'org_b', 'org_c']) o;
INSERT INTO alerts SELECT 'mark', 'org_a', 'u1', 'mark', 0;
";

/// What a subscriber sees of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// Everything of an organization that the user may see.
    All,
    /// Of `items` only those that are open.
    Open,
    /// Everything; events of one record in short order become one.
    Latest,
    /// What is meant for the user alone, in all of his organizations.
    Personal,
}

/// A subscriber: a user on one channel.
#[derive(Clone, Copy, Debug)]
pub struct Who {
    pub user: &'static str,
    pub organization: &'static str,
    pub view: View,
}

/// All subscribers of a run.
pub const WHO: [Who; 9] = [
    who("u1", "org_a", View::All),
    who("u2", "org_b", View::All),
    who("u1", "org_c", View::All),
    who("u3", "org_b", View::All),
    who("u2", "org_a", View::Open),
    who("u3", "org_c", View::Open),
    who("u1", "org_b", View::Latest),
    who("u1", "org_a", View::Personal),
    who("u1", "org_b", View::All),
];

const fn who(user: &'static str, organization: &'static str, view: View) -> Who {
    Who {
        user,
        organization,
        view,
    }
}

/// A table as clients know it.
pub struct Table {
    pub name: &'static str,
    /// What is compared: without `ledger.pad`, which is only there to be large, and without what comes and
    /// goes by ALTER TABLE.
    pub columns: &'static [&'static str],
}

pub const TABLES: [Table; 5] = [
    Table {
        name: "items",
        columns: &["id", "organization_id", "title", "status", "n", "body"],
    },
    Table {
        name: "notes",
        columns: &["id", "item_id", "words", "body"],
    },
    Table {
        name: "alerts",
        columns: &["id", "organization_id", "user_id", "title", "n"],
    },
    Table {
        name: "ledger",
        columns: &["id", "organization_id"],
    },
    Table {
        name: "marks",
        columns: &["id", "organization_id", "n"],
    },
];

/// Record id to row.
pub type Rows = BTreeMap<String, Row>;

impl Who {
    pub fn channel(&self) -> String {
        match self.view {
            View::Personal => format!("user:{}", self.user),
            _ => format!("org:{}", self.organization),
        }
    }

    pub fn tables(&self) -> impl Iterator<Item = &'static Table> {
        let personal = self.view == View::Personal;
        TABLES
            .iter()
            .filter(move |table| !personal || table.name == "alerts")
    }

    /// Whether a row that arrived belongs into the view.
    pub fn shows(&self, table: &str, row: &Row) -> bool {
        !(self.view == View::Open && table == "items")
            || row.get("status").is_some_and(|status| status == "\"open\"")
    }

    /// What the subscriber may see of a table at this moment: one record or all.
    pub async fn read(
        &self,
        sql: &Client,
        table: &Table,
        record: Option<&str>,
    ) -> Result<Rows, Error> {
        let mine = match (table.name, self.view) {
            ("notes", _) => {
                "EXISTS (SELECT FROM items i WHERE i.id = t.item_id AND i.organization_id = $1)"
            }
            // Every organization of this user; $1 is only named.
            ("alerts", View::Personal) => "t.user_id = $2 AND $1::text IS NOT NULL",
            ("alerts", _) => "t.organization_id = $1 AND t.user_id = $2",
            ("items", View::Open) => "t.organization_id = $1 AND t.status = 'open'",
            _ => "t.organization_id = $1",
        };
        let columns = table.columns.join(", ");
        let statement = format!(
            "SELECT t.id, row_to_json(s)::text FROM {} t, LATERAL (SELECT {}) s
             WHERE {mine} AND $2::text IS NOT NULL AND ($3::text IS NULL OR t.id = $3)",
            table.name,
            columns
                .split(", ")
                .map(|column| format!("t.{column}"))
                .collect::<Vec<_>>()
                .join(", "),
        );
        let found = sql
            .query(&statement, &[&self.organization, &self.user, &record])
            .await?;
        Ok(found
            .iter()
            .map(|row| (row.get(0), known(table, row.get(1))))
            .collect())
    }
}

/// The members of a JSON object that are compared.
pub fn known(table: &Table, text: &str) -> Row {
    let mut row = crate::harness::json::row(text);
    row.retain(|name, _| table.columns.contains(&name.as_str()));
    row
}

/// The text of a JSON string member of a row.
pub fn plain(row: &Row, column: &str) -> Option<String> {
    serde_json::from_str(row.get(column)?).ok()
}

/// Connects, straight to Postgres; it may be down.
pub async fn connect(url: &str) -> Result<Client, Error> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    client
        .batch_execute("SET timezone = 'UTC'; SET application_name = 'application'; SET statement_timeout = '20s'")
        .await?;
    Ok(client)
}

/// A connection that is made anew when it is gone.
pub struct Database {
    url: String,
    client: Option<Client>,
}

impl Database {
    pub fn new(url: &str) -> Database {
        Database {
            url: url.to_owned(),
            client: None,
        }
    }

    /// The open connection, or a new one.
    pub async fn client(&mut self) -> Result<&Client, Error> {
        if self.client.as_ref().is_none_or(Client::is_closed) {
            self.client = Some(connect(&self.url).await?);
        }
        Ok(self.client.as_ref().unwrap())
    }

    /// Runs statements; a failure is for the caller to judge.
    pub async fn exec(&mut self, sql: &str) -> Result<(), Error> {
        self.client().await?.batch_execute(sql).await
    }

    /// The first column of the first row, as text.
    pub async fn text(&mut self, sql: &str) -> Result<String, Error> {
        let answers = self.client().await?.simple_query(sql).await?;
        let found = answers.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => Some(row.get(0)?.to_owned()),
            _ => None,
        });
        Ok(found.unwrap_or_default())
    }
}

#[test]
fn only_open_items_are_shown_to_a_filter() {
    let row = |text| known(&TABLES[0], text);
    let open = row(r#"{"id":"i1","status":"open","spare":1}"#);
    assert!(!open.contains_key("spare"));
    let who = WHO[4];
    assert_eq!(who.view, View::Open);
    assert!(who.shows("items", &open));
    assert!(!who.shows("items", &row(r#"{"id":"i1","status":"done"}"#)));
    assert!(who.shows("notes", &row("{}")));
    assert_eq!(plain(&open, "id").as_deref(), Some("i1"));
    assert_eq!(canonical(" 1 "), "1");
}
