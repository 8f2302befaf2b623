use raft_store::{
    command::{OnLow, Pace, PushOptions, ReleasePlan, Stage},
    tables::ReleasePhase,
};

use super::*;

const IDS: [&str; 4] = ["tv-1", "tv-2", "tv-3", "tv-4"];

fn planned(plan: ReleasePlan) -> CommandBody {
    let options = PushOptions { release: Some(plan), ..PushOptions::default() };
    CommandBody::AcceptPush(AcceptPush { options, ..accept(terminals(&IDS), Qos::AtLeastOnce) })
}

fn paced(pace: Pace) -> CommandBody {
    planned(ReleasePlan { not_before_ms: 0, pace })
}

fn push(w: &mut World, body: CommandBody) -> PushId {
    match w.apply(body) {
        Applied::Accepted { push, .. } => push,
        other => panic!("{other:?}"),
    }
}

fn phase(w: &World, push: PushId) -> ReleasePhase {
    w.tables.push(push).and_then(|record| record.release).expect("a plan").phase
}

/// Two halves, of which the first must be delivered.
fn halves(on_low: OnLow) -> Pace {
    let half = Stage { upto: 5_000, wait_ms: 2_000, delivered_min: 10_000 };
    Pace::Stages { stages: vec![half, Stage { upto: 10_000, wait_ms: 0, delivered_min: 0 }], on_low }
}

#[test]
fn a_scheduled_push_is_handed_out_at_its_time_and_not_before() {
    let mut w = World::new();
    let nos = w.register(&IDS);
    let a = w.link_edge(1);
    w.online(a, "tv-1");
    let at_ms = w.now.wall_ms + 5_000;
    let push = push(&mut w, planned(ReleasePlan { not_before_ms: at_ms, pace: Pace::AtOnce }));
    w.pass(4_000);
    assert!(deliveries(&w.take(a)).is_empty());
    let early = w.connect(a, Bind { connection: 2, ..w.bind("tv-2") });
    assert!(w.pull(a, nos[1], early.bound.epoch, PushId(0)).pushes.is_empty(), "nor to who catches up");
    w.pass(1_500);
    let handed = deliveries(&w.take(a));
    assert_eq!(handed.len(), 1);
    assert_eq!(handed[0].targets, [nos[0], nos[1]].into_iter().collect());
    assert_eq!(handed[0].expires_at_ms, at_ms + 10_000, "its time to live began at its time");
    w.answer(a, handed[0].push, nos[0], Outcome::Delivered);
    assert!(w.state_has(push, State::Delivered, nos[0]), "its wave is known to edges by an id of its own");
    let late = w.connect(a, Bind { connection: 3, ..w.bind("tv-3") });
    let page = w.pull(a, nos[2], late.bound.epoch, PushId(0));
    assert_eq!(page.pushes.iter().map(|owed| owed.push).collect::<Vec<_>>(), [handed[0].push]);
}

/// What is released later comes later, also to who has been live all the time.
#[test]
fn the_order_is_that_of_the_release() {
    let mut w = World::new();
    let nos = w.register(&IDS);
    let a = w.link_edge(1);
    w.online(a, "tv-1");
    let at_ms = w.now.wall_ms + 1_000;
    push(&mut w, planned(ReleasePlan { not_before_ms: at_ms, pace: Pace::AtOnce }));
    let meanwhile = w.push_to(&["tv-1"]);
    w.pass(1_000);
    let ids: Vec<_> = deliveries(&w.take(a)).iter().map(|delivery| delivery.push).collect();
    assert_eq!((ids.len(), ids[0]), (2, meanwhile));
    assert!(ids[1] > meanwhile);
    let owed = w.tables.owed(nos[0], PushId(0), ids[1], w.now.wall_ms, 10);
    assert_eq!(owed.iter().map(|row| row.push).collect::<Vec<_>>(), ids);
}

#[test]
fn a_pace_hands_out_so_many_a_second() {
    let mut w = World::new();
    w.register(&IDS);
    let a = w.link_edge(1);
    for (n, id) in IDS.iter().enumerate() {
        w.connect(a, Bind { connection: 1 + n as u64, ..w.bind(id) });
    }
    push(&mut w, paced(Pace::PerSecond(2)));
    let mut handed = Vec::new();
    for _ in 0..8 {
        w.pass(200);
        handed.push(deliveries(&w.take(a)).iter().map(|delivery| delivery.targets.len()).sum::<u64>());
    }
    assert_eq!(handed, [2, 0, 0, 0, 2, 0, 0, 0]);
}

#[test]
fn a_recall_between_a_release_and_its_hint_hands_out_nothing() {
    let mut w = World::new();
    let nos = w.register(&IDS);
    let a = w.link_edge(1);
    w.online(a, "tv-1");
    let at_ms = w.now.wall_ms + 1_000;
    let push = push(&mut w, planned(ReleasePlan { not_before_ms: at_ms, pace: Pace::AtOnce }));
    w.commits = false;
    w.pass(1_000);
    let (reply, mut answer) = oneshot::channel();
    w.event(Event::Ask(Question::Cancel(APP, push, reply)));
    assert_eq!(w.held.len(), 2, "the release, and the recall decided when nobody had it");
    w.commit_held();
    w.run();
    let bound = w.online(a, "tv-2");
    assert!(w.pull(a, nos[1], bound.epoch, PushId(0)).pushes.is_empty());
    w.commit_held();
    assert!(answer.try_recv().is_ok());
    assert!(deliveries(&w.take(a)).is_empty());
    assert!(nos.iter().all(|no| w.state_has(push, State::Cancelled, *no)));
}

