use super::*;

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
    w.event(Event::Control(a, EdgeControl::Unbound { epoch: old.epoch, receipts_seq: 1 }));
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
    };
    w.request(a, SessionRequestBody::Bind(bind(1)));
    let old = w.bound(a).expect("bound");
    w.request(a, SessionRequestBody::Bind(bind(2)));
    w.bound(a).expect("bound");
    let unbind = Unbind {
        app: APP,
        terminal: terminal("tv-1"),
        epoch: old.epoch,
        connection: 1,
        session_expiry_s: 60,
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
    w.event(Event::Control(a, EdgeControl::Unbound { epoch: bound.epoch, receipts_seq: 0 }));
    let unbind = Unbind {
        app: APP,
        terminal: terminal("tv-1"),
        epoch: bound.epoch,
        connection: 1,
        session_expiry_s: 0,
    };
    w.request(a, SessionRequestBody::Unbind(unbind));
    let (reply, mut answer) = oneshot::channel();
    w.event(Event::Ask(Question::Presence(APP, terminal("tv-1"), reply)));
    assert_eq!(answer.try_recv(), Ok(None));
}
