//! A leader and MQTT clients for tests of the edge.

pub(crate) mod leader;
pub(crate) mod mqtt;
