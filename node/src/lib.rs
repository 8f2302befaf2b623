//! The parts of the `carillon` binary: I/O and wiring. Decisions live in `fabric-core`, storage in `raft-store`.
//!
//! - [`cli`]: the command line.
//! - [`config`]: the config file, its defaults and its checks.
//! - [`node`]: puts the parts of one node together.
//! - [`edge`]: MQTT listeners, shards and the link to the leader.
//! - [`control`]: what the leader does: links, presence, dispatch.
//! - [`raft`]: Raft's messages over QUIC.
//! - [`transport`]: the QUIC endpoint, certificates, framed streams.
//! - [`api`]: the gRPC services.
//! - [`auth`]: tokens: issuing and verifying.
//! - [`telemetry`]: logs, metrics, health.

pub mod api;
pub mod auth;
pub mod cli;
pub mod config;
pub mod control;
pub mod edge;
pub mod node;
pub mod raft;
pub mod telemetry;
pub mod transport;
