//! Retained messages (MQTT section 3.3.1.3): the last one published with RETAIN per topic, outside the conservation
//! law. They lie in four rows: what is known of it, which scans read; the message; the way to them by id; and, with a time
//! to live, its place in a queue.

use cluster_proto::{AppId, Message, PushId, limits::RETAINED_PAGE_LEN_MAX, link::RetainedMessage};
use fabric_core::subscriptions::filter::{self, Filter};

use super::{
    apps,
    db::{Read, read},
    error::StoreError,
    keys::{self, Key},
    records::RetainedPage,
    txn::Txn,
    value::{RetainedCount, RetainedRow, RetainedTopic, Stored as _},
};
use crate::Refusal;

/// Messages in a page; over it, the page ends and says where to go on.
const PAGE_MESSAGES_MAX: usize = 256;
/// Topics a page looks at; over it, the page ends and says where to go on.
const PAGE_VISITED_MAX: usize = 4_096;

/// Who gets a message live that is kept now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Live {
    /// The audience of its push: exactly the subscriptions before this command.
    Audience,
    /// Whom edges show it to, beside the log: nobody knows exactly, so every page has it. A subscription of that moment
    /// may get it twice, and is never without it.
    Relay,
}

/// Keeps a message as the retained one of its topic, or, without payload, removes that one ([MQTT-3.3.1-5] to
/// [MQTT-3.3.1-7]). `with_push` are the bytes its push is to store. Refused, nothing changes.
pub(crate) fn keep(
    txn: &mut Txn<'_>,
    message: &Message,
    ttl_ms: Option<u64>,
    live: Live,
    with_push: u64,
) -> Result<Result<(), Refusal>, StoreError> {
    let (app, topic) = (message.app, message.topic.as_str());
    let before = txn.read::<RetainedRow>(&keys::retained(app, topic))?;
    let mut count = count(txn, app)?;
    if let Some(before) = &before {
        count.messages -= 1;
        count.bytes -= before.size;
    }
    if message.payload.is_empty() {
        if let Some(before) = before {
            forget(txn, app, topic, &before);
            put_count(txn, app, &count);
        }
        return Ok(Ok(()));
    }
    let size = message.size() as u64;
    count.messages += 1;
    count.bytes += size;
    if count.messages > txn.options.retained_max || count.bytes > txn.options.retained_bytes_max {
        return Ok(Err(Refusal::RetainedQuota));
    }
    if let Some(row) = apps::find(txn, app)?
        && let Err(refusal) = apps::check_stored(txn, app, &row, with_push, Some(count.bytes))?
    {
        return Ok(Err(refusal));
    }
    if let Some(before) = before {
        forget(txn, app, topic, &before);
    }
    let expires_at_ms = ttl_ms.map(|ttl_ms| txn.now_ms().saturating_add(ttl_ms));
    if let Some(at_ms) = expires_at_ms {
        txn.put(keys::retained_expiry(at_ms, app, topic), &());
    }
    let kept_at = if live == Live::Audience { txn.head.commands } else { 0 };
    txn.head.last_retained += 1;
    let id = PushId::retained(txn.head.last_retained);
    txn.insert(keys::retained_id(id), &RetainedTopic { app, topic: topic.to_owned() });
    let row = RetainedRow { id, kept_at, size, expires_at_ms };
    txn.put(keys::retained(app, topic), &row);
    txn.put(keys::retained_message(app, topic), message);
    put_count(txn, app, &count);
    Ok(Ok(()))
}

/// Removes messages whose time to live is over, at most `limit`.
pub(crate) fn expire(txn: &mut Txn<'_>, limit: u32) -> Result<(), StoreError> {
    let mut due = Vec::new();
    if limit > 0 {
        let end = keys::retained_expiries_before(txn.now_ms().saturating_add(1));
        txn.scan(&keys::retained_expiries(), end, &mut |key, _| {
            due.push(key.to_vec());
            Ok(due.len() < limit as usize)
        })?;
    }
    for key in due {
        let damaged = || StoreError::damaged("retained expiry key", &key);
        let (app, topic) = keys::retained_topic_of(&key).ok_or_else(damaged)?;
        let Some(row) = txn.read::<RetainedRow>(&keys::retained(app, topic))? else {
            return Err(damaged());
        };
        let mut count = count(txn, app)?;
        count.messages -= 1;
        count.bytes -= row.size;
        forget(txn, app, topic, &row);
        put_count(txn, app, &count);
    }
    Ok(())
}

/// Removes retained messages of an app, at most `limit`; answers how many.
pub(crate) fn remove_of_app(txn: &mut Txn<'_>, app: AppId, limit: usize) -> Result<usize, StoreError> {
    let keys = txn.keys(&keys::retained_of(app), limit)?;
    let mut count = count(txn, app)?;
    for key in &keys {
        let topic = keys::text_of(key).ok_or_else(|| StoreError::damaged("retained key", key))?;
        let Some(row) = txn.read::<RetainedRow>(key)? else { continue };
        count.messages -= 1;
        count.bytes -= row.size;
        forget(txn, app, topic, &row);
    }
    put_count(txn, app, &count);
    Ok(keys.len())
}

