//! Which filters have subscribers on this edge: how many shards have one.

use std::collections::HashMap;

use cluster_proto::{
    AppId,
    link::{FilterDelta, FilterUse},
};
use fabric_core::sys;

type Key = (AppId, Box<str>, FilterUse);

/// Shards by filter, and what the leader has not been told yet. Bounded by the subscriptions of the edge's
/// terminals.
#[derive(Debug, Default)]
pub(crate) struct FilterCounts {
    shards: HashMap<Key, u32>,
    /// `true`: added since the last delta. A filter that came and went in between is not mentioned.
    changed: HashMap<Key, bool>,
    /// Filters for `$SYS` topics, by app: for most there are none.
    sys: HashMap<AppId, usize>,
}

impl FilterCounts {
    pub(crate) fn add(&mut self, app: AppId, filter: Box<str>, used_for: FilterUse) {
        let key = (app, filter, used_for);
        let shards = self.shards.entry(key.clone()).or_insert(0);
        *shards += 1;
        if *shards == 1 {
            if sys::is_sys(&key.1) {
                *self.sys.entry(app).or_insert(0) += 1;
            }
            self.change(key, true);
        }
    }

    pub(crate) fn remove(&mut self, app: AppId, filter: Box<str>, used_for: FilterUse) {
        let key = (app, filter, used_for);
        let Some(shards) = self.shards.get_mut(&key) else { return };
        *shards -= 1;
        if *shards == 0 {
            self.shards.remove(&key);
            self.remove_sys(app, &key.1);
            self.change(key, false);
        }
    }

    /// Apps with a subscriber to `$SYS` topics.
    pub(crate) fn sys_apps(&self) -> Vec<AppId> {
        self.sys.keys().copied().collect()
    }

    /// What changed since the last call.
    pub(crate) fn take_delta(&mut self) -> Option<FilterDelta> {
        if self.changed.is_empty() {
            return None;
        }
        let mut delta = FilterDelta::default();
        for ((app, filter, used_for), added) in self.changed.drain() {
            let list = if added { &mut delta.added } else { &mut delta.removed };
            list.push((app, filter.into_string(), used_for));
        }
        Some(delta)
    }

    /// Everything, for Resume: nothing remains to be told.
    pub(crate) fn all(&mut self) -> FilterDelta {
        self.changed.clear();
        let added = self.shards.keys().map(|(app, filter, used_for)| (*app, filter.to_string(), *used_for));
        FilterDelta { added: added.collect(), removed: Vec::new() }
    }

    fn remove_sys(&mut self, app: AppId, filter: &str) {
        if let Some(filters) = self.sys.get_mut(&app).filter(|_| sys::is_sys(filter)) {
            *filters -= 1;
            if *filters == 0 {
                self.sys.remove(&app);
            }
        }
    }

    fn change(&mut self, key: Key, added: bool) {
        if self.changed.get(&key).is_some_and(|before| *before != added) {
            self.changed.remove(&key);
        } else {
            self.changed.insert(key, added);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(counts: &mut FilterCounts) {
        counts.add(AppId::DEFAULT, "a/#".into(), FilterUse::Any);
    }

    fn remove(counts: &mut FilterCounts) {
        counts.remove(AppId::DEFAULT, "a/#".into(), FilterUse::Any);
    }

    #[test]
    fn only_the_first_and_the_last_shard_are_news() {
        let mut counts = FilterCounts::default();
        add(&mut counts);
        assert_eq!(counts.take_delta().map(|d| d.added.len()), Some(1));
        add(&mut counts);
        remove(&mut counts);
        assert_eq!(counts.take_delta(), None);
        remove(&mut counts);
        assert_eq!(counts.take_delta().map(|d| d.removed.len()), Some(1));
        remove(&mut counts);
        assert_eq!(counts.take_delta(), None);
    }

    #[test]
    fn apps_with_sys_subscribers_are_known() {
        let mut counts = FilterCounts::default();
        add(&mut counts);
        assert!(counts.sys_apps().is_empty());
        for used_for in [FilterUse::Any, FilterUse::BestEffort] {
            counts.add(AppId::DEFAULT, "$SYS/#".into(), used_for);
        }
        counts.remove(AppId::DEFAULT, "$SYS/#".into(), FilterUse::BestEffort);
        assert_eq!(counts.sys_apps(), [AppId::DEFAULT]);
        counts.remove(AppId::DEFAULT, "$SYS/#".into(), FilterUse::Any);
        assert!(counts.sys_apps().is_empty());
    }

    #[test]
    fn what_came_and_went_is_not_told() {
        let mut counts = FilterCounts::default();
        add(&mut counts);
        remove(&mut counts);
        assert_eq!(counts.take_delta(), None);
        add(&mut counts);
        assert_eq!(counts.all().added.len(), 1);
        assert_eq!(counts.take_delta(), None);
    }
}
