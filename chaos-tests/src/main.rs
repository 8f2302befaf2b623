//! `carillon-chaos`: faults against a real cluster, and what it made of them.

#![allow(clippy::print_stdout, reason = "a command line tool speaks on stdout")]

use std::{env, fs, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Result, anyhow, bail};
use chaos_tests::{failover, scenario};
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

/// Faults against real carillon processes. The binary is CARILLON, or the one built beside this program.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Kills, pauses and restarts nodes under load, and checks every promise.
    Run {
        /// Decides schedule and audiences; random when not given, and always printed.
        #[arg(long)]
        seed: Option<u64>,
        /// How long faults go on.
        #[arg(long, default_value_t = 5)]
        minutes: u64,
        /// How many terminals.
        #[arg(long, default_value_t = 96)]
        terminals: u32,
        /// Where nodes keep everything; a temporary directory when not given.
        #[arg(long)]
        dir: Option<PathBuf>,
    },
    /// Measures how long pushes wait after the leader is killed.
    Failover {
        /// How many leaders are killed.
        #[arg(long, default_value_t = 20)]
        trials: u32,
        /// Where nodes keep everything; a temporary directory when not given.
        #[arg(long)]
        dir: Option<PathBuf>,
    },
}

#[tokio::main]
async fn main() -> ExitCode {
    let work = async {
        match Arguments::parse().command {
            Command::Run { seed, minutes, terminals, dir } => run(seed, minutes, terminals, dir).await,
            Command::Failover { trials, dir } => measure_failover(trials, dir).await,
        }
    };
    // Dropping the work kills the nodes, paused ones too, which would otherwise stay for ever.
    let result = tokio::select! {
        result = work => result,
        () = interrupted() => Err(anyhow!("interrupted")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("FAILED: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn interrupted() {
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return std::future::pending().await };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}

async fn run(seed: Option<u64>, minutes: u64, terminals: u32, dir: Option<PathBuf>) -> Result<()> {
    let seed = seed.unwrap_or_else(scenario::random_seed);
    let (dir, temporary) = directory(dir);
    println!("seed {seed}; to replay: make chaos SEED={seed} MINUTES={minutes}");
    println!("nodes keep everything in {}", dir.display());
    let length = scenario::Length::Time(Duration::from_secs(60 * minutes));
    let options = scenario::Options { seed, length, terminals, dir: dir.clone() };
    let report = scenario::run(&options, |line| println!("{line}")).await?;
    println!(
        "{} faults, {} pushes accepted, {} messages received",
        report.faults, report.accepted, report.receptions
    );
    if !report.violations.is_empty() {
        bail!("promises broken (seed {seed}):\n  {}", report.violations.join("\n  "));
    }
    println!("every promise was kept");
    remove(&dir, temporary)
}

async fn measure_failover(trials: u32, dir: Option<PathBuf>) -> Result<()> {
    let (dir, temporary) = directory(dir);
    let all = failover::run(&dir, trials, |line| println!("{line}")).await?;
    if let Some((median, longest)) = failover::summary(&all) {
        println!(
            "{} trials: median {} ms, longest {} ms",
            all.len(),
            median.as_millis(),
            longest.as_millis()
        );
    }
    remove(&dir, temporary)
}

fn directory(given: Option<PathBuf>) -> (PathBuf, bool) {
    let temporary = given.is_none();
    (
        given.unwrap_or_else(|| env::temp_dir().join(format!("carillon-chaos-{}", std::process::id()))),
        temporary,
    )
}

fn remove(dir: &PathBuf, temporary: bool) -> Result<()> {
    if temporary {
        fs::remove_dir_all(dir)?;
    }
    Ok(())
}
