//! Raft messages over QUIC.
