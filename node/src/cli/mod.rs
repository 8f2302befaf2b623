//! The command line.
//!
//! Exit status: 0 done, 1 refused or failed (nothing was done, or the reason says what), 2 wrong usage, 3 the outcome
//! is unknown.
//!
//! - `args`: what can be typed.
//! - `client`: calls to a cluster, over several addresses, repeated where that is safe.
//! - one file per group of commands; `output`: tables, JSON, times; `files`: secrets on disk.

mod apps;
mod args;
mod certs;
mod client;
mod cluster;
mod config;
mod files;
mod nodes;
mod output;
mod pushes;
mod receipts;
mod registration;
mod release;
mod terminals;
mod webhooks;

#[cfg(test)]
mod tests;

use std::{fmt, process::ExitCode};

use clap::Parser as _;

pub use self::files::write_secret;
pub(crate) use self::output::time;
use self::{
    args::{Cli, Command, Shared},
    client::Client,
    output::Out,
};

/// Why a command did not succeed; its number is the exit status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Refused, or failed here.
    Refused(String),
    /// The command line is wrong in a way the parser cannot see.
    Usage(String),
    /// It may or may not have been done.
    Unknown(String),
}

impl Failure {
    fn code(&self) -> u8 {
        match self {
            Self::Refused(_) => 1,
            Self::Usage(_) => 2,
            Self::Unknown(_) => 3,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(why) | Self::Usage(why) | Self::Unknown(why) => f.write_str(why),
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Refused(format!("{error:#}"))
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Refused(error.to_string())
    }
}

/// Parses the command line of this process, runs it, and says how it ended.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are not failures; everything else is usage (2). Nobody to tell if this fails.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            output::complain(&failure);
            ExitCode::from(failure.code())
        }
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        Command::Dev(args) => nodes::dev(args),
        Command::Node(args) => nodes::node(args),
        Command::Config { json, command } => config::run(command, &mut Out::new(json)),
        Command::Certs { json, command } => certs::run(command, &mut Out::new(json)),
        remote => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                tokio::select! {
                    done = call(remote) => done,
                    _ = tokio::signal::ctrl_c() => Err(Failure::Refused("interrupted".to_owned())),
                }
            })
        }
    }
}

/// As typed, for tests with servers.
#[cfg(test)]
pub(crate) async fn run_line(line: &[&str]) -> Result<(), Failure> {
    call(Cli::try_parse_from(line).expect("a valid command line").command).await
}

async fn call(command: Command) -> Result<(), Failure> {
    match command {
        Command::Cluster { shared, command } => {
            let (mut client, mut out) = open(&shared)?;
            cluster::run(command, &mut client, &mut out).await
        }
        Command::Terminal { shared, command } => {
            let (mut client, mut out) = open(&shared)?;
            terminals::run(command, &mut client, &mut out).await
        }
        Command::App { shared, command } => {
            let (mut client, mut out) = open(&shared)?;
            apps::run(command, &mut client, &mut out).await
        }
        Command::Token(args) => {
            let (mut client, mut out) = open(&args.shared)?;
            apps::token(args, &mut client, &mut out).await
        }
        Command::Push(args) => {
            let (mut client, mut out) = open(&args.shared)?;
            pushes::push(*args, &mut client, &mut out).await
        }
        Command::Status(args) => {
            let (mut client, mut out) = open(&args.shared)?;
            pushes::status(args, &mut client, &mut out).await
        }
        Command::Explain(args) => {
            let (mut client, mut out) = open(&args.shared)?;
            pushes::explain(args, &mut client, &mut out).await
        }
        Command::Cancel(args) => {
            let (mut client, mut out) = open(&args.shared)?;
            pushes::cancel(args, &mut client, &mut out).await
        }
        Command::Hold(args) => {
            let (mut client, mut out) = open(&args.shared)?;
            pushes::hold(args, &mut client, &mut out).await
        }
        Command::Resume(args) => {
            let (mut client, mut out) = open(&args.shared)?;
            pushes::resume(args, &mut client, &mut out).await
        }
        Command::Receipts(args) => {
            let (mut client, mut out) = open(&args.shared)?;
            receipts::run(args, &mut client, &mut out).await
        }
        Command::Webhook { shared, command } => {
            let (mut client, mut out) = open(&shared)?;
            webhooks::run(command, &mut client, &mut out).await
        }
        // Handled without a client.
        Command::Dev(_) | Command::Node(_) | Command::Config { .. } | Command::Certs { .. } => Ok(()),
    }
}

fn open(shared: &Shared) -> Result<(Client, Out), Failure> {
    Ok((Client::new(shared)?, Out::new(shared.json)))
}
