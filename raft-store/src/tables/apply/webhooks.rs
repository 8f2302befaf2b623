//! Webhooks: where receipts are posted to, and how far that is.

use cluster_proto::AppId;

use super::app_exists;
use crate::{
    Applied, Refusal,
    command::Webhook,
    receipts::ReceiptCursor,
    tables::{error::StoreError, keys, txn::Txn, value::WebhookRow},
};

pub(super) fn set(
    txn: &mut Txn<'_>,
    app: AppId,
    mut webhook: Webhook,
    from: Option<ReceiptCursor>,
) -> Result<Applied, StoreError> {
    if !app_exists(txn, app)? {
        return Ok(Applied::Refused(Refusal::UnknownApp));
    }
    let before = txn.read::<WebhookRow>(&keys::webhook(app))?;
    if webhook.secret.is_empty() {
        let Some(before) = &before else { return Ok(Applied::Refused(Refusal::NoWebhook)) };
        webhook.secret = before.webhook.secret.clone();
    }
    // What this entry does itself is not of interest to a new one; `head.index` is still that of the entry before.
    let now = ReceiptCursor::deltas(app, txn.head.index + 2, 0);
    let place = match (from, &before) {
        (Some(from), _) => Some(from),
        (None, Some(_)) => None,
        (None, None) => Some(now),
    };
    let (generation, set_at_ms) = (txn.head.commands, txn.now_ms());
    txn.put(keys::webhook(app), &WebhookRow { webhook, generation, set_at_ms, is_gone: false });
    if let Some(place) = place {
        txn.put(keys::webhook_place(app), &place);
    }
    Ok(Applied::Done)
}

pub(super) fn remove(txn: &mut Txn<'_>, app: AppId) -> Result<Applied, StoreError> {
    if txn.read::<WebhookRow>(&keys::webhook(app))?.is_some() {
        txn.delete(keys::webhook(app));
        txn.delete(keys::webhook_place(app));
    }
    Ok(Applied::Done)
}

pub(super) fn advance(
    txn: &mut Txn<'_>,
    app: AppId,
    generation: u64,
    place: ReceiptCursor,
    is_gone: bool,
) -> Result<Applied, StoreError> {
    let row = txn.read::<WebhookRow>(&keys::webhook(app))?;
    let Some(row) = row.filter(|row| row.generation == generation) else { return Ok(Applied::Done) };
    txn.put(keys::webhook_place(app), &place);
    if is_gone && !row.is_gone {
        txn.put(keys::webhook(app), &WebhookRow { is_gone, ..row });
    }
    Ok(Applied::Done)
}
