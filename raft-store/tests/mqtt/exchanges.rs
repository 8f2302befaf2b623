//! Deliveries and exchanges a session goes on with (MQTT sections 4.3.3 and 4.4).

use cluster_proto::{
    AppId, Incarnation, Message, NodeId, Outcome, PushId, PushKind, State, TerminalNo,
    link::{Lane, OutboundStage, Step, Unacknowledged, WillFate},
};
use raft_store::{
    Applied, CommandBody, Refusal,
    command::{Holder, OpenSession},
};

use crate::world::{
    message,
    store::{Opened, Store, connection, open, set, steps_of},
};

/// A terminal with a session that stays, subscribed to `a`, over connection 1 at edge 1.
fn subscriber(store: &mut Store) -> (Holder, TerminalNo) {
    let holder = connection(1, 1, 1);
    let no = store.connect(open(&holder, 60)).no;
    store.subscribe(&holder, "a");
    (holder, no)
}

fn begin(push: PushId, target: TerminalNo) -> Step {
    Step::Begin { push, target }
}

fn unacknowledged(packet_id: u16, push: PushId, target: TerminalNo) -> Unacknowledged {
    Unacknowledged { packet_id, push, target }
}

/// The terminal connects again, at edge 2.
fn resume(store: &mut Store, connection_no: u64) -> Opened {
    store.connect(open(&connection(1, 2, connection_no), 60))
}

#[test]
fn a_delivery_goes_on_from_the_step_that_was_committed_last() {
    let mut store = Store::new();
    let (holder, no) = subscriber(&mut store);
    let pushes = [store.publish("a"), store.publish("a"), store.publish("a")];
    store.steps(&holder, &[(1, begin(pushes[0], no)), (2, begin(pushes[1], no)), (3, begin(pushes[2], no))]);
    store.steps(&holder, &[(2, Step::Receive), (3, Step::Receive), (3, Step::Complete)]);
    store.lose(&holder, 60);
    let expected = [(2, pushes[1], OutboundStage::Received), (1, pushes[0], OutboundStage::Begun)];
    assert_eq!(resume(&mut store, 1).outbound, expected);
    assert_eq!(store.tables.outbound(no).len(), 2);
}

#[test]
fn after_the_loss_of_an_edge_a_delivery_goes_on_too() {
    let mut store = Store::new();
    let (holder, no) = subscriber(&mut store);
    let push = store.publish("a");
    store.steps(&holder, &[(7, begin(push, no)), (7, Step::Receive)]);
    store.end_edge(1, 1);
    assert_eq!(resume(&mut store, 1).outbound, [(7, push, OutboundStage::Received)]);
}

#[test]
fn steps_proposed_twice_take_effect_once() {
    let mut store = Store::new();
    let (holder, no) = subscriber(&mut store);
    let push = store.publish("a");
    let body = steps_of(no, &holder, &[(1, begin(push, no)), (1, Step::Receive)]);
    let command = store.numbered(&holder, Lane::Receipts, body);
    assert_eq!(store.entry(vec![command.clone()]), [Applied::Done]);
    store.steps(&holder, &[(1, Step::Complete)]);
    assert_eq!(store.entry(vec![command]), [Applied::Duplicate]);
    assert!(store.tables.outbound(no).is_empty(), "the packet id is free and stays free");
}

#[test]
fn a_step_of_a_connection_that_lost_the_session_is_void() {
    let mut store = Store::new();
    let (old, no) = subscriber(&mut store);
    let push = store.publish("a");
    store.steps(&old, &[(1, begin(push, no))]);
    let new = connection(1, 2, 1);
    store.connect(open(&new, 60));
    store.steps(&old, &[(1, Step::Receive), (2, begin(push, no))]);
    assert_eq!(stages(&store, no), [(1, OutboundStage::Begun)]);
    store.steps(&new, &[(1, Step::Receive)]);
    assert_eq!(stages(&store, no), [(1, OutboundStage::Received)]);
    // The same connection number in another life of the edge is another connection.
    let later = Holder { incarnation: Incarnation(2), ..new };
    store.apply(CommandBody::EdgeStarted { edge: NodeId(2), incarnation: Incarnation(2) });
    store.steps(&later, &[(1, Step::Complete)]);
    assert_eq!(stages(&store, no), [(1, OutboundStage::Received)]);
}

