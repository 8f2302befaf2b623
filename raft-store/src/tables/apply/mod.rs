//! Apply: what each command does to the tables. A pure function of the command, the entry's time and the tables.
//!
//! A refused command changes nothing, except that it uses up the sequence its edge gave it, and that this is remembered
//! as refused: the answer may be lost.

mod accept_push;
mod app_receipts;
mod apps;
mod edges;
mod pushes;
mod receipts;
mod removal;
mod retained;
mod sessions;
mod terminals;
mod webhooks;

use cluster_proto::{AppId, TerminalNo, link::Origin};

pub(super) use self::apps::create_default_app;
use super::{
    apps as tables_apps, error::StoreError, exchanges, records::EntryPosition, refusals, subscriptions,
    txn::Txn, value::SessionRow,
};
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
    txn.finish_entry(position.term, position.index)?;
    Ok(results)
}

fn command(txn: &mut Txn<'_>, command: Command) -> Result<Applied, StoreError> {
    txn.head.commands += 1;
    let Command { origin, body } = command;
    let origin = origin.as_ref();
    if let Some(origin) = origin
        && let Some(answer) = edges::admit(txn, origin)?
    {
        return Ok(answer);
    }
    let is_used_up = body == CommandBody::Nothing;
    let answer = self::body(txn, origin, body)?;
    if let Some(origin) = origin
        && (is_used_up || matches!(answer, Applied::Refused(_)))
    {
        refusals::remember(txn, origin)?;
    }
    Ok(answer)
}

fn body(txn: &mut Txn<'_>, origin: Option<&Origin>, body: CommandBody) -> Result<Applied, StoreError> {
    match body {
        CommandBody::CreateApp { name, quotas } => apps::create(txn, name, quotas),
        CommandBody::InstallKey(key) => apps::install_key(txn, &key),
        CommandBody::RegisterTerminals { app, terminals } => terminals::register(txn, app, &terminals),
        CommandBody::Revoke { app, terminal, issued_until } => {
            terminals::revoke(txn, app, terminal, issued_until)
        }
        CommandBody::EdgeStarted { edge, incarnation } => edges::started(txn, edge, incarnation),
        CommandBody::EdgeEnded { edge, incarnation } => edges::ended(txn, edge, incarnation),
        CommandBody::OpenSession(open) => sessions::open(txn, &open),
        CommandBody::DetachSession { holder, expiry_s, will, unacknowledged } => {
            sessions::detach(txn, &holder, expiry_s, will, &unacknowledged)
        }
        CommandBody::Subscribe { holder, subscriptions } => sessions::subscribe(txn, &holder, &subscriptions),
        CommandBody::Unsubscribe { holder, filters } => sessions::unsubscribe(txn, &holder, &filters),
        CommandBody::ExpireSessions { limit } => sessions::expire(txn, limit),
        CommandBody::AcceptPush(push) => accept_push::accept(txn, origin, push),
        CommandBody::RecordReceipts { items, steps } => receipts::record(txn, origin, &items, &steps),
        CommandBody::ExpirePushes { pushes } => pushes::expire(txn, &pushes),
        CommandBody::CancelPush { app, push, in_flight } => pushes::cancel(txn, app, push, &in_flight),
        CommandBody::PurgePushes { settled_before_ms, limit } => pushes::purge(txn, settled_before_ms, limit),
        CommandBody::Retain { message, ttl_ms } => retained::retain(txn, &message, ttl_ms),
        CommandBody::Release(exchange) => accept_push::release(txn, origin, &exchange),
        CommandBody::PublishWills { limit } => sessions::publish_wills(txn, limit),
        CommandBody::ExpireRetained { limit } => retained::expire(txn, limit),
        CommandBody::Nothing => Ok(Applied::Done),
        CommandBody::Collapse { by, pushes, released, next } => {
            pushes::collapse(txn, by, &pushes, released, next)
        }
        CommandBody::ReleasePushes { limit } => pushes::release(txn, limit),
        CommandBody::HoldPush { app, push } => pushes::hold(txn, app, push),
        CommandBody::ResumePush { app, push } => pushes::resume(txn, app, push),
        CommandBody::PurgeReceipts { before_ms, bytes_max, limit } => {
            receipts::purge(txn, before_ms, bytes_max, limit)
        }
        CommandBody::SetWebhook { app, webhook, from } => webhooks::set(txn, app, webhook, from),
        CommandBody::RemoveWebhook { app } => webhooks::remove(txn, app),
        CommandBody::AdvanceWebhook { app, generation, place, is_gone } => {
            webhooks::advance(txn, app, generation, place, is_gone)
        }
        CommandBody::SetQuotas { app, change } => apps::set_quotas(txn, app, &change),
        CommandBody::DeleteApp { app } => apps::delete(txn, app),
        CommandBody::RemoveApp { app, limit } => removal::step(txn, app, limit),
        CommandBody::UpdateTerminals { app, terminals, change } => {
            terminals::change_labels(txn, app, &terminals, &change)
        }
        CommandBody::DeleteTerminals { app, terminals } => terminals::delete(txn, app, &terminals),
        CommandBody::RecordSeen { day, terminals } => terminals::record_seen(txn, day, &terminals),
        CommandBody::RecordAppReceipts(receipts) => app_receipts::record(txn, &receipts),
    }
}

fn app_exists(txn: &Txn<'_>, app: AppId) -> Result<bool, StoreError> {
    Ok(tables_apps::find(txn, app)?.is_some())
}

/// The answer to CONNECT where a session goes on, with all it goes on with.
fn opened(txn: &Txn<'_>, no: TerminalNo, row: &SessionRow) -> Result<Applied, StoreError> {
    Ok(Applied::Session {
        no: Some(no),
        session: Some(row.session),
        present: row.present,
        expiry_s: row.expiry_s,
        subscriptions: subscriptions::list(txn, no)?,
        outbound: exchanges::outbound(txn, no)?,
        inbound: exchanges::inbound(txn, no)?,
        index: txn.head.commands,
    })
}

/// The answer to a change of subscriptions, and to CONNECT where a session begins.
fn changed(txn: &Txn<'_>, no: TerminalNo, row: &SessionRow) -> Applied {
    Applied::Session {
        no: Some(no),
        session: Some(row.session),
        present: row.present,
        expiry_s: row.expiry_s,
        subscriptions: Vec::new(),
        outbound: Vec::new(),
        inbound: Vec::new(),
        index: txn.head.commands,
    }
}

/// The answer where there is no session. A number lent without one is of no use to anybody.
fn no_session(txn: &Txn<'_>, no: Option<TerminalNo>) -> Applied {
    Applied::Session {
        no: no.filter(|no| no.is_registered()),
        session: None,
        present: false,
        expiry_s: 0,
        subscriptions: Vec::new(),
        outbound: Vec::new(),
        inbound: Vec::new(),
        index: txn.head.commands,
    }
}
