//! Who belongs to the control group.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    time::Duration,
};

use cluster_proto::{NodeId, link::NodeAddresses};
use openraft::{
    ChangeMembers,
    async_runtime::watch::WatchReceiver,
    errors::{ChangeMembershipError, ClientWriteError, ForwardReason, InitializeError, RaftError},
    raft::ClientWriteResponse,
};
use tokio::time::{Instant, sleep, timeout};

use crate::{group::Raft, type_config::TypeConfig};

/// A learner this close to the end of the log may become a voter without slowing commits down.
const PROMOTE_LAG_MAX: u64 = 1_000;
const CHANGE_MAX: Duration = Duration::from_secs(30);
const TRANSFER_MAX: Duration = Duration::from_secs(5);
const RETRY_EVERY: Duration = Duration::from_millis(50);

/// A node of the control group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its id.
    pub id: NodeId,
    /// Where it listens.
    pub addresses: NodeAddresses,
    /// It counts for majorities; otherwise it only receives the log.
    pub voter: bool,
    /// Last log index known to be on it; only the leader knows.
    pub matched: Option<u64>,
}

/// Why a change was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MembershipError {
    /// Only the leader changes the group.
    #[error("this node is not the leader")]
    NotLeader {
        /// Who is, as far as known.
        leader: Option<NodeId>,
    },
    /// The group exists already.
    #[error("this control group is already initialized")]
    AlreadyInitialized,
    /// Another change is not finished yet.
    #[error("another membership change is in progress; try again when it is finished")]
    InProgress,
    /// Not a member.
    #[error("node {0} is not a member of the control group")]
    UnknownNode(NodeId),
    /// Must have the log first.
    #[error("node {node} is {lag} entries behind; try again when it has caught up")]
    Behind {
        /// The learner.
        node: NodeId,
        /// How far behind it is.
        lag: u64,
    },
    /// The group would be left without voters.
    #[error("the control group needs at least one voter")]
    LastVoter,
    /// It was proposed; look at the members to see whether it was done.
    #[error("the outcome is unknown: the control group did not answer in time")]
    Unknown,
    /// This node is shutting down.
    #[error("this node is stopping")]
    Stopped,
}

type ChangeResult =
    Result<ClientWriteResponse<TypeConfig>, RaftError<TypeConfig, ClientWriteError<TypeConfig>>>;

/// As this node knows them.
pub(crate) fn members(raft: &Raft) -> Vec<Member> {
    let metrics = raft.metrics().borrow_watched().clone();
    let config = metrics.membership_config.membership();
    let voters: BTreeSet<u64> = config.voter_ids().collect();
    let matched = |id: u64| match &metrics.replication {
        Some(_) if id == metrics.id => metrics.last_log_index,
        Some(replication) => replication.get(&id).copied().flatten().map(|matched| matched.index),
        None => None,
    };
    let member = |(id, addresses): (&u64, &NodeAddresses)| Member {
        id: NodeId(*id),
        addresses: addresses.clone(),
        voter: voters.contains(id),
        matched: matched(*id),
    };
    config.nodes().map(member).collect()
}

pub(crate) async fn initialize(
    raft: &Raft,
    nodes: Vec<(NodeId, NodeAddresses)>,
) -> Result<(), MembershipError> {
    let nodes: BTreeMap<u64, NodeAddresses> =
        nodes.into_iter().map(|(id, addresses)| (id.0, addresses)).collect();
    raft.initialize(nodes).await.map_err(|error| match error {
        RaftError::APIError(InitializeError::NotAllowed(_)) => MembershipError::AlreadyInitialized,
        RaftError::APIError(InitializeError::NotInMembers(not)) => {
            MembershipError::UnknownNode(NodeId(not.node_id))
        }
        RaftError::Fatal(_) => MembershipError::Stopped,
    })
}

/// Adds a node that receives the log and does not vote; or, for a member, replaces its addresses.
pub(crate) async fn add_learner(
    raft: &Raft,
    id: NodeId,
    addresses: NodeAddresses,
) -> Result<(), MembershipError> {
    let known = members(raft).into_iter().find(|member| member.id == id);
    let nodes = BTreeMap::from([(id.0, addresses.clone())]);
    match known {
        Some(member) if member.addresses == addresses => Ok(()),
        Some(_) => change(|| raft.change_membership(ChangeMembers::SetNodes(nodes.clone()), true)).await,
        None => change(|| raft.change_membership(ChangeMembers::AddNodes(nodes.clone()), true)).await,
    }
}

pub(crate) async fn promote(raft: &Raft, id: NodeId) -> Result<(), MembershipError> {
    let member = find(raft, id)?;
    if member.voter {
        return Ok(());
    }
    let last = raft.metrics().borrow_watched().last_log_index.unwrap_or(0);
    let lag = last.saturating_sub(member.matched.unwrap_or(0));
    if lag > PROMOTE_LAG_MAX {
        return Err(MembershipError::Behind { node: id, lag });
    }
    let voters = BTreeSet::from([id.0]);
    change(|| raft.change_membership(ChangeMembers::AddVoterIds(voters.clone()), true)).await
}

