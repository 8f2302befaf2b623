//! Shared subscription groups.

use std::collections::BTreeMap;

use cluster_proto::{Qos, TerminalNo};
use fabric_core::subscriptions::filter;

use crate::Model;

/// By filter, `$share/` and name included.
#[derive(Default)]
pub(crate) struct Groups(pub(crate) BTreeMap<String, Group>);

pub(crate) struct Group {
    pub(crate) no: u32,
    pub(crate) members: BTreeMap<u32, Qos>,
}

impl Groups {
    /// The numbers of the groups that subscribe to a topic.
    pub(crate) fn matching(&self, topic: &str) -> Vec<u32> {
        let matching = self.0.iter().filter(|(shared, _)| filter::matches(topic, plain(shared)));
        let mut matching: Vec<_> = matching.map(|(_, group)| group.no).collect();
        matching.sort();
        matching
    }

    /// By filter.
    pub(crate) fn of(&self, member: u32) -> Vec<TerminalNo> {
        let groups = self.0.values().filter(|group| group.members.contains_key(&member));
        groups.map(|group| TerminalNo(group.no)).collect()
    }
}

fn plain(shared: &str) -> &str {
    shared.splitn(3, '/').last().unwrap()
}

impl Model {
    pub(crate) fn join(&mut self, filter: &str, member: u32, granted: Qos) {
        if !self.groups.0.contains_key(filter) {
            let group = Group { no: self.numbers.lend(), members: BTreeMap::new() };
            self.groups.0.insert(filter.to_owned(), group);
        }
        self.groups.0.get_mut(filter).unwrap().members.insert(member, granted);
    }

    /// Answers the group's number if that was its last member.
    pub(crate) fn leave(&mut self, filter: &str, member: u32) -> Option<u32> {
        let group = self.groups.0.get_mut(filter)?;
        group.members.remove(&member);
        if !group.members.is_empty() {
            return None;
        }
        self.seen.groups_gone += 1;
        self.groups.0.remove(filter).map(|group| group.no)
    }
}
