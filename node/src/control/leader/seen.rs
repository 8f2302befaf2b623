//! Which registered terminals were connected today: gathered here, recorded about once a minute, and only who is new.

use cluster_proto::{TerminalNo, TerminalSet};
use raft_store::{Applied, Command, CommandBody, ProposeError};

use super::{Chore, Leader, Now, Waiting};

/// How often who was seen is recorded.
pub(super) const RECORD_EVERY_MS: u64 = 60_000;
/// Blocks of 65,536 terminals in one command: 1 MiB at most.
const BLOCKS_AT_ONCE_MAX: u32 = 128;
const DAY_MS: u64 = 24 * 3_600 * 1_000;

/// Terminals of one day. What is lost with the leader, the next one gathers again from whoever is still connected.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Days since the epoch, UTC.
    day: u32,
    /// In the log already.
    recorded: TerminalSet,
    /// Not yet.
    fresh: TerminalSet,
}

fn day_of(now: Now) -> u32 {
    u32::try_from(now.wall_ms / DAY_MS).unwrap_or(u32::MAX)
}

impl Seen {
    pub(super) fn new(now: Now) -> Self {
        Self { day: day_of(now), ..Self::default() }
    }

    /// A terminal is bound.
    pub(super) fn note(&mut self, no: TerminalNo) {
        if no.is_registered() && !self.recorded.contains(no) {
            self.fresh.insert(no);
        }
    }

    /// Takes a part out that fits into a command.
    fn take(&mut self) -> TerminalSet {
        let Some(first) = self.fresh.0.min() else { return TerminalSet::new() };
        let last = (first | 0xffff).saturating_add((BLOCKS_AT_ONCE_MAX - 1) << 16);
        let mut part = self.fresh.0.clone();
        if let Some(after) = last.checked_add(1) {
            part.remove_range(after..);
        }
        self.fresh.0 -= &part;
        TerminalSet(part)
    }
}

impl Leader {
    /// When a day begins, whoever is connected was seen on it.
    pub(super) fn follow_day(&mut self, now: Now) {
        let day = day_of(now);
        if day == self.seen.day {
            return;
        }
        // Yesterday's last; should it be lost, they were seen a day less.
        let terminals = self.seen.take();
        if !terminals.is_empty() {
            let body = CommandBody::RecordSeen { day: self.seen.day, terminals };
            self.propose(Command::own(body), Waiting::Nothing);
        }
        self.seen = Seen::new(now);
        for edge in self.edges.values() {
            edge.bound.iter().for_each(|no| self.seen.note(no));
        }
    }

    pub(super) fn record_seen(&mut self, now: Now) {
        if self.seen.fresh.is_empty() && !self.tables.seen_old(now.wall_ms) {
            return;
        }
        let (day, terminals) = (self.seen.day, self.seen.take());
        self.under_way(now, Chore::RecordSeen);
        let body = CommandBody::RecordSeen { day, terminals: terminals.clone() };
        self.propose(Command::own(body), Waiting::Seen(day, terminals));
    }

    pub(super) fn seen_recorded(
        &mut self,
        now: Now,
        day: u32,
        terminals: TerminalSet,
        result: &Result<Applied, ProposeError>,
    ) {
        if day == self.seen.day {
            let into = if result.is_ok() { &mut self.seen.recorded } else { &mut self.seen.fresh };
            into.0 |= terminals.0;
        }
        let rest_ms = if result.is_ok() && !self.seen.fresh.is_empty() { 0 } else { RECORD_EVERY_MS };
        self.chores.insert(Chore::RecordSeen, now.mono_ms + rest_ms);
    }
}
