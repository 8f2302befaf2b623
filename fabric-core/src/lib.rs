//! Decisions without I/O.
//!
//! - [`mqtt`]: MQTT packets as our own types, and the session machine of one terminal.
//! - [`audience`]: the text form of audiences.
//! - [`subscriptions`]: topics, filters, and the tree that finds the filters matching a topic.
//! - [`link`]: the machines at both ends of the link between an edge and the leader.
//! - [`sys`]: what `$SYS` topics show.
//! - [`token_bucket`]: rate limits.
//!
//! This crate knows nothing of sockets, clocks, randomness, threads, async, openraft or RocksDB.
//!
//! # The contract of a core
//! 1. Inputs are `handle_*(now, …)` for what the network or time did, and plain verbs for what we ask of it.
//! 2. Outputs are pushed to a sink or `Vec` that the caller owns and drains after every input; all queues are bounded.
//! 3. Time and randomness are arguments. Milliseconds are those of whatever clock the caller uses throughout.
//! 4. Mistakes of a peer are values (a close with a reason); our own are `debug_assert!`.
//! 5. Nothing is emitted after closed. The same inputs give the same outputs.

#![warn(clippy::iter_over_hash_type)]

pub mod audience;
pub mod link;
pub mod mqtt;
pub mod subscriptions;
pub mod sys;
pub mod token_bucket;
