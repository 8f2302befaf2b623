//! Wills (MQTT section 3.1.2.5): each lies with its session until its connection ends in order, or it is published.
//!
//! ```text
//!            connection lost                 delay over, session over
//!  Held ─────────────────────► Due(time) ────────────────────────────► published
//!   │    no delay, or the session ends now                                 ▲
//!   ├──────────────────────────────────────────────────────────────────────┘
//!   └─► discarded: DISCONNECT, or another connection resumes the session before the delay is over
//! ```

use cluster_proto::{TerminalNo, Will, limits::PUSH_TTL_MAX};

use super::{
    accept, apps,
    db::Read as _,
    error::StoreError,
    keys,
    resolve::{self, About},
    retained::{self, Live},
    txn::Txn,
    value::{SessionRow, WillState},
};
use crate::command::PushOptions;

/// The will of a new connection, in place of whatever there is. The caller writes the session's row.
pub(crate) fn set(txn: &mut Txn<'_>, no: TerminalNo, session: &mut SessionRow, will: Option<&Will>) {
    discard(txn, no, session);
    if let Some(will) = will {
        txn.put(keys::will(no), will);
        session.will = WillState::Held;
    }
}

/// [MQTT-3.14.4-3]. The caller writes the session's row.
pub(crate) fn discard(txn: &mut Txn<'_>, no: TerminalNo, session: &mut SessionRow) {
    if let WillState::Due(at_ms) = session.will {
        txn.delete(keys::will_due(at_ms, no));
    }
    if session.will != WillState::None {
        txn.delete(keys::will(no));
        session.will = WillState::None;
    }
}

/// Takes the will out, to publish it. The caller writes the session's row.
pub(crate) fn take(
    txn: &mut Txn<'_>,
    no: TerminalNo,
    session: &mut SessionRow,
) -> Result<Option<Will>, StoreError> {
    if session.will == WillState::None {
        return Ok(None);
    }
    let will = txn.read(&keys::will(no))?;
    discard(txn, no, session);
    Ok(will)
}

/// The connection was lost and the session outlives it by `expiry_s`: answers the will if it is published now
/// ([MQTT-3.1.2-8]), else it waits, for its delay or for [`publish_due`]. The caller writes the session's row.
pub(crate) fn lost(
    txn: &mut Txn<'_>,
    no: TerminalNo,
    session: &mut SessionRow,
    expiry_s: u32,
    may_publish: bool,
) -> Result<Option<Will>, StoreError> {
    if session.will != WillState::Held {
        return Ok(None);
    }
    let Some(will) = txn.read::<Will>(&keys::will(no))? else { return Ok(None) };
    let delay_s = will.delay_s.min(expiry_s);
    if delay_s == 0 && may_publish {
        discard(txn, no, session);
        return Ok(Some(will));
    }
    let at_ms = txn.now_ms().saturating_add(u64::from(delay_s) * 1000);
    txn.put(keys::will_due(at_ms, no), &());
    session.will = WillState::Due(at_ms);
    Ok(None)
}

/// Another connection resumes the session: answers the will of the one before if it is published all the same. It is
/// discarded if its delay is not over ([MQTT-3.1.3-9]). The caller writes the session's row.
pub(crate) fn replaced(
    txn: &mut Txn<'_>,
    no: TerminalNo,
    session: &mut SessionRow,
) -> Result<Option<Will>, StoreError> {
    let now_ms = txn.now_ms();
    let is_due = match session.will {
        WillState::None => false,
        WillState::Held => txn.read::<Will>(&keys::will(no))?.is_some_and(|will| will.delay_s == 0),
        WillState::Due(at_ms) => at_ms <= now_ms,
    };
    if is_due {
        return take(txn, no, session);
    }
    discard(txn, no, session);
    Ok(None)
}

/// Publishes wills whose delay is over, at most `limit`.
pub(crate) fn publish_due(txn: &mut Txn<'_>, limit: u32) -> Result<(), StoreError> {
    let mut due = Vec::new();
    if limit > 0 {
        let end = keys::will_due(txn.now_ms().saturating_add(1), TerminalNo(0));
        txn.scan(&keys::wills_due(), end, &mut |key, _| {
            due.extend(keys::no_of(key));
            Ok(due.len() < limit as usize)
        })?;
    }
    for no in due {
        let Some(mut session) = txn.read::<SessionRow>(&keys::session(no))? else {
            return Err(StoreError::damaged("session of a will", &keys::session(no)));
        };
        let will = take(txn, no, &mut session)?;
        txn.put(keys::session(no), &session);
        publish(txn, will)?;
    }
    Ok(())
}

/// Publishes wills: pushes to whoever subscribes to their topics. One that cannot be retained, for the app retains the
/// most it may, is published all the same.
pub(crate) fn publish(txn: &mut Txn<'_>, wills: impl IntoIterator<Item = Will>) -> Result<(), StoreError> {
    for Will { message, ttl_ms, .. } in wills {
        if apps::find(txn, message.app)?.is_none() {
            continue;
        }
        let audience = resolve::subscribers(txn, &About::message(&message, txn.now_ms()))?;
        if message.retain
            && let Err(refusal) = retained::keep(txn, &message, ttl_ms, Live::Audience, 0)?
        {
            tracing::warn!(app = %message.app, topic = message.topic, %refusal, "a will is not retained");
        }
        let ttl_ms = ttl_ms.unwrap_or(txn.options.will_ttl_default_ms).min(PUSH_TTL_MAX.as_millis() as u64);
        accept::push(txn, message, audience, ttl_ms, PushOptions::default(), None, false)?;
    }
    Ok(())
}
