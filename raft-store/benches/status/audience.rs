//! A broad push to an expression: how long until its audience is frozen and answered.

use cluster_proto::{Audience, TerminalSet};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

use crate::{
    Result,
    clock::Cost,
    log::Log,
    registry::tag,
    report::{Report, kibi, mebi, millis},
};

pub(crate) fn measure(log: &mut Log, terminals: u32, report: &mut Report) -> Result<()> {
    report.section("A broad push", "`tag:plan=free and not tag:os=tv and not delivered:N`");
    let (earlier, ..) = log.push(Audience::All)?;
    let mut rng = StdRng::seed_from_u64(1);
    let some = (1..=terminals).filter(|_| rng.random_ratio(1, 3));
    log.delivered(earlier, TerminalSet(some.collect()))?;
    log.flush()?;

    let not = |audience| Audience::Not(Box::new(audience));
    let members = vec![tag("plan", "free"), not(tag("os", "tv")), not(Audience::Delivered(earlier))];
    let before = log.status_on_disk()?;
    let (_, audience, first) = log.push(Audience::And(members.clone()))?;
    log.flush()?;
    let stored = log.status_on_disk()?.saturating_sub(before);
    let mut warm = Vec::new();
    for _ in 0..5 {
        warm.push(log.push(Audience::And(members.clone()))?.2.cost);
    }
    warm.sort_unstable_by_key(|cost| cost.wall);
    let time = |cost: Cost| format!("{}, CPU {}", millis(cost.wall), millis(cost.cpu));

    let (_, everyone, all) = log.push(Audience::All)?;
    report.line("its audience", count(audience), "");
    report.line("audience frozen and answered, sets not in memory", time(first.cost), "below 100 ms");
    report.line("the same again (median of 5)", time(warm[2]), "below 100 ms");
    report.line(&format!("a push to `all` ({})", count(everyone)), time(all.cost), "below 100 ms");
    report.line("log entry", kibi(first.len), "a few MB");
    report.line("its sets on disk", mebi(stored), "a few MB");
    Ok(())
}

pub(crate) fn count(terminals: u64) -> String {
    format!("{terminals} terminals")
}
