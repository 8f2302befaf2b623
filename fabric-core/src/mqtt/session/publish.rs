//! PUBLISH from the terminal.

use cluster_proto::{
    Message, MessageProperties, PushKind, Qos,
    limits::{PAYLOAD_LEN_MAX, PROPERTIES_LEN_MAX},
};

use super::{Context, Live};
use crate::{
    mqtt::{
        action::{Action, Incoming, MessageHandle, Moment, Relay, RequestNo},
        packet::{Ack, Packet, Publish},
        reason::{CloseCause, Reason},
    },
    subscriptions::filter,
};

impl<M: MessageHandle> Live<M> {
    pub(super) fn handle_publish(
        &mut self,
        cx: &Context,
        at: Moment,
        publish: Publish,
        out: &mut Vec<Action<M>>,
    ) -> Result<(), CloseCause> {
        check(&publish).map_err(CloseCause::Peer)?;
        let acknowledged = publish.qos == Qos::AtLeastOnce;
        if acknowledged && !self.is_new(cx, &publish)? {
            return Ok(());
        }
        match refusal(cx, &publish) {
            None if acknowledged => self.accept(cx, publish, out),
            None => self.relay(cx, at, publish, out),
            // Neither version can refuse a QoS 0 PUBLISH, nor 3.1.1 any: accepting it in silence would be a lie
            // ([MQTT-3.3.5-2] allows to close).
            Some(reason) if !acknowledged || !cx.version.is_v5() => return Err(CloseCause::Peer(reason)),
            Some(reason) => {
                let request = self.next_request();
                self.inbound.push(publish.packet_id, request, Some(reason));
                return self.acknowledge(cx, out);
            }
        }
        Ok(())
    }

    /// Whether a QoS 1 PUBLISH is not one that is being worked on.
    fn is_new(&self, cx: &Context, publish: &Publish) -> Result<bool, CloseCause> {
        if self.inbound.contains(publish.packet_id) {
            // A repetition is answered by the answer that is under way; anything else reuses an id that is in use
            // ([MQTT-2.2.1-3]).
            return if publish.dup { Ok(false) } else { Err(CloseCause::Peer(Reason::PROTOCOL_ERROR)) };
        }
        if self.inbound.len() >= usize::from(cx.config.receive_maximum) {
            return Err(CloseCause::Peer(Reason::RECEIVE_MAXIMUM_EXCEEDED));
        }
        Ok(true)
    }

    fn accept(&mut self, cx: &Context, publish: Publish, out: &mut Vec<Action<M>>) {
        let request = self.next_request();
        self.inbound.push(publish.packet_id, request, None);
        let ttl_ms = publish.expiry_s.map(|seconds| u64::from(seconds) * 1_000);
        let message = self.message(cx, publish);
        out.push(Action::Accept(Box::new(Incoming { request, message, ttl_ms, exchange: None })));
    }

    fn relay(&mut self, cx: &Context, at: Moment, publish: Publish, out: &mut Vec<Action<M>>) {
        let expires_at_ms = publish.expiry_s.map(|seconds| at.ms.saturating_add(u64::from(seconds) * 1_000));
        let message = self.message(cx, publish);
        out.push(Action::Relay(Box::new(Relay { message, expires_at_ms })));
    }

    fn message(&self, cx: &Context, publish: Publish) -> Message {
        Message {
            app: cx.grant.as_ref().map(|grant| grant.app).unwrap_or_default(),
            kind: PushKind::Topic,
            topic: publish.topic,
            qos: publish.qos,
            payload: publish.payload,
            properties: publish.properties,
            publisher: self.no,
            retain: false,
        }
    }

    pub(super) fn handle_published(
        &mut self,
        cx: &Context,
        at: Moment,
        request: RequestNo,
        reason: Reason,
        out: &mut Vec<Action<M>>,
    ) -> Result<(), CloseCause> {
        if !self.may_read(cx) {
            self.keep_alive.heard(at.ms);
        }
        self.inbound.answer(request, reason);
        self.acknowledge(cx, out)
    }

    fn acknowledge(&mut self, cx: &Context, out: &mut Vec<Action<M>>) -> Result<(), CloseCause> {
        while let Some((packet_id, reason)) = self.inbound.pop_answered() {
            if reason.is_error() && !cx.version.is_v5() {
                // 3.1.1 has no negative PUBACK, and a positive one would be a lie: the terminal keeps the message.
                return Err(CloseCause::Peer(reason));
            }
            out.push(Action::Send(Packet::PubAck(Ack { packet_id, reason })));
        }
        Ok(())
    }
}

/// What ends the connection whatever the QoS.
fn check(publish: &Publish) -> Result<(), Reason> {
    if publish.qos == Qos::ExactlyOnce {
        return Err(Reason::QOS_NOT_SUPPORTED);
    }
    if publish.retain {
        return Err(Reason::RETAIN_NOT_SUPPORTED);
    }
    if publish.topic_alias.is_some() {
        // [MQTT-3.3.2-8], [MQTT-3.3.2-9]: over the Topic Alias Maximum of 0.
        return Err(Reason::TOPIC_ALIAS_INVALID);
    }
    if !publish.subscription_ids.is_empty() || publish.topic.is_empty() {
        // [MQTT-3.3.4-6]; and a topic is needed where there is no alias.
        return Err(Reason::PROTOCOL_ERROR);
    }
    if filter::validate_topic(&publish.topic).is_err() {
        return Err(Reason::TOPIC_NAME_INVALID);
    }
    if publish.properties.response_topic.as_deref().is_some_and(filter::is_wildcard) {
        // [MQTT-3.3.2-14].
        return Err(Reason::PROTOCOL_ERROR);
    }
    if publish.payload.len() > PAYLOAD_LEN_MAX {
        return Err(Reason::PACKET_TOO_LARGE);
    }
    Ok(())
}

/// What a QoS 1 PUBLISH of MQTT 5 is told in PUBACK.
fn refusal(cx: &Context, publish: &Publish) -> Option<Reason> {
    if properties_len(&publish.properties) > PROPERTIES_LEN_MAX {
        return Some(Reason::QUOTA_EXCEEDED);
    }
    let permitted = cx.grant.as_ref().is_some_and(|grant| grant.permissions.may_publish(&publish.topic));
    (!permitted).then_some(Reason::NOT_AUTHORIZED)
}

fn properties_len(properties: &MessageProperties) -> usize {
    let text = |s: &Option<String>| s.as_ref().map_or(0, String::len);
    text(&properties.content_type)
        + text(&properties.response_topic)
        + properties.correlation_data.as_ref().map_or(0, |data| data.len())
        + properties.user_properties.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>()
}
