//! What a terminal still gets over this connection, in dispatch order; urgent pushes before ordinary ones.
//!
//! ```text
//!             page, not the last                    queue full
//!              ┌──────────┐                ┌───────────────────────────┐
//!              ▼          │                ▼                           │
//!  Off ─► Behind ──pull─► Pulling ──page, live──► Live ────────────────┘
//!   ▲                        │                     │
//!   └───── link lost ────────┴─────────────────────┘
//! ```
//! `Live` takes pushes as they are dispatched. Otherwise they are skipped, and found again in what the leader says
//! the terminal is owed after `after`. The queue is bounded by [`QUEUED_PER_TERMINAL_MAX`] (I10): what does not fit
//! makes a live terminal fall behind, and a pull never asks for more than fits.
//!
//! An urgent push is put behind the urgent ones and before the first ordinary one that is not begun. A full queue takes
//! [`URGENT_BEYOND_MAX`] more of them, and one that fell behind with its ordinary pushes still takes them as they are
//! dispatched, until it pulls.

use std::collections::VecDeque;

use cluster_proto::{
    PushId, Qos, TerminalNo,
    limits::{OWED_PER_PULL_MAX, QUEUED_PER_TERMINAL_MAX, URGENT_BEYOND_MAX},
    link::After,
};

use super::{action::Queued, in_flight::Window};

/// How the terminal gets to know of pushes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Feed {
    /// It has no number yet, or there is no leader.
    Off,
    /// It is owed more than it has queued; a pull follows when there is room.
    Behind,
    /// A pull is under way.
    Pulling,
    /// Every push comes as it is dispatched.
    Live,
}

/// Something to be written, in its place in the order.
#[derive(Clone, Debug)]
pub(super) struct Waiting<M> {
    pub(super) queued: Queued<M>,
    /// Effective; known once the message is.
    pub(super) qos: Qos,
    /// In the window already: to be recorded first, or of an earlier connection.
    pub(super) packet_id: Option<u16>,
    pub(super) origin: Origin,
}

/// Where something to be written comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// A push of the feed, or for a group.
    Push,
    /// Begun by an earlier connection.
    Resumed,
    /// A retained message, with the identifier of its subscription.
    Retained(Option<u32>),
}

impl<M> Waiting<M> {
    /// Whether its message is here.
    pub(super) fn is_here(&self) -> bool {
        self.queued.message.is_some()
    }

    pub(super) fn group(&self) -> Option<TerminalNo> {
        self.queued.shared.map(|shared| shared.group)
    }

    /// Nothing overtakes it any more: it is in the window, or of an earlier connection.
    fn is_begun(&self) -> bool {
        self.packet_id.is_some() || self.origin == Origin::Resumed
    }

    fn is(&self, push: PushId, group: Option<TerminalNo>) -> bool {
        self.queued.push == push && self.group() == group
    }

    /// Whether it may no longer be written. A QoS 2 exchange that an earlier connection began was handed out in time, and
    /// goes on as it was ([MQTT-4.3.3-7]); what QoS 1 sends again is a hand-out like the first (I3).
    pub(super) fn is_expired(&self, now_ms: u64) -> bool {
        let goes_on = self.origin == Origin::Resumed && self.qos == Qos::ExactlyOnce;
        !goes_on && self.queued.expires_at_ms.is_some_and(|expires| expires <= now_ms)
    }
}

/// Queue, window and feed of one connection.
#[derive(Clone, Debug)]
pub(super) struct Deliveries<M> {
    pub(super) feed: Feed,
    /// The last pushes queued here.
    pub(super) after: After,
    /// Urgent pushes come as they are dispatched: also while ordinary ones are behind, until the leader says otherwise.
    urgent_live: bool,
    pub(super) queue: VecDeque<Waiting<M>>,
    pub(super) window: Window,
    /// Pushes this connection began with, beyond `after`: a page may bring one again that was acknowledged here, as long
    /// as the receipt is not committed. Bounded by the window of the connection before.
    resumed: Vec<PushId>,
    /// Of the queue: pushes that [`QUEUED_PER_TERMINAL_MAX`] bounds.
    pushes: u16,
    /// Of the queue: retained messages, bounded by the page they came in.
    retained: u16,
    /// A QoS 2 delivery may wait for its packet id.
    pub(super) unbegun: bool,
}

/// Below this much queue the next page is asked for, so that it arrives before the queue is empty.
const PULL_BELOW: usize = QUEUED_PER_TERMINAL_MAX / 2;
/// Capacity kept while the queue is empty.
const IDLE_CAPACITY: usize = 2;

