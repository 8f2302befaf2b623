//! MQTT: packets as our own types, and the session machine of one terminal.
