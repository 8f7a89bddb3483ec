//! `rowcast demo`: everything on this machine: a private Postgres, migrations, the service, the page.

use std::{
    fs,
    io::Read,
    net::TcpListener,
    path::{Path, PathBuf},
};

use anyhow::Context;
use rowcast_embedded::{Cluster, Options, reachable_for_server};

use crate::{
    cli::DemoArgs,
    config::{Config, Secret},
    db, migrations, service,
    term::{Colour, Paint, line},
};

/// The database of the demo.
const DATABASE: &str = "demo";

/// Runs until interrupted; everything it made is gone afterwards.
pub async fn run(mut config: Config, args: &DemoArgs) -> anyhow::Result<()> {
    let paint = Paint::detect();
    let dir = folder(&args.dir)?;
    line("starting a private PostgreSQL …");
    let options = Options {
        major: args.postgres,
        dir: Some(dir.join("postgres")),
        ..Options::default()
    };
    let cluster = tokio::task::spawn_blocking(move || Cluster::start(options)).await??;
    line(format!(
        "  PostgreSQL {} on 127.0.0.1:{}, in {}",
        cluster.binaries().version,
        cluster.port(),
        dir.display()
    ));
    config.database.url = Some(Secret::from(cluster.url("postgres")));
    db::connect(&config)
        .await?
        .batch_execute(&format!("CREATE DATABASE {DATABASE}"))
        .await
        .context("the database of the demo")?;
    config.database.url = Some(Secret::from(cluster.url(DATABASE)));
    let count = migrations::apply(&mut db::connect(&config).await?, |_, _| {}).await?;
    line(format!("  {count} migrations applied"));

    let host = args.host.clone();
    config.server.port = free_or_any(&host, args.port);
    config.server.host = Some(host);
    config.server.internal_port = 0;
    config.auth.jwt_secret = Some(random_secret()?);
    config.demo.page = true;
    let url = cluster.url(DATABASE);
    let psql = psql(cluster.binaries().program("psql"));
    let by_hand =
        format!("{psql} {url} -c \"UPDATE demo.tasks SET title = 'by hand' WHERE id = 1\"");
    config.demo.hint = Some(by_hand.clone());

    let outcome = Box::pin(service::run(config, |address| {
        line("");
        let page = format!("http://{address}/");
        line(format!("  Open    {}", paint.paint(Colour::Green, page)));
        line(format!("  or type {by_hand}"));
        line("  Ctrl-C ends it and removes everything.");
    }))
    .await;
    line("stopping …");
    tokio::task::spawn_blocking(move || drop(cluster)).await?;
    let _ = fs::remove_dir(&dir);
    outcome
}

/// The folder for the cluster: another one when the user of the server cannot get there.
fn folder(wanted: &Path) -> anyhow::Result<PathBuf> {
    let wanted = std::path::absolute(wanted)?;
    if reachable_for_server(&wanted) {
        return Ok(wanted);
    }
    let other = std::env::temp_dir().join(format!("rowcast-demo-{}", std::process::id()));
    line(format!(
        "  {} is closed to the user of the server; using {}",
        wanted.display(),
        other.display()
    ));
    Ok(other)
}

/// The wanted port, or any free one when somebody has it.
fn free_or_any(host: &str, port: u16) -> u16 {
    match TcpListener::bind((host, port)) {
        Ok(_) => port,
        Err(_) => {
            line(format!("  port {port} is taken; using another"));
            0
        }
    }
}

/// A key of this run.
fn random_secret() -> anyhow::Result<Secret> {
    let mut bytes = [0; 32];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(Secret::from(hex))
}

/// How to call psql here.
fn psql(of_server: Option<PathBuf>) -> String {
    let on_path = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .any(|dir| dir.join("psql").exists());
    match of_server {
        Some(path) if !on_path => path.display().to_string(),
        _ => "psql".to_owned(),
    }
}
