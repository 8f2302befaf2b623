//! Counting and listing.

use cluster_proto::{Audience, State, TerminalNo};

use crate::{
    Result,
    clock::{Cost, resident},
    log::Log,
    report::{Report, mebi, millis},
};

/// As the API has it.
const PAGE_LEN: usize = 1_000;

pub(crate) fn measure(log: &mut Log, terminals: u32, report: &mut Report) -> Result<()> {
    report.section("Counting and listing", "a push to everyone that nobody has got");
    let (push, ..) = log.push(Audience::All)?;
    log.flush()?;
    let (counts, counted) = Cost::of(|| log.tables.counts(push));
    let (set, found) = Cost::of(|| log.tables.targets(push, State::Pending));
    let (Some(_), Some(set)) = (counts, set) else { return Err("no push".into()) };
    report.line("counts of all states", millis(counted.wall), "below 10 ms");
    report.line("the set of who is pending", millis(found.wall), "below 10 ms");

    let (before, _) = resident(std::process::id());
    let mut most = before;
    let (listed, cost) = Cost::of(|| {
        let (mut listed, mut rest) = (0, set.0.into_iter());
        loop {
            let page: Vec<_> = rest.by_ref().take(PAGE_LEN).map(TerminalNo).collect();
            if page.is_empty() {
                return listed;
            }
            listed += log.tables.terminal_ids(&page).into_iter().flatten().count();
            if listed % (64 * PAGE_LEN) == 0 {
                most = most.max(resident(std::process::id()).0);
            }
        }
    });
    if listed as u32 != terminals {
        return Err(format!("{listed} listed").into());
    }
    let rate = format!("{:.2} million/s", listed as f64 / cost.wall.as_secs_f64() / 1e6);
    report.line("pending ids listed by name", rate, "disk or CPU speed");
    report.line("all of them", format!("{:.1} s", cost.wall.as_secs_f64()), "");
    report.line("memory it took beside what was there", mebi(most.saturating_sub(before)), "bounded");
    Ok(())
}
