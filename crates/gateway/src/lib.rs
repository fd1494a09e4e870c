//! The only HTTP server: OpenAI's wire types, the request flow, metrics and the dashboard.
//!
//! A request passes, from the outside in: [`server`](Gateway) (connections), `routes` (paths),
//! `origin` and `auth` (who may), `door` (bytes become a validated request), [`flow`] (policy and backends), and back
//! out through `wire` (OpenAI's JSON) whole or by `sse` in pieces. Only `flow` knows backends, and it
//! knows no HTTP, so `tandem chat` uses it directly.

mod auth;
mod board;
mod connection;
pub mod door;
mod drift;
pub mod flow;
pub mod memory;
mod metrics;
mod origin;
mod routes;
mod server;
mod settings;
mod sse;
mod wire;

pub use drift::Watched;
pub use flow::{Flow, FlowHeads, FlowLimits, FlowParts};
pub use metrics::{KvBlocks, KvProbe, MemoryProbe, Metrics};
pub use server::{Gateway, GatewayError};
pub use settings::{ApiKey, GatewaySettings, SettingsError};
