//! Checks of MQTT 3.1.1 and 5.0 against real `carillon` processes, written from the specification.
//!
//! - [`packet`]: what the server sends, read strictly: every packet of every test is checked on the way.
//! - [`build`]: what a test sends, byte by byte, so that it can be wrong in any way.
//! - [`client`]: a TCP connection with deadlines, and a trace that is printed when a test fails.
//! - [`websocket`]: the same over WebSocket frames.
//! - [`server`]: one `carillon dev` for all tests of a binary; [`nodes`]: a three-node cluster; [`programs`]: the
//!   clients of others.
//!
//! `docs/mqtt-conformance.md` says which test checks which statement.

pub mod build;
pub mod client;
pub mod nodes;
pub mod packet;
pub mod programs;
pub mod property;
pub mod server;
pub mod websocket;

use std::sync::atomic::{AtomicU32, Ordering};

/// The version a conversation is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// MQTT 3.1 (`MQIsdp`).
    V31,
    /// MQTT 3.1.1.
    V311,
    /// MQTT 5.0.
    V5,
}

/// MQTT 3.1.1.
pub const V311: Version = Version::V311;
/// MQTT 5.0.
pub const V5: Version = Version::V5;
/// For statements that both versions have.
pub const BOTH: [Version; 2] = [V311, V5];

impl Version {
    /// The protocol level of CONNECT.
    pub fn level(self) -> u8 {
        match self {
            Self::V31 => 3,
            Self::V311 => 4,
            Self::V5 => 5,
        }
    }
}

/// A name nobody else uses: of a client or a topic. Process id included, because nodes outlive test binaries.
pub fn unique(stem: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{stem}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
