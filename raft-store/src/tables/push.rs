//! One push while apply works on it: its row, and its audience in one of two representations behind one interface.

use cluster_proto::{AppReceipt, PushId, PushKind, State, TerminalNo};
use roaring::RoaringBitmap;

use super::{
    blocks::{Reported, by_block},
    broad,
    collapse::{self, Keyed},
    db::{Read, read},
    error::StoreError,
    exchanges, keys, owed,
    records::Counts,
    release::{self, Waves},
    small::{self, Of},
    txn::Txn,
    value::{AudienceRow, OwedValue, PushRow, Slice, WaveRow, Withdrawn},
};

/// A push and its states. Changes of the row are written by [`PushSets::close`].
#[derive(Debug)]
pub(crate) struct PushSets {
    pub(crate) id: PushId,
    pub(crate) row: PushRow,
    /// Found by the id of a wave: what is read of it is of that part only.
    pub(crate) part: Slice,
}

impl PushSets {
    pub(crate) fn open(tables: &impl Read, id: PushId) -> Result<Option<Self>, StoreError> {
        if let Some(row) = read(tables, &keys::push(id))? {
            return Ok(Some(Self { id, row, part: Slice::All }));
        }
        let Some(WaveRow { push, slice }) = release::wave(tables, id)? else { return Ok(None) };
        Ok(read(tables, &keys::push(push))?.map(|row| Self { id: push, row, part: slice }))
    }

    /// Moves those of `terminals` whose state allows it to `state` (I4).
    pub(crate) fn settle(
        &mut self,
        txn: &mut Txn<'_>,
        terminals: &RoaringBitmap,
        state: State,
    ) -> Result<(), StoreError> {
        debug_assert_ne!(state, State::Pending, "pending is where a push begins");
        let gained = match &self.row.audience {
            AudienceRow::Small(_) => self.settle_small(txn, terminals, state)?,
            AudienceRow::Broad(_) => {
                let mut gained = RoaringBitmap::new();
                for (block, terminals) in by_block(terminals) {
                    gained |= self.settle_block(txn, block, &terminals, state)?;
                }
                gained
            }
        };
        txn.note(self.row.app, self.id, state.code(), gained);
        Ok(())
    }

    /// Answers who is newly in the state.
    fn settle_small(
        &mut self,
        txn: &mut Txn<'_>,
        terminals: &RoaringBitmap,
        state: State,
    ) -> Result<RoaringBitmap, StoreError> {
        let waves = Waves::of(txn, self)?;
        let (of, audience) = parts(self.id, &mut self.row, &waves);
        let AudienceRow::Small(targets) = audience else { return Ok(RoaringBitmap::new()) };
        Ok(small::settle(txn, of, targets, terminals, state))
    }

    /// One block of a broad push; answers who is newly in the state. Where nothing is pending any more, nothing is
    /// owed.
    fn settle_block(
        &mut self,
        txn: &mut Txn<'_>,
        block: u16,
        terminals: &RoaringBitmap,
        state: State,
    ) -> Result<RoaringBitmap, StoreError> {
        let value = self.owed_value();
        let AudienceRow::Broad(counts) = &mut self.row.audience else { return Ok(RoaringBitmap::new()) };
        let urgent = self.row.options.urgent;
        let settled = broad::settle(txn, self.id, counts, block, terminals, state)?;
        if self.row.release.is_none() {
            broad::follow_owed(txn, (self.id, urgent), block, &settled.from_pending, value)?;
        } else if !settled.from_pending.is_empty() && txn.block(self.id, block)?.pending.is_empty() {
            txn.delete(keys::block_pending(urgent, block, self.id));
            for (wave, _) in Waves::of(txn, self)?.iter() {
                txn.delete(keys::block_pending(urgent, block, *wave));
            }
        }
        Ok(settled.from_pending | settled.from_sent)
    }

    /// A wave begins: `pending`, who were held, are owed it.
    pub(crate) fn owe_wave(
        &self,
        txn: &mut Txn<'_>,
        id: PushId,
        wave: WaveRow,
        pending: &RoaringBitmap,
    ) -> Result<(), StoreError> {
        let value = OwedValue { wave: Some(wave), ..self.owed_value() };
        let urgent = self.row.options.urgent;
        match &self.row.audience {
            AudienceRow::Small(targets) => {
                for target in targets.iter().filter(|target| pending.contains(target.no)) {
                    owed::remove(txn, urgent, TerminalNo(target.no), self.id);
                    let value = OwedValue { qos0: target.qos0, ..value };
                    owed::insert(txn, urgent, TerminalNo(target.no), id, value);
                }
            }
            AudienceRow::Broad(_) => {
                for (block, _) in by_block(pending) {
                    txn.insert(keys::block_pending(urgent, block, id), &value);
                }
            }
        }
        Ok(())
    }

