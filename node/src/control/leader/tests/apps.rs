use cluster_proto::DropReason;
use raft_store::command::QuotaChange;

use super::*;

fn quotas(w: &mut World, change: QuotaChange) {
    w.apply(CommandBody::SetQuotas { app: APP, change });
}

fn push_of(topic: &str) -> PublishBody {
    PublishBody::Push { message: published(topic, Qos::AtLeastOnce), ttl_ms: None, exchange: None }
}

fn deleted(sent: &[Sent]) -> usize {
    let is_deleted =
        |frame: &&LeaderControl| matches!(frame, LeaderControl::Unbind { reason: UnbindReason::Deleted, .. });
    controls(sent).iter().filter(is_deleted).count()
}

#[test]
fn connections_are_counted_in_the_whole_cluster_and_a_takeover_needs_no_place() {
    let mut w = World::new();
    w.register(&["tv-1", "tv-2", "tv-3"]);
    let (a, b) = (w.link_edge(1), w.link_edge(2));
    quotas(&mut w, QuotaChange { connections: Some(2), ..QuotaChange::default() });
    let first = w.connect(a, w.bind("tv-1"));
    w.connect(b, w.bind("guest"));
    w.bind_request(b, "tv-2", 0);
    assert!(matches!(w.reply(b), SessionReplyBody::Refused(RefuseReason::Quota)));
    w.bind_request(b, "tv-1", 0);
    w.unbound(&first, 0, Vec::new());
    assert!(matches!(w.reply(b), SessionReplyBody::Bound(_)), "it takes the place of its own connection");
    quotas(&mut w, QuotaChange { connections: Some(0), ..QuotaChange::default() });
    w.bind_request(a, "tv-2", 0);
    assert!(matches!(w.reply(a), SessionReplyBody::Bound(_)));
}

#[test]
fn of_binds_under_way_at_once_no_more_get_a_place_than_there_are_and_the_others_leave_no_session_behind() {
    let mut w = World::new();
    w.register(&["tv-1", "tv-2"]);
    let a = w.link_edge(1);
    quotas(&mut w, QuotaChange { connections: Some(1), ..QuotaChange::default() });
    w.commits = false;
    w.request(
        a,
        SessionRequestBody::Bind(Bind {
            session_expiry_s: 0,
            will: Some(Will { message: published("w", Qos::AtMostOnce), delay_s: 0, ttl_ms: None }),
            ..w.bind("tv-1")
        }),
    );
    w.request(
        a,
        SessionRequestBody::Bind(Bind {
            session_expiry_s: 0,
            will: Some(Will { message: published("w", Qos::AtMostOnce), delay_s: 0, ttl_ms: None }),
            ..w.bind("tv-2")
        }),
    );
    w.commits = true;
    w.commit_held();
    assert!(w.bound(a).is_some());
    w.commit_held();
    assert!(matches!(w.reply(a), SessionReplyBody::Refused(RefuseReason::Quota)));
    assert_eq!(w.tables.sessions_len(), 1);
}

#[test]
fn an_app_publishes_no_faster_than_it_may_whoever_of_it_publishes() {
    let mut w = World::new();
    let a = w.link_edge(1);
    quotas(&mut w, QuotaChange { pushes_per_s: Some(2), pushes_burst: Some(3), ..QuotaChange::default() });
    let accepted = (0..10).filter(|_| w.publish(a, push_of("news")).is_ok()).count();
    assert_eq!(accepted, 3);
    assert_eq!(w.publish(a, push_of("news")), Err(RefuseReason::Quota));
    let release = Inbound { no: TerminalNo(1), connection: 1, packet_id: 1 };
    assert!(w.publish(a, PublishBody::Release(release)).is_ok(), "what only frees something is taken");
    let admitted = |w: &mut World| {
        let (reply, answer) = oneshot::channel();
        w.event(Event::Ask(Question::Admit(APP, reply)));
        { answer }.try_recv().expect("an answer")
    };
    assert!(admitted(&mut w).is_err_and(|wait_ms| (1..=501).contains(&wait_ms)), "one bucket for both ways");
    w.pass(1_000);
    assert_eq!(admitted(&mut w), Ok(()));
    assert!(w.publish(a, push_of("news")).is_ok());
    assert!(w.publish(a, push_of("news")).is_err());
    quotas(&mut w, QuotaChange { pushes_per_s: Some(0), ..QuotaChange::default() });
    assert!((0..100).all(|_| w.publish(a, push_of("news")).is_ok()));
}