impl<M> Deliveries<M> {
    pub(super) fn new(window: u16) -> Self {
        Self {
            feed: Feed::Off,
            after: After::default(),
            urgent_live: false,
            queue: VecDeque::new(),
            window: Window::new(window),
            resumed: Vec::new(),
            pushes: 0,
            retained: 0,
            unbegun: false,
        }
    }

    /// Takes a dispatched push, unless the terminal is not live. Whoever is live has seen everything up to `after`,
    /// so an older push is a repetition.
    pub(super) fn push_live(&mut self, waiting: Waiting<M>) {
        let (push, urgent) = (waiting.queued.push, waiting.queued.urgent);
        let is_live = if urgent { self.urgent_live } else { self.feed == Feed::Live };
        if !is_live || push <= self.last(urgent) {
            return;
        }
        if self.has_begun(push) {
            self.pass(push, urgent);
        } else if self.has_room(urgent) {
            self.pass(push, urgent);
            self.put(waiting);
        } else {
            self.urgent_live &= !urgent;
            if self.feed == Feed::Live {
                self.feed = Feed::Behind;
            }
        }
    }

    /// The link to the leader is lost: nothing comes as it is dispatched.
    pub(super) fn turn_off(&mut self) {
        self.feed = Feed::Off;
        self.urgent_live = false;
    }

    /// The terminal is owed something, and has to pull.
    pub(super) fn fall_behind(&mut self) {
        self.feed = Feed::Behind;
        self.urgent_live = false;
    }

    fn last(&self, urgent: bool) -> PushId {
        if urgent { self.after.urgent } else { self.after.ordinary }
    }

    fn has_room(&self, urgent: bool) -> bool {
        let beyond = if urgent { URGENT_BEYOND_MAX } else { 0 };
        usize::from(self.pushes) < QUEUED_PER_TERMINAL_MAX + beyond
    }

    /// Whether `push` was handed out on this connection beside the order of `after`.
    fn has_begun(&self, push: PushId) -> bool {
        self.resumed.contains(&push) || self.window.holds(push, None)
    }

    /// Everything of its priority up to `push` is queued here, or was.
    fn pass(&mut self, push: PushId, urgent: bool) {
        if urgent {
            self.after.urgent = push;
        } else {
            self.after.ordinary = push;
        }
        if !self.resumed.is_empty() {
            // Of which priority they are is not known.
            let passed = self.after.ordinary.min(self.after.urgent);
            self.resumed.retain(|resumed| *resumed > passed);
        }
    }

    /// The connection goes on with a delivery of the one before it.
    pub(super) fn resume(&mut self, waiting: Waiting<M>) {
        if waiting.group().is_none() && !waiting.queued.push.is_retained() {
            self.resumed.push(waiting.queued.push);
        }
        self.enqueue(waiting);
    }

    /// Takes a push for a group this terminal is a member of, in its turn behind what is queued. `false`: not live, or
    /// full, and another member has to get it.
    pub(super) fn push_shared(&mut self, waiting: Waiting<M>) -> bool {
        let (push, group) = (waiting.queued.push, waiting.group());
        if self.window.holds(push, group) || self.queue.iter().any(|queued| queued.is(push, group)) {
            return true;
        }
        if self.feed != Feed::Live || !self.has_room(waiting.queued.urgent) {
            return false;
        }
        self.put(waiting);
        true
    }

    /// Takes a page that was pulled. A pull may be answered twice (asked before and after a link was lost): the leader
    /// goes by its last answer, so a later page that is not the last ends what an earlier one began.
    pub(super) fn page(&mut self, pushes: impl IntoIterator<Item = Waiting<M>>, live: bool) {
        if self.feed == Feed::Live && !live {
            self.feed = Feed::Pulling;
        }
        if self.feed != Feed::Pulling {
            return;
        }
        self.feed = if live { Feed::Live } else { Feed::Behind };
        self.urgent_live = live;
        for waiting in pushes {
            let (push, urgent) = (waiting.queued.push, waiting.queued.urgent);
            if push <= self.last(urgent) {
                continue;
            }
            if self.has_begun(push) {
                self.pass(push, urgent);
                continue;
            }
            if !self.has_room(urgent) {
                // More than was asked for: the rest is pulled again.
                return self.fall_behind();
            }
            self.pass(push, urgent);
            self.put(waiting);
        }
    }

    /// Puts a push into its place in the queue.
    fn put(&mut self, waiting: Waiting<M>) {
        if !waiting.queued.urgent {
            return self.enqueue(waiting);
        }
        let is_overtaken = |queued: &Waiting<M>| !queued.queued.urgent && !queued.is_begun();
        let at = self.queue.iter().position(is_overtaken).unwrap_or(self.queue.len());
        self.note(&waiting);
        self.queue.insert(at, waiting);
    }

