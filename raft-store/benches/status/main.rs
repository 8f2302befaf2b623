//! What the status of broad pushes costs: a registry of many terminals in real tables, with real log entries, and a
//! real control node started on them. `make bench-status`; the results are in docs/benchmarks.md.
//!
//! Nothing here is counted that the product does not do: what is timed is decoding an entry and applying it, as the
//! apply thread does, and the queries that the API and the leader ask. CPU time is that of the thread, unless a line
//! says otherwise, because the machine may be shared.
#![allow(clippy::print_stdout, reason = "a benchmark prints what it does")]

mod audience;
mod clock;
mod listing;
mod log;
mod mqtt;
mod node;
mod owed;
mod receipts;
mod registry;
mod report;
mod rows;
mod sessions;

use std::{error::Error, path::PathBuf};

use self::{log::Log, node::Cluster, report::Report};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// What may be asked for.
#[derive(Clone, Debug)]
struct Arguments {
    /// Registered terminals.
    terminals: u32,
    /// Broad pushes that live when terminals connect.
    pushes: u32,
    /// Terminals that reconnect at once.
    reconnect: u32,
    /// Where everything is written; removed at the end.
    directory: PathBuf,
    /// The `carillon` binary; absent: no process is started.
    carillon: Option<PathBuf>,
    /// The document whose section is replaced.
    docs: Option<PathBuf>,
    /// Whether every terminal gets a session with a subscription of its own.
    sessions: bool,
}

impl Arguments {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self> {
        let (mut pushes, mut reconnect) = (None, None);
        let mut arguments = Self {
            terminals: 100_000,
            pushes: 0,
            reconnect: 0,
            directory: std::env::temp_dir().join(format!("carillon-bench-{}", std::process::id())),
            carillon: None,
            docs: None,
            sessions: true,
        };
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
            match word.as_str() {
                "--terminals" => arguments.terminals = value()?.parse()?,
                "--pushes" => pushes = Some(value()?.parse()?),
                "--reconnect" => reconnect = Some(value()?.parse()?),
                "--dir" => arguments.directory = value()?.into(),
                "--carillon" => arguments.carillon = Some(value()?.into()),
                "--docs" => arguments.docs = Some(value()?.into()),
                "--no-sessions" => arguments.sessions = false,
                // What `cargo bench` passes on.
                "--bench" => {}
                _ => return Err(format!("{word} is not known").into()),
            }
        }
        if arguments.terminals < 10_000 {
            return Err("--terminals is at least 10000".into());
        }
        let is_small = arguments.terminals < 1_000_000;
        arguments.pushes = pushes.unwrap_or(if is_small { 200 } else { 10_000 });
        arguments.reconnect = reconnect.unwrap_or(if is_small { 500 } else { 20_000 });
        Ok(arguments)
    }
}

fn main() -> Result<()> {
    let mut words = std::env::args().skip(1).peekable();
    if words.next_if(|word| word == "terminals-of-an-edge").is_some() {
        return mqtt::main(words);
    }
    let arguments = Arguments::parse(words)?;
    std::fs::create_dir_all(&arguments.directory)?;
    let ran = run(&arguments);
    std::fs::remove_dir_all(&arguments.directory)?;
    ran
}

fn run(arguments: &Arguments) -> Result<()> {
    let mut report = Report::default();
    let cluster = arguments.carillon.as_deref().map(|binary| Cluster::found(binary, &arguments.directory));
    let cluster = cluster.transpose()?;
    let path = cluster.as_ref().map_or_else(|| arguments.directory.join("tables"), Cluster::tables);

    let mut log = Log::open(&path)?;
    registry::register(&mut log, arguments.terminals, &mut report)?;
    audience::measure(&mut log, arguments.terminals, &mut report)?;
    receipts::measure(&mut log, arguments.terminals, &mut report)?;
    listing::measure(&mut log, arguments.terminals, &mut report)?;
    let live = owed::prepare(&mut log, arguments, &mut report)?;
    log = log.reopened()?;
    owed::measure(&log, &live, &mut report)?;
    rows::measure(&log, &arguments.directory, arguments.terminals, &mut report)?;
    log.close()?;
    if let Some(cluster) = &cluster {
        cluster.measure(arguments, &live, &mut report)?;
    }
    if arguments.sessions {
        let mut log = Log::open(&path)?;
        sessions::measure(&mut log, arguments.terminals, &mut report)?;
        log.close()?;
        if let Some(cluster) = &cluster {
            cluster.measure_start("with sessions", &mut report)?;
        }
    }
    report.finish(arguments)
}
