//! `carillon config`.

use serde_json::json;

use super::{
    Failure,
    args::{ConfigArgs, ConfigCommand},
    output::Out,
};
use crate::config::{Config, ConfigError, Purpose, example, print};

pub(super) fn run(command: ConfigCommand, out: &mut Out) -> Result<(), Failure> {
    match command {
        ConfigCommand::Check(args) => {
            load(&args, Purpose::Run)?;
            out.result(&json!({ "valid": true }), || "the config is valid".to_owned())
        }
        ConfigCommand::Print(args) => {
            out.text(&print(&load(&args, Purpose::Print)?));
            Ok(())
        }
        ConfigCommand::Example => {
            out.text(&example());
            Ok(())
        }
    }
}

fn load(args: &ConfigArgs, purpose: Purpose) -> Result<Config, Failure> {
    Config::load(args.config.as_deref(), std::env::vars(), purpose).map_err(|error| Failure::from(&error))
}

impl From<&ConfigError> for Failure {
    fn from(error: &ConfigError) -> Self {
        match error.problems() {
            [one] => Self::Refused(one.to_string()),
            _ => Self::Refused(format!("the config has {} problems:\n{error}", error.problems().len())),
        }
    }
}
