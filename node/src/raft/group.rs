//! The control group answers the calls.

use bytes::Bytes;
use cluster_proto::{NodeId, raft_rpc::RaftCall};
use raft_store::{
    ControlGroup,
    transport::{BoxFuture, SnapshotStream},
};

use super::server::RaftHandler;

impl RaftHandler for ControlGroup {
    fn call(&self, from: NodeId, call: RaftCall, body: Bytes) -> BoxFuture<'_, Result<Bytes, String>> {
        Box::pin(self.handle_call(from, call, body))
    }

    fn snapshot(&self, stream: SnapshotStream) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(self.receive_snapshot(stream))
    }

    fn members(&self) -> Vec<NodeId> {
        Self::members(self).into_iter().map(|member| member.id).collect()
    }
}
