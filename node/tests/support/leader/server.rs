//! How the leader answers.

use std::sync::{Arc, Mutex, MutexGuard};

use cluster_proto::{
    AppId, Epoch, NodeId, Outcome, SessionId, TerminalId,
    credential::PublicKey,
    link::{
        Bind, Committed, Deliver, EdgeControl, Fetch, Lane, LeaderControl, Payload, Publish, PublishBody,
        PublishOutcome, Published, Receipts, SessionReply, SessionReplyBody, SessionRequest,
        SessionRequestBody, Unacknowledged, UnbindReason, Welcome,
    },
};
use tokio::sync::Notify;

use super::{FakeLeader, FromEdge, Link, Log, wall_ms};

pub(super) struct Server {
    pub(super) log: Arc<Mutex<Log>>,
    pub(super) changed: Arc<Notify>,
    pub(super) keys: Vec<PublicKey>,
}

/// A Bind that waits until the older connection of its terminal is closed.
pub(super) struct TakeOver {
    request: u64,
    bind: Bind,
    epoch: Epoch,
}

impl Server {
    pub(super) fn welcome(&self, incarnation: u64) -> Welcome {
        let mut log = self.log();
        if log.incarnation != incarnation {
            log.incarnation = incarnation;
            log.lanes.clear();
        }
        let lane = |name| log.lanes.get(name).copied().unwrap_or(0);
        Welcome {
            leader: NodeId(1),
            term: 1,
            lease_ms: FakeLeader::LEASE_MS,
            heartbeat_ms: 300,
            applied: vec![
                (Lane::Session, lane("session")),
                (Lane::Publish, lane("publish")),
                (Lane::Receipts, lane("receipts")),
            ],
            apps: vec![(AppId::DEFAULT, "default".to_owned())],
            now_ms: wall_ms(),
        }
    }

    pub(super) async fn handle(&self, link: &mut Link, frame: FromEdge) -> Option<()> {
        match frame {
            FromEdge::Control(frame) => self.control(link, frame).await,
            FromEdge::Session(request) => self.session(link, request).await,
            FromEdge::Publish(publish) => self.publish(link, publish).await,
            FromEdge::Receipts(receipts) => self.receipts(link, receipts).await,
            FromEdge::Fetch(Fetch { push }) => {
                let message = self.log().messages.get(&push).cloned();
                link.payload.send(&Payload { push, message }).await.ok()
            }
            FromEdge::Transient(transient) => {
                self.log().transients.push(transient);
                Some(())
            }
            FromEdge::Closed => None,
        }
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().expect("log")
    }

    async fn control(&self, link: &mut Link, frame: EdgeControl) -> Option<()> {
        match frame {
            EdgeControl::Bindings(bindings) => link.bindings.extend(bindings),
            EdgeControl::Filters(delta) => self.log().filters.push(delta),
            EdgeControl::SharedInFlight(shared) => self.log().shared_in_flight.extend(shared),
            EdgeControl::ResumeDone => {
                let bindings = std::mem::take(&mut link.bindings);
                self.log().resumes.push(bindings);
                link.control.send(&LeaderControl::Resumed).await.ok()?;
            }
            EdgeControl::Heartbeat { nonce, stats } => {
                let cluster = {
                    let mut log = self.log();
                    log.stats = stats;
                    if log.hold_heartbeats {
                        return Some(());
                    }
                    log.cluster
                };
                let ack = LeaderControl::HeartbeatAck { nonce, now_ms: wall_ms(), cluster };
                link.control.send(&ack).await.ok()?;
            }
            EdgeControl::Unbound { epoch, unacknowledged, .. } => {
                return self.unbound(link, epoch, unacknowledged).await;
            }
            EdgeControl::Draining => self.log().draining = true,
            EdgeControl::Hello(_) | EdgeControl::InFlight(_) => {}
        }
        Some(())
    }

