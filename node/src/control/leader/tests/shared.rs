use cluster_proto::DropReason;

use super::*;

const SHARED: &str = "$share/g/news";

/// Members of one group, each on its edge, live.
fn members(w: &mut World, binds: Vec<(LinkId, Bind)>, qos: Qos) -> (TerminalNo, Vec<Client>) {
    let mut clients = Vec::new();
    for (link, bind) in binds {
        let mut client = w.connect(link, bind);
        w.subscribe(&mut client, SHARED, qos);
        clients.push(client);
    }
    let group = w.tables.groups_of(clients[0].no())[0];
    clients.iter().for_each(|client| drop(w.take(client.link)));
    (group, clients)
}

/// A world with one member on each of two edges.
fn two(lasting: bool, qos: Qos) -> (World, TerminalNo, Client, Client) {
    let mut w = World::new();
    let (a, b) = (w.link_edge(1), w.link_edge(2));
    let bind = |w: &World, id| if lasting { w.lasting(id) } else { w.bind(id) };
    let mut clients = Vec::new();
    for (link, id) in [(a, "m-1"), (b, "m-2")] {
        let bind = bind(&w, id);
        let mut client = w.connect(link, bind);
        w.subscribe(&mut client, SHARED, qos);
        clients.push(client);
    }
    let group = w.tables.groups_of(clients[0].no())[0];
    let second = clients.pop().expect("two");
    let first = clients.pop().expect("two");
    w.take(a);
    w.take(b);
    (w, group, first, second)
}

/// The pushes given to a client since the last look, as (push, dup).
fn given(w: &mut World, client: &Client) -> Vec<(PushId, bool)> {
    shared_deliveries(&w.take(client.link))
        .into_iter()
        .inspect(|delivery| assert_eq!(delivery.to.member, client.no()))
        .map(|delivery| (delivery.to.push, delivery.dup))
        .collect()
}

fn delivered(w: &World, push: PushId, group: TerminalNo) -> bool {
    w.state_has(push, State::Delivered, group)
}

#[test]
fn each_push_goes_to_one_member_in_turn_wherever_it_is_and_its_receipt_names_the_group() {
    let (mut w, group, first, second) = two(false, Qos::AtLeastOnce);
    let (one, two) = (w.push_news(Qos::AtLeastOnce), w.push_news(Qos::AtLeastOnce));
    let sent = w.take(first.link);
    let to_first = shared_deliveries(&sent);
    assert_eq!(to_first.len(), 1);
    let to = SharedInFlight { push: one, group, member: first.no() };
    assert_eq!((to_first[0].to, to_first[0].granted), (to, Qos::AtLeastOnce));
    assert!(to_first[0].message.is_some() && !to_first[0].dup);
    assert!(deliveries(&sent).is_empty(), "a group is no terminal");
    assert_eq!(given(&mut w, &second), [(two, false)]);
    w.answer(first.link, one, group, Outcome::Delivered);
    assert!(delivered(&w, one, group) && !delivered(&w, two, group));
}

#[test]
fn beside_ordinary_subscriptions_the_group_gets_its_own() {
    let (mut w, group, mut first, second) = two(false, Qos::AtLeastOnce);
    w.subscribe(&mut first, "news", Qos::AtLeastOnce);
    w.take(first.link);
    let push = w.push_news(Qos::AtLeastOnce);
    let sent = w.take(first.link);
    assert_eq!(deliveries(&sent)[0].targets, TerminalSet::one(first.no()));
    let shared = shared_deliveries(&sent).len() + given(&mut w, &second).len();
    assert_eq!(shared, 1);
    assert_eq!(w.tables.audience(push).expect("push").len(), 2);
    assert!(w.state_has(push, State::Pending, group));
}

