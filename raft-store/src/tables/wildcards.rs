//! The filters with wildcards, by app: the only part of the subscription index that must be in memory.

use std::{collections::BTreeMap, sync::Arc};

use cluster_proto::AppId;
use fabric_core::subscriptions::FilterTree;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Wildcards {
    apps: BTreeMap<AppId, FilterTree<Arc<str>>>,
}

impl Wildcards {
    pub(crate) fn insert(&mut self, app: AppId, filter: &str) {
        self.apps.entry(app).or_default().insert(filter, filter.into());
    }

    pub(crate) fn remove(&mut self, app: AppId, filter: &str) {
        if let Some(filters) = self.apps.get_mut(&app) {
            filters.remove(filter);
        }
    }

    /// The filters of an app that match a topic.
    pub(crate) fn matching(&self, app: AppId, topic: &str) -> Vec<Arc<str>> {
        let mut matching = Vec::new();
        if let Some(filters) = self.apps.get(&app) {
            filters.for_each_match(topic, |filter| matching.push(filter.clone()));
        }
        matching
    }
}