#[test]
fn a_step_applied_after_the_end_of_its_connection_still_counts() {
    let mut store = Store::new();
    let (holder, no) = subscriber(&mut store);
    let push = store.publish("a");
    store.steps(&holder, &[(1, begin(push, no))]);
    store.lose(&holder, 60);
    store.steps(&holder, &[(1, Step::Receive)]);
    assert_eq!(resume(&mut store, 1).outbound, [(1, push, OutboundStage::Received)]);
}

#[test]
fn steps_out_of_order_change_nothing() {
    let mut store = Store::new();
    let (holder, no) = subscriber(&mut store);
    let push = store.publish("a");
    store.steps(&holder, &[(1, Step::Receive), (2, Step::Complete)]);
    assert!(stages(&store, no).is_empty());
    store.steps(&holder, &[(1, begin(push, no)), (1, Step::Receive), (1, Step::Receive)]);
    assert_eq!(stages(&store, no), [(1, OutboundStage::Received)]);
    // Without a session there is nobody to go on.
    let stranger = connection(2, 1, 1);
    let body = steps_of(TerminalNo(99), &stranger, &[(1, begin(push, no))]);
    store.lane(&stranger, Lane::Receipts, body);
    assert!(store.tables.outbound(TerminalNo(99)).is_empty());
}

#[test]
fn pubrel_goes_on_in_the_order_of_pubrec() {
    let mut store = Store::new();
    let (holder, no) = subscriber(&mut store);
    let pushes = [store.publish("a"), store.publish("a"), store.publish("a")];
    let begun: Vec<_> = pushes.iter().zip(1..).map(|(push, id)| (id, begin(*push, no))).collect();
    store.steps(&holder, &begun);
    store.steps(&holder, &[(3, Step::Receive), (1, Step::Receive)]);
    store.end_edge(1, 1);
    let ids: Vec<_> = resume(&mut store, 1).outbound.iter().map(|(id, ..)| *id).collect();
    assert_eq!(ids, [3, 1, 2]);
}

#[test]
fn what_was_not_acknowledged_is_sent_again_with_its_packet_id_in_the_order_it_was_sent() {
    let mut store = Store::new();
    let (holder, no) = subscriber(&mut store);
    let pushes: Vec<_> = (0..4).map(|_| store.publish("a")).collect();
    store.steps(&holder, &[(9, begin(pushes[1], no)), (2, begin(pushes[3], no))]);
    let sent = vec![unacknowledged(8, pushes[0], no), unacknowledged(1, pushes[2], no)];
    store.detach(&holder, 60, WillFate::Publish, sent);
    let expected = [
        (8, pushes[0], OutboundStage::Sent),
        (9, pushes[1], OutboundStage::Begun),
        (1, pushes[2], OutboundStage::Sent),
        (2, pushes[3], OutboundStage::Begun),
    ];
    assert_eq!(resume(&mut store, 1).outbound, expected);
    let expires_at_ms = store.tables.push(pushes[0]).unwrap().expires_at_ms;
    assert!(
        store.tables.outbound(no).iter().all(|o| o.expires_at_ms == Some(expires_at_ms) && o.target == no)
    );
}

#[test]
fn what_is_settled_meanwhile_is_not_sent_again() {
    let mut store = Store::new();
    let (holder, no) = subscriber(&mut store);
    let pushes = [store.publish("a"), store.publish("a"), store.publish("a")];
    let sent = (1..).zip(pushes).map(|(id, push)| unacknowledged(id, push, no)).collect();
    store.detach(&holder, 60, WillFate::Publish, sent);
    store.deliver(pushes[0], no);
    store.apply(CommandBody::ExpirePushes { pushes: vec![(pushes[1], set([]))] });
    assert_eq!(resume(&mut store, 1).outbound, [(3, pushes[2], OutboundStage::Sent)]);
}

