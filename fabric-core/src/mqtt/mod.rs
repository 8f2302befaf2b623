//! MQTT: packets as our own types, and the session machine of one terminal.
//!
//! [`Session`] takes what the network, the leader and time did, and pushes [`Action`]s to a `Vec` of its caller. Bytes
//! are the caller's business: packets come decoded, deliveries leave as [`Delivery`], to be encoded once for many
//! terminals.

mod action;
mod aliases;
mod deliveries;
mod held;
mod in_flight;
mod inbound;
mod keep_alive;
pub mod packet;
mod permissions;
pub mod reason;
mod retained;
mod session;
pub mod size;

pub use action::{
    Action, Alias, Close, Credentials, Delivery, Grant, Incoming, Kept, MessageHandle, Moment, Queued, Relay,
    RequestNo, Shared,
};
pub use packet::{Malformed, Packet, ProtocolVersion};
pub use permissions::Permissions;
pub use reason::{AuthRefusal, CloseCause, Reason};
pub use session::{AUTH_METHOD, Changed, Matching, Session, SessionConfig, Shown};
