//! Whether this node should be sent work.

use std::{collections::BTreeMap, sync::Arc};

use tokio::sync::watch;

/// Something that must hold for a node to be ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Condition {
    /// Start-up is over and no shutdown has begun.
    Serving,
    /// The control member knows a leader.
    Leader,
    /// The edge is linked to the leader.
    Link,
    /// The data directory takes writes.
    Storage,
}

/// Shared by all who know a part of it. Begins with every required condition unmet.
#[derive(Clone, Debug)]
pub struct Health {
    unmet: Arc<watch::Sender<BTreeMap<Condition, String>>>,
}

impl Health {
    /// Ready once all of `required` are met.
    pub fn new(required: &[Condition]) -> Self {
        let unmet = required.iter().map(|condition| (*condition, "starting".to_owned())).collect();
        Self { unmet: Arc::new(watch::Sender::new(unmet)) }
    }

    /// The condition holds.
    pub fn met(&self, condition: Condition) {
        self.unmet.send_if_modified(|unmet| unmet.remove(&condition).is_some());
    }

    /// The condition does not hold, because.
    pub fn unmet(&self, condition: Condition, reason: impl Into<String>) {
        let reason = reason.into();
        self.unmet.send_if_modified(|unmet| {
            let before = unmet.insert(condition, reason.clone());
            before.as_ref() != Some(&reason)
        });
    }

    /// Why the node is not ready; empty when it is.
    pub fn reasons(&self) -> Vec<String> {
        self.unmet
            .borrow()
            .iter()
            .map(|(condition, reason)| format!("{condition:?}: {reason}").to_lowercase())
            .collect()
    }

    /// Whether everything holds.
    pub fn is_ready(&self) -> bool {
        self.unmet.borrow().is_empty()
    }

    /// Waits for the next change; `false` when there will be none.
    pub fn watch(&self) -> watch::Receiver<BTreeMap<Condition, String>> {
        self.unmet.subscribe()
    }
}
