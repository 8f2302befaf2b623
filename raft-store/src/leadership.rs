//! Who leads, whether it is us with everything applied, and how far everything is.

use cluster_proto::NodeId;
use openraft::{ServerState, async_runtime::watch::WatchReceiver};
use tokio::sync::watch;

use crate::{group::Raft, type_config::TypeConfig};

/// What this node believes about leadership.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Leadership {
    /// Raft term; a leader's epoch.
    pub term: u64,
    /// Who leads in that term, if known.
    pub leader: Option<NodeId>,
    /// This node leads, and the entry that began its term is applied here: so are all committed before it.
    pub is_leader: bool,
}

/// Log indexes on this node: `purged <= snapshot <= applied <= committed`, all of them at most `last_log` except after
/// a snapshot was installed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Positions {
    /// Last entry in the log, durable or about to be.
    pub last_log: Option<u64>,
    /// On a majority, as far as known here.
    pub committed: Option<u64>,
    /// In the tables.
    pub applied: Option<u64>,
    /// In the current snapshot.
    pub snapshot: Option<u64>,
    /// Last entry removed from the log.
    pub purged: Option<u64>,
}

type Metrics = openraft::RaftMetrics<TypeConfig>;

/// Publishes every change, until Raft ends.
pub(crate) async fn follow(
    raft: Raft,
    changes: watch::Sender<Leadership>,
    positions: watch::Sender<Positions>,
) {
    let mut metrics = raft.metrics();
    loop {
        let (leader, position) = {
            let now = metrics.borrow_watched();
            (leadership(&now), self::positions(&now))
        };
        // Positions first: who is told to lead may look at them.
        publish(&positions, position);
        publish(&changes, leader);
        if metrics.changed().await.is_err() {
            break;
        }
    }
    changes.send_modify(|last| *last = Leadership { leader: None, is_leader: false, ..*last });
}

fn publish<T: PartialEq>(watch: &watch::Sender<T>, now: T) {
    watch.send_if_modified(|last| {
        let changed = *last != now;
        *last = now;
        changed
    });
}

fn positions(metrics: &Metrics) -> Positions {
    Positions {
        last_log: metrics.last_log_index,
        committed: metrics.local_committed.map(|at| at.index),
        applied: metrics.last_applied.map(|at| at.index),
        snapshot: metrics.snapshot.map(|at| at.index),
        purged: metrics.purged.map(|at| at.index),
    }
}

fn leadership(metrics: &Metrics) -> Leadership {
    // The first entry of a term is the new leader's blank one, so an applied entry of the term means it is applied.
    let applied_term = metrics.last_applied.map(|applied| applied.leader_id.term);
    let leads = metrics.running_state.is_ok()
        && metrics.state == ServerState::Leader
        && metrics.current_leader == Some(metrics.id);
    Leadership {
        term: metrics.current_term,
        leader: metrics.current_leader.map(NodeId),
        is_leader: leads && applied_term == Some(metrics.current_term),
    }
}
