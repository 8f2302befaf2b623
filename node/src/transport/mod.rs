//! The QUIC endpoint, certificates and framed streams.
