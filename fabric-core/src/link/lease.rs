//! How long an edge may act without hearing from the leader.

use std::collections::VecDeque;

/// Unanswered heartbeats remembered. More than these in one lease would mean a lease of a hundred heartbeats.
const UNANSWERED_MAX: usize = 128;

/// The lease: it runs from when the last *answered* heartbeat was *sent*, so that the leader, which counts from
/// when it received it, always waits longer. Times are milliseconds of a clock that counts suspended time.
#[derive(Clone, Debug, Default)]
pub struct Lease {
    lease_ms: u64,
    unanswered: VecDeque<(u64, u64)>,
    next_nonce: u64,
    until_ms: u64,
}

impl Lease {
    /// A new link grants leases of `lease_ms`; heartbeats of the old link will not be answered any more.
    pub fn begin(&mut self, lease_ms: u64) {
        self.lease_ms = lease_ms;
        self.unanswered.clear();
    }

    /// A heartbeat is being sent: its nonce.
    pub fn sent(&mut self, now_ms: u64) -> u64 {
        self.next_nonce += 1;
        if self.unanswered.len() == UNANSWERED_MAX {
            self.unanswered.pop_front();
        }
        self.unanswered.push_back((self.next_nonce, now_ms));
        self.next_nonce
    }

    /// A heartbeat was answered; says when it had been sent, unless it is not one of this link.
    pub fn answered(&mut self, nonce: u64) -> Option<u64> {
        while let Some(&(oldest, sent_at)) = self.unanswered.front() {
            if oldest > nonce {
                break;
            }
            self.unanswered.pop_front();
            if oldest == nonce {
                self.until_ms = self.until_ms.max(sent_at + self.lease_ms);
                return Some(sent_at);
            }
        }
        None
    }

    /// When the oldest unanswered heartbeat was sent.
    pub fn waiting_since_ms(&self) -> Option<u64> {
        self.unanswered.front().map(|(_, sent_at)| *sent_at)
    }

    /// The edge may act before this.
    pub fn until_ms(&self) -> u64 {
        self.until_ms
    }

    /// Whether the edge may act.
    pub fn is_valid(&self, now_ms: u64) -> bool {
        now_ms < self.until_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lease_runs_from_when_the_answered_heartbeat_was_sent() {
        let mut lease = Lease::default();
        lease.begin(1_000);
        let first = lease.sent(100);
        let _second = lease.sent(400);
        assert!(!lease.is_valid(401), "nothing is answered yet");
        assert_eq!(lease.answered(first), Some(100));
        assert!(lease.is_valid(1_099));
        assert!(!lease.is_valid(1_100));
        assert_eq!(lease.waiting_since_ms(), Some(400));
    }

    #[test]
    fn an_answer_to_a_heartbeat_of_the_old_link_grants_nothing() {
        let mut lease = Lease::default();
        lease.begin(1_000);
        let old = lease.sent(100);
        lease.begin(1_000);
        assert_eq!(lease.answered(old), None);
        assert!(!lease.is_valid(101));
    }

    #[test]
    fn a_late_answer_never_shortens_the_lease() {
        let mut lease = Lease::default();
        lease.begin(1_000);
        let nonce = lease.sent(5_000);
        lease.answered(nonce);
        lease.begin(10);
        let nonce = lease.sent(5_100);
        lease.answered(nonce);
        assert_eq!(lease.until_ms(), 6_000);
    }
}
