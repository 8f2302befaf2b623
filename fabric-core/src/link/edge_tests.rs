use cluster_proto::{
    AppId, Epoch, Message, MessageProperties, PushKind, Qos, TerminalId,
    link::{Bind, PublishBody, PublishOutcome, Step, Subscribe, Unbind},
};
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::*;

fn options() -> EdgeLinkOptions {
    EdgeLinkOptions {
        edge: NodeId(7),
        incarnation: Incarnation(1),
        addresses: NodeAddresses::default(),
        seeds: vec!["a:1".to_owned(), "b:1".to_owned()],
        seed: 0,
        publishes_max: 1_000,
        requests_max: 1_000,
    }
}

/// What the leader's clock says at time 0 of the edge's.
const LEADER_MS: u64 = 1_000_000_000;

fn welcome(applied: Vec<(LaneName, u64)>) -> LeaderControl {
    LeaderControl::Welcome(Welcome {
        leader: NodeId(1),
        term: 1,
        lease_ms: 3_000,
        heartbeat_ms: 500,
        applied,
        apps: Vec::new(),
        now_ms: LEADER_MS,
    })
}

fn publish(seq: u64, payload: u64) -> Publish {
    let message = Message {
        app: AppId::DEFAULT,
        kind: PushKind::Topic,
        topic: "t".to_owned(),
        qos: Qos::AtLeastOnce,
        payload: bytes::Bytes::copy_from_slice(&payload.to_be_bytes()),
        properties: MessageProperties::default(),
        publisher: None,
        retain: false,
        tells_expiry: false,
    };
    let body = PublishBody::Push { message, ttl_ms: None, exchange: None };
    Publish { seq, terminal: TerminalId::new("p").expect("id"), body }
}

fn subscribe() -> SessionRequestBody {
    SessionRequestBody::Subscribe(Subscribe {
        seq: 0,
        app: AppId::DEFAULT,
        terminal: TerminalId::new("p").expect("id"),
        epoch: Epoch::default(),
        connection: 1,
        subscriptions: Vec::new(),
    })
}

fn unbind() -> SessionRequestBody {
    SessionRequestBody::Unbind(Unbind {
        app: AppId::DEFAULT,
        terminal: TerminalId::new("p").expect("id"),
        epoch: Epoch::default(),
        connection: 1,
        session_expiry_s: 0,
        unacknowledged: Vec::new(),
        will: cluster_proto::link::WillFate::Publish,
    })
}

fn bind() -> SessionRequestBody {
    SessionRequestBody::Bind(Bind {
        app: AppId::DEFAULT,
        terminal: TerminalId::new("p").expect("id"),
        no: None,
        credential_issued_at: 0,
        clean_start: true,
        session_expiry_s: 0,
        connection: 1,
        after_receipts: 0,
        will: None,
    })
}

fn step(packet_id: u16) -> ExchangeStep {
    ExchangeStep { no: TerminalNo(1), connection: 1, packet_id, step: Step::Receive }
}

fn drain(link: &mut EdgeLink) -> Vec<EdgeOutput> {
    std::iter::from_fn(|| link.poll_output()).collect()
}

fn dialled(outputs: &[EdgeOutput]) -> Option<&str> {
    outputs.iter().find_map(|output| match output {
        EdgeOutput::Dial { address } => Some(address.as_str()),
        _ => None,
    })
}

/// A machine that reached Live at 0 ms; its outputs are drained.
fn live_link() -> EdgeLink {
    let mut link = EdgeLink::new(options(), 0);
    go_live(&mut link, 0, Vec::new());
    drain(&mut link);
    link
}

fn go_live(link: &mut EdgeLink, now_ms: u64, applied: Vec<(LaneName, u64)>) {
    link.handle_timeout(now_ms);
    link.handle_connected(now_ms);
    link.handle_control(now_ms, welcome(applied));
    link.resume(Vec::new(), FilterDelta::default(), BTreeMap::new(), Vec::new());
    answer_heartbeats(link, now_ms);
    link.handle_control(now_ms, LeaderControl::Resumed);
    assert!(link.is_live());
}

