//! Overrides from the environment: `CARILLON_MQTT__ADDRESS` for `mqtt.address`.

use super::{file::Found, value::Raw};

const PREFIX: &str = "CARILLON_";
/// Between section and key. Names without it (`CARILLON_API`, `CARILLON_TOKEN`) are the command line's.
const SEPARATOR: &str = "__";

/// The settings among these variables, in the order of their names.
pub(super) fn settings(variables: impl Iterator<Item = (String, String)>) -> Vec<Found> {
    let mut found: Vec<_> = variables
        .filter_map(|(name, value)| {
            let (section, key) = name.strip_prefix(PREFIX)?.split_once(SEPARATOR)?;
            let key = format!("{}.{}", section.to_lowercase(), key.to_lowercase());
            Some(Found { key, raw: Raw::Text(value), origin: name })
        })
        .collect();
    found.sort_by(|a, b| a.origin.cmp(&b.origin));
    found
}

/// The variable of a setting.
pub(super) fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replacen('.', SEPARATOR, 1).to_uppercase())
}
