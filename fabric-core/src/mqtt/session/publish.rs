//! PUBLISH from the terminal, and PUBREL.

use cluster_proto::{
    AppReceipt, Message, MessageProperties, PushKind, Qos,
    limits::{PAYLOAD_LEN_MAX, PROPERTIES_LEN_MAX},
    link::{AppReceipts, PublishOutcome, RefuseReason},
};

use super::{Context, Live, app_receipt};
use crate::{
    mqtt::{
        action::{Action, Incoming, MessageHandle, Moment, Relay, RequestNo},
        inbound::{Answer, Seen},
        packet::{Ack, Packet, Publish},
        reason::{self, CloseCause, Reason},
    },
    subscriptions::filter,
};

impl<M: MessageHandle> Live<M> {
    pub(super) fn handle_publish(
        &mut self,
        cx: &Context,
        at: Moment,
        mut publish: Publish,
        out: &mut Vec<Action<M>>,
    ) -> Result<(), CloseCause> {
        self.resolve_alias(cx, &mut publish).and_then(|()| check(&publish)).map_err(CloseCause::Peer)?;
        if publish.qos == Qos::AtMostOnce {
            // Neither version can refuse a QoS 0 PUBLISH: accepting it in silence would be a lie ([MQTT-3.3.5-2]
            // allows to close).
            refusal(cx, &publish).map_or(Ok(()), |reason| Err(CloseCause::Peer(reason)))?;
            match app_receipt::of_topic(&publish.topic) {
                Some(what) => drop(self.report(cx, what, &publish, None, out)),
                None => self.relay(cx, at, publish, out),
            }
            return Ok(());
        }
        match self.inbound.seen(publish.packet_id, publish.qos) {
            Seen::Never => self.take(cx, publish, out),
            // [MQTT-4.3.3-10]: acknowledged again, and not published again, until PUBREL.
            Seen::Taken => {
                out.push(pubrec(publish.packet_id, Reason::SUCCESS));
                Ok(())
            }
            // A repetition is answered by the answer that is under way.
            Seen::Waiting if publish.dup || publish.qos == Qos::ExactlyOnce => Ok(()),
            // Anything else reuses an id that is in use ([MQTT-2.2.1-3]).
            Seen::Waiting | Seen::InUse => Err(CloseCause::Peer(Reason::PROTOCOL_ERROR)),
        }
    }

    /// [MQTT-3.3.2-7] and following: a topic alias stands for its topic, on this connection.
    fn resolve_alias(&mut self, cx: &Context, publish: &mut Publish) -> Result<(), Reason> {
        let Some(alias) = publish.topic_alias else { return Ok(()) };
        let maximum = if cx.version.is_v5() { cx.config.topic_alias_maximum } else { 0 };
        if !publish.topic.is_empty() {
            check_topic(&publish.topic)?;
        }
        let topic = std::mem::take(&mut publish.topic);
        publish.topic = self.aliases.get_or_insert_default().take(alias, topic, maximum)?;
        Ok(())
    }

    /// A PUBLISH with a packet id that is free.
    fn take(&mut self, cx: &Context, publish: Publish, out: &mut Vec<Action<M>>) -> Result<(), CloseCause> {
        if cx.version.is_v5() && self.inbound.used() >= cx.config.receive_maximum {
            // [MQTT-3.3.4-7].
            return Err(CloseCause::Peer(Reason::RECEIVE_MAXIMUM_EXCEEDED));
        }
        let (packet_id, qos, request) = (publish.packet_id, publish.qos, self.requests.next());
        match refusal(cx, &publish) {
            None if let Some(what) = app_receipt::of_topic(&publish.topic) => {
                let ignored = self.report(cx, what, &publish, Some(request), out);
                self.inbound.push(packet_id, qos, request, ignored);
                if ignored.is_some() { self.acknowledge(cx, out) } else { Ok(()) }
            }
            None => {
                self.inbound.push(packet_id, qos, request, None);
                let ttl_ms = publish.expiry_s.map(|seconds| u64::from(seconds) * 1_000);
                let exchange = (qos == Qos::ExactlyOnce && self.is_recorded()).then_some(packet_id);
                let message = self.message(cx, publish);
                out.push(Action::Accept(Box::new(Incoming { request, message, ttl_ms, exchange })));
                Ok(())
            }
            // 3.1.1 cannot refuse any.
            Some(reason) if !cx.version.is_v5() => Err(CloseCause::Peer(reason)),
            Some(reason) => {
                self.inbound.push(packet_id, qos, request, Some(reason));
                self.acknowledge(cx, out)
            }
        }
    }

