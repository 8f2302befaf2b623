//! Raft between control nodes, over QUIC. What the calls mean is `raft-store`'s business; here they only travel.
//!
//! - [`transport`]: the calling side, one cached connection per target.
//! - [`server`]: the answering side, and who may speak Raft to this node.
//!
//! `docs/decisions/0004-raft-over-quic.md` says why the streams are cut this way.

pub mod server;
pub mod transport;

mod group;
mod lane;
mod peer;
mod snapshot_io;

#[cfg(test)]
mod tests;

pub use server::{RaftHandler, RaftServer};
pub use transport::QuicTransport;
