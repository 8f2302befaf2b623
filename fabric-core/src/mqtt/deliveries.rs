//! What a terminal still gets over this connection, in dispatch order.
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

use std::collections::VecDeque;

use cluster_proto::{
    PushId,
    limits::{OWED_PER_PULL_MAX, QUEUED_PER_TERMINAL_MAX},
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

/// Queue, window and feed of one connection.
#[derive(Clone, Debug)]
pub(super) struct Deliveries<M> {
    pub(super) feed: Feed,
    /// The last push queued here.
    pub(super) after: PushId,
    pub(super) queue: VecDeque<Queued<M>>,
    pub(super) window: Window,
}

/// Below this much queue the next page is asked for, so that it arrives before the queue is empty.
const PULL_BELOW: usize = QUEUED_PER_TERMINAL_MAX / 2;
/// Capacity kept while the queue is empty.
const IDLE_CAPACITY: usize = 2;

impl<M> Deliveries<M> {
    pub(super) fn new(window: u16) -> Self {
        Self { feed: Feed::Off, after: PushId(0), queue: VecDeque::new(), window: Window::new(window) }
    }

    /// Takes a dispatched push, unless the terminal is not live. Whoever is live has seen everything up to `after`,
    /// so an older push is a repetition.
    pub(super) fn push_live(&mut self, queued: Queued<M>) {
        if self.feed != Feed::Live || queued.push <= self.after {
            return;
        }
        if self.queue.len() >= QUEUED_PER_TERMINAL_MAX {
            self.feed = Feed::Behind;
            return;
        }
        self.after = queued.push;
        self.queue.push_back(queued);
    }

    /// Takes a page that was pulled. A pull may be answered twice (asked before and after a link was lost): the leader
    /// goes by its last answer, so a later page that is not the last ends what an earlier one began.
    pub(super) fn page(&mut self, pushes: impl IntoIterator<Item = Queued<M>>, live: bool) {
        if self.feed == Feed::Live && !live {
            self.feed = Feed::Pulling;
        }
        if self.feed != Feed::Pulling {
            return;
        }
        self.feed = if live { Feed::Live } else { Feed::Behind };
        for queued in pushes {
            if queued.push <= self.after {
                continue;
            }
            if self.queue.len() >= QUEUED_PER_TERMINAL_MAX {
                // More than was asked for: the rest is pulled again.
                self.feed = Feed::Behind;
                return;
            }
            self.after = queued.push;
            self.queue.push_back(queued);
        }
    }

    /// How many pushes to ask for now, if any.
    pub(super) fn next_pull(&mut self) -> Option<u16> {
        if self.feed != Feed::Behind || self.queue.len() > PULL_BELOW {
            return None;
        }
        self.feed = Feed::Pulling;
        let room = QUEUED_PER_TERMINAL_MAX - self.queue.len();
        Some(room.min(OWED_PER_PULL_MAX) as u16)
    }

    /// Takes `push` out of the queue; says whether it was there.
    pub(super) fn unqueue(&mut self, push: PushId) -> bool {
        match self.queue.iter().position(|queued| queued.push == push) {
            Some(at) => {
                self.queue.remove(at);
                true
            }
            None => false,
        }
    }

    pub(super) fn waiting_for(&mut self, push: PushId) -> Option<&mut Queued<M>> {
        self.queue.iter_mut().find(|queued| queued.push == push && queued.message.is_none())
    }

    pub(super) fn pop(&mut self) -> Option<Queued<M>> {
        let queued = self.queue.pop_front();
        if self.queue.is_empty() {
            self.queue.shrink_to(IDLE_CAPACITY);
        }
        queued
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(id: u64) -> Queued<()> {
        Queued {
            push: PushId(id),
            message: Some(()),
            qos0: false,
            dup: false,
            expires_at_ms: None,
            shared: None,
        }
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
        assert_eq!(deliveries.after, PushId(QUEUED_PER_TERMINAL_MAX as u64));
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
        let ids: Vec<u64> = deliveries.queue.iter().map(|queued| queued.push.0).collect();
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
}