#[test]
fn what_a_lost_connection_handed_out_ends_as_sent_when_its_push_is_taken_back() {
    let mut store = Store::new();
    let (holder, no) = subscriber(&mut store);
    let [begun, sent, never] = [store.publish("a"), store.publish("a"), store.publish("a")];
    store.steps(&holder, &[(1, begin(begun, no))]);
    store.detach(&holder, 60, WillFate::Publish, vec![unacknowledged(2, sent, no)]);
    let pushes = [begun, sent, never].map(|push| (push, set([]))).to_vec();
    store.apply(CommandBody::ExpirePushes { pushes });
    let state = |store: &Store, push| store.tables.counts(push).unwrap().by_state;
    for push in [begun, sent] {
        assert_eq!(state(&store, push), [(State::Pending, 0), (State::Sent, 1)]);
    }
    assert_eq!(state(&store, never), [(State::Pending, 0), (State::Expired, 1)]);
    store.receipt(begun, Outcome::Delivered, set([no.0]));
    assert_eq!(state(&store, begun), [(State::Pending, 0), (State::Delivered, 1)]);
}

#[test]
fn what_the_next_connection_did_not_write_was_sent_by_the_one_before() {
    let mut store = Store::new();
    let (holder, no) = subscriber(&mut store);
    let push = store.publish("a");
    store.detach(&holder, 60, WillFate::Publish, vec![unacknowledged(2, push, no)]);
    resume(&mut store, 1);
    store.apply(CommandBody::ExpirePushes { pushes: vec![(push, set([no.0]))] });
    store.receipt(push, Outcome::NotWritten, set([no.0]));
    assert_eq!(store.tables.targets(push, State::Sent).unwrap(), set([no.0]));
}

#[test]
fn a_recalled_push_is_not_handed_out_again_and_its_exchange_ends() {
    let mut store = Store::new();
    let (holder, no) = subscriber(&mut store);
    let push = store.publish("a");
    store.steps(&holder, &[(1, begin(push, no))]);
    store.lose(&holder, 60);
    store.apply(CommandBody::CancelPush { app: AppId::DEFAULT, push, in_flight: set([]) });
    assert_eq!(resume(&mut store, 1).outbound, [(1, push, OutboundStage::Received)]);
}

#[test]
fn the_end_of_a_connection_and_the_takeover_tell_the_same_delivery_and_it_goes_on_once() {
    let mut store = Store::new();
    let (holder, no) = subscriber(&mut store);
    let pushes = [store.publish("a"), store.publish("a")];
    let sent = vec![unacknowledged(1, pushes[0], no), unacknowledged(2, pushes[1], no)];
    store.detach(&holder, 60, WillFate::Publish, sent[..1].to_vec());
    let take_over = OpenSession { unacknowledged: sent, ..open(&connection(1, 2, 1), 60) };
    let first = store.connect(take_over.clone());
    let expected = [(1, pushes[0], OutboundStage::Sent), (2, pushes[1], OutboundStage::Sent)];
    assert_eq!(first.outbound, expected);
    // Around a leader change the same CONNECT is proposed again.
    let again = store.connect(take_over);
    assert_eq!(again, Opened { index: again.index, ..first });
}

#[test]
fn the_same_connect_again_does_not_undo_what_its_connection_did_since() {
    let mut store = Store::new();
    let (holder, no) = subscriber(&mut store);
    let pushes = [store.publish("a"), store.publish("a")];
    let sent = vec![unacknowledged(1, pushes[0], no)];
    store.detach(&holder, 60, WillFate::Publish, sent.clone());
    let new = connection(1, 2, 1);
    let take_over = OpenSession { unacknowledged: sent, ..open(&new, 60) };
    store.connect(take_over.clone());
    store.deliver(pushes[0], no);
    store.steps(&new, &[(1, begin(pushes[1], no))]);
    assert_eq!(store.connect(take_over).outbound, [(1, pushes[1], OutboundStage::Begun)]);
}

