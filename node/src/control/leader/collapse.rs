//! Collapse keys: who has an older push in flight is known here, so the leader says of whom it is taken back at once and
//! who is asked. The tables keep what is to be done, and who is being asked: both are found again by chores.

use cluster_proto::{PushId, TerminalNo, TerminalSet};
use raft_store::{Applied, Command, CommandBody, ProposeError};

use super::{Leader, Now, Waiting};

/// Rows of the index that one command goes through.
const ROWS_PER_COLLAPSE: usize = 256;
/// Bytes of who has older pushes in flight in one command, unless it is one push: fewer rows otherwise.
const COLLAPSE_LEN_MAX: usize = 512 * 1024;
/// Marked pushes looked at in one chore.
const MARKED_PER_CHORE: usize = 64;
/// Pushes asked about in one chore.
const ASKED_PER_CHORE: usize = 256;

impl Leader {
    /// A push has older ones to replace: proposes a part of that. From here on nobody is handed those any more.
    pub(super) fn collapse(&mut self, by: PushId) {
        if self.collapsing.contains_key(&by) || !self.presence_is_whole() {
            return; // under way, or found again by the chore
        }
        let in_flight =
            |(push, nos): &(PushId, TerminalSet)| (*push, TerminalSet(self.in_flight(*push).0 & &nos.0));
        let mut rows = ROWS_PER_COLLAPSE;
        let (found, pushes) = loop {
            let Some(found) = self.tables.to_collapse(by, rows) else { return };
            let pushes: Vec<_> = found.replaced.iter().map(in_flight).collect();
            let len: usize = pushes.iter().map(|(_, set)| set.0.serialized_size()).sum();
            if len <= COLLAPSE_LEN_MAX || rows == 1 {
                break (found, pushes);
            }
            rows = (rows / 4).max(1);
        };
        self.collapsing.insert(by, found.replaced);
        let body = CommandBody::Collapse { by, pushes, released: found.released, next: found.next };
        self.propose(Command::own(body), Waiting::Collapsed(by));
    }

    pub(super) fn collapsed(&mut self, by: PushId, result: &Result<Applied, ProposeError>) {
        let Some(replaced) = self.collapsing.remove(&by) else { return };
        if result.is_err() {
            // Groups left them out meanwhile; the chore proposes again.
            return replaced.iter().for_each(|(push, _)| self.shared.read_again_from(*push));
        }
        for (push, _) in &replaced {
            self.ask_about_replaced(*push);
        }
        self.collapse(by);
    }

    /// Whether `push` is taken back from `no` by what is being committed.
    pub(super) fn is_taken_back(&self, push: PushId, no: TerminalNo) -> bool {
        let of = |(old, nos): &(PushId, TerminalSet)| *old == push && nos.contains(no);
        self.withdrawing.contains(&push) || self.collapsing.values().flatten().any(of)
    }

    /// Marks whose hint was lost, or whose proposal was: also those of an earlier leader.
    pub(super) fn collapse_marked(&mut self, _now: Now) {
        for by in self.tables.collapses(MARKED_PER_CHORE) {
            self.collapse(by);
        }
    }

    /// Those who have a replaced push in flight, and whose question or answer was lost.
    pub(super) fn ask_again_about_replaced(&mut self) {
        let pushes = self.tables.collapsing_after(self.replaced_from, ASKED_PER_CHORE);
        let is_last = pushes.len() < ASKED_PER_CHORE;
        self.replaced_from = pushes.last().copied().filter(|_| !is_last).unwrap_or_default();
        pushes.into_iter().for_each(|push| self.ask_about_replaced(push));
    }

    fn ask_about_replaced(&mut self, push: PushId) {
        let set = self.tables.collapsing(push);
        if set.is_empty() || !self.presence_is_whole() {
            return;
        }
        for (id, pending) in self.tables.pending_by_id(push) {
            self.ask_about(id, &TerminalSet(pending.0 & &set.0));
        }
    }
}
