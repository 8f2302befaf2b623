//! The envelope of Raft's own messages between control nodes. Bodies are opaque, so openraft stays out of here.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// ALPN of Raft traffic. Any node whose certificate has the control role may speak it; only elections are refused,
/// from nodes known to have been removed (`docs/decisions/0005-raft-certificate-rule.md` says why not "current members
/// only").
pub const ALPN: &[u8] = b"carillon-raft/1";

/// Which Raft call a request carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RaftCall {
    /// AppendEntries and heartbeats (the Raft paper, section 5.3).
    AppendEntries,
    /// RequestVote (section 5.2).
    Vote,
    /// Pre-vote (the Raft dissertation, section 9.6).
    PreVote,
    /// Leader transfer (the Raft dissertation, section 3.10).
    TransferLeader,
    /// InstallSnapshot (section 7): its bulk travels on a [`RaftStream::Snapshot`].
    InstallSnapshot,
}

/// One call: which, and its encoded request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaftFrame {
    /// Raft group; 0 until there are several.
    pub group: u8,
    /// Which call.
    pub call: RaftCall,
    /// The encoded request.
    pub body: Bytes,
}

/// First frame on every stream of a Raft connection: what it is for. The caller opens all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum RaftStream {
    /// Bidirectional and long-lived: [`RaftRequest`] / [`RaftAnswer`], many at once.
    Calls,
    /// Bidirectional: one snapshot, in the format of the storage, and its answer. Nothing after this header is framed.
    Snapshot,
}

/// A call, with a number that comes back in its answer. Answers come in any order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaftRequest {
    /// Chosen by the caller, unique on the stream.
    pub id: u64,
    /// The call.
    pub frame: RaftFrame,
}

/// The answer to a [`RaftRequest`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaftAnswer {
    /// As asked.
    pub id: u64,
    /// The encoded answer, or why there is none.
    pub result: Result<Bytes, String>,
}
