//! The carillon node: sockets, QUIC, gRPC, HTTP and the command line. I/O and wiring only.

pub mod raft;
pub mod transport;
