//! The control role: what a member does besides replicating.
//!
//! - `leader`: the decisions of the leader, without I/O: presence, binds, dispatch, settling.
//! - `actor`: the task that owns the leader while this node is one, and carries out what it decides.
//! - `link_server`: QUIC connections of edges, one set of streams each.
//! - `handle`, `backend`: what the API asks of the control group.
//!
//! Everybody applies, only the leader acts. Everything in here is rebuilt from the tables and from what edges
//! report, so losing it costs time and never a push (I7).

pub(crate) mod actor;
mod backend;
mod handle;
pub(crate) mod leader;
pub(crate) mod link_server;

pub use handle::{ControlHandle, EdgeInfo};
