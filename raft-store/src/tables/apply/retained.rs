//! Retained messages without a push.

use cluster_proto::Message;

use super::app_exists;
use crate::{
    Applied, Refusal,
    tables::{
        error::StoreError,
        retained::{self, Live},
        txn::Txn,
    },
};

pub(super) fn retain(
    txn: &mut Txn<'_>,
    message: &Message,
    ttl_ms: Option<u64>,
) -> Result<Applied, StoreError> {
    if !app_exists(txn, message.app)? {
        return Ok(Applied::Refused(Refusal::UnknownApp));
    }
    Ok(match retained::keep(txn, message, ttl_ms, Live::Relay, 0)? {
        Ok(()) => Applied::Done,
        Err(refusal) => Applied::Refused(refusal),
    })
}

pub(super) fn expire(txn: &mut Txn<'_>, limit: u32) -> Result<Applied, StoreError> {
    retained::expire(txn, limit)?;
    Ok(Applied::Done)
}
