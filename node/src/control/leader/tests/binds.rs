use super::*;

const LASTS: u32 = 60;

fn unacknowledged(packet_id: u16, push: PushId, no: TerminalNo) -> Unacknowledged {
    Unacknowledged { packet_id, push, target: no }
}

/// (packet id, push) of what a session goes on with.
fn goes_on(bound: &Bound) -> Vec<(u16, PushId, OutboundStage)> {
    bound.outbound.iter().map(|o| (o.packet_id, o.push, o.stage)).collect()
}

fn unbinds(sent: &[Sent]) -> usize {
    controls(sent).iter().filter(|frame| matches!(frame, LeaderControl::Unbind { .. })).count()
}

#[test]
fn a_takeover_waits_for_the_old_edges_receipts() {
    let mut w = World::new();
    let nos = w.register(&["tv-1"]);
    let (a, b) = (w.link_edge(1), w.link_edge(2));
    let old = w.connect(a, w.bind("tv-1"));
    let push = w.push_to(&["tv-1"]);
    w.take(a);
    w.bind_request(b, "tv-1", 0);
    assert!(w.bound(b).is_none(), "the old edge has not let go");
    let unbind = w.take(a);
    assert!(
        matches!(&unbind[..], [Sent::Control(LeaderControl::Unbind { epoch, .. })] if *epoch == old.bound.epoch)
    );
    w.unbound(&old, 1, Vec::new());
    assert!(w.bound(b).is_none(), "its receipts are not applied");
    w.receipt(a, 1, push, nos[0], Outcome::Delivered);
    let bound = w.bound(b).expect("bound");
    assert!(bound.epoch > old.bound.epoch);
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
fn a_takeover_on_the_same_edge_asks_it_too_and_goes_on_with_what_was_not_acknowledged() {
    let mut w = World::new();
    let nos = w.register(&["tv-1"]);
    let a = w.link_edge(1);
    let old = w.connect(a, w.lasting("tv-1"));
    let push = w.push_to(&["tv-1"]);
    w.take(a);
    w.request(a, SessionRequestBody::Bind(w.lasting("tv-1")));
    assert_eq!(unbinds(&w.take(a)), 1);
    w.unbound(&old, 0, vec![unacknowledged(7, push, nos[0])]);
    let bound = w.bound(a).expect("bound");
    assert!(bound.session_present);
    assert_eq!(goes_on(&bound), [(7, push, OutboundStage::Sent)]);
}

#[test]
fn what_a_session_goes_on_with_is_in_flight() {
    let mut w = World::new();
    let nos = w.register(&["tv-1"]);
    let a = w.link_edge(1);
    let client = w.connect(a, w.lasting("tv-1"));
    let first = w.push_to(&["tv-1"]);
    w.unbind_with(&client, LASTS, WillFate::Discard, vec![unacknowledged(3, first, nos[0])]);
    w.take(a);
    w.request(a, SessionRequestBody::Bind(w.lasting("tv-1")));
    let bound = w.bound(a).expect("bound");
    assert_eq!(goes_on(&bound), [(3, first, OutboundStage::Sent)]);
    w.pass(11_000);
    assert!(w.state_has(first, State::Pending, nos[0]), "in flight: its edge is asked");
    assert!(withdrawals(&w.take(a)).contains(&(first, TerminalSet::one(nos[0]))));
    w.answer(a, first, nos[0], Outcome::Delivered);
    assert!(w.state_has(first, State::Delivered, nos[0]));
}

#[test]
fn steps_of_a_qos_2_exchange_are_where_the_session_goes_on_from_on_another_edge() {
    let mut w = World::new();
    let nos = w.register(&["tv-1"]);
    let (a, b) = (w.link_edge(1), w.link_edge(2));
    let client = w.connect(a, w.lasting("tv-1"));
    let push = w.push(terminals(&["tv-1"]), Qos::ExactlyOnce);
    let begin = Step::Begin { push, target: nos[0] };
    w.step(a, ExchangeStep { no: nos[0], connection: client.connection, packet_id: 5, step: begin });
    w.event(Event::LinkClosed(a));
    w.request(b, SessionRequestBody::Bind(w.lasting("tv-1")));
    let bound = w.bound(b).expect("bound");
    assert_eq!(goes_on(&bound), [(5, push, OutboundStage::Begun)]);
}

/// A page that leaves out what the session knows, and is empty, would be asked for again at once.
#[test]
fn a_page_brings_its_session_on_also_when_all_of_it_goes_on_from_before() {
    let mut w = World::new();
    let nos = w.register(&["tv-1"]);
    let a = w.link_edge(1);
    let client = w.connect(a, w.lasting("tv-1"));
    let pushes: Vec<_> = (0..OWED_PER_PULL_MAX).map(|_| w.push_to(&["tv-1"])).collect();
    let held = (1..).zip(&pushes).map(|(id, push)| unacknowledged(id, *push, nos[0])).collect();
    w.unbind_with(&client, LASTS, WillFate::Discard, held);
    w.request(a, SessionRequestBody::Bind(w.lasting("tv-1")));
    let bound = w.bound(a).expect("bound");
    let page = w.pull(a, nos[0], bound.epoch, PushId(0));
    assert_eq!(page.pushes.last().map(|row| row.push), pushes.last().copied());
    assert!(w.pull(a, nos[0], bound.epoch, pushes[pushes.len() - 1]).live);
}

#[test]
fn an_end_of_a_connection_that_was_not_committed_is_asked_for_again() {
    let mut w = World::new();
    let a = w.link_edge(1);
    let client = w.connect(a, w.lasting("tv-1"));
    w.take(a);
    w.commits = false;
    w.unbind(&client, LASTS);
    let (token, _) = w.held.pop().expect("a proposal");
    w.event(Event::Applied(token, Err(ProposeError::Full)));
    assert!(matches!(w.take(a)[..], [Sent::Closed]));
}

/// The client may have given up meanwhile: then its edge tells the next link that the connection ended, and nothing more.
#[test]
fn a_bind_whose_link_closed_while_it_waited_opens_no_session() {
    let mut w = World::new();
    let (a, b) = (w.link_edge(1), w.link_edge(2));
    let old = w.connect(a, w.lasting("tv-1"));
    w.request(b, SessionRequestBody::Bind(w.lasting("tv-1")));
    w.event(Event::LinkClosed(b));
    w.commits = false;
    w.unbound(&old, 0, Vec::new());
    assert!(w.held.is_empty() && w.leader.binds.is_empty());
}

#[test]
fn a_bind_whose_outcome_is_unknown_is_asked_for_again() {
    let mut w = World::new();
    let a = w.link_edge(1);
    w.commits = false;
    w.request(a, SessionRequestBody::Bind(w.lasting("tv-1")));
    w.take(a);
    let (token, _) = w.held.pop().expect("a proposal");
    w.event(Event::Applied(token, Err(ProposeError::Unknown)));
    assert!(w.take(a).iter().any(|sent| matches!(sent, Sent::Closed)));
}

#[test]
fn a_clean_session_with_a_will_is_opened_and_its_will_published_when_its_edge_dies() {
    let mut w = World::new();
    let (a, b) = (w.link_edge(1), w.link_edge(2));
    let mut watcher = w.connect(b, w.bind("watcher"));
    w.subscribe(&mut watcher, "wills", Qos::AtLeastOnce);
    let will = Will { message: published("wills", Qos::AtLeastOnce), delay_s: 0, ttl_ms: None };
    let client = w.connect(a, Bind { will: Some(will), ..w.bind("guest") });
    assert!(client.bound.no.is_some(), "it has a row, and so a number");
    w.take(b);
    w.event(Event::LinkClosed(a));
    w.pass(EDGE_LOST_MS + 1);
    assert_eq!(deliveries(&w.take(b))[0].targets, TerminalSet::one(watcher.no()));
}

#[test]
fn the_fate_of_a_will_follows_the_end_of_its_connection() {
    let mut w = World::new();
    let a = w.link_edge(1);
    let mut watcher = w.connect(a, w.bind("watcher"));
    w.subscribe(&mut watcher, "wills", Qos::AtLeastOnce);
    let will = || Some(Will { message: published("wills", Qos::AtLeastOnce), delay_s: 0, ttl_ms: None });
    let polite = w.connect(a, Bind { will: will(), ..w.bind("polite") });
    let lost = w.connect(a, Bind { will: will(), ..w.bind("lost") });
    w.take(a);
    w.unbind_with(&polite, 0, WillFate::Discard, Vec::new());
    assert_eq!(deliveries(&w.take(a)), []);
    w.unbind_with(&lost, 0, WillFate::Publish, Vec::new());
    assert_eq!(deliveries(&w.take(a)).len(), 1);
}

#[test]
fn a_delayed_will_is_published_when_its_time_has_come() {
    let mut w = World::new();
    let a = w.link_edge(1);
    let mut watcher = w.connect(a, w.bind("watcher"));
    w.subscribe(&mut watcher, "wills", Qos::AtLeastOnce);
    let will = Will { message: published("wills", Qos::AtLeastOnce), delay_s: 5, ttl_ms: None };
    let client = w.connect(a, Bind { will: Some(will), ..w.lasting("tv-1") });
    w.take(a);
    w.unbind_with(&client, LASTS, WillFate::Publish, Vec::new());
    w.pass(4_000);
    assert_eq!(deliveries(&w.take(a)), []);
    w.pass(1_000);
    assert_eq!(deliveries(&w.take(a)).len(), 1);
}

#[test]
fn a_late_unbind_does_not_detach_the_session_of_a_newer_connection() {
    let mut w = World::new();
    let nos = w.register(&["tv-1"]);
    let a = w.link_edge(1);
    let old = w.connect(a, w.lasting("tv-1"));
    w.request(a, SessionRequestBody::Bind(w.lasting("tv-1")));
    w.unbound(&old, 0, Vec::new());
    w.bound(a).expect("bound");
    w.unbind(&old, LASTS);
    assert_eq!(w.tables.session(nos[0]).expect("session").detached_at_ms, None);
}

#[test]
fn a_kicked_terminal_is_offline_once_its_connection_is_closed() {
    let mut w = World::new();
    w.register(&["tv-1"]);
    let a = w.link_edge(1);
    let client = w.connect(a, w.bind("tv-1"));
    let (reply, mut answer) = oneshot::channel();
    w.event(Event::Ask(Question::Kick(APP, terminal("tv-1"), UnbindReason::Kicked, reply)));
    assert_eq!(answer.try_recv(), Ok(true));
    w.unbound(&client, 0, Vec::new());
    w.unbind(&client, 0);
    let (reply, mut answer) = oneshot::channel();
    w.event(Event::Ask(Question::Presence(APP, terminal("tv-1"), reply)));
    assert_eq!(answer.try_recv(), Ok(None));
}