/// Answers every heartbeat sent; keeps the other outputs.
fn answer_heartbeats(link: &mut EdgeLink, now_ms: u64) {
    let outputs = drain(link);
    for output in outputs {
        match output {
            EdgeOutput::Control(EdgeControl::Heartbeat { nonce, .. }) => {
                let leader_ms = LEADER_MS + now_ms;
                link.handle_control(
                    now_ms,
                    LeaderControl::HeartbeatAck { nonce, now_ms: leader_ms, cluster: Default::default() },
                );
            }
            other => link.outputs.push_back(other),
        }
    }
}

#[test]
fn an_expiry_means_the_same_time_however_late_its_frame_is_read() {
    let mut link = EdgeLink::new(options(), 0);
    link.handle_timeout(0);
    link.handle_connected(0);
    link.handle_control(0, welcome(Vec::new()));
    assert_eq!(link.local_ms(LEADER_MS + 700), 700);
    // The process stands still for two seconds; then it reads a heartbeat's answer that waited.
    link.handle_timeout(500);
    answer_heartbeats(&mut link, 500);
    link.handle_timeout(1_000);
    let nonce = drain(&mut link).into_iter().find_map(|output| match output {
        EdgeOutput::Control(EdgeControl::Heartbeat { nonce, .. }) => Some(nonce),
        _ => None,
    });
    let answer = LeaderControl::HeartbeatAck {
        nonce: nonce.expect("a heartbeat"),
        now_ms: LEADER_MS + 1_010,
        cluster: Default::default(),
    };
    link.handle_control(3_000, answer);
    assert_eq!(link.local_ms(LEADER_MS + 2_500), 2_500, "expired when the frame is read at 3,000");
}

#[test]
fn it_follows_a_redirect_at_once_and_seeds_in_turn_otherwise() {
    let mut link = EdgeLink::new(options(), 0);
    link.handle_timeout(0);
    assert_eq!(dialled(&drain(&mut link)), Some("a:1"));
    link.handle_connected(1);
    link.handle_control(2, LeaderControl::Redirect { leader: Some("c:1".to_owned()) });
    link.handle_timeout(2);
    assert_eq!(dialled(&drain(&mut link)), Some("c:1"));
    link.handle_disconnected(3);
    assert_eq!(link.state(), EdgeState::Searching);
    link.handle_timeout(link.poll_timeout());
    assert_eq!(dialled(&drain(&mut link)), Some("b:1"));
}

#[test]
fn control_nodes_that_send_it_in_circles_are_not_followed_without_a_pause() {
    let mut link = EdgeLink::new(options(), 0);
    for _ in 0..=REDIRECTS_MAX {
        link.handle_timeout(0);
        link.handle_connected(0);
        link.handle_control(0, LeaderControl::Redirect { leader: Some("c:1".to_owned()) });
    }
    assert!(link.poll_timeout() > 0);
}

#[test]
fn a_node_that_does_not_answer_is_left_in_time() {
    let mut link = EdgeLink::new(options(), 0);
    link.handle_timeout(0);
    link.handle_timeout(DIAL_TIMEOUT_MS);
    assert!(drain(&mut link).contains(&EdgeOutput::Hangup));
    link.handle_timeout(link.poll_timeout());
    link.handle_connected(2_000);
    link.handle_timeout(2_000 + GREETING_TIMEOUT_MS);
    assert_eq!(link.state(), EdgeState::Searching);
}

