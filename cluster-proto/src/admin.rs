//! The gRPC API, generated from `proto/carillon.proto`.

#![allow(missing_docs, clippy::all, unreachable_pub, unused_qualifications, missing_debug_implementations)]

tonic::include_proto!("carillon.v1");

/// The encoded descriptors, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/carillon.bin"));
