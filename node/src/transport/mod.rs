//! How nodes reach each other: QUIC with mutual TLS, and framed streams on it.
//!
//! - [`certs`]: the cluster's certificate authority and the certificates it signs.
//! - [`identity`]: who a certificate says its holder is.
//! - [`quic`]: one [`Endpoint`] per node, server and client at once.
//! - [`tls`]: TLS over TCP towards clients, read again while the node runs.
//! - [`frames`]: typed frames on streams, batched.
//!
//! This module knows nothing of what the streams carry; `raft` and the link give them their meaning.

pub mod certs;
pub mod frames;
pub mod identity;
pub mod quic;
mod setup;
pub mod tls;

#[cfg(test)]
pub(crate) mod tests;

pub use certs::Certificates;
pub use frames::{FrameError, FrameReceiver, FrameSender};
pub use identity::{Identity, Roles};
pub use quic::{ConnectError, Connection, Endpoint};
pub use setup::provider;
