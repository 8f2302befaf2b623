//! The control group as the API sees it: conversions, no decisions.

use std::{
    collections::BTreeMap,
    time::{SystemTime, UNIX_EPOCH},
};

use cluster_proto::{
    AppId, AppReceipt, Audience, NodeId, PushId, State, TerminalId, TerminalNo, TerminalSet,
    link::{NodeAddresses, UnbindReason},
};
use raft_store::{
    Applied, Command, CommandBody, ControlGroup, MembershipError as GroupMembershipError, Positions,
    ProposeError as GroupProposeError, Refusal,
    command::SigningKey,
    receipts::{PageLimits, ReceiptCursor, ReceiptPage},
    tables::{AppRecord, WebhookRecord},
};
use tokio::sync::watch;

use super::ControlHandle;
use crate::api::{
    Control,
    backend::{
        Counts, Edge, Holding, Leadership, Member, MembershipError, Position, ProposeError, PushView,
        ReadError, TerminalView,
    },
};
use crate::webhook::WebhookState;

impl Control for ControlHandle {
    fn own(&self) -> (NodeId, NodeAddresses) {
        self.group().own()
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.api_leadership()
    }

    fn members(&self) -> Vec<Member> {
        let member = |m: raft_store::Member| Member {
            id: m.id,
            addresses: m.addresses,
            voter: m.voter,
            matched: m.matched,
        };
        self.group().members().into_iter().map(member).collect()
    }

    fn is_disk_full(&self) -> bool {
        self.group().disk_full()
    }

    async fn linearize(&self) -> Result<(), ReadError> {
        self.group().linearize().await.map(drop).map_err(|_| ReadError)
    }

    async fn propose(&self, body: CommandBody) -> Result<Applied, ProposeError> {
        self.group().propose(Command::own(body)).await.map_err(propose_error)
    }

    async fn cancel(&self, app: AppId, push: PushId) -> Result<Applied, ProposeError> {
        self.cancel_push(app, push).await.map_err(propose_error)
    }

    async fn presence(&self, app: AppId, id: &TerminalId) -> Option<NodeId> {
        self.where_is(app, id).await
    }

    async fn online(&self) -> Option<TerminalSet> {
        self.who_is_online().await
    }

    async fn holding(&self, app: AppId, id: &TerminalId, push: PushId) -> Holding {
        self.holding_of(app, id, push).await
    }

    async fn admit(&self, app: AppId) -> Result<(), u64> {
        // Most apps have no such quota, and need not ask.
        match self.group().tables().quotas_of(app).pushes_per_s {
            0 => Ok(()),
            _ => self.admit_push(app).await,
        }
    }

    async fn connected(&self, app: AppId) -> u64 {
        self.connected_to(app).await
    }

    async fn kick(&self, app: AppId, id: &TerminalId) -> Option<bool> {
        self.disconnect(app, id, UnbindReason::Kicked).await
    }

    async fn edges(&self) -> Vec<Edge> {
        let linked = self.edge_infos().await.into_iter().filter(|edge| edge.linked && !edge.draining);
        linked.map(|e| Edge { node: e.node, terminals: e.terminals, addresses: e.addresses }).collect()
    }

    async fn initialize(&self, nodes: Vec<(NodeId, NodeAddresses)>) -> Result<(), MembershipError> {
        self.group().initialize(nodes).await.map_err(membership_error)
    }

    async fn add_learner(&self, id: NodeId, addresses: NodeAddresses) -> Result<(), MembershipError> {
        self.group().add_learner(id, addresses).await.map_err(membership_error)
    }

    async fn promote(&self, id: NodeId) -> Result<(), MembershipError> {
        self.group().promote(id).await.map_err(membership_error)
    }

    async fn remove(&self, id: NodeId) -> Result<(), MembershipError> {
        self.group().remove(id).await.map_err(membership_error)
    }

    async fn transfer_leader(&self, to: Option<NodeId>) -> Result<(), MembershipError> {
        self.group().transfer_leader(to).await.map_err(membership_error)
    }

    fn position(&self) -> Position {
        let applied = self.group().tables().applied();
        Position { index: applied.index, digest: applied.digest }
    }

    fn app(&self, name: &str) -> Option<AppId> {
        self.group().tables().app_by_name(name)
    }

    fn apps(&self) -> Vec<(AppId, String)> {
        self.group().tables().apps()
    }

    fn app_record(&self, app: AppId) -> Option<AppRecord> {
        self.group().tables().app_record(app)
    }

    fn terminal(&self, app: AppId, id: &TerminalId) -> Option<TerminalView> {
        self.group().tables().terminal_by_id(app, id).map(terminal_view)
    }

    fn list_terminals(&self, app: AppId, after: Option<&TerminalId>, limit: usize) -> Vec<TerminalView> {
        self.group().tables().list_terminals(app, after, limit).into_iter().map(terminal_view).collect()
    }

    fn terminal_by_no(&self, no: TerminalNo) -> Option<TerminalView> {
        self.group().tables().terminal_by_no(no).map(terminal_view)
    }

    fn last_seen(&self, terminals: &TerminalSet) -> BTreeMap<TerminalNo, u32> {
        self.group().tables().last_seen(terminals, wall_ms())
    }

    fn terminal_ids(&self, nos: &[TerminalNo]) -> Vec<Option<TerminalId>> {
        self.group().tables().terminal_ids(nos)
    }

    fn revoked_until(&self, app: AppId, id: &TerminalId) -> u64 {
        self.group().tables().revoked_until(app, id)
    }

    fn has_session(&self, no: TerminalNo) -> bool {
        self.group().tables().session(no).is_some_and(|session| session.expiry_s > 0)
    }

