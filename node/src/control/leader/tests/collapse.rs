use raft_store::command::PushOptions;

use super::*;

fn keyed(ids: &[&str]) -> CommandBody {
    let options = PushOptions { collapse_key: Some("score".to_owned()), ..PushOptions::default() };
    CommandBody::AcceptPush(AcceptPush { options, ..accept(terminals(ids), Qos::AtLeastOnce) })
}

fn push_keyed(w: &mut World, ids: &[&str]) -> PushId {
    match w.apply(keyed(ids)) {
        Applied::Accepted { push, .. } => push,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_newest_push_replaces_what_is_not_in_flight_at_once_and_what_is_by_the_edges_answer() {
    let mut w = World::new();
    let nos = w.register(&["tv-1", "tv-2", "tv-3"]);
    let a = w.link_edge(1);
    w.online(a, "tv-1");
    let old = push_keyed(&mut w, &["tv-1", "tv-2", "tv-3"]);
    w.take(a);
    let new = push_keyed(&mut w, &["tv-1", "tv-2"]);
    assert!(w.state_has(old, State::Collapsed, nos[1]), "not in flight");
    assert!(w.state_has(old, State::Pending, nos[0]), "in flight: its edge is asked");
    assert!(w.state_has(old, State::Pending, nos[2]), "not in both audiences");
    let sent = w.take(a);
    assert_eq!(withdrawals(&sent), [(old, TerminalSet::one(nos[0]))]);
    assert_eq!(deliveries(&sent).iter().map(|d| d.push).collect::<Vec<_>>(), [new]);
    w.receipt(a, 1, old, nos[0], Outcome::NotWritten);
    assert!(w.state_has(old, State::Collapsed, nos[0]));
    assert!(w.state_has(new, State::Pending, nos[0]));
    assert_eq!((w.tables.collapses(9), w.tables.collapsing_after(PushId(0), 9)), (Vec::new(), Vec::new()));
}

#[test]
fn an_acknowledgement_of_a_replaced_push_wins_and_a_lost_edge_leaves_it_as_sent() {
    let mut w = World::new();
    let nos = w.register(&["tv-1", "tv-2"]);
    let a = w.link_edge(1);
    w.online(a, "tv-1");
    w.online(a, "tv-2");
    let old = push_keyed(&mut w, &["tv-1", "tv-2"]);
    push_keyed(&mut w, &["tv-1", "tv-2"]);
    w.receipt(a, 1, old, nos[0], Outcome::Delivered);
    assert!(w.state_has(old, State::Delivered, nos[0]));
    w.event(Event::LinkClosed(a));
    w.pass(EDGE_LOST_MS + 1);
    w.pass(3_000);
    assert!(w.state_has(old, State::Sent, nos[1]));
}

#[test]
fn while_it_is_being_replaced_a_push_is_handed_to_nobody_it_is_replaced_for() {
    let mut w = World::new();
    let nos = w.register(&["tv-1", "tv-2"]);
    let a = w.link_edge(1);
    let old = push_keyed(&mut w, &["tv-1", "tv-2"]);
    w.commits = false;
    w.commit(Command::own(keyed(&["tv-1"])));
    w.run();
    let (collapse, _) = w.held.iter().enumerate().find(|(_, (_, c))| is_collapse(c)).expect("proposed");
    let held = w.held.remove(collapse);
    w.commits = true;
    let owed = |w: &mut World, id: &str, no| {
        let bind = w.bind(id);
        w.request(a, SessionRequestBody::Bind(bind));
        let epoch = w.bound(a).expect("bound").epoch;
        w.pull(a, no, epoch, PushId(0)).pushes.iter().map(|owed| owed.push).collect::<Vec<_>>()
    };
    assert_eq!(owed(&mut w, "tv-1", nos[0]), [PushId(old.0 + 1)]);
    assert_eq!(owed(&mut w, "tv-2", nos[1]), [old], "of whom it is not taken back");
    let applied = w.commit(held.1);
    w.event(Event::Applied(held.0, Ok(applied)));
    assert!(w.state_has(old, State::Collapsed, nos[0]));
    assert!(w.state_has(old, State::Pending, nos[1]));
}

fn is_collapse(command: &Command) -> bool {
    matches!(command.body, CommandBody::Collapse { .. })
}

#[test]
fn what_an_earlier_leader_did_not_replace_or_ask_about_is_found_again() {
    let mut w = World::new();
    let nos = w.register(&["tv-1", "tv-2"]);
    let a = w.link_edge(1);
    let bound = w.online(a, "tv-1");
    let old = push_keyed(&mut w, &["tv-1", "tv-2"]);
    // The hint is lost, and the leader with it.
    w.commit_unseen(Command::own(keyed(&["tv-1", "tv-2"])));
    w.change_leader();
    w.hello(LinkId(102), 1);
    let report = BindingReport {
        app: APP,
        terminal: terminal("tv-1"),
        no: bound.no,
        epoch: bound.epoch,
        after: old,
        live: false,
        credential_issued_at: 0,
    };
    w.event(Event::Control(LinkId(102), EdgeControl::Bindings(vec![report])));
    let in_flight = vec![(old, TerminalSet::one(nos[0]))];
    w.event(Event::Control(LinkId(102), EdgeControl::InFlight(in_flight)));
    w.event(Event::Control(LinkId(102), EdgeControl::ResumeDone));
    w.pass(200);
    assert!(w.state_has(old, State::Collapsed, nos[1]));
    assert_eq!(withdrawals(&w.take(LinkId(102))), [(old, TerminalSet::one(nos[0]))]);
    // The question is lost, and asked again.
    w.pass(2_000);
    w.pass(2_000);
    assert!(!withdrawals(&w.take(LinkId(102))).is_empty());
    w.receipt(LinkId(102), 1, old, nos[0], Outcome::NotWritten);
    assert!(w.state_has(old, State::Collapsed, nos[0]));
}

#[test]
fn a_recall_of_a_replaced_push_leaves_who_was_replaced_collapsed() {
    let mut w = World::new();
    let nos = w.register(&["tv-1", "tv-2"]);
    let a = w.link_edge(1);
    w.online(a, "tv-1");
    let old = push_keyed(&mut w, &["tv-1", "tv-2"]);
    push_keyed(&mut w, &["tv-1"]);
    let (reply, _answer) = oneshot::channel();
    w.event(Event::Ask(Question::Cancel(APP, old, reply)));
    assert!(w.state_has(old, State::Cancelled, nos[1]));
    w.receipt(a, 1, old, nos[0], Outcome::NotWritten);
    assert!(w.state_has(old, State::Collapsed, nos[0]));
}
