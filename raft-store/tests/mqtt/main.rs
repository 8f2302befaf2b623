//! What the tables keep of MQTT: exchanges, retained messages, wills, shared subscription groups.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking and prints its seed")]

#[path = "../world/mod.rs"]
mod world;

mod exchanges;
mod groups;
mod retained;
mod wills;
