//! What the API asks of the control role on this node.

use cluster_proto::{
    AppId, NodeId, PushId, TerminalId, TerminalSet,
    link::{NodeAddresses, UnbindReason},
};
use raft_store::{Applied, ControlGroup, ProposeError};
use tokio::sync::{oneshot, watch};

use super::{actor::ActorHandle, backend, leader::Question};
use crate::{
    api::{self, backend::Holding},
    webhook::WebhookStates,
};

/// Cheap to clone. The questions below are answered by the leader only; elsewhere they find nobody.
#[derive(Clone, Debug)]
pub struct ControlHandle {
    group: ControlGroup,
    actor: ActorHandle,
    leadership: watch::Receiver<api::backend::Leadership>,
    webhooks: WebhookStates,
}

/// An edge as the leader sees it.
#[derive(Clone, Debug)]
pub struct EdgeInfo {
    /// Which.
    pub node: NodeId,
    /// It has resumed and deliveries flow.
    pub linked: bool,
    /// It is going away: no new terminals.
    pub draining: bool,
    /// Terminals with a number connected there.
    pub terminals: u64,
    /// Where it is reached.
    pub addresses: NodeAddresses,
}

impl ControlHandle {
    pub(crate) fn new(group: ControlGroup, actor: ActorHandle) -> Self {
        let leadership = backend::follow_leadership(&group);
        Self { group, actor, leadership, webhooks: WebhookStates::default() }
    }

    pub(super) fn api_leadership(&self) -> watch::Receiver<api::backend::Leadership> {
        self.leadership.clone()
    }

    /// The replicated group.
    pub fn group(&self) -> &ControlGroup {
        &self.group
    }

    /// How deliveries to webhooks go, while this node leads.
    pub(crate) fn webhooks(&self) -> &WebhookStates {
        &self.webhooks
    }

    pub(crate) fn actor(&self) -> &ActorHandle {
        &self.actor
    }

    /// Where a terminal is connected.
    pub async fn where_is(&self, app: AppId, terminal: &TerminalId) -> Option<NodeId> {
        self.ask(|reply| Question::Presence(app, terminal.clone(), reply)).await.flatten()
    }

    /// The numbered terminals that are connected, if all edges have told whom they hold.
    pub async fn who_is_online(&self) -> Option<TerminalSet> {
        self.ask(Question::Online).await.flatten()
    }

    /// Where a terminal is connected, and whether its edge may hold a push.
    pub async fn holding_of(&self, app: AppId, terminal: &TerminalId, push: PushId) -> Holding {
        self.ask(|reply| Question::Holding(app, terminal.clone(), push, reply)).await.unwrap_or_default()
    }

    /// Ends a terminal's connection; says whether it was online. `None`: nobody knows yet where it is.
    pub async fn disconnect(&self, app: AppId, terminal: &TerminalId, reason: UnbindReason) -> Option<bool> {
        self.ask(|reply| Question::Kick(app, terminal.clone(), reason, reply)).await
    }

    /// Recalls a push: settles at once whoever does not hold it; the others' edges are asked.
    pub async fn cancel_push(&self, app: AppId, push: PushId) -> Result<Applied, ProposeError> {
        let (reply, answer) = oneshot::channel();
        if self.actor.questions.send(Question::Cancel(app, push, reply)).await.is_err() {
            return Err(ProposeError::Stopped);
        }
        // Leadership was lost with it: it may have been proposed.
        answer.await.unwrap_or(Err(ProposeError::Unknown))
    }

    /// Charges a push to its app; else, for how many milliseconds it must wait. Elsewhere than on the leader nothing is
    /// charged: nothing can be proposed there either.
    pub async fn admit_push(&self, app: AppId) -> Result<(), u64> {
        self.ask(|reply| Question::Admit(app, reply)).await.unwrap_or(Ok(()))
    }

    /// How many terminals of an app are connected.
    pub async fn connected_to(&self, app: AppId) -> u64 {
        self.ask(|reply| Question::Connected(app, reply)).await.unwrap_or(0)
    }

    /// All edges that are not declared ended.
    pub async fn edge_infos(&self) -> Vec<EdgeInfo> {
        self.ask(Question::Edges).await.unwrap_or_default()
    }

    /// `None` where this node does not lead.
    async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Question) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.actor.questions.send(question(reply)).await.ok()?;
        answer.await.ok()
    }
}