    /// Adds those of `terminals` that are in the audience to who reported `what`; says who had not yet.
    pub(crate) fn report(
        &mut self,
        txn: &mut Txn<'_>,
        terminals: &RoaringBitmap,
        what: AppReceipt,
    ) -> Result<Reported, StoreError> {
        let mut all = Reported::default();
        match &mut self.row.audience {
            AudienceRow::Small(targets) => all = small::report(targets, terminals, what),
            AudienceRow::Broad(counts) => {
                for (block, terminals) in by_block(terminals) {
                    let reported = broad::report(txn, self.id, counts, block, &terminals, what)?;
                    all.known += reported.known;
                    all.gained |= reported.gained;
                }
            }
        }
        txn.note(self.row.app, self.id, what.code(), all.gained.clone());
        Ok(all)
    }

    /// Takes the push back: whoever is pending and not in flight settles, as sent if an earlier connection handed it out;
    /// the others stay pending until a receipt tells. A push withdrawn before keeps its first reason.
    pub(crate) fn withdraw(
        &mut self,
        txn: &mut Txn<'_>,
        reason: Withdrawn,
        in_flight: &RoaringBitmap,
    ) -> Result<(), StoreError> {
        if self.row.settled_at_ms.is_some() {
            return Ok(());
        }
        let reason = *self.row.withdrawn.get_or_insert(reason);
        release::stop(txn, self);
        txn.delete(keys::expiry(self.row.expires_at_ms, self.id));
        txn.put(keys::withdrawn(self.id), &());
        let waves = Waves::of(txn, self)?;
        let handed_out = self.handed_out(txn, &waves)?;
        // What is not released is in flight nowhere.
        let in_flight = if self.row.release.is_some() { &waves.released(in_flight) } else { in_flight };
        self.settle(txn, &(handed_out - in_flight), State::Sent)?;
        // Replaced before it was taken back.
        self.settle(txn, &(self.collapsing(txn)? - in_flight), State::Collapsed)?;
        let left = self.whole(txn, State::Pending)? - in_flight;
        self.settle(txn, &left, reason.state())?;
        let pending = self.whole(txn, State::Pending)?;
        // All of it is released.
        self.mark_owed(txn, &waves, &pending, self.owed_value(), true)
    }

    /// Targets that a connection handed it to, under any of its ids, and whose session goes on with it.
    fn handed_out(&self, txn: &Txn<'_>, waves: &Waves) -> Result<RoaringBitmap, StoreError> {
        let mut handed_out = exchanges::handed_out(txn, self.id)?;
        for (wave, _) in waves.iter() {
            handed_out |= exchanges::handed_out(txn, *wave)?;
        }
        Ok(handed_out)
    }

    /// `by` replaces the push for `terminals`: whoever of them is pending and not in flight settles, as sent if an earlier
    /// connection handed it out; the others are handed it no more, and stay pending until a receipt tells.
    pub(crate) fn collapse(
        &mut self,
        txn: &mut Txn<'_>,
        by: PushId,
        terminals: &RoaringBitmap,
        in_flight: &RoaringBitmap,
    ) -> Result<(), StoreError> {
        let pending = self.pending_of(txn, terminals)?;
        // Who is asked already because it was taken back keeps that reason.
        if pending.is_empty() || self.row.withdrawn.is_some() {
            return Ok(());
        }
        self.row.replaced_by = self.row.replaced_by.max(Some(by));
        let waves = Waves::of(txn, self)?;
        // What is not released is in flight nowhere.
        let in_flight = if self.row.release.is_some() { &waves.released(in_flight) } else { in_flight };
        let (held, free) = (&pending & in_flight, &pending - in_flight);
        self.settle(txn, &(self.handed_out(txn, &waves)? & &free), State::Sent)?;
        self.settle(txn, &free, State::Collapsed)?;
        if held.is_empty() {
            return Ok(());
        }
        *txn.set_mut(keys::collapsing(self.id))? |= &held;
        self.row.collapsing = true;
        let owed = self.owed_value();
        // A row of a small push is one terminal's.
        let is_small = matches!(self.row.audience, AudienceRow::Small(_));
        self.mark_owed(txn, &waves, &held, OwedValue { withdrawn: is_small, ..owed }, false)
    }

