//! SUBSCRIBE and UNSUBSCRIBE.
//!
//! A subscription that can make the session an audience member is replicated before SUBACK. A QoS 0 subscription of
//! a session that ends with its connection is best effort: it takes effect here, at once.

use cluster_proto::{
    Qos,
    limits::FILTERS_PER_PACKET_MAX,
    link::{RefuseReason, SubscriptionOptions},
};

use super::{Changed, Context, Live, live::REQUESTS_MAX, retain::UPTO_NOW};
use crate::{
    mqtt::{
        action::{Action, MessageHandle, Moment, RequestNo},
        held::Held,
        packet::{Codes, Packet, Subscribe, SubscribeFilter, Unsubscribe},
        reason::{self, CloseCause, Reason},
        size::codes_len,
    },
    subscriptions::{Filter, filter},
};

/// A packet that is answered when the leader has.
#[derive(Debug)]
pub(super) struct Pending {
    request: RequestNo,
    answer: Codes,
    change: Change,
}

/// What the leader is asked for, with the place of each filter in the answer.
#[derive(Debug)]
enum Change {
    Subscribe(Vec<(usize, Held)>),
    Unsubscribe(Vec<(usize, Box<str>)>),
}

impl Pending {
    fn adds(&self, filter: &str) -> bool {
        matches!(&self.change, Change::Subscribe(held) if held.iter().any(|(_, held)| &*held.filter == filter))
    }

    fn answered(self) -> Packet {
        match self.change {
            Change::Subscribe(_) => Packet::SubAck(self.answer),
            Change::Unsubscribe(_) => Packet::UnsubAck(self.answer),
        }
    }

    fn refuse(&mut self, reason: Reason) {
        let places: Vec<usize> = match &self.change {
            Change::Subscribe(held) => held.iter().map(|(place, _)| *place).collect(),
            Change::Unsubscribe(filters) => filters.iter().map(|(place, _)| *place).collect(),
        };
        for place in places {
            self.answer.codes[place] = reason;
        }
    }
}

impl<M: MessageHandle> Live<M> {
    pub(super) fn handle_subscribe(
        &mut self,
        cx: &Context,
        at: Moment,
        subscribe: Subscribe,
        out: &mut Vec<Action<M>>,
    ) -> Result<(), CloseCause> {
        self.check_request(cx, subscribe.filters.len())?;
        if self.is_in_use(cx, subscribe.packet_id) {
            let codes = vec![Reason::PACKET_ID_IN_USE; subscribe.filters.len()];
            out.push(Action::Send(Packet::SubAck(Codes { packet_id: subscribe.packet_id, codes })));
            return Ok(());
        }
        let mut codes = Vec::with_capacity(subscribe.filters.len());
        let mut replicated: Vec<(usize, Held)> = Vec::new();
        for asked in subscribe.filters {
            match self.grant(cx, asked, replicated.len())? {
                Ok(held) => {
                    codes.push(Reason(held.qos as u8));
                    if held.best_effort && !replicated.iter().any(|(_, other)| other.filter == held.filter) {
                        self.hold(held, UPTO_NOW, out);
                    } else {
                        replicated.push((codes.len() - 1, held.replicated()));
                    }
                }
                Err(reason) => codes.push(reason),
            }
        }
        let answer = Codes { packet_id: subscribe.packet_id, codes };
        if replicated.is_empty() {
            out.push(Action::Send(Packet::SubAck(answer)));
            self.flush(cx, at, out);
            return Ok(());
        }
        let request = self.requests.next();
        let subscriptions = replicated.iter().map(|(_, held)| held.subscription()).collect();
        self.pending.push(Pending { request, answer, change: Change::Subscribe(replicated) });
        out.push(Action::Subscribe { request, subscriptions });
        Ok(())
    }