#[test]
fn a_takeover_knows_better_than_a_step_that_never_came() {
    let mut store = Store::new();
    let (holder, no) = subscriber(&mut store);
    let pushes = [store.publish("a"), store.publish("a")];
    store.steps(&holder, &[(1, begin(pushes[0], no)), (1, Step::Receive)]);
    // PUBCOMP came, its step did not; the packet id was used again.
    let take_over = OpenSession {
        unacknowledged: vec![unacknowledged(1, pushes[1], no)],
        ..open(&connection(1, 2, 1), 60)
    };
    assert_eq!(store.connect(take_over).outbound, [(1, pushes[1], OutboundStage::Sent)]);
}

#[test]
fn late_steps_leave_a_packet_id_that_was_used_again_alone() {
    let mut store = Store::new();
    let (holder, no) = subscriber(&mut store);
    let pushes = [store.publish("a"), store.publish("a")];
    store.detach(&holder, 60, WillFate::Publish, vec![unacknowledged(1, pushes[1], no)]);
    store.steps(&holder, &[(1, begin(pushes[0], no)), (1, Step::Receive), (1, Step::Complete)]);
    assert_eq!(resume(&mut store, 1).outbound, [(1, pushes[1], OutboundStage::Sent)]);
}

#[test]
fn each_end_of_a_connection_tells_all_that_was_not_acknowledged() {
    let mut store = Store::new();
    let (holder, no) = subscriber(&mut store);
    let pushes = [store.publish("a"), store.publish("a")];
    let sent = vec![unacknowledged(1, pushes[0], no), unacknowledged(2, pushes[1], no)];
    store.detach(&holder, 60, WillFate::Publish, sent);
    resume(&mut store, 1);
    store.detach(&connection(1, 2, 1), 60, WillFate::Publish, vec![unacknowledged(2, pushes[1], no)]);
    assert_eq!(resume(&mut store, 2).outbound, [(2, pushes[1], OutboundStage::Sent)]);
}

#[test]
fn what_a_member_had_for_its_group_is_not_sent_again_to_it_with_qos_1() {
    let mut store = Store::new();
    let (holder, no) = subscriber(&mut store);
    store.subscribe(&holder, "$share/g/b");
    let group = store.tables.groups_of(no)[0];
    let pushes = [store.publish("b"), store.publish("b")];
    store.steps(&holder, &[(1, begin(pushes[0], group))]);
    store.detach(&holder, 60, WillFate::Publish, vec![unacknowledged(2, pushes[1], group)]);
    assert_eq!(resume(&mut store, 1).outbound, [(1, pushes[0], OutboundStage::Begun)]);
    assert_eq!(store.tables.outbound(no)[0].target, group);
}

#[test]
fn an_exchange_outlives_its_push() {
    let mut store = Store::new();
    let (holder, no) = subscriber(&mut store);
    let pushes = [store.publish("a"), store.publish("a")];
    store.steps(&holder, &[(1, begin(pushes[0], no)), (2, begin(pushes[1], no)), (2, Step::Receive)]);
    for push in pushes {
        store.receipt(push, Outcome::Delivered, set([no.0]));
    }
    store.purge();
    assert!(store.tables.push(pushes[1]).is_none());
    store.lose(&holder, 60);
    let expected = [(2, pushes[1], OutboundStage::Received), (1, pushes[0], OutboundStage::Begun)];
    assert_eq!(resume(&mut store, 1).outbound, expected);
}

#[test]
fn a_retained_message_in_flight_goes_on_until_it_is_replaced() {
    let mut store = Store::new();
    let (holder, no) = subscriber(&mut store);
    let keep = |payload: &str| {
        let payload = payload.to_owned().into();
        let message = Message { retain: true, payload, ..message(PushKind::Topic, "b", None) };
        CommandBody::Retain { message, ttl_ms: None }
    };
    store.apply(keep("1"));
    let id = store.tables.retained(AppId::DEFAULT, "b", u64::MAX, None, 0).messages[0].id;
    store.steps(&holder, &[(2, begin(id, no))]);
    store.detach(&holder, 60, WillFate::Publish, vec![unacknowledged(1, id, no)]);
    let both = [(1, id, OutboundStage::Sent), (2, id, OutboundStage::Begun)];
    assert_eq!(resume(&mut store, 1).outbound, both);
    store.apply(keep("2"));
    assert!(store.tables.retained_by_id(id).is_none());
    assert_eq!(resume(&mut store, 2).outbound, both[1..], "QoS 2 has to end its exchange");
}

