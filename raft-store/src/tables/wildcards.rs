//! The filters with wildcards, by app: the only part of the subscription index that must be in memory.

use std::collections::{BTreeMap, BTreeSet};

use cluster_proto::AppId;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Wildcards {
    apps: BTreeMap<AppId, BTreeSet<String>>,
}

impl Wildcards {
    pub(crate) fn insert(&mut self, app: AppId, filter: &str) {
        self.apps.entry(app).or_default().insert(filter.to_owned());
    }

    pub(crate) fn remove(&mut self, app: AppId, filter: &str) {
        if let Some(filters) = self.apps.get_mut(&app) {
            filters.remove(filter);
            if filters.is_empty() {
                self.apps.remove(&app);
            }
        }
    }

    /// The filters of an app that match a topic, in an order that depends on them only.
    pub(crate) fn matching(&self, app: AppId, topic: &str) -> Vec<String> {
        let filters = self.apps.get(&app).into_iter().flatten();
        filters.filter(|filter| matches(filter, topic)).cloned().collect()
    }
}

/// Whether a filter has a wildcard at all.
pub(crate) fn is_wildcard(filter: &str) -> bool {
    filter.contains(['+', '#'])
}

/// MQTT 5 section 4.7: `+` is one level, a final `#` is all that follow and the level above, and neither matches a
/// first level that begins with `$` ([MQTT-4.7.2-1]).
fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut levels = topic.split('/');
    for part in filter.split('/') {
        match (part, levels.next()) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (part, Some(level)) if part == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_match_as_mqtt_says() {
        for (filter, topic, expected) in [
            ("a/#", "a", true),
            ("a/#", "a/b/c", true),
            ("a/+", "a", false),
            ("a/+", "a/", true),
            ("+/b", "a/b", true),
            ("#", "$SYS/x", false),
            ("+/x", "$SYS/x", false),
            ("$SYS/#", "$SYS/x", true),
            ("a/+/c", "a/b/d", false),
        ] {
            assert_eq!(matches(filter, topic), expected, "{filter} {topic}");
        }
    }
}
