//! The proposer's view of openraft.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cluster_proto::NodeId;
use futures_util::future::{self, BoxFuture, FutureExt};
use openraft::{
    errors::{ClientWriteError, ForwardReason},
    impls::ProgressResponder,
    raft::ClientWriteResult,
};
use tokio::sync::watch;

use crate::{
    group::Raft,
    leadership::Leadership,
    proposer::{Log, Outcome, Refused},
    tables::Tables,
    type_config::{Proposal, TypeConfig},
};

/// An entry not applied after so long: whatever the reason, nobody should wait longer for it.
const APPLY_MAX: Duration = Duration::from_secs(10);

pub(crate) struct RaftLog {
    pub(crate) raft: Raft,
    pub(crate) tables: Tables,
    pub(crate) leadership: watch::Receiver<Leadership>,
}

impl Log for RaftLog {
    async fn submit(&self, proposal: Proposal) -> BoxFuture<'static, Outcome> {
        let (responder, answer) = ProgressResponder::complete_only();
        let leadership = self.leadership.clone();
        let term = leadership.borrow().term;
        if self.raft.client_write_ff(proposal, Some(responder)).await.is_err() {
            return future::ready(Err(Refused::Stopped)).boxed();
        }
        let outcome = async move {
            tokio::select! {
                biased;
                answered = answer => answered.map_or(Err(Refused::Unknown), outcome),
                // It may be in the log, and the next leader may keep or overwrite it.
                () = deposed(leadership, term) => Err(Refused::Unknown),
                () = tokio::time::sleep(APPLY_MAX) => Err(Refused::Unknown),
            }
        };
        outcome.boxed()
    }

    fn now_ms(&self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64);
        // An earlier leader's clock may have been ahead.
        now.max(self.tables.applied().at_ms)
    }
}

/// Resolves when the term is over. A refusal that openraft gives at once has long been answered by then.
async fn deposed(mut leadership: watch::Receiver<Leadership>, term: u64) {
    let ended = leadership.wait_for(|now| now.term > term).await.is_err();
    if ended {
        // Raft ended, and with it the answer's sender.
        future::pending::<()>().await;
    }
}

fn outcome(result: ClientWriteResult<TypeConfig>) -> Outcome {
    match result {
        Ok(response) => Ok(response.data.0),
        // Before it was appended: certainly not done.
        Err(ClientWriteError::ForwardToLeader(forward)) if forward.reason == ForwardReason::LeaseExpired => {
            Err(Refused::Retry)
        }
        Err(ClientWriteError::ForwardToLeader(forward)) => {
            Err(Refused::NotLeader(forward.leader_id.map(NodeId)))
        }
        // Appended here, then replaced by another leader's log; it may still have reached that leader.
        Err(ClientWriteError::LogEntryDiscarded(_)) => Err(Refused::Unknown),
        // Membership changes do not come this way.
        Err(ClientWriteError::ChangeMembershipError(_) | ClientWriteError::PreconditionFailed(_)) => {
            Err(Refused::Unknown)
        }
    }
}
