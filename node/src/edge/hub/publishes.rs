//! What terminals publish, on its way to the leader.

use std::collections::HashMap;

use cluster_proto::{
    Message, TerminalId,
    link::{AppReceipts, Inbound, Publish, PublishBody, PublishOutcome, RefuseReason, Transient},
};
use fabric_core::mqtt::{MessageHandle as _, RequestNo};
use metrics::counter;

use super::Hub;
use crate::edge::{
    codec::Outgoing,
    messages::{ConnId, ToHub, ToShard},
    metrics as names,
};

/// Bytes of publishes that wait for their commit; beyond, PUBLISH is refused (quota exceeded), and a retained one with
/// QoS 0 is not kept.
const PUBLISHES_LEN_MAX: usize = 256 * 1024 * 1024;

/// A publish that waits for its commit.
#[derive(Debug)]
pub(super) struct PendingPublish {
    conn: ConnId,
    what: What,
    size: usize,
}

/// What its commit means to the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    /// The session waits for it.
    Asked(RequestNo),
    /// A retained message with QoS 0: nobody waits, but what comes behind it does.
    Retain,
    /// A report of an application, and the request of one that waits.
    AppReceipts(Option<RequestNo>),
}

/// Connections whose retained QoS 0 messages wait for their commit, and what they sent behind them.
///
/// Such a message is answered by nothing, so a terminal may subscribe right behind it, and then it must find it
/// ([MQTT-3.3.1-5]: the order of one connection). Publishes and session requests reach the leader on streams of their
/// own; so requests that ask for retained messages wait here. Bounded: a session has few requests under way.
#[derive(Debug, Default)]
pub(super) struct Retains(HashMap<ConnId, Retaining>);

#[derive(Debug, Default)]
struct Retaining {
    uncommitted: usize,
    held: Vec<ToHub>,
}

impl Retains {
    /// Gives the message back if nothing is in its way.
    pub(super) fn hold(&mut self, conn: ConnId, message: ToHub) -> Option<ToHub> {
        match self.0.get_mut(&conn) {
            Some(retaining) => retaining.held.push(message),
            None => return Some(message),
        }
        None
    }

    fn begin(&mut self, conn: ConnId) {
        self.0.entry(conn).or_default().uncommitted += 1;
    }

    /// One is committed (or refused); what the last one held up.
    fn end(&mut self, conn: ConnId) -> Vec<ToHub> {
        let Some(retaining) = self.0.get_mut(&conn) else { return Vec::new() };
        retaining.uncommitted -= 1;
        if retaining.uncommitted > 0 {
            return Vec::new();
        }
        self.0.remove(&conn).map(|retaining| retaining.held).unwrap_or_default()
    }