#[test]
fn resume_tells_bindings_filters_and_in_flight_before_it_is_done() {
    let mut link = live_link();
    link.receipt(PushId(4), Outcome::Delivered, TerminalNo(2));
    link.handle_disconnected(10);
    link.handle_timeout(link.poll_timeout());
    link.handle_connected(20);
    link.handle_control(20, welcome(Vec::new()));
    drain(&mut link);
    let filters = FilterDelta {
        added: vec![(AppId::DEFAULT, "a/#".to_owned(), cluster_proto::link::FilterUse::Any)],
        removed: Vec::new(),
    };
    let shared = SharedInFlight { push: PushId(5), group: TerminalNo(9), member: TerminalNo(1) };
    let in_flight = BTreeMap::from([(PushId(4), TerminalSet::one(TerminalNo(1)))]);
    link.resume(Vec::new(), filters, in_flight, vec![shared]);
    let outputs = drain(&mut link);
    assert_eq!(outputs[2], EdgeOutput::Control(EdgeControl::SharedInFlight(vec![shared])));
    let EdgeOutput::Control(EdgeControl::InFlight(in_flight)) = &outputs[1] else { panic!("{outputs:?}") };
    assert_eq!(in_flight[0].1.len(), 2, "what waits in the outbox counts as in flight");
    assert_eq!(outputs.last(), Some(&EdgeOutput::Control(EdgeControl::ResumeDone)));
}

#[test]
fn filters_that_change_all_at_once_are_told_in_frames_that_fit() {
    let mut link = live_link();
    let named = |i: u32| (AppId::DEFAULT, format!("{i:01024}"), cluster_proto::link::FilterUse::Any);
    let delta =
        FilterDelta { added: (0..10_000).map(named).collect(), removed: (0..9_000).map(named).collect() };
    link.filters_changed(delta.clone());
    let mut told = FilterDelta::default();
    for output in drain(&mut link) {
        let EdgeOutput::Control(EdgeControl::Filters(part)) = output else { panic!("{output:?}") };
        let frame = EdgeControl::Filters(part.clone());
        cluster_proto::codec::encode(&frame, &mut bytes::BytesMut::new()).expect("a frame that fits");
        told.added.extend(part.added);
        told.removed.extend(part.removed);
    }
    assert_eq!(told, delta);
}

#[test]
fn nothing_numbered_is_sent_before_resumed() {
    let mut link = EdgeLink::new(options(), 0);
    link.publish(|seq| publish(seq, 1));
    link.receipt(PushId(1), Outcome::Delivered, TerminalNo(1));
    link.flush_receipts();
    link.request(subscribe());
    link.handle_timeout(0);
    link.handle_connected(0);
    link.handle_control(0, welcome(Vec::new()));
    let numbered = |outputs: &[EdgeOutput]| {
        let is = |o: &&EdgeOutput| {
            matches!(o, EdgeOutput::Publish(_) | EdgeOutput::Receipts(_) | EdgeOutput::Session(_))
        };
        outputs.iter().filter(is).count()
    };
    assert_eq!(numbered(&drain(&mut link)), 0);
    link.handle_control(0, LeaderControl::Resumed);
    assert_eq!(numbered(&drain(&mut link)), 3);
}

#[test]
fn what_was_applied_before_the_leader_changed_is_answered_and_not_sent_again() {
    let mut link = live_link();
    link.publish(|seq| publish(seq, 1));
    link.publish(|seq| publish(seq, 2));
    let covered = link.request(subscribe()).expect("room");
    link.handle_disconnected(10);
    drain(&mut link);
    go_live(&mut link, 2_000, vec![(LaneName::Publish, 1), (LaneName::Session, 1)]);
    let outputs = drain(&mut link);
    assert!(outputs.contains(&EdgeOutput::PublishAnswered { seq: 1, result: None }));
    assert!(
        outputs.contains(&EdgeOutput::SessionAnswered { request: covered, answer: SessionAnswer::Covered })
    );
    let resent: Vec<u64> = outputs
        .iter()
        .filter_map(|o| if let EdgeOutput::Publish(p) = o { Some(p.seq) } else { None })
        .collect();
    assert_eq!(resent, [2]);
}

