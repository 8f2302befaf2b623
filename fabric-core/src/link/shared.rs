//! Shared subscription groups: which member is to get which push (MQTT 5, section 4.8.2).
//!
//! ```text
//!                    given to a member            answered
//!   owed (tables) ──────────────────► held ──────────────────► settled (tables)
//!        ▲                             │
//!        │                             │ not written, or the member left
//!        │   first, and in order       ▼
//!        └───────────────────────── returned
//! ```
//! A group is owed pushes as a terminal is; the tables say which. In here is only what cannot be read there: which
//! members are connected, who holds what, and how far the group has been read. A group without a connected member
//! that holds nothing is forgotten: the next member that joins finds everything in the tables.
//!
//! A delivery with QoS 2 that has begun stays with its member while the session lives ([MQTT-4.8.2-4]), and ends with
//! it ([MQTT-4.8.2-5]).
//!
//! Bounds (I10): a member holds at most [`SHARED_WINDOW`] pushes for all of its groups together, besides those its
//! session goes on with; what is returned was held before. What nobody has room for stays in the tables.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use cluster_proto::{
    PushId, Qos, TerminalNo, TerminalSet,
    limits::{OWED_PER_PULL_MAX, QUEUED_PER_TERMINAL_MAX},
};

/// Pushes a member may hold unanswered, for all of its groups together. Less than half of what a connection queues,
/// so that shared pushes do not make a live terminal fall behind.
pub const SHARED_WINDOW: usize = 32;
const _: () = assert!(SHARED_WINDOW < QUEUED_PER_TERMINAL_MAX / 2);

/// All groups with a connected member, or with something held.
#[derive(Debug, Default)]
pub struct SharedGroups {
    groups: BTreeMap<TerminalNo, Group>,
    members: BTreeMap<TerminalNo, Member>,
    /// The keys of `groups`: audiences are intersected with it.
    numbers: TerminalSet,
    /// Groups that may have something to give to somebody.
    ready: BTreeSet<TerminalNo>,
    /// Members that could not take a push, and are left out until their next receipt or [`SharedGroups::unpause`].
    paused: BTreeSet<TerminalNo>,
    /// Every edge has told what its members hold: before, a push of the tables may be with any of them. One that is just
    /// dispatched is with nobody.
    is_whole: bool,
}

#[derive(Debug)]
struct Group {
    /// Connected members, and what each was granted.
    members: BTreeMap<TerminalNo, Qos>,
    /// Those of them that may be given a push.
    open: BTreeSet<TerminalNo>,
    /// Served last: the next in turn comes after it.
    last: TerminalNo,
    held: BTreeMap<PushId, Held>,
    /// Were held, and must be given to somebody else first; whether they may have been written.
    returned: BTreeMap<PushId, bool>,
    /// The tables were read up to here.
    after: PushId,
    /// There may be more in the tables.
    behind: bool,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    member: TerminalNo,
    granted: Qos,
    /// Its QoS 2 exchange is committed.
    begun: bool,
    /// Another member may have got it before.
    dup: bool,
}

#[derive(Debug, Default)]
struct Member {
    /// Deliveries reach it.
    live: bool,
    /// Its groups, while it is connected.
    groups: BTreeSet<TerminalNo>,
    held: BTreeSet<(PushId, TerminalNo)>,
}

/// A push was given to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Given {
    /// Who gets it.
    pub member: TerminalNo,
    /// Granted to the member by this subscription.
    pub granted: Qos,
    /// Another member may have got it before.
    pub dup: bool,
}

/// What to read for a group that has room; see [`SharedGroups::wants`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Want {
    /// Nothing: nobody has room, or there is nothing more.
    Nothing,
    /// This push is to be given again, if it is still owed: `give` or `drop_returned`.
    Again(PushId),
    /// What the group is owed after this push, at most so many: `give` each, then `has_read`.
    Page {
        /// Exclusive.
        after: PushId,
        /// At least 1.
        max: usize,
    },
}

