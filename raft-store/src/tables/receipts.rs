//! The deltas of receipt streams: gathered while an entry is applied, written when it ends, read in pages.
//!
//! A row is one version byte, the time of its entry (8 bytes), and deltas one after the other: push (8 bytes), kind (1),
//! length (4), and a set in the portable format of Roaring bitmaps; for kind 0, accepted, the size of the audience
//! (8 bytes). Nearly every entry makes one row for an app; one that would be large makes several parts.

use std::collections::{BTreeMap, btree_map::Entry};

use cluster_proto::{AppId, PushId, State};
use roaring::RoaringBitmap;

use super::{
    View, broad,
    db::{Read, read},
    error::StoreError,
    keys,
    push::PushSets,
    txn::Txn,
    value::{self, AudienceRow, PushRow, ReceiptCount, Slice, Stored as _},
};
use crate::receipts::{At, PageLimits, ReceiptCursor, ReceiptDelta, ReceiptKind, ReceiptPage, ReceiptRow};

/// First byte of a row.
const ROW_VERSION: u8 = 1;
/// A part is closed when it has so many bytes, and a set of more is split: no row is larger than twice this.
const PART_LEN_MAX: usize = 256 * 1024;
/// What a set is split into: so many blocks have at most [`PART_LEN_MAX`] bytes.
const BLOCKS_PER_DELTA: u32 = 32;
/// Pushes looked at for one page of coalesced sets; those of other apps count too.
const PUSHES_PER_PAGE: usize = 1_024;

/// What an entry did to terminals.
#[derive(Debug, Default)]
pub(crate) struct Noted(BTreeMap<(AppId, PushId, u8), Note>);

#[derive(Debug)]
enum Note {
    Accepted(u64),
    Gained(RoaringBitmap),
}

impl Noted {
    pub(crate) fn gained(&mut self, app: AppId, push: PushId, kind: u8, gained: RoaringBitmap) {
        if gained.is_empty() {
            return;
        }
        match self.0.entry((app, push, kind)) {
            Entry::Vacant(place) => drop(place.insert(Note::Gained(gained))),
            Entry::Occupied(mut place) => match place.get_mut() {
                Note::Gained(before) => *before |= gained,
                Note::Accepted(_) => debug_assert!(false, "nobody becomes pending again"),
            },
        }
    }

    pub(crate) fn accepted(&mut self, app: AppId, push: PushId, audience_len: u64) {
        self.0.insert((app, push, ReceiptKind::Accepted.code()), Note::Accepted(audience_len));
    }
}

/// Writes what was noted in the entry that ends.
pub(super) fn write(txn: &mut Txn<'_>, noted: Noted) -> Result<(), StoreError> {
    let mut part: Option<Part> = None;
    for ((app, push, kind), note) in noted.0 {
        if let Some(done) = part.take_if(|part| part.app != app) {
            done.close(txn)?;
        }
        let part = part.get_or_insert_with(|| Part::new(app, txn.now_ms()));
        match note {
            Note::Accepted(len) => part.add(txn, push, kind, &len.to_be_bytes())?,
            Note::Gained(mut set) if set.serialized_size() <= PART_LEN_MAX => {
                part.add(txn, push, kind, &value::set_body(&mut set))?;
            }
            Note::Gained(set) => {
                for mut some in split(&set) {
                    part.add(txn, push, kind, &value::set_body(&mut some))?;
                }
            }
        }
    }
    match part {
        Some(part) => part.close(txn),
        None => Ok(()),
    }
}

/// The row being written.
struct Part {
    app: AppId,
    no: u32,
    bytes: Vec<u8>,
}

impl Part {
    fn new(app: AppId, at_ms: u64) -> Self {
        Self { app, no: 0, bytes: header(at_ms) }
    }

