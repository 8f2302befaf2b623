//! Writing a push whose audience is resolved: from here on it is frozen.

use std::sync::Arc;

use cluster_proto::{Message, PushId, PushKind, State, TerminalSet, limits::SMALL_AUDIENCE_MAX};
use roaring::RoaringBitmap;

use super::{
    GROUP, apps, broad,
    error::StoreError,
    keys,
    push::PushSets,
    release,
    resolve::Resolved,
    small,
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
    let (shown, qos0) = (audience.shown, TerminalSet(audience.union(|part| &part.qos0)));
    let pending = if is_kept(&message, audience.len(), by_back_end) {
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
        not_kept(txn)
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

/// Writes the audience; answers who is pending.
fn store(
    txn: &mut Txn<'_>,
    mut sets: PushSets,
    audience: Resolved,
    qos0: &RoaringBitmap,
) -> Result<RoaringBitmap, StoreError> {
    let all = audience.union(|part| &part.any);
    txn.note_accepted(sets.row.app, sets.id, sets.row.audience_len);
    let value = OwedValue { held: sets.row.release.is_some(), ..sets.owed_value() };
    if let Some(release) = sets.row.release {
        txn.insert(keys::release_due(release.due_ms, sets.id), &());
    }
    txn.insert(keys::expiry(sets.row.expires_at_ms, sets.id), &());
    let pending = if all.len() <= SMALL_AUDIENCE_MAX as u64 {
        let targets = small::accept(txn, sets.id, &all, qos0, value)?;
        let pending = small::in_state(&targets, State::Pending);
        txn.note(sets.row.app, sets.id, OVER_QUOTA.code(), small::in_state(&targets, OVER_QUOTA));
        sets.row.audience = AudienceRow::Small(targets);
        pending
    } else {
        sets.row.audience = AudienceRow::Broad(broad::accept(txn, sets.id, audience, value));
        all
    };
    sets.close(txn);
    Ok(pending)
}
