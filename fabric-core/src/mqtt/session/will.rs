//! The will of a CONNECT.

use cluster_proto::{Message, PushKind, Will as Kept, limits::PAYLOAD_LEN_MAX};

use super::publish::{payload_is_what_it_says, properties_len_allowed};
use crate::{
    mqtt::{action::Grant, packet::Will, reason::Reason},
    subscriptions::filter,
};

/// What makes a CONNECT with this will refused, whoever sent it.
pub(super) fn check(will: &Will) -> Result<(), Reason> {
    if filter::validate_topic(&will.topic).is_err() || filter::is_share_topic(&will.topic) {
        return Err(Reason::TOPIC_NAME_INVALID);
    }
    if will.properties.response_topic.as_deref().is_some_and(filter::is_wildcard) {
        return Err(Reason::PROTOCOL_ERROR);
    }
    if will.payload.len() > PAYLOAD_LEN_MAX {
        return Err(Reason::PACKET_TOO_LARGE);
    }
    if !properties_len_allowed(&will.properties) {
        return Err(Reason::QUOTA_EXCEEDED);
    }
    if !payload_is_what_it_says(&will.properties, &will.payload) {
        return Err(Reason::PAYLOAD_FORMAT_INVALID);
    }
    Ok(())
}

/// The will as it is kept with the session; `Err`: this terminal may not publish it.
pub(super) fn keep(will: Will, grant: &Grant) -> Result<Kept, Reason> {
    if filter::is_sys_topic(&will.topic)
        || filter::is_own_topic(&will.topic)
        || !grant.permissions.may_publish(&will.topic)
    {
        return Err(Reason::NOT_AUTHORIZED);
    }
    let ttl_ms = will.expiry_s.map(|seconds| u64::from(seconds) * 1_000);
    let message = Message {
        app: grant.app,
        kind: PushKind::Topic,
        topic: will.topic,
        qos: will.qos,
        payload: will.payload,
        properties: will.properties,
        retain: will.retain,
        tells_expiry: will.expiry_s.is_some(),
        publisher: grant.no,
    };
    Ok(Kept { message, delay_s: will.delay_s, ttl_ms })
}