    /// Puts something at the end of the queue, whatever its bound.
    pub(super) fn enqueue(&mut self, waiting: Waiting<M>) {
        self.note(&waiting);
        self.queue.push_back(waiting);
    }

    fn note(&mut self, waiting: &Waiting<M>) {
        self.count(waiting.origin, 1);
        self.unbegun |= waiting.qos == Qos::ExactlyOnce && waiting.packet_id.is_none();
    }

    fn count(&mut self, origin: Origin, by: i16) {
        let counter = match origin {
            Origin::Push => &mut self.pushes,
            Origin::Retained(_) => &mut self.retained,
            Origin::Resumed => return,
        };
        *counter = counter.saturating_add_signed(by);
    }

    /// How many pushes to ask for now, if any.
    pub(super) fn next_pull(&mut self) -> Option<u16> {
        if self.feed != Feed::Behind || usize::from(self.pushes) > PULL_BELOW {
            return None;
        }
        self.feed = Feed::Pulling;
        let room = QUEUED_PER_TERMINAL_MAX.saturating_sub(usize::from(self.pushes));
        Some(room.min(OWED_PER_PULL_MAX) as u16)
    }

    /// Whether all retained messages that came are written.
    pub(super) fn has_no_retained(&self) -> bool {
        self.retained == 0
    }

    /// Takes a push out of the queue.
    pub(super) fn unqueue(&mut self, push: PushId, group: Option<TerminalNo>) -> Option<Waiting<M>> {
        let at = self.queue.iter().position(|waiting| waiting.is(push, group))?;
        let waiting = self.queue.remove(at)?;
        self.count(waiting.origin, -1);
        Some(waiting)
    }

    /// The next that waits for the message of `push`.
    pub(super) fn waiting_for(&mut self, push: PushId) -> Option<&mut Waiting<M>> {
        self.queue.iter_mut().find(|waiting| waiting.queued.push == push && !waiting.is_here())
    }

