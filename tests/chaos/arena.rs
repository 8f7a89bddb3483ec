//! What a run takes place in: a Postgres, the service (sometimes two), the lines between them, and the
//! balancer that leads clients to the service that is ready.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
    time::{Duration, Instant},
};

use rowcast_embedded::Cluster;
use tokio::{sync::RwLock, task::JoinHandle};

use super::{
    app::{Database, MEMBERS, SCHEMA},
    proxy::{Proxy, Target},
    subscriber::Handle,
    tally::Tally,
};
use crate::harness::{
    postgres::{self, Database as Fresh},
    server::{Server, get},
    world::migrate,
};

/// More than any recovery may take.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// So much log may the slot keep, in bytes (`replication.wal_limit`): then it is dropped.
pub const BUDGET: usize = 64 << 20;

/// What the Postgres of a run is set to.
pub const SETTINGS: [(&str, &str); 3] = [
    ("wal_sender_timeout", "4s"),
    ("max_connections", "60"),
    ("checkpoint_timeout", "30s"),
];

/// A service and its own line to Postgres.
pub struct Service {
    pub server: Server,
    pub line: Arc<Proxy>,
}

pub struct Arena {
    pub cluster: tokio::sync::Mutex<Cluster>,
    /// Its address is that of `front`.
    pub database: Fresh,
    /// Leads to the Postgres of the moment.
    pub front: (Target, Proxy),
    pub tally: Arc<Tally>,
    /// The service that is ready, or about to be.
    pub service: tokio::sync::Mutex<Service>,
    /// The line of the service of the moment.
    pub line: Mutex<Arc<Proxy>>,
    /// Public addresses by internal ones, of all services that run.
    addresses: Arc<Mutex<Vec<(SocketAddr, SocketAddr)>>>,
    /// Where clients are led.
    pub target: Target,
    balancer: JoinHandle<()>,
    /// Writers hold it for reading.
    pub turn: Arc<RwLock<()>>,
    pub subscribers: Mutex<Vec<Handle>>,
    marks: AtomicI64,
}

impl Arena {
    pub async fn new() -> Arena {
        let cluster = postgres::own_cluster(&SETTINGS);
        let mut database = Fresh::fresh_in(&cluster).await;
        let target = Target::at(([127, 0, 0, 1], cluster.port()).into());
        let front = (target.clone(), Proxy::to(target).await);
        let straight = format!("127.0.0.1:{}/", cluster.port());
        let fronted = format!("{}/", front.1.address);
        database.url = database.url.replace(&straight, &fronted);
        migrate(&database).await;
        let sql = database.connect().await;
        sql.exec(SCHEMA).await;
        for (user, organization) in MEMBERS {
            sql.execute(
                "INSERT INTO rowcast.memberships (user_id, organization_id) VALUES ($1, $2)",
                &[&user, &organization],
            )
            .await
            .unwrap();
        }
        let tally = Arc::new(Tally::default());
        let addresses = Arc::default();
        let target = Target::default();
        let service = launch(&database, &tally, &addresses, &[]).await;
        let balancer = tokio::spawn(balance(addresses.clone(), target.clone()));
        Arena {
            cluster: tokio::sync::Mutex::new(cluster),
            database,
            front,
            tally,
            line: Mutex::new(service.line.clone()),
            service: tokio::sync::Mutex::new(service),
            addresses,
            target,
            balancer,
            turn: Arc::default(),
            subscribers: Mutex::default(),
            marks: AtomicI64::new(0),
        }
    }

    /// A connection of the application, past all lines.
    pub fn sql(&self) -> Database {
        Database::new(&self.database.url)
    }

    /// Starts one more service and waits until it listens.
    pub async fn launch(&self) -> Service {
        self.launch_with(&[]).await
    }

    /// The same, with more environment.
    pub async fn launch_with(&self, more: &[(&str, &str)]) -> Service {
        launch(&self.database, &self.tally, &self.addresses, more).await
    }

    /// The service of the moment is another one from here on.
    pub fn now_served_by(&self, service: &Service) {
        *self.line.lock().unwrap() = service.line.clone();
    }

    /// Clients are not led there any more.
    pub fn forget(&self, service: &Service) {
        forget(&self.addresses, &service.server);
    }

