//! The leader over real tables: proposals are applied at once, edges are scripts.

use std::collections::BTreeMap;

use cluster_proto::{
    Epoch, Message, MessageProperties, Outcome, PushKind, Qos, State,
    link::{
        self, Bind, Bound, Hello, Owed, PushDelivery, Receipt, SessionReplyBody, SessionRequestBody,
        Subscribe, Subscription,
    },
};
use raft_store::{
    CommandBatch, CommandBody, Effect,
    command::{AcceptPush, Audience, NewTerminal},
    tables::{self, EntryPosition, StateMachine, TablesOptions},
};

use super::*;

const APP: AppId = AppId::DEFAULT;

struct World {
    _dir: tempfile::TempDir,
    machine: StateMachine,
    tables: Tables,
    leader: Leader,
    index: u64,
    term: u64,
    now: Now,
    /// What was sent to each link, in order.
    sent: BTreeMap<LinkId, Vec<Sent>>,
    requests: u64,
    /// Proposals are kept back while false.
    commits: bool,
    held: Vec<(Token, Command)>,
}

#[derive(Debug, Clone)]
enum Sent {
    Control(LeaderControl),
    Session(SessionReply),
    Committed(Committed),
    Deliver(Deliver),
    Closed,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("tempdir");
        let (tables, machine) = tables::open(dir.path(), TablesOptions::default()).expect("open");
        let now = Now { mono_ms: 1_000, wall_ms: 1_000_000 };
        let settings = Settings { ttl_default_ms: 60_000, ttl_max_ms: 600_000, retention_ms: 60_000 };
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
            commits: true,
            held: Vec::new(),
        };
        world.apply(CommandBody::CreateApp { name: "default".to_owned() });
        world
    }

    /// Applies a command of the API.
    fn apply(&mut self, body: CommandBody) -> Applied {
        let applied = self.commit(Command::own(body));
        self.run();
        applied
    }

    fn commit(&mut self, command: Command) -> Applied {
        self.index += 1;
        let batch = CommandBatch { at_ms: self.now.wall_ms, commands: vec![command] };
        let position = EntryPosition { term: self.term, index: self.index };
        let mut effects = Vec::new();
        let mut applied =
            self.machine.apply(vec![(position, Some(batch))], None, &mut effects).expect("apply");
        for effect in effects {
            match effect {
                Effect::Accepted(push) => self.leader.handle(self.now, Event::Accepted(push)),
                Effect::Cancelled(push) => self.leader.handle(self.now, Event::Cancelled(push)),
                _ => {}
            }
        }
        applied.pop().and_then(|mut answers| answers.pop()).expect("one answer")
    }

    fn event(&mut self, event: Event) {
        self.leader.handle(self.now, event);
        self.run();
    }

    /// Carries out what the leader wants until it wants nothing.
    fn run(&mut self) {
        loop {
            let actions = self.leader.take_actions();
            if actions.is_empty() {
                return;
            }
            for action in actions {
                match action {
                    Action::Control(link, frame) => self.record(link, Sent::Control(frame)),
                    Action::Session(link, frame) => self.record(link, Sent::Session(frame)),
                    Action::Committed(link, frame) => self.record(link, Sent::Committed(frame)),
                    Action::Deliver(link, frame) => self.record(link, Sent::Deliver(frame)),
                    Action::Published(..) | Action::Transient(..) => {}
                    Action::Close(link) => self.record(link, Sent::Closed),
                    Action::Propose(token, command) if self.commits => {
                        let applied = self.commit(command);
                        self.leader.handle(self.now, Event::Applied(token, Ok(applied)));
                    }
                    Action::Propose(token, command) => self.held.push((token, command)),
                }
            }
        }
    }

    fn record(&mut self, link: LinkId, sent: Sent) {
        self.sent.entry(link).or_default().push(sent);
    }

    fn take(&mut self, link: LinkId) -> Vec<Sent> {
        self.sent.remove(&link).unwrap_or_default()
    }

    fn pass(&mut self, ms: u64) {
        self.now.mono_ms += ms;
        self.now.wall_ms += ms;
        self.event(Event::Tick);
    }

    /// A new leader with nothing but the tables.
    fn change_leader(&mut self) {
        self.term += 1;
        let settings = self.leader.settings.clone();
        self.leader = Leader::new(NodeId(9), self.term, self.tables.clone(), settings, self.now);
        self.sent.clear();
    }

    fn hello(&mut self, link: LinkId, edge: u64) {
        let hello =
            Hello { edge: NodeId(edge), incarnation: Incarnation(1), addresses: NodeAddresses::default() };
        self.event(Event::Control(link, EdgeControl::Hello(hello)));
    }

    fn link_edge(&mut self, edge: u64) -> LinkId {
        let link = LinkId(edge * 100 + self.term);
        self.hello(link, edge);
        self.event(Event::Control(link, EdgeControl::ResumeDone));
        link
    }

    fn register(&mut self, ids: &[&str]) -> Vec<TerminalNo> {
        let terminals = ids.iter().map(|id| NewTerminal { id: terminal(id), tags: None }).collect();
        match self.apply(CommandBody::RegisterTerminals { app: APP, terminals }) {
            Applied::Registered { nos, .. } => nos,
            other => panic!("{other:?}"),
        }
    }

    fn request(&mut self, link: LinkId, body: SessionRequestBody) -> u64 {
        self.requests += 1;
        let request = self.requests;
        self.event(Event::Session(link, SessionRequest { request, body }));
        request
    }

    fn bind_request(&mut self, link: LinkId, id: &str, after_receipts: u64) -> u64 {
        let bind = Bind {
            app: APP,
            terminal: terminal(id),
            no: None,
            credential_issued_at: 0,
            clean_start: true,
            session_expiry_s: 0,
            connection: self.requests + 1,
            after_receipts,
            will: None,
        };
        self.request(link, SessionRequestBody::Bind(bind))
    }

    fn bound(&mut self, link: LinkId) -> Option<Bound> {
        self.take(link).into_iter().find_map(|sent| match sent {
            Sent::Session(SessionReply { body: SessionReplyBody::Bound(bound), .. }) => Some(bound),
            _ => None,
        })
    }

    /// Binds and catches up: the terminal is live.
    fn online(&mut self, link: LinkId, id: &str) -> Bound {
        self.bind_request(link, id, 0);
        let bound = self.bound(link).expect("bound");
        if let Some(no) = bound.no {
            self.pull(link, no, bound.epoch, PushId(0));
        }
        bound
    }

    fn pull(&mut self, link: LinkId, no: TerminalNo, epoch: Epoch, after: PushId) -> Owed {
        self.request(link, SessionRequestBody::Pull { no, epoch, after, max: 64 });
        let page = self.take(link).into_iter().find_map(|sent| match sent {
            Sent::Deliver(Deliver::Owed(owed)) => Some(owed),
            _ => None,
        });
        page.expect("a page")
    }

    fn push(&mut self, audience: Audience, qos: Qos) -> PushId {
        let accept = AcceptPush {
            message: message(qos),
            audience,
            ttl_ms: 10_000,
            retained_ttl_ms: None,
            idempotency: None,
            exchange: None,
        };
        match self.apply(CommandBody::AcceptPush(accept)) {
            Applied::Accepted { push, .. } => push,
            other => panic!("{other:?}"),
        }
    }

    fn push_to(&mut self, ids: &[&str]) -> PushId {
        self.push(Audience::Terminals(ids.iter().map(|id| terminal(id)).collect()), Qos::AtLeastOnce)
    }

    fn receipt(&mut self, link: LinkId, seq: u64, push: PushId, no: TerminalNo, outcome: Outcome) {
        let items = vec![Receipt { push, outcome, terminals: TerminalSet::one(no) }];
        self.event(Event::Receipts(link, Receipts { seq, items, steps: Vec::new() }));
    }

    fn state_has(&self, push: PushId, state: State, no: TerminalNo) -> bool {
        self.tables.targets(push, state).is_some_and(|set| set.contains(no))
    }
}

