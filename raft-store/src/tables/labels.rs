//! The indexes from tags and aliases to the terminals that have them.

use cluster_proto::{AppId, TerminalNo};

use super::{
    error::StoreError,
    keys::{self, Key},
    txn::Txn,
    value::Labels,
};

/// The labels of a registered terminal changed.
pub(crate) fn follow(
    txn: &mut Txn<'_>,
    app: AppId,
    no: TerminalNo,
    before: &Labels,
    after: &Labels,
) -> Result<(), StoreError> {
    let (before, after) = (rows(app, no, before), rows(app, no, after));
    for key in before.iter().filter(|key| !after.contains(key)) {
        txn.set_mut(key.clone())?.remove(no.0);
    }
    for key in after.iter().filter(|key| !before.contains(key)) {
        txn.set_mut(key.clone())?.insert(no.0);
    }
    Ok(())
}

/// The rows of the indexes that hold a terminal.
fn rows(app: AppId, no: TerminalNo, labels: &Labels) -> Vec<Key> {
    let tagged = labels.tags.iter().map(|(key, value)| keys::tagged_blocks(app, key, value));
    let aliased = labels.alias.iter().map(|alias| keys::aliased_blocks(app, alias));
    tagged.chain(aliased).map(|blocks| keys::in_block(blocks, no.block())).collect()
}