    fn subscriptions(&self, no: TerminalNo) -> Vec<(String, u8)> {
        let subscriptions = self.group().tables().subscriptions(no);
        subscriptions.into_iter().map(|s| (s.filter, s.qos as u8)).collect()
    }

    fn owed_len(&self, no: TerminalNo, limit: usize) -> usize {
        self.group().tables().owed_len(no, limit)
    }

    fn push(&self, push: PushId) -> Option<PushView> {
        self.group().tables().push(push).map(|record| PushView {
            app: record.message.app,
            topic: record.message.topic.clone(),
            accepted_at_ms: record.accepted_at_ms,
            expires_at_ms: record.expires_at_ms,
            replaced_by: record.replaced_by,
            release: record.release,
        })
    }

    fn counts(&self, push: PushId) -> Option<Counts> {
        let counts = self.group().tables().counts(push)?;
        Some(Counts { audience: counts.audience, by_state: counts.by_state, reported: counts.reported })
    }

    fn state_of(&self, push: PushId, no: TerminalNo) -> Option<State> {
        self.group().tables().state_of(push, no)
    }

    fn group_in_audience(&self, push: PushId, no: TerminalNo) -> Option<(TerminalNo, String)> {
        let tables = self.group().tables();
        let group = tables.groups_of(no).into_iter().find(|group| tables.state_of(push, *group).is_some())?;
        Some((group, tables.terminal_by_no(group)?.id.into()))
    }

    fn offline_since_ms(&self, no: TerminalNo) -> Option<u64> {
        self.group().tables().session(no)?.detached_at_ms
    }

    fn dispatched_to(&self, push: PushId, no: TerminalNo) -> Option<PushId> {
        self.group().tables().dispatched_to(push, no)
    }

    fn owed_before(&self, no: TerminalNo, push: PushId, limit: usize) -> usize {
        let tables = self.group().tables();
        let is_urgent = tables.push(push).is_some_and(|record| record.options.urgent);
        tables.owed_before(no, push, is_urgent, limit)
    }

    fn reported(&self, push: PushId, what: AppReceipt) -> Option<TerminalSet> {
        self.group().tables().reported(push, what)
    }

    fn reported_by(&self, push: PushId, no: TerminalNo) -> Vec<AppReceipt> {
        self.group().tables().reported_by(push, no)
    }

    fn targets(&self, push: PushId, state: State) -> Option<TerminalSet> {
        self.group().tables().targets(push, state)
    }

    fn resolve(
        &self,
        audience: &Audience,
        app: AppId,
        topic: &str,
        online: Option<&TerminalSet>,
    ) -> Result<TerminalSet, Refusal> {
        self.group().tables().resolve(audience, app, topic, online, wall_ms())
    }

    fn signing_key(&self) -> Option<SigningKey> {
        self.group().tables().signing_key()
    }

    fn positions(&self) -> watch::Receiver<Positions> {
        self.group().positions()
    }

    fn receipts_begin(&self, app: AppId) -> ReceiptCursor {
        self.group().tables().receipts_begin(app)
    }

    fn receipts_end(&self, app: AppId) -> ReceiptCursor {
        self.group().tables().receipts_end(app)
    }

    fn receipts(&self, from: ReceiptCursor, limits: PageLimits) -> ReceiptPage {
        self.group().tables().receipts(from, limits)
    }

    fn named_at(&self, no: TerminalNo, at_ms: u64) -> Option<TerminalId> {
        let record = self.group().tables().terminal_by_no(no)?;
        (no.is_registered() || record.registered_at_ms <= at_ms).then_some(record.id)
    }

    fn webhook(&self, app: AppId) -> Option<WebhookRecord> {
        self.group().tables().webhook(app)
    }

    fn webhook_state(&self, app: AppId) -> Option<WebhookState> {
        self.webhooks().of(app)
    }
}

/// Milliseconds since the epoch.
fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn terminal_view(record: raft_store::tables::TerminalRecord) -> TerminalView {
    TerminalView {
        no: record.no,
        id: record.id,
        tags: record.tags,
        alias: record.alias,
        registered_at_ms: record.registered_at_ms,
    }
}

fn propose_error(error: GroupProposeError) -> ProposeError {
    match error {
        GroupProposeError::NotLeader { .. } => ProposeError::NotLeader,
        GroupProposeError::Unknown => ProposeError::Unknown,
        GroupProposeError::Full => ProposeError::Full,
        GroupProposeError::DiskFull => ProposeError::DiskFull,
        GroupProposeError::Stopped => ProposeError::Stopped,
    }
}

fn membership_error(error: GroupMembershipError) -> MembershipError {
    match error {
        GroupMembershipError::NotLeader { .. } => MembershipError::NotLeader,
        GroupMembershipError::UnknownNode(id) => MembershipError::NoSuchNode(id),
        GroupMembershipError::Unknown => MembershipError::Unknown,
        other => MembershipError::Refused(other.to_string()),
    }
}

/// Leadership in the API's words, kept up to date by a task that ends with the group.
pub(super) fn follow_leadership(group: &ControlGroup) -> watch::Receiver<Leadership> {
    let mut source = group.leadership();
    let now = leadership(&source.borrow_and_update());
    let (sender, receiver) = watch::channel(now);
    tokio::spawn(async move {
        while source.changed().await.is_ok() {
            let now = leadership(&source.borrow_and_update());
            if sender.send(now).is_err() {
                return;
            }
        }
    });
    receiver
}

fn leadership(l: &raft_store::Leadership) -> Leadership {
    Leadership { term: l.term, leader: l.leader, is_leader: l.is_leader }
}
