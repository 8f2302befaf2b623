//! Apply: what each command does to the tables. A pure function of the command, the entry's time and the tables.
//!
//! A refused command changes nothing, except that it uses up the sequence its edge gave it: the edge was answered.

mod accept_push;
mod apps;
mod edges;
mod pushes;
mod receipts;
mod sessions;
mod terminals;

use cluster_proto::{AppId, TerminalNo, link::Subscription};

pub(super) use self::apps::create_default_app;
use super::{error::StoreError, keys, records::EntryPosition, txn::Txn, value::AppRow, value::SessionRow};
use crate::{Applied, Command, CommandBatch, CommandBody};

/// Applies one entry.
pub(super) fn entry(
    txn: &mut Txn<'_>,
    position: EntryPosition,
    batch: Option<CommandBatch>,
) -> Result<Vec<Applied>, StoreError> {
    debug_assert!(position.index > txn.head.index, "entries are applied in order, once");
    let mut results = Vec::new();
    if let Some(batch) = batch {
        // Leaders never propose an earlier time; should one, time still does not go back.
        txn.head.at_ms = txn.head.at_ms.max(batch.at_ms);
        results.reserve(batch.commands.len());
        for command in batch.commands {
            results.push(self::command(txn, command)?);
        }
    }
    txn.finish_entry(position.term, position.index);
    Ok(results)
}

fn command(txn: &mut Txn<'_>, command: Command) -> Result<Applied, StoreError> {
    if let Some(origin) = &command.origin
        && let Some(answer) = edges::admit(txn, origin)?
    {
        return Ok(answer);
    }
    match command.body {
        CommandBody::CreateApp { name } => apps::create(txn, name),
        CommandBody::InstallKey(key) => apps::install_key(txn, &key),
        CommandBody::RegisterTerminals { app, terminals } => terminals::register(txn, app, &terminals),
        CommandBody::Revoke { app, terminal, issued_until } => {
            terminals::revoke(txn, app, terminal, issued_until)
        }
        CommandBody::EdgeStarted { edge, incarnation } => edges::started(txn, edge, incarnation),
        CommandBody::EdgeEnded { edge, incarnation } => edges::ended(txn, edge, incarnation),
        CommandBody::OpenSession(open) => sessions::open(txn, &open),
        CommandBody::DetachSession { holder, expiry_s, .. } => sessions::detach(txn, &holder, expiry_s),
        CommandBody::Subscribe { holder, subscriptions } => sessions::subscribe(txn, &holder, &subscriptions),
        CommandBody::Unsubscribe { holder, filters } => sessions::unsubscribe(txn, &holder, &filters),
        CommandBody::ExpireSessions { limit } => sessions::expire(txn, limit),
        CommandBody::AcceptPush(push) => accept_push::accept(txn, push),
        CommandBody::RecordReceipts { items, .. } => receipts::record(txn, &items),
        CommandBody::ExpirePushes { pushes } => pushes::expire(txn, &pushes),
        CommandBody::CancelPush { app, push, in_flight } => pushes::cancel(txn, app, push, &in_flight),
        CommandBody::PurgePushes { settled_before_ms, limit } => pushes::purge(txn, settled_before_ms, limit),
        CommandBody::Retain { .. }
        | CommandBody::Release(_)
        | CommandBody::PublishWills { .. }
        | CommandBody::ExpireRetained { .. }
        | CommandBody::Nothing => Ok(Applied::Done),
    }
}

fn app_exists(txn: &Txn<'_>, app: AppId) -> Result<bool, StoreError> {
    Ok(txn.read::<AppRow>(&keys::app(app))?.is_some())
}

/// The answer to a session command.
fn session_answer(no: TerminalNo, row: &SessionRow, subscriptions: Vec<Subscription>) -> Applied {
    Applied::Session {
        no: Some(no),
        session: Some(row.session),
        present: row.present,
        expiry_s: row.expiry_s,
        subscriptions,
        inbound: Vec::new(),
        index: 0,
        outbound: Vec::new(),
    }
}

/// The answer where there is no session. A number lent without one is of no use to anybody.
fn no_session(no: Option<TerminalNo>) -> Applied {
    let no = no.filter(|no| no.is_registered());
    Applied::Session {
        no,
        session: None,
        present: false,
        expiry_s: 0,
        subscriptions: Vec::new(),
        inbound: Vec::new(),
        index: 0,
        outbound: Vec::new(),
    }
}
