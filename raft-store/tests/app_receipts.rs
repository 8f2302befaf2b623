//! What applications report of pushes (displayed, opened), against sets: pushes of one row and of many blocks, of two
//! apps, named by id and by key, while their terminals settle and their retention ends.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking and prints its seed")]

mod world;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use cluster_proto::{
    AppId, AppReceipt, Audience, Outcome, PushId, PushKind, State, TerminalNo, TerminalSet,
    link::{AppReceipts, PushName},
};
use raft_store::{
    Applied, CommandBody,
    command::{AcceptPush, IdempotencyKey, NewTerminal},
    receipts::{PageLimits, ReceiptKind},
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use world::{
    id, message,
    store::{Store, accept, set},
};

struct World {
    store: Store,
    rng: StdRng,
    other: AppId,
    /// In the default app; 200 more in the other.
    registered: u32,
    pushes: BTreeMap<PushId, Expected>,
}

/// What the sets say of a push.
struct Expected {
    app: AppId,
    key: Option<String>,
    audience: HashSet<u32>,
    reported: [HashSet<u32>; 2],
}

impl World {
    fn new(seed: u64, registered: u32) -> Self {
        println!("seed {seed}");
        let mut store = Store::new();
        let Applied::App(other) =
            store.apply(CommandBody::CreateApp { name: "other".into(), quotas: Default::default() })
        else {
            panic!("no app")
        };
        store.register(registered);
        let terminals = (0..200).map(|n| NewTerminal { id: id(n), tags: None, alias: None }).collect();
        store.apply(CommandBody::RegisterTerminals { app: other, terminals });
        Self { store, rng: StdRng::seed_from_u64(seed), other, registered, pushes: BTreeMap::new() }
    }

    fn push(&mut self) {
        let app = if self.rng.random_ratio(1, 4) { self.other } else { AppId::DEFAULT };
        let audience = match self.rng.random_range(0..3) {
            0 => Audience::Terminals((0..self.rng.random_range(1..6)).map(|_| self.terminal_id()).collect()),
            1 => Audience::Terminals((0..150).map(id).collect()),
            _ => Audience::All,
        };
        let key = self.rng.random_bool(0.5).then(|| format!("key {}", self.pushes.len() % 7));
        let is_free = |key: &String| {
            !self.pushes.values().any(|other| other.app == app && other.key.as_ref() == Some(key))
        };
        let key = key.filter(is_free);
        let mut message = message(PushKind::Identity, "a", None);
        message.app = app;
        let idempotency = key.clone().map(|key| IdempotencyKey { key, digest: 1 });
        let command = AcceptPush { idempotency, ..accept(message, audience) };
        let Applied::Accepted { push, .. } = self.store.apply(CommandBody::AcceptPush(command)) else {
            panic!("not accepted")
        };
        let audience = hash(&self.store.tables.audience(push).unwrap());
        self.pushes.insert(push, Expected { app, key, audience, reported: Default::default() });
    }

    fn terminal_id(&mut self) -> cluster_proto::TerminalId {
        id(self.rng.random_range(0..200))
    }

    /// From a terminal that may not be in the audience, of an app that may be another, about pushes that may not be
    /// there, several at once.
    fn report(&mut self) {
        let app = if self.rng.random_ratio(1, 4) { self.other } else { AppId::DEFAULT };
        let no = match self.rng.random_range(0..4) {
            0 => self.rng.random_range(self.registered..self.registered + 210),
            1 => self.rng.random_range(0..self.registered),
            _ => self.rng.random_range(0..300),
        };
        let what = *AppReceipt::ALL.choose(&mut self.rng).unwrap();
        let names: Vec<_> = (0..self.rng.random_range(1..5)).map(|_| self.name()).collect();
        let mut known = 0;
        for name in &names {
            let named = |push: &PushId, expected: &Expected| match name {
                PushName::Id(id) => id == push,
                PushName::Key(key) => expected.key.as_ref() == Some(key),
            };
            let of_app = |(push, expected): (&PushId, &mut Expected)| {
                let meant = expected.app == app && named(push, expected) && expected.audience.contains(&no);
                if meant {
                    expected.reported[what as usize].insert(no);
                }
                meant
            };
            known += self.pushes.iter_mut().map(of_app).filter(|meant| *meant).count() as u64;
        }
        let receipts = AppReceipts { app, no: TerminalNo(no), what, pushes: names };
        let answer = self.store.apply(CommandBody::RecordAppReceipts(receipts.clone()));
        assert_eq!(answer, Applied::Reported { known }, "{receipts:?}");
    }

    fn name(&mut self) -> PushName {
        if self.rng.random_bool(0.5) {
            return PushName::Id(PushId(self.rng.random_range(0..30)));
        }
        PushName::Key(format!("key {}", self.rng.random_range(0..8)))
    }

    /// Whatever becomes of a push: reports go on.
    fn settle(&mut self) {
        let Some(push) = self.pushes.keys().copied().collect::<Vec<_>>().choose(&mut self.rng).copied()
        else {
            return;
        };
        if self.rng.random_ratio(1, 4) {
            let app = self.pushes[&push].app;
            self.store.apply(CommandBody::CancelPush { app, push, in_flight: set([]) });
        } else {
            let some: TerminalSet = (0..300).filter(|_| self.rng.random_bool(0.5)).map(TerminalNo).collect();
            let outcome = *[Outcome::Delivered, Outcome::Sent].choose(&mut self.rng).unwrap();
            self.store.receipt(push, outcome, some);
        }
    }

    fn check(&self) {
        for (push, expected) in &self.pushes {
            let counts = self.store.tables.counts(*push).unwrap();
            let states: u64 = counts.by_state.iter().map(|(_, n)| n).sum();
            assert_eq!((states, counts.audience), (expected.audience.len() as u64, states), "the law holds");
            for what in AppReceipt::ALL {
                let reported = hash(&self.store.tables.reported(*push, what).unwrap());
                assert_eq!(reported, expected.reported[what as usize], "{push} {what:?}");
                assert_eq!(counts.reported[what as usize], reported.len() as u64, "{push} {what:?}");
            }
            for no in [1, 5, 150, self.registered - 1, self.registered + 3] {
                let has = |what: &AppReceipt| expected.reported[*what as usize].contains(&no);
                let by: Vec<_> = AppReceipt::ALL.into_iter().filter(has).collect();
                assert_eq!(self.store.tables.reported_by(*push, TerminalNo(no)), by, "{push} {no}");
            }
        }
        assert_eq!(self.store.tables.failure(), None);
    }
}

fn hash(set: &TerminalSet) -> HashSet<u32> {
    set.0.iter().collect()
}

#[test]
fn reports_are_what_sets_say() {
    // More than a block of terminals, once.
    for (seed, registered) in [(1, 66_000), (2, 300), (3, 300)] {
        let mut world = World::new(seed, registered);
        for step in 0..600 {
            match world.rng.random_range(0..20) {
                0 if world.pushes.len() < 25 => world.push(),
                0 | 1 => world.settle(),
                _ => world.report(),
            }
            if step % 100 == 0 {
                world.check();
            }
        }
        world.check();
        let reports: usize =
            world.pushes.values().flat_map(|expected| &expected.reported).map(HashSet::len).sum();
        assert!(reports > 50, "only {reports} reports meant anything");
        // From disk, where nothing is cached: the same.
        world.store = world.store.reopened();
        world.check();
    }
}

#[test]
fn a_report_makes_no_push_delivered_and_opened_does_not_mean_displayed() {
    let mut store = Store::new();
    store.register(100);
    for audience in [Audience::Terminals(vec![id(0), id(1)]), Audience::All] {
        let push = store.push(PushKind::Identity, audience);
        let pushes = vec![PushName::Id(push)];
        let receipts =
            AppReceipts { app: AppId::DEFAULT, no: TerminalNo(1), what: AppReceipt::Opened, pushes };
        let answer = store.apply(CommandBody::RecordAppReceipts(receipts));
        assert_eq!(answer, Applied::Reported { known: 1 });
        assert_eq!(store.tables.state_of(push, TerminalNo(1)), Some(State::Pending));
        assert_eq!(store.tables.reported_by(push, TerminalNo(1)), [AppReceipt::Opened]);
        assert!(store.tables.reported(push, AppReceipt::Displayed).unwrap().is_empty());
    }
}

#[test]
fn reports_go_with_their_push() {
    let mut store = Store::new();
    store.register(100);
    let pushes: BTreeSet<_> = [Audience::Terminals(vec![id(0)]), Audience::All]
        .map(|audience| store.push(PushKind::Identity, audience))
        .into();
    let before = store.tables.row_count().unwrap();
    let report = |store: &mut Store| {
        let pushes = pushes.iter().map(|push| PushName::Id(*push)).collect();
        let what = AppReceipt::Displayed;
        let receipts = AppReceipts { app: AppId::DEFAULT, no: TerminalNo(1), what, pushes };
        store.apply(CommandBody::RecordAppReceipts(receipts))
    };
    assert_eq!(report(&mut store), Applied::Reported { known: 2 });
    assert_eq!(
        store.tables.row_count().unwrap(),
        before + 2,
        "one set more, and what the receipt stream tells"
    );
    for push in &pushes {
        store.receipt(*push, Outcome::Delivered, set(1..=100));
    }
    store.purge();
    assert_eq!(report(&mut store), Applied::Reported { known: 0 }, "gone");
    for push in &pushes {
        assert_eq!(store.tables.reported(*push, AppReceipt::Displayed), None);
    }
}

#[test]
fn the_receipt_stream_tells_reports_as_they_come_and_as_they_stand() {
    let mut store = Store::new();
    store.register(100);
    let begin = store.tables.receipts_begin(AppId::DEFAULT);
    let pushes = [Audience::Terminals(vec![id(0)]), Audience::All]
        .map(|audience| store.push(PushKind::Identity, audience));
    for _ in 0..2 {
        let names = pushes.iter().map(|push| PushName::Id(*push)).collect();
        let what = AppReceipt::Opened;
        let receipts = AppReceipts { app: AppId::DEFAULT, no: TerminalNo(1), what, pushes: names };
        store.apply(CommandBody::RecordAppReceipts(receipts));
    }
    // Who opened each push, and how often that was told.
    let told = |store: &Store, coalesced: bool| {
        let (mut told, mut from) = (BTreeMap::new(), begin);
        loop {
            let page = store.tables.receipts(from, PageLimits { rows: 100, bytes: 1 << 20 });
            for row in page.rows.iter().filter(|row| row.is_coalesced == coalesced) {
                let opened = ReceiptKind::Reported(AppReceipt::Opened.code());
                for delta in row.deltas.iter().filter(|delta| delta.kind == opened) {
                    told.entry(delta.push).or_insert_with(Vec::new).push(delta.len);
                }
            }
            from = page.next;
            if page.is_end {
                return told;
            }
        }
    };
    let expected: BTreeMap<_, _> = pushes.iter().map(|push| (*push, vec![1])).collect();
    assert_eq!(told(&store, false), expected, "once, whatever is repeated");
    store.apply(CommandBody::PurgeReceipts { before_ms: u64::MAX, bytes_max: 0, limit: 1_000 });
    assert_eq!(told(&store, true), expected, "a consumer that comes too late");
}
