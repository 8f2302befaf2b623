//! Everything that crosses a process boundary, and nothing else.
//!
//! - [`ids`]: the newtypes every other crate speaks in.
//! - [`limits`]: every maximum, in one place.
//! - [`message`]: what a push carries to a terminal.
//! - [`audience`]: whom it is for.
//! - [`set`]: sets of terminals, as they travel and as they are stored.
//! - [`status`]: the states of one (push, terminal) and their reasons.
//! - [`credential`]: the claims inside terminal and API tokens.
//! - [`link`]: the conversation between a push edge and the leader.
//! - [`raft_rpc`]: the envelope of Raft's own messages; their bodies are opaque here.
//! - [`codec`]: frames to bytes and back, bounded.
//! - [`admin`] (feature `grpc`): the generated gRPC API.
//!
//! This crate knows nothing of openraft, RocksDB, sockets or clocks.
//!
//! # Compatibility
//! Frames and stored commands are postcard: variants are only ever added at the end of an enum, and a change of
//! a struct is a new variant. The ALPN protocol names in [`link`] and [`raft_rpc`] carry the version.

pub mod audience;
pub mod codec;
pub mod credential;
pub mod ids;
pub mod limits;
pub mod link;
pub mod message;
pub mod raft_rpc;
pub mod set;
pub mod status;

#[cfg(feature = "grpc")]
pub mod admin;

pub use audience::{Audience, Sample};
pub use ids::{AppId, Epoch, Incarnation, NodeId, PushId, SessionId, TerminalId, TerminalNo};
pub use message::{Message, MessageProperties, PushKind, Qos, Will};
pub use set::TerminalSet;
pub use status::{AppReceipt, DropReason, Outcome, State};