#[test]
fn what_a_member_did_not_acknowledge_another_gets_once_its_last_receipts_could_come() {
    let (mut w, group, first, second) = two(false, Qos::AtLeastOnce);
    let pushes: Vec<_> = (0..4).map(|_| w.push_news(Qos::AtLeastOnce)).collect();
    assert_eq!(given(&mut w, &first), [(pushes[0], false), (pushes[2], false)]);
    assert_eq!(given(&mut w, &second), [(pushes[1], false), (pushes[3], false)]);
    w.unbind(&first, 0);
    w.answer(first.link, pushes[0], group, Outcome::Delivered);
    assert_eq!(given(&mut w, &second), []);
    w.pass(400);
    assert_eq!(given(&mut w, &second), [(pushes[2], true)]);
}

#[test]
fn what_the_members_of_a_lost_edge_held_others_get() {
    let (mut w, _, first, second) = two(false, Qos::AtLeastOnce);
    let push = w.push_news(Qos::AtLeastOnce);
    w.event(Event::LinkClosed(first.link));
    let next = w.push_news(Qos::AtLeastOnce);
    assert_eq!(given(&mut w, &second), [(next, false)], "the other edge's member is not reached");
    w.pass(EDGE_LOST_MS + 1);
    assert_eq!(given(&mut w, &second), [(push, true)]);
}

#[test]
fn a_group_without_a_live_member_is_owed_and_served_when_one_connects() {
    let (mut w, group, first, second) = two(true, Qos::AtLeastOnce);
    w.unbind(&first, 60);
    w.unbind(&second, 60);
    w.pass(400);
    let (one, two) = (w.push_news(Qos::AtLeastOnce), w.push_news(Qos::AtLeastOnce));
    assert!(w.state_has(one, State::Pending, group));
    w.request(second.link, SessionRequestBody::Bind(w.lasting("m-2")));
    let bound = w.bound(second.link).expect("bound");
    assert_eq!(given(&mut w, &second), [], "it is catching up");
    w.pull(second.link, second.no(), bound.epoch, PushId(0));
    assert_eq!(given(&mut w, &second), [(one, false), (two, false)]);
}

#[test]
fn a_member_that_could_not_write_pauses_and_the_push_goes_to_another() {
    let (mut w, group, first, second) = two(false, Qos::AtLeastOnce);
    let push = w.push_news(Qos::AtLeastOnce);
    w.answer(first.link, push, group, Outcome::NotWritten);
    assert_eq!(given(&mut w, &second), [(push, false)]);
    let next = w.push_news(Qos::AtLeastOnce);
    assert_eq!(given(&mut w, &second), [(next, false)], "paused");
    w.take(first.link);
    w.pass(200);
    let later = w.push_news(Qos::AtLeastOnce);
    assert_eq!(given(&mut w, &first), [(later, false)]);
}

#[test]
fn a_qos_2_delivery_that_has_begun_waits_for_its_member_on_whatever_edge_it_returns() {
    let (mut w, group, first, second) = two(true, Qos::ExactlyOnce);
    let push = w.push_news(Qos::ExactlyOnce);
    assert_eq!(given(&mut w, &first).len(), 1);
    let begin = Step::Begin { push, target: group };
    w.step(
        first.link,
        ExchangeStep { no: first.no(), connection: first.connection, packet_id: 3, step: begin },
    );
    w.event(Event::LinkClosed(first.link));
    w.pass(EDGE_LOST_MS + 1);
    assert_eq!(given(&mut w, &second), []);
    w.request(second.link, SessionRequestBody::Bind(w.lasting("m-1")));
    let bound = w.bound(second.link).expect("bound");
    assert_eq!(bound.outbound.len(), 1);
    assert_eq!((bound.outbound[0].push, bound.outbound[0].target), (push, group));
    w.pull(second.link, first.no(), bound.epoch, PushId(0));
    assert_eq!(shared_deliveries(&w.take(second.link)), []);
    w.answer(second.link, push, group, Outcome::Delivered);
    assert!(delivered(&w, push, group));
}

#[test]
fn a_qos_2_delivery_that_has_begun_ends_with_its_members_session_and_goes_to_nobody_else() {
    let (mut w, group, first, second) = two(true, Qos::ExactlyOnce);
    let push = w.push_news(Qos::ExactlyOnce);
    let begin = Step::Begin { push, target: group };
    w.step(
        first.link,
        ExchangeStep { no: first.no(), connection: first.connection, packet_id: 3, step: begin },
    );
    w.unbind(&first, 1);
    w.pass(400);
    w.pass(1_000);
    w.pass(2_000);
    assert!(w.state_has(push, State::Dropped(DropReason::SessionGone), group));
    assert_eq!(given(&mut w, &second), []);
}

