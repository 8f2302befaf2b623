//! What `raft-store` needs of the network: calls with opaque bodies between control nodes. `node` provides it over
//! QUIC; openraft stays in here.

use std::{fmt, future::Future, pin::Pin, time::Duration};

use bytes::Bytes;
use cluster_proto::{NodeId, link::NodeAddresses, raft_rpc::RaftCall};
use tokio::io::{AsyncRead, AsyncWrite};

/// A boxed future, so that [`Transport`] can be a trait object.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Carries Raft calls to other control nodes.
pub trait Transport: Send + Sync + fmt::Debug + 'static {
    /// Sends one request and waits for its answer, no longer than `timeout`.
    fn call<'a>(
        &'a self,
        target: NodeId,
        addresses: &'a NodeAddresses,
        call: RaftCall,
        body: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Bytes, TransportError>>;

    /// Opens a stream of its own for a snapshot: the receiver's [`crate::ControlGroup::receive_snapshot`] gets the
    /// other end.
    fn open_snapshot<'a>(
        &'a self,
        target: NodeId,
        addresses: &'a NodeAddresses,
    ) -> BoxFuture<'a, Result<SnapshotStream, TransportError>>;
}

/// The two halves of a snapshot stream. Dropping the writer without `shutdown` aborts the transfer.
pub struct SnapshotStream {
    /// Towards the receiver.
    pub writer: Box<dyn AsyncWrite + Send + Unpin>,
    /// From the receiver: its answer.
    pub reader: Box<dyn AsyncRead + Send + Unpin>,
}

impl fmt::Debug for SnapshotStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SnapshotStream")
    }
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum TransportError {
    /// The node cannot be reached; nothing was done there.
    #[error("node {target} at {address} is unreachable: {reason}")]
    Unreachable {
        /// Which.
        target: NodeId,
        /// Where it should be.
        address: String,
        /// Why.
        reason: String,
    },
    /// The request may or may not have been handled.
    #[error("the connection to node {target} broke: {reason}")]
    Broken {
        /// Which.
        target: NodeId,
        /// Why.
        reason: String,
    },
    /// No answer in time.
    #[error("node {target} did not answer in time")]
    Timeout {
        /// Which.
        target: NodeId,
    },
}