#[test]
fn heartbeats_keep_the_lease_and_silence_ends_the_link_before_it() {
    let mut link = live_link();
    assert_eq!(link.lease_until_ms(), 3_000);
    for now in [500, 1_000, 1_500] {
        link.handle_timeout(now);
        answer_heartbeats(&mut link, now);
    }
    assert_eq!(link.lease_until_ms(), 4_500);
    for now in [2_000, 2_500, 3_000, 3_500] {
        link.handle_timeout(now);
    }
    assert!(drain(&mut link).contains(&EdgeOutput::Lost));
    assert_eq!(link.state(), EdgeState::Searching);
}

#[test]
fn a_lease_that_ran_out_while_suspended_ends_the_link_at_the_first_look() {
    let mut link = live_link();
    link.handle_timeout(60_000);
    let outputs = drain(&mut link);
    assert_eq!(&outputs[..2], [EdgeOutput::Hangup, EdgeOutput::Lost]);
}

#[test]
fn an_incarnation_declared_over_dials_again_only_as_a_new_life() {
    let mut link = live_link();
    link.publish(|seq| publish(seq, 1));
    let over = LeaderControl::Refused { reason: "over".to_owned(), incarnation_over: true };
    link.handle_control(5, over);
    assert!(matches!(drain(&mut link).last(), Some(EdgeOutput::StartNewLife { .. })));
    link.handle_timeout(100_000);
    assert_eq!(dialled(&drain(&mut link)), None);
    link.start_new_life(100_000, Incarnation(2));
    link.handle_timeout(100_000);
    assert!(dialled(&drain(&mut link)).is_some());
    assert_eq!(link.publish(|seq| publish(seq, 1)), Some(1), "a new life counts from 1");
}

#[test]
fn unbound_names_a_sequence_that_covers_the_receipts_before_it() {
    let mut link = live_link();
    link.receipt(PushId(1), Outcome::Delivered, TerminalNo(1));
    let unacknowledged = vec![Unacknowledged { packet_id: 3, push: PushId(2), target: TerminalNo(1) }];
    link.unbound(Epoch::default(), unacknowledged.clone());
    let outputs = drain(&mut link);
    assert!(matches!(&outputs[0], EdgeOutput::Receipts(batch) if batch.seq == 1));
    let unbound = EdgeControl::Unbound { epoch: Epoch::default(), receipts_seq: 1, unacknowledged };
    assert_eq!(outputs[1], EdgeOutput::Control(unbound));
}

#[test]
fn a_step_is_recorded_when_its_batch_is_committed_or_was_applied_before_the_leader_changed() {
    let mut link = live_link();
    let first = link.step(step(1));
    link.flush_receipts();
    let second = link.step(step(2));
    link.flush_receipts();
    link.handle_committed(Committed { seq: first });
    assert!(drain(&mut link).contains(&EdgeOutput::Recorded { seq: first }));
    link.handle_disconnected(10);
    drain(&mut link);
    go_live(&mut link, 2_000, vec![(LaneName::Receipts, second)]);
    assert!(drain(&mut link).contains(&EdgeOutput::Recorded { seq: second }));
    assert!(link.is_idle());
}

#[test]
fn heartbeats_tell_of_the_edge_and_their_answers_of_the_cluster() {
    let mut link = live_link();
    link.set_stats(Stats { connected: 3, ..Stats::default() });
    link.handle_timeout(500);
    let told = drain(&mut link).into_iter().find_map(|output| match output {
        EdgeOutput::Control(EdgeControl::Heartbeat { nonce, stats }) => Some((nonce, stats.connected)),
        _ => None,
    });
    let (nonce, connected) = told.expect("a heartbeat");
    assert_eq!(connected, 3);
    let cluster = Stats { connected: 8, ..Stats::default() };
    link.handle_control(500, LeaderControl::HeartbeatAck { nonce, now_ms: LEADER_MS + 500, cluster });
    assert_eq!(link.cluster_stats(), cluster);
}

