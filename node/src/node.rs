//! Puts the parts of one node together.

use crate::config::{Config, DevOptions};

/// Runs a node until it is asked to stop.
pub async fn run(config: Config) -> anyhow::Result<()> {
    anyhow::bail!("node {} cannot run yet", config.node.id)
}

/// Runs one node with both roles on embedded defaults.
pub async fn dev(options: DevOptions) -> anyhow::Result<()> {
    run(Config::dev(&options)).await
}
