//! What is posted: receipts of one app, in order, up to a bound.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use raft_store::receipts::ReceiptCursor;
use serde::Serialize;
use xxhash_rust::xxh3::xxh3_128;

use crate::receipts::{Told, ToldDelta};

/// Messages in one post.
const MESSAGES_MAX: usize = 100;
/// Sets and ids in it, before they are written as JSON: a message is taken while it has less, so that a post has at most
/// this and one message.
const LEN_MAX: usize = 256 * 1024;

/// Messages being gathered.
#[derive(Debug, Default)]
pub(super) struct Batch {
    messages: Vec<Told>,
    len: usize,
}

/// A post, the same in every try.
#[derive(Clone, Debug)]
pub(super) struct Post {
    /// The same for the same receipts, also from another leader.
    pub(super) id: String,
    pub(super) body: Bytes,
    /// After what it tells.
    pub(super) next: ReceiptCursor,
}

#[derive(Serialize)]
struct Body<'a> {
    r#type: &'static str,
    timestamp: String,
    data: Data<'a>,
}

#[derive(Serialize)]
struct Data<'a> {
    app: &'a str,
    cursor: String,
    began_at: u64,
    receipts: Vec<Receipt<'a>>,
}

#[derive(Serialize)]
struct Receipt<'a> {
    log_index: u64,
    at_ms: u64,
    coalesced: bool,
    push: u64,
    state: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'a str,
    terminals: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    set: Option<String>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    ids: &'a [String],
}

impl Batch {
    pub(super) fn add(&mut self, told: Told) {
        let of_ids = |delta: &ToldDelta| delta.ids.iter().map(|id| id.len() + 3).sum::<usize>();
        self.len += told.deltas.iter().map(|delta| 128 + delta.set.len() + of_ids(delta)).sum::<usize>();
        self.messages.push(told);
    }

    pub(super) fn is_full(&self) -> bool {
        self.messages.len() >= MESSAGES_MAX || self.len >= LEN_MAX
    }

    /// `None` for nothing.
    pub(super) fn post(self, app: &str, generation: u64, from: ReceiptCursor) -> Option<Post> {
        let last = self.messages.last()?;
        let (next, began_at, at_ms) = (last.next, last.began_at, last.at_ms);
        let receipts = self.messages.iter().flat_map(|told| {
            told.deltas.iter().map(|delta| Receipt {
                log_index: told.index,
                at_ms: told.at_ms,
                coalesced: told.is_coalesced,
                push: delta.push,
                state: &delta.state,
                reason: delta.reason,
                terminals: delta.terminals,
                set: (!delta.set.is_empty()).then(|| STANDARD.encode(&delta.set)),
                ids: &delta.ids,
            })
        });
        let data = Data { app, cursor: next.to_string(), began_at, receipts: receipts.collect() };
        let body = Body { r#type: "carillon.receipts", timestamp: time(at_ms), data };
        // Strings and numbers only: this cannot fail.
        let body = serde_json::to_vec(&body).ok()?;
        let id = format!("rcpt_{:032x}", xxh3_128(format!("{app} {generation} {from} {next}").as_bytes()));
        Some(Post { id, body: body.into(), next })
    }
}

/// ISO 8601.
fn time(ms: u64) -> String {
    let text = crate::cli::time(ms).replace(" UTC", "").replace(' ', "T");
    format!("{text}.{:03}Z", ms % 1_000)
}

#[cfg(test)]
mod tests {
    use cluster_proto::AppId;

    use super::*;

    fn told(index: u64, ids: &[&str]) -> Told {
        let ids: Vec<String> = ids.iter().map(|id| (*id).to_owned()).collect();
        let state = "dropped".to_owned();
        let delta = ToldDelta {
            push: 7,
            state,
            reason: "offline",
            terminals: ids.len() as u64,
            set: Vec::new(),
            ids,
        };
        let next = ReceiptCursor::deltas(AppId(1), index, 1);
        Told { next, index, at_ms: 1_795_442_709_042, is_coalesced: false, began_at: 2, deltas: vec![delta] }
    }

    #[test]
    fn a_post_tells_what_happened_and_where_to_go_on() {
        let from = ReceiptCursor::deltas(AppId(1), 3, 0);
        let mut batch = Batch::default();
        batch.add(told(4, &["tv-1", "tv-2"]));
        let post = batch.post("shop", 5, from).expect("a post");
        let body: serde_json::Value = serde_json::from_slice(&post.body).expect("JSON");
        let receipt = serde_json::json!({
            "log_index": 4, "at_ms": 1_795_442_709_042_u64, "coalesced": false, "push": 7, "state": "dropped",
            "reason": "offline", "terminals": 2, "ids": ["tv-1", "tv-2"],
        });
        let data = serde_json::json!({
            "app": "shop", "cursor": post.next.to_string(), "began_at": 2, "receipts": [receipt],
        });
        let expected = serde_json::json!({
            "type": "carillon.receipts", "timestamp": "2026-11-23T14:05:09.042Z", "data": data,
        });
        assert_eq!(body, expected);
        assert!(Batch::default().post("shop", 5, from).is_none());
    }

    #[test]
    fn a_batch_is_bounded_by_messages_and_by_bytes() {
        let mut batch = Batch::default();
        for index in 0..100 {
            assert!(!batch.is_full());
            batch.add(told(index, &["tv"]));
        }
        assert!(batch.is_full());
        let mut batch = Batch::default();
        batch.add(told(1, &[&"x".repeat(300_000)]));
        assert!(batch.is_full());
    }
}
