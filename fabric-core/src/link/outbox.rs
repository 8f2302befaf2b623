//! Receipts on their way to the leader.

use std::collections::BTreeMap;

use cluster_proto::{
    Outcome, PushId, TerminalNo, TerminalSet,
    link::{ExchangeStep, Receipt, Receipts},
};

use super::lane::Lane;

/// Batches under way at once. While they are, receipts gather in the open batch, so that a busy edge sends few
/// large sets instead of many small ones.
const IN_FLIGHT_MAX: u64 = 4;
/// The open batch is closed at about this size: an eighth of the largest frame.
const BATCH_LEN_MAX: usize = 1024 * 1024;
/// What one more (push, outcome), one more terminal and one more step may add to a batch, at most, in bytes.
const ITEM_LEN: usize = 32;
const TERMINAL_LEN: usize = 10;
const STEP_LEN: usize = 40;

/// Outcomes not yet committed (I9), as sets per (push, outcome), and the steps of QoS 2 exchanges in order. A step
/// added after an outcome is committed with it or later, never before.
///
/// Not bounded by count: an outcome or step belongs to a delivery the leader handed out, and those are bounded by
/// every terminal's window; without a leader nothing new is handed out.
#[derive(Clone, Debug)]
pub struct Outbox {
    open: BTreeMap<(PushId, Outcome), TerminalSet>,
    open_steps: Vec<ExchangeStep>,
    open_len: usize,
    closed: Lane<Receipts>,
}

impl Default for Outbox {
    fn default() -> Self {
        Self { open: BTreeMap::new(), open_steps: Vec::new(), open_len: 0, closed: Lane::new(usize::MAX) }
    }
}

impl Outbox {
    /// Keeps an outcome until it is committed. `no`: the terminal, or the group it got the push for.
    pub fn add(&mut self, push: PushId, outcome: Outcome, no: TerminalNo) {
        let set = self.open.entry((push, outcome)).or_insert_with(|| {
            self.open_len += ITEM_LEN;
            TerminalSet::new()
        });
        if set.insert(no) {
            self.open_len += TERMINAL_LEN;
        }
        if self.open_len >= BATCH_LEN_MAX {
            self.close_batch();
        }
    }

    /// Keeps a step until it is committed: when everything up to the sequence answered is.
    pub fn add_step(&mut self, step: ExchangeStep) -> u64 {
        let seq = self.closed.last_seq() + 1;
        self.open_steps.push(step);
        self.open_len += STEP_LEN;
        if self.open_len >= BATCH_LEN_MAX {
            self.close_batch();
        }
        seq
    }

    /// The next batch to send on this link.
    pub fn next_unsent(&mut self) -> Option<Receipts> {
        if self.closed.in_flight() >= IN_FLIGHT_MAX {
            return None;
        }
        if let Some(batch) = self.closed.next_unsent() {
            return Some(batch.clone());
        }
        self.close_batch();
        self.closed.next_unsent().cloned()
    }

    /// Everything up to `seq` is committed.
    pub fn committed(&mut self, seq: u64) {
        self.closed.answer_upto(seq);
    }

    /// A new link: everything uncommitted is to be sent again.
    pub fn rewind(&mut self) {
        self.closed.rewind();
    }

    /// The sequence that covers everything added so far.
    pub fn covering_seq(&self) -> u64 {
        self.closed.last_seq() + u64::from(self.has_open())
    }

    /// Whether everything is committed.
    pub fn is_empty(&self) -> bool {
        !self.has_open() && self.closed.is_empty()
    }

    /// How many batches wait, the open one included.
    pub fn len(&self) -> usize {
        self.closed.len() + usize::from(self.has_open())
    }

    /// Everything uncommitted as sets per push: the leader must treat it as in flight until it is committed.
    pub fn uncommitted(&self) -> BTreeMap<PushId, TerminalSet> {
        let mut sets: BTreeMap<PushId, TerminalSet> = BTreeMap::new();
        for ((push, _), set) in &self.open {
            sets.entry(*push).or_default().0 |= &set.0;
        }
        for receipt in self.closed.iter().flat_map(|batch| &batch.items) {
            sets.entry(receipt.push).or_default().0 |= &receipt.terminals.0;
        }
        sets
    }

    fn has_open(&self) -> bool {
        !self.open.is_empty() || !self.open_steps.is_empty()
    }

    fn close_batch(&mut self) {
        if !self.has_open() {
            return;
        }
        let open = std::mem::take(&mut self.open);
        let steps = std::mem::take(&mut self.open_steps);
        self.open_len = 0;
        let items = open
            .into_iter()
            .map(|((push, outcome), terminals)| Receipt { push, outcome, terminals })
            .collect();
        self.closed.push(|seq| Receipts { seq, items, steps });
    }
}

