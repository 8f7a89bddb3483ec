//! `rowcast serve`: builds the parts in order, connects them, and stops them in reverse.

use std::{
    net::{SocketAddr, ToSocketAddrs},
    sync::Arc,
};

use anyhow::Context;
use prometheus_client::registry::Registry;
use rowcast_gateway::{
    AuthConfig, BroadcastConfig, DurableSender, GatewayConfig, GatewayMetrics, KeysUsed,
    LevelRates, NotANetwork, Readiness, Services, SocketLimits,
};
use rowcast_hub::{Hub, HubLimits, PresenceLimits};
use rowcast_routing::Limits;
use rowcast_source::{ConnInfo, Source, SourceConfig, SourceMetrics, Window};
use secrecy::SecretString;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    application::{self, Asked},
    config::{Config, Purpose, Secret},
    db, demo,
    durable::{DurableBroadcasts, Seen},
    files, health, housekeeping, memory,
    memory::Places,
    metrics::PipelineMetrics,
    migrations,
    operator::DatabaseOperator,
    pipeline,
    plans::SqlPlans,
    presence,
    progress::Progress,
    recovery,
    watchdog::{Policy, Watchdog, WatchdogMetrics},
};

/// Largest single message of the log: a row may have 1 GiB in Postgres, but nobody wants it on a socket.
const MAX_LOG_MESSAGE: usize = 256 << 20;

/// Runs the service until it is told to stop; `listening` is called with the public address.
pub async fn run(config: Config, listening: impl FnOnce(SocketAddr)) -> anyhow::Result<()> {
    config.check(Purpose::Serve)?;
    let sql = db::sql(&config)?;
    let places = places(&config);
    let mut registry = Registry::with_prefix("rowcast");
    registry.register_collector(Box::new(memory::MemoryMetrics {
        ceiling: memory::ceiling(&config, places),
    }));
    let hub = Arc::new(Hub::new(hub_limits(&config), &mut registry));
    let pipeline_metrics = PipelineMetrics::new(&mut registry);
    let gateway_metrics = GatewayMetrics::register(&mut registry);
    let source = Source::new(
        source_config(&config, &sql)?,
        SourceMetrics::new(&mut registry),
    );
    let watchdog = Watchdog {
        sql: sql.clone(),
        slot: config.replication.slot.clone(),
        policy: Policy {
            limit: config.replication.wal_limit.map(|limit| limit.0),
            at_limit: config.replication.at_limit,
        },
        ack: source.ack_handle(),
        metrics: WatchdogMetrics::new(&mut registry),
    };

    let application = application::build(&config, &sql, &mut registry)?;

    if config.database.migrate {
        migrate(&config).await?;
    }
    if config.replication.manage_publication {
        housekeeping::sync_publication(&sql).await;
    }
    let page = match config.demo.page {
        true => demo::page::routes(demo::page::Page::prepare(&config).await?),
        false => axum::Router::new(),
    };
    let keys_used = Arc::new(KeysUsed::default());
    let progress = Progress::new();
    let seen = Arc::new(Seen::default());
    let stop = CancellationToken::new();
    let durable = Arc::new(DurableBroadcasts::new(sql.clone(), Arc::clone(&seen)));
    let (tell, ready) = watch::channel(Readiness::NotReady("starting".into()));
    let gateway = rowcast_gateway::serve(
        gateway_config(&config, places)?,
        Arc::clone(&hub),
        ready,
        gateway_metrics,
        Arc::new(registry),
        Services {
            extra: page,
            durable: Some(Arc::clone(&durable) as Arc<dyn DurableSender>),
            operator: Some(Arc::new(DatabaseOperator::new(sql.clone(), durable))),
            application: Some(Arc::new(Asked(application))),
            plans: Some(Arc::new(SqlPlans::new(sql.clone()))),
            keys_used: Arc::clone(&keys_used),
        },
    )
    .await?;
    tracing::info!(
        "listening public={} internal={}",
        gateway.public,
        gateway.internal
    );
    listening(gateway.public);

    let watching = tokio::spawn(health::watch(
        source.status(),
        Arc::clone(&progress),
        tell,
        Arc::clone(&hub),
    ));
    let keeping = tokio::spawn(housekeeping::run(
        sql.clone(),
        config.replication.maintenance_interval.0,
        keys_used,
        stop.clone(),
    ));
    let present = tokio::spawn(presence::run(Arc::clone(&hub), stop.clone()));
    let watched = tokio::spawn(watchdog.run(stop.clone()));
    let recovering = recovery::start(&config, &sql, &hub, source.status(), &stop);
    let threads = pipeline::start(pipeline::Parts {
        source,
        sql,
        limits: Limits {
            transaction_bytes: config.replication.transaction_bytes.as_usize(),
            batch_bytes: config.replication.batch_bytes.as_usize(),
        },
        queue_bytes: config.replication.queue_bytes.as_usize(),
        barrier: config.replication.visibility_barrier,
        hub,
        progress,
        seen,
        metrics: pipeline_metrics,
        stop: stop.clone(),
    })
    .context("a thread cannot be started")?;

    tokio::select! {
        why = told_to_stop() => tracing::info!("{why}: stopping"),
        () = stop.cancelled() => {}
    }
    watching.abort();
    gateway.stop(config.server.shutdown_timeout.0).await;
    stop.cancel();
    let _ = keeping.await;
    let _ = watched.await;
    let _ = present.await;
    for task in recovering {
        let _ = task.await;
    }
    for thread in threads {
        let ended = tokio::task::spawn_blocking(|| thread.join()).await?;
        match ended {
            Ok(ended) => ended?,
            Err(_) => anyhow::bail!("a thread of the pipeline failed; this is a fault of rowcast"),
        }
    }
    tracing::info!("stopped");
    Ok(())
}

