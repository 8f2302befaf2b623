//! Carillon as a library: what the `carillon` binary is made of. I/O and wiring only; decisions are in
//! `fabric-core`, storage is in `raft-store`.

pub mod api;
pub mod auth;
pub mod cli;
pub mod config;
pub mod control;
pub mod edge;
pub mod node;
pub mod raft;
mod receipts;
pub mod telemetry;
pub mod transport;
pub mod webhook;