fn terminal(id: &str) -> TerminalId {
    TerminalId::new(id).expect("id")
}

fn message(qos: Qos) -> Message {
    Message {
        app: APP,
        kind: PushKind::Identity,
        topic: "news".to_owned(),
        qos,
        payload: "hello".into(),
        properties: MessageProperties::default(),
        publisher: None,
        retain: false,
    }
}

fn deliveries(sent: &[Sent]) -> Vec<PushDelivery> {
    let push = |sent: &Sent| match sent {
        Sent::Deliver(Deliver::Push(delivery)) => Some(delivery.clone()),
        _ => None,
    };
    sent.iter().filter_map(push).collect()
}

fn withdrawals(sent: &[Sent]) -> Vec<(PushId, TerminalSet)> {
    let withdraw = |sent: &Sent| match sent {
        Sent::Deliver(Deliver::Withdraw { push, targets }) => Some((*push, targets.clone())),
        _ => None,
    };
    sent.iter().filter_map(withdraw).collect()
}

#[test]
fn a_push_reaches_the_edge_of_each_live_terminal_once_with_its_payload() {
    let mut w = World::new();
    let nos = w.register(&["tv-1", "tv-2", "tv-3"]);
    let (a, b) = (w.link_edge(1), w.link_edge(2));
    w.online(a, "tv-1");
    w.online(b, "tv-2");
    let push = w.push_to(&["tv-1", "tv-2", "tv-3"]);
    let to_a = deliveries(&w.take(a));
    assert_eq!(to_a.len(), 1);
    assert_eq!((to_a[0].push, to_a[0].targets.clone()), (push, TerminalSet::one(nos[0])));
    assert!(to_a[0].message.is_some());
    assert_eq!(deliveries(&w.take(b))[0].targets, TerminalSet::one(nos[1]));
    w.receipt(a, 1, push, nos[0], Outcome::Delivered);
    assert!(w.state_has(push, State::Delivered, nos[0]));
    assert!(w.state_has(push, State::Pending, nos[2]));
}

