//! The listeners: our own accept loop, so that slow request heads, full tables and broken accepts are ours to
//! bound, and the end of it all in bounded time.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Router,
    routing::{any, get},
};
use hyper::{
    Request,
    body::Incoming,
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use prometheus_client::registry::Registry;
use rowcast_hub::Hub;
use rowcast_wire::CloseCode;
use rustix::io::Errno;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Application, DurableSender, GatewayConfig, GatewayError, GatewayMetrics, KeysUsed, PlanSource,
    Readiness, SocketLimits,
    access::AccessToken,
    admin::{self, Admin, Operator},
    admission::Admission,
    arrivals::Arrivals,
    auth::{Grants, Verifier},
    authorizing,
    broadcast::{self, Broadcasts},
    coming, http,
    limits::{Gates, MOST_COUNTED, Plans},
    openapi, sse, supabase_rest,
    takeover::Takeover,
    ws::{self, Shared},
};

/// Largest head of a request, in bytes.
pub const HEAD_BYTES: usize = 16 * 1024;
/// HTTP connections at a time on the internal port.
pub const INTERNAL_CONNECTIONS: usize = 64;
/// So often at most it is said that no connection can be accepted.
const SAY_AGAIN: Duration = Duration::from_secs(10);

/// A running gateway.
pub struct Gateway {
    /// Where clients connect.
    pub public: SocketAddr,
    /// Where metrics and readiness are.
    pub internal: SocketAddr,
    hub: Arc<Hub>,
    stopping: CancellationToken,
    sockets: TaskTracker,
    listeners: TaskTracker,
}

/// What the gateway has done by others.
#[derive(Default)]
pub struct Services {
    /// Further public routes.
    pub extra: Router,
    /// Writes broadcasts into the log.
    pub durable: Option<Arc<dyn DurableSender>>,
    /// Asks and does in the database what an operator wants.
    pub operator: Option<Arc<dyn Operator>>,
    /// Asks the application.
    pub application: Option<Arc<dyn Application>>,
    /// Knows what organizations may use.
    pub plans: Option<Arc<dyn PlanSource>>,
    /// Is told which API keys are used.
    pub keys_used: Arc<KeysUsed>,
}

/// Listens and serves until stopped.
///
/// # Errors
/// [`GatewayError`] when an address or a key cannot be used.
pub async fn serve(
    config: GatewayConfig,
    hub: Arc<Hub>,
    ready: watch::Receiver<Readiness>,
    metrics: GatewayMetrics,
    registry: Arc<Registry>,
    services: Services,
) -> Result<Gateway, GatewayError> {
    let stopping = CancellationToken::new();
    let (sockets, listeners) = (TaskTracker::new(), TaskTracker::new());
    let limits = config.limits.clone();
    let broadcasts = Arc::new(Broadcasts::new(
        &config.broadcast,
        hub.clone(),
        services.durable,
        metrics.clone(),
    ));
    let platform = config.limits.platform();
    let admin = Arc::new(Admin::new(
        hub.clone(),
        AccessToken::new(config.broadcast.access_token.as_ref()),
        services.operator,
        metrics.clone(),
    ));
    let shared = Arc::new(Shared {
        hub: hub.clone(),
        verifier: Verifier::new(&config.auth)?.noting(services.keys_used),
        plans: Arc::new(Plans::new(services.plans, platform, metrics.clone())),
        gates: Gates::new(MOST_COUNTED, Instant::now()),
        application: services.application.clone(),
        grants: Grants::new(&config.grants)?,
        limits: config.limits,
        origins: config.allowed_origins,
        admission: Arc::new(Admission::default()),
        metrics: metrics.clone(),
        ready: ready.clone(),
        stopping: stopping.clone(),
        sockets: sockets.clone(),
        incoming: Arc::new(ws::Incoming {
            limit: limits.incoming_bytes,
            used: metrics.incoming.clone(),
        }),
        turns: ws::Turns::default(),
        events: ws::Events::new(Arc::new(ws::Incoming {
            limit: limits.client_events_bytes,
            used: metrics.waiting_events.clone(),
        })),
    });
    if let Some(application) = shared.application.clone() {
        listeners.spawn(coming::run(shared.clone(), application));
    }
    let socket = Router::new()
        .route("/realtime/v1/websocket", get(ws::upgrade))
        .route("/socket/websocket", get(ws::upgrade_phoenix))
        .route("/realtime/v1/events", any(sse::events))
        .with_state(shared.clone());
    let public = Router::new()
        .route("/healthz", get(http::healthz))
        .merge(supabase_rest::routes(shared, broadcasts.clone()))
        .merge(broadcast::routes(broadcasts))
        .merge(admin::routes(admin))
        .merge(openapi::routes())
        .merge(socket)
        .merge(services.extra);
    listeners.spawn(authorizing::run(
        hub.clone(),
        services.application,
        stopping.clone(),
    ));
    let (public_listener, public_address) = listen(config.public)?;
    let (internal_listener, internal_address) = listen(config.internal)?;
    let arrivals = Arrivals::new(
        limits.connects_per_second,
        limits.connects_burst,
        config.proxies,
    );
    let ours = Arrivals::new(0, 0, Vec::new());
    let internal = http::internal(ready, registry);
    for (listener, router, arrivals, places) in [
        (public_listener, public, arrivals, limits.http_connections),
        (internal_listener, internal, ours, INTERNAL_CONNECTIONS),
    ] {
        let door = Door {
            listener,
            arrivals,
            places: Arc::new(Semaphore::new(places)),
            metrics: metrics.clone(),
        };
        listeners.spawn(accept(door, router, limits.clone(), stopping.clone()));
    }
    Ok(Gateway {
        public: public_address,
        internal: internal_address,
        hub,
        stopping,
        sockets,
        listeners,
    })
}

