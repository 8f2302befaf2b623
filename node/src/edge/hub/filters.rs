//! Which filters have subscribers on this edge: how many shards have one.

use std::collections::HashMap;

use cluster_proto::{
    AppId,
    link::{FilterDelta, FilterUse},
};

type Key = (AppId, Box<str>, FilterUse);

/// Shards by filter, and what the leader has not been told yet. Bounded by the subscriptions of the edge's
/// terminals.
#[derive(Debug, Default)]
pub(crate) struct FilterCounts {
    shards: HashMap<Key, u32>,
    /// `true`: added since the last delta. A filter that came and went in between is not mentioned.
    changed: HashMap<Key, bool>,
}

impl FilterCounts {
    pub(crate) fn add(&mut self, app: AppId, filter: Box<str>, used_for: FilterUse) {
        let key = (app, filter, used_for);
        let shards = self.shards.entry(key.clone()).or_insert(0);
        *shards += 1;
        if *shards == 1 {
            self.change(key, true);
        }
    }

    pub(crate) fn remove(&mut self, app: AppId, filter: Box<str>, used_for: FilterUse) {
        let key = (app, filter, used_for);
        let Some(shards) = self.shards.get_mut(&key) else { return };
        *shards -= 1;
        if *shards == 0 {
            self.shards.remove(&key);
            self.change(key, false);
        }
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
