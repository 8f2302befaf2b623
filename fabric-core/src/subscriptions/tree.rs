//! A map from filters to values that finds all values whose filter matches a topic.

use std::collections::{BTreeMap, HashMap};

use super::filter::{hidden_from_leading_wildcard, is_wildcard};

/// A map from valid plain filters to values, searched by topic.
///
/// Exact filters, the many, live in a hash map: one look-up whatever their number. Filters with wildcards live in a
/// tree by level, whose depth is bounded by [`cluster_proto::limits::TOPIC_LEVELS_MAX`]. Agrees with
/// [`super::filter::matches`] (tested against it).
#[derive(Clone, Debug)]
pub struct FilterTree<V> {
    exact: HashMap<Box<str>, V>,
    root: Node<V>,
    wildcards: usize,
}

#[derive(Clone, Debug)]
struct Node<V> {
    /// The filter that ends at this level.
    here: Option<V>,
    /// The filter that ends with `#` below this level.
    rest: Option<V>,
    /// Below `+`.
    plus: Option<Box<Node<V>>>,
    /// Below a name.
    named: Children<V>,
}

/// Most nodes have one child or none, a few have very many.
#[derive(Clone, Debug)]
enum Children<V> {
    /// Sorted by name; at most [`FEW_MAX`], without spare capacity.
    Few(Vec<(Box<str>, Node<V>)>),
    /// A sorted vector of a million children would be moved by half at every insert.
    Many(BTreeMap<Box<str>, Node<V>>),
}

const FEW_MAX: usize = 8;

impl<V> FilterTree<V> {
    /// Without filters.
    pub fn new() -> Self {
        Self { exact: HashMap::new(), root: Node::new(), wildcards: 0 }
    }

    /// How many filters have a value.
    pub fn len(&self) -> usize {
        self.exact.len() + self.wildcards
    }

    /// Whether no filter has a value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sets the value of `filter` and returns the one it replaces.
    pub fn insert(&mut self, filter: &str, value: V) -> Option<V> {
        if !is_wildcard(filter) {
            return self.exact.insert(filter.into(), value);
        }
        let old = self.root.slot(filter).replace(value);
        self.wildcards += usize::from(old.is_none());
        old
    }

    /// The value of exactly this filter; nothing is matched.
    pub fn get(&self, filter: &str) -> Option<&V> {
        if is_wildcard(filter) { self.root.find(filter) } else { self.exact.get(filter) }
    }

    /// The value of exactly this filter, to change.
    pub fn get_mut(&mut self, filter: &str) -> Option<&mut V> {
        if is_wildcard(filter) { self.root.find_mut(filter) } else { self.exact.get_mut(filter) }
    }

    /// The value of exactly this filter, made if there is none.
    pub fn get_or_insert_with(&mut self, filter: &str, make: impl FnOnce() -> V) -> &mut V {
        if !is_wildcard(filter) {
            return self.exact.entry(filter.into()).or_insert_with(make);
        }
        let slot = self.root.slot(filter);
        self.wildcards += usize::from(slot.is_none());
        slot.get_or_insert_with(make)
    }

    /// Removes `filter` and returns its value.
    pub fn remove(&mut self, filter: &str) -> Option<V> {
        if !is_wildcard(filter) {
            return self.exact.remove(filter);
        }
        let old = self.root.remove(filter);
        self.wildcards -= usize::from(old.is_some());
        old
    }

    /// Calls `each` once for every filter that matches `topic`, in an order that depends on the filters only.
    pub fn for_each_match<'a>(&'a self, topic: &str, mut each: impl FnMut(&'a V)) {
        if let Some(value) = self.exact.get(topic) {
            each(value);
        }
        if self.wildcards == 0 {
            return;
        }
        if hidden_from_leading_wildcard(topic) {
            self.root.named_match(topic, &mut each);
        } else {
            self.root.each_match(topic, &mut each);
        }
    }

    /// All filters, sorted. For reports: it visits everything.
    pub fn filters(&self) -> Vec<String> {
        #[expect(clippy::disallowed_methods, reason = "sorted below")]
        let mut filters: Vec<String> = self.exact.keys().map(|filter| filter.to_string()).collect();
        self.root.collect_filters("", &mut filters);
        filters.sort_unstable();
        filters
    }
}

impl<V> Default for FilterTree<V> {
    fn default() -> Self {
        Self::new()
    }
}

/// The first level, and what follows it.
fn split_level(filter: &str) -> (&str, Option<&str>) {
    filter.split_once('/').map_or((filter, None), |(level, rest)| (level, Some(rest)))
}

