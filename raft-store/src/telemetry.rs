//! The metrics of this crate: what operators look at is how far the positions are apart.

use std::time::Duration;

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};

use crate::leadership::{Leadership, Positions};

/// Raft term.
pub const TERM: &str = "carillon_raft_term";
/// 1 on the leader, once it serves.
pub const IS_LEADER: &str = "carillon_raft_is_leader";
/// See [`Positions`]. Label: `position` (`last_log`, `committed`, `applied`, `snapshot`, `purged`).
pub const INDEX: &str = "carillon_raft_index";
/// Room on the data directory's file system.
pub const DISK_FREE_BYTES: &str = "carillon_disk_free_bytes";
/// Log entries proposed by this node.
pub const ENTRIES_TOTAL: &str = "carillon_proposed_entries_total";
/// Commands in them; divided by the entries: the batching.
pub const COMMANDS_TOTAL: &str = "carillon_proposed_commands_total";
/// One write of the log, its fsync included.
pub const LOG_WRITE_SECONDS: &str = "carillon_log_write_seconds";
/// One slice of entries applied.
pub const APPLY_SECONDS: &str = "carillon_apply_seconds";
/// Hints for the leader's work that found its queue full; a rescan finds what they were about.
pub const EFFECTS_DROPPED_TOTAL: &str = "carillon_effects_dropped_total";

/// Tells the recorder what the names mean.
pub(crate) fn describe() {
    describe_gauge!(TERM, "Raft term");
    describe_gauge!(IS_LEADER, "1 on the leader, once it serves");
    describe_gauge!(INDEX, "log indexes on this node");
    describe_gauge!(DISK_FREE_BYTES, Unit::Bytes, "room on the data directory's file system");
    describe_counter!(ENTRIES_TOTAL, "log entries proposed by this node");
    describe_counter!(COMMANDS_TOTAL, "commands in the entries proposed by this node");
    describe_histogram!(LOG_WRITE_SECONDS, Unit::Seconds, "one write of the log, its fsync included");
    describe_histogram!(APPLY_SECONDS, Unit::Seconds, "one slice of entries applied");
    describe_counter!(EFFECTS_DROPPED_TOTAL, "hints that found the leader's queue full");
}

pub(crate) fn leadership(now: Leadership) {
    gauge!(TERM).set(now.term as f64);
    gauge!(IS_LEADER).set(if now.is_leader { 1.0 } else { 0.0 });
}

pub(crate) fn positions(now: Positions) {
    let all = [
        ("last_log", now.last_log),
        ("committed", now.committed),
        ("applied", now.applied),
        ("snapshot", now.snapshot),
        ("purged", now.purged),
    ];
    for (position, index) in all {
        gauge!(INDEX, "position" => position).set(index.unwrap_or(0) as f64);
    }
}

pub(crate) fn disk_free(bytes: u64) {
    gauge!(DISK_FREE_BYTES).set(bytes as f64);
}

pub(crate) fn proposed(commands: usize) {
    counter!(ENTRIES_TOTAL).increment(1);
    counter!(COMMANDS_TOTAL).increment(commands as u64);
}

pub(crate) fn log_written(took: Duration) {
    histogram!(LOG_WRITE_SECONDS).record(took);
}

pub(crate) fn applied(took: Duration) {
    histogram!(APPLY_SECONDS).record(took);
}

pub(crate) fn effect_dropped() {
    counter!(EFFECTS_DROPPED_TOTAL).increment(1);
}