#[test]
fn exchanges_end_with_the_session() {
    let mut store = Store::new();
    let before = {
        let (holder, _) = subscriber(&mut store);
        store.detach(&holder, 0, WillFate::Discard, Vec::new());
        store.tables.row_count().unwrap()
    };
    let (holder, no) = subscriber(&mut store);
    let push = store.publish("a");
    store.steps(&holder, &[(1, begin(push, no))]);
    store.publish_exactly_once(&holder, "nobody", 5);
    let fresh = store.connect(OpenSession { clean_start: true, ..open(&connection(1, 2, 1), 60) });
    assert!(!fresh.present && fresh.outbound.is_empty() && fresh.inbound.is_empty());
    let again = resume(&mut store, 1);
    assert!(again.outbound.is_empty() && again.inbound.is_empty());
    store.detach(&connection(1, 2, 1), 0, WillFate::Discard, Vec::new());
    store.purge();
    assert!(store.tables.row_count().unwrap() <= before + 1, "nothing is left but the count of receipts");
}

#[test]
fn a_qos_2_publish_is_accepted_once_until_it_is_released() {
    let mut store = Store::new();
    let (holder, no) = subscriber(&mut store);
    let Applied::Accepted { push, audience: 1, repeated: false } =
        store.publish_exactly_once(&holder, "a", 5)
    else {
        panic!("not accepted")
    };
    let again = Applied::Accepted { push, audience: 1, repeated: true };
    assert_eq!(store.publish_exactly_once(&holder, "a", 5), again);
    // The same over another connection, at another edge.
    let new = connection(1, 2, 1);
    assert_eq!(store.connect(open(&new, 60)).inbound, [5]);
    assert_eq!(store.publish_exactly_once(&new, "a", 5), again);
    assert_eq!(store.tables.owed_len(no, 9), 1);

    store.release(&new, 5);
    let next = store.publish_exactly_once(&new, "a", 5);
    assert!(matches!(next, Applied::Accepted { push: p, repeated: false, .. } if p > push), "{next:?}");
    store.release(&new, 5);
    store.release(&new, 6);
    assert!(resume(&mut store, 2).inbound.is_empty());
}

#[test]
fn a_qos_2_publish_to_nobody_is_remembered_as_well() {
    let mut store = Store::new();
    let (holder, _) = subscriber(&mut store);
    let Applied::Accepted { push, audience: 0, .. } = store.publish_exactly_once(&holder, "nobody", 5) else {
        panic!("not accepted")
    };
    store.subscribe(&holder, "nobody");
    let again = Applied::Accepted { push, audience: 0, repeated: true };
    assert_eq!(store.publish_exactly_once(&holder, "nobody", 5), again);
}

#[test]
fn what_a_connection_says_of_exchanges_after_it_lost_the_session_is_void() {
    let mut store = Store::new();
    let (old, _) = subscriber(&mut store);
    store.publish_exactly_once(&old, "a", 5);
    let new = connection(1, 2, 1);
    store.connect(open(&new, 60));
    // What the old edge still had in its lane. The terminal sends both again over the new connection.
    store.release(&old, 5);
    let stale = Applied::Refused(Refusal::Stale);
    assert_eq!(store.publish_exactly_once(&old, "a", 6), stale);
    assert_eq!(resume(&mut store, 1).inbound, [5]);
    // As a command of nobody's connection.
    let accept = raft_store::command::AcceptPush {
        exchange: Some(cluster_proto::link::Inbound { no: store.no(&new), connection: 1, packet_id: 7 }),
        ..crate::world::store::accept(message(PushKind::Topic, "a", None), cluster_proto::Audience::Topic)
    };
    assert_eq!(store.apply(CommandBody::AcceptPush(accept)), stale);
}

fn stages(store: &Store, no: TerminalNo) -> Vec<(u16, OutboundStage)> {
    store.tables.outbound(no).into_iter().map(|o| (o.packet_id, o.stage)).collect()
}