    /// Over these bounds nothing is answered: a terminal that pipelines respects `may_read` through its shell. Nor is
    /// anything done that could not be answered ([MQTT-3.1.2-24]).
    fn check_request(&self, cx: &Context, filters: usize) -> Result<(), CloseCause> {
        if filters > FILTERS_PER_PACKET_MAX || self.pending.len() >= REQUESTS_MAX {
            return Err(CloseCause::Peer(Reason::QUOTA_EXCEEDED));
        }
        if cx.version.is_v5() && codes_len(filters) > self.packet_len_max as usize {
            return Err(CloseCause::Peer(Reason::PACKET_TOO_LARGE));
        }
        Ok(())
    }

    /// An MQTT 5 terminal is told that it uses a packet id twice ([MQTT-2.2.1-3]).
    fn is_in_use(&self, cx: &Context, packet_id: u16) -> bool {
        let used = self.inbound.uses(packet_id);
        cx.version.is_v5() && (used || self.pending.iter().any(|p| p.answer.packet_id == packet_id))
    }

    /// The subscription to hold, or the code that says why not.
    fn grant(
        &self,
        cx: &Context,
        asked: SubscribeFilter,
        adding: usize,
    ) -> Result<Result<Held, Reason>, CloseCause> {
        let (plain, shared) = match filter::validate_filter(&asked.filter) {
            Err(_) => return Ok(Err(Reason::TOPIC_FILTER_INVALID)),
            // [MQTT-3.8.3-4].
            Ok(Filter::Shared { .. }) if asked.options.no_local => {
                return Err(CloseCause::Peer(Reason::PROTOCOL_ERROR));
            }
            Ok(Filter::Shared { filter, .. }) => (filter, true),
            Ok(Filter::Plain(filter)) => (filter, false),
        };
        let permitted = cx.grant.as_ref().is_some_and(|grant| grant.permissions.may_subscribe(plain));
        if filter::is_own_topic(plain) || !permitted {
            return Ok(Err(Reason::NOT_AUTHORIZED));
        }
        let SubscribeFilter { filter, qos, options } = asked;
        let (held, adds) = (self.subscriptions.get(&filter), self.pending.iter().any(|p| p.adds(&filter)));
        let pending: usize = self.pending.iter().map(Pending::len).sum();
        let count = self.subscriptions.len() + pending + adding;
        if held.is_none() && count >= cx.config.subscriptions_max {
            return Ok(Err(Reason::QUOTA_EXCEEDED));
        }
        let replicated = shared || adds || held.is_some_and(|held| !held.best_effort);
        let best_effort = !replicated && self.may_be_best_effort(qos, options);
        Ok(Ok(Held::new(filter, qos, options, best_effort)))
    }

    /// No Local is kept for those with a number, which a replicated subscription gives.
    fn may_be_best_effort(&self, qos: Qos, options: SubscriptionOptions) -> bool {
        qos == Qos::AtMostOnce && self.session_expiry_s == 0 && !(options.no_local && self.no.is_none())
    }

    pub(super) fn handle_unsubscribe(
        &mut self,
        cx: &Context,
        unsubscribe: Unsubscribe,
        out: &mut Vec<Action<M>>,
    ) -> Result<(), CloseCause> {
        self.check_request(cx, unsubscribe.filters.len())?;
        if self.is_in_use(cx, unsubscribe.packet_id) {
            let codes = vec![Reason::PACKET_ID_IN_USE; unsubscribe.filters.len()];
            out.push(Action::Send(Packet::UnsubAck(Codes { packet_id: unsubscribe.packet_id, codes })));
            return Ok(());
        }
        let mut codes = Vec::with_capacity(unsubscribe.filters.len());
        let mut replicated = Vec::new();
        for asked in unsubscribe.filters {
            let pending = self.pending.iter().any(|p| p.adds(&asked));
            match self.subscriptions.get(&asked).map(|held| held.best_effort) {
                _ if filter::validate_filter(&asked).is_err() => codes.push(Reason::TOPIC_FILTER_INVALID),
                Some(true) if !pending => {
                    self.release(&asked, out);
                    codes.push(Reason::SUCCESS);
                }
                None if !pending => codes.push(Reason::NO_SUBSCRIPTION_EXISTED),
                _ => {
                    codes.push(Reason::SUCCESS);
                    replicated.push((codes.len() - 1, asked.into_boxed_str()));
                }
            }
        }
        let answer = Codes { packet_id: unsubscribe.packet_id, codes };
        if replicated.is_empty() {
            out.push(Action::Send(Packet::UnsubAck(answer)));
            return Ok(());
        }
        let request = self.requests.next();
        let filters = replicated.iter().map(|(_, filter)| filter.to_string()).collect();
        self.pending.push(Pending { request, answer, change: Change::Unsubscribe(replicated) });
        out.push(Action::Unsubscribe { request, filters });
        Ok(())
    }

