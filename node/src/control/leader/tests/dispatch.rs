use super::*;

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
fn best_effort_subscribers_are_shown_what_is_for_all_subscribers_and_nothing_narrower() {
    let mut w = World::new();
    let a = w.link_edge(1);
    let added = vec![(APP, "news".to_owned(), FilterUse::BestEffort)];
    w.event(Event::Control(a, EdgeControl::Filters(FilterDelta { added, removed: Vec::new() })));
    let shown = |w: &mut World, audience| {
        w.take(a);
        w.push(audience, Qos::AtLeastOnce);
        deliveries(&w.take(a)).iter().any(|delivery| delivery.best_effort)
    };
    assert!(shown(&mut w, Audience::Topic));
    let narrowed = Audience::And(vec![Audience::Topic, Audience::Not(Box::new(Audience::Online))]);
    assert_eq!(narrowed.kind(), PushKind::Topic);
    assert!(!shown(&mut w, narrowed));
    assert!(!shown(&mut w, Audience::Or(vec![Audience::Topic, Audience::All])));
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
fn a_qos_0_push_of_an_earlier_leader_is_dropped_for_whoever_is_offline_once_all_edges_have_told() {
    let mut w = World::new();
    let nos = w.register(&["tv-1", "tv-2"]);
    let a = w.link_edge(1);
    let client = w.connect(a, w.bind("tv-1"));
    w.commits = false;
    let push = w.push(terminals(&["tv-1", "tv-2"]), Qos::AtMostOnce);
    assert_eq!(w.held.len(), 1, "settling is not committed any more");
    w.held.clear();
    w.commits = true;
    w.change_leader();
    w.pass(TICK_MS);
    assert!(w.state_has(push, State::Pending, nos[1]), "it may be at an edge that has not said so");
    w.relink(1, vec![client.report(PushId(0), false)], Vec::new());
    w.pass(TICK_MS);
    let offline = State::Dropped(cluster_proto::DropReason::Offline);
    assert!(w.state_has(push, offline, nos[1]) && w.state_has(push, State::Pending, nos[0]));
}

#[test]
fn a_qos_0_push_whose_settling_failed_is_settled_later() {
    let mut w = World::new();
    let nos = w.register(&["tv-1"]);
    w.commits = false;
    let push = w.push(terminals(&["tv-1"]), Qos::AtMostOnce);
    let (token, _) = w.held.pop().expect("a proposal");
    w.commits = true;
    w.event(Event::Applied(token, Err(ProposeError::Full)));
    w.pass(TICK_MS);
    assert!(w.state_has(push, State::Dropped(cluster_proto::DropReason::Offline), nos[0]));
}

#[test]
fn what_apply_settled_is_in_flight_no_longer() {
    let mut w = World::new();
    let a = w.link_edge(1);
    let mut guest = w.connect(a, w.bind("guest"));
    w.subscribe(&mut guest, "news", Qos::AtLeastOnce);
    w.push_news(Qos::AtLeastOnce);
    assert_eq!(w.leader.handed.len(), 1);
    w.unbind(&guest, 0);
    w.pass(1_000);
    assert!(w.leader.handed.is_empty());
}

#[test]
fn a_lost_hint_is_made_up_for_by_a_rescan() {
    let mut w = World::new();
    w.register(&["tv-1"]);
    let a = w.link_edge(1);
    w.online(a, "tv-1");
    let accept = accept(Audience::All, Qos::AtLeastOnce);
    w.commit_unseen(Command::own(CommandBody::AcceptPush(accept)));
    w.event(Event::Rescan);
    w.event(Event::Rescan);
    assert_eq!(deliveries(&w.take(a)).len(), 1);
}
