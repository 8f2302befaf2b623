//! Which edges have subscribers for a topic: what the leader relays QoS 0 messages by, and whom it shows topic
//! pushes beside their audience.

use std::collections::{BTreeMap, BTreeSet};

use cluster_proto::{
    AppId, NodeId,
    link::{FilterDelta, FilterUse},
};

use crate::subscriptions::FilterTree;

/// The filters of all edges. Bounded by the subscriptions of connected terminals.
#[derive(Debug, Default)]
pub struct EdgeFilters {
    apps: BTreeMap<AppId, FilterTree<BTreeSet<(NodeId, FilterUse)>>>,
    /// What each edge reported, so that it can be taken back when the edge goes.
    by_edge: BTreeMap<NodeId, BTreeSet<(AppId, String, FilterUse)>>,
}

impl EdgeFilters {
    /// Takes over a change an edge reported.
    pub fn update(&mut self, edge: NodeId, delta: FilterDelta) {
        for (app, filter, used_for) in delta.removed {
            self.remove(edge, app, &filter, used_for);
        }
        for (app, filter, used_for) in delta.added {
            let tree = self.apps.entry(app).or_default();
            tree.get_or_insert_with(&filter, BTreeSet::new).insert((edge, used_for));
            self.by_edge.entry(edge).or_default().insert((app, filter, used_for));
        }
    }

    /// Forgets everything an edge reported.
    pub fn forget(&mut self, edge: NodeId) {
        for (app, filter, used_for) in self.by_edge.remove(&edge).unwrap_or_default() {
            self.remove(edge, app, &filter, used_for);
        }
    }

    /// Edges with a subscriber of this use for `topic`.
    pub fn matching(&self, app: AppId, topic: &str, used_for: FilterUse) -> BTreeSet<NodeId> {
        let mut edges = BTreeSet::new();
        if let Some(tree) = self.apps.get(&app) {
            tree.for_each_match(topic, |uses| {
                edges.extend(uses.iter().filter(|(_, u)| *u == used_for).map(|(edge, _)| *edge));
            });
        }
        edges
    }

    /// Whether any edge other than `edge` has a subscriber at all.
    pub fn any_beside(&self, edge: NodeId) -> bool {
        self.by_edge.iter().any(|(other, filters)| *other != edge && !filters.is_empty())
    }

    fn remove(&mut self, edge: NodeId, app: AppId, filter: &str, used_for: FilterUse) {
        if let Some(reported) = self.by_edge.get_mut(&edge) {
            reported.remove(&(app, filter.to_owned(), used_for));
        }
        let Some(tree) = self.apps.get_mut(&app) else { return };
        let Some(uses) = tree.get_mut(filter) else { return };
        uses.remove(&(edge, used_for));
        if uses.is_empty() {
            tree.remove(filter);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delta(filter: &str) -> FilterDelta {
        FilterDelta { added: vec![(AppId::DEFAULT, filter.to_owned(), FilterUse::Any)], removed: Vec::new() }
    }

    #[test]
    fn an_edge_that_goes_takes_its_filters_along() {
        let mut filters = EdgeFilters::default();
        filters.update(NodeId(1), delta("news/#"));
        filters.update(NodeId(2), delta("news/sport"));
        let matching = |f: &EdgeFilters| f.matching(AppId::DEFAULT, "news/sport", FilterUse::Any);
        assert_eq!(matching(&filters), BTreeSet::from([NodeId(1), NodeId(2)]));
        filters.forget(NodeId(1));
        assert_eq!(matching(&filters), BTreeSet::from([NodeId(2)]));
        assert!(!filters.any_beside(NodeId(2)));
    }
}