    pub(super) fn forget(&mut self, conn: ConnId) {
        self.0.remove(&conn);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

impl Hub {
    pub(super) fn publish(
        &mut self,
        conn: ConnId,
        request: RequestNo,
        terminal: TerminalId,
        message: Message,
        ttl_ms: Option<u64>,
        exchange: Option<Inbound>,
    ) {
        let size = message.size();
        let body = PublishBody::Push { message, ttl_ms, exchange };
        if !self.push_publish(PendingPublish { conn, what: What::Asked(request), size }, terminal, body) {
            let refused = Err(RefuseReason::Quota);
            self.ports.push(conn.shard, ToShard::Published(conn, request, refused));
        }
    }

    pub(super) fn retain(
        &mut self,
        conn: ConnId,
        terminal: TerminalId,
        message: &Outgoing,
        expires_at_ms: Option<u64>,
    ) {
        let message = message.message().clone();
        let size = message.size();
        // One that has expired already still replaces what was kept before it.
        let ttl_ms = expires_at_ms.map(|expires| expires.saturating_sub(self.now_ms));
        let body = PublishBody::Retain { message, ttl_ms };
        if self.push_publish(PendingPublish { conn, what: What::Retain, size }, terminal, body) {
            self.retains.begin(conn);
        } else {
            counter!(names::RETAIN_REFUSED).increment(1);
        }
    }

    pub(super) fn app_receipts(
        &mut self,
        conn: ConnId,
        request: Option<RequestNo>,
        terminal: TerminalId,
        receipts: AppReceipts,
    ) {
        let size = receipts.size();
        let pending = PendingPublish { conn, what: What::AppReceipts(request), size };
        if self.push_publish(pending, terminal, PublishBody::AppReceipts(receipts)) {
            return;
        }
        counter!(names::APP_RECEIPTS, "result" => "ignored").increment(1);
        if let Some(request) = request {
            self.ports.push(conn.shard, ToShard::Published(conn, request, Err(RefuseReason::Quota)));
        }
    }

    /// Says whether there is room.
    fn push_publish(&mut self, pending: PendingPublish, terminal: TerminalId, body: PublishBody) -> bool {
        if self.publishes_len + pending.size > PUBLISHES_LEN_MAX {
            return false;
        }
        let Some(seq) = self.link.publish(|seq| Publish { seq, terminal, body }) else { return false };
        self.publishes_len += pending.size;
        self.publishes.insert(seq, pending);
        true
    }

    pub(super) fn release(
        &mut self,
        conn: ConnId,
        request: RequestNo,
        terminal: TerminalId,
        exchange: Inbound,
    ) {
        let body = PublishBody::Release(exchange);
        let seq = self.link.publish_anyway(|seq| Publish { seq, terminal, body });
        self.publishes.insert(seq, PendingPublish { conn, what: What::Asked(request), size: 0 });
    }

    pub(super) fn answer_publish(&mut self, seq: u64, result: Option<Result<PublishOutcome, RefuseReason>>) {
        let Some(PendingPublish { conn, what, size }) = self.publishes.remove(&seq) else { return };
        self.publishes_len -= size;
        // Committed before the leader changed: whether anybody subscribes is not known any more.
        let result = result.unwrap_or(Ok(PublishOutcome::Accepted));
        let request = match what {
            What::Asked(request) => Some(request),
            What::AppReceipts(request) => {
                let counted = result == Ok(PublishOutcome::Accepted);
                counter!(names::APP_RECEIPTS, "result" => if counted { "counted" } else { "ignored" })
                    .increment(1);
                request
            }
            What::Retain => {
                if result.is_err() {
                    counter!(names::RETAIN_REFUSED).increment(1);
                }
                self.retains.end(conn).into_iter().for_each(|message| self.handle_ordered(message));
                None
            }
        };
        if let Some(request) = request {
            self.ports.push(conn.shard, ToShard::Published(conn, request, result));
        }
    }

    // ------------------------------------------------------------ QoS 0

    pub(super) fn forward(&mut self, message: &Outgoing, expires_at_ms: Option<u64>) {
        let ttl_ms = expires_at_ms.map(|expires| expires.saturating_sub(self.now_ms));
        if ttl_ms == Some(0) {
            return;
        }
        let Some(streams) = self.streams.as_ref().filter(|_| self.link.is_live()) else {
            return self.drop_transient("no-leader");
        };
        let message = message.message();
        let body = match postcard::to_allocvec(message) {
            Ok(body) => body.into(),
            Err(error) => return tracing::warn!("a QoS 0 message cannot be forwarded: {error}"),
        };
        let (origin, app, topic) = (self.shared.node, message.app, message.topic.clone());
        let transient = Transient { origin, app, topic, ttl_ms, members: None, body };
        if streams.transient.try_send(transient).is_err() {
            self.drop_transient("hub-full");
        }
    }

    fn drop_transient(&mut self, reason: &'static str) {
        counter!(names::TRANSIENT_DROPPED, "reason" => reason).increment(1);
        self.publishes_dropped += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conn(connection: u64) -> ConnId {
        ConnId { shard: 0, slot: 0, connection }
    }

    #[test]
    fn what_comes_behind_a_retained_message_waits_for_its_commit_and_keeps_its_order() {
        let mut retains = Retains::default();
        retains.begin(conn(1));
        retains.begin(conn(1));
        assert!(retains.hold(conn(1), ToHub::AllClosed).is_none());
        assert!(retains.hold(conn(2), ToHub::AllClosed).is_some(), "another connection does not wait");
        assert!(retains.end(conn(1)).is_empty());
        assert_eq!(retains.end(conn(1)).len(), 1);
        assert!(retains.hold(conn(1), ToHub::AllClosed).is_some());
    }

    #[test]
    fn a_connection_that_is_gone_holds_nothing_up() {
        let mut retains = Retains::default();
        retains.begin(conn(1));
        retains.forget(conn(1));
        assert!(retains.end(conn(1)).is_empty());
    }
}
