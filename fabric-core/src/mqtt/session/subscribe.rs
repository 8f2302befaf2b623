//! SUBSCRIBE and UNSUBSCRIBE.
//!
//! A subscription that can make the session an audience member is replicated before SUBACK. A QoS 0 subscription of
//! a session that ends with its connection is best effort: it takes effect here, at once.

use cluster_proto::{
    Qos,
    limits::{FILTERS_PER_PACKET_MAX, SUBSCRIPTIONS_PER_SESSION_MAX},
    link::{RefuseReason, Subscription},
};

use super::{Changed, Context, Live, live::Held, live::REQUESTS_MAX};
use crate::{
    mqtt::{
        action::{Action, MessageHandle, Moment, RequestNo},
        deliveries::Feed,
        packet::{Codes, Packet, Subscribe, SubscribeFilter, Unsubscribe},
        reason::{self, CloseCause, Reason},
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
        subscribe: Subscribe,
        out: &mut Vec<Action<M>>,
    ) -> Result<(), CloseCause> {
        self.check_request(subscribe.filters.len())?;
        let mut codes = Vec::with_capacity(subscribe.filters.len());
        let mut replicated: Vec<(usize, Held)> = Vec::new();
        for asked in subscribe.filters {
            match self.grant(cx, asked, replicated.len())? {
                Ok(held) => {
                    codes.push(Reason(held.qos as u8));
                    if held.best_effort && !replicated.iter().any(|(_, other)| other.filter == held.filter) {
                        self.hold(held, out);
                    } else {
                        replicated.push((codes.len() - 1, Held { best_effort: false, ..held }));
                    }
                }
                Err(reason) => codes.push(reason),
            }
        }
        let answer = Codes { packet_id: subscribe.packet_id, codes };
        if replicated.is_empty() {
            out.push(Action::Send(Packet::SubAck(answer)));
            return Ok(());
        }
        let request = self.next_request();
        let subscriptions = replicated.iter().map(|(_, held)| held.subscription()).collect();
        self.pending.push(Pending { request, answer, change: Change::Subscribe(replicated) });
        out.push(Action::Subscribe { request, subscriptions });
        Ok(())
    }

    /// Over these bounds nothing is answered: a terminal that pipelines respects `may_read` through its shell.
    fn check_request(&self, filters: usize) -> Result<(), CloseCause> {
        if filters > FILTERS_PER_PACKET_MAX || self.pending.len() >= REQUESTS_MAX {
            return Err(CloseCause::Peer(Reason::QUOTA_EXCEEDED));
        }
        Ok(())
    }

    /// The subscription to hold, or the code that says why not.
    fn grant(
        &self,
        cx: &Context,
        asked: SubscribeFilter,
        adding: usize,
    ) -> Result<Result<Held, Reason>, CloseCause> {
        match filter::validate_filter(&asked.filter) {
            Err(_) => return Ok(Err(Reason::TOPIC_FILTER_INVALID)),
            // [MQTT-3.8.3-4].
            Ok(Filter::Shared { .. }) if asked.options.no_local => {
                return Err(CloseCause::Peer(Reason::PROTOCOL_ERROR));
            }
            Ok(Filter::Shared { .. }) => return Ok(Err(Reason::SHARED_SUBSCRIPTIONS_NOT_SUPPORTED)),
            Ok(Filter::Plain(_)) => {}
        }
        let permitted = cx.grant.as_ref().is_some_and(|grant| grant.permissions.may_subscribe(&asked.filter));
        if !permitted {
            return Ok(Err(Reason::NOT_AUTHORIZED));
        }
        let (held, adds) = (self.held(&asked.filter), self.pending.iter().any(|p| p.adds(&asked.filter)));
        let pending: usize = self.pending.iter().map(Pending::len).sum();
        if held.is_none() && self.subscriptions.len() + pending + adding >= SUBSCRIPTIONS_PER_SESSION_MAX {
            return Ok(Err(Reason::QUOTA_EXCEEDED));
        }
        let qos = asked.qos.min(Qos::AtLeastOnce);
        let replicated = adds || held.is_some_and(|held| !held.best_effort);
        let best_effort = qos == Qos::AtMostOnce && self.session_expiry_s == 0 && !replicated;
        Ok(Ok(Held { filter: asked.filter.into_boxed_str(), qos, options: asked.options, best_effort }))
    }

    pub(super) fn handle_unsubscribe(
        &mut self,
        unsubscribe: Unsubscribe,
        out: &mut Vec<Action<M>>,
    ) -> Result<(), CloseCause> {
        self.check_request(unsubscribe.filters.len())?;
        let mut codes = Vec::with_capacity(unsubscribe.filters.len());
        let mut replicated = Vec::new();
        for asked in unsubscribe.filters {
            let pending = self.pending.iter().any(|p| p.adds(&asked));
            match self.held(&asked).map(|held| held.best_effort) {
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
        let request = self.next_request();
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
                self.apply(&pending.change, out);
                self.adopt(changed);
            }
            // 3.1.1 cannot refuse an UNSUBSCRIBE, and must not be told that it was done.
            Err(_) if !cx.version.is_v5() && matches!(pending.change, Change::Unsubscribe(_)) => {
                return Err(CloseCause::ServerUnavailable);
            }
            Err(refused) => pending.refuse(reason::refused_request(refused)),
        }
        out.push(Action::Send(pending.answered()));
        self.pull(out);
        Ok(())
    }

    fn apply(&mut self, change: &Change, out: &mut Vec<Action<M>>) {
        match change {
            Change::Subscribe(held) => held.iter().for_each(|(_, held)| self.hold(held.clone(), out)),
            Change::Unsubscribe(filters) => filters.iter().for_each(|(_, filter)| self.release(filter, out)),
        }
    }

    /// A client without a number gets one with its first replicated subscription: from then on it can be owed.
    fn adopt(&mut self, changed: Changed) {
        self.session = Some(changed.session);
        if self.no.replace(changed.no).is_none() {
            self.deliveries.feed = Feed::Behind;
        }
    }

    /// The subscriptions of a session that was there before.
    pub(super) fn resume_subscriptions(
        &mut self,
        subscriptions: Vec<Subscription>,
        out: &mut Vec<Action<M>>,
    ) {
        for Subscription { filter, qos, options } in subscriptions {
            self.hold(Held { filter: filter.into_boxed_str(), qos, options, best_effort: false }, out);
        }
    }

    pub(super) fn held(&self, filter: &str) -> Option<&Held> {
        self.subscriptions.iter().find(|held| &*held.filter == filter)
    }

    /// [MQTT-3.8.4-3]: replaces a subscription with the same filter.
    fn hold(&mut self, held: Held, out: &mut Vec<Action<M>>) {
        let (filter, best_effort) = (held.filter.clone(), held.best_effort);
        let indexed = match self.subscriptions.iter_mut().find(|old| old.filter == held.filter) {
            Some(old) => Some(std::mem::replace(old, held).best_effort),
            None => {
                self.subscriptions.reserve_exact(1);
                self.subscriptions.push(held);
                None
            }
        };
        self.look_at_each = self.subscriptions.iter().any(Held::is_special);
        if indexed == Some(best_effort) {
            return;
        }
        if let Some(best_effort) = indexed {
            out.push(Action::Unsubscribed { filter: filter.clone(), best_effort });
        }
        out.push(Action::Subscribed { filter, best_effort });
    }

    fn release(&mut self, filter: &str, out: &mut Vec<Action<M>>) {
        let Some(place) = self.subscriptions.iter().position(|held| &*held.filter == filter) else { return };
        let held = self.subscriptions.remove(place);
        self.look_at_each = self.subscriptions.iter().any(Held::is_special);
        out.push(Action::Unsubscribed { filter: held.filter, best_effort: held.best_effort });
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

impl Held {
    fn is_special(&self) -> bool {
        self.options.no_local || self.options.identifier.is_some()
    }

    fn subscription(&self) -> Subscription {
        Subscription { filter: self.filter.to_string(), qos: self.qos, options: self.options }
    }
}
