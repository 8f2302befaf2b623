//! A control group in memory.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

use cluster_proto::{
    AppId, AppReceipt, Audience, NodeId, PushId, State, TerminalId, TerminalNo, TerminalSet,
    link::NodeAddresses,
};
use raft_store::{
    Applied, CommandBody, Positions, Refusal,
    command::{AcceptPush, PushOptions, Quotas, SigningKey},
    receipts::{PageLimits, ReceiptCursor, ReceiptPage},
    tables::{AppRecord, WebhookRecord},
};
use rand::{SeedableRng as _, rngs::StdRng};
use tokio::sync::{Semaphore, watch};

use crate::api::{
    Control,
    backend::{
        Counts, Edge, Holding, Leadership, Member, MembershipError, Position, ProposeError, PushView,
        ReadError, TerminalView,
    },
};
use crate::webhook::WebhookState;

/// Cheap to clone; all clones are one group.
#[derive(Clone)]
pub(super) struct Fake {
    id: NodeId,
    state: Arc<Mutex<State_>>,
    leadership: Arc<watch::Sender<Leadership>>,
    /// Proposals wait for a permit; tests close the gate to have calls in flight.
    gate: Arc<Semaphore>,
    /// Tells that a proposal waits.
    pub(super) waiting: Arc<Semaphore>,
}

struct State_ {
    key: Option<SigningKey>,
    apps: Vec<(AppId, String)>,
    terminals: BTreeMap<(AppId, TerminalId), TerminalView>,
    pushes: Vec<(AcceptPush, TerminalSet, TerminalSet)>,
    members: Vec<Member>,
    revoked: BTreeMap<TerminalId, u64>,
    index: u64,
    fail: Option<ProposeError>,
    knows_online: bool,
    quotas: BTreeMap<AppId, Quotas>,
    /// Pushes come too fast.
    hurried: bool,
    /// Most terminals of an app; 0: any number.
    most_terminals: usize,
}

impl Fake {
    fn terminal_id(&self, no: TerminalNo) -> Option<TerminalId> {
        self.lock().terminals.values().find(|view| view.no == no).map(|view| view.id.clone())
    }

    /// A founded group in which node 1 leads.
    pub(super) fn founded() -> Self {
        let fake = Self::new();
        {
            let mut state = fake.lock();
            state.key = Some(crate::auth::generate_key(&mut StdRng::seed_from_u64(7)).expect("key"));
            state.apps = vec![(AppId::DEFAULT, "default".to_owned()), (AppId(2), "shop".to_owned())];
            state.members = vec![member(NodeId(1))];
        }
        fake.leadership.send_replace(Leadership { term: 1, leader: Some(NodeId(1)), is_leader: true });
        fake
    }

    /// A group that was not founded.
    pub(super) fn new() -> Self {
        let state = State_ {
            key: None,
            apps: Vec::new(),
            terminals: BTreeMap::new(),
            pushes: Vec::new(),
            members: Vec::new(),
            revoked: BTreeMap::new(),
            index: 0,
            fail: None,
            knows_online: true,
            quotas: BTreeMap::new(),
            hurried: false,
            most_terminals: 0,
        };
        Self {
            id: NodeId(1),
            state: Arc::new(Mutex::new(state)),
            leadership: Arc::new(watch::Sender::new(Leadership::default())),
            gate: Arc::new(Semaphore::new(1_000)),
            waiting: Arc::new(Semaphore::new(0)),
        }
    }

    /// Another member of the same group, whose proposals do not wait.
    pub(super) fn other(&self) -> Self {
        Self { id: NodeId(2), gate: Arc::new(Semaphore::new(1_000)), ..self.clone() }
    }

    pub(super) fn key(&self) -> SigningKey {
        self.lock()
            .key
            .clone()
            .unwrap_or_else(|| crate::auth::generate_key(&mut StdRng::seed_from_u64(9)).expect("key"))
    }

    /// From now on proposals get no answer.
    pub(super) async fn hold_proposals(&self) {
        self.gate.acquire_many(1_000).await.expect("open").forget();
    }