/// Sockets that there is room for, and what the operator should know about it.
fn places(config: &Config) -> Places {
    let files = files::raise();
    let places = files::places(files, config.limits.connections);
    if places.sockets < config.limits.connections as usize {
        tracing::warn!(
            "limits.connections is {}, but the process may open only {} files: {} sockets at most; raise \
             `ulimit -n` (systemd: LimitNOFILE)",
            config.limits.connections,
            files.unwrap_or_default(),
            places.sockets
        );
    }
    let (ceiling, mib) = (memory::ceiling(config, places), 1 << 20);
    tracing::info!(
        "memory: at most {} MiB (`rowcast config --memory`)",
        ceiling / mib
    );
    if let Some(available) = memory::available().filter(|available| *available < ceiling) {
        tracing::warn!(
            "there are only {} MiB of memory: lower limits.connections and the budgets that \
             `rowcast config --memory` lists",
            available / mib
        );
    }
    places
}

async fn migrate(config: &Config) -> anyhow::Result<()> {
    let mut client = db::connect(config).await?;
    migrations::apply(&mut client, |migration, _| {
        tracing::info!(name = migration.name, "migration applied");
    })
    .await?;
    Ok(())
}

/// Resolves with what told us.
async fn told_to_stop() -> &'static str {
    use tokio::signal::unix::{SignalKind, signal};
    let interrupt = tokio::signal::ctrl_c();
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => tokio::select! {
            _ = interrupt => "interrupted",
            _ = terminate.recv() => "SIGTERM",
        },
        Err(_) => {
            let _ = interrupt.await;
            "interrupted"
        }
    }
}

fn hub_limits(config: &Config) -> HubLimits {
    HubLimits {
        outbox_bytes: config.limits.outbox_bytes.as_usize(),
        total_outbox_bytes: config.limits.outboxes_bytes.as_usize(),
        subscriptions: config.limits.subscriptions as usize,
        subscriptions_bytes: config.limits.subscription_bytes.as_usize(),
        total_subscriptions_bytes: config.limits.subscriptions_bytes.as_usize(),
        claims_bytes: config.application.claims_bytes.as_usize(),
        history_bytes: config.history.bytes.as_usize(),
        history_organization_bytes: config.history.organization_bytes.as_usize(),
        history_retention: config.history.retention.0,
        recovery_bytes: match recovery::is_on(config) {
            true => config.history.invalidations_bytes.as_usize(),
            false => 0,
        },
        presence: presence_limits(config),
        ..HubLimits::default()
    }
}

fn presence_limits(config: &Config) -> PresenceLimits {
    let presence = &config.presence;
    PresenceLimits {
        organizations: presence.organizations,
        users: presence.users,
        grace: presence.grace.0,
        expiry: presence.expiry.0,
        tick: presence.tick.0,
        longest_tick: presence.longest_tick.0,
        listed: listed(config) as usize,
        members: presence.members as usize,
        connections_per_user: presence.connections_per_user as usize,
        state_bytes: presence.state_bytes.as_usize(),
        bytes: presence.bytes.as_usize(),
        bytes_per_second: presence.rate.as_usize(),
    }
}

/// How many users of a channel are listed: no more than a socket can take in one list.
fn listed(config: &Config) -> u32 {
    /// What a connection takes in a list besides its state and its user.
    const ENTRY: u64 = 64;
    let presence = &config.presence;
    let state = presence.state_bytes.0.saturating_add(ENTRY);
    let user = state.saturating_mul(presence.connections_per_user.into());
    let most = config.limits.outbox_bytes.0 / user.max(1);
    presence.listed.min(u32::try_from(most).unwrap_or(u32::MAX))
}

