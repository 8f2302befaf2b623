//! MQTT bytes to packets and back: `rumqttd::protocol` behind a guard.
//!
//! The guard (`guard`) looks at a packet first and refuses what the specification forbids and `rumqttd` does not
//! check, and what would make it panic (its v5 reader reaches `unreachable!()` on packets that only servers send). What
//! `rumqttd` cannot say is ours: MQTT 3.1's protocol name, AUTH, every reason code, the credentials of CONNECT as they
//! were sent, and all that is written: PUBLISH ([`PublishTemplate`]) is encoded once for many terminals.

mod cursor;
mod decode;
mod encode;
mod guard;
mod properties;
mod template;

pub use decode::decode;
pub use encode::encode;
pub use template::{Outgoing, Own, PublishTemplate, write_delivery};

/// Largest CONNECT, whatever the limit for other packets: it comes from somebody not known yet. Client id, credential and
/// properties fit several times over.
pub const CONNECT_LEN_MAX: usize = 128 * 1024;
