//! The receipt stream of an app: what became of every terminal of every push, entry by entry.
//!
//! A *delta* says: in this entry these terminals went to this state. Deltas are sets, so a consumer unites them, and
//! seeing one twice changes nothing; who was sent a push and acknowledged late is in both sets, and delivered wins.
//! A *cursor* is a place in the stream; see [`ReceiptCursor`].

use std::{fmt, str::FromStr};

use cluster_proto::{AppId, PushId, State};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

/// What a delta says of its terminals.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReceiptKind {
    /// The push was accepted, for so many; who they are is not told.
    Accepted,
    /// They went to this state.
    State(State),
    /// What a terminal reported by itself, by its code.
    Reported(u8),
}

impl ReceiptKind {
    /// The byte in the tables: that of [`State::code`], 0 for accepted.
    pub fn code(self) -> u8 {
        match self {
            Self::Accepted => State::Pending.code(),
            Self::State(state) => state.code(),
            Self::Reported(code) => code,
        }
    }

    /// The kind of a byte.
    pub fn from_code(code: u8) -> Self {
        match State::from_code(code) {
            Some(State::Pending) => Self::Accepted,
            Some(state) => Self::State(state),
            None => Self::Reported(code),
        }
    }

    /// The name in the API, and the reason of a drop.
    pub fn names(self) -> (String, Option<&'static str>) {
        match self {
            Self::Accepted => ("accepted".to_owned(), None),
            Self::State(State::Dropped(reason)) => ("dropped".to_owned(), Some(reason.name())),
            Self::State(state) => (state.name().to_owned(), None),
            Self::Reported(0xf0) => ("displayed".to_owned(), None),
            Self::Reported(0xf1) => ("opened".to_owned(), None),
            Self::Reported(code) => (format!("reported-{code}"), None),
        }
    }

    /// All kinds whose name in the API is this; none if there is no such name.
    pub fn named(name: &str) -> Vec<Self> {
        let settled = State::ALL.into_iter().filter(|state| *state != State::Pending).map(Self::State);
        let all = [Self::Accepted, Self::Reported(0xf0), Self::Reported(0xf1)].into_iter().chain(settled);
        all.filter(|kind| kind.names().0 == name).collect()
    }
}

/// One delta.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiptDelta {
    /// Of which push.
    pub push: PushId,
    /// What it says.
    pub kind: ReceiptKind,
    /// Of how many terminals.
    pub len: u64,
    /// Their numbers: a Roaring bitmap in its portable format. Empty for [`ReceiptKind::Accepted`].
    pub set: Vec<u8>,
}

/// Deltas with one place in the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiptRow {
    /// The log index of their entry; of a coalesced one, the position it was read at.
    pub index: u64,
    /// The time of that, milliseconds since the epoch.
    pub at_ms: u64,
    /// Not what happened in one entry, but how the push stood then.
    pub is_coalesced: bool,
    /// Before it.
    pub place: ReceiptCursor,
    /// After it.
    pub next: ReceiptCursor,
    /// By push and kind.
    pub deltas: Vec<ReceiptDelta>,
}

/// A page of the stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceiptPage {
    /// In order.
    pub rows: Vec<ReceiptRow>,
    /// Goes on after them.
    pub next: ReceiptCursor,
    /// Everything before this log index has been removed; 0: nothing was.
    pub began_at: u64,
    /// There is nothing after it now.
    pub is_end: bool,
}

impl ReceiptPage {
    /// Nothing, going on at `next`.
    pub fn empty(next: ReceiptCursor) -> Self {
        Self { rows: Vec::new(), next, began_at: 0, is_end: true }
    }
}

/// The most of one page.
#[derive(Clone, Copy, Debug)]
pub struct PageLimits {
    /// Rows.
    pub rows: usize,
    /// Bytes, unless the first row alone has more; no row has more than half a MiB.
    pub bytes: usize,
}

/// A place in the receipt stream of an app. Its text is opaque to callers, and checked when it comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptCursor {
    app: AppId,
    pub(crate) at: At,
    skip: u64,
}

/// Where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum At {
    /// Before this delta.
    Deltas { index: u64, part: u32 },
    /// The deltas asked for were removed: every push up to `upto` is told as it stands, this one next, from this block;
    /// then go on with the deltas of `then`.
    Coalescing { then: u64, upto: PushId, push: PushId, block: u32 },
}