impl SharedGroups {
    // ------------------------------------------------------------ who is there

    /// The numbers of all groups in here.
    pub fn numbers(&self) -> &TerminalSet {
        &self.numbers
    }

    /// Whether a member of `group` is connected.
    pub fn is_online(&self, group: TerminalNo) -> bool {
        self.groups.get(&group).is_some_and(|group| !group.members.is_empty())
    }

    /// The groups of a connected member.
    pub fn groups_of(&self, member: TerminalNo) -> Vec<TerminalNo> {
        self.members.get(&member).map(|m| m.groups.iter().copied().collect()).unwrap_or_default()
    }

    /// Whether this is a member that is connected or holds something.
    pub fn is_member(&self, no: TerminalNo) -> bool {
        self.members.contains_key(&no)
    }

    /// All connected members, and those that hold something.
    pub fn members(&self) -> impl Iterator<Item = TerminalNo> + '_ {
        self.members.keys().copied()
    }

    /// Every edge has told what its members hold: from now on what is in the tables is given.
    pub fn set_whole(&mut self) {
        if !self.is_whole {
            self.is_whole = true;
            self.ready.extend(self.groups.keys());
        }
    }

    /// A connected session is a member of `group`. Says whether the group was not known: then what absent members
    /// have begun must be claimed for them before anything is given.
    pub fn join(&mut self, group: TerminalNo, member: TerminalNo, granted: Qos) -> bool {
        let is_new = !self.groups.contains_key(&group);
        self.group_mut(group).members.insert(member, granted);
        self.members.entry(member).or_default().groups.insert(group);
        self.update_open(member);
        is_new
    }

    /// A connected session is not a member of `group` any more. What it holds for it stays with it until it is
    /// answered ([MQTT-3.10.4-3]); answers those pushes, which may be withdrawn if they are not written.
    pub fn leave(&mut self, group: TerminalNo, member: TerminalNo) -> Vec<PushId> {
        if let Some(m) = self.members.get_mut(&member) {
            m.groups.remove(&group);
        }
        if let Some(g) = self.groups.get_mut(&group) {
            g.members.remove(&member);
            g.open.remove(&member);
        }
        let held = self.held_by(member, group);
        self.forget_if_idle(group);
        self.forget_member_if_idle(member);
        held
    }

    /// Deliveries reach this terminal now, or no longer. Nothing happens if it is no member.
    pub fn set_live(&mut self, member: TerminalNo, live: bool) {
        if let Some(m) = self.members.get_mut(&member) {
            m.live = live;
            self.paused.remove(&member);
            self.update_open(member);
        }
    }

    /// Its connection is over: nothing is given to it. What it holds stays with it until [`SharedGroups::gone`], since
    /// receipts may be on their way.
    pub fn disconnect(&mut self, member: TerminalNo) {
        let Some(m) = self.members.get_mut(&member) else { return };
        m.live = false;
        let groups = std::mem::take(&mut m.groups);
        self.paused.remove(&member);
        for group in groups {
            if let Some(g) = self.groups.get_mut(&group) {
                g.members.remove(&member);
                g.open.remove(&member);
            }
            self.forget_if_idle(group);
        }
        self.forget_member_if_idle(member);
    }

    /// Its connection is over and every receipt of it is in: what it holds goes back to its groups, except QoS 2
    /// deliveries that have begun.
    pub fn gone(&mut self, member: TerminalNo) {
        self.disconnect(member);
        let Some(m) = self.members.get(&member) else { return };
        for (push, group) in m.held.clone() {
            self.give_back(group, push);
        }
    }

    /// Another connection of it is being bound: everything it held goes back, and what its session goes on with is
    /// claimed after this.
    pub fn take_back(&mut self, member: TerminalNo) {
        if let Some(m) = self.members.get(&member) {
            for (push, group) in &m.held {
                if let Some(held) = self.groups.get_mut(group).and_then(|g| g.held.get_mut(push)) {
                    held.begun = false;
                }
            }
        }
        self.gone(member);
    }

    /// It is connected still, but of what it held it has only what `has` says (push, group): the rest goes back.
    pub fn has_only(&mut self, member: TerminalNo, has: impl Fn(PushId, TerminalNo) -> bool) {
        let Some(m) = self.members.get(&member) else { return };
        for (push, group) in m.held.clone() {
            if !has(push, group) {
                self.give_back(group, push);
            }
        }
    }

    /// What a member holds with QoS 2 granted and not begun, as (push, group). With a session that keeps nothing, what
    /// is written of it has begun all the same.
    pub fn held_with_qos_2(&self, member: TerminalNo) -> Vec<(PushId, TerminalNo)> {
        let Some(m) = self.members.get(&member) else { return Vec::new() };
        let is_meant = |(push, group): &&(PushId, TerminalNo)| {
            let held = self.groups.get(group).and_then(|g| g.held.get(push));
            held.is_some_and(|held| held.granted == Qos::ExactlyOnce && !held.begun)
        };
        m.held.iter().filter(is_meant).copied().collect()
    }

    /// Its session has ended: answers what it had begun, as (push, group), which nobody else may get
    /// ([MQTT-4.8.2-5]).
    pub fn session_ended(&mut self, member: TerminalNo) -> Vec<(PushId, TerminalNo)> {
        self.gone(member);
        let held: Vec<_> =
            self.members.get(&member).map(|m| m.held.iter().copied().collect()).unwrap_or_default();
        for (push, group) in &held {
            self.unhold(*group, *push);
            self.forget_if_idle(*group);
        }
        held
    }

    /// Members that are not connected, and what they have begun, as (push, group).
    pub fn absent(&self) -> Vec<(TerminalNo, Vec<(PushId, TerminalNo)>)> {
        let absent = self.members.iter().filter(|(_, m)| m.groups.is_empty() && !m.held.is_empty());
        absent.map(|(no, m)| (*no, m.held.iter().copied().collect())).collect()
    }

    /// The tables do not know this group any more.
    pub fn forget(&mut self, group: TerminalNo) {
        let Some(gone) = self.groups.remove(&group) else { return };
        self.numbers.remove(group);
        self.ready.remove(&group);
        let holders = gone.held.iter().map(|(push, held)| (held.member, Some(*push)));
        for (member, push) in holders.chain(gone.members.keys().map(|member| (*member, None))) {
            let Some(m) = self.members.get_mut(&member) else { continue };
            m.groups.remove(&group);
            if let Some(push) = push {
                m.held.remove(&(push, group));
            }
            self.update_open(member);
            self.forget_member_if_idle(member);
        }
    }

    // ------------------------------------------------------------ giving

    /// A push for `group` is dispatched. `None`: it comes when there is room, and after what is before it.
    pub fn arrived(&mut self, group: TerminalNo, push: PushId) -> Option<Given> {
        let is_whole = self.is_whole;
        let g = self.groups.get_mut(&group)?;
        if !is_whole {
            // It does not wait for an edge that was perhaps lost with the leader before; what is older comes later
            // (shared subscriptions promise no order, [MQTT-4.6.0-6]).
            g.behind = true;
            return self.give(group, push);
        }
        if g.behind || !g.returned.is_empty() || g.open.is_empty() {
            g.behind = true;
            return None;
        }
        g.after = push;
        self.give(group, push)
    }

    /// Groups that may have something to give to somebody.
    pub fn take_ready(&mut self) -> BTreeSet<TerminalNo> {
        if self.is_whole { std::mem::take(&mut self.ready) } else { BTreeSet::new() }
    }

    /// More is to be done for this group than was done now.
    pub fn set_ready(&mut self, group: TerminalNo) {
        self.ready.insert(group);
    }

    /// What to read from the tables for `group`.
    pub fn wants(&self, group: TerminalNo) -> Want {
        let Some(g) = self.groups.get(&group).filter(|_| self.is_whole) else { return Want::Nothing };
        let room = self.room(g);
        match g.returned.keys().next() {
            _ if room == 0 => Want::Nothing,
            Some(push) => Want::Again(*push),
            None if g.behind => Want::Page { after: g.after, max: room },
            None => Want::Nothing,
        }
    }

    /// Gives a push to the next member in turn; `None` if somebody holds it, or nobody has room.
    pub fn give(&mut self, group: TerminalNo, push: PushId) -> Option<Given> {
        let g = self.groups.get_mut(&group).filter(|g| !g.held.contains_key(&push))?;
        let member = next_in_turn(&g.open, g.last)?;
        let granted = *g.members.get(&member)?;
        let dup = g.returned.remove(&push).unwrap_or(false);
        g.last = member;
        self.hold(group, push, Held { member, granted, begun: false, dup });
        Some(Given { member, granted, dup })
    }

    /// A returned push is owed no more.
    pub fn drop_returned(&mut self, group: TerminalNo, push: PushId) {
        if let Some(g) = self.groups.get_mut(&group) {
            g.returned.remove(&push);
            self.forget_if_idle(group);
        }
    }

    /// A page was given, up to `upto`; `is_last`: there was nothing after it.
    pub fn has_read(&mut self, group: TerminalNo, upto: PushId, is_last: bool) {
        if let Some(g) = self.groups.get_mut(&group) {
            g.after = g.after.max(upto);
            g.behind = !is_last;
        }
    }

    /// `push` was left out, and may have to be given after all.
    pub fn read_again_from(&mut self, push: PushId) {
        for (no, g) in &mut self.groups {
            g.after = g.after.min(PushId(push.0.saturating_sub(1)));
            g.behind = true;
            self.ready.insert(*no);
        }
    }

    /// The next live member in turn, for a message nobody keeps.
    pub fn pick_live(&mut self, group: TerminalNo) -> Option<TerminalNo> {
        let g = self.groups.get_mut(&group)?;
        let is_live = |no: &TerminalNo| self.members.get(no).is_some_and(|m| m.live);
        let later = g.members.range((Bound::Excluded(g.last), Bound::Unbounded));
        let member = later.chain(g.members.range(..=g.last)).map(|(no, _)| *no).find(is_live)?;
        g.last = member;
        Some(member)
    }

    // ------------------------------------------------------------ what becomes of it

    /// Who holds `push` for `group`.
    pub fn holder(&self, group: TerminalNo, push: PushId) -> Option<TerminalNo> {
        Some(self.groups.get(&group)?.held.get(&push)?.member)
    }

    /// Whether `push` waits for another member, and no member has written it.
    pub fn is_unwritten(&self, group: TerminalNo, push: PushId) -> bool {
        self.groups.get(&group).is_some_and(|g| g.returned.get(&push) == Some(&false))
    }

    /// A member has `push` already: it said so in Resume, or its session goes on with it. Says whether it is the one
    /// that holds it now; another may have been given it meanwhile.
    pub fn claim(&mut self, group: TerminalNo, push: PushId, member: TerminalNo, begun: bool) -> bool {
        let g = self.group_mut(group);
        if let Some(held) = g.held.get_mut(&push) {
            held.begun |= begun && held.member == member;
            return held.member == member;
        }
        g.returned.remove(&push);
        let granted = g.members.get(&member).copied().unwrap_or_default();
        self.hold(group, push, Held { member, granted, begun, dup: true });
        true
    }

    /// The QoS 2 exchange of `member` with `push` is committed: it stays with it.
    pub fn begun(&mut self, group: TerminalNo, push: PushId, member: TerminalNo) {
        let held = self.groups.get_mut(&group).and_then(|g| g.held.get_mut(&push));
        if let Some(held) = held.filter(|held| held.member == member) {
            held.begun = true;
        }
    }

    /// A final receipt for `group` is committed; answers who held the push, as far as known.
    pub fn settled(&mut self, group: TerminalNo, push: PushId) -> Option<TerminalNo> {
        self.groups.get_mut(&group)?.returned.remove(&push);
        let held = self.unhold(group, push);
        self.forget_if_idle(group);
        held.map(|held| held.member)
    }

    /// `member` answered that it did not write `push`: another is tried, and this one paused.
    pub fn not_written(&mut self, group: TerminalNo, push: PushId, member: TerminalNo) {
        if self.holder(group, push) != Some(member) {
            return;
        }
        let Some(held) = self.unhold(group, push) else { return };
        if let Some(g) = self.groups.get_mut(&group) {
            g.returned.insert(push, held.dup);
            self.ready.insert(group);
        }
        if self.members.contains_key(&member) {
            self.paused.insert(member);
            self.update_open(member);
        }
        self.forget_if_idle(group);
    }

    /// Members that were paused may be given pushes again.
    pub fn unpause(&mut self) {
        for member in std::mem::take(&mut self.paused) {
            self.update_open(member);
        }
    }

    // ------------------------------------------------------------ inside

    fn group_mut(&mut self, group: TerminalNo) -> &mut Group {
        self.numbers.insert(group);
        self.groups.entry(group).or_insert_with(Group::new)
    }

    fn hold(&mut self, group: TerminalNo, push: PushId, held: Held) {
        if let Some(g) = self.groups.get_mut(&group) {
            g.held.insert(push, held);
            self.members.entry(held.member).or_default().held.insert((push, group));
            self.update_open(held.member);
        }
    }

    /// Frees the place in its holder's window. A receipt shows that a paused member takes pushes again.
    fn unhold(&mut self, group: TerminalNo, push: PushId) -> Option<Held> {
        let held = self.groups.get_mut(&group)?.held.remove(&push)?;
        if let Some(m) = self.members.get_mut(&held.member) {
            m.held.remove(&(push, group));
            self.paused.remove(&held.member);
            self.update_open(held.member);
            self.forget_member_if_idle(held.member);
        }
        Some(held)
    }

    /// Returns a push that its holder may have written, unless it has begun.
    fn give_back(&mut self, group: TerminalNo, push: PushId) {
        let Some(g) = self.groups.get_mut(&group) else { return };
        if g.held.get(&push).is_some_and(|held| !held.begun) {
            g.returned.insert(push, true);
            self.ready.insert(group);
            self.unhold(group, push);
            self.forget_if_idle(group);
        }
    }

    /// Whether a member may be given pushes has perhaps changed.
    fn update_open(&mut self, member: TerminalNo) {
        let Some(m) = self.members.get(&member) else { return };
        let is_open = m.live && m.held.len() < SHARED_WINDOW && !self.paused.contains(&member);
        for group in &m.groups {
            let Some(g) = self.groups.get_mut(group) else { continue };
            if is_open {
                g.open.insert(member);
                if g.behind || !g.returned.is_empty() {
                    self.ready.insert(*group);
                }
            } else {
                g.open.remove(&member);
            }
        }
    }

    /// How many pushes may be given now, counted up to a page.
    fn room(&self, g: &Group) -> usize {
        let mut room = 0;
        for member in &g.open {
            room += SHARED_WINDOW - self.members.get(member).map_or(SHARED_WINDOW, |m| m.held.len());
            if room >= OWED_PER_PULL_MAX {
                return OWED_PER_PULL_MAX;
            }
        }
        room
    }

    fn held_by(&self, member: TerminalNo, group: TerminalNo) -> Vec<PushId> {
        let Some(m) = self.members.get(&member) else { return Vec::new() };
        m.held.iter().filter(|(_, g)| *g == group).map(|(push, _)| *push).collect()
    }

    fn forget_if_idle(&mut self, group: TerminalNo) {
        if self.groups.get(&group).is_some_and(|g| g.members.is_empty() && g.held.is_empty()) {
            self.groups.remove(&group);
            self.numbers.remove(group);
            self.ready.remove(&group);
        }
    }

    fn forget_member_if_idle(&mut self, member: TerminalNo) {
        if self.members.get(&member).is_some_and(|m| m.groups.is_empty() && m.held.is_empty()) {
            self.members.remove(&member);
            self.paused.remove(&member);
        }
    }
}

