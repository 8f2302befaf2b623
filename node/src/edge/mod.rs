//! The push edge.

pub mod codec;
