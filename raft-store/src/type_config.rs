//! The types openraft is instantiated with.
//!
//! Leader ids are those of standard Raft: at most one leader per term. The link's epochs rely on it, and it makes a
//! log id exactly (term, index).

use std::fmt;

use bytes::{Bytes, BytesMut};
use cluster_proto::link::NodeAddresses;
use openraft::{EntryPayload, impls::leader_id_std, vote::RaftLeaderId};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

use crate::{Applied, Command, CommandBatch, snapshot::SnapshotDir};

/// Version byte in front of every encoded [`CommandBatch`]. Version 1 was never released.
const BATCH_VERSION: u8 = 2;

openraft::declare_raft_types!(
    /// See the module.
    pub(crate) TypeConfig:
        D = Proposal,
        R = Answers,
        NodeId = u64,
        Node = NodeAddresses,
        LeaderId = leader_id_std::LeaderId<u64, u64>,
);

/// Of a log id: the term alone.
pub(crate) type LeaderId = <leader_id_std::LeaderId<u64, u64> as RaftLeaderId>::Committed;
pub(crate) type LogId = openraft::LogId<LeaderId>;
pub(crate) type Entry = openraft::Entry<LeaderId, EntryPayload<Proposal, u64, NodeAddresses>>;
pub(crate) type Vote = openraft::Vote<leader_id_std::LeaderId<u64, u64>>;
pub(crate) type StoredMembership = openraft::StoredMembership<LeaderId, u64, NodeAddresses>;
pub(crate) type SnapshotMeta = openraft::SnapshotMeta<LeaderId, u64, NodeAddresses>;
/// A snapshot as openraft hands it around.
pub(crate) type Snapshot = openraft::Snapshot<LeaderId, u64, NodeAddresses, SnapshotDir>;

/// The log id of `index` in `term`.
pub(crate) fn log_id(term: u64, index: u64) -> LogId {
    LogId::new(LeaderId::new(term), index)
}

/// A [`CommandBatch`] as bytes: encoded once where it is proposed, then copied to the log and the wire as it is, and
/// decoded once per replica, by apply.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Proposal(Bytes);

/// Why bytes from the log are not a [`CommandBatch`].
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProposalError {
    #[error("the command batch is empty")]
    Empty,
    #[error(
        "the command batch has version {0}, this node reads {BATCH_VERSION}: another version of carillon wrote it"
    )]
    Version(u8),
    #[error("decode the command batch: {0}")]
    Malformed(#[from] postcard::Error),
}

impl Proposal {
    /// Joins already encoded commands. Postcard writes a struct as its fields in order and a sequence as its length
    /// and its items, so the result is the encoding of the [`CommandBatch`].
    pub(crate) fn join(at_ms: u64, commands: &[EncodedCommand]) -> Self {
        let len = commands.iter().map(EncodedCommand::len).sum::<usize>();
        let mut bytes = BytesMut::with_capacity(len + 24);
        bytes.extend_from_slice(&[BATCH_VERSION]);
        put_varint(&mut bytes, at_ms);
        put_varint(&mut bytes, commands.len() as u64);
        for command in commands {
            bytes.extend_from_slice(&command.0);
        }
        Self(bytes.freeze())
    }

    pub(crate) fn decode(&self) -> Result<CommandBatch, ProposalError> {
        match self.0.split_first() {
            None => Err(ProposalError::Empty),
            Some((&BATCH_VERSION, body)) => Ok(postcard::from_bytes(body)?),
            Some((&version, _)) => Err(ProposalError::Version(version)),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

fn put_varint(bytes: &mut BytesMut, mut value: u64) {
    while value >= 0x80 {
        bytes.extend_from_slice(&[value as u8 | 0x80]);
        value >>= 7;
    }
    bytes.extend_from_slice(&[value as u8]);
}

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proposal({} bytes)", self.0.len())
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// One encoded [`Command`], made by whoever proposes it, so that the proposer only copies.
#[derive(Clone)]
pub(crate) struct EncodedCommand(Vec<u8>);

impl EncodedCommand {
    pub(crate) fn new(command: &Command) -> Result<Self, postcard::Error> {
        postcard::to_stdvec(command).map(Self)
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}

/// What apply answers to one entry. Never leaves the process: openraft asks for serde, nothing uses it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Answers(pub(crate) Vec<Applied>);

impl Serialize for Answers {
    fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
        Err(ser::Error::custom("answers do not leave the process"))
    }
}

impl<'de> Deserialize<'de> for Answers {
    fn deserialize<D: Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(de::Error::custom("answers do not leave the process"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CommandBody;

    #[test]
    fn joined_commands_decode_as_the_batch_they_came_from() {
        let commands: Vec<Command> = (0..200)
            .map(|n| {
                Command::own(CommandBody::CreateApp { name: format!("app-{n}"), quotas: Default::default() })
            })
            .collect();
        let encoded: Vec<_> = commands.iter().map(|c| EncodedCommand::new(c).expect("encode")).collect();
        for at_ms in [0, 127, 128, 1_800_000_000_000, u64::MAX] {
            let batch = Proposal::join(at_ms, &encoded).decode().expect("decode");
            assert_eq!(batch, CommandBatch { at_ms, commands: commands.clone() });
        }
    }

    #[test]
    fn a_batch_of_a_newer_version_is_refused_and_not_guessed_at() {
        let proposal = Proposal(Bytes::from_static(&[9, 0, 0]));
        assert!(matches!(proposal.decode(), Err(ProposalError::Version(9))));
        assert!(matches!(Proposal(Bytes::new()).decode(), Err(ProposalError::Empty)));
    }
}
