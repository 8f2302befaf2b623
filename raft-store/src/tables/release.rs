//! Releases: a push with a plan is owed to nobody until a part of it is released.
//!
//! Such a push is stored as any other, its audience frozen; what it is owed by is marked as held. A *wave* releases a
//! slice of it: it has an id of its own, taken when it is released, so that the order of ids is the order of dispatch,
//! and edges know the push under that id and nothing of plans. [`PushSets::open`] finds the push by any of its ids.
//!
//! Waves follow from the plan, the entry's time and the tables alone: the leader only says that it is time.

use std::sync::Arc;

use cluster_proto::{Message, PushId, State, TerminalNo, TerminalSet};
use roaring::{MultiOps as _, RoaringBitmap};

use super::{
    GROUP, broad, collapse,
    db::{Read, read},
    error::StoreError,
    keys, owed,
    push::PushSets,
    txn::Txn,
    value::{AudienceRow, ReleasePhase, ReleaseRow, Slice, Stored as _, WaveRow},
};
use crate::{
    Effect,
    command::{OnLow, Pace, ReleasePlan, Stage},
    effect::AcceptedPush,
};

/// Most waves a plan by pace is cut into: one of very many terminals at a slow pace is released in larger parts, less
/// often.
const WAVES_MAX: u64 = 4_096;
/// A pace is kept from second to second, not within one.
const STEP_MS: u64 = 1_000;
/// The whole, in hundredths of a percent.
const WHOLE: u64 = 10_000;

/// The waves of a push, in the order of their release.
#[derive(Debug, Default)]
pub(crate) struct Waves(Vec<(PushId, Slice)>);

impl Waves {
    pub(crate) fn load(tables: &impl Read, push: PushId) -> Result<Self, StoreError> {
        let mut waves = Vec::new();
        for key in tables.keys(&keys::waves_of(push), usize::MAX)? {
            let id = owed::push_of(&key)?;
            waves.extend(read::<WaveRow>(tables, &keys::wave(id))?.map(|row| (id, row.slice)));
        }
        Ok(Self(waves))
    }