    pub(super) fn pop(&mut self) -> Option<Waiting<M>> {
        let waiting = self.queue.pop_front();
        if let Some(waiting) = &waiting {
            self.count(waiting.origin, -1);
        }
        if self.queue.is_empty() {
            self.queue.shrink_to(IDLE_CAPACITY);
        }
        waiting
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(id: u64) -> Waiting<()> {
        let queued = Queued {
            push: PushId(id),
            message: Some(()),
            qos0: false,
            dup: false,
            expires_at_ms: None,
            shared: None,
            urgent: false,
        };
        Waiting { queued, qos: Qos::AtLeastOnce, packet_id: None, origin: Origin::Push }
    }

    fn urgent(id: u64) -> Waiting<()> {
        let mut waiting = push(id);
        waiting.queued.urgent = true;
        waiting
    }

    fn ids(deliveries: &Deliveries<()>) -> Vec<u64> {
        deliveries.queue.iter().map(|waiting| waiting.queued.push.0).collect()
    }

    fn live() -> Deliveries<()> {
        let mut deliveries = Deliveries::new(1);
        deliveries.feed = Feed::Pulling;
        deliveries.page([], true);
        deliveries
    }

    #[test]
    fn a_full_queue_makes_a_live_terminal_fall_behind_and_pull_when_half_empty() {
        let mut deliveries = live();
        for id in 1..=QUEUED_PER_TERMINAL_MAX as u64 + 5 {
            deliveries.push_live(push(id));
        }
        assert_eq!((deliveries.feed, deliveries.queue.len()), (Feed::Behind, QUEUED_PER_TERMINAL_MAX));
        assert_eq!(deliveries.after.ordinary, PushId(QUEUED_PER_TERMINAL_MAX as u64));
        assert_eq!(deliveries.next_pull(), None);
        while deliveries.queue.len() > PULL_BELOW {
            deliveries.pop();
        }
        assert_eq!(deliveries.next_pull(), Some(OWED_PER_PULL_MAX as u16));
        assert_eq!(deliveries.next_pull(), None, "one pull at a time");
    }

    #[test]
    fn a_page_brings_what_is_new_and_the_last_makes_live() {
        let mut deliveries = live();
        deliveries.push_live(push(7));
        deliveries.feed = Feed::Behind;
        assert!(deliveries.next_pull().is_some());
        deliveries.push_live(push(9));
        deliveries.page([push(7), push(8)], true);
        deliveries.push_live(push(8));
        deliveries.push_live(push(10));
        let ids: Vec<u64> = deliveries.queue.iter().map(|waiting| waiting.queued.push.0).collect();
        assert_eq!(ids, [7, 8, 10]);
    }

    #[test]
    fn a_second_answer_that_says_live_changes_nothing_and_one_that_does_not_makes_it_pull_again() {
        let mut deliveries = live();
        deliveries.page([push(1)], true);
        assert_eq!((deliveries.feed, deliveries.queue.len()), (Feed::Live, 0));
        deliveries.page([push(1)], false);
        assert_eq!((deliveries.feed, deliveries.queue.len()), (Feed::Behind, 1));
        assert!(deliveries.next_pull().is_some());
    }

    #[test]
    fn a_retained_page_takes_no_room_from_pushes() {
        let mut deliveries = live();
        for _ in 0..QUEUED_PER_TERMINAL_MAX {
            deliveries.enqueue(Waiting { origin: Origin::Retained(None), ..push(0) });
        }
        deliveries.push_live(push(1));
        assert_eq!((deliveries.feed, deliveries.after.ordinary), (Feed::Live, PushId(1)));
        assert!(!deliveries.has_no_retained());
        (0..QUEUED_PER_TERMINAL_MAX).for_each(|_| assert!(deliveries.pop().is_some()));
        assert!(deliveries.has_no_retained());
    }

    #[test]
    fn a_push_for_a_group_is_taken_while_live_and_once() {
        use crate::mqtt::action::Shared;

        let shared = |id| {
            let mut waiting = push(id);
            waiting.queued.shared = Some(Shared { group: TerminalNo(9), granted: Qos::AtLeastOnce });
            waiting
        };
        let mut deliveries = live();
        deliveries.push_live(push(5));
        assert!(deliveries.push_shared(shared(3)), "groups have an order of their own");
        assert!(deliveries.push_shared(shared(3)));
        assert_eq!(deliveries.queue.len(), 2);
        deliveries.feed = Feed::Off;
        assert!(!deliveries.push_shared(shared(4)));
    }
    #[test]
    fn an_urgent_push_overtakes_what_is_ordinary_and_not_begun_and_keeps_the_order_of_its_own() {
        let mut deliveries = live();
        deliveries.resume(Waiting { packet_id: Some(1), origin: Origin::Resumed, ..push(1) });
        deliveries.enqueue(Waiting { packet_id: Some(2), ..push(2) });
        deliveries.enqueue(Waiting { origin: Origin::Retained(None), ..push(3) });
        deliveries.push_live(push(4));
        deliveries.push_live(urgent(5));
        deliveries.push_live(push(6));
        deliveries.push_live(urgent(7));
        assert_eq!(ids(&deliveries), [1, 2, 5, 7, 3, 4, 6]);
        deliveries.push_live(urgent(7));
        assert_eq!(deliveries.queue.len(), 7, "each once");
        assert_eq!(deliveries.after, After { ordinary: PushId(6), urgent: PushId(7) });
    }

    #[test]
    fn a_page_brings_urgent_pushes_that_are_older_than_ordinary_ones_that_came() {
        let mut deliveries = live();
        deliveries.push_live(push(5));
        deliveries.fall_behind();
        assert!(deliveries.next_pull().is_some());
        deliveries.page([urgent(3), urgent(8), push(5), push(6)], true);
        assert_eq!(ids(&deliveries), [3, 8, 5, 6]);
        deliveries.push_live(urgent(8));
        deliveries.push_live(push(9));
        assert_eq!(ids(&deliveries), [3, 8, 5, 6, 9]);
    }

    #[test]
    fn a_full_queue_takes_some_urgent_pushes_more_and_finds_the_others_with_its_next_pull() {
        let mut deliveries = live();
        let full = QUEUED_PER_TERMINAL_MAX as u64;
        (1..=full + 3).for_each(|id| deliveries.push_live(push(id)));
        let beyond = URGENT_BEYOND_MAX as u64;
        (1_000..1_000 + beyond + 1).for_each(|id| deliveries.push_live(urgent(id)));
        assert_eq!((deliveries.feed, deliveries.queue.len()), (Feed::Behind, (full + beyond) as usize));
        assert_eq!(ids(&deliveries)[..2], [1_000, 1_001]);
        assert_eq!(deliveries.after.urgent, PushId(999 + beyond));
        deliveries.push_live(urgent(5_000));
        assert_eq!(deliveries.after.urgent, PushId(999 + beyond), "nothing may overtake what did not fit");
        while deliveries.next_pull().is_none() {
            assert!(deliveries.pop().is_some());
        }
        let rest = [urgent(1_000 + beyond), urgent(5_000), push(full + 1)];
        deliveries.page(rest, true);
        assert_eq!(ids(&deliveries)[..2], [1_000 + beyond, 5_000]);
    }

    #[test]
    fn after_the_link_was_lost_an_urgent_push_waits_for_the_pull_like_any_other() {
        let mut deliveries = live();
        deliveries.turn_off();
        deliveries.push_live(urgent(1));
        deliveries.fall_behind();
        deliveries.push_live(urgent(2));
        assert_eq!(ids(&deliveries), []);
    }
}