    fn relay(&mut self, cx: &Context, at: Moment, publish: Publish, out: &mut Vec<Action<M>>) {
        let expires_at_ms = publish.expiry_s.map(|seconds| at.ms.saturating_add(u64::from(seconds) * 1_000));
        let message = self.message(cx, publish);
        out.push(Action::Relay(Box::new(Relay { message, expires_at_ms })));
    }

    /// What the application reports goes to the leader, which knows whether it means anything; `Some`: it means nothing
    /// for certain, and what the terminal is told.
    fn report(
        &self,
        cx: &Context,
        what: AppReceipt,
        publish: &Publish,
        request: Option<RequestNo>,
        out: &mut Vec<Action<M>>,
    ) -> Option<Reason> {
        let app = cx.grant.as_ref().map(|grant| grant.app).unwrap_or_default();
        let ignored = match (app_receipt::names(&publish.payload), self.no) {
            (Some(pushes), Some(no)) => {
                let receipts = Box::new(AppReceipts { app, no, what, pushes });
                out.push(Action::AppReceipts { request, receipts: Some(receipts) });
                return None;
            }
            // Without a number it is in no audience.
            (Some(_), None) => Reason::NO_MATCHING_SUBSCRIBERS,
            // 3.1.1 cannot be told; closing would make it send the same again.
            (None, _) if !cx.version.is_v5() => Reason::SUCCESS,
            (None, _) => Reason::IMPLEMENTATION_SPECIFIC,
        };
        out.push(Action::AppReceipts { request: None, receipts: None });
        Some(ignored)
    }

    fn message(&self, cx: &Context, publish: Publish) -> Message {
        Message {
            app: cx.grant.as_ref().map(|grant| grant.app).unwrap_or_default(),
            kind: PushKind::Topic,
            topic: publish.topic,
            qos: publish.qos,
            payload: publish.payload,
            properties: publish.properties,
            retain: publish.retain,
            tells_expiry: publish.expiry_s.is_some(),
            publisher: self.no,
        }
    }

    pub(super) fn handle_pubrel(&mut self, ack: Ack, out: &mut Vec<Action<M>>) -> Result<(), CloseCause> {
        let packet_id = ack.packet_id;
        match self.inbound.seen(packet_id, Qos::ExactlyOnce) {
            // PUBREL answers PUBREC, and there was none.
            Seen::Waiting | Seen::InUse => return Err(CloseCause::Peer(Reason::PROTOCOL_ERROR)),
            Seen::Taken if self.inbound.is_releasing(packet_id) => {}
            Seen::Taken if self.is_recorded() => {
                let request = self.requests.next();
                self.inbound.release(packet_id, request);
                out.push(Action::Release { request, packet_id });
            }
            Seen::Taken => {
                self.inbound.complete(packet_id);
                out.push(pubcomp(packet_id, Reason::SUCCESS));
            }
            // Of an exchange that is over: its PUBCOMP was lost with an earlier connection.
            Seen::Never => out.push(pubcomp(packet_id, Reason::PACKET_ID_NOT_FOUND)),
        }
        Ok(())
    }

    pub(super) fn handle_published(
        &mut self,
        cx: &Context,
        at: Moment,
        request: RequestNo,
        result: Result<PublishOutcome, RefuseReason>,
        out: &mut Vec<Action<M>>,
    ) -> Result<(), CloseCause> {
        if !self.may_read(cx) {
            self.keep_alive.heard(at.ms);
        }
        if let Some(packet_id) = self.inbound.released(request) {
            // PUBCOMP cannot say that something failed: the terminal comes again.
            result.map_err(|_| CloseCause::ServerUnavailable)?;
            self.inbound.complete(packet_id);
            out.push(pubcomp(packet_id, Reason::SUCCESS));
            return Ok(());
        }
        let reason = match result {
            Ok(PublishOutcome::Accepted) => Reason::SUCCESS,
            Ok(PublishOutcome::NoSubscribers) => Reason::NO_MATCHING_SUBSCRIBERS,
            Err(refused) => reason::refused_request(refused),
        };
        self.inbound.answer(request, reason);
        self.acknowledge(cx, out)
    }

