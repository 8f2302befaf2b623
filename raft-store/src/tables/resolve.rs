//! Whom a push is for: an audience expression to the set of terminals it means now.

use std::collections::BTreeMap;

use cluster_proto::{AppId, Message, TerminalId, TerminalNo};
use roaring::RoaringBitmap;

use super::{db::Read as _, error::StoreError, keys, numbers, subscriptions, txn::Txn, value};
use crate::{Refusal, command::Audience};

/// How many unknown terminals a refusal names.
const UNKNOWN_NAMED_MAX: usize = 8;

/// A resolved audience, by block.
#[derive(Debug, Default)]
pub(crate) struct Resolved {
    pub(crate) blocks: BTreeMap<u16, Part>,
}

/// One block of it.
#[derive(Debug, Default)]
pub(crate) struct Part {
    /// Everyone.
    pub(crate) any: RoaringBitmap,
    /// Those whose matching subscriptions all granted QoS 0.
    pub(crate) qos0: RoaringBitmap,
}

impl Resolved {
    pub(crate) fn len(&self) -> u64 {
        self.blocks.values().map(|part| part.any.len()).sum()
    }

    pub(crate) fn union(&self, part: impl Fn(&Part) -> &RoaringBitmap) -> RoaringBitmap {
        self.blocks.values().fold(RoaringBitmap::new(), |all, block| all | part(block))
    }

    fn insert(&mut self, no: TerminalNo) {
        self.blocks.entry(no.block()).or_default().any.insert(no.0);
    }
}

/// Freezes the audience.
pub(crate) fn audience(
    txn: &mut Txn<'_>,
    audience: &Audience,
    message: &Message,
) -> Result<Result<Resolved, Refusal>, StoreError> {
    match audience {
        Audience::Terminals(ids) => named(txn, message.app, ids),
        Audience::All => registered(txn, message.app).map(Ok),
        Audience::Topic => subscribed(txn, message).map(Ok),
    }
}

fn named(txn: &Txn<'_>, app: AppId, ids: &[TerminalId]) -> Result<Result<Resolved, Refusal>, StoreError> {
    let (mut resolved, mut unknown) = (Resolved::default(), Vec::new());
    for id in ids {
        match numbers::find(txn, app, id)?.filter(|no| no.is_registered()) {
            Some(no) => resolved.insert(no),
            None if unknown.len() < UNKNOWN_NAMED_MAX => unknown.push(id.clone()),
            None => {}
        }
    }
    Ok(if unknown.is_empty() { Ok(resolved) } else { Err(Refusal::UnknownTerminals(unknown)) })
}

fn registered(txn: &Txn<'_>, app: AppId) -> Result<Resolved, StoreError> {
    let mut resolved = Resolved::default();
    txn.scan_prefix(&keys::registered_blocks(app), &mut |key, bytes| {
        let block = keys::block_of(key).ok_or_else(|| StoreError::damaged("set", key))?;
        let part = Part { any: value::decode_set(key, bytes)?, qos0: RoaringBitmap::new() };
        resolved.blocks.insert(block, part);
        Ok(true)
    })?;
    Ok(resolved)
}

fn subscribed(txn: &mut Txn<'_>, message: &Message) -> Result<Resolved, StoreError> {
    let mut resolved = Resolved::default();
    // Granted more than QoS 0 by some filter: what is left of the audience is granted QoS 0 by all.
    let mut granted = RoaringBitmap::new();
    let wildcards = txn.memory.wildcards.matching(message.app, &message.topic);
    for filter in wildcards.iter().map(AsRef::as_ref).chain([message.topic.as_str()]) {
        for (block, chunk) in subscriptions::subscribers(txn, message.app, filter)?.iter() {
            let mut any = chunk.any.clone();
            if let Some(publisher) = message.publisher.filter(|no| chunk.no_local.contains(no.0)) {
                any.remove(publisher.0);
            }
            granted |= &any - &chunk.qos0;
            resolved.blocks.entry(*block).or_default().any |= any;
        }
    }
    resolved.blocks.retain(|_, part| !part.any.is_empty());
    for part in resolved.blocks.values_mut() {
        part.qos0 = &part.any - &granted;
    }
    Ok(resolved)
}
