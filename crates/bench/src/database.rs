//! A private Postgres for a benchmark: started, migrated, dropped.

use anyhow::{Context, Result};
use rowcast_embedded::{Cluster, Options};
use tokio_postgres::{Client, NoTls};

/// One cluster with the `bench` database and Rowcast's migrations applied.
pub struct Database {
    /// The cluster; stops when dropped.
    pub cluster: Cluster,
}

impl Database {
    /// Starts a cluster with further settings and applies every migration.
    pub async fn start(settings: &[(&str, &str)]) -> Result<Database> {
        let mut all = vec![
            ("max_wal_senders".to_owned(), "10".to_owned()),
            ("max_replication_slots".to_owned(), "10".to_owned()),
            ("shared_buffers".to_owned(), "512MB".to_owned()),
        ];
        all.extend(
            settings
                .iter()
                .map(|(k, v)| ((*k).to_owned(), (*v).to_owned())),
        );
        let options = Options {
            settings: all,
            ..Options::default()
        };
        let cluster = Cluster::start(options).context("starting a private Postgres")?;
        let database = Database { cluster };
        let sql = database.client().await?;
        let mut files: Vec<_> = std::fs::read_dir("sql")
            .context("run from the top of the repository")?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.extension().is_some_and(|ext| ext == "sql"))
            .collect();
        files.sort();
        for file in files {
            let text = std::fs::read_to_string(&file)?;
            sql.batch_execute(&text)
                .await
                .with_context(|| file.display().to_string())?;
        }
        Ok(database)
    }

    /// The URL over the unix socket: a socket doubles what the walsender can send.
    pub fn url(&self) -> String {
        self.cluster.socket_url("postgres")
    }

    /// A new SQL connection.
    pub async fn client(&self) -> Result<Client> {
        connect(&self.url()).await
    }
}

/// Connects and drives the connection in the background.
pub async fn connect(url: &str) -> Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

/// A small table like those of an application.
pub async fn create_plain(sql: &Client, name: &str) -> Result<()> {
    sql.batch_execute(&format!(
        "create table {name} (
             id bigint generated always as identity primary key,
             organization_id text not null, title text not null, body text)"
    ))
    .await?;
    Ok(())
}
