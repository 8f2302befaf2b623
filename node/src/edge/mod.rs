//! MQTT listeners, shards and the link to the leader.