#[test]
fn draining_is_told_again_to_a_new_leader() {
    let mut link = live_link();
    link.drain();
    assert_eq!(link.state(), EdgeState::Draining);
    link.handle_disconnected(10);
    drain(&mut link);
    go_live(&mut link, 3_000, Vec::new());
    assert!(drain(&mut link).contains(&EdgeOutput::Control(EdgeControl::Draining)));
}

#[test]
fn a_bind_given_up_before_it_was_sent_is_forgotten() {
    let mut link = EdgeLink::new(options(), 0);
    let request = link.request(bind()).expect("room");
    assert!(!link.give_up_bind(request));
    go_live(&mut link, 0, Vec::new());
    assert!(link.is_idle() && !drain(&mut link).iter().any(|o| matches!(o, EdgeOutput::Session(_))));
}

/// The session may be with its connection: whoever has it on the next link is told that it ended.
#[test]
fn of_a_bind_that_was_sent_and_given_up_the_end_is_told_on_the_next_link() {
    for lost_first in [true, false] {
        let mut link = live_link();
        let request = link.request(bind()).expect("room");
        if lost_first {
            link.handle_disconnected(10);
        }
        assert_eq!(link.give_up_bind(request), !lost_first);
        if !lost_first {
            link.handle_disconnected(10);
        }
        for now_ms in [3_000, 6_000] {
            drain(&mut link);
            go_live(&mut link, now_ms, Vec::new());
            let outputs = drain(&mut link);
            let sent: Vec<_> = outputs.iter().filter(|o| matches!(o, EdgeOutput::Session(_))).collect();
            let [
                EdgeOutput::Session(SessionRequest { request: same, body: SessionRequestBody::Unbind(end) }),
            ] = sent[..]
            else {
                panic!("{sent:?}");
            };
            assert_eq!((*same, end.connection, end.epoch), (request, 1, Epoch::default()));
            assert_eq!(end.will, cluster_proto::link::WillFate::Discard);
            link.handle_disconnected(now_ms + 10);
        }
        drain(&mut link);
        go_live(&mut link, 9_000, Vec::new());
        link.handle_session_reply(SessionReply { request, body: SessionReplyBody::Unbound });
        assert!(link.is_idle());
    }
}

#[test]
fn the_answer_to_a_bind_given_up_is_still_heard_on_the_same_link() {
    let mut link = live_link();
    let request = link.request(bind()).expect("room");
    link.give_up_bind(request);
    drain(&mut link);
    let body = SessionReplyBody::Refused(RefuseReason::Stale);
    link.handle_session_reply(SessionReply { request, body });
    assert!(matches!(drain(&mut link)[..], [EdgeOutput::SessionAnswered { .. }]));
}

#[test]
fn a_leader_that_grants_no_lease_is_left_after_some_heartbeats_not_at_once() {
    let mut link = EdgeLink::new(options(), 0);
    link.handle_timeout(0);
    link.handle_connected(0);
    link.handle_control(0, welcome(Vec::new()));
    link.resume(Vec::new(), FilterDelta::default(), BTreeMap::new(), Vec::new());
    link.handle_control(1, LeaderControl::Resumed);
    link.handle_timeout(500);
    assert!(link.is_live() && !link.may_act(500));
    link.handle_timeout(1_500);
    assert!(!link.is_live());
}

// ---------------------------------------------------------------- a leader on a lossy connection

/// What apply keeps: the last sequence of every lane, and every command that took effect.
#[derive(Default)]
struct Leader {
    published: Vec<u64>,
    subscribed: Vec<u64>,
    receipts: u64,
    delivered: BTreeMap<PushId, TerminalSet>,
    steps: Vec<u16>,
}

enum ToLeader {
    Publish(Publish),
    Receipts(Receipts),
    Session(SessionRequest),
}

enum ToEdge {
    Published(Published),
    Committed(Committed),
    Reply(SessionReply),
}

impl Leader {
    fn applied(&self) -> Vec<(LaneName, u64)> {
        vec![
            (LaneName::Publish, self.published.len() as u64),
            (LaneName::Session, self.subscribed.len() as u64),
            (LaneName::Receipts, self.receipts),
        ]
    }

