//! What the gateway is told: addresses, limits, and how tokens are checked.

use std::{net::SocketAddr, time::Duration};

use rowcast_model::Rate;
use secrecy::SecretString;

use crate::{LevelRates, Network, limits::Quota};

/// The whole of it.
#[derive(Clone, Debug)]
pub struct GatewayConfig {
    /// Where clients connect.
    pub public: SocketAddr,
    /// Where metrics and readiness are.
    pub internal: SocketAddr,
    /// Origins of pages that may connect; empty: all.
    pub allowed_origins: Vec<String>,
    /// Addresses of proxies, whose connections are not counted by address.
    pub proxies: Vec<Network>,
    /// Limits of sockets.
    pub limits: SocketLimits,
    /// How tokens are checked.
    pub auth: AuthConfig,
    /// What applications may send over HTTP.
    pub broadcast: BroadcastConfig,
}

/// What `POST /broadcast` may use.
#[derive(Clone, Debug)]
pub struct BroadcastConfig {
    /// The token that senders hold; `None`: the route is off.
    pub access_token: Option<SecretString>,
    /// Largest body, in bytes.
    pub body_bytes: usize,
    /// Bytes of all bodies that are read or said at a time.
    pub bodies_bytes: usize,
    /// Bytes of answers that are kept for requests that come again.
    pub idempotency_bytes: usize,
    /// How long they are kept.
    pub idempotency_time: Duration,
    /// Most time for a body to come, and to wait for room to read it into.
    pub patience: Duration,
}

impl Default for BroadcastConfig {
    fn default() -> Self {
        BroadcastConfig {
            access_token: None,
            body_bytes: 1 << 20,
            bodies_bytes: 16 << 20,
            idempotency_bytes: 8 << 20,
            idempotency_time: Duration::from_secs(3600),
            patience: Duration::from_secs(10),
        }
    }
}

/// What sockets may use and how long they may be silent.
#[derive(Clone, Debug)]
pub struct SocketLimits {
    /// Open sockets in all.
    pub connections: usize,
    /// Open sockets of one organization, when its plan says nothing.
    pub connections_per_organization: usize,
    /// Connections a second from one address in the long run; 0: no limit.
    pub connects_per_second: u32,
    /// Connections from one address at once.
    pub connects_burst: u32,
    /// HTTP connections at a time on the public port, besides sockets.
    pub http_connections: usize,
    /// What messages of all clients may take, in bytes, that are not whole yet.
    pub incoming_bytes: usize,
    /// Sockets that have not said who they are.
    pub unauthenticated: usize,
    /// Time to say so.
    pub auth_timeout: Duration,
    /// Time to send the request head.
    pub header_timeout: Duration,
    /// Largest message of a client in bytes.
    pub message_bytes: usize,
    /// A silent socket is asked after this.
    pub ping_interval: Duration,
    /// A socket that said nothing for so long is closed.
    pub silence: Duration,
    /// Frames a second a client may send in the long run.
    pub frames_per_second: u32,
    /// Frames it may send at once.
    pub frames_burst: u32,
    /// Broadcasts a second a client may send in the long run.
    pub broadcasts_per_second: u32,
    /// Broadcasts it may send at once.
    pub broadcasts_burst: u32,
    /// Subscriptions and bytes of one socket; its messages are above.
    pub socket_rates: LevelRates,
    /// What one user may with all sockets together, when the plan says nothing.
    pub user_rates: LevelRates,
    /// What one organization may with all sockets together, when its plan says nothing.
    pub organization_rates: LevelRates,
    /// Client events of one socket that have no answer yet.
    pub client_events: usize,
    /// What client events of all sockets may take, in bytes, that have no answer yet.
    pub client_events_bytes: usize,
    /// Refused frames after which the socket is closed.
    pub bad_frames: u32,
    /// A socket is told its position so often.
    pub position_interval: Duration,
    /// When the service stops, sockets are told to come back at different times within this.
    pub goodbye_spread: Duration,
}

impl Default for SocketLimits {
    fn default() -> Self {
        SocketLimits {
            connections: 100_000,
            connections_per_organization: 5_000,
            http_connections: 2_000,
            incoming_bytes: 64 << 20,
            unauthenticated: 1_000,
            connects_per_second: 500,
            connects_burst: 10_000,
            auth_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(5),
            message_bytes: 64 * 1024,
            ping_interval: Duration::from_secs(25),
            silence: Duration::from_secs(60),
            frames_per_second: 50,
            frames_burst: 200,
            broadcasts_per_second: 20,
            broadcasts_burst: 60,
            socket_rates: LevelRates {
                joins: Rate::per_second(20, 200),
                bytes: Rate::per_second(1 << 20, 4 << 20),
                ..LevelRates::default()
            },
            user_rates: LevelRates::default(),
            organization_rates: LevelRates::default(),
            client_events: 32,
            client_events_bytes: 32 << 20,
            bad_frames: 20,
            position_interval: Duration::from_secs(8),
            goodbye_spread: Duration::from_secs(10),
        }
    }
}

impl SocketLimits {
    /// What an organization may use whose plan says nothing.
    pub(crate) fn platform(&self) -> Quota {
        Quota {
            connections: self.connections_per_organization,
            connection: LevelRates {
                messages: Some(Rate::at_most(self.frames_per_second, self.frames_burst)),
                ..self.socket_rates
            },
            user: self.user_rates,
            organization: self.organization_rates,
        }
    }
}

/// How tokens are checked.
#[derive(Clone, Debug, Default)]
pub struct AuthConfig {
    /// Secrets for HS256, HS384 and HS512: the present one and those before.
    pub secrets: Vec<SecretString>,
    /// Public keys (PEM) for RS, PS, ES and EdDSA.
    pub public_keys: Vec<SecretString>,
    /// Where key sets are. Addresses come from here and nowhere else.
    pub jwks: Vec<String>,
    /// The `iss` that tokens must have.
    pub issuer: Option<String>,
    /// The `aud` values of which tokens must have one; empty: a token may have none.
    pub audiences: Vec<String>,
    /// Organizations and roles in the claims `organizations` and `org_roles` count.
    pub trust_claims: bool,
    /// Difference of clocks that is forgiven.
    pub leeway: Duration,
}
