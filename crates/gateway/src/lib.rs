//! Everything a client can reach over the network: HTTP, WebSocket, authentication.
//!
//! Owns the listeners, the handshake, who somebody is, and one task for each socket. Promises: every socket
//! is bounded in time before it has said who it is, in bytes and in patience after; tokens are neither logged
//! nor taken from addresses; keys, algorithms and addresses of key sets come from the configuration alone;
//! one socket's misbehaviour costs no other anything. Knows channels and frames, never rows.

mod access;
pub mod admin;
mod admission;
pub mod application;
mod arrivals;
mod auth;
mod authorizing;
pub mod broadcast;
mod coming;
mod config;
mod error;
mod http;
mod limits;
mod metrics;
mod network;
mod openapi;
mod phoenix;
mod server;
pub mod session;
mod sse;
mod supabase_rest;
mod takeover;
mod ws;

pub use application::Application;
pub use auth::{KeysUsed, MOST_USED_KEYS, Refused, Verified, Verifier};
pub use broadcast::{DurableError, DurableSender};
pub use coming::WAITING as WAITING_TURNINGS;
pub use config::{AuthConfig, BroadcastConfig, GatewayConfig, GrantConfig, SocketLimits};
pub use error::GatewayError;
pub use http::Readiness;
pub use limits::{GATE_BYTES, LevelRates, MOST_COUNTED, MOST_PLANS, PlanError, PlanSource};
pub use metrics::GatewayMetrics;
pub use network::{Network, NotANetwork};
pub use openapi::openapi;
pub use server::{Gateway, HEAD_BYTES, INTERNAL_CONNECTIONS, Services, serve};
pub use supabase_rest::SENDER_BYTES;
pub use ws::event::{COUNTED_BYTES, COUNTED_USERS};
