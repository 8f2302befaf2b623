//! What must happen now and then: look at the disk, take snapshots, purge the log, notice that something hangs.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use openraft::{async_runtime::watch::WatchReceiver, errors::Fatal};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval},
};

use crate::{
    disk,
    group::Raft,
    leadership::{Leadership, Positions},
    log_store::LogStore,
    state_machine::ApplyProgress,
    tables::Tables,
    telemetry,
};

const EVERY: Duration = Duration::from_millis(250);
/// Apply busy with one job, or not following what is committed, for so long: the process is of no use.
const APPLY_STALL_MAX: Duration = Duration::from_secs(60);
/// The log is cut when it holds more than this, even where `log_keep` entries are not reached: 100,000 full entries
/// would be 25 GiB.
const LOG_KEEP_BYTES: u64 = 1024 * 1024 * 1024;
/// A snapshot after so many bytes of log, even where `snapshot_every` entries are not reached.
const SNAPSHOT_EVERY_BYTES: u64 = 1024 * 1024 * 1024;
/// Entries kept behind a snapshot whatever their size. openraft 0.10 panics when a purge overtakes what its core has
/// seen applied (its issue 2116); this many are hundreds of milliseconds of the heaviest load.
const LOG_KEEP_MIN: u64 = 2_000;
/// Purge in steps, not entry by entry.
const PURGE_STEPS: u64 = 16;

pub(crate) struct Housekeeping {
    pub(crate) raft: Raft,
    pub(crate) log: LogStore,
    pub(crate) tables: Tables,
    pub(crate) progress: ApplyProgress,
    pub(crate) data_dir: PathBuf,
    pub(crate) disk_reserve_bytes: u64,
    pub(crate) disk_full: Arc<AtomicBool>,
    pub(crate) log_keep: u64,
    pub(crate) snapshot_every: u64,
    pub(crate) leadership: watch::Receiver<Leadership>,
    pub(crate) positions: watch::Receiver<Positions>,
    pub(crate) failed: watch::Sender<Option<String>>,
}

/// What was seen at the last tick.
struct Seen {
    applied: Option<u64>,
    progressed_at: Instant,
    snapshot_asked_for: u64,
    bytes_at_snapshot: u64,
}

impl Housekeeping {
    /// Until Raft ends, which it reports.
    pub(crate) async fn run(self) {
        let mut tick = interval(EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seen = Seen {
            applied: None,
            progressed_at: Instant::now(),
            snapshot_asked_for: 0,
            bytes_at_snapshot: 0,
        };
        loop {
            tick.tick().await;
            let metrics = self.raft.metrics().borrow_watched().clone();
            match &metrics.running_state {
                Ok(()) => {}
                // Asked to.
                Err(Fatal::Stopped) => return,
                Err(error) => return self.fail(format!("raft stopped: {error}")),
            }
            if let Some(error) = self.tables.failure() {
                return self.fail(format!("reading the tables failed: {error}"));
            }
            telemetry::leadership(*self.leadership.borrow());
            telemetry::positions(*self.positions.borrow());
            self.look_at_disk();
            let applied = metrics.last_applied.map(|at| at.index);
            if applied != seen.applied || applied >= metrics.local_committed.map(|at| at.index) {
                seen.applied = applied;
                seen.progressed_at = Instant::now();
            }
            if let Some(stall) = self.stall(&seen) {
                return self.fail(stall);
            }
            let snapshot = metrics.snapshot.map_or(0, |at| at.index);
            self.snapshot_if_due(applied.unwrap_or(0), snapshot, &mut seen).await;
            self.purge_if_due(snapshot).await;
        }
    }

    fn fail(&self, reason: String) {
        tracing::error!(%reason, "the control group member failed");
        self.failed.send_replace(Some(reason));
    }

    fn look_at_disk(&self) {
        let full = match disk::free_bytes(&self.data_dir) {
            Ok(free) => {
                telemetry::disk_free(free);
                free < self.disk_reserve_bytes
            }
            // Better to go on than to refuse for a reason that is not known.
            Err(_) => false,
        };
        if self.disk_full.swap(full, Ordering::Relaxed) != full {
            if full {
                tracing::warn!(
                    reserve = self.disk_reserve_bytes,
                    "the disk is nearly full: new pushes are refused"
                );
            } else {
                tracing::info!("the disk has room again: pushes are accepted");
            }
        }
    }

    fn stall(&self, seen: &Seen) -> Option<String> {
        if let Some(busy) = self.progress.busy_for().filter(|busy| *busy > APPLY_STALL_MAX) {
            return Some(format!("apply has been busy with one job for {} s", busy.as_secs()));
        }
        let still = seen.progressed_at.elapsed();
        // Installing a snapshot is one long job, covered above.
        (still > APPLY_STALL_MAX).then(|| format!("nothing committed was applied for {} s", still.as_secs()))
    }

    async fn snapshot_if_due(&self, applied: u64, snapshot: u64, seen: &mut Seen) {
        let base = snapshot.max(seen.snapshot_asked_for);
        let bytes = self.log.bytes_appended();
        // Truncation may have taken bytes back.
        seen.bytes_at_snapshot = seen.bytes_at_snapshot.min(bytes);
        let due = applied >= base.saturating_add(self.snapshot_every)
            || (bytes - seen.bytes_at_snapshot >= SNAPSHOT_EVERY_BYTES && applied > base);
        // A failure ends Raft, which the next tick sees.
        if due && self.raft.trigger().snapshot().await.is_ok() {
            seen.snapshot_asked_for = applied;
            seen.bytes_at_snapshot = bytes;
        }
    }

    /// Never past the snapshot, and never past what the tables would survive a power loss with.
    async fn purge_if_due(&self, snapshot: u64) {
        let Some(wanted) = self.log.purge_candidate(self.log_keep, LOG_KEEP_BYTES) else { return };
        let durable = self.progress.durable.load(Ordering::Acquire);
        let upto = wanted.min(snapshot.min(durable).saturating_sub(self.log_keep.min(LOG_KEEP_MIN)));
        let first = self.log.first_index();
        if upto > first + self.log_keep / PURGE_STEPS {
            tracing::debug!(upto, "purge the log");
            drop(self.raft.trigger().purge_log(upto).await);
        }
    }
}
