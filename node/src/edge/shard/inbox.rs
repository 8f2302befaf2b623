//! What the hub and the other shards say.

use cluster_proto::{
    AppId, TerminalId,
    link::{OutboundStage, PublishOutcome, RefuseReason, SharedInFlight, UnbindReason},
};
use fabric_core::mqtt::{Changed, CloseCause, Matching, RequestNo};

use super::Shard;
use crate::edge::messages::{BoundPart, ConnId, LinkNo, RetainedPage, ShardReport, ToHub, ToShard};

/// Whether the shard goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    Continue,
    /// Take no more connections.
    StopListening,
    Stop,
}

impl Shard {
    pub(super) fn handle(&mut self, message: ToShard) -> Flow {
        match message {
            ToShard::Deliver(link, delivery) => self.deliver(link, delivery),
            ToShard::Payload(push, message) => self.payload(push, message),
            ToShard::Transient(message, expires_at_ms) => {
                self.show_all(&message, None, Matching::Any, expires_at_ms);
            }
            ToShard::TransientTo(message, expires_at_ms, members) => {
                self.show_members(&message, expires_at_ms, &members);
            }
            ToShard::Bound(conn, result) => self.bound(conn, result),
            ToShard::Changed(conn, request, result) => self.changed(conn, request, result),
            ToShard::Published(conn, request, result) => self.published(conn, request, result),
            ToShard::Recorded(conn, request) => self.recorded(conn, request),
            ToShard::Retained(conn, request, page) => self.retained(conn, request, page),
            ToShard::Close(conn, cause) => {
                if self.connection(conn.slot, conn.connection).is_some() {
                    self.with_session(conn.slot, |session, _, out| session.close(cause, out));
                }
            }
            ToShard::CloseAll(cause) => self.close_all(cause),
            ToShard::Revoked(app, terminal, issued_until) => self.revoked(app, terminal, issued_until),
            ToShard::Report(link) => self.report(link),
            ToShard::LinkLive(link) => self.link_live(link),
            ToShard::Leased => self.leased(),
            ToShard::LinkLost => self.link_lost(),
            ToShard::Drain => {
                self.slots().into_iter().for_each(|slot| self.send_away(slot));
                self.tell_hub(ToHub::AllClosed);
                return Flow::StopListening;
            }
            ToShard::Stop => return Flow::Stop,
        }
        Flow::Continue
    }

    // ------------------------------------------------------------ answers

    fn bound(&mut self, conn: ConnId, result: Result<Box<BoundPart>, RefuseReason>) {
        let Some(connection) = self.connection(conn.slot, conn.connection) else { return };
        let result = result.map(|part| *part);
        if let Ok(BoundPart { bound, holder, outbound }) = &result
            && connection.closing_until_ms.is_none()
        {
            connection.epoch = Some(bound.epoch);
            connection.holder = *holder;
            connection.no = bound.no;
            if let Some(no) = bound.no {
                self.by_no.insert(no, conn.slot);
            }
            let stages = bound.outbound.iter().map(|outbound| outbound.stage);
            for (queued, stage) in outbound.iter().zip(stages) {
                if queued.message.is_none() && stage != OutboundStage::Received {
                    self.await_payload(queued.push, conn.slot);
                }
            }
            self.counters.connects.increment(1);
        }
        let result = result.map(|BoundPart { bound, outbound, .. }| (bound, outbound));
        self.with_session(conn.slot, |session, at, out| session.handle_bound(at, result, out));
        if let Some(connection) = self.connection(conn.slot, conn.connection)
            && connection.session.is_live()
        {
            connection.counted = true;
            self.stats.connected += 1;
            self.stats.connects += 1;
        }
        self.read_on(conn.slot);
    }

    fn changed(&mut self, conn: ConnId, request: RequestNo, result: Result<Changed, RefuseReason>) {
        let Some(connection) = self.connection(conn.slot, conn.connection) else { return };
        if let Ok(Changed { no, .. }) = result
            && connection.closing_until_ms.is_none()
        {
            connection.no = Some(no);
            self.by_no.insert(no, conn.slot);
        }
        self.with_session(conn.slot, |session, at, out| session.handle_changed(at, request, result, out));
        self.read_on(conn.slot);
    }

    fn recorded(&mut self, conn: ConnId, request: RequestNo) {
        if self.connection(conn.slot, conn.connection).is_some() {
            self.with_session(conn.slot, |session, at, out| session.handle_recorded(at, request, out));
        }
    }

    fn retained(&mut self, conn: ConnId, request: RequestNo, page: Result<RetainedPage, RefuseReason>) {
        if self.connection(conn.slot, conn.connection).is_none() {
            return;
        }
        let page = page.map(|RetainedPage { messages, next }| (messages, next));
        self.with_session(conn.slot, |session, at, out| session.handle_retained(at, request, page, out));
    }

    fn published(&mut self, conn: ConnId, request: RequestNo, result: Result<PublishOutcome, RefuseReason>) {
        if self.connection(conn.slot, conn.connection).is_some() {
            self.with_session(conn.slot, |session, at, out| {
                session.handle_published(at, request, result, out)
            });
            self.read_on(conn.slot);
        }
    }

    // ------------------------------------------------------------ the link

    fn report(&mut self, link: LinkNo) {
        let mut report = ShardReport::default();
        for (slot, connection) in &self.connections {
            let Some(no) = connection.no.filter(|_| connection.session.is_live()) else { continue };
            let conn = ConnId { shard: self.index, slot: slot as u32, connection: connection.id };
            report.terminals.push((conn, connection.session.after()));
            for (push, group) in connection.session.in_flight() {
                match group {
                    Some(group) => report.shared.push(SharedInFlight { push, group, member: no }),
                    None => drop(report.in_flight.entry(push).or_default().insert(no)),
                }
            }
        }
        self.tell_hub(ToHub::Report(link, Box::new(report)));
    }

    fn link_live(&mut self, link: LinkNo) {
        self.link = link;
        for slot in self.slots() {
            self.with_session(slot, |session, at, out| {
                session.link_ready(out);
                if session.has_waiting() {
                    session.handle_writable(at, out);
                }
            });
        }
    }

    fn leased(&mut self) {
        for slot in self.slots() {
            self.with_session(slot, |session, at, out| {
                if session.has_waiting() {
                    session.handle_writable(at, out);
                }
            });
        }
    }

    fn link_lost(&mut self) {
        self.link = LinkNo::default();
        for (_, connection) in &mut self.connections {
            connection.session.link_lost();
        }
    }

    // ------------------------------------------------------------ closing

    fn close_all(&mut self, cause: CloseCause) {
        for slot in self.slots() {
            self.with_session(slot, |session, _, out| session.close(cause, out));
        }
        // In order behind the news of every connection's end.
        self.tell_hub(ToHub::AllClosed);
    }

    fn revoked(&mut self, app: AppId, terminal: Option<TerminalId>, issued_until: u64) {
        for slot in self.slots() {
            let Some(grant) = self.connections[slot as usize].session.grant() else { continue };
            let named = terminal.as_ref().is_none_or(|terminal| *terminal == grant.terminal);
            // Anonymous clients have no credential that could be void.
            let void = grant.credential_issued_at != 0 && grant.credential_issued_at <= issued_until;
            if grant.app == app && named && void {
                let cause = CloseCause::Unbound(UnbindReason::Revoked);
                self.with_session(slot, |session, _, out| session.close(cause, out));
            }
        }
        self.authenticator.revoke(app, terminal, issued_until);
    }

    fn slots(&self) -> Vec<u32> {
        self.connections.iter().map(|(slot, _)| slot as u32).collect()
    }
}