    /// The next proposals fail so.
    pub(super) fn fail(&self, error: Option<ProposeError>) {
        self.lock().fail = error;
    }

    /// These terminals have the push.
    pub(super) fn deliver(&self, push: u64, no: u32) {
        let mut state = self.lock();
        state.pushes[push as usize - 1].2.insert(TerminalNo(no));
        state.index += 1;
    }

    pub(super) fn pushes(&self) -> usize {
        self.lock().pushes.len()
    }

    /// How the pushes are handed out.
    pub(super) fn options(&self) -> Vec<PushOptions> {
        self.lock().pushes.iter().map(|(push, ..)| push.options.clone()).collect()
    }

    /// Another node leads.
    pub(super) fn step_down(&self) {
        self.leadership.send_modify(|leadership| leadership.is_leader = false);
    }

    /// An edge has not told the leader yet whom it holds.
    pub(super) fn forget_online(&self) {
        self.lock().knows_online = false;
    }

    /// From now on pushes come too fast.
    pub(super) fn hurry(&self) {
        self.lock().hurried = true;
    }

    /// No more terminals than these.
    pub(super) fn limit_terminals(&self, most: usize) {
        self.lock().most_terminals = most;
    }

    /// Node 2 leads, as this member hears.
    pub(super) fn hears_of_leader(&self) {
        self.leadership.send_replace(Leadership { term: 2, leader: Some(NodeId(2)), is_leader: false });
    }

    /// It applies that node 2 is a member.
    pub(super) fn applies_members(&self) {
        self.lock().members = vec![member(NodeId(2))];
    }

    pub(super) fn unfound(&self) {
        self.lock().key = None;
    }

    fn lock(&self) -> MutexGuard<'_, State_> {
        self.state.lock().expect("no test panics while it holds this")
    }
}

impl State_ {
    fn apply(&mut self, body: CommandBody) -> Applied {
        self.index += 1;
        match body {
            CommandBody::CreateApp { name, .. } => {
                if let Some((id, _)) = self.apps.iter().find(|(_, known)| *known == name) {
                    return Applied::App(*id);
                }
                let id = AppId(self.apps.len() as u32 + 1);
                self.apps.push((id, name));
                Applied::App(id)
            }
            CommandBody::InstallKey(key) => {
                self.key = Some(key);
                Applied::Done
            }
            CommandBody::RegisterTerminals { app, terminals } => {
                let before = self.terminals.len();
                let new = terminals.iter().filter(|new| !self.terminals.contains_key(&(app, new.id.clone())));
                if self.most_terminals > 0 && before + new.count() > self.most_terminals {
                    return Applied::Refused(Refusal::TerminalQuota(self.most_terminals as u64));
                }
                let nos = terminals.into_iter().map(|new| self.register(app, new)).collect();
                Applied::Registered { nos, new: (self.terminals.len() - before) as u64 }
            }
            CommandBody::Revoke { terminal: Some(id), issued_until, .. } => {
                self.revoked.insert(id, issued_until);
                Applied::Done
            }
            CommandBody::SetQuotas { app, change } => {
                let quotas = self.quotas.entry(app).or_default();
                *quotas = quotas.changed(&change);
                Applied::Done
            }
            CommandBody::DeleteApp { app } => {
                self.apps.retain(|(id, _)| *id != app);
                Applied::Done
            }
            CommandBody::DeleteTerminals { terminals, .. } => {
                let before = self.terminals.len();
                self.terminals.retain(|_, view| !terminals.contains(view.no));
                Applied::Changed { changed: (before - self.terminals.len()) as u64, full: 0 }
            }
            CommandBody::UpdateTerminals { terminals, change, .. } => {
                let meant = self.terminals.values_mut().filter(|view| terminals.contains(view.no));
                meant.for_each(|view| view.tags.clone_from(&change.set));
                Applied::Changed { changed: terminals.len(), full: 1 }
            }
            CommandBody::AcceptPush(push) => self.accept(push),
            other => panic!("the API does not propose {other:?}"),
        }
    }

