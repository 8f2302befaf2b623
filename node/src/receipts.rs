//! The receipt stream as it is told: pages of the tables turned into messages of bounded size, with names where they
//! are asked for. Used by the API and by webhooks.

use std::collections::VecDeque;

use cluster_proto::TerminalNo;
use raft_store::receipts::{PageLimits, ReceiptCursor, ReceiptDelta, ReceiptKind, ReceiptRow};
use roaring::RoaringBitmap;

use crate::api::Control;

/// Names in one message.
const IDS_MAX: usize = 1_000;
/// Read from the tables at once: commits wait that long.
const PAGE: PageLimits = PageLimits { rows: 256, bytes: 512 * 1024 };

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    /// After it.
    pub(crate) next: ReceiptCursor,
    pub(crate) index: u64,
    pub(crate) at_ms: u64,
    pub(crate) is_coalesced: bool,
    pub(crate) began_at: u64,
    /// At least one.
    pub(crate) deltas: Vec<ToldDelta>,
}

/// What it says of one push and state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ToldDelta {
    pub(crate) push: u64,
    pub(crate) state: String,
    pub(crate) reason: &'static str,
    /// How many terminals.
    pub(crate) terminals: u64,
    pub(crate) set: Vec<u8>,
    pub(crate) ids: Vec<String>,
}

/// The tables could not be read: the node goes down.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GoingDown;

/// Reads a stream from a place on. Holds one page, and one message.
pub(crate) struct Reader<C> {
    control: C,
    expand: bool,
    /// Codes of the kinds to tell; none: all.
    kinds: Vec<u8>,
    /// After everything that was told or left out.
    place: ReceiptCursor,
    rows: VecDeque<ReceiptRow>,
    /// After the rows.
    upto: ReceiptCursor,
    began_at: u64,
    naming: Option<Naming>,
}

/// A row whose terminals are being named.
struct Naming {
    row: ReceiptRow,
    /// Of [`Naming::row`], the one being named.
    delta: usize,
    rest: Option<roaring::bitmap::IntoIter>,
    told: u64,
}

impl<C: Control> Reader<C> {
    pub(crate) fn new(control: C, place: ReceiptCursor, expand: bool, kinds: Vec<u8>) -> Self {
        let rows = VecDeque::new();
        Self { control, expand, kinds, place, rows, upto: place, began_at: 0, naming: None }
    }

    pub(crate) fn place(&self) -> ReceiptCursor {
        self.place
    }

    /// The next message; `None` where there is nothing now.
    pub(crate) async fn next(&mut self) -> Result<Option<Told>, GoingDown> {
        loop {
            if let Some(told) = self.name() {
                self.place = told.next;
                return Ok(Some(told));
            }
            if let Some(mut row) = self.rows.pop_front() {
                if !row.deltas.iter().any(|delta| is_wanted(&self.kinds, delta)) {
                    self.place = row.next;
                } else if self.expand {
                    self.naming = Some(Naming { row, delta: 0, rest: None, told: 0 });
                } else {
                    row.deltas.retain(|delta| is_wanted(&self.kinds, delta));
                    self.place = row.next;
                    return Ok(Some(self.whole(row)));
                }
                continue;
            }
            // Rows that are left out count as told.
            self.place = self.upto;
            let (control, from) = (self.control.clone(), self.place);
            let page = tokio::task::spawn_blocking(move || control.receipts(from, PAGE));
            let page = page.await.map_err(|_| GoingDown)?;
            (self.rows, self.upto, self.began_at) = (page.rows.into(), page.next, page.began_at);
            if self.rows.is_empty() && page.is_end {
                self.place = self.upto;
                return Ok(None);
            }
        }
    }

    fn whole(&self, row: ReceiptRow) -> Told {
        let deltas = row.deltas.into_iter().map(|delta| {
            let (len, set) = (delta.len, delta.set.clone());
            ToldDelta { set, ..told(&delta, len) }
        });
        Told {
            next: row.next,
            index: row.index,
            at_ms: row.at_ms,
            is_coalesced: row.is_coalesced,
            began_at: self.began_at,
            deltas: deltas.collect(),
        }
    }

    /// The next names of the row, if one is being told.
    fn name(&mut self) -> Option<Told> {
        let naming = self.naming.as_mut()?;
        let (mut deltas, mut room) = (Vec::new(), IDS_MAX);
        let skip = naming.row.place.skip();
        while let Some(delta) = naming.row.deltas.get(naming.delta).filter(|_| room > 0) {
            if !is_wanted(&self.kinds, delta) {
                // Counted, so that a place means the same whatever is wanted.
                naming.told += if delta.kind == ReceiptKind::Accepted { 0 } else { delta.len };
                naming.delta += 1;
                continue;
            }
            if delta.kind == ReceiptKind::Accepted {
                if naming.told >= skip {
                    deltas.push(told(delta, delta.len));
                }
                naming.delta += 1;
                continue;
            }
            // The tables have checked it.
            let rest = naming.rest.get_or_insert_with(|| {
                RoaringBitmap::deserialize_from(&delta.set[..]).unwrap_or_default().into_iter()
            });
            let mut ids = Vec::new();
            let mut is_done = true;
            for no in rest {
                naming.told += 1;
                if naming.told > skip {
                    ids.push(named(&self.control, TerminalNo(no), naming.row.at_ms));
                    room -= 1;
                }
                if room == 0 {
                    is_done = false;
                    break;
                }
            }
            if !ids.is_empty() {
                deltas.push(ToldDelta { ids: ids.clone(), ..told(delta, ids.len() as u64) });
            }
            if is_done {
                (naming.delta, naming.rest) = (naming.delta + 1, None);
            }
        }
        let row = &naming.row;
        let is_done = naming.delta >= row.deltas.len();
        let next = if is_done { row.next } else { row.place.skipping(naming.told) };
        let (index, at_ms, is_coalesced) = (row.index, row.at_ms, row.is_coalesced);
        if is_done {
            self.naming = None;
        }
        if deltas.is_empty() {
            // All of it was told before.
            self.place = next;
            return None;
        }
        Some(Told { next, index, at_ms, is_coalesced, began_at: self.began_at, deltas })
    }
}

/// Whether a delta is among the kinds to tell; none: all are.
fn is_wanted(kinds: &[u8], delta: &ReceiptDelta) -> bool {
    kinds.is_empty() || kinds.contains(&delta.kind.code())
}

fn told(delta: &ReceiptDelta, terminals: u64) -> ToldDelta {
    let (state, reason) = delta.kind.names();
    let reason = reason.unwrap_or_default();
    ToldDelta { push: delta.push.0, state, reason, terminals, set: Vec::new(), ids: Vec::new() }
}

fn named<C: Control>(control: &C, no: TerminalNo, at_ms: u64) -> String {
    control.named_at(no, at_ms).map_or_else(|| format!("#{no}"), Into::into)
}
