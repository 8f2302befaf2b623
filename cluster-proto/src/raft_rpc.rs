//! The envelope of Raft's own messages between control nodes. Bodies are opaque, so openraft stays out of here.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// ALPN of Raft traffic. Only current control members (and nodes being added) may speak it.
pub const ALPN: &[u8] = b"carillon-raft/1";

/// Which Raft call a request stream carries.
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
    /// InstallSnapshot (section 7): the body is followed on the same stream by the snapshot's files.
    InstallSnapshot,
}

/// A request, and on the same stream its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RaftFrame {
    /// Raft group; 0 until there are several.
    pub group: u8,
    /// Which call.
    pub call: RaftCall,
    /// The encoded request or answer.
    pub body: Bytes,
}
