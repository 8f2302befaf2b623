//! Apps and signing keys.

use cluster_proto::AppId;

use crate::{
    Applied, Effect,
    command::SigningKey,
    tables::{
        db::Read as _,
        error::StoreError,
        keys::{self, Key},
        txn::Txn,
        value::{AppRow, Head, Stored as _},
    },
};

/// What is there before the first command: the app every cluster has.
pub(in crate::tables) fn create_default_app(put: &mut dyn FnMut(Key, Vec<u8>)) -> Head {
    let name = "default".to_owned();
    put(keys::app_name(&name), AppId::DEFAULT.encode());
    put(keys::app(AppId::DEFAULT), AppRow { name, revoked_until: 0 }.encode());
    Head { last_app: AppId::DEFAULT.0, oldest_push: 1, ..Head::default() }
}

pub(super) fn create(txn: &mut Txn<'_>, name: String) -> Result<Applied, StoreError> {
    let by_name = keys::app_name(&name);
    if let Some(app) = txn.read::<AppId>(&by_name)? {
        return Ok(Applied::App(app));
    }
    txn.head.last_app += 1;
    let app = AppId(txn.head.last_app);
    txn.insert(by_name, &app);
    txn.insert(keys::app(app), &AppRow { name, revoked_until: 0 });
    txn.effects.push(Effect::AppsChanged);
    Ok(Applied::App(app))
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
