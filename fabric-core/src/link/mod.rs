//! The machines at both ends of the link (see `cluster_proto::link` for the conversation).
//!
//! The edge's side:
//! - [`edge`]: finding the leader, greeting, resuming, heartbeats.
//! - [`lane`], [`outbox`], [`requests`]: what is kept until it is answered.
//! - [`lease`]: how long the edge may act without hearing from the leader.
//! - [`backoff`]: delays between attempts.

pub mod backoff;
pub mod edge;
pub mod lane;
pub mod lease;
pub mod outbox;
pub mod requests;

pub use edge::{EdgeLink, EdgeLinkOptions, EdgeOutput, EdgeState, SessionAnswer};