impl<V> Node<V> {
    fn new() -> Self {
        Self { here: None, rest: None, plus: None, named: Children::Few(Vec::new()) }
    }

    fn is_empty(&self) -> bool {
        self.here.is_none() && self.rest.is_none() && self.plus.is_none() && self.named.is_empty()
    }

    /// Where the value of `filter` goes, with the nodes on the way.
    fn slot(&mut self, filter: &str) -> &mut Option<V> {
        let (level, below) = split_level(filter);
        let child = match level {
            "#" => return &mut self.rest,
            "+" => self.plus.get_or_insert_with(|| Box::new(Self::new())),
            name => self.named.get_or_insert(name),
        };
        match below {
            Some(below) => child.slot(below),
            None => &mut child.here,
        }
    }

    fn find(&self, filter: &str) -> Option<&V> {
        let (level, below) = split_level(filter);
        let child = match level {
            "#" => return self.rest.as_ref(),
            "+" => self.plus.as_deref()?,
            name => self.named.get(name)?,
        };
        below.map_or(child.here.as_ref(), |below| child.find(below))
    }

    fn find_mut(&mut self, filter: &str) -> Option<&mut V> {
        let (level, below) = split_level(filter);
        let child = match level {
            "#" => return self.rest.as_mut(),
            "+" => self.plus.as_deref_mut()?,
            name => self.named.get_mut(name)?,
        };
        match below {
            Some(below) => child.find_mut(below),
            None => child.here.as_mut(),
        }
    }

    /// Takes the value of `filter` and prunes what is empty then.
    fn remove(&mut self, filter: &str) -> Option<V> {
        let (level, below) = split_level(filter);
        let child = match level {
            "#" => return self.rest.take(),
            "+" => self.plus.as_deref_mut()?,
            name => self.named.get_mut(name)?,
        };
        let value = match below {
            Some(below) => child.remove(below),
            None => child.here.take(),
        };
        if child.is_empty() {
            match level {
                "+" => self.plus = None,
                name => self.named.remove(name),
            }
        }
        value
    }

    fn each_match<'a>(&'a self, topic: &str, each: &mut impl FnMut(&'a V)) {
        if let Some(value) = &self.rest {
            each(value);
        }
        if let Some(child) = &self.plus {
            child.each_match_below(split_level(topic).1, each);
        }
        self.named_match(topic, each);
    }

    fn named_match<'a>(&'a self, topic: &str, each: &mut impl FnMut(&'a V)) {
        let (level, below) = split_level(topic);
        if let Some(child) = self.named.get(level) {
            child.each_match_below(below, each);
        }
    }

    fn each_match_below<'a>(&'a self, topic: Option<&str>, each: &mut impl FnMut(&'a V)) {
        match topic {
            Some(topic) => self.each_match(topic, each),
            // The topic ends here: so does the filter, or it goes on with `#`, which matches its parent too.
            None => self.here.iter().chain(&self.rest).for_each(each),
        }
    }

    fn collect_filters(&self, prefix: &str, filters: &mut Vec<String>) {
        if self.rest.is_some() {
            filters.push(format!("{prefix}#"));
        }
        let plus = self.plus.iter().map(|child| ("+", &**child));
        self.named.each(|name, child| child.collect_child(prefix, name, filters));
        plus.for_each(|(name, child)| child.collect_child(prefix, name, filters));
    }

    fn collect_child(&self, prefix: &str, name: &str, filters: &mut Vec<String>) {
        let filter = format!("{prefix}{name}");
        if self.here.is_some() {
            filters.push(filter.clone());
        }
        self.collect_filters(&format!("{filter}/"), filters);
    }
}

impl<V> Children<V> {
    fn is_empty(&self) -> bool {
        match self {
            Self::Few(few) => few.is_empty(),
            Self::Many(many) => many.is_empty(),
        }
    }

    fn get(&self, name: &str) -> Option<&Node<V>> {
        match self {
            Self::Few(few) => few.iter().find(|(n, _)| &**n == name).map(|(_, node)| node),
            Self::Many(many) => many.get(name),
        }
    }

    fn get_mut(&mut self, name: &str) -> Option<&mut Node<V>> {
        match self {
            Self::Few(few) => few.iter_mut().find(|(n, _)| &**n == name).map(|(_, node)| node),
            Self::Many(many) => many.get_mut(name),
        }
    }