    /// Runs SQL until it succeeds; Postgres may be down or busy.
    pub async fn insist(&self, sql: &str) -> Result<(), String> {
        let mut database = self.sql();
        let begin = Instant::now();
        loop {
            match database.exec(sql).await {
                Ok(()) => return Ok(()),
                Err(error) if begin.elapsed() > PATIENCE => {
                    return Err(format!("{error:?} in {sql}"));
                }
                Err(_) => {
                    // A connection that is gone is made anew.
                    let _ = database.exec("ROLLBACK").await;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    /// Writes a new mark into every channel and waits until it is in every copy; says who has it not.
    pub async fn until_marked(&self) -> Result<Duration, String> {
        let mark = self.marks.fetch_add(1, Ordering::Relaxed) + 1;
        let begin = Instant::now();
        self.insist(&format!(
            "UPDATE marks SET n = greatest(n, {mark}); UPDATE alerts SET n = greatest(n, {mark}) WHERE id = 'mark'"
        ))
        .await?;
        let waiting: Vec<_> = {
            let subscribers = self.subscribers.lock().unwrap();
            let each = |s: &Handle| (s.name.clone(), s.mark.clone());
            subscribers.iter().map(each).collect()
        };
        let deadline = tokio::time::Instant::now() + PATIENCE;
        let mut behind = String::new();
        for (name, mut seen) in waiting {
            let there = tokio::time::timeout_at(deadline, seen.wait_for(|n| *n >= mark)).await;
            let late = there.is_err();
            drop(there);
            if late {
                behind += &format!("\n  {name} is at mark {} of {mark}", *seen.borrow());
            }
        }
        match behind.is_empty() {
            true => Ok(begin.elapsed()),
            false => Err(behind),
        }
    }

    /// What helps to find out why somebody is behind.
    pub async fn explain(&self) -> String {
        let mut sql = self.sql();
        let slots = sql
            .text("SELECT json_agg(s)::text FROM pg_replication_slots s")
            .await
            .unwrap_or_else(|error| error.to_string());
        let service = self.service.lock().await;
        let ready = service.server.get("/readyz").await;
        let log = tail(&service.server.log());
        let cluster = self.cluster.lock().await;
        let postgres = std::fs::read(cluster.log_file()).unwrap_or_default();
        let postgres = tail(&String::from_utf8_lossy(&postgres));
        format!("slots {slots}\nready {ready:?}\n{log}\nPostgres:\n{postgres}")
    }
}

/// The last lines of a log.
fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

impl Drop for Arena {
    fn drop(&mut self) {
        self.balancer.abort();
    }
}

type Addresses = Arc<Mutex<Vec<(SocketAddr, SocketAddr)>>>;

fn forget(addresses: &Addresses, server: &Server) {
    addresses
        .lock()
        .unwrap()
        .retain(|(_, internal)| *internal != server.internal);
}

/// Starts a service as a supervisor would: again, when it ends before it listens.
async fn launch(
    database: &Fresh,
    tally: &Tally,
    addresses: &Addresses,
    more: &[(&str, &str)],
) -> Service {
    let straight: SocketAddr = database
        .url
        .split_once('@')
        .and_then(|(_, rest)| rest.split('/').next()?.parse().ok())
        .unwrap();
    let line = Arc::new(Proxy::to(Target::at(straight)).await);
    let url = database
        .url
        .replace(&straight.to_string(), &line.address.to_string());
    let budget = BUDGET.to_string();
    let mut env = vec![
        ("DATABASE_URL", url.as_str()),
        ("ROWCAST_WAL_LIMIT", &budget),
        ("ROWCAST_AT_LIMIT", "drop"),
        ("ROWCAST__REPLICATION__SILENCE_LIMIT", "3 s"),
        ("ROWCAST__REPLICATION__MAINTENANCE_INTERVAL", "5 s"),
        ("ROWCAST__LIMITS__OUTBOX_BYTES", "512 KiB"),
        // Short, so that cursors get too old while somebody looks.
        ("ROWCAST__HISTORY__RETENTION", "20 s"),
        ("ROWCAST__HISTORY__INVALIDATIONS_INTERVAL", "1 s"),
        ("ROWCAST__SERVER__GOODBYE_SPREAD", "300 ms"),
        ("LOG_LEVEL", "info"),
    ];
    env.extend_from_slice(more);
    let begin = Instant::now();
    loop {
        let mut server = Server::launch_any(database, &env);
        while server.ended().is_none() {
            if server.found_addresses() {
                addresses
                    .lock()
                    .unwrap()
                    .push((server.public, server.internal));
                return Service { server, line };
            }
            assert!(begin.elapsed() < PATIENCE, "no start:\n{}", server.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        tally.count("service ended at its start");
        assert!(begin.elapsed() < PATIENCE, "no start:\n{}", server.log());
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// Leads clients to a service whose `/readyz` says 200, as a load balancer does.
async fn balance(addresses: Addresses, target: Target) {
    loop {
        let all = addresses.lock().unwrap().clone();
        let mut ready = None;
        for (public, internal) in all {
            let answer = get(internal, "/readyz");
            let answer = tokio::time::timeout(Duration::from_millis(500), answer).await;
            if matches!(answer, Ok(Some((200, _)))) {
                ready = Some(public);
            }
        }
        target.set(ready);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