    fn register(&mut self, app: AppId, new: raft_store::command::NewTerminal) -> TerminalNo {
        let next = TerminalNo(self.terminals.len() as u32 + 1);
        let view = self.terminals.entry((app, new.id.clone())).or_insert_with(|| TerminalView {
            no: next,
            id: new.id,
            tags: Vec::new(),
            alias: None,
            registered_at_ms: 5,
        });
        if let Some(tags) = new.tags {
            view.tags = tags;
        }
        if let Some(alias) = new.alias {
            view.alias = Some(alias).filter(|alias| !alias.is_empty());
        }
        view.no
    }

    fn accept(&mut self, push: AcceptPush) -> Applied {
        let repeated = self.pushes.iter().position(|(known, ..)| {
            matches!((&known.idempotency, &push.idempotency), (Some(a), Some(b)) if a.key == b.key)
        });
        if let Some(at) = repeated {
            let (known, audience, _) = &self.pushes[at];
            if known.idempotency != push.idempotency {
                return Applied::Refused(Refusal::KeyReused);
            }
            return Applied::Accepted {
                push: PushId(at as u64 + 1),
                audience: audience.len(),
                repeated: true,
            };
        }
        let audience = match self.audience(push.message.app, &push.audience, push.online.as_ref()) {
            Ok(audience) => audience,
            Err(refusal) => return Applied::Refused(refusal),
        };
        let len = audience.len();
        self.pushes.push((push, audience, TerminalSet::new()));
        Applied::Accepted { push: PushId(self.pushes.len() as u64), audience: len, repeated: false }
    }

    fn audience(
        &self,
        app: AppId,
        audience: &Audience,
        online: Option<&TerminalSet>,
    ) -> Result<TerminalSet, Refusal> {
        let of_app = self.terminals.iter().filter(|((of, _), _)| *of == app);
        Ok(match audience {
            Audience::All => of_app.map(|(_, view)| view.no).collect(),
            Audience::Topic => TerminalSet::new(),
            Audience::Online => online.cloned().unwrap_or_default(),
            Audience::Delivered(push) | Audience::Pending(push) => {
                return Err(Refusal::UnknownPush(*push));
            }
            Audience::Terminals(ids) => {
                let unknown: Vec<_> = ids
                    .iter()
                    .filter(|id| !self.terminals.contains_key(&(app, (*id).clone())))
                    .cloned()
                    .collect();
                if !unknown.is_empty() {
                    return Err(Refusal::UnknownTerminals(unknown));
                }
                ids.iter().map(|id| self.terminals[&(app, id.clone())].no).collect()
            }
            other => panic!("no test of the API resolves {other:?}"),
        })
    }
}

impl Control for Fake {
    fn own(&self) -> (NodeId, NodeAddresses) {
        (self.id, addresses(self.id))
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.subscribe()
    }

    fn members(&self) -> Vec<Member> {
        self.lock().members.clone()
    }

    fn is_disk_full(&self) -> bool {
        false
    }

    async fn linearize(&self) -> Result<(), ReadError> {
        Ok(())
    }

    async fn propose(&self, body: CommandBody) -> Result<Applied, ProposeError> {
        self.waiting.add_permits(1);
        let _permit = self.gate.acquire().await.map_err(|_| ProposeError::Stopped)?;
        let mut state = self.lock();
        match state.fail {
            Some(error) => Err(error),
            None => Ok(state.apply(body)),
        }
    }

    async fn cancel(&self, _: AppId, _: PushId) -> Result<Applied, ProposeError> {
        Ok(Applied::Done)
    }

    async fn presence(&self, _: AppId, id: &TerminalId) -> Option<NodeId> {
        (id.as_str() == "online").then_some(NodeId(3))
    }

    async fn online(&self) -> Option<TerminalSet> {
        let state = self.lock();
        let online = state.terminals.iter().filter(|((_, id), _)| id.as_str() == "online");
        state.knows_online.then(|| online.map(|(_, view)| view.no).collect())
    }