#[test]
fn a_receipt_is_answered_only_once_it_is_committed() {
    let mut w = World::new();
    let nos = w.register(&["tv-1"]);
    let a = w.link_edge(1);
    w.online(a, "tv-1");
    let push = w.push_to(&["tv-1"]);
    w.take(a);
    w.commits = false;
    w.receipt(a, 1, push, nos[0], Outcome::Delivered);
    assert!(w.take(a).is_empty(), "not committed yet");
    let (token, command) = w.held.pop().expect("a proposal");
    let applied = w.commit(command);
    w.event(Event::Applied(token, Ok(applied)));
    assert!(matches!(w.take(a)[..], [Sent::Committed(Committed { seq: 1 })]));
}

#[test]
fn a_terminal_that_catches_up_gets_what_it_is_owed_in_order_and_then_live_pushes() {
    let mut w = World::new();
    let nos = w.register(&["tv-1"]);
    let a = w.link_edge(1);
    let first = w.push_to(&["tv-1"]);
    let second = w.push_to(&["tv-1"]);
    w.bind_request(a, "tv-1", 0);
    let bound = w.bound(a).expect("bound");
    let third = w.push_to(&["tv-1"]);
    assert!(deliveries(&w.take(a)).is_empty(), "catching up: no live delivery");
    let page = w.pull(a, nos[0], bound.epoch, PushId(0));
    assert_eq!(page.pushes.iter().map(|p| p.push).collect::<Vec<_>>(), [first, second, third]);
    assert!(page.live);
    let fourth = w.push_to(&["tv-1"]);
    assert_eq!(deliveries(&w.take(a))[0].push, fourth);
}

#[test]
fn a_takeover_waits_for_the_old_edges_receipts() {
    let mut w = World::new();
    let nos = w.register(&["tv-1"]);
    let (a, b) = (w.link_edge(1), w.link_edge(2));
    let old = w.online(a, "tv-1");
    let push = w.push_to(&["tv-1"]);
    w.take(a);
    w.bind_request(b, "tv-1", 0);
    assert!(w.bound(b).is_none(), "the old edge has not let go");
    let unbind = w.take(a);
    assert!(
        matches!(&unbind[..], [Sent::Control(LeaderControl::Unbind { epoch, .. })] if *epoch == old.epoch)
    );
    w.event(Event::Control(
        a,
        EdgeControl::Unbound { epoch: old.epoch, receipts_seq: 1, unacknowledged: Vec::new() },
    ));
    assert!(w.bound(b).is_none(), "its receipts are not applied");
    w.receipt(a, 1, push, nos[0], Outcome::Delivered);
    let bound = w.bound(b).expect("bound");
    assert!(bound.epoch > old.epoch);
    assert!(w.pull(b, nos[0], bound.epoch, PushId(0)).pushes.is_empty(), "what was acknowledged is not owed");
}

