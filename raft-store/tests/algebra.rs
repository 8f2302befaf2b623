//! What audience expressions mean, against sets: random registries of more than one block, subscribers who are registered
//! and who are not, shared groups, and pushes in all states.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test fails by panicking and prints its seed")]

mod world;

use std::collections::{BTreeMap, BTreeSet, HashSet};

use cluster_proto::{
    AppId, Audience, DropReason, Outcome, PushId, PushKind, Qos, Sample, State, TerminalId, TerminalNo,
    TerminalSet,
};
use raft_store::{
    Applied, CommandBody, Refusal,
    command::{AcceptPush, NewTerminal},
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use world::{
    DAY_MS,
    audience::{Facts, Labels, TAGS, expression, labels, meant},
    id, message,
    store::{Store, accept, connection, create, set, terminals},
};

/// The topic of every push.
const TOPIC: &str = "a/b";
const FILTERS: [&str; 6] = ["a/b", "a/+", "a/#", "a/b/#", "other", "a/b/c"];

/// Tables, and what was put into them.
struct World {
    store: Store,
    rng: StdRng,
    registered: u32,
    labels: BTreeMap<u32, Labels>,
    /// Of `TOPIC`, with those who are granted QoS 0.
    subscribers: BTreeMap<u32, bool>,
    states: BTreeMap<PushId, BTreeMap<u32, State>>,
    online: TerminalSet,
    /// By day; of all that are or were registered.
    seen: BTreeMap<u32, HashSet<u32>>,
    deleted: HashSet<u32>,
}

/// It is this day; on the first days everybody was registered.
const TODAY: u32 = 200;

impl World {
    fn new(seed: u64, registered: u32) -> Self {
        println!("seed {seed}");
        let (mut store, rng) = (Store::new(), StdRng::seed_from_u64(seed));
        store.at_ms = u64::from(TODAY - 95) * DAY_MS;
        let (labels, subscribers, states, online, seen, deleted) = Default::default();
        let mut world = Self { store, rng, registered, labels, subscribers, states, online, seen, deleted };
        world.register();
        world.see();
        world.subscribe();
        for _ in 0..8 {
            world.push();
        }
        let everyone: Vec<_> = (1..=registered).chain(world.subscribers.keys().copied()).collect();
        let online = everyone.into_iter().filter(|_| world.rng.random_ratio(1, 3)).map(TerminalNo);
        world.online = online.collect();
        world.delete();
        world
    }

    /// Some twice, with other labels.
    fn register(&mut self) {
        let changed = (0..self.registered).filter(|_| self.rng.random_ratio(1, 10)).collect::<Vec<_>>();
        let all: Vec<u32> = (0..self.registered).chain(changed).collect();
        for some in all.chunks(10_000) {
            let mut new = |n: &u32| {
                let (tags, alias) = labels(&mut self.rng);
                self.labels.insert(n + 1, (tags.clone(), alias.clone()));
                NewTerminal { id: id(*n), tags: Some(tags), alias: Some(alias.unwrap_or_default()) }
            };
            let terminals = some.iter().map(&mut new).collect();
            self.store.apply(CommandBody::RegisterTerminals { app: AppId::DEFAULT, terminals });
        }
    }

    /// Everybody was registered on the first day, which is too old to be asked for; the others come in any order.
    fn see(&mut self) {
        for _ in 0..25 {
            let day = TODAY - self.rng.random_range(0..96);
            self.store.at_ms = self.store.at_ms.max(u64::from(day) * DAY_MS);
            let some: TerminalSet =
                (1..=self.registered).filter(|_| self.rng.random_ratio(1, 20)).map(TerminalNo).collect();
            self.seen.entry(day).or_default().extend(hash(&some));
            self.store.apply(CommandBody::RecordSeen { day, terminals: some });
        }
        self.store.at_ms = u64::from(TODAY) * DAY_MS + 5_000;
        // Removes what is too old.
        self.store.apply(CommandBody::RecordSeen { day: TODAY, terminals: TerminalSet::new() });
    }

    /// A few, from all blocks: what was a number of theirs means nobody.
    fn delete(&mut self) {
        let some: TerminalSet =
            (1..=self.registered).filter(|_| self.rng.random_ratio(1, 50)).map(TerminalNo).collect();
        let app = AppId::DEFAULT;
        let answer = self.store.apply(CommandBody::DeleteTerminals { app, terminals: some.clone() });
        assert_eq!(answer, Applied::Changed { changed: some.len(), full: 0 });
        for no in some.iter() {
            self.labels.remove(&no.0);
            self.subscribers.remove(&no.0);
            for states in self.states.values_mut() {
                if let Some(state @ State::Pending) = states.get_mut(&no.0) {
                    *state = State::Dropped(DropReason::TerminalDeleted);
                }
            }
        }
        self.deleted = hash(&some);
        for (push, states) in &self.states {
            let count = |of| states.values().filter(|state| **state == of).count() as u64;
            let deleted = State::Dropped(DropReason::TerminalDeleted);
            for state in [State::Pending, deleted] {
                assert_eq!(self.store.count(*push, state), count(state), "{state:?} of {push}");
            }
        }
    }

    /// Some of the registered, from all blocks, some that are not, and a shared group.
    fn subscribe(&mut self) {
        for _ in 0..120 {
            let n = self.rng.random_range(0..self.registered + 60);
            let holder = connection(n, 1, 1);
            let filter = *FILTERS.choose(&mut self.rng).unwrap();
            let qos = *[Qos::AtMostOnce, Qos::AtLeastOnce].choose(&mut self.rng).unwrap();
            let no = self.store.subscribe_with(&holder, filter, qos).no;
            if !filter.ends_with("other") && !filter.ends_with("/c") {
                // The last subscription with a filter replaces the one before.
                let granted = self.store.tables.subscriptions(no);
                let matching = granted.iter().filter(|held| held.filter != "other" && held.filter != "a/b/c");
                self.subscribers.insert(no.0, matching.map(|held| held.qos).max() == Some(Qos::AtMostOnce));
            }
        }
        self.store.subscribe(&connection(1, 1, 1), "$share/g/a/+");
        let group = self.store.tables.groups_matching(AppId::DEFAULT, TOPIC)[0];
        self.subscribers.insert(group.0, false);
    }

    /// One to a few or to many, in all states it can be in.
    fn push(&mut self) {
        let few = self.rng.random_range(1..self.registered.min(60));
        let tag = |(key, value): (&str, &str)| Audience::Tag { key: key.to_owned(), value: value.to_owned() };
        let audience = match self.rng.random_range(0..4) {
            0 => Audience::Terminals(terminals(0..few)),
            1 => Audience::Topic,
            2 => tag(*TAGS.choose(&mut self.rng).unwrap()),
            _ => Audience::All,
        };
        let push = self.accept(audience).unwrap();
        let mut left = self.store.tables.audience(push).unwrap();
        for outcome in [Outcome::Delivered, Outcome::Sent, Outcome::Dropped(DropReason::Refused)] {
            let some: TerminalSet = left.iter().filter(|_| self.rng.random_ratio(1, 3)).collect();
            left.0 -= &some.0;
            self.store.receipt(push, outcome, some);
        }
        if self.rng.random_ratio(1, 4) {
            self.store.apply(CommandBody::CancelPush { app: AppId::DEFAULT, push, in_flight: set([]) });
        }
        let mut states = BTreeMap::new();
        for state in State::ALL {
            states.extend(self.store.tables.targets(push, state).unwrap().iter().map(|no| (no.0, state)));
        }
        self.states.insert(push, states);
    }

    fn accept(&mut self, audience: Audience) -> Result<PushId, Refusal> {
        let online = audience.mentions_online().then(|| self.online.clone());
        let push = accept(message(audience.kind(), TOPIC, None), audience);
        match self.store.apply(CommandBody::AcceptPush(AcceptPush { online, ..push })) {
            Applied::Accepted { push, .. } => Ok(push),
            Applied::Refused(refusal) => Err(refusal),
            other => panic!("{other:?}"),
        }
    }

    /// Now and then with a terminal or a push that is not there.
    fn expression(&mut self) -> Audience {
        let (registered, pushes) = (self.registered, self.states.len() as u64);
        let mut terminal = |rng: &mut StdRng| match rng.random_ratio(1, 40) {
            true => id(registered + 1),
            false => id(rng.random_range(0..registered)),
        };
        let mut push = |rng: &mut StdRng| match rng.random_ratio(1, 40) {
            true => PushId(9_999),
            false => PushId(rng.random_range(1..=pushes)),
        };
        expression(&mut self.rng, 4, &mut terminal, &mut push)
    }

    /// A dry run and a push mean the same, and what the sets say.
    fn check(&mut self, audience: &Audience) -> usize {
        let expected = meant(audience, self);
        let tried =
            self.store.tables.resolve(audience, AppId::DEFAULT, TOPIC, Some(&self.online), self.store.at_ms);
        assert_eq!(tried.map(|meant| hash(&meant)), expected, "{audience:?}");
        match (self.accept(audience.clone()), expected) {
            (Err(refusal), expected) => {
                assert_eq!(expected, Err(refusal), "{audience:?}");
                0
            }
            (Ok(push), expected) => {
                let expected = expected.unwrap();
                assert_eq!(hash(&self.store.tables.audience(push).unwrap()), expected, "{audience:?}");
                let qos0 = self.store.tables.audience_qos0(push);
                let is_qos0 = |no: &u32| self.subscribers.get(no) == Some(&true);
                let expected_qos0: BTreeSet<_> = match audience.kind() {
                    PushKind::Topic => expected.iter().copied().filter(is_qos0).collect(),
                    PushKind::Identity => BTreeSet::new(),
                };
                assert_eq!(qos0.0.iter().collect::<BTreeSet<_>>(), expected_qos0, "{audience:?}");
                expected.len()
            }
        }
    }
}

impl Facts for World {
    fn registered(&self) -> HashSet<u32> {
        (1..=self.registered).filter(|no| !self.deleted.contains(no)).collect()
    }

    fn registered_as(&self, terminal: &TerminalId) -> Option<u32> {
        let n: u32 = terminal.as_str().trim_start_matches('t').parse().unwrap();
        (n < self.registered && !self.deleted.contains(&(n + 1))).then_some(n + 1)
    }

    fn labels(&self) -> &BTreeMap<u32, Labels> {
        &self.labels
    }

    fn subscribers(&self) -> HashSet<u32> {
        self.subscribers.keys().copied().collect()
    }

    fn online(&self) -> HashSet<u32> {
        hash(&self.online)
    }

    fn seen(&self, days: u8) -> HashSet<u32> {
        self.seen.range(TODAY - u32::from(days)..).flat_map(|(_, seen)| seen.iter().copied()).collect()
    }

    fn in_state(&self, push: PushId, state: State) -> Option<HashSet<u32>> {
        let states = self.states.get(&push)?;
        Some(states.iter().filter(|(_, of)| **of == state).map(|(no, _)| *no).collect())
    }
}

fn hash(set: &TerminalSet) -> HashSet<u32> {
    set.0.iter().collect()
}

#[test]
fn expressions_mean_what_sets_say() {
    for (seed, registered, expressions) in [(1, 40, 400), (2, 300, 400), (3, 66_000, 25)] {
        let mut world = World::new(seed, registered);
        let mut interesting = 0;
        for _ in 0..expressions {
            let audience = world.expression();
            interesting += usize::from(world.check(&audience) > 0);
        }
        assert_eq!(world.store.tables.failure(), None);
        println!("{interesting} of {expressions} expressions meant someone");
        assert!(interesting * 3 > expressions);
    }
}

#[test]
fn what_a_push_was_for_is_frozen_when_labels_and_states_change() {
    let mut world = World::new(4, 100);
    let tag = Audience::Tag { key: "os".into(), value: "tv".into() };
    let tagged = world.accept(tag.clone()).unwrap();
    let pending = world.accept(Audience::Pending(tagged)).unwrap();
    let before = world.store.tables.audience(tagged).unwrap();
    assert!(!before.is_empty());
    assert_eq!(world.store.tables.audience(pending), Some(before.clone()));
    let unlabelled = |n| NewTerminal { id: id(n), tags: Some(Vec::new()), alias: None };
    let terminals = (0..100).map(unlabelled).collect();
    world.store.apply(CommandBody::RegisterTerminals { app: AppId::DEFAULT, terminals });
    world.store.receipt(tagged, Outcome::Delivered, before.clone());
    let now =
        |audience: &Audience| world.store.tables.resolve(audience, AppId::DEFAULT, TOPIC, None, 0).unwrap();
    assert!(now(&tag).is_empty() && now(&Audience::Pending(tagged)).is_empty());
    assert_eq!(now(&Audience::Delivered(tagged)), before);
    assert_eq!(world.store.tables.audience(pending), Some(before));
}

#[test]
fn another_app_s_pushes_tags_and_aliases_are_not_found() {
    let mut world = World::new(5, 100);
    let Applied::App(other) = world.store.apply(create("other")) else { panic!("no app") };
    let resolve = |audience| world.store.tables.resolve(&audience, other, TOPIC, Some(&world.online), 0);
    assert_eq!(resolve(Audience::Delivered(PushId(1))), Err(Refusal::UnknownPush(PushId(1))));
    assert_eq!(resolve(Audience::Terminals(vec![id(1)])), Err(Refusal::UnknownTerminals(vec![id(1)])));
    let everyone = Audience::Sample(Sample::new(0, Sample::BUCKETS).unwrap());
    let tag = Audience::Tag { key: "os".into(), value: "tv".into() };
    for audience in [Audience::All, Audience::Online, Audience::Offline, Audience::Topic, everyone, tag] {
        assert_eq!(resolve(audience), Ok(TerminalSet::new()));
    }
    assert_eq!(resolve(Audience::Aliases(vec!["u1".into()])), Ok(TerminalSet::new()));
}

#[test]
fn only_the_plain_topic_audience_is_shown_to_best_effort_subscribers() {
    let mut world = World::new(6, 100);
    let mut shown = |audience| {
        world.accept(audience).unwrap();
        let Some(raft_store::Effect::Accepted(accepted)) = world.store.effects.first() else {
            panic!("no effect")
        };
        // What a dispatcher that missed the effect finds.
        let found = world.store.tables.accepted_after(PushId(accepted.push.0 - 1), 1);
        assert_eq!(found[0].shown, accepted.shown);
        accepted.shown
    };
    assert!(shown(Audience::Topic));
    assert!(!shown(Audience::And(vec![Audience::Topic, Audience::Not(Box::new(Audience::Online))])));
    assert!(!shown(Audience::Or(vec![Audience::Topic, Audience::All])));
    assert!(!shown(Audience::All));
}