    async fn holding(&self, app: AppId, id: &TerminalId, _: PushId) -> Holding {
        Holding { edge: self.presence(app, id).await, holds: false, known: true }
    }

    async fn admit(&self, _: AppId) -> Result<(), u64> {
        match self.lock().hurried {
            true => Err(40),
            false => Ok(()),
        }
    }

    async fn connected(&self, _: AppId) -> u64 {
        3
    }

    async fn kick(&self, _: AppId, id: &TerminalId) -> Option<bool> {
        Some(id.as_str() == "online")
    }

    async fn edges(&self) -> Vec<Edge> {
        vec![Edge { node: NodeId(3), terminals: 1, addresses: addresses(NodeId(3)) }]
    }

    async fn initialize(&self, nodes: Vec<(NodeId, NodeAddresses)>) -> Result<(), MembershipError> {
        self.lock().members = nodes.iter().map(|(id, _)| member(*id)).collect();
        self.leadership.send_replace(Leadership { term: 1, leader: Some(self.id), is_leader: true });
        Ok(())
    }

    async fn add_learner(&self, id: NodeId, _: NodeAddresses) -> Result<(), MembershipError> {
        self.lock().members.push(Member { voter: false, ..member(id) });
        Ok(())
    }

    async fn promote(&self, id: NodeId) -> Result<(), MembershipError> {
        match self.lock().members.iter_mut().find(|member| member.id == id) {
            Some(member) => member.voter = true,
            None => return Err(MembershipError::NoSuchNode(id)),
        }
        Ok(())
    }

    async fn remove(&self, id: NodeId) -> Result<(), MembershipError> {
        self.lock().members.retain(|member| member.id != id);
        Ok(())
    }

    async fn transfer_leader(&self, _: Option<NodeId>) -> Result<(), MembershipError> {
        Err(MembershipError::Refused("the only voter cannot hand over".to_owned()))
    }

    fn position(&self) -> Position {
        Position { index: self.lock().index, digest: 0xabc }
    }

    fn app(&self, name: &str) -> Option<AppId> {
        self.lock().apps.iter().find(|(_, known)| known == name).map(|(id, _)| *id)
    }

    fn apps(&self) -> Vec<(AppId, String)> {
        self.lock().apps.clone()
    }

    fn app_record(&self, app: AppId) -> Option<AppRecord> {
        let state = self.lock();
        let quotas = *state.quotas.get(&app).unwrap_or(&Quotas::default());
        let terminals = state.terminals.keys().filter(|(of, _)| *of == app).count() as u64;
        Some(AppRecord { quotas, terminals, stored_bytes: 9 })
    }

    fn terminal(&self, app: AppId, id: &TerminalId) -> Option<TerminalView> {
        self.lock().terminals.get(&(app, id.clone())).cloned()
    }

    fn list_terminals(&self, app: AppId, after: Option<&TerminalId>, limit: usize) -> Vec<TerminalView> {
        let state = self.lock();
        let of_app =
            state.terminals.iter().filter(|((of, id), _)| *of == app && after.is_none_or(|a| id > a));
        of_app.map(|(_, view)| view.clone()).take(limit).collect()
    }

    fn terminal_by_no(&self, no: TerminalNo) -> Option<TerminalView> {
        self.lock().terminals.values().find(|view| view.no == no).cloned()
    }

    fn last_seen(&self, terminals: &TerminalSet) -> BTreeMap<TerminalNo, u32> {
        terminals.iter().map(|no| (no, 100)).collect()
    }

    fn terminal_ids(&self, nos: &[TerminalNo]) -> Vec<Option<TerminalId>> {
        nos.iter().map(|no| self.terminal_id(*no)).collect()
    }

    fn revoked_until(&self, _: AppId, id: &TerminalId) -> u64 {
        self.lock().revoked.get(id).copied().unwrap_or(0)
    }

    fn has_session(&self, _: TerminalNo) -> bool {
        true
    }