    fn handle(&mut self, frame: ToLeader) -> Option<ToEdge> {
        match frame {
            ToLeader::Publish(publish) => {
                let PublishBody::Push { message, .. } = publish.body else { panic!("not a push") };
                let payload = message.payload.as_ref().try_into().expect("8 bytes");
                take_next(&mut self.published, publish.seq, u64::from_be_bytes(payload));
                Some(ToEdge::Published(Published { seq: publish.seq, result: Ok(PublishOutcome::Accepted) }))
            }
            ToLeader::Receipts(batch) => {
                assert!(batch.seq <= self.receipts + 1, "a gap in lane receipts");
                if batch.seq > self.receipts {
                    self.receipts = batch.seq;
                    self.steps.extend(batch.steps.iter().map(|step| step.packet_id));
                }
                for item in batch.items {
                    self.delivered.entry(item.push).or_default().0 |= &item.terminals.0;
                }
                Some(ToEdge::Committed(Committed { seq: batch.seq }))
            }
            ToLeader::Session(request) => {
                let SessionRequestBody::Subscribe(subscribe) = request.body else { return None };
                take_next(&mut self.subscribed, subscribe.seq, request.request);
                let body = SessionReplyBody::Refused(RefuseReason::Quota);
                Some(ToEdge::Reply(SessionReply { request: request.request, body }))
            }
        }
    }
}

fn take_next(applied: &mut Vec<u64>, seq: u64, value: u64) {
    let last = applied.len() as u64;
    assert!(seq <= last + 1, "a gap: {seq} after {last}");
    if seq == last + 1 {
        applied.push(value);
    }
}

