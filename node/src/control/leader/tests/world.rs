//! A leader, its tables, and what it said to whom.

use std::collections::BTreeMap;

use cluster_proto::{
    MessageProperties,
    link::{
        After, Bind, Bound, Hello, Owed, PushDelivery, Receipt, SessionReplyBody, SessionRequestBody,
        SharedDelivery, SharedInFlight, Subscribe, Subscription, Unacknowledged, Unbind, Unsubscribe,
        WillFate,
    },
};
use raft_store::{
    CommandBatch, Effect,
    command::{NewTerminal, PushOptions, Quotas},
    tables::{self, EntryPosition, StateMachine},
};

use super::*;

pub(super) const APP: AppId = AppId::DEFAULT;

pub(super) struct World {
    _dir: tempfile::TempDir,
    machine: StateMachine,
    pub(super) tables: Tables,
    pub(super) leader: Leader,
    index: u64,
    term: u64,
    pub(super) now: Now,
    /// What was sent to each link, in order.
    sent: BTreeMap<LinkId, Vec<Sent>>,
    requests: u64,
    /// The last number used of each edge's lanes.
    seqs: BTreeMap<(u64, Lane), u64>,
    /// Proposals are kept back while false.
    pub(super) commits: bool,
    pub(super) held: Vec<(Token, Command)>,
}

#[derive(Debug, Clone)]
pub(super) enum Sent {
    Control(LeaderControl),
    Session(SessionReply),
    Published(Published),
    Committed(Committed),
    Deliver(Deliver),
    Transient(Transient),
    Closed,
}

impl World {
    pub(super) fn new() -> Self {
        Self::with(TablesOptions::default())
    }