    /// Writes `value` where these, who are pending, are owed it. `ends`: nothing of it is held back any more.
    fn mark_owed(
        &self,
        txn: &mut Txn<'_>,
        waves: &Waves,
        pending: &RoaringBitmap,
        value: OwedValue,
        ends: bool,
    ) -> Result<(), StoreError> {
        let urgent = self.row.options.urgent;
        if let AudienceRow::Small(targets) = &self.row.audience {
            for target in targets.iter().filter(|target| pending.contains(target.no)) {
                let (id, wave) = waves.of_terminal(self.id, target.no);
                let value = OwedValue { qos0: target.qos0, wave, ..value };
                txn.put(keys::owed(urgent, TerminalNo(target.no), id), &value);
            }
            return Ok(());
        }
        for (block, pending) in by_block(pending) {
            if self.row.release.is_none() {
                broad::mark_owed(txn, (self.id, urgent), block, &pending, value)?;
                continue;
            }
            if ends {
                txn.delete(keys::block_pending(urgent, block, self.id));
            }
            for (id, slice) in waves.iter() {
                if !slice.of(&pending).is_empty() {
                    let wave = Some(WaveRow { push: self.id, slice: *slice });
                    txn.put(keys::block_pending(urgent, block, *id), &OwedValue { wave, ..value });
                }
            }
        }
        Ok(())
    }

    /// Those for whom it is replaced, and who may have it in flight.
    pub(crate) fn collapsing(&self, tables: &impl Read) -> Result<RoaringBitmap, StoreError> {
        if !self.row.collapsing {
            return Ok(RoaringBitmap::new());
        }
        collapse::set(tables, self.id)
    }

    /// Writes the row, and moves a push with nothing pending to the retention queue.
    pub(crate) fn close(mut self, txn: &mut Txn<'_>) -> Result<(), StoreError> {
        debug_assert!(self.is_conserved(), "push {} lost or doubled a terminal", self.id);
        if self.row.collapsing {
            let before = self.collapsing(txn)?;
            let still = self.pending_of(txn, &before)?;
            self.row.collapsing = !still.is_empty();
            if still != before {
                // Empty, the row goes.
                *txn.set_mut(keys::collapsing(self.id))? = still;
            }
        }
        if self.row.settled_at_ms.is_none() && self.count(State::Pending) == 0 {
            release::stop(txn, &mut self);
            self.row.settled_at_ms = Some(txn.now_ms());
            if self.row.withdrawn.is_some() {
                txn.delete(keys::withdrawn(self.id));
            } else {
                txn.delete(keys::expiry(self.row.expires_at_ms, self.id));
            }
            txn.insert(keys::retention(txn.now_ms(), self.id), &());
            if let (Some(keyed), AudienceRow::Broad(_)) = (self.keyed(), &self.row.audience) {
                keyed.remove(txn, collapse::BROAD, self.id);
            }
        }
        txn.put(keys::push(self.id), &self.row);
        Ok(())
    }

