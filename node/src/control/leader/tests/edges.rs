use super::*;

fn heartbeat(nonce: u64) -> EdgeControl {
    EdgeControl::Heartbeat { nonce, stats: Stats::default() }
}

#[test]
fn after_a_leader_change_only_what_an_edge_lacks_is_sent_again() {
    let mut w = World::new();
    let nos = w.register(&["tv-1"]);
    let a = w.link_edge(1);
    let client = w.connect(a, w.bind("tv-1"));
    let held = w.push_to(&["tv-1"]);
    let lost = w.push_to(&["tv-1"]);
    w.change_leader();
    let link = LinkId(777);
    w.hello(link, 1);
    w.event(Event::Control(link, EdgeControl::Bindings(vec![client.report(held, true)])));
    w.event(Event::Control(link, EdgeControl::InFlight(vec![(held, TerminalSet::one(nos[0]))])));
    w.take(link);
    w.event(Event::Control(link, EdgeControl::ResumeDone));
    let again: Vec<_> = deliveries(&w.take(link)).iter().map(|d| d.push).collect();
    assert_eq!(again, [lost]);
    let next = w.push_to(&["tv-1"]);
    assert_eq!(deliveries(&w.take(link))[0].push, next, "live again");
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
fn heartbeats_are_answered_only_while_leadership_is_confirmed() {
    let mut w = World::new();
    let a = w.link_edge(1);
    w.take(a);
    w.event(Event::Control(a, heartbeat(1)));
    assert_eq!(w.take(a).len(), 1);
    w.pass(CONFIRMED_WITHIN_MS + 1);
    w.event(Event::Control(a, heartbeat(2)));
    assert!(w.take(a).is_empty());
    let now = w.now.mono_ms;
    w.event(Event::Confirmed(now));
    w.event(Event::Control(a, heartbeat(3)));
    assert_eq!(w.take(a).len(), 1);
}
