//! Retained messages.

use std::collections::BTreeMap;

use cluster_proto::Message;
use raft_store::{Applied, Refusal};

use crate::{Model, RETAINED_BYTES_MAX, RETAINED_MAX};

/// By topic: the message, the push command that kept it or 0, and when it expires.
pub(crate) type Retained = BTreeMap<String, (Message, u64, Option<u64>)>;

impl Model {
    pub(crate) fn retain(
        &mut self,
        message: &Message,
        ttl_ms: Option<u64>,
        kept_at: u64,
        with_push: u64,
    ) -> Result<(), Refusal> {
        if message.payload.is_empty() {
            self.retained.remove(&message.topic);
            return Ok(());
        }
        let mut after = self.retained.clone();
        let expires_at_ms = ttl_ms.map(|ttl_ms| self.at_ms + ttl_ms);
        after.insert(message.topic.clone(), (message.clone(), kept_at, expires_at_ms));
        let bytes = after.values().map(|(message, ..)| message.size() as u64).sum::<u64>();
        if after.len() as u64 > RETAINED_MAX || bytes > RETAINED_BYTES_MAX {
            self.seen.retained_refused += 1;
            return Err(Refusal::RetainedQuota);
        }
        let most = self.quotas.stored_bytes;
        if most > 0 && self.stored_bytes() + with_push + bytes > most {
            self.seen.stored_refused += 1;
            return Err(Refusal::StoredQuota(most));
        }
        self.retained = after;
        Ok(())
    }

    pub(crate) fn retained_bytes(&self) -> u64 {
        self.retained.values().map(|(message, ..)| message.size() as u64).sum()
    }

    pub(crate) fn expire_retained(&mut self, limit: u32) -> Applied {
        let due = self.retained.iter().filter_map(|(topic, (.., at_ms))| Some(((*at_ms)?, topic.clone())));
        let mut due: Vec<_> = due.filter(|(at_ms, _)| *at_ms <= self.at_ms).collect();
        due.sort();
        for (_, topic) in due.into_iter().take(limit as usize) {
            self.retained.remove(&topic);
        }
        Applied::Done
    }
}