#[test]
fn a_takeover_from_an_edge_that_does_not_answer_is_bounded() {
    let mut w = World::new();
    w.register(&["tv-1"]);
    let (a, b) = (w.link_edge(1), w.link_edge(2));
    w.online(a, "tv-1");
    w.bind_request(b, "tv-1", 0);
    w.pass(1_000);
    assert!(w.bound(b).is_none());
    w.pass(1_500);
    assert!(w.bound(b).is_some());
}

#[test]
fn after_a_leader_change_only_what_an_edge_lacks_is_sent_again() {
    let mut w = World::new();
    let nos = w.register(&["tv-1"]);
    let a = w.link_edge(1);
    let bound = w.online(a, "tv-1");
    let held = w.push_to(&["tv-1"]);
    let lost = w.push_to(&["tv-1"]);
    w.change_leader();
    let link = LinkId(777);
    w.hello(link, 1);
    let report = BindingReport {
        app: APP,
        terminal: terminal("tv-1"),
        no: bound.no,
        epoch: bound.epoch,
        after: held,
        live: true,
        credential_issued_at: 0,
    };
    w.event(Event::Control(link, EdgeControl::Bindings(vec![report])));
    w.event(Event::Control(link, EdgeControl::InFlight(vec![(held, TerminalSet::one(nos[0]))])));
    w.take(link);
    w.event(Event::Control(link, EdgeControl::ResumeDone));
    let again: Vec<_> = deliveries(&w.take(link)).iter().map(|d| d.push).collect();
    assert_eq!(again, [lost]);
    let next = w.push_to(&["tv-1"]);
    assert_eq!(deliveries(&w.take(link))[0].push, next, "live again");
}

#[test]
fn an_expired_push_in_flight_is_settled_by_the_edges_answer() {
    let mut w = World::new();
    let nos = w.register(&["tv-1", "tv-2"]);
    let a = w.link_edge(1);
    w.online(a, "tv-1");
    let push = w.push_to(&["tv-1", "tv-2"]);
    w.take(a);
    w.pass(11_000);
    assert!(w.state_has(push, State::Expired, nos[1]), "not in flight: expired at once");
    assert!(w.state_has(push, State::Pending, nos[0]), "in flight: its edge is asked");
    assert_eq!(withdrawals(&w.take(a)), [(push, TerminalSet::one(nos[0]))]);
    w.receipt(a, 1, push, nos[0], Outcome::NotWritten);
    assert!(w.state_has(push, State::Expired, nos[0]));
}

#[test]
fn an_expired_push_in_flight_to_a_lost_edge_ends_as_sent() {
    let mut w = World::new();
    let nos = w.register(&["tv-1"]);
    let a = w.link_edge(1);
    w.online(a, "tv-1");
    let push = w.push_to(&["tv-1"]);
    w.pass(11_000);
    w.event(Event::LinkClosed(a));
    w.pass(EDGE_LOST_MS + 1);
    w.pass(10_000);
    w.pass(3_000);
    assert!(w.state_has(push, State::Sent, nos[0]));
}

#[test]
fn a_push_in_flight_to_a_lost_edge_stays_owed() {
    let mut w = World::new();
    let nos = w.register(&["tv-1"]);
    let (a, b) = (w.link_edge(1), w.link_edge(2));
    w.online(a, "tv-1");
    let push = w.push_to(&["tv-1"]);
    w.event(Event::LinkClosed(a));
    w.bind_request(b, "tv-1", 0);
    let bound = w.bound(b).expect("an edge without a link is not waited for");
    let page = w.pull(b, nos[0], bound.epoch, PushId(0));
    assert_eq!(page.pushes.iter().map(|p| (p.push, p.dup)).collect::<Vec<_>>(), [(push, true)]);
}