    fn add(&mut self, txn: &mut Txn<'_>, push: PushId, kind: u8, body: &[u8]) -> Result<(), StoreError> {
        if self.bytes.len() >= PART_LEN_MAX {
            let next = Self { app: self.app, no: self.no + 1, bytes: header(txn.now_ms()) };
            std::mem::replace(self, next).close(txn)?;
        }
        encode_delta(&mut self.bytes, push, kind, body);
        Ok(())
    }

    fn close(self, txn: &mut Txn<'_>) -> Result<(), StoreError> {
        let count_key = keys::receipt_count(self.app);
        let mut count = txn.read::<ReceiptCount>(&count_key)?.unwrap_or_default();
        let key = keys::receipts(self.app, txn.head.index, self.no);
        if count.rows == 0 {
            count.first_at_ms = txn.now_ms();
        }
        count.rows += 1;
        count.bytes += row_len(&key, &self.bytes);
        txn.put(count_key, &count);
        txn.insert_bytes(key, self.bytes);
        Ok(())
    }
}

fn header(at_ms: u64) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64);
    bytes.push(ROW_VERSION);
    bytes.extend(at_ms.to_be_bytes());
    bytes
}

fn encode_delta(bytes: &mut Vec<u8>, push: PushId, kind: u8, body: &[u8]) {
    bytes.extend(push.0.to_be_bytes());
    bytes.push(kind);
    bytes.extend((body.len() as u32).to_be_bytes());
    bytes.extend(body);
}

/// What a row counts against the bound of its app.
pub(super) fn row_len(key: &[u8], bytes: &[u8]) -> u64 {
    (key.len() + bytes.len()) as u64
}

/// A set in parts of [`BLOCKS_PER_DELTA`] blocks.
fn split(set: &RoaringBitmap) -> impl Iterator<Item = RoaringBitmap> + '_ {
    let width = BLOCKS_PER_DELTA << 16;
    let mut from = set.min();
    std::iter::from_fn(move || {
        let first = from? / width * width;
        let last = first + (width - 1);
        let mut part = RoaringBitmap::new();
        part.insert_range(first..=last);
        part &= set;
        from = last.checked_add(1).and_then(|next| set.range(next..).next());
        Some(part)
    })
}

/// The time of a row.
pub(super) fn time_of(key: &[u8], bytes: &[u8]) -> Result<u64, StoreError> {
    let time = bytes.strip_prefix(&[ROW_VERSION]).and_then(|rest| rest.first_chunk());
    time.map(|bytes| u64::from_be_bytes(*bytes)).ok_or_else(|| StoreError::damaged("receipts", key))
}

fn decode(key: &[u8], bytes: &[u8]) -> Result<(u64, Vec<ReceiptDelta>), StoreError> {
    let at_ms = time_of(key, bytes)?;
    let deltas = decode_deltas(&bytes[9..]).ok_or_else(|| StoreError::damaged("receipts", key))?;
    Ok((at_ms, deltas))
}

fn decode_deltas(mut rest: &[u8]) -> Option<Vec<ReceiptDelta>> {
    let mut deltas = Vec::new();
    while !rest.is_empty() {
        let (push, tail) = rest.split_first_chunk()?;
        let (kind, tail) = tail.split_first()?;
        let (len, tail) = tail.split_first_chunk()?;
        let (body, tail) = tail.split_at_checked(u32::from_be_bytes(*len) as usize)?;
        rest = tail;
        let kind = ReceiptKind::from_code(*kind);
        let (len, set) = match kind {
            ReceiptKind::Accepted => (u64::from_be_bytes(body.try_into().ok()?), Vec::new()),
            _ => (RoaringBitmap::deserialize_from(body).ok()?.len(), body.to_vec()),
        };
        deltas.push(ReceiptDelta { push: PushId(u64::from_be_bytes(*push)), kind, len, set });
    }
    Some(deltas)
}

pub(super) fn count(tables: &impl Read, app: AppId) -> Result<ReceiptCount, StoreError> {
    Ok(read(tables, &keys::receipt_count(app))?.unwrap_or_default())
}

