//! The effective config, and the example file, both made from the list of settings.

use std::fmt::Write as _;

use super::{
    Config,
    options::{SETTINGS, split},
};

const EXAMPLE_HEAD: &str = "\
# Config of a Carillon node: `carillon node --config FILE`. Every setting with its default.
# A variable CARILLON_SECTION__KEY overrides it, for example CARILLON_MQTT__ADDRESS=0.0.0.0:1884.
# Durations: 250ms, 30s, 5m, 24h, 7d. Sizes: 64KB, 64MB, 2GB (powers of 1024).
# `carillon config check --config FILE` tells what is wrong, `carillon config print` what is in effect.
";

/// The effective values, as a config file.
pub fn print(config: &Config) -> String {
    let mut out = String::new();
    sections(&mut out, |out, setting, name| {
        // Writing to a String does not fail.
        let _ = writeln!(out, "{name} = {}", (setting.get)(config));
    });
    out
}

/// A commented config file with every default.
pub fn example() -> String {
    let mut config = Config::default();
    config.node.id = 1;
    let mut out = EXAMPLE_HEAD.to_owned();
    sections(&mut out, |out, setting, name| {
        let mark = if setting.key == "node.id" { "" } else { "#" };
        let _ = writeln!(out, "# {}\n{mark}{name} = {}", setting.doc, (setting.get)(&config));
    });
    out
}

fn sections(out: &mut String, mut line: impl FnMut(&mut String, &super::options::Setting, &str)) {
    let mut current = "";
    for setting in SETTINGS {
        let (section, name) = split(setting.key);
        if section != current {
            let gap = if out.is_empty() { "" } else { "\n" };
            let _ = writeln!(out, "{gap}[{section}]");
            current = section;
        }
        line(out, setting, name);
    }
}
