//! Accepting a push: its audience is frozen here.

use std::sync::Arc;

use cluster_proto::{PushId, PushKind, State, TerminalSet, limits::SMALL_AUDIENCE_MAX};

use super::app_exists;
use crate::{
    Applied, Effect, Refusal,
    command::{AcceptPush, IdempotencyKey},
    effect::AcceptedPush,
    tables::{
        GROUP, broad,
        error::StoreError,
        keys,
        push::PushSets,
        resolve::{self, Resolved},
        small,
        txn::Txn,
        value::{AudienceRow, IdempotencyRow, PushRow},
    },
};

pub(super) fn accept(txn: &mut Txn<'_>, accept: AcceptPush) -> Result<Applied, StoreError> {
    let app = accept.message.app;
    if !app_exists(txn, app)? {
        return Ok(Applied::Refused(Refusal::UnknownApp));
    }
    if let Some(key) = &accept.idempotency
        && let Some(first) = txn.read::<IdempotencyRow>(&keys::idempotency(app, &key.key))?
    {
        return Ok(repeated(&first, key));
    }
    let audience = match resolve::audience(txn, &accept.audience, &accept.message)? {
        Ok(audience) => audience,
        Err(refusal) => return Ok(Applied::Refused(refusal)),
    };
    let len = audience.len();
    txn.head.last_push += 1;
    let push = PushId::new(GROUP, txn.head.last_push);
    let is_kept = len > 0 || accept.message.kind == PushKind::Identity || accept.idempotency.is_some();
    let expires_at_ms = txn.now_ms().saturating_add(accept.ttl_ms);
    let qos0 = TerminalSet(audience.union(|part| &part.qos0));
    let pending =
        if is_kept { TerminalSet(store(txn, push, &accept, audience, &qos0)?) } else { not_kept(txn) };
    let message = Arc::new(accept.message);
    txn.effects.push(Effect::Accepted(Arc::new(AcceptedPush {
        push,
        message,
        pending,
        qos0,
        expires_at_ms,
    })));
    Ok(Applied::Accepted { push, audience: len, repeated: false })
}

fn repeated(first: &IdempotencyRow, key: &IdempotencyKey) -> Applied {
    if first.digest != key.digest {
        return Applied::Refused(Refusal::KeyReused);
    }
    Applied::Accepted { push: first.push, audience: first.audience, repeated: true }
}

/// Nobody subscribes to the topic: nothing will ever be asked about it, so nothing is written.
fn not_kept(txn: &mut Txn<'_>) -> TerminalSet {
    if txn.head.oldest_push == txn.head.last_push {
        txn.head.oldest_push += 1;
    }
    TerminalSet::new()
}

/// Writes the push; answers who is pending.
fn store(
    txn: &mut Txn<'_>,
    push: PushId,
    accept: &AcceptPush,
    audience: Resolved,
    qos0: &TerminalSet,
) -> Result<roaring::RoaringBitmap, StoreError> {
    let mut sets = PushSets { id: push, row: row(txn, accept, &audience) };
    let all = audience.union(|part| &part.any);
    let value = sets.owed_value();
    txn.insert(keys::expiry(sets.row.expires_at_ms, push), &());
    txn.insert(keys::payload(push), &accept.message);
    if let Some(IdempotencyKey { key, digest }) = &accept.idempotency {
        let row = IdempotencyRow { push, digest: *digest, audience: sets.row.audience_len };
        txn.insert(keys::idempotency(accept.message.app, key), &row);
    }
    let pending = if all.len() <= SMALL_AUDIENCE_MAX as u64 {
        let targets = small::accept(txn, push, &all, &qos0.0, value)?;
        let pending = small::in_state(&targets, State::Pending);
        sets.row.audience = AudienceRow::Small(targets);
        pending
    } else {
        sets.row.audience = AudienceRow::Broad(broad::accept(txn, push, audience, value));
        all
    };
    sets.close(txn);
    Ok(pending)
}

fn row(txn: &Txn<'_>, accept: &AcceptPush, audience: &Resolved) -> PushRow {
    PushRow {
        app: accept.message.app,
        kind: accept.message.kind,
        accepted_at_ms: txn.now_ms(),
        expires_at_ms: txn.now_ms().saturating_add(accept.ttl_ms),
        audience_len: audience.len(),
        withdrawn: None,
        settled_at_ms: None,
        idempotency: accept.idempotency.as_ref().map(|key| key.key.clone()),
        audience: AudienceRow::Small(Vec::new()),
    }
}
