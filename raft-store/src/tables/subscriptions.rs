//! The subscriptions of sessions, and the index from filters to subscribers.

use std::sync::Arc;

use cluster_proto::{AppId, Qos, TerminalNo, link::Subscription};
use fabric_core::subscriptions::filter::{Filter, is_wildcard, matches, validate_filter};

use super::{
    db::Read,
    error::StoreError,
    groups, keys,
    memory::Subscribers,
    txn::Txn,
    value::{FilterChunk, Stored as _, SubscriptionRow},
};

/// Edges refuse what is invalid; what slips through must do no harm.
pub(crate) fn is_valid(filter: &str) -> bool {
    validate_filter(filter).is_ok()
}

/// Adds or replaces a subscription; says whether its filter is new to the session.
pub(crate) fn insert(
    txn: &mut Txn<'_>,
    app: AppId,
    no: TerminalNo,
    subscription: &Subscription,
) -> Result<bool, StoreError> {
    let filter = subscription.filter.as_str();
    let key = keys::subscription(no, filter);
    let before = txn.read::<SubscriptionRow>(&key)?;
    let row = SubscriptionRow { qos: subscription.qos, options: subscription.options };
    if before.as_ref() == Some(&row) {
        return Ok(false);
    }
    txn.put(key, &row);
    if let Ok(Filter::Shared { group, filter }) = validate_filter(filter) {
        groups::join(txn, app, (group, filter), no, row.qos)?;
    } else {
        let marks = Marks { qos0: row.qos == Qos::AtMostOnce, no_local: row.options.no_local };
        index(txn, app, no, filter, marks, before.is_none())?;
    }
    Ok(before.is_none())
}

/// What [`remove`] did.
#[derive(Debug, Default)]
pub(crate) struct Removed {
    /// The session had the subscription.
    pub(crate) was_there: bool,
    /// The shared subscription group that lost its last member, which the caller retires.
    pub(crate) emptied: Option<TerminalNo>,
}

/// Removes a subscription.
pub(crate) fn remove(
    txn: &mut Txn<'_>,
    app: AppId,
    no: TerminalNo,
    filter: &str,
) -> Result<Removed, StoreError> {
    let key = keys::subscription(no, filter);
    if txn.get(&key)?.is_none() {
        return Ok(Removed::default());
    }
    txn.delete(key);
    let emptied = if let Ok(Filter::Shared { group, filter }) = validate_filter(filter) {
        groups::leave(txn, app, (group, filter), no)?
    } else {
        unindex(txn, app, no, filter)?;
        None
    };
    Ok(Removed { was_there: true, emptied })
}

/// What the index says of a subscriber besides that it subscribes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Marks {
    /// It is granted QoS 0.
    pub(crate) qos0: bool,
    /// It does not want what it published itself.
    pub(crate) no_local: bool,
}

/// Adds a subscriber, a session or a group, to the index of a plain filter, or changes its marks.
pub(crate) fn index(
    txn: &mut Txn<'_>,
    app: AppId,
    no: TerminalNo,
    filter: &str,
    marks: Marks,
    is_new: bool,
) -> Result<(), StoreError> {
    let chunk = chunk_mut(txn, app, filter, no)?;
    chunk.any.insert(no.0);
    change(&mut chunk.qos0, no, marks.qos0);
    change(&mut chunk.no_local, no, marks.no_local);
    if is_new && is_wildcard(filter) && count_wildcard(txn, app, filter, 1)? == 1 {
        txn.memory.wildcards.insert(app, filter);
    }
    Ok(())
}

/// Removes a subscriber from the index of a plain filter.
pub(crate) fn unindex(txn: &mut Txn<'_>, app: AppId, no: TerminalNo, filter: &str) -> Result<(), StoreError> {
    let chunk = chunk_mut(txn, app, filter, no)?;
    for set in [&mut chunk.any, &mut chunk.qos0, &mut chunk.no_local] {
        set.remove(no.0);
    }
    if is_wildcard(filter) && count_wildcard(txn, app, filter, -1)? == 0 {
        txn.memory.wildcards.remove(app, filter);
    }
    Ok(())
}

