//! What apply keeps in memory because asking the tables each time would cost too much. Everything here is derived
//! from the tables, so forgetting any of it changes no result.

use std::{collections::HashMap, sync::Arc};

use cluster_proto::{AppId, TerminalNo};

use super::{
    db::Read,
    error::StoreError,
    keys::{self, Key},
    value::FilterChunk,
    wildcards::Wildcards,
};

/// Terminals whose number of owed small pushes is remembered. Over it, all are forgotten and counted again when
/// they are next asked about.
const COUNTED_MAX: usize = 1_000_000;

/// Filters whose subscribers are remembered. Over it, all are forgotten.
const FILTERS_MAX: usize = 50_000;
/// Filters with more subscribers than this are not remembered: uniting large sets costs more than reading them.
const SUBSCRIBERS_MAX: u64 = 1_024;

/// The subscribers of a filter, by block.
pub(crate) type Subscribers = Arc<Vec<(u16, FilterChunk)>>;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// All filters with wildcards that have a subscriber.
    pub(crate) wildcards: Wildcards,
    owed: HashMap<TerminalNo, u32>,
    /// By the prefix of the filter's keys. Spares a publish to few the search in the database.
    filters: HashMap<Key, Subscribers>,
}

impl Memory {
    pub(super) fn load(tables: &impl Read) -> Result<Self, StoreError> {
        let mut wildcards = Wildcards::default();
        tables.scan_prefix(&keys::wildcards(), &mut |key, _| {
            let damaged = || StoreError::damaged("wildcard filter", key);
            let app: AppId = keys::app_of(key).ok_or_else(damaged)?;
            wildcards.insert(app, keys::text_of(key).ok_or_else(damaged)?);
            Ok(true)
        })?;
        Ok(Self { wildcards, ..Self::default() })
    }

    pub(super) fn owed(&self, no: TerminalNo) -> Option<u32> {
        self.owed.get(&no).copied()
    }

    pub(super) fn remember_owed(&mut self, no: TerminalNo, count: u32) {
        if self.owed.len() >= COUNTED_MAX {
            self.owed.clear();
        }
        self.owed.insert(no, count);
    }

    /// Follows a change of the owed rows, if the terminal is remembered.
    pub(super) fn change_owed(&mut self, no: TerminalNo, by: i32) {
        if let Some(count) = self.owed.get_mut(&no) {
            *count = count.saturating_add_signed(by);
        }
    }

    pub(super) fn subscribers(&self, filter: &[u8]) -> Option<Subscribers> {
        self.filters.get(filter).cloned()
    }

    pub(super) fn remember_subscribers(&mut self, filter: Key, subscribers: &Subscribers) {
        if subscribers.iter().map(|(_, chunk)| chunk.any.len()).sum::<u64>() > SUBSCRIBERS_MAX {
            return;
        }
        if self.filters.len() >= FILTERS_MAX {
            self.filters.clear();
        }
        self.filters.insert(filter, subscribers.clone());
    }

    /// Whoever changes the subscribers of a filter says so here.
    pub(super) fn forget_subscribers(&mut self, filter: &[u8]) {
        self.filters.remove(filter);
    }
}
