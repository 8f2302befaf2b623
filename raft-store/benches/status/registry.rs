//! The registry: terminals with four tags each.

use cluster_proto::{Audience, TerminalId};
use raft_store::{Command, CommandBody, command::NewTerminal};

use crate::{
    Result,
    clock::Cost,
    log::{APP, Log},
    report::{Report, mebi},
};

const PER_ENTRY: u32 = 20_000;

/// The id of terminal number `no`.
pub(crate) fn id(no: u32) -> String {
    format!("terminal-{no:08}")
}

/// Whether a terminal has the tag `plan=free`: one of ten has not.
pub(crate) fn is_free(no: u32) -> bool {
    !no.is_multiple_of(10)
}

/// Everyone whose number has these upper 16 bits.
pub(crate) fn cell(block: u32) -> Audience {
    tag("cell", &block.to_string())
}

pub(crate) fn tag(key: &str, value: &str) -> Audience {
    Audience::Tag { key: key.to_owned(), value: value.to_owned() }
}

pub(crate) fn register(log: &mut Log, terminals: u32, report: &mut Report) -> Result<()> {
    let mut cost = Cost::default();
    let mut first = 1;
    while first <= terminals {
        let last = terminals.min(first + PER_ENTRY - 1);
        let new = (first..=last).map(terminal).collect::<Result<_>>()?;
        let body = CommandBody::RegisterTerminals { app: APP, terminals: new };
        cost.add(log.apply(vec![Command::own(body)])?.cost);
        first = last + 1;
    }
    log.flush()?;
    report.line(
        "registering a terminal with 4 tags, CPU",
        format!("{:.1} µs", 1e6 / cost.per_second(terminals.into())),
        "",
    );
    let disk = log.on_disk(&["terminals"])?;
    report.line("the registry on disk", mebi(disk), "");
    Ok(())
}

/// Number and id agree, because numbers are given in order.
fn terminal(no: u32) -> Result<NewTerminal> {
    let os = ["tv", "phone", "watch", "car"][no as usize % 4];
    // Spread, so that no region is a range of numbers.
    let region = ((u64::from(no) * 2_654_435_761) >> 7) % 16;
    let plan = if is_free(no) { "free" } else { "paid" };
    let tags = [
        ("cell", (no >> 16).to_string()),
        ("os", os.into()),
        ("plan", plan.into()),
        ("region", region.to_string()),
    ];
    Ok(NewTerminal {
        id: TerminalId::new(id(no))?,
        tags: Some(tags.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()),
        alias: None,
    })
}
