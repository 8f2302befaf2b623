//! openraft's messages over [`Transport`]: both ends of every call.

use std::{future::Future, io, sync::Arc, time::Duration};

use bytes::Bytes;
use cluster_proto::{NodeId, link::NodeAddresses, raft_rpc::RaftCall};
use openraft::{
    OptionalSend, RaftNetworkFactory, RaftNetworkV2,
    errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable},
    network::{RPCOption, RPCTypes},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, TransferLeaderRequest,
        TransferLeaderResponse, VoteRequest, VoteResponse,
    },
};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    group::Raft,
    snapshot::{SnapshotDir, SnapshotStore},
    snapshot_stream,
    transport::{SnapshotStream, Transport, TransportError},
    type_config::{Snapshot, TypeConfig, Vote},
};

/// An AppendEntries with entries waits for the follower's fsync, and a slow disk is no reason to send it all again.
const APPEND_TIMEOUT: Duration = Duration::from_secs(3);
/// openraft would give a heartbeat no longer than the heartbeat interval: on a busy machine an answer that is a little
/// late would count as none, and the lease would lapse. This is still within an election timeout.
const HEARTBEAT_TIMEOUT: Duration = Duration::from_millis(250);

type RpcError = RPCError<TypeConfig>;

/// Makes clients; holds nothing but the transport.
#[derive(Clone)]
pub(crate) struct Network {
    own: NodeId,
    transport: Arc<dyn Transport>,
}

impl Network {
    pub(crate) fn new(own: NodeId, transport: Arc<dyn Transport>) -> Self {
        Self { own, transport }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &NodeAddresses) -> Peer {
        Peer {
            own: self.own,
            target: NodeId(target),
            addresses: node.clone(),
            transport: self.transport.clone(),
        }
    }
}

/// One peer as openraft sees it.
pub(crate) struct Peer {
    own: NodeId,
    target: NodeId,
    addresses: NodeAddresses,
    transport: Arc<dyn Transport>,
}

impl Peer {
    async fn call<Q: Serialize, A: DeserializeOwned>(
        &self,
        call: RaftCall,
        request: &Q,
        limit: Duration,
    ) -> Result<A, RpcError> {
        let body = postcard::to_stdvec(request).map_err(|e| RPCError::Network(NetworkError::new(&e)))?;
        let answer = self.transport.call(self.target, &self.addresses, call, Bytes::from(body), limit).await;
        let answer = answer.map_err(|e| self.rpc_error(call, limit, &e))?;
        postcard::from_bytes(&answer).map_err(|e| RPCError::Network(NetworkError::new(&e)))
    }

    fn rpc_error(&self, call: RaftCall, limit: Duration, error: &TransportError) -> RpcError {
        match error {
            // Unreachable makes openraft back off, the others make it try again at once.
            TransportError::Unreachable { .. } => RPCError::Unreachable(Unreachable::new(error)),
            TransportError::Broken { .. } => RPCError::Network(NetworkError::new(error)),
            TransportError::Timeout { .. } => RPCError::Timeout(Timeout {
                action: match call {
                    RaftCall::AppendEntries => RPCTypes::AppendEntries,
                    RaftCall::InstallSnapshot => RPCTypes::InstallSnapshot,
                    RaftCall::TransferLeader => RPCTypes::TransferLeader,
                    RaftCall::Vote | RaftCall::PreVote => RPCTypes::Vote,
                },
                id: self.own.0,
                target: self.target.0,
                timeout: limit,
            }),
        }
    }

    fn streaming_error(&self, error: &TransportError) -> StreamingError<TypeConfig> {
        match error {
            TransportError::Unreachable { .. } => StreamingError::Unreachable(Unreachable::new(error)),
            _ => StreamingError::Network(NetworkError::new(error)),
        }
    }

    async fn send_snapshot(
        &self,
        vote: Vote,
        snapshot: Snapshot,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let opened = self.transport.open_snapshot(self.target, &self.addresses).await;
        let stream = opened.map_err(|e| self.streaming_error(&e))?;
        let sent = snapshot_stream::send(stream, vote, snapshot.meta, &snapshot.snapshot).await;
        // Unreachable, so that openraft backs off before it sends everything again.
        let answer = sent.map_err(|e| StreamingError::Unreachable(Unreachable::new(&e)))?;
        answer.map_err(|reason| StreamingError::Unreachable(Unreachable::new(&io::Error::other(reason))))
    }
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = SnapshotDir;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RpcError> {
        let limit = if rpc.entries.is_empty() { HEARTBEAT_TIMEOUT } else { APPEND_TIMEOUT };
        self.call(RaftCall::AppendEntries, &rpc, limit).await
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        self.call(RaftCall::Vote, &rpc, option.soft_ttl()).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        self.call(RaftCall::PreVote, &rpc, option.soft_ttl()).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        // No limit on the whole: it may be large. Every step has one, see `snapshot_stream`.
        tokio::select! {
            closed = cancel => Err(closed.into()),
            result = self.send_snapshot(vote, snapshot) => result,
        }
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        self.call(RaftCall::TransferLeader, &req, option.soft_ttl()).await
    }
}

/// The receiving side of [`Peer`]'s calls.
pub(crate) async fn serve(raft: &Raft, call: RaftCall, body: &Bytes) -> Result<Bytes, String> {
    match call {
        RaftCall::AppendEntries => reply(raft.append_entries(request(body)?).await),
        RaftCall::Vote => reply(raft.vote(request(body)?).await),
        RaftCall::PreVote => reply(raft.pre_vote(request(body)?).await),
        RaftCall::TransferLeader => reply(raft.handle_transfer_leader(request(body)?).await),
        RaftCall::InstallSnapshot => Err("snapshots come on streams of their own".to_owned()),
    }
}

/// The receiving side of [`Peer::send_snapshot`].
pub(crate) async fn serve_snapshot(
    raft: &Raft,
    store: &SnapshotStore,
    mut stream: SnapshotStream,
) -> Result<(), String> {
    let result = match snapshot_stream::receive(&mut stream.reader, store).await {
        Ok(received) => {
            let snapshot = Snapshot { meta: received.meta, snapshot: received.dir };
            raft.install_full_snapshot(received.vote, snapshot).await.map_err(|e| e.to_string())
        }
        Err(error) => Err(format!("receive a snapshot: {error}")),
    };
    let answered = snapshot_stream::answer(&mut stream.writer, &result).await;
    result?;
    answered.map_err(|e| format!("answer a snapshot: {e}"))
}

fn request<T: DeserializeOwned>(body: &Bytes) -> Result<T, String> {
    postcard::from_bytes(body).map_err(|e| format!("malformed request: {e}"))
}

fn reply<T: Serialize, E: std::fmt::Display>(result: Result<T, E>) -> Result<Bytes, String> {
    let answer = result.map_err(|e| e.to_string())?;
    postcard::to_stdvec(&answer).map(Bytes::from).map_err(|e| e.to_string())
}