impl Gateway {
    /// Stops listening, tells every socket to come back, and waits for them until `most` is over.
    pub async fn stop(self, most: Duration) {
        self.stopping.cancel();
        self.listeners.close();
        self.sockets.close();
        self.hub.close_all(CloseCode::Restarting);
        let ended = async {
            self.sockets.wait().await;
            self.listeners.wait().await;
        };
        if tokio::time::timeout(most, ended).await.is_err() {
            tracing::warn!(open = self.sockets.len(), "not every socket left in time");
        }
    }
}

fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), GatewayError> {
    let failed = |why| GatewayError::Listen { address, why };
    let socket = match address {
        SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4(),
        SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6(),
    };
    let socket = socket.map_err(failed)?;
    socket.set_reuseaddr(true).map_err(failed)?;
    socket.bind(address).map_err(failed)?;
    // Ten thousand clients come back at once after a restart.
    let listener = socket.listen(4096).map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

/// Where connections come in.
struct Door {
    listener: TcpListener,
    arrivals: Arrivals,
    /// For connections that are no sockets.
    places: Arc<Semaphore>,
    metrics: GatewayMetrics,
}

async fn accept(mut door: Door, router: Router, limits: SocketLimits, stopping: CancellationToken) {
    let mut said: Option<Instant> = None;
    loop {
        let place = tokio::select! {
            place = door.places.clone().acquire_owned() => place,
            () = stopping.cancelled() => return,
        };
        let Ok(place) = place else { return };
        let accepted = tokio::select! {
            accepted = door.listener.accept() => accepted,
            () = stopping.cancelled() => return,
        };
        match accepted {
            Ok((_, from)) if !door.arrivals.admit(from.ip(), Instant::now()) => {
                door.metrics.handshake("too_many_from_address");
            }
            Ok((stream, _)) => {
                let (router, limits, stopping) = (router.clone(), limits.clone(), stopping.clone());
                let metrics = door.metrics.clone();
                tokio::spawn(async move {
                    metrics.http.inc();
                    if let Err(reason) = serve_connection(stream, router, &limits, stopping).await {
                        metrics.handshake(reason);
                    }
                    metrics.http.dec();
                    drop(place);
                });
            }
            Err(error) => {
                // Out of file descriptors or the like: others may still leave, so wait and go on.
                let (reason, mend) = match Errno::from_io_error(&error) {
                    Some(Errno::MFILE) => (
                        "file_limit",
                        "the process has as many files open as it may: raise `ulimit -n` (systemd: LimitNOFILE)",
                    ),
                    Some(Errno::NFILE) => {
                        ("system_file_limit", "the system has: raise fs.file-max")
                    }
                    _ => ("other", ""),
                };
                door.metrics.not_accepted(reason);
                if said.is_none_or(|at| at.elapsed() > SAY_AGAIN) {
                    said = Some(Instant::now());
                    tracing::warn!("cannot accept a connection: {error}; {mend}");
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve_connection(
    stream: TcpStream,
    router: Router,
    limits: &SocketLimits,
    stopping: CancellationToken,
) -> Result<(), &'static str> {
    let _ = stream.set_nodelay(true);
    let takeover = Takeover::default();
    let (takes, router) = (takeover.clone(), TowerToHyperService::new(router));
    let service = service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(takes.clone());
        router.call(request)
    });
    let mut connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    tokio::select! {
        result = &mut connection => {
            let Err(error) = result else { return Ok(()) };
            tracing::debug!(%error, "an HTTP connection ended early");
            match () {
                () if error.is_timeout() => Err("head_too_late"),
                () if error.is_parse_too_large() => Err("head_too_large"),
                () if error.is_parse() => Err("not_http"),
                () => Ok(()),
            }
        }
        heir = takeover.taken() => {
            if let Some(parts) = connection.into_parts() {
                heir(parts.io.into_inner());
            }
            Ok(())
        }
        () = stopping.cancelled() => {
            Pin::new(&mut connection).graceful_shutdown();
            let _ = tokio::time::timeout(Duration::from_secs(2), connection).await;
            Ok(())
        }
    }
}
