use super::*;

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

/// Terminals that never answer must not keep others waiting.
#[test]
fn withdrawn_pushes_are_looked_at_in_turn() {
    let mut w = World::new();
    w.register(&["tv-1"]);
    let a = w.link_edge(1);
    w.online(a, "tv-1");
    let pushes: Vec<_> = (0..300).map(|_| w.push_to(&["tv-1"])).collect();
    (0..3).for_each(|_| w.pass(11_000));
    w.take(a);
    let mut asked = BTreeSet::new();
    for _ in 0..2 {
        w.pass(2_000);
        asked.extend(withdrawals(&w.take(a)).into_iter().map(|(push, _)| push));
    }
    assert_eq!(asked.len(), pushes.len());
}

#[test]
fn a_recall_of_what_is_not_there_or_another_s_holds_nothing_back() {
    let mut w = World::new();
    let nos = w.register(&["tv-1"]);
    let a = w.link_edge(1);
    w.online(a, "tv-1");
    w.commits = false;
    let next = PushId(w.tables.applied().last_push.0 + 1);
    let (reply, mut answer) = oneshot::channel();
    w.event(Event::Ask(Question::Cancel(APP, next, reply)));
    let refused = Ok(Applied::Refused(Refusal::UnknownPush(next)));
    assert_eq!(answer.try_recv(), Ok(refused.clone()));
    let push = w.push_to(&["tv-1"]);
    assert_eq!((push, deliveries(&w.take(a)).len()), (next, 1));
    let (reply, mut answer) = oneshot::channel();
    w.event(Event::Ask(Question::Cancel(AppId(9), next, reply)));
    assert_eq!(answer.try_recv(), Ok(refused));
    assert!(w.held.is_empty() && w.state_has(push, State::Pending, nos[0]));
}

#[test]
fn a_push_being_recalled_is_handed_to_nobody() {
    let mut w = World::new();
    let nos = w.register(&["tv-1"]);
    let a = w.link_edge(1);
    w.online(a, "tv-1");
    w.commits = false;
    // Accepted before the recall, but the hint comes to the leader after it was asked.
    let accept = accept(terminals(&["tv-1"]), Qos::AtLeastOnce);
    let (_, effects) = w.commit_unseen(Command::own(CommandBody::AcceptPush(accept)));
    let next = w.tables.applied().last_push;
    let (reply, mut answer) = oneshot::channel();
    w.event(Event::Ask(Question::Cancel(APP, next, reply)));
    let (token, cancel) = w.held.pop().expect("a proposal");
    for effect in effects {
        if let raft_store::Effect::Accepted(push) = effect {
            w.event(Event::Accepted(push));
        }
    }
    let applied = w.commit(cancel);
    w.event(Event::Applied(token, Ok(applied)));
    assert!(answer.try_recv().is_ok());
    assert!(deliveries(&w.take(a)).is_empty());
    assert!(w.state_has(next, State::Cancelled, nos[0]));
}
