//! The log, the tables, apply and snapshots.

pub mod applied;
pub mod command;
pub mod effect;
pub mod tables;
pub mod transport;

pub use applied::{Applied, Refusal};
pub use command::{Command, CommandBatch, CommandBody};
pub use effect::Effect;