#[test]
fn a_qos_0_push_is_dropped_for_whoever_is_offline() {
    let mut w = World::new();
    let nos = w.register(&["tv-1", "tv-2"]);
    let a = w.link_edge(1);
    w.online(a, "tv-1");
    let audience = Audience::Terminals(vec![terminal("tv-1"), terminal("tv-2")]);
    let push = w.push(audience, Qos::AtMostOnce);
    assert!(w.state_has(push, State::Dropped(cluster_proto::DropReason::Offline), nos[1]));
    assert!(w.state_has(push, State::Pending, nos[0]));
}

#[test]
fn a_lost_hint_is_made_up_for_by_a_rescan() {
    let mut w = World::new();
    w.register(&["tv-1"]);
    let a = w.link_edge(1);
    w.online(a, "tv-1");
    let accept = AcceptPush {
        message: message(Qos::AtLeastOnce),
        audience: Audience::All,
        ttl_ms: 10_000,
        retained_ttl_ms: None,
        idempotency: None,
        exchange: None,
    };
    w.index += 1;
    let commands = vec![Command::own(CommandBody::AcceptPush(accept))];
    let batch = CommandBatch { at_ms: w.now.wall_ms, commands };
    let position = EntryPosition { term: w.term, index: w.index };
    w.machine.apply(vec![(position, Some(batch))], None, &mut Vec::new()).expect("apply");
    w.event(Event::Rescan);
    w.event(Event::Rescan);
    assert_eq!(deliveries(&w.take(a)).len(), 1);
}

#[test]
fn a_subscription_lends_an_anonymous_client_a_number_and_makes_it_an_audience() {
    let mut w = World::new();
    let a = w.link_edge(1);
    let bound = w.online(a, "guest");
    assert_eq!(bound.no, None);
    let subscription =
        Subscription { filter: "news".to_owned(), qos: Qos::AtLeastOnce, options: Default::default() };
    let subscribe = Subscribe {
        seq: 1,
        app: APP,
        terminal: terminal("guest"),
        epoch: bound.epoch,
        connection: 1,
        subscriptions: vec![subscription],
    };
    w.request(a, SessionRequestBody::Subscribe(subscribe));
    let sent = w.take(a);
    let [Sent::Session(SessionReply { body: SessionReplyBody::Changed { no, .. }, .. })] = &sent[..] else {
        panic!("{sent:?}");
    };
    assert!(!no.is_registered());
    w.pull(a, *no, bound.epoch, PushId(0));
    w.push(Audience::Topic, Qos::AtLeastOnce);
    assert_eq!(deliveries(&w.take(a))[0].targets, TerminalSet::one(*no));
}

#[test]
fn heartbeats_are_answered_only_while_leadership_is_confirmed() {
    let mut w = World::new();
    let a = w.link_edge(1);
    w.take(a);
    w.event(Event::Control(a, EdgeControl::Heartbeat { nonce: 1, stats: Default::default() }));
    assert_eq!(w.take(a).len(), 1);
    w.pass(CONFIRMED_WITHIN_MS + 1);
    w.event(Event::Control(a, EdgeControl::Heartbeat { nonce: 2, stats: Default::default() }));
    assert!(w.take(a).is_empty());
    let now = w.now.mono_ms;
    w.event(Event::Confirmed(now));
    w.event(Event::Control(a, EdgeControl::Heartbeat { nonce: 3, stats: Default::default() }));
    assert_eq!(w.take(a).len(), 1);
}