    fn get_or_insert(&mut self, name: &str) -> &mut Node<V> {
        if let Self::Few(few) = self
            && few.len() == FEW_MAX
            && few.binary_search_by(|(n, _)| (**n).cmp(name)).is_err()
        {
            *self = Self::Many(std::mem::take(few).into_iter().collect());
        }
        match self {
            Self::Few(few) => {
                let at = few.binary_search_by(|(n, _)| (**n).cmp(name)).unwrap_or_else(|at| {
                    few.reserve_exact(1);
                    few.insert(at, (name.into(), Node::new()));
                    at
                });
                &mut few[at].1
            }
            Self::Many(many) => many.entry(name.into()).or_insert_with(Node::new),
        }
    }

    fn remove(&mut self, name: &str) {
        match self {
            Self::Few(few) => {
                few.retain(|(n, _)| &**n != name);
                few.shrink_to_fit();
            }
            Self::Many(many) => {
                many.remove(name);
            }
        }
    }

    fn each<'a>(&'a self, mut each: impl FnMut(&'a str, &'a Node<V>)) {
        match self {
            Self::Few(few) => few.iter().for_each(|(name, node)| each(name, node)),
            Self::Many(many) => many.iter().for_each(|(name, node)| each(name, node)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::subscriptions::filter::{matches, validate_filter, validate_topic};

    fn found(tree: &FilterTree<String>, topic: &str) -> Vec<String> {
        let mut found = Vec::new();
        tree.for_each_match(topic, |value| found.push(value.clone()));
        found.sort();
        found
    }

    fn level() -> impl Strategy<Value = String> {
        prop_oneof![
            4 => "[ab]{0,1}".prop_map(String::from),
            1 => Just("$s".to_owned()),
            1 => "[c-z]".prop_map(String::from),
        ]
    }

    fn topic() -> impl Strategy<Value = String> {
        prop::collection::vec(level(), 1..5).prop_map(|levels| levels.join("/"))
    }

    fn filter() -> impl Strategy<Value = String> {
        let level = prop_oneof![3 => level(), 1 => Just("+".to_owned())];
        (prop::collection::vec(level, 0..4), any::<bool>()).prop_map(|(mut levels, hash)| {
            if hash || levels.is_empty() {
                levels.push("#".to_owned());
            }
            levels.join("/")
        })
    }

    proptest! {
        #[test]
        fn agrees_with_the_definition_of_matching(
            filters in prop::collection::vec(filter(), 0..40),
            removed in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
            topics in prop::collection::vec(topic(), 1..10),
        ) {
            let mut tree = FilterTree::new();
            let mut model = std::collections::BTreeSet::new();
            for filter in filters.into_iter().filter(|f| validate_filter(f).is_ok()) {
                let was = tree.insert(&filter, filter.clone());
                prop_assert_eq!(was.is_none(), model.insert(filter));
            }
            for index in removed {
                if model.is_empty() { break; }
                let filter = index.get(&model.iter().cloned().collect::<Vec<_>>()).clone();
                model.remove(&filter);
                prop_assert_eq!(tree.remove(&filter), Some(filter.clone()));
                prop_assert_eq!(tree.get(&filter), None);
            }
            prop_assert_eq!(tree.len(), model.len());
            prop_assert_eq!(tree.filters(), model.iter().cloned().collect::<Vec<_>>());
            for topic in topics.into_iter().filter(|t| validate_topic(t).is_ok()) {
                let expected: Vec<String> = model.iter().filter(|f| matches(&topic, f)).cloned().collect();
                prop_assert_eq!(found(&tree, &topic), expected, "topic {:?}", topic);
            }
        }
    }

    #[test]
    fn a_node_with_very_many_children_stays_searchable() {
        let mut tree = FilterTree::new();
        for n in 0..1000 {
            tree.insert(&format!("device/{n}/+"), n);
        }
        let mut hits = Vec::new();
        tree.for_each_match("device/517/state", |n| hits.push(*n));
        assert_eq!(hits, [517]);
        for n in 0..1000 {
            assert_eq!(tree.remove(&format!("device/{n}/+")), Some(n));
        }
        assert!(tree.is_empty() && tree.root.is_empty(), "removed filters leave no nodes behind");
    }

    #[test]
    fn dollar_topics_are_hidden_from_leading_wildcards_only() {
        let mut tree = FilterTree::new();
        for filter in ["#", "+/a", "$sys/#", "$sys/+"] {
            tree.insert(filter, filter.to_owned());
        }
        assert_eq!(found(&tree, "$sys/a"), ["$sys/#", "$sys/+"]);
    }
}