/// How much an app retains.
pub(crate) fn count(tables: &impl Read, app: AppId) -> Result<RetainedCount, StoreError> {
    Ok(read(tables, &keys::retained_count(app))?.unwrap_or_default())
}

fn put_count(txn: &mut Txn<'_>, app: AppId, count: &RetainedCount) {
    // An app that is removed leaves nothing.
    if *count == RetainedCount::default() {
        txn.delete(keys::retained_count(app));
    } else {
        txn.put(keys::retained_count(app), count);
    }
}

fn forget(txn: &mut Txn<'_>, app: AppId, topic: &str, row: &RetainedRow) {
    txn.delete(keys::retained(app, topic));
    txn.delete(keys::retained_message(app, topic));
    txn.delete(keys::retained_id(row.id));
    if let Some(at_ms) = row.expires_at_ms {
        txn.delete(keys::retained_expiry(at_ms, app, topic));
    }
}

/// Messages whose topic matches a filter, by topic, after `after`: those kept at or before `upto` that live at
/// `now_ms`.
pub(crate) fn page(
    tables: &impl Read,
    app: AppId,
    filter: &str,
    upto: u64,
    after: Option<&str>,
    now_ms: u64,
) -> Result<RetainedPage, StoreError> {
    let Ok(Filter::Plain(filter)) = filter::validate_filter(filter) else {
        return Ok(RetainedPage::default());
    };
    let mut pager = Pager::default();
    for (from, end) in ranges(app, filter) {
        let from = after.map_or(from.clone(), |topic| keys::after(keys::retained(app, topic)).max(from));
        if from >= end {
            continue;
        }
        tables.scan(&from, end, &mut |key, bytes| {
            let topic = keys::text_of(key).ok_or_else(|| StoreError::damaged("retained key", key))?;
            let row = RetainedRow::decode(key, bytes)?;
            let is_live = row.expires_at_ms.is_none_or(|at_ms| at_ms > now_ms);
            let wanted = row.kept_at <= upto && is_live && filter::matches(topic, filter);
            if !pager.has_room(wanted.then_some(row.size)) {
                return Ok(false);
            }
            let message = keys::retained_message(app, topic);
            let message = if wanted { read(tables, &message)? } else { None };
            let found = |message| RetainedMessage { id: row.id, message, expires_at_ms: row.expires_at_ms };
            pager.visited(topic, message.map(found), row.size);
            Ok(true)
        })?;
        if pager.page.next.is_some() {
            break;
        }
    }
    Ok(pager.page)
}

/// The message of an id, unless it was replaced, removed or has expired since.
pub(crate) fn by_id(tables: &impl Read, id: PushId) -> Result<Option<RetainedMessage>, StoreError> {
    let Some(RetainedTopic { app, topic }) = read(tables, &keys::retained_id(id))? else { return Ok(None) };
    let row = read::<RetainedRow>(tables, &keys::retained(app, &topic))?;
    let message = read(tables, &keys::retained_message(app, &topic))?;
    let found = row.zip(message);
    Ok(found.map(|(row, message)| RetainedMessage { id, message, expires_at_ms: row.expires_at_ms }))
}

/// The parts of the index where a filter's topics lie, in order.
fn ranges(app: AppId, filter: &str) -> Vec<(Key, Key)> {
    let exactly = |topic: &str| (keys::retained(app, topic), keys::after(keys::retained(app, topic)));
    let Some(at) = filter.find(['+', '#']) else { return vec![exactly(filter)] };
    let literal = &filter[..at];
    let below = keys::retained(app, literal);
    let below = (below.clone(), keys::prefix_end(&below));
    match literal.strip_suffix('/').filter(|_| filter[at..].starts_with('#')) {
        // `a/#` is also `a`, which topics such as `a!` may lie behind.
        Some(parent) => vec![exactly(parent), below],
        None => vec![below],
    }
}

/// A page as it fills.
#[derive(Debug, Default)]
struct Pager {
    page: RetainedPage,
    size: u64,
    visited: usize,
    last: String,
}

impl Pager {
    /// Whether another topic may be looked at, with a message of a size to take; if not, the page ends after the last.
    fn has_room(&mut self, size: Option<u64>) -> bool {
        let is_first = self.page.messages.is_empty();
        let fits = size.is_none_or(|size| is_first || self.size + size <= RETAINED_PAGE_LEN_MAX as u64);
        let has_room =
            self.visited < PAGE_VISITED_MAX && self.page.messages.len() < PAGE_MESSAGES_MAX && fits;
        if !has_room {
            self.page.next = Some(std::mem::take(&mut self.last));
        }
        has_room
    }

    fn visited(&mut self, topic: &str, message: Option<RetainedMessage>, size: u64) {
        self.visited += 1;
        self.last.clear();
        self.last.push_str(topic);
        if let Some(message) = message {
            self.size += size;
            self.page.messages.push(message);
        }
    }
}
