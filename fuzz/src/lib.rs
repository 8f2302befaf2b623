//! What the fuzz targets share.

#![allow(clippy::unwrap_used, reason = "a panic is a finding")]

/// The edge's codec, from its own sources: it needs nothing else of `node`, and linking RocksDB into every fuzz target
/// would cost minutes.
#[path = "../../node/src/edge/codec/mod.rs"]
#[allow(dead_code, reason = "the targets use a part of it")]
pub mod codec;

pub mod decode;
pub mod session;
