//! A shared subscription group under whatever its members and their edges do: each push is with one member at a time,
//! windows hold, and in the end everything is answered.

use std::collections::{BTreeMap, BTreeSet};

use cluster_proto::{PushId, Qos, TerminalNo};
use fabric_core::link::{
    SharedGroups,
    shared::{SHARED_WINDOW, Want},
};
use proptest::prelude::*;

const GROUP: TerminalNo = TerminalNo(900);
const MEMBERS: u32 = 3;

#[derive(Clone, Debug)]
enum Input {
    /// So many pushes are dispatched.
    Arrive(u8),
    Answer(usize),
    NotWritten(usize),
    /// A QoS 2 exchange is committed.
    Begin(usize),
    Live(u32, bool),
    Unsubscribe(u32),
    Subscribe(u32),
    Disconnect(u32),
    Gone(u32),
    SessionEnds(u32),
    /// Its edge has lost what it was sent last.
    Lost(u32),
    /// Its session moved, and goes on with what has begun.
    Rebind(u32),
    Unpause,
}

fn input() -> impl Strategy<Value = Input> {
    let member = 1..=MEMBERS;
    prop_oneof![
        4 => (1..40u8).prop_map(Input::Arrive),
        8 => any::<usize>().prop_map(Input::Answer),
        2 => any::<usize>().prop_map(Input::NotWritten),
        2 => any::<usize>().prop_map(Input::Begin),
        3 => (member.clone(), any::<bool>()).prop_map(|(no, live)| Input::Live(no, live)),
        1 => member.clone().prop_map(Input::Unsubscribe),
        3 => member.clone().prop_map(Input::Subscribe),
        1 => member.clone().prop_map(Input::Disconnect),
        1 => member.clone().prop_map(Input::Gone),
        1 => member.clone().prop_map(Input::SessionEnds),
        1 => member.clone().prop_map(Input::Lost),
        1 => member.prop_map(Input::Rebind),
        2 => Just(Input::Unpause),
    ]
}

/// The machine, with the tables and the edges as plain maps.
#[derive(Default)]
struct World {
    shared: SharedGroups,
    last: u64,
    /// Owed to the group, as the tables have it.
    owed: BTreeSet<PushId>,
    /// Who has it, and whether it has begun.
    with: BTreeMap<PushId, (TerminalNo, bool)>,
}

impl World {
    fn input(&mut self, input: Input) {
        match input {
            Input::Arrive(count) => (0..count).for_each(|_| self.arrive()),
            Input::Answer(at) => {
                if let Some((push, _)) = self.pick(at) {
                    self.settle(push);
                }
            }
            Input::NotWritten(at) => {
                if let Some((push, (member, false))) = self.pick(at) {
                    self.with.remove(&push);
                    self.shared.not_written(GROUP, push, member);
                }
            }
            Input::Begin(at) => {
                if let Some((push, (member, _))) = self.pick(at) {
                    self.with.insert(push, (member, true));
                    self.shared.begun(GROUP, push, member);
                }
            }
            Input::Live(no, live) => self.shared.set_live(TerminalNo(no), live),
            Input::Unsubscribe(no) => {
                self.shared.leave(GROUP, TerminalNo(no));
            }
            Input::Subscribe(no) => self.subscribe(TerminalNo(no)),
            Input::Disconnect(no) => self.shared.disconnect(TerminalNo(no)),
            Input::Gone(no) => {
                self.take_from(TerminalNo(no), |begun| !begun);
                self.shared.gone(TerminalNo(no));
            }
            Input::SessionEnds(no) => {
                let expected: Vec<_> = self.begun_by(TerminalNo(no));
                let ended: Vec<_> =
                    self.shared.session_ended(TerminalNo(no)).into_iter().map(|(push, _)| push).collect();
                assert_eq!(ended, expected);
                self.owed.retain(|push| !ended.contains(push));
                self.take_from(TerminalNo(no), |_| true);
            }
            Input::Lost(no) => {
                let kept = self.with.iter().find(|(_, (member, _))| *member == TerminalNo(no));
                let kept = kept.map(|(push, _)| *push);
                self.with.retain(|push, (member, begun)| {
                    *member != TerminalNo(no) || *begun || Some(*push) == kept
                });
                self.shared.has_only(TerminalNo(no), |push, _| Some(push) == kept);
            }
            Input::Rebind(no) => self.rebind(TerminalNo(no)),
            Input::Unpause => self.shared.unpause(),
        }
        self.serve();
        self.check();
    }

