//! Scripted conversations with the session machine. They read like the specification: what is sent, what comes back.

#![allow(clippy::unwrap_used, reason = "test code: a panic is a failed test")]

mod alias;
mod app_receipts;
mod auth;
mod connect;
mod deliver;
mod disconnect;
mod exactly_once;
mod publish;
mod qos2_in;
mod qos2_out;
mod random;
mod resume;
mod retained;
mod shared;
mod show;
mod subscribe;
mod support;
mod will;