/// Text that is no cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is no cursor of a receipt stream")]
pub struct NoCursor;

const TEXT_VERSION: u8 = 1;

impl ReceiptCursor {
    /// Before a delta.
    pub fn deltas(app: AppId, index: u64, part: u32) -> Self {
        Self { app, at: At::Deltas { index, part }, skip: 0 }
    }

    pub(crate) fn coalescing(app: AppId, then: u64, upto: PushId, push: PushId, block: u32) -> Self {
        Self { app, at: At::Coalescing { then, upto, push, block }, skip: 0 }
    }

    /// Whose stream.
    pub fn app(&self) -> AppId {
        self.app
    }

    /// How many terminals of the row at this place have been told already.
    pub fn skip(&self) -> u64 {
        self.skip
    }

    /// The same place, with the first `skip` terminals of its row told.
    #[must_use]
    pub fn skipping(self, skip: u64) -> Self {
        Self { skip, ..self }
    }

    /// The log index from which deltas follow.
    pub fn index(&self) -> u64 {
        match self.at {
            At::Deltas { index, .. } => index,
            At::Coalescing { then, .. } => then,
        }
    }
}

impl fmt::Display for ReceiptCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = postcard::to_extend(self, vec![TEXT_VERSION]).map_err(|_| fmt::Error)?;
        let check = xxh3_64(&body).to_be_bytes();
        body.iter().chain(&check[..4]).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for ReceiptCursor {
    type Err = NoCursor;

    fn from_str(text: &str) -> Result<Self, NoCursor> {
        // The longest has 1 + 5 + 1 + 10 + 10 + 10 + 5 + 10 + 4 bytes.
        if text.len() > 120 || !text.len().is_multiple_of(2) || !text.bytes().all(|c| c.is_ascii_hexdigit()) {
            return Err(NoCursor);
        }
        let byte = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
        let bytes: Vec<u8> = (0..text.len()).step_by(2).filter_map(byte).collect();
        let (body, check) = bytes.split_last_chunk::<4>().ok_or(NoCursor)?;
        if xxh3_64(body).to_be_bytes()[..4] != *check {
            return Err(NoCursor);
        }
        let body = body.strip_prefix(&[TEXT_VERSION]).ok_or(NoCursor)?;
        postcard::from_bytes(body).map_err(|_| NoCursor)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_cursor_comes_back_from_its_text() {
        let app = AppId(u32::MAX);
        let deltas = ReceiptCursor::deltas(app, u64::MAX, u32::MAX).skipping(u64::MAX);
        let push = PushId(u64::MAX);
        let coalescing = ReceiptCursor::coalescing(app, u64::MAX, push, push, u32::MAX).skipping(u64::MAX);
        for cursor in [deltas, coalescing, ReceiptCursor::deltas(AppId(1), 0, 0)] {
            assert_eq!(cursor.to_string().parse(), Ok(cursor), "{cursor}");
        }
    }

    #[test]
    fn text_that_was_changed_is_no_cursor() {
        let text = ReceiptCursor::deltas(AppId(1), 4711, 0).to_string();
        for at in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] = if changed[at] == b'0' { b'1' } else { b'0' };
            let changed = String::from_utf8(changed).expect("ascii");
            assert_eq!(changed.parse::<ReceiptCursor>(), Err(NoCursor), "{changed}");
        }
        for garbage in ["", "x", "zz", "00", "ä1", &text[2..], &format!("{text}00")] {
            assert_eq!(garbage.parse::<ReceiptCursor>(), Err(NoCursor), "{garbage}");
        }
    }

    #[test]
    fn every_kind_is_found_by_its_name_and_its_code() {
        for state in State::ALL {
            let kind = ReceiptKind::from_code(state.code());
            assert_eq!(kind.code(), state.code());
            assert!(ReceiptKind::named(&kind.names().0).contains(&kind));
        }
        assert_eq!(ReceiptKind::named("dropped").len(), 6);
        assert!(ReceiptKind::named("pending").is_empty() && ReceiptKind::named("").is_empty());
    }

    proptest! {
        #[test]
        fn any_text_is_a_cursor_or_an_error(text in ".{0,200}") {
            let _ = text.parse::<ReceiptCursor>();
        }
    }
}
