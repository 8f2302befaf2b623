//! Log lines on standard error.

use std::io::IsTerminal as _;

use tracing_subscriber::{EnvFilter, fmt, util::SubscriberInitExt as _};

use crate::config::{Log, LogFormat};

/// Sets up the process's log; call once. A second call changes nothing.
pub fn init(config: &Log) {
    let filter = EnvFilter::try_new(&config.level.0).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let done = match config.format {
        LogFormat::Json => builder.json().flatten_event(true).finish().try_init(),
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).finish().try_init(),
    };
    if done.is_err() {
        tracing::debug!("the log was set up before");
    }
}
