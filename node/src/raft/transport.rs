//! The calling side: implements what `raft-store` asks of the network.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use cluster_proto::{
    NodeId,
    link::NodeAddresses,
    raft_rpc::{RaftCall, RaftFrame, RaftStream},
};
use raft_store::transport::{BoxFuture, SnapshotStream, Transport, TransportError};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};

use super::{lane::Call, peer::Peer, snapshot_io};
use crate::transport::{Endpoint, frames};

/// Raft group of every frame, until there are several.
const GROUP: u8 = 0;
/// A snapshot waits this long for its stream; openraft tries again.
const SNAPSHOT_OPEN_TIMEOUT: Duration = Duration::from_secs(5);

/// Carries Raft calls over the node's QUIC endpoint.
pub struct QuicTransport {
    endpoint: Endpoint,
    /// One per target. A node that moved gets a new one; the old one's connection closes when its last call ends.
    peers: Mutex<BTreeMap<NodeId, Arc<Peer>>>,
}

impl QuicTransport {
    /// Dials through `endpoint`.
    pub fn new(endpoint: Endpoint) -> Self {
        Self { endpoint, peers: Mutex::new(BTreeMap::new()) }
    }

    fn peer(&self, target: NodeId, address: &str) -> Arc<Peer> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        match peers.get(&target) {
            Some(peer) if peer.address() == address => Arc::clone(peer),
            _ => {
                let peer = Arc::new(Peer::new(self.endpoint.clone(), target, address.to_owned()));
                peers.insert(target, Arc::clone(&peer));
                peer
            }
        }
    }

    async fn call_until(
        &self,
        peer: &Peer,
        frame: RaftFrame,
        deadline: Instant,
    ) -> Result<Bytes, TransportError> {
        let target = peer.target();
        let unreachable =
            |reason| TransportError::Unreachable { target, address: peer.address().to_owned(), reason };
        let broken = |reason| TransportError::Broken { target, reason };
        let timed_out = |_| TransportError::Timeout { target };

        let link = match timeout_at(deadline, peer.link()).await {
            Ok(link) => link.map_err(unreachable)?,
            Err(_) => return Err(unreachable("no connection in time".to_owned())),
        };
        let (answer, answered) = oneshot::channel();
        let sent =
            timeout_at(deadline, link.lane(&frame).send(Call { frame, answer })).await.map_err(timed_out)?;
        // The lane is gone and the call with it: it never left.
        sent.map_err(|_| unreachable(link.close_reason()))?;
        let answered = timeout_at(deadline, answered).await.map_err(timed_out)?;
        answered.map_err(|_| broken(link.close_reason()))?.map_err(broken)
    }

    async fn snapshot(&self, peer: &Peer) -> Result<SnapshotStream, TransportError> {
        let deadline = Instant::now() + SNAPSHOT_OPEN_TIMEOUT;
        let unreachable = |reason| TransportError::Unreachable {
            target: peer.target(),
            address: peer.address().to_owned(),
            reason,
        };
        let open = async {
            let link = peer.link().await?;
            let stream = frames::open_bi::<_, (), ()>(link.connection(), &RaftStream::Snapshot).await;
            stream.map_err(|e| e.to_string())
        };
        match timeout_at(deadline, open).await {
            Ok(Ok((sender, receiver))) => Ok(snapshot_io::stream(sender, receiver)),
            Ok(Err(reason)) => Err(unreachable(reason)),
            Err(_) => Err(unreachable("no connection in time".to_owned())),
        }
    }
}

impl Transport for QuicTransport {
    fn call<'a>(
        &'a self,
        target: NodeId,
        addresses: &'a NodeAddresses,
        call: RaftCall,
        body: Bytes,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Bytes, TransportError>> {
        let deadline = Instant::now() + timeout;
        Box::pin(async move {
            let peer = self.peer(target, &addresses.link);
            self.call_until(&peer, RaftFrame { group: GROUP, call, body }, deadline).await
        })
    }

    fn open_snapshot<'a>(
        &'a self,
        target: NodeId,
        addresses: &'a NodeAddresses,
    ) -> BoxFuture<'a, Result<SnapshotStream, TransportError>> {
        Box::pin(async move {
            let peer = self.peer(target, &addresses.link);
            self.snapshot(&peer).await
        })
    }
}

impl fmt::Debug for QuicTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("QuicTransport")
    }
}
