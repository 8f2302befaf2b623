//! What terminals are owed at CONNECT while many broad pushes live that are nearly settled.

use std::time::Duration;

use cluster_proto::{Audience, PushId, TerminalNo, TerminalSet, limits::OWED_PER_PULL_MAX};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use roaring::RoaringBitmap;

use crate::{
    Arguments, Result,
    clock::Cost,
    log::{Log, now_ms},
    registry::cell,
    report::{Report, mebi},
};

/// Blocks of 65,536 terminals that pushes live in.
const BLOCKS: u32 = 8;
/// Of them, those that one push is for.
const BLOCKS_OF_PUSH: u32 = 2;
/// One of so many is still pending.
const PENDING_OF: u32 = 100;
/// Connects measured, or as many as this time allows.
const PULLS: usize = 5_000;
const PULLS_MAX: Duration = Duration::from_secs(20);

/// Where pushes live.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Live {
    /// The terminals they are for, by number.
    pub(crate) first: u32,
    pub(crate) last: u32,
}

pub(crate) fn prepare(log: &mut Log, arguments: &Arguments, report: &mut Report) -> Result<Live> {
    let last = arguments.terminals.min(BLOCKS * 65_536 - 1);
    let blocks = (last >> 16) + 1;
    let span = BLOCKS_OF_PUSH.min(blocks);
    let about = format!(
        "{} broad pushes, each to {span} neighbouring of {blocks} blocks of 65,536 terminals, 1 of {PENDING_OF} pending",
        arguments.pushes
    );
    report.section("Owed at CONNECT", &about);
    let before = log.status_on_disk()?;
    let mut rng = StdRng::seed_from_u64(3);
    let mut settle = Cost::default();
    for n in 0..arguments.pushes {
        let first = n % (blocks - span + 1);
        let cells = (first..first + span).map(cell).collect::<Vec<_>>();
        let audience = if span == 1 { cell(first) } else { Audience::Or(cells) };
        let (push, ..) = log.push(audience)?;
        let mut delivered = RoaringBitmap::new();
        delivered.insert_range((first << 16).max(1)..=(((first + span) << 16) - 1).min(last));
        let pending = delivered.len() as u32 / PENDING_OF;
        for _ in 0..pending {
            delivered.remove(rng.random_range(first << 16..(first + span) << 16));
        }
        settle.add(log.delivered(push, TerminalSet(delivered))?.cost);
    }
    log.flush()?;
    let each = settle.cpu / arguments.pushes;
    report.line(
        "settling 99 % of a push in one batch, CPU",
        format!("{:.2} ms", each.as_secs_f64() * 1e3),
        "",
    );
    let disk = log.status_on_disk()?.saturating_sub(before);
    report.line("status of all of them on disk", mebi(disk), "");
    Ok(Live { first: 1, last })
}

pub(crate) fn measure(log: &Log, live: &Live, report: &mut Report) -> Result<()> {
    let mut rng = StdRng::seed_from_u64(4);
    let (mut times, mut rows, mut sum) = (Vec::new(), 0, Cost::default());
    while times.len() < PULLS && sum.wall < PULLS_MAX {
        let no = TerminalNo(rng.random_range(live.first..=live.last));
        let (found, cost) = Cost::of(|| everything_owed(log, no));
        rows += found;
        times.push(cost.cpu);
        sum.add(cost);
    }
    times.sort_unstable();
    let pulls = times.len();
    let micros = |time: Duration| format!("{:.0} µs", time.as_secs_f64() * 1e6);
    report.line("pushes owed to a terminal, mean", format!("{:.1}", rows as f64 / pulls as f64), "");
    report.line(
        "CPU of all pages of a terminal, tables just opened: median",
        micros(times[pulls / 2]),
        "below 1 ms",
    );
    report.line("99 of 100 within", micros(times[pulls * 99 / 100]), "below 1 ms");
    let storm = sum.cpu.as_secs_f64() / pulls as f64 * 20_000.0;
    report.line("CPU of the tables for 20,000 terminals", format!("{storm:.2} s"), "");
    Ok(())
}

fn everything_owed(log: &Log, no: TerminalNo) -> usize {
    let (mut found, mut after) = (0, PushId(0));
    loop {
        let page = log.tables.owed(no, after, PushId(u64::MAX), now_ms(), OWED_PER_PULL_MAX);
        found += page.len();
        match page.last() {
            Some(last) if page.len() == OWED_PER_PULL_MAX => after = last.push,
            _ => return found,
        }
    }
}
