//! Apply: what each command does to the tables. A pure function of the command, the entry's time and the tables.

use cluster_proto::AppId;

use super::{
    error::StoreError,
    keys::{self, Key},
    records::EntryPosition,
    txn::Txn,
    value::{AppRow, Head, Stored as _},
};
use crate::{Applied, Command, CommandBatch, CommandBody};

/// Applies one entry.
pub(super) fn entry(
    txn: &mut Txn<'_>,
    position: EntryPosition,
    batch: Option<CommandBatch>,
) -> Result<Vec<Applied>, StoreError> {
    let mut results = Vec::new();
    if let Some(batch) = batch {
        // Leaders never propose an earlier time; should one, time still does not go back.
        txn.head.at_ms = txn.head.at_ms.max(batch.at_ms);
        for command in batch.commands {
            results.push(self::command(txn, command)?);
        }
    }
    txn.finish_entry(position.term, position.index);
    Ok(results)
}

fn command(_txn: &mut Txn<'_>, command: Command) -> Result<Applied, StoreError> {
    match command.body {
        CommandBody::CreateApp { .. } => Ok(Applied::Done),
        _ => Ok(Applied::Done),
    }
}

/// What is there before the first command: the app every cluster has.
pub(super) fn create_default_app(put: &mut dyn FnMut(Key, Vec<u8>)) -> Head {
    let name = "default".to_owned();
    put(keys::app_name(&name), AppId::DEFAULT.encode());
    put(keys::app(AppId::DEFAULT), AppRow { name, revoked_until: 0 }.encode());
    Head { last_app: AppId::DEFAULT.0, ..Head::default() }
}
