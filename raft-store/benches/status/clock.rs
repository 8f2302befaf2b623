//! Time of this thread and process, and memory.

use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

/// What something took.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Cost {
    pub(crate) wall: Duration,
    /// Of this thread.
    pub(crate) cpu: Duration,
    /// Of the whole process: with the flushes and compactions of the database.
    pub(crate) process: Duration,
}

impl Cost {
    pub(crate) fn of<T>(work: impl FnOnce() -> T) -> (T, Self) {
        let (wall, cpu, process) = (Instant::now(), thread(), whole_process());
        let done = work();
        let cost = Self {
            wall: wall.elapsed(),
            cpu: thread().saturating_sub(cpu),
            process: whole_process().saturating_sub(process),
        };
        (done, cost)
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.wall += other.wall;
        self.cpu += other.cpu;
        self.process += other.process;
    }

    /// Of them in a second of this thread.
    pub(crate) fn per_second(&self, count: u64) -> f64 {
        count as f64 / self.cpu.as_secs_f64().max(1e-9)
    }
}

fn thread() -> Duration {
    read(ClockId::ThreadCPUTime)
}

fn whole_process() -> Duration {
    read(ClockId::ProcessCPUTime)
}

fn read(clock: ClockId) -> Duration {
    let now = clock_gettime(clock);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs() as u32)
}

/// Resident memory of a process in bytes: now, and the most since it started.
pub(crate) fn resident(pid: u32) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").trim().parse::<u64>().ok());
        kib.unwrap_or_default() * 1024
    };
    (field("VmRSS:"), field("VmHWM:"))
}

/// CPU time of another process.
pub(crate) fn of_process(pid: u32) -> Duration {
    const TICKS_PER_SECOND: u64 = 100;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name may hold anything; what follows its parenthesis does not.
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 1000 / TICKS_PER_SECOND)
}