/// Where the stream of an app begins now.
pub(super) fn begin(tables: &impl Read, app: AppId) -> Result<ReceiptCursor, StoreError> {
    let (index, part) = count(tables, app)?.begin;
    Ok(ReceiptCursor::deltas(app, index, part))
}

/// A page from a place. Where what is asked for was removed, every push is told as it stands first.
pub(super) fn page(view: &View, from: ReceiptCursor, limits: PageLimits) -> Result<ReceiptPage, StoreError> {
    let ReceiptCount { begin, .. } = count(view, from.app())?;
    let began_at = if begin == (0, 0) { 0 } else { begin.0 + 1 };
    let page = match from.at {
        At::Deltas { index, part } if (index, part) >= begin => deltas(view, from, limits)?,
        At::Deltas { .. } => {
            let upto = view.head.position().last_push;
            let oldest = PushId(view.head.oldest_push);
            let from = ReceiptCursor::coalescing(from.app(), view.head.index + 1, upto, oldest, 0);
            coalesced(view, from, limits)?
        }
        At::Coalescing { .. } => coalesced(view, from, limits)?,
    };
    Ok(ReceiptPage { began_at, ..page })
}

fn deltas(view: &View, from: ReceiptCursor, limits: PageLimits) -> Result<ReceiptPage, StoreError> {
    let (app, mut page, mut len) = (from.app(), ReceiptPage::empty(from), 0);
    let At::Deltas { index, part } = from.at else { return Ok(page) };
    let end = keys::prefix_end(&keys::receipts_of(app));
    view.scan(&keys::receipts(app, index, part), end, &mut |key, bytes| {
        if page.rows.len() >= limits.rows || (len > 0 && len + bytes.len() > limits.bytes) {
            page.is_end = false;
            return Ok(false);
        }
        len += bytes.len();
        let damaged = || StoreError::damaged("receipts key", key);
        let (index, part) = keys::receipts_place_of(key).ok_or_else(damaged)?;
        let (at_ms, deltas) = decode(key, bytes)?;
        let place = ReceiptCursor::deltas(app, index, part);
        // Only the row that was asked for may have been told in part.
        let place = if page.rows.is_empty() && place.at == from.at { from } else { place };
        let next = ReceiptCursor::deltas(app, index, part + 1);
        page.rows.push(ReceiptRow { index, at_ms, is_coalesced: false, place, next, deltas });
        page.next = next;
        Ok(true)
    })?;
    Ok(page)
}

fn coalesced(view: &View, from: ReceiptCursor, limits: PageLimits) -> Result<ReceiptPage, StoreError> {
    let app = from.app();
    let mut page = ReceiptPage { is_end: false, ..ReceiptPage::empty(from) };
    let At::Coalescing { then, upto, push, mut block } = from.at else { return Ok(page) };
    let mut pushes = Vec::new();
    let mut looked_at = 0;
    let mut next = PushId(upto.0.saturating_add(1));
    view.scan(&keys::push(push), keys::push(next), &mut |key, bytes| {
        let id = keys::push_of(key).ok_or_else(|| StoreError::damaged("push key", key))?;
        let row = PushRow::decode(key, bytes)?;
        if row.app == app {
            pushes.push(PushSets { id, row, part: Slice::All });
        }
        looked_at += 1;
        if looked_at >= PUSHES_PER_PAGE {
            next = PushId(id.0 + 1);
            return Ok(false);
        }
        Ok(true)
    })?;
    let at = |push: PushId, block| ReceiptCursor::coalescing(app, then, upto, push, block);
    let mut len = 0;
    for sets in pushes {
        // The place of the cursor is in its push only.
        if sets.id != push {
            block = 0;
        }
        loop {
            if page.rows.len() >= limits.rows || len >= limits.bytes {
                page.next = at(sets.id, block);
                return Ok(page);
            }
            let (deltas, more) = standing(view, &sets, block)?;
            len += deltas.iter().map(|delta| 32 + delta.set.len()).sum::<usize>();
            let place = at(sets.id, block);
            let place = if place.at == from.at { from } else { place };
            let next = more.map_or(at(PushId(sets.id.0 + 1), 0), |block| at(sets.id, block));
            let (index, at_ms) = (view.head.index, view.head.at_ms);
            page.rows.push(ReceiptRow { index, at_ms, is_coalesced: true, place, next, deltas });
            match more {
                Some(next) => block = next,
                None => break,
            }
        }
    }
    page.next = if next > upto { ReceiptCursor::deltas(app, then, 0) } else { at(next, 0) };
    Ok(page)
}