#[test]
fn a_recall_asks_the_edge_about_the_wave_it_has_in_flight() {
    let mut w = World::new();
    let nos = w.register(&IDS);
    let a = w.link_edge(1);
    w.online(a, "tv-1");
    let push = push(&mut w, paced(Pace::Over(1_000)));
    w.pass(200);
    let wave = deliveries(&w.take(a))[0].push;
    let (reply, _answer) = oneshot::channel();
    w.event(Event::Ask(Question::Cancel(APP, push, reply)));
    assert_eq!(withdrawals(&w.take(a)), [(wave, TerminalSet::one(nos[0]))]);
    assert!(w.state_has(push, State::Pending, nos[0]) && w.state_has(push, State::Cancelled, nos[1]));
    w.answer(a, wave, nos[0], Outcome::NotWritten);
    assert!(w.state_has(push, State::Cancelled, nos[0]));
}

#[test]
fn the_next_stage_follows_if_enough_have_it() {
    let mut w = World::new();
    w.register(&IDS);
    let push = push(&mut w, paced(halves(OnLow::Hold)));
    w.pass(200);
    let first = w.tables.dispatched_as(push)[0];
    let released = w.tables.targets(first, State::Pending).expect("a wave");
    assert!(!released.is_empty() && released.len() < 4);
    let items = vec![Receipt { push: first, outcome: Outcome::Delivered, terminals: released }];
    w.apply(CommandBody::RecordReceipts { items, steps: Vec::new() });
    w.pass(2_100);
    assert_eq!((w.tables.dispatched_as(push).len(), phase(&w, push)), (2, ReleasePhase::Done));
}

#[test]
fn a_roll_out_that_went_badly_waits_until_it_is_resumed() {
    let mut w = World::new();
    w.register(&IDS);
    let push = push(&mut w, paced(halves(OnLow::Hold)));
    w.pass(200);
    w.pass(2_100);
    w.pass(60_000);
    assert_eq!(phase(&w, push), ReleasePhase::Done, "until its time to live is over");
    let push = self::push(&mut w, paced(halves(OnLow::Hold)));
    w.pass(200);
    w.pass(2_100);
    assert_eq!((w.tables.dispatched_as(push).len(), phase(&w, push)), (1, ReleasePhase::HeldLow(0)));
    w.apply(CommandBody::ResumePush { app: APP, push });
    assert_eq!((w.tables.dispatched_as(push).len(), phase(&w, push)), (2, ReleasePhase::Done));
}

#[test]
fn a_roll_out_that_went_badly_is_recalled_if_it_is_to_be() {
    let mut w = World::new();
    let nos = w.register(&IDS);
    let push = push(&mut w, paced(halves(OnLow::Halt)));
    w.pass(200);
    w.pass(2_100);
    w.pass(200);
    assert_eq!(phase(&w, push), ReleasePhase::Halted(0));
    assert!(nos.iter().all(|no| w.state_has(push, State::Cancelled, *no)));
    assert!(w.tables.halted(1).is_empty());
}

#[test]
fn a_new_leader_goes_on_with_a_release_and_hands_out_what_was_released_unseen() {
    let mut w = World::new();
    let nos = w.register(&IDS);
    push(&mut w, paced(Pace::PerSecond(1)));
    w.commit_unseen(Command::own(CommandBody::ReleasePushes { limit: 1 }));
    let a = w.link_edge(1);
    w.online(a, "tv-1");
    w.take(a);
    w.change_leader();
    let a = w.link_edge(1);
    w.connect(a, Bind { connection: 2, ..w.bind("tv-2") });
    w.pass(1_100);
    let handed = deliveries(&w.take(a));
    assert_eq!(
        handed.iter().map(|delivery| delivery.targets.clone()).collect::<Vec<_>>(),
        [TerminalSet::one(nos[1])]
    );
    let bound = w.connect(a, Bind { connection: 3, ..w.bind("tv-1") }).bound;
    assert_eq!(w.pull(a, nos[0], bound.epoch, PushId(0)).pushes.len(), 1);
}

#[test]
fn a_qos_0_wave_is_dropped_for_whoever_is_offline() {
    let mut w = World::new();
    let nos = w.register(&IDS);
    let a = w.link_edge(1);
    w.online(a, "tv-1");
    let release = Some(ReleasePlan { not_before_ms: 0, pace: Pace::PerSecond(2) });
    let options = PushOptions { release, ..PushOptions::default() };
    let body = AcceptPush { options, ..accept(terminals(&IDS), Qos::AtMostOnce) };
    let push = push(&mut w, CommandBody::AcceptPush(body));
    let offline = State::Dropped(cluster_proto::DropReason::Offline);
    w.pass(200);
    assert!(w.state_has(push, State::Pending, nos[0]) && w.state_has(push, offline, nos[1]));
    assert!(w.state_has(push, State::Pending, nos[2]), "its part is still to come");
    w.pass(1_100);
    assert!(w.state_has(push, offline, nos[2]));
}