/// The edge, the leader and the frames between them. Frames arrive in order; a lost connection loses the rest.
struct World {
    link: EdgeLink,
    leader: Leader,
    to_leader: VecDeque<ToLeader>,
    to_edge: VecDeque<ToEdge>,
    now_ms: u64,
    publishes: u64,
    subscribes: Vec<u64>,
    delivered: BTreeMap<PushId, TerminalSet>,
    answered: Vec<u64>,
    /// Sequence and packet id of every step asked for, and how many are recorded.
    steps: Vec<(u64, u16)>,
    recorded: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        Self {
            link: EdgeLink::new(EdgeLinkOptions { seed, ..options() }, 0),
            leader: Leader::default(),
            to_leader: VecDeque::new(),
            to_edge: VecDeque::new(),
            now_ms: 0,
            publishes: 0,
            subscribes: Vec::new(),
            delivered: BTreeMap::new(),
            answered: Vec::new(),
            steps: Vec::new(),
            recorded: 0,
        }
    }

    fn step(&mut self, random: &mut StdRng) {
        self.now_ms += random.random_range(0..20);
        match random.random_range(0..100) {
            0..20 => {
                let payload = self.publishes;
                self.publishes += u64::from(self.link.publish(|seq| publish(seq, payload)).is_some());
            }
            20..40 => self.receipt(random),
            40..50 => self.subscribes.extend(self.link.request(subscribe())),
            50..52 => drop(self.link.request(unbind())),
            52..70 => self.leader_reads(),
            70..88 => self.edge_reads(),
            88..90 => self.disconnect(),
            _ => self.progress(),
        }
        self.collect();
    }

    fn receipt(&mut self, random: &mut StdRng) {
        let (push, no) = (PushId(random.random_range(0..10)), TerminalNo(random.random_range(0..1_000)));
        self.link.receipt(push, Outcome::Delivered, no);
        self.delivered.entry(push).or_default().insert(no);
        if random.random_bool(0.3) {
            let packet_id = self.steps.len() as u16;
            self.steps.push((self.link.step(step(packet_id)), packet_id));
        }
        if random.random_bool(0.5) {
            self.link.flush_receipts();
        }
    }

    fn leader_reads(&mut self) {
        if let Some(frame) = self.to_leader.pop_front() {
            let answer = self.leader.handle(frame);
            self.to_edge.extend(answer);
        }
    }

    fn edge_reads(&mut self) {
        match self.to_edge.pop_front() {
            Some(ToEdge::Published(published)) => self.link.handle_published(published),
            Some(ToEdge::Committed(committed)) => self.link.handle_committed(committed),
            Some(ToEdge::Reply(reply)) => self.link.handle_session_reply(reply),
            None => {}
        }
    }

    fn disconnect(&mut self) {
        self.to_leader.clear();
        self.to_edge.clear();
        self.link.handle_disconnected(self.now_ms);
    }

    fn progress(&mut self) {
        self.link.handle_timeout(self.now_ms);
        match self.link.state() {
            EdgeState::Dialing => self.link.handle_connected(self.now_ms),
            EdgeState::Greeting => {
                let applied = self.leader.applied();
                self.link.handle_control(self.now_ms, welcome(applied));
                self.link.resume(Vec::new(), FilterDelta::default(), BTreeMap::new(), Vec::new());
            }
            EdgeState::Resuming => self.link.handle_control(self.now_ms, LeaderControl::Resumed),
            _ => {}
        }
    }

    fn collect(&mut self) {
        for output in drain(&mut self.link) {
            match output {
                EdgeOutput::Publish(publish) => self.to_leader.push_back(ToLeader::Publish(publish)),
                EdgeOutput::Receipts(batch) => self.to_leader.push_back(ToLeader::Receipts(batch)),
                EdgeOutput::Session(request) => self.to_leader.push_back(ToLeader::Session(request)),
                EdgeOutput::Control(EdgeControl::Heartbeat { nonce, .. }) => {
                    let ack = LeaderControl::HeartbeatAck {
                        nonce,
                        now_ms: LEADER_MS + self.now_ms,
                        cluster: Default::default(),
                    };
                    self.link.handle_control(self.now_ms, ack);
                }
                EdgeOutput::PublishAnswered { seq, .. } => self.answered.push(seq),
                EdgeOutput::Recorded { seq } => {
                    let recorded = self.steps.partition_point(|(covering, _)| *covering <= seq);
                    assert!(recorded <= self.leader.steps.len(), "recorded before it was applied");
                    self.recorded = self.recorded.max(recorded);
                }
                EdgeOutput::Hangup => {
                    self.to_leader.clear();
                    self.to_edge.clear();
                }
                _ => {}
            }
        }
    }

    /// Without further faults everything is answered.
    fn settle(&mut self) {
        self.link.flush_receipts();
        for _ in 0..100_000 {
            self.now_ms += 5;
            self.progress();
            self.collect();
            self.leader_reads();
            self.edge_reads();
            self.collect();
            if self.leader.published.len() as u64 == self.publishes
                && self.to_leader.is_empty()
                && self.link.is_live()
                && self.recorded == self.steps.len()
            {
                break;
            }
        }
    }
}

#[test]
fn over_lost_connections_every_numbered_command_takes_effect_exactly_once_in_order() {
    for seed in 0..60 {
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let mut world = World::new(seed);
        for _ in 0..2_000 {
            world.step(&mut random);
        }
        world.settle();
        let expected: Vec<u64> = (0..world.publishes).collect();
        assert_eq!(world.leader.published, expected, "seed {seed}: publishes");
        assert_eq!(world.leader.subscribed, world.subscribes, "seed {seed}: subscription changes");
        assert_eq!(world.leader.delivered, world.delivered, "seed {seed}: receipts");
        let steps: Vec<u16> = world.steps.iter().map(|(_, packet_id)| *packet_id).collect();
        assert_eq!(world.leader.steps, steps, "seed {seed}: steps");
        let mut answered = world.answered.clone();
        answered.sort_unstable();
        answered.dedup();
        assert_eq!(answered.len(), world.answered.len(), "seed {seed}: an answer was given twice");
    }
}
