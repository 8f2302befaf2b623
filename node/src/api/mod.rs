//! The gRPC API: what back-ends and operators call.
//!
//! ```text
//!  caller ──► listener (TLS) ──► route ──► services ──► Control (the group, on the leader)
//!                                  │
//!                                  └─ not the leader: the whole call, unread, to the node that is
//! ```
//! - [`server`], `start`: put it together.
//! - [`forward`]: answers here or passes on; what happens when the leader is lost meanwhile.
//! - [`auth`]: who calls, and what they may.
//! - `json`: the same over HTTP/JSON.
//! - [`backend`]: what the services need of the control group.
//! - [`status`]: our errors as gRPC codes, the only place.
//! - `pushes` (with `batches`, `explain`, `receipts`), `terminals`, `apps` (with `webhooks`), `cluster`: the services; `validate`: what requests must
//!   be, `audience`: what they may say about whom a push is for.

mod apps;
mod audience;
pub mod auth;
pub mod backend;
mod batches;
mod body;
mod bulk;
mod channels;
mod cluster;
mod explain;
pub mod forward;
mod json;
mod listener;
mod pushes;
mod receipts;
mod register;
mod release;
pub mod server;
mod start;
pub mod status;
mod terminals;
mod validate;
mod webhooks;

#[cfg(test)]
mod tests;

pub use auth::Gate;
pub use backend::Control;
pub use cluster::{admin_token, found};
pub use forward::{Remote, Target};
pub use start::{Mode, Server, found_alone};