    pub(super) fn handle_changed(
        &mut self,
        cx: &Context,
        at: Moment,
        request: RequestNo,
        result: Result<Changed, RefuseReason>,
        out: &mut Vec<Action<M>>,
    ) -> Result<(), CloseCause> {
        let Some(place) = self.pending.iter().position(|pending| pending.request == request) else {
            return Ok(());
        };
        if !self.may_read(cx) {
            self.keep_alive.heard(at.ms);
        }
        let mut pending = self.pending.remove(place);
        if self.pending.is_empty() {
            self.pending = Vec::new();
        }
        match result {
            Ok(changed) => {
                self.apply(&pending.change, changed.index, out);
                self.adopt(changed);
            }
            // 3.1.1 cannot refuse an UNSUBSCRIBE, and must not be told that it was done.
            Err(_) if !cx.version.is_v5() && matches!(pending.change, Change::Unsubscribe(_)) => {
                return Err(CloseCause::ServerUnavailable);
            }
            Err(refused) => pending.refuse(reason::refused_request(refused)),
        }
        out.push(Action::Send(pending.answered()));
        self.flush(cx, at, out);
        Ok(())
    }

    fn apply(&mut self, change: &Change, index: u64, out: &mut Vec<Action<M>>) {
        match change {
            Change::Subscribe(held) => held.iter().for_each(|(_, held)| self.hold(held.clone(), index, out)),
            Change::Unsubscribe(filters) => filters.iter().for_each(|(_, filter)| self.release(filter, out)),
        }
    }

    /// Gives up what the credential does not allow: one that resumes a session may allow less than the one that
    /// subscribed, and so may a fresh one. MQTT has no packet to tell the terminal.
    pub(super) fn give_up_forbidden(&mut self, cx: &Context, out: &mut Vec<Action<M>>) {
        let Some(grant) = &cx.grant else { return };
        let forbidden =
            self.subscriptions.iter().filter(|held| !grant.permissions.may_subscribe(held.plain()));
        let (best_effort, replicated): (Vec<_>, Vec<_>) =
            forbidden.cloned().partition(|held| held.best_effort);
        for held in best_effort.iter().chain(&replicated) {
            self.release(&held.filter, out);
        }
        for held in replicated.chunks(FILTERS_PER_PACKET_MAX) {
            // Nothing waits for the answer: where the leader cannot, the next connection asks again.
            let request = self.requests.next();
            let filters = held.iter().map(|held| held.filter.to_string()).collect();
            out.push(Action::Unsubscribe { request, filters });
        }
    }

    /// A client without a number gets one with its first replicated subscription: from then on it can be owed.
    fn adopt(&mut self, changed: Changed) {
        self.session = Some(changed.session);
        if self.no.replace(changed.no).is_none() {
            self.deliveries.fall_behind();
        }
    }

    /// `index`: from here on in the log messages reach it live.
    fn hold(&mut self, held: Held, index: u64, out: &mut Vec<Action<M>>) {
        let existed = self.subscriptions.hold(held.clone(), out);
        self.want_retained(&held, existed, index);
    }

    fn release(&mut self, filter: &str, out: &mut Vec<Action<M>>) {
        self.forget_retained(filter);
        self.subscriptions.release(filter, out);
    }
}

impl Pending {
    fn len(&self) -> usize {
        match &self.change {
            Change::Subscribe(held) => held.len(),
            Change::Unsubscribe(_) => 0,
        }
    }
}