    pub(super) fn with(options: TablesOptions) -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let (tables, machine) = tables::open(dir.path(), options).expect("open");
        let now = Now { mono_ms: 1_000, wall_ms: 1_000_000 };
        let settings = Settings {
            ttl_default_ms: 60_000,
            ttl_max_ms: 600_000,
            retention_ms: 60_000,
            receipts_retention_ms: 60_000,
            receipts_bytes_max: 1 << 30,
        };
        let leader = Leader::new(NodeId(9), 1, tables.clone(), settings, now);
        let mut world = Self {
            _dir: dir,
            machine,
            tables,
            leader,
            index: 0,
            term: 1,
            now,
            sent: BTreeMap::new(),
            requests: 0,
            seqs: BTreeMap::new(),
            commits: true,
            held: Vec::new(),
        };
        world.apply(CommandBody::CreateApp { name: "default".to_owned(), quotas: Quotas::default() });
        world
    }

    // ------------------------------------------------------------ the log

    /// Applies a command of the API.
    pub(super) fn apply(&mut self, body: CommandBody) -> Applied {
        let applied = self.commit(Command::own(body));
        self.run();
        applied
    }

    pub(super) fn commit(&mut self, command: Command) -> Applied {
        let (applied, effects) = self.commit_unseen(command);
        for effect in effects {
            match effect {
                Effect::Accepted(push) => self.leader.handle(self.now, Event::Accepted(push)),
                Effect::Cancelled(push) => self.leader.handle(self.now, Event::Cancelled(push)),
                Effect::AppsChanged => self.leader.handle(self.now, Event::AppsChanged),
                Effect::Deleted { app, terminals, .. } => {
                    self.leader.handle(self.now, Event::Deleted(app, terminals));
                }
                _ => {}
            }
        }
        applied
    }

    /// Applies a command whose hints are lost.
    pub(super) fn commit_unseen(&mut self, command: Command) -> (Applied, Vec<Effect>) {
        self.index += 1;
        let batch = CommandBatch { at_ms: self.now.wall_ms, commands: vec![command] };
        let position = EntryPosition { term: self.term, index: self.index };
        let mut effects = Vec::new();
        let mut applied =
            self.machine.apply(vec![(position, Some(batch))], None, &mut effects).expect("apply");
        let answer = applied.pop().and_then(|mut answers| answers.pop()).expect("one answer");
        (answer, effects)
    }

    /// Commits the oldest proposal kept back.
    pub(super) fn commit_held(&mut self) {
        let (token, command) = self.held.remove(0);
        let applied = self.commit(command);
        self.event(Event::Applied(token, Ok(applied)));
    }

    pub(super) fn event(&mut self, event: Event) {
        self.leader.handle(self.now, event);
        self.run();
    }

    /// Carries out what the leader wants until it wants nothing.
    pub(super) fn run(&mut self) {
        loop {
            let actions = self.leader.take_actions();
            if actions.is_empty() {
                return;
            }
            for action in actions {
                match action {
                    Action::Control(link, frame) => self.record(link, Sent::Control(frame)),
                    Action::Session(link, frame) => self.record(link, Sent::Session(frame)),
                    Action::Published(link, frame) => self.record(link, Sent::Published(frame)),
                    Action::Committed(link, frame) => self.record(link, Sent::Committed(frame)),
                    Action::Deliver(link, frame) => self.record(link, Sent::Deliver(frame)),
                    Action::Transient(link, frame) => self.record(link, Sent::Transient(frame)),
                    Action::Close(link) => self.record(link, Sent::Closed),
                    Action::Propose(token, command) if self.commits => {
                        let applied = self.commit(*command);
                        self.leader.handle(self.now, Event::Applied(token, Ok(applied)));
                    }
                    Action::Propose(token, command) => self.held.push((token, *command)),
                }
            }
        }
    }

    fn record(&mut self, link: LinkId, sent: Sent) {
        self.sent.entry(link).or_default().push(sent);
    }

    pub(super) fn take(&mut self, link: LinkId) -> Vec<Sent> {
        self.sent.remove(&link).unwrap_or_default()
    }

    /// Takes the first frame that is looked for, and leaves the others.
    fn find<T>(&mut self, link: LinkId, wanted: impl Fn(&Sent) -> Option<T>) -> Option<T> {
        let sent = self.sent.get_mut(&link)?;
        let at = sent.iter().position(|sent| wanted(sent).is_some())?;
        wanted(&sent.remove(at))
    }

    pub(super) fn pass(&mut self, ms: u64) {
        self.now.mono_ms += ms;
        self.now.wall_ms += ms;
        self.event(Event::Tick);
    }

    /// A new leader with nothing but the tables.
    pub(super) fn change_leader(&mut self) {
        self.term += 1;
        let settings = self.leader.settings.clone();
        self.leader = Leader::new(NodeId(9), self.term, self.tables.clone(), settings, self.now);
        self.sent.clear();
    }

    // ------------------------------------------------------------ edges

    pub(super) fn hello(&mut self, link: LinkId, edge: u64) {
        let addresses = NodeAddresses { mqtt: format!("edge-{edge}:1883"), ..NodeAddresses::default() };
        let hello = Hello { edge: NodeId(edge), incarnation: Incarnation(1), addresses };
        self.event(Event::Control(link, EdgeControl::Hello(hello)));
    }

    /// An edge with no terminals.
    pub(super) fn link_edge(&mut self, edge: u64) -> LinkId {
        let link = LinkId(edge * 100 + self.term);
        self.hello(link, edge);
        self.event(Event::Control(link, EdgeControl::ResumeDone));
        link
    }

    /// The edge's next link, on which it reports these bindings, and what its members hold.
    pub(super) fn relink(
        &mut self,
        edge: u64,
        bindings: Vec<BindingReport>,
        shared: Vec<SharedInFlight>,
    ) -> LinkId {
        let link = LinkId(edge * 100 + 50 + self.term);
        self.hello(link, edge);
        self.event(Event::Control(link, EdgeControl::Bindings(bindings)));
        self.event(Event::Control(link, EdgeControl::SharedInFlight(shared)));
        self.event(Event::Control(link, EdgeControl::ResumeDone));
        link
    }

    pub(super) fn next_seq(&mut self, link: LinkId, lane: Lane) -> u64 {
        let seq = self.seqs.entry((link.0 / 100, lane)).or_default();
        *seq += 1;
        *seq
    }

    pub(super) fn request(&mut self, link: LinkId, body: SessionRequestBody) -> u64 {
        self.requests += 1;
        let request = self.requests;
        self.event(Event::Session(link, SessionRequest { request, body }));
        request
    }

    /// The reply to the last request.
    pub(super) fn reply(&mut self, link: LinkId) -> SessionReplyBody {
        let request = self.requests;
        let reply = self.find(link, |sent| match sent {
            Sent::Session(reply) if reply.request == request => Some(reply.body.clone()),
            _ => None,
        });
        reply.expect("a reply")
    }

    pub(super) fn publish(
        &mut self,
        link: LinkId,
        body: PublishBody,
    ) -> Result<PublishOutcome, RefuseReason> {
        let seq = self.next_seq(link, Lane::Publish);
        self.publish_as(link, seq, body)
    }

    pub(super) fn publish_as(
        &mut self,
        link: LinkId,
        seq: u64,
        body: PublishBody,
    ) -> Result<PublishOutcome, RefuseReason> {
        self.event(Event::Publish(link, Publish { seq, terminal: terminal("publisher"), body }));
        let answer = self.find(link, |sent| match sent {
            Sent::Published(published) if published.seq == seq => Some(published.result),
            _ => None,
        });
        answer.expect("an answer")
    }

    pub(super) fn receipt(&mut self, link: LinkId, seq: u64, push: PushId, no: TerminalNo, outcome: Outcome) {
        let items = vec![Receipt { push, outcome, terminals: TerminalSet::one(no) }];
        self.event(Event::Receipts(link, Receipts { seq, items, steps: Vec::new() }));
    }

    /// A receipt with the next number of the link.
    pub(super) fn answer(&mut self, link: LinkId, push: PushId, no: TerminalNo, outcome: Outcome) {
        let seq = self.next_seq(link, Lane::Receipts);
        self.receipt(link, seq, push, no, outcome);
    }

    pub(super) fn step(&mut self, link: LinkId, step: ExchangeStep) {
        let seq = self.next_seq(link, Lane::Receipts);
        self.event(Event::Receipts(link, Receipts { seq, items: Vec::new(), steps: vec![step] }));
    }

    // ------------------------------------------------------------ terminals

    pub(super) fn register(&mut self, ids: &[&str]) -> Vec<TerminalNo> {
        let terminals =
            ids.iter().map(|id| NewTerminal { id: terminal(id), tags: None, alias: None }).collect();
        match self.apply(CommandBody::RegisterTerminals { app: APP, terminals }) {
            Applied::Registered { nos, .. } => nos,
            other => panic!("{other:?}"),
        }
    }

    /// A clean session without expiry; its connection is named like the request.
    pub(super) fn bind(&self, id: &str) -> Bind {
        Bind {
            app: APP,
            terminal: terminal(id),
            no: None,
            credential_issued_at: 0,
            clean_start: true,
            session_expiry_s: 0,
            connection: self.requests + 1,
            after_receipts: 0,
            will: None,
        }
    }

    /// A session that outlives its connection.
    pub(super) fn lasting(&self, id: &str) -> Bind {
        Bind { clean_start: false, session_expiry_s: 60, ..self.bind(id) }
    }

    pub(super) fn bind_request(&mut self, link: LinkId, id: &str, after_receipts: u64) -> u64 {
        let bind = Bind { after_receipts, ..self.bind(id) };
        self.request(link, SessionRequestBody::Bind(bind))
    }

    pub(super) fn bound(&mut self, link: LinkId) -> Option<Bound> {
        self.take(link).into_iter().find_map(|sent| match sent {
            Sent::Session(SessionReply { body: SessionReplyBody::Bound(bound), .. }) => Some(bound),
            _ => None,
        })
    }

    /// Binds, and catches up if it has a number: the terminal is live.
    pub(super) fn connect(&mut self, link: LinkId, bind: Bind) -> Client {
        let (id, connection) = (bind.terminal.clone(), bind.connection);
        self.request(link, SessionRequestBody::Bind(bind));
        let bound = self.bound(link).expect("bound");
        if let Some(no) = bound.no {
            self.pull(link, no, bound.epoch, PushId(0));
        }
        Client { link, id, connection, bound }
    }

    pub(super) fn online(&mut self, link: LinkId, id: &str) -> Bound {
        let bind = self.bind(id);
        self.connect(link, bind).bound
    }

    pub(super) fn pull(&mut self, link: LinkId, no: TerminalNo, epoch: Epoch, after: PushId) -> Owed {
        let after = After { ordinary: after, ..After::default() };
        self.request(link, SessionRequestBody::Pull { no, epoch, after, max: 64 });
        let page = self.find(link, |sent| match sent {
            Sent::Deliver(Deliver::Owed(owed)) => Some(owed.clone()),
            _ => None,
        });
        page.expect("a page")
    }

    pub(super) fn subscribe(&mut self, client: &mut Client, filter: &str, qos: Qos) -> (TerminalNo, u64) {
        let subscription = Subscription { filter: filter.to_owned(), qos, options: Default::default() };
        let subscribe = Subscribe {
            seq: self.next_seq(client.link, Lane::Session),
            app: APP,
            terminal: client.id.clone(),
            epoch: client.bound.epoch,
            connection: client.connection,
            subscriptions: vec![subscription],
        };
        self.request(client.link, SessionRequestBody::Subscribe(subscribe));
        match self.reply(client.link) {
            SessionReplyBody::Changed { no, index, .. } => {
                if client.bound.no.replace(no).is_none() {
                    self.pull(client.link, no, client.bound.epoch, PushId(0));
                }
                (no, index)
            }
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn unsubscribe(&mut self, client: &Client, filter: &str) {
        let unsubscribe = Unsubscribe {
            seq: self.next_seq(client.link, Lane::Session),
            app: APP,
            terminal: client.id.clone(),
            epoch: client.bound.epoch,
            connection: client.connection,
            filters: vec![filter.to_owned()],
        };
        self.request(client.link, SessionRequestBody::Unsubscribe(unsubscribe));
    }

    pub(super) fn unbind(&mut self, client: &Client, session_expiry_s: u32) {
        self.unbind_with(client, session_expiry_s, WillFate::Discard, Vec::new());
    }

    pub(super) fn unbind_with(
        &mut self,
        client: &Client,
        session_expiry_s: u32,
        will: WillFate,
        unacknowledged: Vec<Unacknowledged>,
    ) {
        let unbind = Unbind {
            app: APP,
            terminal: client.id.clone(),
            epoch: client.bound.epoch,
            connection: client.connection,
            session_expiry_s,
            will,
            unacknowledged,
        };
        self.request(client.link, SessionRequestBody::Unbind(unbind));
    }

    /// The edge's answer to Unbind.
    pub(super) fn unbound(
        &mut self,
        client: &Client,
        receipts_seq: u64,
        unacknowledged: Vec<Unacknowledged>,
    ) {
        let epoch = client.bound.epoch;
        let frame = EdgeControl::Unbound { epoch, receipts_seq, unacknowledged };
        self.event(Event::Control(client.link, frame));
    }

    // ------------------------------------------------------------ pushes

    pub(super) fn push(&mut self, audience: Audience, qos: Qos) -> PushId {
        match self.apply(CommandBody::AcceptPush(accept(audience, qos))) {
            Applied::Accepted { push, .. } => push,
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn push_to(&mut self, ids: &[&str]) -> PushId {
        self.push(terminals(ids), Qos::AtLeastOnce)
    }

    /// To whoever subscribes to `news`.
    pub(super) fn push_news(&mut self, qos: Qos) -> PushId {
        self.push(Audience::Topic, qos)
    }

    pub(super) fn state_has(&self, push: PushId, state: State, no: TerminalNo) -> bool {
        self.tables.targets(push, state).is_some_and(|set| set.contains(no))
    }
}

/// A terminal with a connection.
#[derive(Debug, Clone)]
pub(super) struct Client {
    pub(super) link: LinkId,
    pub(super) id: TerminalId,
    pub(super) connection: u64,
    pub(super) bound: Bound,
}

impl Client {
    pub(super) fn no(&self) -> TerminalNo {
        self.bound.no.expect("a number")
    }

    /// As its edge reports it in Resume.
    pub(super) fn report(&self, after: PushId, live: bool) -> BindingReport {
        BindingReport {
            app: APP,
            terminal: self.id.clone(),
            no: self.bound.no,
            epoch: self.bound.epoch,
            after,
            live,
            credential_issued_at: 0,
        }
    }
}

pub(super) fn terminal(id: &str) -> TerminalId {
    TerminalId::new(id).expect("id")
}

pub(super) fn terminals(ids: &[&str]) -> Audience {
    Audience::Terminals(ids.iter().map(|id| terminal(id)).collect())
}

pub(super) fn message(qos: Qos) -> Message {
    Message {
        app: APP,
        kind: PushKind::Identity,
        topic: "news".to_owned(),
        qos,
        payload: "hello".into(),
        properties: MessageProperties::default(),
        retain: false,
        publisher: None,
        tells_expiry: false,
    }
}

/// What a terminal publishes.
pub(super) fn published(topic: &str, qos: Qos) -> Message {
    Message { kind: PushKind::Topic, topic: topic.to_owned(), ..message(qos) }
}

pub(super) fn accept(audience: Audience, qos: Qos) -> AcceptPush {
    AcceptPush {
        message: Message { kind: audience.kind(), ..message(qos) },
        audience,
        online: None,
        ttl_ms: 10_000,
        options: PushOptions::default(),
        retained_ttl_ms: None,
        exchange: None,
        idempotency: None,
    }
}

pub(super) fn deliveries(sent: &[Sent]) -> Vec<PushDelivery> {
    let push = |sent: &Sent| match sent {
        Sent::Deliver(Deliver::Push(delivery)) => Some(delivery.clone()),
        _ => None,
    };
    sent.iter().filter_map(push).collect()
}

pub(super) fn withdrawals(sent: &[Sent]) -> Vec<(PushId, TerminalSet)> {
    let withdraw = |sent: &Sent| match sent {
        Sent::Deliver(Deliver::Withdraw { push, targets }) => Some((*push, targets.clone())),
        _ => None,
    };
    sent.iter().filter_map(withdraw).collect()
}

pub(super) fn shared_deliveries(sent: &[Sent]) -> Vec<SharedDelivery> {
    let shared = |sent: &Sent| match sent {
        Sent::Deliver(Deliver::Shared(delivery)) => Some(delivery.clone()),
        _ => None,
    };
    sent.iter().filter_map(shared).collect()
}

pub(super) fn shared_withdrawals(sent: &[Sent]) -> Vec<SharedInFlight> {
    let withdraw = |sent: &Sent| match sent {
        Sent::Deliver(Deliver::WithdrawShared(held)) => Some(*held),
        _ => None,
    };
    sent.iter().filter_map(withdraw).collect()
}

pub(super) fn controls(sent: &[Sent]) -> Vec<LeaderControl> {
    let control = |sent: &Sent| match sent {
        Sent::Control(frame) => Some(frame.clone()),
        _ => None,
    };
    sent.iter().filter_map(control).collect()
}