/// Removes a voter or learner. A leader asked to remove itself hands over first, and answers that it does not lead:
/// the caller asks the new leader.
pub(crate) async fn remove(raft: &Raft, id: NodeId) -> Result<(), MembershipError> {
    let member = find(raft, id)?;
    let ids = BTreeSet::from([id.0]);
    if !member.voter {
        return change(|| raft.change_membership(ChangeMembers::RemoveNodes(ids.clone()), false)).await;
    }
    if members(raft).iter().filter(|member| member.voter).count() == 1 {
        return Err(MembershipError::LastVoter);
    }
    if id.0 == raft.metrics().borrow_watched().id {
        // A node that is no member any more could not hand over. The next leader removes this one.
        transfer_leader(raft, None).await?;
        return Err(MembershipError::NotLeader { leader: None });
    }
    change(|| raft.change_membership(ChangeMembers::RemoveVoters(ids.clone()), false)).await
}

/// Hands leadership to `to`, or to the voter that has most of the log; waits until somebody else leads.
pub(crate) async fn transfer_leader(raft: &Raft, to: Option<NodeId>) -> Result<(), MembershipError> {
    let mut metrics = raft.metrics();
    let (own, leader) = {
        let now = metrics.borrow_watched();
        (now.id, now.current_leader)
    };
    if leader != Some(own) {
        return Err(MembershipError::NotLeader { leader: leader.map(NodeId) });
    }
    let to = match to {
        Some(id) => find(raft, id)?,
        None => best_successor(raft, own).ok_or(MembershipError::LastVoter)?,
    };
    if to.id.0 == own {
        return Ok(());
    }
    if !to.voter {
        return Err(MembershipError::UnknownNode(to.id));
    }
    raft.trigger().transfer_leader(to.id.0).await.map_err(|_| MembershipError::Stopped)?;
    let handed_over = async {
        loop {
            if metrics.borrow_watched().current_leader.is_some_and(|leader| leader != own) {
                return Ok(());
            }
            metrics.changed().await.map_err(|_| MembershipError::Stopped)?;
        }
    };
    timeout(TRANSFER_MAX, handed_over).await.map_err(|_| MembershipError::Unknown)?
}

fn best_successor(raft: &Raft, own: u64) -> Option<Member> {
    members(raft)
        .into_iter()
        .filter(|member| member.voter && member.id.0 != own)
        .max_by_key(|member| member.matched)
}

fn find(raft: &Raft, id: NodeId) -> Result<Member, MembershipError> {
    let leader = raft.metrics().borrow_watched().current_leader;
    if leader != Some(*raft.node_id()) {
        return Err(MembershipError::NotLeader { leader: leader.map(NodeId) });
    }
    members(raft).into_iter().find(|member| member.id == id).ok_or(MembershipError::UnknownNode(id))
}

/// Runs a change; while the leader's lease has lapsed for a moment, again.
async fn change<F: Future<Output = ChangeResult>>(make: impl Fn() -> F) -> Result<(), MembershipError> {
    let until = Instant::now() + CHANGE_MAX;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        // Boxed: openraft's future is large.
        let error = match timeout(left, Box::pin(make())).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => error,
            Err(_) => return Err(MembershipError::Unknown),
        };
        match error {
            RaftError::APIError(ClientWriteError::ForwardToLeader(forward))
                if forward.reason == ForwardReason::LeaseExpired =>
            {
                sleep(RETRY_EVERY).await;
            }
            error => return Err(change_error(error)),
        }
    }
}

fn change_error(error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> MembershipError {
    match error {
        RaftError::Fatal(_) => MembershipError::Stopped,
        RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => {
            MembershipError::NotLeader { leader: forward.leader_id.map(NodeId) }
        }
        RaftError::APIError(ClientWriteError::LogEntryDiscarded(_)) => MembershipError::Unknown,
        RaftError::APIError(ClientWriteError::ChangeMembershipError(error)) => match error {
            ChangeMembershipError::EmptyMembership(_) => MembershipError::LastVoter,
            ChangeMembershipError::LearnerNotFound(learner) => {
                MembershipError::UnknownNode(NodeId(learner.node_id))
            }
            _ => MembershipError::InProgress,
        },
        RaftError::APIError(ClientWriteError::PreconditionFailed(_)) => MembershipError::InProgress,
    }
}

/// Waits until the likely next leader has the whole log, so that a transfer succeeds at once.
pub(crate) async fn successor_caught_up(raft: &Raft) {
    let own = *raft.node_id();
    let mut metrics = raft.metrics();
    loop {
        let last = metrics.borrow_watched().last_log_index;
        if best_successor(raft, own).is_none_or(|successor| successor.matched >= last) {
            return;
        }
        if metrics.changed().await.is_err() {
            return;
        }
    }
}