    async fn session(&self, link: &mut Link, SessionRequest { request, body }: SessionRequest) -> Option<()> {
        let body = match body {
            SessionRequestBody::Bind(bind) => return self.bind(link, request, bind).await,
            SessionRequestBody::Unbind(unbind) => {
                let mut log = self.log();
                log.unbind(unbind);
                if log.hold_unbinds {
                    log.held_unbinds.push(request);
                    return Some(());
                }
                SessionReplyBody::Unbound
            }
            SessionRequestBody::Subscribe(subscribe) => {
                let mut log = self.log();
                if log.takes("session", subscribe.seq) {
                    let subscriptions = log.subscriptions.entry(subscribe.terminal.clone()).or_default();
                    subscriptions.extend(subscribe.subscriptions);
                }
                let no = log.no_of(&subscribe.terminal);
                SessionReplyBody::Changed { no, session: SessionId(1), index: 1 }
            }
            SessionRequestBody::Unsubscribe(unsubscribe) => {
                let mut log = self.log();
                log.takes("session", unsubscribe.seq);
                let no = log.no_of(&unsubscribe.terminal);
                SessionReplyBody::Changed { no, session: SessionId(1), index: 1 }
            }
            SessionRequestBody::Pull { no, epoch, after, max } => {
                let page = self.log().page(no, epoch, after.ordinary, max);
                return link.deliver.send(&Deliver::Owed(page)).await.ok();
            }
            SessionRequestBody::Retained(ask) => {
                if std::mem::take(&mut self.log().drop_next_retained) {
                    return None;
                }
                let (messages, next) = self.log().retained_page(ask);
                SessionReplyBody::Retained { messages, next }
            }
        };
        link.session.send(&SessionReply { request, body }).await.ok()
    }

    /// As the leader does it: the older connection is closed first.
    async fn bind(&self, link: &mut Link, request: u64, bind: Bind) -> Option<()> {
        let old = {
            let log = self.log();
            log.bound.get(&bind.terminal).copied().filter(|_| !log.binds_at_once)
        };
        let Some(epoch) = old else {
            let (app, terminal) = (bind.app, bind.terminal.clone());
            let bound = self.log().bind(bind);
            let (epoch, reply) =
                (bound.epoch, SessionReply { request, body: SessionReplyBody::Bound(bound) });
            if !self.log().ends_at_once {
                return link.session.send(&reply).await.ok();
            }
            link.overtaken = Some((epoch, reply));
            let reason = UnbindReason::TakenOver;
            return link.control.send(&LeaderControl::Unbind { terminal, app, epoch, reason }).await.ok();
        };
        let (app, terminal, reason) = (bind.app, bind.terminal.clone(), UnbindReason::TakenOver);
        link.take_overs.push(TakeOver { request, bind, epoch });
        link.control.send(&LeaderControl::Unbind { terminal, app, epoch, reason }).await.ok()
    }

    async fn unbound(
        &self,
        link: &mut Link,
        epoch: Epoch,
        unacknowledged: Vec<Unacknowledged>,
    ) -> Option<()> {
        if let Some((_, reply)) = link.overtaken.take_if(|(overtaken, _)| *overtaken == epoch) {
            return link.session.send(&reply).await.ok();
        }
        let waiting = link.take_overs.iter().position(|take_over| take_over.epoch == epoch);
        let take_over = waiting.map(|at| link.take_overs.swap_remove(at));
        let bound = {
            let mut log = self.log();
            log.unbound.push((epoch, unacknowledged.clone()));
            take_over.map(|TakeOver { request, bind, .. }| {
                let no = log.no_of(&bind.terminal);
                log.keep_unacknowledged(no, &unacknowledged);
                SessionReply { request, body: SessionReplyBody::Bound(log.bind(bind)) }
            })
        };
        match bound {
            Some(reply) => link.session.send(&reply).await.ok(),
            None => Some(()),
        }
    }

    async fn publish(&self, link: &mut Link, publish: Publish) -> Option<()> {
        let hold = {
            let mut log = self.log();
            if log.takes("publish", publish.seq) {
                take(&mut log, publish.terminal, publish.body);
            }
            log.hold_publishes
        };
        if hold {
            return Some(());
        }
        let answer = Published { seq: publish.seq, result: Ok(PublishOutcome::Accepted) };
        link.published.send(&answer).await.ok()
    }

    async fn receipts(&self, link: &mut Link, Receipts { seq, items, steps }: Receipts) -> Option<()> {
        let hold = {
            let mut log = self.log();
            let is_new = log.takes("receipts", seq);
            for item in items.into_iter().filter(|_| is_new) {
                for no in item.terminals.iter() {
                    log.receipts.push((item.push, item.outcome, no));
                    if item.outcome != Outcome::NotWritten {
                        log.owed.entry(no).or_default().remove(&item.push);
                    }
                }
            }
            steps.into_iter().filter(|_| is_new).for_each(|step| log.step(step));
            log.hold_receipts
        };
        if hold {
            return Some(());
        }
        link.committed.send(&Committed { seq }).await.ok()
    }
}

fn take(log: &mut Log, terminal: TerminalId, body: PublishBody) {
    match body {
        PublishBody::Push { message, exchange, .. } => {
            if log.begins(exchange) {
                if message.retain {
                    log.retain(&message);
                }
                log.published.push((terminal, message));
            }
        }
        PublishBody::Retain { message, .. } => log.retain(&message),
        PublishBody::Release(inbound) => log.release(inbound),
        PublishBody::AppReceipts(_) => {}
    }
}
