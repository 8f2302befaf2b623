//! `carillon dev` and `carillon node`.

use std::future::Future;

use super::{
    Failure,
    args::{DevArgs, NodeArgs},
};
use crate::{
    config::{Config, DevOptions, Log, LogFormat, LogLevel, Purpose},
    node, telemetry,
};

pub(super) fn dev(args: DevArgs) -> Result<(), Failure> {
    telemetry::logging::init(&Log { level: LogLevel(args.log_level), format: LogFormat::Text });
    let options = DevOptions {
        data_dir: Some(args.data_dir),
        mqtt: args.mqtt,
        ws: args.ws,
        api: args.api,
        http: args.http,
        link: args.link,
        anonymous: args.anonymous,
    };
    run(node::dev(options))
}

pub(super) fn node(args: NodeArgs) -> Result<(), Failure> {
    let config = Config::load(Some(&args.config), std::env::vars(), Purpose::Run);
    let config = config.map_err(|error| Failure::from(&error))?;
    telemetry::logging::init(&config.log);
    run(node::run(config))
}

/// Raft and the edge's shards bring threads of their own; these serve the API and the links.
fn run(node: impl Future<Output = anyhow::Result<()>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().thread_name("carillon").build()?;
    runtime.block_on(node)?;
    Ok(())
}