impl Group {
    /// Nothing is read yet.
    fn new() -> Self {
        Self {
            members: BTreeMap::new(),
            open: BTreeSet::new(),
            last: TerminalNo(0),
            held: BTreeMap::new(),
            returned: BTreeMap::new(),
            after: PushId(0),
            behind: true,
        }
    }
}

fn next_in_turn(open: &BTreeSet<TerminalNo>, last: TerminalNo) -> Option<TerminalNo> {
    let later = open.range((Bound::Excluded(last), Bound::Unbounded)).next();
    later.or_else(|| open.first()).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: TerminalNo = TerminalNo(900);
    const A: TerminalNo = TerminalNo(1);
    const B: TerminalNo = TerminalNo(2);

    /// A group with these members, live, whose tables were read.
    fn group_of(members: &[TerminalNo]) -> SharedGroups {
        let mut shared = SharedGroups::default();
        shared.set_whole();
        members.iter().for_each(|member| online(&mut shared, *member));
        shared.has_read(GROUP, PushId(0), true);
        shared
    }

    fn online(shared: &mut SharedGroups, member: TerminalNo) {
        shared.join(GROUP, member, Qos::ExactlyOnce);
        shared.set_live(member, true);
    }

    fn arrive(shared: &mut SharedGroups, push: u64) -> Option<TerminalNo> {
        shared.arrived(GROUP, PushId(push)).map(|given| given.member)
    }

    /// Gives what was returned, as (push, member, dup).
    fn give_again(shared: &mut SharedGroups) -> Vec<(u64, TerminalNo, bool)> {
        let mut given = Vec::new();
        while let Want::Again(push) = shared.wants(GROUP) {
            let to = shared.give(GROUP, push).expect("room");
            given.push((push.0, to.member, to.dup));
        }
        given
    }

    #[test]
    fn members_are_served_in_turn_and_each_push_goes_to_one() {
        let mut shared = group_of(&[A, B]);
        let to: Vec<_> = (1..=4).filter_map(|push| arrive(&mut shared, push)).collect();
        assert_eq!(to, [A, B, A, B]);
        assert_eq!(shared.arrived(GROUP, PushId(4)), None, "it is held already");
    }

    #[test]
    fn a_member_with_a_full_window_gets_no_more_until_it_answers() {
        let mut shared = group_of(&[A]);
        let window = SHARED_WINDOW as u64;
        assert!((1..=window).all(|push| arrive(&mut shared, push) == Some(A)));
        assert_eq!(arrive(&mut shared, window + 1), None);
        assert_eq!(shared.wants(GROUP), Want::Nothing);
        shared.settled(GROUP, PushId(3));
        assert!(shared.take_ready().contains(&GROUP));
        assert_eq!(shared.wants(GROUP), Want::Page { after: PushId(window), max: 1 });
        assert_eq!(shared.give(GROUP, PushId(window + 1)).map(|given| given.member), Some(A));
    }

    #[test]
    fn the_window_of_a_member_is_one_for_all_its_groups() {
        let other = TerminalNo(901);
        let mut shared = group_of(&[A]);
        shared.join(other, A, Qos::AtLeastOnce);
        shared.has_read(other, PushId(0), true);
        for push in 1..=SHARED_WINDOW as u64 {
            let group = if push % 2 == 0 { GROUP } else { other };
            assert!(shared.arrived(group, PushId(push)).is_some());
        }
        assert_eq!(arrive(&mut shared, 100), None);
        assert_eq!(shared.arrived(other, PushId(100)), None);
    }

    #[test]
    fn while_nobody_is_live_pushes_stay_in_the_tables_and_are_read_later() {
        let mut shared = group_of(&[A]);
        shared.set_live(A, false);
        assert_eq!(arrive(&mut shared, 5), None);
        shared.set_live(A, true);
        assert_eq!(arrive(&mut shared, 6), None, "what is before it comes first");
        assert_eq!(shared.take_ready(), BTreeSet::from([GROUP]));
        assert_eq!(shared.wants(GROUP), Want::Page { after: PushId(0), max: SHARED_WINDOW });
        assert!(shared.give(GROUP, PushId(5)).is_some() && shared.give(GROUP, PushId(6)).is_some());
        shared.has_read(GROUP, PushId(6), true);
        assert_eq!(arrive(&mut shared, 7), Some(A));
    }

    #[test]
    fn what_a_member_leaves_behind_goes_to_another_first_and_in_order() {
        let mut shared = group_of(&[A, B]);
        for push in 1..=4 {
            arrive(&mut shared, push);
        }
        shared.disconnect(A);
        assert_eq!(shared.wants(GROUP), Want::Nothing, "its receipts may be on their way");
        shared.settled(GROUP, PushId(1));
        shared.gone(A);
        assert_eq!(arrive(&mut shared, 5), None, "what was returned is first");
        assert_eq!(give_again(&mut shared), [(3, B, true)]);
        assert_eq!(shared.holder(GROUP, PushId(3)), Some(B));
    }

    #[test]
    fn what_was_lost_on_its_way_to_a_member_goes_back() {
        let mut shared = group_of(&[A]);
        (1..=3).for_each(|push| assert_eq!(arrive(&mut shared, push), Some(A)));
        shared.begun(GROUP, PushId(3), A);
        shared.has_only(A, |push, _| push == PushId(1));
        assert_eq!(give_again(&mut shared), [(2, A, true)]);
    }

    #[test]
    fn a_qos_2_delivery_that_has_begun_stays_with_its_member_and_ends_with_its_session() {
        let mut shared = group_of(&[A, B]);
        arrive(&mut shared, 1);
        shared.begun(GROUP, PushId(1), B);
        assert_eq!(shared.held_with_qos_2(A), [(PushId(1), GROUP)]);
        shared.begun(GROUP, PushId(1), A);
        assert_eq!(shared.held_with_qos_2(A), []);
        shared.gone(A);
        assert_eq!(give_again(&mut shared), []);
        assert_eq!(shared.absent(), [(A, vec![(PushId(1), GROUP)])]);
        online(&mut shared, A);
        assert_eq!(shared.absent(), []);
        assert_eq!(shared.session_ended(A), [(PushId(1), GROUP)]);
        assert_eq!(give_again(&mut shared), []);
        assert_eq!(shared.holder(GROUP, PushId(1)), None);
    }

    #[test]
    fn a_push_that_was_not_written_goes_to_another_and_its_member_pauses() {
        let mut shared = group_of(&[A, B]);
        arrive(&mut shared, 1);
        shared.not_written(GROUP, PushId(1), B);
        assert_eq!(shared.holder(GROUP, PushId(1)), Some(A), "B does not hold it");
        shared.not_written(GROUP, PushId(1), A);
        assert_eq!(give_again(&mut shared), [(1, B, false)]);
        assert_eq!(arrive(&mut shared, 2), Some(B));
        shared.unpause();
        assert_eq!(arrive(&mut shared, 3), Some(A));
    }

    #[test]
    fn a_receipt_ends_the_pause_of_a_member() {
        let mut shared = group_of(&[A]);
        arrive(&mut shared, 1);
        arrive(&mut shared, 2);
        shared.not_written(GROUP, PushId(2), A);
        assert_eq!(shared.wants(GROUP), Want::Nothing);
        shared.settled(GROUP, PushId(1));
        assert!(shared.take_ready().contains(&GROUP));
        assert_eq!(give_again(&mut shared), [(2, A, false)]);
    }

    #[test]
    fn a_member_that_unsubscribes_keeps_what_it_holds_and_gets_no_more() {
        let mut shared = group_of(&[A, B]);
        arrive(&mut shared, 1);
        assert_eq!(shared.leave(GROUP, A), [PushId(1)]);
        assert_eq!(shared.holder(GROUP, PushId(1)), Some(A));
        assert_eq!((arrive(&mut shared, 2), arrive(&mut shared, 3)), (Some(B), Some(B)));
        shared.settled(GROUP, PushId(1));
        assert!(!shared.is_member(A));
    }

    #[test]
    fn before_every_edge_has_told_what_its_members_hold_only_new_pushes_are_given() {
        let mut shared = SharedGroups::default();
        assert!(shared.join(GROUP, A, Qos::AtLeastOnce), "the group was not known");
        shared.set_live(A, true);
        assert_eq!(arrive(&mut shared, 7), Some(A));
        assert!(shared.take_ready().is_empty());
        assert_eq!(shared.wants(GROUP), Want::Nothing);
        assert!(shared.claim(GROUP, PushId(3), B, false));
        shared.set_whole();
        assert_eq!(shared.take_ready(), BTreeSet::from([GROUP]));
        assert!(matches!(shared.wants(GROUP), Want::Page { after: PushId(0), .. }));
        assert_eq!(shared.give(GROUP, PushId(3)), None, "B has it");
        assert_eq!(shared.give(GROUP, PushId(7)), None, "A has it");
        assert!(!shared.claim(GROUP, PushId(3), A, false), "one at a time");
    }

    #[test]
    fn a_group_without_members_that_holds_nothing_is_forgotten() {
        let mut shared = group_of(&[A]);
        arrive(&mut shared, 1);
        shared.gone(A);
        assert!(!shared.is_online(GROUP) && shared.numbers().is_empty() && !shared.is_member(A));
        assert!(shared.join(GROUP, B, Qos::AtLeastOnce), "the tables are read from the start");
        assert!(matches!(shared.wants(GROUP), Want::Nothing));
        shared.set_live(B, true);
        assert!(matches!(shared.wants(GROUP), Want::Page { after: PushId(0), .. }));
    }

    #[test]
    fn a_group_that_is_gone_frees_the_windows_of_its_members() {
        let mut shared = group_of(&[A]);
        for push in 1..=SHARED_WINDOW as u64 {
            arrive(&mut shared, push);
        }
        let other = TerminalNo(901);
        shared.join(other, A, Qos::AtLeastOnce);
        shared.has_read(other, PushId(0), true);
        assert_eq!(shared.arrived(other, PushId(50)), None);
        shared.forget(GROUP);
        assert!(matches!(shared.wants(other), Want::Page { .. }));
        assert_eq!(shared.groups_of(A), [other]);
    }

    #[test]
    fn a_message_nobody_keeps_goes_to_the_next_live_member() {
        let mut shared = group_of(&[A, B]);
        shared.join(GROUP, TerminalNo(3), Qos::AtMostOnce);
        let to: Vec<_> = (0..3).filter_map(|_| shared.pick_live(GROUP)).collect();
        assert_eq!(to, [A, B, A]);
        shared.set_live(A, false);
        shared.set_live(B, false);
        assert_eq!(shared.pick_live(GROUP), None);
    }

    #[test]
    fn a_push_that_was_left_out_is_read_again() {
        let mut shared = group_of(&[A]);
        arrive(&mut shared, 5);
        shared.read_again_from(PushId(4));
        assert!(matches!(shared.wants(GROUP), Want::Page { after: PushId(3), .. }));
        assert_eq!(shared.give(GROUP, PushId(5)), None, "held");
    }
}
