//! The log, the tables, apply and snapshots: what is replicated, and how it survives.
//!
//! [`ControlGroup`] is the way in. Promises:
//! - [`ControlGroup::propose`] answers after the log entry is fsynced on a majority and applied here (I1).
//! - The log is the only thing fsynced per entry. The tables have no write-ahead log: they are flushed with their
//!   applied position, and the log is never purged past a flushed position.
//! - Apply is a function of the log alone, so replicas at the same position have the same digest (I8).
//!
//! openraft and RocksDB appear in this crate and nowhere else; sockets do not appear in it: see
//! [`transport::Transport`].

pub mod applied;
pub mod command;
pub mod effect;
pub mod group;
pub mod leadership;
pub mod membership;
pub mod open;
pub mod proposer;
pub mod reads;
pub mod receipts;
pub mod tables;
pub mod telemetry;
pub mod transport;

mod disk;
mod housekeeping;
mod log_db;
mod log_record;
mod log_size;
mod log_store;
mod log_tail;
mod log_writer;
mod network;
mod raft_log;
mod snapshot;
mod snapshot_stream;
mod state_machine;
mod type_config;

#[cfg(test)]
mod conformance_tests;

pub use applied::{Applied, Refusal};
pub use command::{Command, CommandBatch, CommandBody};
pub use effect::Effect;
pub use group::{ControlGroup, Options};
pub use leadership::{Leadership, Positions};
pub use membership::{Member, MembershipError};
pub use open::OpenError;
pub use proposer::ProposeError;
pub use reads::ReadError;
pub use tables::Tables;