#[test]
fn a_new_leader_learns_who_holds_what_before_it_gives_what_is_older_than_itself() {
    let (mut w, group, first, second) = two(false, Qos::AtLeastOnce);
    let (one, two) = (w.push_news(Qos::AtLeastOnce), w.push_news(Qos::AtLeastOnce));
    w.change_leader();
    let a = w.relink(1, vec![first.report(one, false)], Vec::new());
    let first = Client { link: a, ..first };
    w.pull(a, first.no(), first.bound.epoch, one);
    assert_eq!(given(&mut w, &first), [], "the other edge has not told");
    let new = w.push_news(Qos::AtLeastOnce);
    assert_eq!(given(&mut w, &first), [(new, false)], "nobody else can have it");
    let held = SharedInFlight { push: two, group, member: second.no() };
    let b = w.relink(2, vec![second.report(two, false)], vec![held]);
    assert_eq!(given(&mut w, &first), [(one, false)], "the first edge lost it");
    w.pull(b, second.no(), second.bound.epoch, two);
    let second = Client { link: b, ..second };
    assert_eq!(given(&mut w, &second), []);
    w.answer(b, two, group, Outcome::Delivered);
    assert!(delivered(&w, two, group));
}

#[test]
fn a_new_leader_leaves_what_an_absent_member_has_begun_with_it() {
    let (mut w, group, first, second) = two(true, Qos::ExactlyOnce);
    let push = w.push_news(Qos::ExactlyOnce);
    let begin = Step::Begin { push, target: group };
    w.step(
        first.link,
        ExchangeStep { no: first.no(), connection: first.connection, packet_id: 3, step: begin },
    );
    w.unbind(&first, 60);
    w.change_leader();
    w.relink(1, Vec::new(), Vec::new());
    let b = w.relink(2, vec![second.report(PushId(0), false)], Vec::new());
    w.pull(b, second.no(), second.bound.epoch, PushId(0));
    let second = Client { link: b, ..second };
    assert_eq!(given(&mut w, &second), []);
}

#[test]
fn what_was_lost_with_the_link_is_given_again_and_what_the_edge_holds_is_not() {
    let (mut w, group, first, second) = two(false, Qos::AtLeastOnce);
    let pushes: Vec<_> = (0..4).map(|_| w.push_news(Qos::AtLeastOnce)).collect();
    w.event(Event::LinkClosed(first.link));
    w.take(second.link);
    let held = SharedInFlight { push: pushes[0], group, member: first.no() };
    w.relink(1, vec![first.report(PushId(0), false)], vec![held]);
    assert_eq!(given(&mut w, &second), [(pushes[2], true)]);
}

#[test]
fn a_member_that_unsubscribes_is_asked_for_what_it_has_not_written() {
    let (mut w, group, first, second) = two(false, Qos::AtLeastOnce);
    let push = w.push_news(Qos::AtLeastOnce);
    w.take(first.link);
    w.unsubscribe(&first, SHARED);
    let held = SharedInFlight { push, group, member: first.no() };
    assert_eq!(shared_withdrawals(&w.take(first.link)), [held]);
    assert_eq!(given(&mut w, &second), [], "it may have been written");
    w.answer(first.link, push, group, Outcome::NotWritten);
    assert_eq!(given(&mut w, &second), [(push, false)]);
}

#[test]
fn a_withdrawn_push_is_asked_of_the_member_that_holds_it() {
    let (mut w, group, first, second) = two(false, Qos::AtLeastOnce);
    let push = w.push_news(Qos::AtLeastOnce);
    w.take(first.link);
    w.pass(11_000);
    assert!(w.state_has(push, State::Pending, group));
    let sent = w.take(first.link);
    assert_eq!(withdrawals(&sent), [], "a group is no terminal");
    assert!(shared_withdrawals(&sent).contains(&SharedInFlight { push, group, member: first.no() }));
    w.answer(first.link, push, group, Outcome::NotWritten);
    assert!(w.state_has(push, State::Expired, group));
    assert_eq!(given(&mut w, &second), []);
}

