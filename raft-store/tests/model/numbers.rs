//! Terminal numbers: who has which, and when one that was lent returns.

use std::collections::{BTreeMap, BTreeSet};

use cluster_proto::{TerminalId, TerminalNo};
use raft_store::command::{LabelChange, NewTerminal};

use crate::world::audience::Labels;

#[derive(Default)]
pub(crate) struct Numbers {
    pub(crate) registered: BTreeMap<TerminalId, u32>,
    /// Ever registered.
    last: u32,
    /// Who was seen, by day; of all that are registered.
    pub(crate) seen: BTreeMap<u32, BTreeSet<u32>>,
    /// Of all that are registered.
    pub(crate) labels: BTreeMap<u32, Labels>,
    /// Of clients; groups have a number and no id.
    lent: BTreeMap<TerminalId, u32>,
    count: u32,
    free: BTreeSet<u32>,
    /// Until no push up to the first is left; with the client they are of.
    waiting: BTreeMap<(u64, u32), Option<TerminalId>>,
    pub(crate) returned: usize,
}

impl Numbers {
    pub(crate) fn register(&mut self, id: &TerminalId) {
        self.lent.remove(id);
        self.last += 1;
        self.registered.insert(id.clone(), self.last);
    }

    pub(crate) fn id_of_registered(&self, no: u32) -> Option<TerminalId> {
        self.registered.iter().find(|(_, of)| **of == no).map(|(id, _)| id.clone())
    }

    pub(crate) fn delete(&mut self, id: &TerminalId) {
        let no = self.registered.remove(id).unwrap();
        self.labels.remove(&no);
        for seen in self.seen.values_mut() {
            seen.remove(&no);
        }
    }

    /// Labels that are not given stay as they were.
    pub(crate) fn label(&mut self, terminal: &NewTerminal) {
        let (tags, alias) = self.labels.entry(self.registered[&terminal.id]).or_default();
        if let Some(given) = &terminal.tags {
            tags.clone_from(given);
        }
        if let Some(given) = &terminal.alias {
            *alias = Some(given.clone()).filter(|alias| !alias.is_empty());
        }
    }

    /// Whether the labels of a registered terminal are others now.
    pub(crate) fn change(&mut self, no: TerminalNo, change: &LabelChange) -> bool {
        let Some(labels) = self.labels.get_mut(&no.0) else { return false };
        let before = labels.clone();
        labels.0.retain(|(key, _)| !change.remove.contains(key));
        for (key, value) in &change.set {
            labels.0.retain(|(of, _)| of != key);
            labels.0.push((key.clone(), value.clone()));
        }
        labels.0.sort();
        if let Some(alias) = &change.alias {
            labels.1 = Some(alias.clone()).filter(|alias| !alias.is_empty());
        }
        *labels != before
    }

    pub(crate) fn of(&self, id: &TerminalId) -> Option<u32> {
        self.registered.get(id).or_else(|| self.lent.get(id)).copied()
    }

    /// The number of a client that needs one.
    pub(crate) fn find_or_lend(&mut self, id: &TerminalId) -> u32 {
        if let Some(no) = self.of(id) {
            self.waiting.retain(|(_, waiting), _| *waiting != no);
            return no;
        }
        let no = self.lend();
        self.lent.insert(id.clone(), no);
        no
    }

    pub(crate) fn lend(&mut self) -> u32 {
        self.free.pop_first().unwrap_or_else(|| {
            self.count += 1;
            TerminalNo::UNREGISTERED_FIRST.0 + self.count - 1
        })
    }

    /// Its session or group ended.
    pub(crate) fn release(&mut self, no: u32, id: Option<&TerminalId>, oldest_push: u64, last_push: u64) {
        if TerminalNo(no).is_registered() {
            return;
        }
        if oldest_push > last_push {
            return self.give_back(no, id.cloned());
        }
        self.waiting.insert((last_push, no), id.cloned());
    }

    pub(crate) fn give_back_purged(&mut self, oldest_push: u64, limit: usize) {
        let purged = self.waiting.range(..(oldest_push, 0)).take(limit.max(1)).map(|(key, _)| *key);
        for key in purged.collect::<Vec<_>>() {
            let id = self.waiting.remove(&key).unwrap();
            self.give_back(key.1, id);
        }
    }

    fn give_back(&mut self, no: u32, id: Option<TerminalId>) {
        if let Some(id) = id.filter(|id| self.lent.get(id) == Some(&no)) {
            self.lent.remove(&id);
        }
        self.free.insert(no);
        self.returned += 1;
    }
}
