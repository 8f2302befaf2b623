//! Writing a push whose audience is resolved: from here on it is frozen.

use std::sync::Arc;

use cluster_proto::{Message, PushId, PushKind, State, TerminalSet, limits::SMALL_AUDIENCE_MAX};
use roaring::RoaringBitmap;

use super::{
    GROUP, apps, broad,
    collapse::{self, Keyed},
    error::StoreError,
    keys,
    push::PushSets,
    release::{self, Waves},
    resolve::Resolved,
    small::{self, Of},
    txn::Txn,
    value::{AudienceRow, IdempotencyRow, OVER_QUOTA, OwedValue, PushRow, Slice},
};
use crate::{
    Effect,
    command::{IdempotencyKey, PushOptions},
    effect::AcceptedPush,
};

/// Whether a push is kept. One that a back-end asked for is, even if nobody is to get it, since its status may be asked
/// for.
pub(crate) fn is_kept(message: &Message, audience: u64, by_back_end: bool) -> bool {
    audience > 0 || message.kind == PushKind::Identity || by_back_end
}

/// Accepts a push for everyone in `audience`; answers its id.
pub(crate) fn push(
    txn: &mut Txn<'_>,
    message: Message,
    audience: Resolved,
    ttl_ms: u64,
    options: PushOptions,
    idempotency: Option<&IdempotencyKey>,
    by_back_end: bool,
) -> Result<PushId, StoreError> {
    txn.head.last_push += 1;
    let push = PushId::new(GROUP, txn.head.last_push);
    let release = options.release.as_ref().and_then(|plan| release::begin(plan, txn.now_ms()));
    let expires_at_ms = release.map_or(txn.now_ms(), |release| release.due_ms).saturating_add(ttl_ms);
    let urgent = options.urgent;
    let (shown, qos0) = (audience.shown, TerminalSet(audience.union(|part| &part.qos0)));
    let (pending, collapses) = if is_kept(&message, audience.len(), by_back_end) {
        let size = message.size() as u64;
        apps::count_bytes(txn, message.app, size as i64)?;
        let row = PushRow {
            app: message.app,
            kind: message.kind,
            shown,
            size,
            accepted_at_ms: txn.now_ms(),
            expires_at_ms,
            audience_len: audience.len(),
            withdrawn: None,
            settled_at_ms: None,
            idempotency: idempotency.map(|key| key.key.clone()),
            options,
            replaced_by: None,
            collapsing: false,
            release,
            audience: AudienceRow::Small(Vec::new()),
        };
        if let Some(IdempotencyKey { key, digest }) = idempotency {
            let row = IdempotencyRow { push, digest: *digest, audience: row.audience_len };
            txn.insert(keys::idempotency(message.app, key), &row);
        }
        txn.insert(keys::payload(push), &message);
        store(txn, PushSets { id: push, row, part: Slice::All }, audience, &qos0.0)?
    } else {
        (not_kept(txn), false)
    };
    if release.is_some() {
        // Its waves will be dispatched.
        return Ok(push);
    }
    txn.effects.push(Effect::Accepted(Arc::new(AcceptedPush {
        push,
        of: push,
        message: Arc::new(message),
        pending: TerminalSet(pending),
        shown,
        qos0,
        expires_at_ms,
        urgent,
        collapses,
    })));
    Ok(push)
}

/// Nobody subscribes to the topic: nothing will ever be asked about it, so nothing is written.
fn not_kept(txn: &mut Txn<'_>) -> RoaringBitmap {
    if txn.head.oldest_push == txn.head.last_push {
        txn.head.oldest_push += 1;
    }
    RoaringBitmap::new()
}

/// Writes the audience; answers who is pending, and whether older pushes are to be replaced.
fn store(
    txn: &mut Txn<'_>,
    mut sets: PushSets,
    audience: Resolved,
    qos0: &RoaringBitmap,
) -> Result<(RoaringBitmap, bool), StoreError> {
    let all = audience.union(|part| &part.any);
    txn.note_accepted(sets.row.app, sets.id, sets.row.audience_len);
    let value = OwedValue { held: sets.row.release.is_some(), ..sets.owed_value() };
    if let Some(release) = sets.row.release {
        txn.insert(keys::release_due(release.due_ms, sets.id), &());
    }
    let key = sets.row.options.collapse_key.clone();
    let keyed = key.as_deref().map(|key| Keyed { app: sets.row.app, key });
    let none = Waves::default();
    let of = Of { push: sets.id, urgent: sets.row.options.urgent, keyed, waves: &none };
    txn.insert(keys::expiry(sets.row.expires_at_ms, sets.id), &());
    let is_small = all.len() <= SMALL_AUDIENCE_MAX as u64;
    let mut collapses = false;
    if let Some(keyed) = keyed.filter(|_| !all.is_empty() && sets.row.release.is_none()) {
        let small: Vec<u32> = if is_small { all.iter().collect() } else { Vec::new() };
        collapses = collapse::mark(txn, keyed, sets.id, &small)?;
    }
    let pending = if is_small {
        let targets = small::accept(txn, of, &all, qos0, value)?;
        let pending = small::in_state(&targets, State::Pending);
        txn.note(sets.row.app, sets.id, OVER_QUOTA.code(), small::in_state(&targets, OVER_QUOTA));
        sets.row.audience = AudienceRow::Small(targets);
        pending
    } else {
        keyed.into_iter().for_each(|keyed| keyed.insert(txn, collapse::BROAD, sets.id));
        sets.row.audience = AudienceRow::Broad(broad::accept(txn, of, audience, value));
        all
    };
    sets.close(txn)?;
    Ok((pending, collapses))
}
