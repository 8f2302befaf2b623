//! A queue of numbered commands that are kept until they are answered.

use std::collections::VecDeque;

/// Commands numbered from 1 without gaps, kept until answered, sent in order, and all sent again on a new link.
///
/// `first <= sent + 1 <= first + kept.len()`: what is before `first` is answered, what is after `sent` was not sent
/// on the present link. An answer may overtake an earlier one; its place stays empty until those before it are
/// answered too.
#[derive(Clone, Debug)]
pub struct Lane<T> {
    kept: VecDeque<Option<T>>,
    first: u64,
    sent: u64,
    kept_max: usize,
}

impl<T> Lane<T> {
    /// An empty lane that keeps at most `kept_max` commands; a full one refuses more.
    pub fn new(kept_max: usize) -> Self {
        Self { kept: VecDeque::new(), first: 1, sent: 0, kept_max }
    }

    /// Takes a command, built with the number it gets; `None` when full: the caller slows down or refuses.
    pub fn push(&mut self, build: impl FnOnce(u64) -> T) -> Option<u64> {
        if self.kept.len() >= self.kept_max {
            return None;
        }
        Some(self.push_anyway(build))
    }

    /// As `push`, full or not: for commands that cannot be refused, and that something else bounds.
    pub fn push_anyway(&mut self, build: impl FnOnce(u64) -> T) -> u64 {
        let seq = self.last_seq() + 1;
        self.kept.push_back(Some(build(seq)));
        seq
    }

    /// The next command to send on this link.
    pub fn next_unsent(&mut self) -> Option<&T> {
        while self.sent < self.last_seq() {
            self.sent = self.sent.max(self.first - 1) + 1;
            let at = (self.sent - self.first) as usize;
            if self.kept[at].is_some() {
                return self.kept[at].as_ref();
            }
        }
        None
    }

    /// This command was answered; `None` if it was answered before or never existed.
    pub fn answer(&mut self, seq: u64) -> Option<T> {
        let at = usize::try_from(seq.checked_sub(self.first)?).ok()?;
        let item = self.kept.get_mut(at)?.take();
        self.drop_answered();
        item
    }

    /// Everything up to `seq` was answered: in order, what had not been answered before.
    pub fn answer_upto(&mut self, seq: u64) -> Vec<(u64, T)> {
        let mut answered = Vec::new();
        while self.first <= seq {
            let Some(item) = self.kept.pop_front() else { break };
            answered.extend(item.map(|item| (self.first, item)));
            self.first += 1;
        }
        self.drop_answered();
        answered
    }

    /// A new link: everything unanswered is to be sent again.
    pub fn rewind(&mut self) {
        self.sent = self.first - 1;
    }

    /// The number given last; 0 before the first.
    pub fn last_seq(&self) -> u64 {
        self.first + self.kept.len() as u64 - 1
    }

    /// How many wait for an answer and were sent on this link.
    pub fn in_flight(&self) -> u64 {
        (self.sent + 1).saturating_sub(self.first)
    }

    /// Whatever is not answered yet, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.kept.iter().flatten()
    }

    /// How many places are taken.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether everything is answered.
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    fn drop_answered(&mut self) {
        while let Some(None) = self.kept.front() {
            self.kept.pop_front();
            self.first += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(lane: &mut Lane<u64>) -> Vec<u64> {
        std::iter::from_fn(|| lane.next_unsent().copied()).collect()
    }

    fn lane_of(n: u64) -> Lane<u64> {
        let mut lane = Lane::new(100);
        for _ in 0..n {
            lane.push(|seq| seq).expect("room");
        }
        lane
    }

    #[test]
    fn commands_are_numbered_from_one_and_sent_once_per_link() {
        let mut lane = lane_of(3);
        assert_eq!(drain(&mut lane), [1, 2, 3]);
        assert_eq!(drain(&mut lane), []);
        lane.push(|seq| seq);
        assert_eq!(drain(&mut lane), [4]);
    }

    #[test]
    fn a_new_link_sends_all_that_is_unanswered_again_in_order() {
        let mut lane = lane_of(5);
        drain(&mut lane);
        assert_eq!(lane.answer(1), Some(1));
        assert_eq!(lane.answer(3), Some(3));
        assert_eq!(lane.answer(3), None);
        lane.rewind();
        assert_eq!(drain(&mut lane), [2, 4, 5]);
    }

    #[test]
    fn what_the_leader_applied_before_counts_as_answered() {
        let mut lane = lane_of(4);
        drain(&mut lane);
        lane.answer(2);
        assert_eq!(lane.answer_upto(3), [(1, 1), (3, 3)]);
        lane.rewind();
        assert_eq!(drain(&mut lane), [4]);
        assert_eq!(lane.answer_upto(100), [(4, 4)]);
        assert_eq!(lane.last_seq(), 4);
        assert_eq!(lane.push(|seq| seq), Some(5));
    }

    #[test]
    fn a_full_lane_refuses_more_until_one_is_answered() {
        let mut lane = Lane::new(1);
        assert_eq!(lane.push(|seq| seq), Some(1));
        assert_eq!(lane.push(|seq| seq), None);
        assert_eq!(lane.push_anyway(|seq| seq), 2, "but for what cannot be refused");
        lane.answer(1);
        assert_eq!(lane.push(|seq| seq), None);
        lane.answer(2);
        assert_eq!(lane.push(|seq| seq), Some(3));
    }

    #[test]
    fn answers_to_numbers_never_given_change_nothing() {
        let mut lane = lane_of(1);
        assert_eq!(lane.answer(0), None);
        assert_eq!(lane.answer(9), None);
        assert_eq!(lane.len(), 1);
    }
}
