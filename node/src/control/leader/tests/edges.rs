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
fn who_is_online_is_known_when_every_edge_has_told_this_leader() {
    let mut w = World::new();
    let nos = w.register(&["tv-1", "tv-2", "tv-3"]);
    let (a, b) = (w.link_edge(1), w.link_edge(2));
    let first = w.connect(a, w.bind("tv-1"));
    w.online(b, "tv-2");
    let both = TerminalSet::from_iter([nos[0], nos[1]]);
    assert_eq!(online(&mut w), Some(both.clone()));
    w.event(Event::LinkClosed(b));
    assert_eq!(online(&mut w), Some(both), "as far as anybody knows");
    w.change_leader();
    w.relink(1, vec![first.report(PushId(0), false)], Vec::new());
    assert_eq!(online(&mut w), None, "the other may hold any terminal");
    w.relink(2, Vec::new(), Vec::new());
    assert_eq!(online(&mut w), Some(TerminalSet::one(nos[0])));
}

fn online(w: &mut World) -> Option<TerminalSet> {
    let (reply, mut answer) = oneshot::channel();
    w.event(Event::Ask(Question::Online(reply)));
    answer.try_recv().expect("answered at once")
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

#[test]
fn of_two_edges_with_one_terminal_the_one_that_lost_it_is_told_whoever_resumes_first() {
    for old_first in [true, false] {
        let mut w = World::new();
        w.register(&["tv-1"]);
        let (a, b) = (w.link_edge(1), w.link_edge(2));
        let old = w.connect(a, w.bind("tv-1"));
        w.bind_request(b, "tv-1", 0);
        w.pass(2_500);
        let bound = w.bound(b).expect("the old edge does not answer");
        let new = Client { link: b, bound, ..old.clone() };
        w.change_leader();
        let (mut first, mut second) = ((1, &old), (2, &new));
        if !old_first {
            std::mem::swap(&mut first, &mut second);
        }
        let links = [first, second]
            .map(|(edge, client)| (edge, w.relink(edge, vec![client.report(PushId(0), false)], Vec::new())));
        let told = |w: &mut World, edge: u64| {
            let link = links.iter().find(|(of, _)| *of == edge).expect("linked").1;
            let sent = controls(&w.take(link));
            sent.iter().filter(|frame| matches!(frame, LeaderControl::Unbind { .. })).count()
        };
        assert_eq!((told(&mut w, 1), told(&mut w, 2)), (1, 0), "old first: {old_first}");
    }
}

#[test]
fn edges_resume_when_hints_of_credentials_were_lost() {
    let mut w = World::new();
    let a = w.link_edge(1);
    w.take(a);
    w.event(Event::CredentialsUnknown);
    assert!(matches!(w.take(a)[..], [Sent::Closed]));
}

#[test]
fn an_edge_that_says_nothing_is_unlinked_and_then_ended_without_waiting_for_its_connection() {
    let mut w = World::new();
    let (silent, alive) = (w.link_edge(1), w.link_edge(2));
    w.take(silent);
    let live = |w: &mut World| w.leader.edges.keys().copied().collect::<Vec<_>>();
    let began = w.now.mono_ms;
    while live(&mut w).len() == 2 {
        w.pass(TICK_MS);
        w.event(Event::Control(alive, heartbeat(1)));
        let silent_ms = w.now.mono_ms - began;
        assert_eq!(w.leader.links.contains_key(&silent), silent_ms < EDGE_SILENT_MS, "after {silent_ms} ms");
        assert!(silent_ms <= EDGE_LOST_MS, "not ended");
    }
    assert_eq!((live(&mut w), w.now.mono_ms - began), (vec![NodeId(2)], EDGE_LOST_MS));
    assert!(matches!(w.take(silent)[..], [.., Sent::Closed]));
}

#[test]
fn a_leader_that_stood_still_takes_nobody_for_silent() {
    let mut w = World::new();
    let a = w.link_edge(1);
    w.pass(10_000);
    assert!(w.leader.links.contains_key(&a));
    (0..9).for_each(|_| w.pass(TICK_MS));
    assert!(w.leader.links.contains_key(&a), "heard of late, not silent");
    w.pass(TICK_MS);
    assert!(!w.leader.links.contains_key(&a));
}