    fn subscriptions(&self, _: TerminalNo) -> Vec<(String, u8)> {
        vec![("news/#".to_owned(), 1)]
    }

    fn owed_len(&self, _: TerminalNo, _: usize) -> usize {
        2
    }

    fn push(&self, push: PushId) -> Option<PushView> {
        let state = self.lock();
        let (push, ..) = state.pushes.get(usize::try_from(push.0.checked_sub(1)?).ok()?)?;
        let topic = push.message.topic.clone();
        Some(PushView {
            app: push.message.app,
            topic,
            accepted_at_ms: 1,
            expires_at_ms: 1 + push.ttl_ms,
            replaced_by: None,
            release: None,
        })
    }

    fn counts(&self, push: PushId) -> Option<Counts> {
        let state = self.lock();
        let (_, audience, delivered) = state.pushes.get(push.0 as usize - 1)?;
        let (all, done) = (audience.len(), delivered.len());
        let by_state = vec![(State::Pending, all - done), (State::Delivered, done)];
        Some(Counts { audience: all, by_state, reported: [0, 0] })
    }

    fn reported(&self, _: PushId, _: AppReceipt) -> Option<TerminalSet> {
        Some(TerminalSet::new())
    }

    fn reported_by(&self, _: PushId, _: TerminalNo) -> Vec<AppReceipt> {
        Vec::new()
    }

    fn targets(&self, push: PushId, of: State) -> Option<TerminalSet> {
        let state = self.lock();
        let (_, audience, delivered) = state.pushes.get(push.0 as usize - 1)?;
        match of {
            State::Pending => Some(TerminalSet(&audience.0 - &delivered.0)),
            State::Delivered => Some(delivered.clone()),
            _ => Some(TerminalSet::new()),
        }
    }

    fn resolve(
        &self,
        audience: &Audience,
        app: AppId,
        _: &str,
        online: Option<&TerminalSet>,
    ) -> Result<TerminalSet, Refusal> {
        self.lock().audience(app, audience, online)
    }

    fn state_of(&self, push: PushId, no: TerminalNo) -> Option<State> {
        [State::Pending, State::Delivered]
            .into_iter()
            .find(|state| self.targets(push, *state).is_some_and(|set| set.contains(no)))
    }

    fn group_in_audience(&self, _: PushId, _: TerminalNo) -> Option<(TerminalNo, String)> {
        None
    }

    fn offline_since_ms(&self, _: TerminalNo) -> Option<u64> {
        Some(77)
    }

    fn dispatched_to(&self, push: PushId, _: TerminalNo) -> Option<PushId> {
        Some(push)
    }

    fn owed_before(&self, _: TerminalNo, _: PushId, _: usize) -> usize {
        4
    }

    fn signing_key(&self) -> Option<SigningKey> {
        self.lock().key.clone()
    }

    fn positions(&self) -> watch::Receiver<Positions> {
        watch::channel(Positions::default()).1
    }

    fn receipts_begin(&self, app: AppId) -> ReceiptCursor {
        ReceiptCursor::deltas(app, 0, 0)
    }

    fn receipts_end(&self, app: AppId) -> ReceiptCursor {
        ReceiptCursor::deltas(app, self.lock().index + 1, 0)
    }

    fn receipts(&self, from: ReceiptCursor, _: PageLimits) -> ReceiptPage {
        ReceiptPage::empty(from)
    }

    fn named_at(&self, no: TerminalNo, _: u64) -> Option<TerminalId> {
        self.terminal_id(no)
    }

    fn webhook(&self, _: AppId) -> Option<WebhookRecord> {
        None
    }

    fn webhook_state(&self, _: AppId) -> Option<WebhookState> {
        None
    }
}

fn member(id: NodeId) -> Member {
    Member { id, addresses: addresses(id), voter: true, matched: Some(1) }
}

fn addresses(id: NodeId) -> NodeAddresses {
    NodeAddresses { link: format!("n{id}:1"), api: format!("n{id}:2"), mqtt: format!("n{id}:3") }
}
