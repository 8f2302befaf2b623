//! Receipts of everyone in random order, in batches.

use cluster_proto::{Audience, State, TerminalSet};
use rand::{SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use roaring::RoaringBitmap;

use crate::{
    Result,
    clock::Cost,
    log::Log,
    report::{Report, mebi, millis},
};

const BATCHES: [usize; 3] = [1_000, 10_000, 50_000];

pub(crate) fn measure(log: &mut Log, terminals: u32, report: &mut Report) -> Result<()> {
    report.section("Receipts", "of a push to everyone, in random order, one batch to a log entry");
    let mut order: Vec<u32> = (1..=terminals).collect();
    order.shuffle(&mut StdRng::seed_from_u64(2));
    for batch in BATCHES {
        log.compact()?;
        let before = log.status_on_disk()?;
        let (push, ..) = log.push(Audience::All)?;
        let (mut cost, mut len, mut slowest) = (Cost::default(), 0, std::time::Duration::ZERO);
        for some in order.chunks(batch) {
            let terminals = TerminalSet(some.iter().copied().collect::<RoaringBitmap>());
            let entry = log.delivered(push, terminals)?;
            cost.add(entry.cost);
            len += entry.len;
            slowest = slowest.max(entry.cost.wall);
        }
        let counts = log.tables.counts(push).ok_or("no counts")?;
        if counts.by_state != [(State::Pending, 0), (State::Delivered, terminals.into())] {
            return Err(format!("receipts were lost: {counts:?}").into());
        }
        log.flush()?;
        let uncompacted = log.status_on_disk()?.saturating_sub(before);
        log.compact()?;
        let compacted = log.status_on_disk()?.saturating_sub(before);

        let title = |what: &str| format!("batches of {batch}: {what}");
        let count = u64::from(terminals);
        let rate = format!("{:.2} million/s", cost.per_second(count) / 1e6);
        report.line(&title("receipts applied by one core"), rate, "1 million/s");
        let process = cost.process.as_nanos() as f64 / count as f64;
        report.line(&title("CPU per receipt, compaction included"), format!("{process:.0} ns"), "");
        report.line(
            &title("log per receipt"),
            format!("{:.2} bytes", len as f64 / count as f64),
            "at most 4 bytes",
        );
        report.line(&title("status on disk, not compacted"), mebi(uncompacted), "below 40 MB");
        report.line(&title("status on disk, compacted"), mebi(compacted), "below 10 MB");
        report.line(&title("slowest batch"), millis(slowest), "");
    }
    Ok(())
}