#[test]
fn a_deleted_terminal_is_disconnected_and_what_its_edge_says_later_harms_nobody() {
    let mut w = World::new();
    let nos = w.register(&["tv-1", "tv-2"]);
    let a = w.link_edge(1);
    let client = w.connect(a, w.lasting("tv-1"));
    w.connect(a, w.bind("tv-2"));
    let push = w.push_to(&["tv-1", "tv-2"]);
    w.take(a);
    w.apply(CommandBody::DeleteTerminals { app: APP, terminals: TerminalSet::one(nos[0]) });
    assert_eq!(deleted(&w.take(a)), 1);
    assert!(w.state_has(push, State::Dropped(DropReason::TerminalDeleted), nos[0]));
    w.answer(a, push, nos[0], Outcome::Delivered);
    w.unbind(&client, 60);
    assert!(matches!(w.reply(a), SessionReplyBody::Unbound));
    assert!(w.state_has(push, State::Dropped(DropReason::TerminalDeleted), nos[0]));
    let (reply, mut answer) = oneshot::channel();
    w.event(Event::Ask(Question::Connected(APP, reply)));
    assert_eq!(answer.try_recv(), Ok(1));
    // An old credential lets nobody in, also when the id is registered again.
    w.register(&["tv-1"]);
    let old = Bind { credential_issued_at: w.now.wall_ms / 1_000, no: Some(nos[0]), ..w.bind("tv-1") };
    w.request(a, SessionRequestBody::Bind(old));
    assert!(matches!(w.reply(a), SessionReplyBody::Refused(RefuseReason::NotAuthorized)));
}

#[test]
fn an_edge_that_resumes_with_a_deleted_terminal_is_told() {
    let mut w = World::new();
    let nos = w.register(&["tv-1"]);
    let a = w.link_edge(1);
    let client = w.connect(a, w.bind("tv-1"));
    w.event(Event::LinkClosed(a));
    let delete = CommandBody::DeleteTerminals { app: APP, terminals: TerminalSet::one(nos[0]) };
    w.commit_unseen(Command::own(delete));
    let b = w.relink(1, vec![client.report(PushId(0), true)], Vec::new());
    assert_eq!(deleted(&w.take(b)), 1);
}

#[test]
fn a_deleted_app_is_removed_step_by_step_when_its_terminals_are_gone() {
    let mut w = World::new();
    let Applied::App(app) =
        w.apply(CommandBody::CreateApp { name: "shop".to_owned(), quotas: Default::default() })
    else {
        panic!("no app")
    };
    let terminals = ["tv-1", "tv-2"].map(|id| raft_store::command::NewTerminal {
        id: terminal(id),
        tags: None,
        alias: None,
    });
    w.apply(CommandBody::RegisterTerminals { app, terminals: terminals.to_vec() });
    let a = w.link_edge(1);
    for id in ["tv-1", "guest"] {
        let bind = Bind { app, ..w.lasting(id) };
        w.connect(a, bind);
    }
    w.online(a, "of-another-app");
    w.take(a);
    w.apply(CommandBody::DeleteApp { app });
    w.pass(1_000);
    assert_eq!(deleted(&w.take(a)), 2);
    for _ in 0..20 {
        w.pass(1_000);
    }
    assert!(w.tables.apps_being_removed().is_empty());
    assert_eq!((w.tables.app_by_name("shop"), w.tables.sessions_len()), (None, 0));
    assert_eq!(w.tables.terminal_by_no(TerminalNo(1)), None);
    assert_eq!(deleted(&w.take(a)), 0, "who is of another app stays");
}

#[test]
fn who_was_connected_is_recorded_about_once_a_minute_and_only_who_is_new_on_that_day() {
    let mut w = World::new();
    let nos = w.register(&["tv-1", "tv-2"]);
    // The day after they were registered.
    w.now.wall_ms += 24 * 3_600 * 1_000;
    let a = w.link_edge(1);
    let client = w.connect(a, w.bind("tv-1"));
    w.online(a, "guest");
    let all = || nos.iter().copied().collect::<TerminalSet>();
    let seen = |w: &World| w.tables.last_seen(&all(), w.now.wall_ms);
    let today = |w: &World| (w.now.wall_ms / (24 * 3_600 * 1_000)) as u32;
    let yesterday = today(&w) - 1;
    assert_eq!(seen(&w), [(nos[0], yesterday), (nos[1], yesterday)].into());
    w.pass(61_000);
    assert_eq!(seen(&w), [(nos[0], today(&w)), (nos[1], yesterday)].into());
    let index = w.tables.command_index();
    w.unbind(&client, 0);
    w.online(a, "tv-1");
    w.pass(61_000);
    assert_eq!(w.tables.command_index(), index, "it is recorded for today");
    // Whoever is still connected when a day begins was seen on it.
    w.now.wall_ms += 24 * 3_600 * 1_000;
    w.pass(200);
    w.pass(61_000);
    assert_eq!(seen(&w)[&nos[0]], today(&w));
}