    /// Of a push that may have none.
    pub(crate) fn of(tables: &impl Read, sets: &PushSets) -> Result<Self, StoreError> {
        match sets.row.release {
            Some(_) => Self::load(tables, sets.id),
            None => Ok(Self::default()),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &(PushId, Slice)> {
        self.0.iter()
    }

    /// Those of a set that are released.
    pub(crate) fn released(&self, set: &RoaringBitmap) -> RoaringBitmap {
        self.0.iter().map(|(_, slice)| slice.of(set)).union()
    }

    /// The id under which a terminal is owed the push, and the wave, if it is one's.
    pub(crate) fn of_terminal(&self, push: PushId, no: u32) -> (PushId, Option<WaveRow>) {
        match self.0.iter().find(|(_, slice)| slice.contains(no)) {
            Some((id, slice)) => (*id, Some(WaveRow { push, slice: *slice })),
            None => (push, None),
        }
    }
}

/// What a push with a plan begins with. `None`: there is nothing to wait for.
pub(crate) fn begin(plan: &ReleasePlan, now_ms: u64) -> Option<ReleaseRow> {
    if plan.pace == Pace::AtOnce && plan.not_before_ms <= now_ms {
        return None;
    }
    let due_ms = plan.not_before_ms.max(now_ms);
    Some(ReleaseRow { phase: ReleasePhase::Waiting, due_ms, next: 0, released: 0 })
}

/// Goes on with the releases that are due at the time of the entry.
pub(crate) fn advance_due(txn: &mut Txn<'_>, limit: u32) -> Result<(), StoreError> {
    let mut due = Vec::new();
    if limit > 0 {
        let end = keys::release_due(txn.now_ms().saturating_add(1), PushId(0));
        txn.scan(&keys::releases_due(), end, &mut |key, _| {
            due.push(owed::push_of(key)?);
            Ok(due.len() < limit as usize)
        })?;
    }
    for push in due {
        if let Some(mut sets) = PushSets::open(txn, push)? {
            advance(txn, &mut sets, false)?;
            sets.close(txn)?;
        }
    }
    Ok(())
}

/// Releases no more until [`resume`].
pub(crate) fn hold(txn: &mut Txn<'_>, sets: &mut PushSets) {
    if let Some(release) = sets.row.release
        && release.phase == ReleasePhase::Waiting
    {
        set_phase(txn, sets, ReleasePhase::Held);
    }
}

/// Goes on, whatever the share of those who have it.
pub(crate) fn resume(txn: &mut Txn<'_>, sets: &mut PushSets) -> Result<(), StoreError> {
    match sets.row.release.map(|release| release.phase) {
        Some(ReleasePhase::Held | ReleasePhase::HeldLow(_)) => {
            let not_before_ms = sets.row.options.release.as_ref().map_or(0, |plan| plan.not_before_ms);
            if txn.now_ms() < not_before_ms {
                wait_until(txn, sets, not_before_ms);
                return Ok(());
            }
            advance(txn, sets, true)
        }
        _ => Ok(()),
    }
}

/// The push is withdrawn, or settled: nothing more is released. That it was halted stays known.
pub(crate) fn stop(txn: &mut Txn<'_>, sets: &mut PushSets) {
    let Some(release) = sets.row.release else { return };
    if matches!(release.phase, ReleasePhase::Halted(_)) {
        txn.delete(keys::halted(sets.id));
    } else if release.phase != ReleasePhase::Done {
        set_phase(txn, sets, ReleasePhase::Done);
    }
}

/// The rows of its waves, when the push is purged.
pub(crate) fn remove_waves(txn: &mut Txn<'_>, sets: &PushSets) -> Result<(), StoreError> {
    for (wave, _) in Waves::of(txn, sets)?.iter() {
        txn.delete(keys::wave(*wave));
        txn.delete(keys::wave_of(sets.id, *wave));
    }
    Ok(())
}

/// The next wave, and when the one after it is due. `anyway`: without a look at how many have it.
fn advance(txn: &mut Txn<'_>, sets: &mut PushSets, anyway: bool) -> Result<(), StoreError> {
    let Some((plan, release)) = sets.row.options.release.clone().zip(sets.row.release) else { return Ok(()) };
    match plan.pace {
        Pace::AtOnce => {
            release_wave(txn, sets, Slice::All)?;
            set_phase(txn, sets, ReleasePhase::Done);
        }
        Pace::PerSecond(per_second) => {
            let size = u64::from(per_second).max(sets.row.audience_len.div_ceil(WAVES_MAX)).max(1);
            advance_by(txn, sets, size, size * STEP_MS / u64::from(per_second.max(1)))?;
        }
        Pace::Over(period_ms) => {
            let waves = (period_ms / STEP_MS).clamp(1, WAVES_MAX);
            advance_by(txn, sets, sets.row.audience_len.div_ceil(waves).max(1), period_ms / waves)?;
        }
        Pace::Stages { stages, on_low } => {
            let at = release.next as usize;
            let before = at.checked_sub(1).and_then(|before| stages.get(before));
            if let Some(share) = before.filter(|_| !anyway).and_then(|stage| too_low(sets, stage)) {
                match on_low {
                    OnLow::Hold => set_phase(txn, sets, ReleasePhase::HeldLow(share)),
                    OnLow::Halt => {
                        set_phase(txn, sets, ReleasePhase::Halted(share));
                        txn.put(keys::halted(sets.id), &());
                    }
                }
                return Ok(());
            }
            let Some(stage) = stages.get(at) else {
                set_phase(txn, sets, ReleasePhase::Done);
                return Ok(());
            };
            release_wave(
                txn,
                sets,
                Slice::Buckets { from: before.map_or(0, |stage| stage.upto), to: stage.upto },
            )?;
            set_next(sets, release.next + 1);
            if at + 1 == stages.len() {
                set_phase(txn, sets, ReleasePhase::Done);
            } else {
                wait_until(txn, sets, txn.now_ms().saturating_add(stage.wait_ms));
            }
        }
    }
    Ok(())
}

/// The share of those released who have acknowledged, if it is below what the stage wants.
fn too_low(sets: &PushSets, stage: &Stage) -> Option<u16> {
    let released = sets.row.release.map_or(0, |release| release.released);
    let share = (sets.count(State::Delivered) * WHOLE).checked_div(released)?.min(WHOLE) as u16;
    (share < stage.delivered_min).then_some(share)
}

/// The next `size` terminals by number. Without a leader for a while the pace goes on as it was: what was missed is not
/// made up for.
fn advance_by(txn: &mut Txn<'_>, sets: &mut PushSets, size: u64, interval_ms: u64) -> Result<(), StoreError> {
    let Some(release) = sets.row.release else { return Ok(()) };
    let (last, is_last) = next_by_number(txn, sets, release.next, size)?;
    if let Some(last) = last {
        release_wave(txn, sets, Slice::Numbers { first: release.next, last })?;
    }
    match last.and_then(|last| last.checked_add(1)).filter(|_| !is_last) {
        Some(next) => {
            set_next(sets, next);
            let planned_ms = release.due_ms.saturating_add(interval_ms);
            let next_ms = if planned_ms < txn.now_ms() { txn.now_ms() + interval_ms } else { planned_ms };
            wait_until(txn, sets, next_ms);
        }
        None => set_phase(txn, sets, ReleasePhase::Done),
    }
    Ok(())
}

/// The last of the next `size` pending terminals from number `from` on, and whether they are the last of all.
fn next_by_number(
    txn: &Txn<'_>,
    sets: &PushSets,
    from: u32,
    size: u64,
) -> Result<(Option<u32>, bool), StoreError> {
    let blocks = match &sets.row.audience {
        AudienceRow::Small(_) => return Ok(nth(&sets.in_state(txn, State::Pending)?, from, size)),
        AudienceRow::Broad(_) => broad::blocks(txn, sets.id)?,
    };
    let (mut last, mut left) = (None, size);
    for block in blocks.into_iter().filter(|block| *block >= TerminalNo(from).block()) {
        let pending = &txn.block(sets.id, block)?.pending;
        let available = pending.len() - pending.range_cardinality(..from);
        if available > 0 && left == 0 {
            return Ok((last, false));
        }
        let (found, is_last) = nth(pending, from, left);
        last = found.or(last);
        if !is_last {
            return Ok((last, false));
        }
        left -= available.min(left);
    }
    Ok((last, true))
}

/// The last of the next `size` numbers of a set from `from` on, and whether it is the last of the set.
fn nth(set: &RoaringBitmap, from: u32, size: u64) -> (Option<u32>, bool) {
    let below = set.range_cardinality(..from);
    let upto = (below + size).min(set.len());
    let last = upto.checked_sub(1).filter(|_| upto > below).and_then(|rank| set.select(rank as u32));
    (last, upto == set.len())
}

/// Releases a slice: whoever is pending in it is owed the push from now on, under the id of the wave.
fn release_wave(txn: &mut Txn<'_>, sets: &mut PushSets, slice: Slice) -> Result<(), StoreError> {
    let pending = match &sets.row.audience {
        AudienceRow::Small(_) => slice.of(&sets.in_state(txn, State::Pending)?),
        AudienceRow::Broad(_) => pending_in(txn, sets.id, slice)?,
    };
    let Some(release) = &mut sets.row.release else { return Ok(()) };
    let is_first = release.released == 0;
    release.released += pending.len();
    if pending.is_empty() {
        return Ok(());
    }
    txn.head.last_push += 1;
    let wave = PushId::new(GROUP, txn.head.last_push);
    let row = WaveRow { push: sets.id, slice };
    txn.insert(keys::wave(wave), &row);
    txn.insert(keys::wave_of(sets.id, wave), &());
    sets.owe_wave(txn, wave, row, &pending)?;
    // Now it has come to them it replaces what is older.
    let collapses = sets.keyed().is_some();
    if collapses {
        collapse::mark_again(txn, sets.id, sets.row.release.map_or(0, |release| release.released));
    }
    let qos0 = slice.of(&sets.qos0(txn)?);
    if let Some(message) = txn.read::<Message>(&keys::payload(sets.id))? {
        txn.effects.push(Effect::Accepted(Arc::new(AcceptedPush {
            push: wave,
            of: sets.id,
            message: Arc::new(message),
            pending: TerminalSet(pending),
            shown: sets.row.shown && is_first,
            qos0: TerminalSet(qos0),
            expires_at_ms: sets.row.expires_at_ms,
            urgent: sets.row.options.urgent,
            collapses,
        })));
    }
    Ok(())
}

/// Who of a broad push is pending in a slice.
pub(crate) fn pending_in(
    tables: &impl Read,
    push: PushId,
    slice: Slice,
) -> Result<RoaringBitmap, StoreError> {
    let mut all = RoaringBitmap::new();
    for block in broad::blocks(tables, push)? {
        let touches = match slice {
            Slice::Numbers { first, last } => {
                (TerminalNo(first).block()..=TerminalNo(last).block()).contains(&block)
            }
            Slice::All | Slice::Buckets { .. } => true,
        };
        if touches {
            all |= slice.of(&tables.block(push, block)?.pending);
        }
    }
    Ok(all)
}

fn wait_until(txn: &mut Txn<'_>, sets: &mut PushSets, due_ms: u64) {
    set_phase(txn, sets, ReleasePhase::Waiting);
    if let Some(release) = &mut sets.row.release {
        release.due_ms = due_ms;
        txn.put(keys::release_due(due_ms, sets.id), &());
    }
}

fn set_next(sets: &mut PushSets, next: u32) {
    if let Some(release) = &mut sets.row.release {
        release.next = next;
    }
}

/// Leaves the queue, if it was in it.
fn set_phase(txn: &mut Txn<'_>, sets: &mut PushSets, phase: ReleasePhase) {
    let Some(release) = &mut sets.row.release else { return };
    if release.phase == ReleasePhase::Waiting {
        txn.delete(keys::release_due(release.due_ms, sets.id));
    }
    release.phase = phase;
}

/// The wave of an id, if it is one's.
pub(crate) fn wave(tables: &impl Read, id: PushId) -> Result<Option<WaveRow>, StoreError> {
    read(tables, &keys::wave(id))
}

/// Waves with ids in `after+1..=upto`, in order.
pub(crate) fn waves_after(
    tables: &impl Read,
    after: PushId,
    upto: PushId,
    limit: usize,
) -> Result<Vec<(PushId, WaveRow)>, StoreError> {
    let mut waves = Vec::new();
    if limit > 0 && after < upto {
        let end = keys::after(keys::wave(upto));
        tables.scan(&keys::after(keys::wave(after)), end, &mut |key, bytes| {
            waves.push((owed::push_of(key)?, WaveRow::decode(key, bytes)?));
            Ok(waves.len() < limit)
        })?;
    }
    Ok(waves)
}