/// How a push stands in a range of blocks from `block`, and where the next range begins.
fn standing(
    view: &View,
    sets: &PushSets,
    block: u32,
) -> Result<(Vec<ReceiptDelta>, Option<u32>), StoreError> {
    let settled = || State::ALL.into_iter().filter(|state| *state != State::Pending);
    let mut by_state: BTreeMap<u8, RoaringBitmap> = BTreeMap::new();
    let mut more = None;
    match &sets.row.audience {
        AudienceRow::Small(_) => {
            for state in settled() {
                by_state.insert(state.code(), sets.in_state(view, state)?);
            }
        }
        AudienceRow::Broad(_) => {
            let mut blocks = broad::blocks(view, sets.id)?;
            blocks.retain(|of| u32::from(*of) >= block);
            more = blocks.get(BLOCKS_PER_DELTA as usize).map(|next| u32::from(*next));
            blocks.truncate(BLOCKS_PER_DELTA as usize);
            for block in blocks {
                let block = view.block(sets.id, block)?;
                for state in settled() {
                    *by_state.entry(state.code()).or_default() |= block.in_state(state);
                }
            }
        }
    }
    let mut deltas = Vec::new();
    if block == 0 {
        let (kind, len) = (ReceiptKind::Accepted, sets.row.audience_len);
        deltas.push(ReceiptDelta { push: sets.id, kind, len, set: Vec::new() });
    }
    for (code, mut set) in by_state.into_iter().filter(|(_, set)| !set.is_empty()) {
        let kind = ReceiptKind::from_code(code);
        let (len, set) = (set.len(), value::set_body(&mut set));
        deltas.push(ReceiptDelta { push: sets.id, kind, len, set });
    }
    Ok((deltas, more))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is on disk must stay readable: a change here is a new version, not a new expectation.
    #[test]
    fn stored_receipts_stay_as_they_are() {
        let mut bytes = header(258);
        encode_delta(&mut bytes, PushId(7), 0, &300u64.to_be_bytes());
        encode_delta(&mut bytes, PushId(7), 1, &value::set_body(&mut RoaringBitmap::from_iter([5])));
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            hex,
            "010000000000000102000000000000000700000000080000000000\
             00012c000000000000000701000000123a300000010000000000000010000000\
             0500"
        );
        let (at_ms, deltas) = decode(b"k", &bytes).expect("a row");
        assert_eq!(at_ms, 258);
        assert_eq!(deltas.iter().map(|delta| delta.len).collect::<Vec<_>>(), [300, 1]);
    }

    #[test]
    fn damaged_rows_are_errors() {
        let mut bytes = header(1);
        encode_delta(&mut bytes, PushId(7), 1, b"no bitmap");
        assert!(decode(b"k", &bytes).is_err());
        for len in 0..bytes.len() {
            // The header alone is a row without deltas.
            assert!(len == 9 || decode(b"k", &bytes[..len]).is_err(), "{len}");
        }
    }

    #[test]
    fn a_split_set_loses_nothing_and_its_parts_fit() {
        let mut set = RoaringBitmap::new();
        set.insert_range(5..9_000_000);
        set.insert(u32::MAX);
        let parts: Vec<_> = split(&set).collect();
        assert_eq!(parts.len(), 6);
        assert!(parts.iter().all(|part| part.serialized_size() <= PART_LEN_MAX + 1_024));
        assert_eq!(parts.into_iter().fold(RoaringBitmap::new(), |all, part| all | part), set);
    }
}