/// All subscriptions of a session, by filter.
pub(crate) fn list(tables: &impl Read, no: TerminalNo) -> Result<Vec<Subscription>, StoreError> {
    let mut subscriptions = Vec::new();
    tables.scan_prefix(&keys::subscriptions(no), &mut |key, bytes| {
        let filter =
            keys::text_of(key).ok_or_else(|| StoreError::damaged("subscription key", key))?.to_owned();
        let SubscriptionRow { qos, options } = SubscriptionRow::decode(key, bytes)?;
        subscriptions.push(Subscription { filter, qos, options });
        Ok(true)
    })?;
    Ok(subscriptions)
}

/// All that subscribe with a filter, by block.
pub(crate) fn subscribers(txn: &mut Txn<'_>, app: AppId, filter: &str) -> Result<Subscribers, StoreError> {
    let prefix = keys::filter_blocks(app, filter);
    if let Some(known) = txn.memory.subscribers(&prefix) {
        return Ok(known);
    }
    let found = read_subscribers(txn, &prefix)?;
    txn.memory.remember_subscribers(prefix, &found);
    Ok(found)
}

/// The same, from the tables, by [`keys::filter_blocks`].
pub(crate) fn read_subscribers(tables: &impl Read, prefix: &[u8]) -> Result<Subscribers, StoreError> {
    let mut found = Vec::new();
    tables.scan_prefix(prefix, &mut |key, bytes| {
        let block = keys::block_of(key).ok_or_else(|| StoreError::damaged("filter", key))?;
        found.push((block, FilterChunk::decode(key, bytes)?));
        Ok(true)
    })?;
    Ok(Subscribers::new(found))
}

/// The filters with wildcards that match a topic, from the tables: a walk along the sorted filters, level by level,
/// that leaves out what no filter begins with.
pub(crate) fn read_wildcards(
    tables: &impl Read,
    app: AppId,
    topic: &str,
) -> Result<Vec<Arc<str>>, StoreError> {
    let begins = |first: &str| tables.keys(&keys::wildcards_of(app, first), 1).map(|found| !found.is_empty());
    let (mut candidates, mut firsts) = (Vec::new(), vec![String::new()]);
    for level in topic.split('/') {
        let mut longer = Vec::new();
        for first in &firsts {
            candidates.push(format!("{first}#"));
            for level in [level, "+"] {
                candidates.push(format!("{first}{level}"));
                let next = format!("{first}{level}/");
                if begins(&next)? {
                    longer.push(next);
                }
            }
        }
        firsts = longer;
    }
    // "a/#" matches "a".
    candidates.extend(firsts.iter().map(|first| format!("{first}#")));
    let mut matching = Vec::new();
    for filter in candidates.iter().filter(|filter| is_wildcard(filter) && matches(topic, filter)) {
        if tables.get(&keys::wildcard(app, filter))?.is_some() {
            matching.push(filter.as_str().into());
        }
    }
    Ok(matching)
}

/// The part of the index a terminal lies in, to change.
fn chunk_mut<'a>(
    txn: &'a mut Txn<'_>,
    app: AppId,
    filter: &str,
    no: TerminalNo,
) -> Result<&'a mut FilterChunk, StoreError> {
    txn.memory.forget_subscribers(&keys::filter_blocks(app, filter));
    txn.filter_mut(keys::filter(app, filter, no.block()))
}

fn change(set: &mut roaring::RoaringBitmap, no: TerminalNo, is_member: bool) {
    if is_member {
        set.insert(no.0);
    } else {
        set.remove(no.0);
    }
}

/// Counts the subscribers of a wildcard filter; the row goes with the last.
fn count_wildcard(txn: &mut Txn<'_>, app: AppId, filter: &str, by: i64) -> Result<u64, StoreError> {
    let key = keys::wildcard(app, filter);
    let count = txn.read::<u64>(&key)?.unwrap_or(0).saturating_add_signed(by);
    if count == 0 {
        txn.delete(key);
    } else {
        txn.put(key, &count);
    }
    Ok(count)
}