#[test]
fn a_push_being_recalled_is_handed_to_nobody() {
    let mut w = World::new();
    let nos = w.register(&["tv-1"]);
    let a = w.link_edge(1);
    w.online(a, "tv-1");
    w.commits = false;
    let next = PushId(w.tables.applied().last_push.0 + 1);
    let (reply, mut answer) = oneshot::channel();
    w.event(Event::Ask(Question::Cancel(APP, next, reply)));
    let (token, cancel) = w.held.pop().expect("a proposal");
    let accept = AcceptPush {
        message: message(Qos::AtLeastOnce),
        audience: Audience::Terminals(vec![terminal("tv-1")]),
        ttl_ms: 10_000,
        retained_ttl_ms: None,
        idempotency: None,
        exchange: None,
    };
    // Accepted before the recall, but the hint comes to the leader after it was asked.
    w.commit(Command::own(CommandBody::AcceptPush(accept)));
    let applied = w.commit(cancel);
    w.event(Event::Applied(token, Ok(applied)));
    assert!(answer.try_recv().is_ok());
    assert!(deliveries(&w.take(a)).is_empty());
    assert!(w.state_has(next, State::Cancelled, nos[0]));
}

#[test]
fn a_late_unbind_does_not_detach_the_session_of_a_newer_connection() {
    let mut w = World::new();
    let nos = w.register(&["tv-1"]);
    let a = w.link_edge(1);
    let bind = |connection| Bind {
        app: APP,
        terminal: terminal("tv-1"),
        no: None,
        credential_issued_at: 0,
        clean_start: false,
        session_expiry_s: 60,
        connection,
        after_receipts: 0,
        will: None,
    };
    w.request(a, SessionRequestBody::Bind(bind(1)));
    let old = w.bound(a).expect("bound");
    w.request(a, SessionRequestBody::Bind(bind(2)));
    w.bound(a).expect("bound");
    let unbind = link::Unbind {
        app: APP,
        terminal: terminal("tv-1"),
        epoch: old.epoch,
        connection: 1,
        session_expiry_s: 60,
        unacknowledged: Vec::new(),
        will: cluster_proto::link::WillFate::Publish,
    };
    w.request(a, SessionRequestBody::Unbind(unbind));
    assert_eq!(w.tables.session(nos[0]).expect("session").detached_at_ms, None);
}

#[test]
fn a_kicked_terminal_is_offline_once_its_connection_is_closed() {
    let mut w = World::new();
    w.register(&["tv-1"]);
    let a = w.link_edge(1);
    let bound = w.online(a, "tv-1");
    let (reply, mut answer) = oneshot::channel();
    w.event(Event::Ask(Question::Kick(APP, terminal("tv-1"), UnbindReason::Kicked, reply)));
    assert_eq!(answer.try_recv(), Ok(true));
    w.event(Event::Control(
        a,
        EdgeControl::Unbound { epoch: bound.epoch, receipts_seq: 0, unacknowledged: Vec::new() },
    ));
    let unbind = link::Unbind {
        app: APP,
        terminal: terminal("tv-1"),
        epoch: bound.epoch,
        connection: 1,
        session_expiry_s: 0,
        unacknowledged: Vec::new(),
        will: cluster_proto::link::WillFate::Publish,
    };
    w.request(a, SessionRequestBody::Unbind(unbind));
    let (reply, mut answer) = oneshot::channel();
    w.event(Event::Ask(Question::Presence(APP, terminal("tv-1"), reply)));
    assert_eq!(answer.try_recv(), Ok(None));
}

#[test]
fn a_late_subscribe_of_an_old_connection_is_refused_and_leaves_no_gap() {
    let mut w = World::new();
    w.register(&["tv-1"]);
    let (a, b) = (w.link_edge(1), w.link_edge(2));
    let old = w.online(a, "tv-1");
    w.event(Event::LinkClosed(a));
    w.online(b, "tv-1");
    let again = LinkId(4_711);
    w.hello(again, 1);
    w.event(Event::Control(again, EdgeControl::ResumeDone));
    w.take(again);
    let subscribe = |seq| Subscribe {
        seq,
        app: APP,
        terminal: terminal("tv-1"),
        epoch: old.epoch,
        connection: 1,
        subscriptions: vec![Subscription {
            filter: "news".to_owned(),
            qos: Qos::AtLeastOnce,
            options: Default::default(),
        }],
    };
    for seq in 1..=2 {
        w.request(again, SessionRequestBody::Subscribe(subscribe(seq)));
        let sent = w.take(again);
        assert!(
            matches!(&sent[..], [Sent::Session(SessionReply { body: SessionReplyBody::Refused(_), .. })]),
            "{sent:?}"
        );
    }
}