    fn arrive(&mut self) {
        self.last += 1;
        let push = PushId(self.last);
        self.owed.insert(push);
        if let Some(given) = self.shared.arrived(GROUP, push) {
            self.given(push, given.member);
        }
    }

    fn subscribe(&mut self, no: TerminalNo) {
        if self.shared.join(GROUP, no, Qos::ExactlyOnce) {
            let begun = self.with.iter().filter(|(_, (_, begun))| *begun);
            for (push, (member, _)) in begun {
                assert!(self.shared.claim(GROUP, *push, *member, true));
            }
        }
    }

    fn rebind(&mut self, no: TerminalNo) {
        let begun = self.begun_by(no);
        self.shared.take_back(no);
        self.take_from(no, |_| true);
        for push in begun {
            assert!(self.shared.claim(GROUP, push, no, true), "nobody else may have it");
            self.with.insert(push, (no, true));
        }
        self.subscribe(no);
        self.shared.set_live(no, true);
    }

    /// As the leader does after every event.
    fn serve(&mut self) {
        for group in self.shared.take_ready() {
            loop {
                match self.shared.wants(group) {
                    Want::Nothing => break,
                    Want::Again(push) if self.owed.contains(&push) => self.give(push),
                    Want::Again(push) => self.shared.drop_returned(group, push),
                    Want::Page { after, max } => {
                        let later = self.owed.range(PushId(after.0 + 1)..);
                        let page: Vec<_> = later.take(max).copied().collect();
                        let is_last = page.len() < max;
                        page.iter().for_each(|push| self.give(*push));
                        let upto = page.last().filter(|_| !is_last).copied().unwrap_or(PushId(self.last));
                        self.shared.has_read(group, upto, is_last);
                    }
                }
            }
        }
    }

    fn give(&mut self, push: PushId) {
        if let Some(given) = self.shared.give(GROUP, push) {
            self.given(push, given.member);
        }
    }

    fn given(&mut self, push: PushId, member: TerminalNo) {
        let before = self.with.insert(push, (member, false));
        assert_eq!(before, None, "{push:?} is given to {member:?} too");
    }

    fn settle(&mut self, push: PushId) {
        self.owed.remove(&push);
        let member = self.with.remove(&push).map(|(member, _)| member);
        assert_eq!(self.shared.settled(GROUP, push), member);
    }

    fn pick(&self, at: usize) -> Option<(PushId, (TerminalNo, bool))> {
        let len = self.with.len();
        self.with.iter().nth(at.checked_rem(len)?).map(|(push, with)| (*push, *with))
    }

    fn begun_by(&self, no: TerminalNo) -> Vec<PushId> {
        self.with.iter().filter(|(_, with)| **with == (no, true)).map(|(push, _)| *push).collect()
    }

    fn take_from(&mut self, no: TerminalNo, which: impl Fn(bool) -> bool) {
        self.with.retain(|_, (member, begun)| *member != no || !which(*begun));
    }

    fn check(&self) {
        let mut held: BTreeMap<TerminalNo, usize> = BTreeMap::new();
        for (push, (member, _)) in &self.with {
            assert_eq!(self.shared.holder(GROUP, *push), Some(*member));
            *held.entry(*member).or_default() += 1;
        }
        assert!(held.values().all(|count| *count <= SHARED_WINDOW));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn each_push_is_with_one_member_at_a_time_and_in_the_end_all_are_answered(
        inputs in prop::collection::vec(input(), 1..80),
    ) {
        let mut world = World::default();
        world.shared.set_whole();
        inputs.into_iter().for_each(|input| world.input(input));
        world.input(Input::Unpause);
        world.input(Input::Rebind(1));
        while let Some((push, _)) = world.pick(0) {
            world.settle(push);
            world.serve();
        }
        prop_assert!(world.owed.is_empty(), "forgotten: {:?}", world.owed);
    }
}
