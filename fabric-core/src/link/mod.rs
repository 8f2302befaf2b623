//! The machines at both ends of the link (see `cluster_proto::link` for the conversation).
//!
//! The edge's side:
//! - [`edge`]: finding the leader, greeting, resuming, heartbeats.
//! - [`lane`], [`outbox`], [`requests`]: what is kept until it is answered.
//! - [`lease`]: how long the edge may act without hearing from the leader.
//! - `leader_clock`: what the leader's clock says, for expiries.
//! - [`backoff`]: delays between attempts.
//!
//! The leader's memory:
//! - [`presence`]: which terminal is on which edge.
//! - [`handed`]: what is in flight.
//! - [`edge_filters`]: which edges have subscribers for a topic.
//! - [`shared`]: which member of a shared subscription group is to get which push.

pub mod backoff;
pub mod edge;
pub mod edge_filters;
pub mod handed;
pub mod lane;
mod leader_clock;
pub mod lease;
pub mod outbox;
pub mod presence;
pub mod requests;
pub mod shared;

pub use edge::{EdgeLink, EdgeLinkOptions, EdgeOutput, EdgeState, SessionAnswer};
pub use edge_filters::EdgeFilters;
pub use handed::Handed;
pub use presence::{Binding, Presence, Who};
pub use shared::SharedGroups;