fn source_config(config: &Config, sql: &ConnInfo) -> anyhow::Result<SourceConfig> {
    let replication = &config.replication;
    Ok(SourceConfig {
        replication: db::replication(config)?,
        sql: sql.clone(),
        slot: replication.slot.clone(),
        publication: replication.publication.clone(),
        status_interval: replication.status_interval.0,
        silence_limit: replication.silence_limit.0,
        max_message_bytes: MAX_LOG_MESSAGE,
        window: Window {
            retention: config.history.retention.0,
            bytes: config.history.wal_bytes.0,
        },
    })
}

fn gateway_config(config: &Config, places: Places) -> anyhow::Result<GatewayConfig> {
    let (auth, limits) = (&config.auth, &config.limits);
    let secret = |secret: &Secret| SecretString::from(secret.expose().to_owned());
    let present = match auth.insecure_development {
        true => Some(config.signing_secret()?),
        false => auth.jwt_secret.clone(),
    };
    Ok(GatewayConfig {
        public: address(config.listen_host(), config.server.port)?,
        internal: address(&config.server.internal_host, config.server.internal_port)?,
        allowed_origins: config.server.allowed_origins.clone(),
        proxies: (limits.proxies.iter())
            .map(|proxy| proxy.parse())
            .collect::<Result<_, NotANetwork>>()
            .context("limits.proxies")?,
        limits: SocketLimits {
            connections: places.sockets,
            http_connections: places.requests,
            connections_per_organization: limits.connections_per_organization as usize,
            unauthenticated: limits.unauthenticated as usize,
            connects_per_second: limits.connects_per_second,
            connects_burst: limits.connects_burst,
            auth_timeout: limits.auth_timeout.0,
            message_bytes: limits.message_bytes.as_usize(),
            incoming_bytes: limits.incoming_bytes.as_usize(),
            ping_interval: limits.ping_interval.0,
            silence: limits.silence.0,
            frames_per_second: limits.messages_per_second,
            frames_burst: limits.messages_burst,
            broadcasts_per_second: limits.broadcasts_per_second,
            broadcasts_burst: limits.broadcasts_burst,
            socket_rates: LevelRates {
                joins: limits.joins.0,
                bytes: limits.bytes.0,
                ..LevelRates::default()
            },
            user_rates: LevelRates {
                connects: limits.user_connects.0,
                joins: limits.user_joins.0,
                messages: limits.user_messages.0,
                bytes: limits.user_bytes.0,
                requests: limits.user_requests.0,
            },
            organization_rates: LevelRates {
                connects: limits.organization_connects.0,
                joins: limits.organization_joins.0,
                messages: limits.organization_messages.0,
                bytes: limits.organization_bytes.0,
                requests: None,
            },
            client_events: limits.client_events as usize,
            client_events_bytes: limits.client_events_bytes.as_usize(),
            goodbye_spread: config.server.goodbye_spread.0,
            ..SocketLimits::default()
        },
        auth: AuthConfig {
            secrets: [&present, &auth.jwt_secret_previous]
                .into_iter()
                .flatten()
                .map(secret)
                .collect(),
            public_keys: auth.jwt_public_key.iter().map(secret).collect(),
            jwks: auth.jwks_url.iter().cloned().collect(),
            issuer: auth.jwt_issuer.clone(),
            audiences: auth.jwt_audience.clone(),
            trust_claims: auth.trust_claims,
            leeway: auth.leeway.0,
        },
        broadcast: BroadcastConfig {
            access_token: auth.access_token.as_ref().map(secret),
            body_bytes: limits.broadcast_bytes.as_usize(),
            bodies_bytes: limits.broadcasts_bytes.as_usize(),
            idempotency_bytes: limits.idempotency_bytes.as_usize(),
            idempotency_time: limits.idempotency_time.0,
            ..BroadcastConfig::default()
        },
    })
}

fn address(host: &str, port: u16) -> anyhow::Result<SocketAddr> {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    (bare, port)
        .to_socket_addrs()
        .with_context(|| format!("`{host}` is not an address to listen on"))?
        .next()
        .with_context(|| format!("`{host}` has no address"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_reaches_the_gateway() {
        let mut config = Config::default();
        config.server.host = Some("[::1]".into());
        config.auth.jwt_secret = Some(Secret::from("a".repeat(32)));
        config.auth.jwt_secret_previous = Some(Secret::from("b".repeat(32)));
        config.limits.connections_per_organization = 7;
        let places = Places {
            sockets: 5,
            requests: 3,
        };
        let gateway = gateway_config(&config, places).unwrap();
        assert_eq!(gateway.public.to_string(), "[::1]:4000");
        assert_eq!(gateway.internal.to_string(), "127.0.0.1:4001");
        assert_eq!(gateway.auth.secrets.len(), 2);
        assert_eq!(gateway.limits.connections_per_organization, 7);
        assert_eq!(gateway.limits.connections, 5);
        assert_eq!(gateway.limits.http_connections, 3);
        assert!(address("no such host.invalid", 1).is_err());
    }
}
