//! Who of a shard's terminals subscribes to what.

use std::collections::HashMap;

use cluster_proto::{AppId, link::FilterUse};
use fabric_core::{mqtt::Matching, subscriptions::FilterTree};

use crate::edge::messages::ToHub;

/// Subscriptions by filter. Tells the hub of a filter's first subscriber and of its last.
#[derive(Debug, Default)]
pub(crate) struct Index {
    apps: HashMap<AppId, FilterTree<Subscribers>>,
    filters: usize,
    subscriptions: u64,
}

/// Slots of connections; in both lists none twice.
#[derive(Debug, Default)]
struct Subscribers {
    replicated: Vec<u32>,
    /// Kept by this edge alone.
    best_effort: Vec<u32>,
}

impl Index {
    /// A connection has a subscription now.
    pub(crate) fn add(
        &mut self,
        app: AppId,
        filter: &str,
        slot: u32,
        best_effort: bool,
        news: &mut Vec<ToHub>,
    ) {
        let tree = self.apps.entry(app).or_default();
        let subscribers = tree.get_or_insert_with(filter, Subscribers::default);
        if subscribers.is_empty() {
            self.filters += 1;
            news.push(ToHub::FilterAdded(app, filter.into(), FilterUse::Any));
        }
        if best_effort && subscribers.best_effort.is_empty() {
            news.push(ToHub::FilterAdded(app, filter.into(), FilterUse::BestEffort));
        }
        let list = subscribers.list(best_effort);
        debug_assert!(!list.contains(&slot), "a session subscribes to a filter once");
        list.push(slot);
        self.subscriptions += 1;
    }

    /// The reverse.
    pub(crate) fn remove(
        &mut self,
        app: AppId,
        filter: &str,
        slot: u32,
        best_effort: bool,
        news: &mut Vec<ToHub>,
    ) {
        let Some(tree) = self.apps.get_mut(&app) else { return };
        let Some(subscribers) = tree.get_mut(filter) else { return };
        let list = subscribers.list(best_effort);
        let Some(at) = list.iter().position(|other| *other == slot) else { return };
        list.swap_remove(at);
        self.subscriptions -= 1;
        if best_effort && list.is_empty() {
            news.push(ToHub::FilterRemoved(app, filter.into(), FilterUse::BestEffort));
        }
        if !subscribers.is_empty() {
            return;
        }
        tree.remove(filter);
        self.filters -= 1;
        news.push(ToHub::FilterRemoved(app, filter.into(), FilterUse::Any));
        if tree.is_empty() {
            self.apps.remove(&app);
        }
    }

    /// Filters with a subscriber.
    pub(crate) fn len(&self) -> usize {
        self.filters
    }

    /// Subscriptions of all connections.
    pub(crate) fn subscriptions(&self) -> u64 {
        self.subscriptions
    }

    /// Puts the connections with a matching subscription into `slots`, each once.
    pub(crate) fn matching(&self, app: AppId, topic: &str, matching: Matching, slots: &mut Vec<u32>) {
        slots.clear();
        let Some(tree) = self.apps.get(&app) else { return };
        let mut filters = 0;
        tree.for_each_match(topic, |subscribers| {
            filters += 1;
            slots.extend_from_slice(&subscribers.best_effort);
            if matching == Matching::Any {
                slots.extend_from_slice(&subscribers.replicated);
            }
        });
        if filters > 1 {
            slots.sort_unstable();
            slots.dedup();
        }
    }
}

impl Subscribers {
    fn is_empty(&self) -> bool {
        self.replicated.is_empty() && self.best_effort.is_empty()
    }

    fn list(&mut self, best_effort: bool) -> &mut Vec<u32> {
        if best_effort { &mut self.best_effort } else { &mut self.replicated }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const APP: AppId = AppId::DEFAULT;

    fn matching(index: &Index, topic: &str, which: Matching) -> Vec<u32> {
        let mut slots = vec![99];
        index.matching(APP, topic, which, &mut slots);
        slots.sort_unstable();
        slots
    }

    #[test]
    fn overlapping_filters_name_a_connection_once() {
        let (mut index, mut news) = (Index::default(), Vec::new());
        index.add(APP, "a/#", 1, false, &mut news);
        index.add(APP, "a/+", 1, true, &mut news);
        index.add(APP, "a/b", 2, false, &mut news);
        assert_eq!(matching(&index, "a/b", Matching::Any), [1, 2]);
        assert_eq!(matching(&index, "a/b", Matching::BestEffort), [1]);
        assert_eq!(matching(&index, "b", Matching::Any), Vec::<u32>::new());
    }

    #[test]
    fn the_hub_hears_of_first_and_last_subscribers_only() {
        let (mut index, mut news) = (Index::default(), Vec::new());
        index.add(APP, "a", 1, false, &mut news);
        index.add(APP, "a", 2, false, &mut news);
        assert!(matches!(&news[..], [ToHub::FilterAdded(_, _, FilterUse::Any)]));
        news.clear();
        index.add(APP, "a", 3, true, &mut news);
        assert!(matches!(&news[..], [ToHub::FilterAdded(_, _, FilterUse::BestEffort)]));
        news.clear();
        index.remove(APP, "a", 3, true, &mut news);
        index.remove(APP, "a", 1, false, &mut news);
        index.remove(APP, "a", 1, false, &mut news);
        assert!(matches!(&news[..], [ToHub::FilterRemoved(_, _, FilterUse::BestEffort)]));
        news.clear();
        index.remove(APP, "a", 2, false, &mut news);
        assert!(matches!(&news[..], [ToHub::FilterRemoved(_, _, FilterUse::Any)]));
        assert_eq!((index.len(), index.subscriptions()), (0, 0));
    }
}
