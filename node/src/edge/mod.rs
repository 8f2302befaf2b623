//! The push edge: MQTT towards terminals, the link towards the leader.

pub mod codec;
