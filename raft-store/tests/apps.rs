//! Apps: what each may have, and that one that is deleted leaves nothing.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking and prints its seed")]

mod world;

use std::collections::BTreeSet;

use cluster_proto::{
    AppId, Audience, DropReason, Outcome, PushKind, State, TerminalNo, TerminalSet, Will, link::Lane,
};
use raft_store::{
    Applied, Command, CommandBody, Effect, Refusal,
    command::{AcceptPush, LabelChange, NewTerminal, OpenSession, QuotaChange, Quotas},
    tables::{self, TablesOptions},
};
use world::{
    DAY_MS, Generator, id, message,
    store::{Store, accept, connection, create, open, set, terminals, will},
};

const OTHER: AppId = AppId(2);

/// The rows that every cluster has, or that are of no app: position, versions, the default app, edges and what they were
/// refused, numbers to lend, who was seen.
const OF_NO_APP: [u8; 8] = [0x00, 0x01, 0x03, 0x04, 0x06, 0x07, 0x14, 0x18];

#[test]
fn a_deleted_app_leaves_nothing_whatever_was_in_it() {
    for (seed, limit) in [(1, 1), (2, 7), (3, 1_000), (4, 64)] {
        let (shadow_dir, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (shadow, mut shadow_machine) = tables::open(shadow_dir.path(), TablesOptions::default()).unwrap();
        let (tables, mut machine) = tables::open(dir.path(), TablesOptions::default()).unwrap();
        let mut generator = Generator::new(seed, shadow.clone());
        let mut position = Default::default();
        for n in 0..400 {
            let entry = if n == 0 { generator.world() } else { generator.entry() };
            shadow_machine.apply(vec![entry.clone()], None, &mut Vec::new()).unwrap();
            // The same in another app; numbers and push ids are the same then.
            let (at, batch) = entry;
            let batch = batch.map(|mut batch| {
                if n == 0 {
                    batch.commands.insert(0, Command::own(create("other")));
                }
                batch.commands.iter_mut().for_each(|command| move_to_other(&mut command.body));
                batch
            });
            machine.apply(vec![(at, batch)], None, &mut Vec::new()).unwrap();
            position = at;
        }
        let before = tables.rows_by_tag().unwrap();
        assert!(before.len() > 25, "seed {seed}: {before:x?}");
        let mut apply = |body| {
            position.index += 1;
            let batch = raft_store::CommandBatch { at_ms: 0, commands: vec![Command::own(body)] };
            machine.apply(vec![(position, Some(batch))], None, &mut Vec::new()).unwrap().remove(0).remove(0)
        };
        assert_eq!(apply(CommandBody::DeleteApp { app: OTHER }), Applied::Done);
        assert_eq!(
            (tables.app_by_name("other"), tables.has_app(OTHER), tables.app_record(OTHER)),
            (None, false, None)
        );
        assert_eq!(apply(create("other")), Applied::Refused(Refusal::AppBeingRemoved));
        let mut steps = 0;
        while !tables.apps_being_removed().is_empty() {
            apply(CommandBody::RemoveApp { app: OTHER, limit });
            steps += 1;
            assert!(steps < 5_000, "seed {seed}: {:x?}", tables.rows_by_tag());
        }
        let after = tables.rows_by_tag().unwrap();
        let left: Vec<_> = after.keys().filter(|tag| !OF_NO_APP.contains(tag)).collect();
        assert!(left.is_empty(), "seed {seed}, limit {limit}: {after:x?}");
        assert_eq!((after[&0x03], after[&0x04], tables.sessions_len()), (1, 1, 0));
        assert_eq!(apply(create("other")), Applied::App(AppId(3)), "its number is not given again");
        assert_eq!(tables.failure(), None);
    }
}

/// Everything the generator draws is of the default app.
fn move_to_other(body: &mut CommandBody) {
    match body {
        CommandBody::RegisterTerminals { app, .. }
        | CommandBody::Revoke { app, .. }
        | CommandBody::CancelPush { app, .. }
        | CommandBody::SetQuotas { app, .. }
        | CommandBody::UpdateTerminals { app, .. }
        | CommandBody::DeleteTerminals { app, .. } => *app = OTHER,
        CommandBody::OpenSession(OpenSession { holder, will, .. }) => {
            holder.app = OTHER;
            if let Some(Will { message, .. }) = will {
                message.app = OTHER;
            }
        }
        CommandBody::DetachSession { holder, .. }
        | CommandBody::Subscribe { holder, .. }
        | CommandBody::Unsubscribe { holder, .. } => holder.app = OTHER,
        CommandBody::AcceptPush(AcceptPush { message, .. }) | CommandBody::Retain { message, .. } => {
            message.app = OTHER;
        }
        _ => {}
    }
}

#[test]
fn nothing_of_a_deleted_app_is_accepted_and_its_terminals_are_told() {
    let mut store = Store::new();
    assert_eq!(store.apply(create("other")), Applied::App(OTHER));
    let new = || NewTerminal { id: id(1), tags: None, alias: None };
    let register = || CommandBody::RegisterTerminals { app: OTHER, terminals: vec![new()] };
    store.apply(register());
    let mut push = accept(message(PushKind::Identity, "a", None), Audience::All);
    push.message.app = OTHER;
    store.apply(CommandBody::AcceptPush(push.clone()));
    assert_eq!(
        store.apply(CommandBody::DeleteApp { app: AppId::DEFAULT }),
        Applied::Refused(Refusal::DefaultApp)
    );
    store.apply(CommandBody::DeleteApp { app: OTHER });
    let is_revoked = |effect: &Effect| {
        matches!(effect, Effect::Revoked { app: OTHER, terminal: None, issued_until: u64::MAX })
    };
    assert!(store.effects.iter().any(is_revoked));
    let mut holder = connection(1, 1, 1);
    holder.app = OTHER;
    for body in [
        register(),
        CommandBody::AcceptPush(push),
        CommandBody::OpenSession(open(&holder, 60)),
        CommandBody::DeleteApp { app: OTHER },
        CommandBody::SetQuotas { app: OTHER, change: QuotaChange::default() },
        CommandBody::Revoke { app: OTHER, terminal: None, issued_until: 1 },
    ] {
        assert_eq!(store.apply(body.clone()), Applied::Refused(Refusal::UnknownApp), "{body:?}");
    }
    assert_eq!(store.tables.apps().len(), 1);
}

#[test]
fn a_command_that_would_register_too_many_terminals_registers_none() {
    let mut store = Store::new();
    let change = QuotaChange { terminals: Some(5), ..QuotaChange::default() };
    store.apply(CommandBody::SetQuotas { app: AppId::DEFAULT, change });
    let register = |range: std::ops::Range<u32>| {
        let terminals = range.map(|n| NewTerminal { id: id(n % 100), tags: None, alias: None }).collect();
        CommandBody::RegisterTerminals { app: AppId::DEFAULT, terminals }
    };
    assert!(matches!(store.apply(register(0..4)), Applied::Registered { new: 4, .. }));
    assert_eq!(store.apply(register(2..6)), Applied::Refused(Refusal::TerminalQuota(5)));
    assert_eq!(store.tables.list_terminals(AppId::DEFAULT, None, 100).len(), 4);
    // One more, named twice, and those that are there.
    assert!(matches!(store.apply(register(4..105)), Applied::Refused(_)));
    let twice = match (register(0..5), register(4..5)) {
        (
            CommandBody::RegisterTerminals { app, mut terminals },
            CommandBody::RegisterTerminals { terminals: more, .. },
        ) => {
            terminals.extend(more);
            CommandBody::RegisterTerminals { app, terminals }
        }
        _ => unreachable!(),
    };
    assert!(matches!(store.apply(twice), Applied::Registered { new: 1, .. }));
    store.apply(CommandBody::DeleteTerminals { app: AppId::DEFAULT, terminals: set([1]) });
    assert!(matches!(store.apply(register(50..51)), Applied::Registered { new: 1, .. }));
    let change = QuotaChange { terminals: Some(0), ..QuotaChange::default() };
    store.apply(CommandBody::SetQuotas { app: AppId::DEFAULT, change });
    assert!(matches!(store.apply(register(60..70)), Applied::Registered { new: 10, .. }));
}

#[test]
fn pushes_are_refused_over_the_stored_bytes_until_some_are_purged() {
    let mut store = Store::new();
    store.register(2);
    let size = message(PushKind::Identity, "a", None).size() as u64;
    let change = QuotaChange { stored_bytes: Some(2 * size + 1), ..QuotaChange::default() };
    store.apply(CommandBody::SetQuotas { app: AppId::DEFAULT, change });
    let push = || CommandBody::AcceptPush(accept(message(PushKind::Identity, "a", None), Audience::All));
    let first = store.push(PushKind::Identity, Audience::All);
    store.push(PushKind::Identity, Audience::All);
    let refused = Applied::Refused(Refusal::StoredQuota(2 * size + 1));
    assert_eq!(store.apply(push()), refused);
    // One that is kept for nobody takes no room, and a retained one does.
    let published = accept(message(PushKind::Topic, "nobody", None), Audience::Topic);
    let holder = connection(1, 1, 1);
    let answer = store.lane(&holder, Lane::Publish, CommandBody::AcceptPush(published));
    assert!(matches!(answer, Applied::Accepted { audience: 0, .. }), "{answer:?}");
    let retained = cluster_proto::Message { retain: true, ..message(PushKind::Topic, "kept", None) };
    assert_eq!(store.apply(CommandBody::Retain { message: retained.clone(), ttl_ms: None }), refused);
    for no in [1, 2] {
        store.deliver(first, TerminalNo(no));
    }
    store.purge();
    assert_eq!(store.tables.app_record(AppId::DEFAULT).unwrap().stored_bytes, size);
    assert_eq!(
        store.apply(CommandBody::Retain { message: retained, ttl_ms: None }),
        refused,
        "a little larger"
    );
    assert!(matches!(store.apply(push()), Applied::Accepted { .. }));
    assert_eq!(store.apply(push()), refused);
}

#[test]
fn a_deleted_terminal_is_settled_everywhere_and_nothing_said_of_it_later_counts() {
    let mut store = Store::new();
    store.register(200);
    let holder = connection(0, 1, 1);
    let no = store.connect(OpenSession { will: Some(will("a", 0)), ..open(&holder, 60) }).no;
    store.subscribe(&holder, "a");
    store.subscribe(&holder, "$share/g/a");
    store.subscribe(&connection(1, 1, 2), "a");
    let small = store.push(PushKind::Identity, Audience::Terminals(terminals(0..3)));
    let broad = store.push(PushKind::Identity, Audience::All);
    let topic = store.publish("a");
    let pushes = store.tables.applied().last_push;
    let group = store.tables.groups_matching(AppId::DEFAULT, "a")[0];
    store.apply(CommandBody::Revoke { app: AppId::DEFAULT, terminal: Some(id(0)), issued_until: 99 });
    let answer =
        store.apply(CommandBody::DeleteTerminals { app: AppId::DEFAULT, terminals: set([no.0, 9_999]) });
    assert_eq!(answer, Applied::Changed { changed: 1, full: 0 });
    let Some(Effect::Deleted { terminals, issued_until, .. }) = store.effects.pop() else {
        panic!("no effect")
    };
    assert_eq!((terminals, issued_until), (vec![(no, id(0))], 100));
    let deleted = State::Dropped(DropReason::TerminalDeleted);
    for push in [small, broad, topic] {
        assert_eq!(store.tables.state_of(push, no), Some(deleted));
        // An edge had it in flight.
        store.receipt(push, Outcome::Delivered, TerminalSet::one(no));
        assert_eq!(store.tables.state_of(push, no), Some(deleted));
    }
    assert_eq!(store.tables.state_of(topic, group), Some(State::Dropped(DropReason::SessionGone)));
    assert_eq!(store.tables.applied().last_push, pushes, "its will is not published");
    assert_eq!(store.tables.session(no), None);
    assert_eq!(store.tables.terminal_by_no(no), None);
    assert_eq!(store.tables.terminal_no(AppId::DEFAULT, &id(0)), None);
    assert_eq!(store.tables.owed_len(no, 10), 0);
    assert_eq!(store.tables.revoked_until(AppId::DEFAULT, &id(0)), 100, "an old credential stays void");
    let again = NewTerminal { id: id(0), tags: None, alias: None };
    let again = CommandBody::RegisterTerminals { app: AppId::DEFAULT, terminals: vec![again] };
    let Applied::Registered { nos, .. } = store.apply(again) else { panic!("not registered") };
    assert_eq!(nos, [TerminalNo(201)], "its number is not given again");
    assert_eq!(store.tables.revoked_until(AppId::DEFAULT, &id(0)), 100);
}

#[test]
fn labels_are_changed_of_whom_is_meant_and_too_many_tags_change_nothing() {
    let mut store = Store::new();
    let tags: Vec<_> = (0..64).map(|n| (format!("k{n:02}"), "v".to_owned())).collect();
    let new = |n, tags| NewTerminal { id: id(n), tags: Some(tags), alias: Some("u".to_owned()) };
    let terminals = vec![new(0, tags), new(1, Vec::new()), new(2, Vec::new())];
    store.apply(CommandBody::RegisterTerminals { app: AppId::DEFAULT, terminals });
    let tag = |key: &str| (key.to_owned(), "v".to_owned());
    let mut change = |nos: &[u32], set_: &[&str], remove: &[&str], alias: Option<&str>| {
        let change = LabelChange {
            set: set_.iter().map(|key| tag(key)).collect(),
            remove: remove.iter().map(|key| (*key).to_owned()).collect(),
            alias: alias.map(str::to_owned),
        };
        let terminals = set(nos.iter().copied());
        store.apply(CommandBody::UpdateTerminals { app: AppId::DEFAULT, terminals, change })
    };
    assert_eq!(change(&[1, 2, 7], &["new"], &[], None), Applied::Changed { changed: 1, full: 1 });
    assert_eq!(change(&[1, 2], &["new"], &["k00"], None), Applied::Changed { changed: 1, full: 0 });
    assert_eq!(change(&[1, 2, 3], &[], &[], Some("")), Applied::Changed { changed: 3, full: 0 });
    assert_eq!(change(&[1, 2, 3], &[], &[], Some("")), Applied::Changed { changed: 0, full: 0 });
    let found = |audience| store.tables.resolve(&audience, AppId::DEFAULT, "", None, 0).unwrap();
    assert_eq!(found(Audience::Tag { key: "new".into(), value: "v".into() }), set([1, 2]));
    assert_eq!(found(Audience::Aliases(vec!["u".into()])), set([]));
    assert_eq!(found(Audience::Tag { key: "k00".into(), value: "v".into() }), set([]));
}

#[test]
fn who_was_seen_is_asked_by_days_and_forgotten_after_the_last() {
    let mut store = Store::new();
    store.at_ms = 100 * DAY_MS + 5;
    store.register(3);
    store.apply(CommandBody::RecordSeen { day: 150, terminals: set([1]) });
    assert_eq!(store.tables.rows_by_tag().unwrap()[&0x18], 1, "a day to come is passed over");
    store.at_ms = 150 * DAY_MS;
    store.apply(CommandBody::RecordSeen {
        day: 150,
        terminals: set([1, 9_999, TerminalNo::UNREGISTERED_FIRST.0]),
    });
    let seen = |store: &Store, days, day| {
        let audience = Audience::Seen(days);
        store.tables.resolve(&audience, AppId::DEFAULT, "", None, day * DAY_MS + 7).unwrap()
    };
    assert_eq!(seen(&store, 1, 150), set([1]));
    assert_eq!(seen(&store, 1, 151), set([1]), "today and as many days before it");
    assert_eq!(seen(&store, 1, 152), set([]));
    assert_eq!(seen(&store, 49, 150), set([1]));
    assert_eq!(seen(&store, 50, 150), set([1, 2, 3]), "registering is being seen");
    assert_eq!(
        store.tables.last_seen(&set([1, 2]), 150 * DAY_MS),
        [(TerminalNo(1), 150), (TerminalNo(2), 100)].into()
    );
    assert!(!store.tables.seen_old(190 * DAY_MS) && store.tables.seen_old(191 * DAY_MS));
    store.at_ms = 191 * DAY_MS;
    store.apply(CommandBody::RecordSeen { day: 191, terminals: set([]) });
    assert!(!store.tables.seen_old(191 * DAY_MS));
    let stale = Audience::And(vec![Audience::All, Audience::Not(Box::new(Audience::Seen(90)))]);
    let Applied::Accepted { audience, .. } =
        store.apply(CommandBody::AcceptPush(accept(message(PushKind::Identity, "a", None), stale)))
    else {
        panic!("refused")
    };
    assert_eq!(audience, 2);
}

#[test]
fn quotas_change_where_they_are_given() {
    let mut store = Store::new();
    let quotas = Quotas { terminals: 7, connections: 8, ..Quotas::default() };
    store.apply(CommandBody::CreateApp { name: "other".into(), quotas });
    assert_eq!(store.apply(create("other")), Applied::App(OTHER), "created before, with its quotas");
    let change = QuotaChange { terminals: Some(0), stored_bytes: Some(9), ..QuotaChange::default() };
    store.apply(CommandBody::SetQuotas { app: OTHER, change });
    let expected = Quotas { terminals: 0, connections: 8, stored_bytes: 9, ..Quotas::default() };
    assert_eq!(store.tables.app_record(OTHER).unwrap().quotas, expected);
    assert_eq!(store.tables.quotas(), [(OTHER, expected)].into());
    let keys: BTreeSet<_> = store.tables.rows_by_tag().unwrap().into_keys().collect();
    assert!(!keys.contains(&0x08), "nothing is counted where there is nothing");
}
