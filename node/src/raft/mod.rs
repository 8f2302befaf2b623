//! Raft between control nodes, over QUIC.
