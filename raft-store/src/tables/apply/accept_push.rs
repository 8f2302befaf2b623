//! Accepting a push, unless it was accepted before: the same call of a back-end, or the same QoS 2 PUBLISH.

use cluster_proto::{
    AppId,
    link::{Inbound, Origin},
};

use crate::{
    Applied, Refusal,
    command::{AcceptPush, IdempotencyKey},
    tables::{
        accept, apps,
        error::StoreError,
        exchanges, keys,
        resolve::{self, About},
        retained::{self, Live},
        sessions,
        txn::Txn,
        value::{IdempotencyRow, InboundRow},
    },
};

pub(super) fn accept(
    txn: &mut Txn<'_>,
    origin: Option<&Origin>,
    accept: AcceptPush,
) -> Result<Applied, StoreError> {
    let AcceptPush { mut message, audience, online, ttl_ms, options, retained_ttl_ms, exchange, idempotency } =
        accept;
    let Some(app) = apps::find(txn, message.app)? else {
        return Ok(Applied::Refused(Refusal::UnknownApp));
    };
    if let Some(answer) = answered_before(txn, message.app, idempotency.as_ref())? {
        return Ok(answer);
    }
    if let Some(exchange) = &exchange
        && let Some(answer) = taken_before(txn, origin, exchange)?
    {
        return Ok(answer);
    }
    // Whom a push is owed to follows from its audience, whoever wrote the message.
    message.kind = audience.kind();
    let about = About { online: online.as_ref(), ..About::message(&message, txn.now_ms()) };
    let audience = match resolve::audience(txn, &audience, &about)? {
        Ok(audience) => audience,
        Err(refusal) => return Ok(Applied::Refused(refusal)),
    };
    let len = audience.len();
    let by_back_end = origin.is_none() || idempotency.is_some();
    let size = if accept::is_kept(&message, len, by_back_end) { message.size() as u64 } else { 0 };
    if size > 0
        && let Err(refusal) = apps::check_stored(txn, message.app, &app, size, None)?
    {
        return Ok(Applied::Refused(refusal));
    }
    if message.retain
        && let Err(refusal) = retained::keep(txn, &message, retained_ttl_ms, Live::Audience, size)?
    {
        return Ok(Applied::Refused(refusal));
    }
    let push = accept::push(txn, message, audience, ttl_ms, options, idempotency.as_ref(), by_back_end)?;
    if let Some(exchange) = &exchange {
        exchanges::accept(txn, exchange, &InboundRow { push, audience: len });
    }
    Ok(Applied::Accepted { push, audience: len, repeated: false })
}

/// PUBREL: the packet id is free for another message.
pub(super) fn release(
    txn: &mut Txn<'_>,
    origin: Option<&Origin>,
    exchange: &Inbound,
) -> Result<Applied, StoreError> {
    // Only edges have connections.
    if let Some(origin) = origin {
        exchanges::release(txn, origin, exchange)?;
    }
    Ok(Applied::Done)
}

fn answered_before(
    txn: &Txn<'_>,
    app: AppId,
    idempotency: Option<&IdempotencyKey>,
) -> Result<Option<Applied>, StoreError> {
    let Some(key) = idempotency else { return Ok(None) };
    let first = txn.read::<IdempotencyRow>(&keys::idempotency(app, &key.key))?;
    Ok(first.map(|first| {
        if first.digest != key.digest {
            return Applied::Refused(Refusal::KeyReused);
        }
        Applied::Accepted { push: first.push, audience: first.audience, repeated: true }
    }))
}

/// A QoS 2 PUBLISH is taken once ([MQTT-4.3.3-10]). One of a connection that does not hold the session any more is
/// refused: its terminal sends it again over the connection that does, and may be past its PUBREL there already.
fn taken_before(
    txn: &Txn<'_>,
    origin: Option<&Origin>,
    exchange: &Inbound,
) -> Result<Option<Applied>, StoreError> {
    let held = match origin {
        Some(origin) => sessions::held(txn, exchange.no, origin, exchange.connection)?,
        None => None,
    };
    if held.is_none() {
        return Ok(Some(Applied::Refused(Refusal::Stale)));
    }
    let first = exchanges::accepted(txn, exchange)?;
    Ok(first.map(|InboundRow { push, audience }| Applied::Accepted { push, audience, repeated: true }))
}
