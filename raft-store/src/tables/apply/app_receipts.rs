//! What applications on terminals report of pushes.

use cluster_proto::{
    AppId, PushId,
    link::{AppReceipts, PushName},
};
use roaring::RoaringBitmap;

use crate::{
    Applied,
    tables::{error::StoreError, keys, push::PushSets, txn::Txn, value::IdempotencyRow},
};

/// What names no push of the app, or one that is not for this terminal, changes nothing.
pub(super) fn record(txn: &mut Txn<'_>, receipts: &AppReceipts) -> Result<Applied, StoreError> {
    let terminal = RoaringBitmap::from_iter([receipts.no.0]);
    let mut known = 0;
    for name in &receipts.pushes {
        let Some(push) = named(txn, receipts.app, name)? else { continue };
        let push = PushSets::open(txn, push)?.filter(|push| push.row.app == receipts.app);
        let Some(mut push) = push else { continue };
        let reported = push.report(txn, &terminal, receipts.what)?;
        known += reported.known;
        if !reported.gained.is_empty() {
            push.close(txn)?;
        }
    }
    Ok(Applied::Reported { known })
}

fn named(txn: &Txn<'_>, app: AppId, name: &PushName) -> Result<Option<PushId>, StoreError> {
    match name {
        PushName::Id(push) => Ok(Some(*push)),
        PushName::Key(key) => {
            Ok(txn.read::<IdempotencyRow>(&keys::idempotency(app, key))?.map(|row| row.push))
        }
    }
}