    /// What it is found by, if it has a collapse key.
    pub(crate) fn keyed(&self) -> Option<Keyed<'_>> {
        keyed(&self.row)
    }

    /// Those of `terminals` that must still get it.
    pub(crate) fn pending_of(
        &self,
        tables: &impl Read,
        terminals: &RoaringBitmap,
    ) -> Result<RoaringBitmap, StoreError> {
        match &self.row.audience {
            AudienceRow::Small(targets) => Ok(small::in_state(targets, State::Pending) & terminals),
            AudienceRow::Broad(_) => collapse::pending_in_blocks(tables, self.id, terminals),
        }
    }

    /// Who of the part is in a state.
    pub(crate) fn in_state(&self, tables: &impl Read, state: State) -> Result<RoaringBitmap, StoreError> {
        match (self.part, &self.row.audience) {
            (Slice::All, _) => self.whole(tables, state),
            (slice, AudienceRow::Broad(_)) if state == State::Pending => {
                release::pending_in(tables, self.id, slice)
            }
            (slice, _) => Ok(slice.of(&self.whole(tables, state)?)),
        }
    }

    /// Who is in a state, whatever the part.
    pub(crate) fn whole(&self, tables: &impl Read, state: State) -> Result<RoaringBitmap, StoreError> {
        match &self.row.audience {
            AudienceRow::Small(targets) => Ok(small::in_state(targets, state)),
            AudienceRow::Broad(_) => broad::union(tables, self.id, |block| block.in_state(state)),
        }
    }

    /// Who reported `what`.
    pub(crate) fn reported(&self, tables: &impl Read, what: AppReceipt) -> Result<RoaringBitmap, StoreError> {
        match &self.row.audience {
            AudienceRow::Small(targets) => Ok(small::reported(targets, what)),
            AudienceRow::Broad(_) => broad::union(tables, self.id, |block| block.reported(what).clone()),
        }
    }

    /// What the application on a terminal reported.
    pub(crate) fn reported_by(
        &self,
        tables: &impl Read,
        no: TerminalNo,
    ) -> Result<Vec<AppReceipt>, StoreError> {
        let mut reported = AppReceipt::ALL.to_vec();
        match &self.row.audience {
            AudienceRow::Small(targets) => {
                reported.retain(|what| small::reported(targets, *what).contains(no.0));
            }
            AudienceRow::Broad(_) => {
                let block = tables.block(self.id, no.block())?;
                reported.retain(|what| block.reported(*what).contains(no.0));
            }
        }
        Ok(reported)
    }

    /// How many reported `what`.
    pub(crate) fn count_reported(&self, what: AppReceipt) -> u64 {
        match &self.row.audience {
            AudienceRow::Small(targets) => small::reported(targets, what).len(),
            AudienceRow::Broad(counts) => {
                counts.iter().find(|(code, _)| *code == what.code()).map_or(0, |(_, count)| *count)
            }
        }
    }

    pub(crate) fn audience(&self, tables: &impl Read) -> Result<RoaringBitmap, StoreError> {
        match &self.row.audience {
            AudienceRow::Small(targets) => Ok(targets.iter().map(|target| target.no).collect()),
            AudienceRow::Broad(_) => broad::union(tables, self.id, |block| block.audience.clone()),
        }
    }

    pub(crate) fn qos0(&self, tables: &impl Read) -> Result<RoaringBitmap, StoreError> {
        match &self.row.audience {
            AudienceRow::Small(targets) => Ok(targets.iter().filter(|t| t.qos0).map(|t| t.no).collect()),
            AudienceRow::Broad(_) => broad::union(tables, self.id, |block| block.qos0.clone()),
        }
    }

    pub(crate) fn is_pending(&self, tables: &impl Read, no: TerminalNo) -> Result<bool, StoreError> {
        if !self.part.contains(no.0) {
            return Ok(false);
        }
        match &self.row.audience {
            AudienceRow::Small(targets) => Ok(small::in_state(targets, State::Pending).contains(no.0)),
            AudienceRow::Broad(_) => Ok(tables.block(self.id, no.block())?.pending.contains(no.0)),
        }
    }

    /// Absent: not in the audience.
    pub(crate) fn state_of(&self, tables: &impl Read, no: TerminalNo) -> Result<Option<State>, StoreError> {
        match &self.row.audience {
            AudienceRow::Small(targets) => {
                let target = targets.iter().find(|target| target.no == no.0);
                Ok(target.and_then(|target| State::from_code(target.state)))
            }
            AudienceRow::Broad(_) => {
                let block = tables.block(self.id, no.block())?;
                Ok(State::ALL.into_iter().find(|state| block.in_state(*state).contains(no.0)))
            }
        }
    }

    pub(crate) fn count(&self, state: State) -> u64 {
        match &self.row.audience {
            AudienceRow::Small(targets) => targets.iter().filter(|t| t.state == state.code()).count() as u64,
            AudienceRow::Broad(counts) => {
                counts.iter().find(|(code, _)| *code == state.code()).map_or(0, |(_, count)| *count)
            }
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        let counted = State::ALL.into_iter().map(|state| (state, self.count(state)));
        let by_state = counted.filter(|(state, count)| *count > 0 || *state == State::Pending).collect();
        Counts {
            audience: self.row.audience_len,
            by_state,
            reported: AppReceipt::ALL.map(|what| self.count_reported(what)),
        }
    }

    /// What the owed indexes say of it.
    pub(crate) fn owed_value(&self) -> OwedValue {
        OwedValue {
            topic: self.row.kind == PushKind::Topic,
            withdrawn: self.row.withdrawn.is_some(),
            collapsing: self.row.collapsing,
            qos0: false,
            held: false,
            expires_at_ms: self.row.expires_at_ms,
            wave: None,
        }
    }

    /// I5.
    fn is_conserved(&self) -> bool {
        self.counts().by_state.iter().map(|(_, count)| count).sum::<u64>() == self.row.audience_len
    }
}

/// What the rows of a push are found by, and its audience.
fn parts<'a>(push: PushId, row: &'a mut PushRow, waves: &'a Waves) -> (Of<'a>, &'a mut AudienceRow) {
    let PushRow { app, options, audience, .. } = row;
    let keyed = options.collapse_key.as_deref().map(|key| Keyed { app: *app, key });
    (Of { push, urgent: options.urgent, keyed, waves }, audience)
}

fn keyed(row: &PushRow) -> Option<Keyed<'_>> {
    row.options.collapse_key.as_deref().map(|key| Keyed { app: row.app, key })
}