#[cfg(test)]
mod tests {
    use cluster_proto::link::Step;

    use super::*;

    const PUSH: PushId = PushId(1);

    fn step(packet_id: u16) -> ExchangeStep {
        ExchangeStep { no: TerminalNo(1), connection: 1, packet_id, step: Step::Receive }
    }

    fn deliver(outbox: &mut Outbox, nos: std::ops::Range<u32>) {
        for no in nos {
            outbox.add(PUSH, Outcome::Delivered, TerminalNo(no));
        }
    }

    #[test]
    fn receipts_of_one_push_travel_as_one_set() {
        let mut outbox = Outbox::default();
        deliver(&mut outbox, 0..100);
        let batch = outbox.next_unsent().expect("a batch");
        assert_eq!(batch.seq, 1);
        assert_eq!(batch.items.len(), 1);
        assert_eq!(batch.items[0].terminals.len(), 100);
        assert!(outbox.next_unsent().is_none());
    }

    #[test]
    fn while_batches_are_under_way_receipts_gather_in_the_open_one() {
        let mut outbox = Outbox::default();
        for no in 0..20 {
            deliver(&mut outbox, no..no + 1);
            outbox.next_unsent();
        }
        assert_eq!(outbox.covering_seq(), IN_FLIGHT_MAX + 1);
        outbox.committed(1);
        let batch = outbox.next_unsent().expect("a batch");
        assert_eq!(batch.items[0].terminals.len(), 20 - IN_FLIGHT_MAX);
    }

    #[test]
    fn nothing_leaves_before_it_is_committed() {
        let mut outbox = Outbox::default();
        deliver(&mut outbox, 0..3);
        let first = outbox.next_unsent().expect("a batch");
        outbox.rewind();
        assert_eq!(outbox.next_unsent(), Some(first));
        assert_eq!(outbox.uncommitted()[&PUSH].len(), 3);
        outbox.committed(1);
        assert!(outbox.is_empty());
    }

    #[test]
    fn the_covering_sequence_includes_the_open_batch() {
        let mut outbox = Outbox::default();
        assert_eq!(outbox.covering_seq(), 0);
        deliver(&mut outbox, 0..1);
        let covering = outbox.covering_seq();
        assert_eq!(outbox.next_unsent().map(|batch| batch.seq), Some(covering));
        assert_eq!(outbox.covering_seq(), covering);
    }

    #[test]
    fn steps_keep_their_order_and_are_covered_by_the_batch_they_travel_in() {
        let mut outbox = Outbox::default();
        deliver(&mut outbox, 1..2);
        let seq = outbox.add_step(step(7));
        assert_eq!((seq, outbox.add_step(step(8))), (1, 1));
        assert_eq!(outbox.covering_seq(), 1);
        let batch = outbox.next_unsent().expect("a batch");
        assert_eq!((batch.seq, batch.items.len()), (1, 1));
        assert_eq!(batch.steps, [step(7), step(8)]);
        assert_eq!(outbox.add_step(step(9)), 2);
        outbox.committed(1);
        assert!(!outbox.is_empty(), "a step alone makes a batch");
        assert_eq!(outbox.next_unsent().map(|batch| batch.steps), Some(vec![step(9)]));
    }

    #[test]
    fn many_steps_make_several_batches_in_order() {
        let mut outbox = Outbox::default();
        let mut covering = Vec::new();
        for n in 0..3 * (BATCH_LEN_MAX / STEP_LEN) as u32 {
            covering.push(outbox.add_step(step(n as u16)));
        }
        let mut at = 0;
        while let Some(batch) = outbox.next_unsent() {
            for sent in &batch.steps {
                assert_eq!((sent.packet_id, covering[at]), (at as u16, batch.seq));
                at += 1;
            }
            outbox.committed(batch.seq);
        }
        assert_eq!(at, covering.len());
    }

    #[test]
    fn a_batch_never_outgrows_a_frame() {
        let mut outbox = Outbox::default();
        for push in 0..60_000 {
            outbox.add(PushId(push), Outcome::Sent, TerminalNo(push as u32 * 70_000));
        }
        while let Some(batch) = outbox.next_unsent() {
            let mut bytes = bytes::BytesMut::new();
            cluster_proto::codec::encode(&batch, &mut bytes).expect("encode");
            assert!(bytes.len() <= 2 * BATCH_LEN_MAX);
            outbox.committed(batch.seq);
        }
        assert!(outbox.is_empty());
    }
}