#[test]
fn a_push_no_member_holds_expires_at_once() {
    let (mut w, group, first, second) = two(true, Qos::AtLeastOnce);
    w.unbind(&first, 60);
    w.unbind(&second, 60);
    let push = w.push_news(Qos::AtLeastOnce);
    w.pass(11_000);
    assert!(w.state_has(push, State::Expired, group));
}

#[test]
fn a_qos_0_push_is_for_a_group_with_a_connected_member() {
    let (mut w, group, first, second) = two(true, Qos::AtLeastOnce);
    let online = w.push_news(Qos::AtMostOnce);
    assert!(w.state_has(online, State::Pending, group));
    w.unbind(&first, 60);
    w.unbind(&second, 60);
    let offline = w.push_news(Qos::AtMostOnce);
    assert!(w.state_has(offline, State::Dropped(DropReason::Offline), group));
}

#[test]
fn a_group_gone_with_its_last_member_is_owed_nothing() {
    let (mut w, group, first, second) = two(false, Qos::AtLeastOnce);
    let push = w.push_news(Qos::AtLeastOnce);
    w.unsubscribe(&first, SHARED);
    w.unbind(&second, 0);
    w.pass(400);
    assert!(w.state_has(push, State::Dropped(DropReason::SessionGone), group));
    w.take(first.link);
    w.answer(first.link, push, group, Outcome::Delivered);
    assert!(!w.tables.is_group(group));
    assert!(w.leader.shared.numbers().is_empty());
}

#[test]
fn a_transient_message_goes_to_one_live_member_of_each_group_also_at_its_origin() {
    let mut w = World::new();
    let a = w.link_edge(1);
    let binds = vec![(a, w.bind("m-1"))];
    let (_, clients) = members(&mut w, binds, Qos::AtMostOnce);
    let transient = Transient {
        origin: NodeId(1),
        app: APP,
        topic: "news".to_owned(),
        ttl_ms: None,
        members: Some(vec![TerminalNo(77)]),
        body: "x".into(),
    };
    w.event(Event::Transient(a, transient.clone()));
    let sent = w.take(a);
    let members = Some(vec![clients[0].no()]);
    assert!(matches!(&sent[..], [Sent::Transient(relayed)] if relayed.members == members), "{sent:?}");
    w.event(Event::Transient(a, Transient { topic: "other".to_owned(), ..transient }));
    assert!(w.take(a).is_empty());
}

#[test]
fn a_session_moved_to_another_edge_gives_what_it_did_not_acknowledge_to_others() {
    let (mut w, group, first, second) = two(true, Qos::AtLeastOnce);
    let push = w.push_news(Qos::AtLeastOnce);
    w.take(first.link);
    w.request(second.link, SessionRequestBody::Bind(w.lasting("m-1")));
    w.unbound(&first, 0, vec![Unacknowledged { packet_id: 1, push, target: group }]);
    let sent = w.take(second.link);
    let given = shared_deliveries(&sent);
    assert_eq!(given.len(), 1);
    assert_eq!((given[0].to.push, given[0].to.member, given[0].dup), (push, second.no(), true));
}

#[test]
fn what_a_member_without_a_lasting_session_had_written_with_qos_2_goes_to_nobody_else() {
    let (mut w, group, first, second) = two(false, Qos::ExactlyOnce);
    let pushes: Vec<_> = (0..4).map(|_| w.push_news(Qos::ExactlyOnce)).collect();
    w.take(second.link);
    w.unbind(&first, 0);
    w.answer(first.link, pushes[2], group, Outcome::NotWritten);
    assert_eq!(given(&mut w, &second), [(pushes[2], false)], "its edge says that it was not written");
    w.pass(400);
    assert_eq!(given(&mut w, &second), []);
    assert!(w.state_has(pushes[0], State::Sent, group));
}
