//! What operators look at: logs, metrics, health.

pub mod health;
pub mod http;
pub mod logging;
pub mod metrics;

pub use health::{Condition, Health};