    fn acknowledge(&mut self, cx: &Context, out: &mut Vec<Action<M>>) -> Result<(), CloseCause> {
        while let Some(Answer { packet_id, qos, reason }) = self.inbound.pop_answered() {
            if reason.is_error() && !cx.version.is_v5() {
                // 3.1.1 has no negative PUBACK, and a positive one would be a lie: the terminal keeps the message.
                return Err(CloseCause::Peer(reason));
            }
            out.push(match qos {
                Qos::ExactlyOnce => pubrec(packet_id, reason),
                _ => Action::Send(Packet::PubAck(Ack { packet_id, reason })),
            });
        }
        Ok(())
    }
}

fn pubrec<M>(packet_id: u16, reason: Reason) -> Action<M> {
    Action::Send(Packet::PubRec(Ack { packet_id, reason }))
}

fn pubcomp<M>(packet_id: u16, reason: Reason) -> Action<M> {
    Action::Send(Packet::PubComp(Ack { packet_id, reason }))
}

/// What ends the connection whatever the QoS.
fn check(publish: &Publish) -> Result<(), Reason> {
    if !publish.subscription_ids.is_empty() || publish.topic.is_empty() {
        // [MQTT-3.3.4-6]; and a topic is needed where there is no alias.
        return Err(Reason::PROTOCOL_ERROR);
    }
    check_topic(&publish.topic)?;
    if publish.properties.response_topic.as_deref().is_some_and(filter::is_wildcard) {
        // [MQTT-3.3.2-14].
        return Err(Reason::PROTOCOL_ERROR);
    }
    if publish.payload.len() > PAYLOAD_LEN_MAX {
        return Err(Reason::PACKET_TOO_LARGE);
    }
    Ok(())
}

fn check_topic(topic: &str) -> Result<(), Reason> {
    filter::validate_topic(topic).map_err(|_| Reason::TOPIC_NAME_INVALID)
}

/// What a PUBLISH of MQTT 5 is told in PUBACK or PUBREC.
fn refusal(cx: &Context, publish: &Publish) -> Option<Reason> {
    let permitted = cx.grant.as_ref().is_some_and(|grant| grant.permissions.may_publish(&publish.topic));
    if filter::is_share_topic(&publish.topic) {
        // No subscription could ever name it.
        Some(Reason::TOPIC_NAME_INVALID)
    } else if filter::is_own_topic(&publish.topic) {
        // Reporting needs no permission; there is nothing else to publish there.
        app_receipt::of_topic(&publish.topic).is_none().then_some(Reason::NOT_AUTHORIZED)
    } else if filter::is_sys_topic(&publish.topic) || !permitted {
        Some(Reason::NOT_AUTHORIZED)
    } else if !properties_len_allowed(&publish.properties) {
        Some(Reason::QUOTA_EXCEEDED)
    } else if !payload_is_what_it_says(&publish.properties, &publish.payload) {
        Some(Reason::PAYLOAD_FORMAT_INVALID)
    } else {
        None
    }
}

/// Payload Format Indicator 1 says UTF-8.
pub(super) fn payload_is_what_it_says(properties: &MessageProperties, payload: &[u8]) -> bool {
    properties.payload_is_utf8 != Some(true) || std::str::from_utf8(payload).is_ok()
}

/// A user property counts its lengths too: empty ones are not for nothing.
pub(super) fn properties_len_allowed(properties: &MessageProperties) -> bool {
    let text = |s: &Option<String>| s.as_ref().map_or(0, String::len);
    let len = text(&properties.content_type)
        + text(&properties.response_topic)
        + properties.correlation_data.as_ref().map_or(0, |data| data.len())
        + properties.user_properties.iter().map(|(key, value)| 4 + key.len() + value.len()).sum::<usize>();
    len <= PROPERTIES_LEN_MAX
}
