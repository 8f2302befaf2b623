//! Apps and signing keys.

use cluster_proto::AppId;

use crate::{
    Applied, Effect, Refusal,
    command::{QuotaChange, Quotas, SigningKey},
    tables::{
        apps,
        db::Read as _,
        error::StoreError,
        keys::{self, Key},
        txn::Txn,
        value::{AppRow, Head, Removal, Stored as _},
    },
};

/// What is there before the first command: the app every cluster has.
pub(in crate::tables) fn create_default_app(put: &mut dyn FnMut(Key, Vec<u8>)) -> Head {
    let name = "default".to_owned();
    put(keys::app_name(&name), AppId::DEFAULT.encode());
    let row = AppRow { name, revoked_until: 0, quotas: Quotas::default(), removal: None };
    put(keys::app(AppId::DEFAULT), row.encode());
    Head { last_app: AppId::DEFAULT.0, oldest_push: 1, ..Head::default() }
}

pub(super) fn create(txn: &mut Txn<'_>, name: String, quotas: Quotas) -> Result<Applied, StoreError> {
    let by_name = keys::app_name(&name);
    if let Some(app) = txn.read::<AppId>(&by_name)? {
        return Ok(match apps::find(txn, app)? {
            Some(_) => Applied::App(app),
            None => Applied::Refused(Refusal::AppBeingRemoved),
        });
    }
    txn.head.last_app += 1;
    let app = AppId(txn.head.last_app);
    txn.insert(by_name, &app);
    txn.insert(keys::app(app), &AppRow { name, revoked_until: 0, quotas, removal: None });
    txn.effects.push(Effect::AppsChanged);
    Ok(Applied::App(app))
}

pub(super) fn set_quotas(txn: &mut Txn<'_>, app: AppId, change: &QuotaChange) -> Result<Applied, StoreError> {
    let Some(mut row) = apps::find(txn, app)? else { return Ok(Applied::Refused(Refusal::UnknownApp)) };
    row.quotas = row.quotas.changed(change);
    txn.put(keys::app(app), &row);
    txn.effects.push(Effect::AppsChanged);
    Ok(Applied::Done)
}

/// From now on the app is not found: what is of it is removed step by step ([`super::removal`]), and its name and its
/// row go last. Its number is never given again, so that nothing issued for it lets anybody in.
pub(super) fn delete(txn: &mut Txn<'_>, app: AppId) -> Result<Applied, StoreError> {
    if app == AppId::DEFAULT {
        return Ok(Applied::Refused(Refusal::DefaultApp));
    }
    let Some(mut row) = apps::find(txn, app)? else { return Ok(Applied::Refused(Refusal::UnknownApp)) };
    row.removal = Some(Removal::Terminals);
    txn.put(keys::app(app), &row);
    txn.effects.push(Effect::Revoked { app, terminal: None, issued_until: u64::MAX });
    txn.effects.push(Effect::AppsChanged);
    Ok(Applied::Done)
}

pub(super) fn install_key(txn: &mut Txn<'_>, key: &SigningKey) -> Result<Applied, StoreError> {
    let mut is_known = false;
    txn.scan_prefix(&keys::signing_keys(), &mut |at, bytes| {
        is_known |= SigningKey::decode(at, bytes)?.kid == key.kid;
        Ok(!is_known)
    })?;
    if !is_known {
        txn.head.signing_keys += 1;
        txn.insert(keys::signing_key(txn.head.signing_keys), key);
        txn.effects.push(Effect::KeysChanged);
    }
    Ok(Applied::Done)
}
