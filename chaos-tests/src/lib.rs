//! Faults against real `carillon` processes, with an oracle that knows what every terminal must have.
//!
//! - [`cluster`]: nodes as processes: start, kill, pause, continue, wait until ready.
//! - [`api`]: the gRPC client that repeats a call of unknown outcome under its idempotency key.
//! - [`terminal`]: MQTT clients that write down everything they receive before they acknowledge it.
//! - [`evidence`]: what was promised and what was seen: plain data.
//! - [`checks`]: one invariant a file, pure functions from evidence to violations.
//! - [`faults`]: the seeded schedule; [`load`]: who keeps pushing; [`scenario`]: a whole run.
//! - [`failover`]: how long pushes wait after the leader is killed.
//!
//! This crate knows the product by its wire and its command line only, as a user does.

pub mod api;
pub mod checks;
pub mod cluster;
pub mod evidence;
pub mod failover;
pub mod faults;
pub mod load;
pub mod scenario;
pub mod terminal;
