//! The machines at both ends of the link (see `cluster_proto::link` for the conversation).
//!
//! The leader's memory:
//! - [`presence`]: which terminal is on which edge.
//! - [`handed`]: what is in flight.
//! - [`edge_filters`]: which edges have subscribers for a topic.

pub mod edge_filters;
pub mod handed;
pub mod presence;

pub use edge_filters::EdgeFilters;
pub use handed::Handed;
pub use presence::{Binding, Presence, Who};
