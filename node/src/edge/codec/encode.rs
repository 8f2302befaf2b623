//! Packets to bytes.

use bytes::{BufMut, BytesMut};
use cluster_proto::{AppId, Message, PushKind, Qos};
use fabric_core::mqtt::{
    Packet, ProtocolVersion, Reason,
    packet::{Ack, Codes, ConnAck, Disconnect, Publish},
};
use rumqttd::protocol::{self as wire, Protocol};

use super::template::PublishTemplate;

/// Appends a packet that an edge sends. What an edge never sends (CONNECT, SUBSCRIBE …) and what the version lacks
/// (DISCONNECT to 3.1.1) is left out.
pub fn encode(packet: &Packet, version: ProtocolVersion, buffer: &mut BytesMut) {
    match packet {
        Packet::Publish(publish) => return encode_publish(publish, version, buffer),
        Packet::Disconnect(disconnect) if version.is_v5() && is_bare(disconnect) => {
            // `rumqttd` 0.20 takes this length, 2, for the sign of a normal disconnection, and leaves the reason out.
            return buffer.put_slice(&[0xE0, 2, disconnect.reason.0, 0]);
        }
        _ => {}
    }
    let start = buffer.len();
    let written = if version.is_v5() {
        convert_v5(packet).map(|packet| wire::v5::V5.write(packet, buffer))
    } else {
        convert_v4(packet).map(|packet| wire::v4::V4.write(packet, buffer))
    };
    debug_assert!(matches!(written, Some(Ok(_)) | None), "{packet:?}: {written:?}");
    if matches!(written, Some(Err(_))) {
        // Only a packet over 256 MiB cannot be written; ours are built from bounded parts. Half of one must not leave.
        buffer.truncate(start);
    }
}

fn is_bare(disconnect: &Disconnect) -> bool {
    disconnect.reason_string.is_none() && disconnect.server_reference.is_none()
}

fn encode_publish(publish: &Publish, version: ProtocolVersion, buffer: &mut BytesMut) {
    let message = Message {
        app: AppId::DEFAULT,
        kind: PushKind::Topic,
        topic: publish.topic.clone(),
        qos: publish.qos,
        payload: publish.payload.clone(),
        properties: publish.properties.clone(),
        publisher: None,
        retain: false,
    };
    let has_expiry = publish.expiry_s.is_some();
    let template =
        PublishTemplate::new(&message, version, publish.qos, has_expiry, &publish.subscription_ids);
    let start = buffer.len();
    template.write(buffer, &publish.payload, publish.packet_id, publish.dup, publish.expiry_s);
    buffer[start] |= u8::from(publish.retain);
}

/// MQTT 3.1.1 has neither reasons nor properties.
fn convert_v4(packet: &Packet) -> Option<wire::Packet> {
    Some(match packet {
        Packet::ConnAck(connack) => {
            let code = match connack.reason.connack_v3() {
                0 => wire::ConnectReturnCode::Success,
                1 => wire::ConnectReturnCode::RefusedProtocolVersion,
                2 => wire::ConnectReturnCode::ClientIdentifierNotValid,
                4 => wire::ConnectReturnCode::BadUserNamePassword,
                5 => wire::ConnectReturnCode::NotAuthorized,
                _ => wire::ConnectReturnCode::ServiceUnavailable,
            };
            wire::Packet::ConnAck(wire::ConnAck { session_present: connack.session_present, code }, None)
        }
        Packet::PubAck(ack) => wire::Packet::PubAck(
            wire::PubAck { pkid: ack.packet_id, reason: wire::PubAckReason::Success },
            None,
        ),
        Packet::PubRec(ack) => wire::Packet::PubRec(
            wire::PubRec { pkid: ack.packet_id, reason: wire::PubRecReason::Success },
            None,
        ),
        Packet::PubRel(ack) => wire::Packet::PubRel(
            wire::PubRel { pkid: ack.packet_id, reason: wire::PubRelReason::Success },
            None,
        ),
        Packet::PubComp(ack) => wire::Packet::PubComp(
            wire::PubComp { pkid: ack.packet_id, reason: wire::PubCompReason::Success },
            None,
        ),
        Packet::SubAck(answer) => {
            let return_codes = answer.codes.iter().map(|code| suback_code_v4(*code)).collect();
            wire::Packet::SubAck(wire::SubAck { pkid: answer.packet_id, return_codes }, None)
        }
        Packet::UnsubAck(answer) => {
            wire::Packet::UnsubAck(wire::UnsubAck { pkid: answer.packet_id, reasons: Vec::new() }, None)
        }
        Packet::PingResp => wire::Packet::PingResp(wire::PingResp),
        _ => return None,
    })
}

fn convert_v5(packet: &Packet) -> Option<wire::Packet> {
    Some(match packet {
        Packet::ConnAck(connack) => convert_connack(connack),
        Packet::PubAck(ack) => wire::Packet::PubAck(
            wire::PubAck { pkid: ack.packet_id, reason: puback_reason(ack.reason) },
            None,
        ),
        Packet::PubRec(ack) => convert_pubrec(ack),
        Packet::PubRel(ack) => {
            let reason = match ack.reason {
                Reason::SUCCESS => wire::PubRelReason::Success,
                _ => wire::PubRelReason::PacketIdentifierNotFound,
            };
            wire::Packet::PubRel(wire::PubRel { pkid: ack.packet_id, reason }, None)
        }
        Packet::PubComp(ack) => {
            let reason = match ack.reason {
                Reason::SUCCESS => wire::PubCompReason::Success,
                _ => wire::PubCompReason::PacketIdentifierNotFound,
            };
            wire::Packet::PubComp(wire::PubComp { pkid: ack.packet_id, reason }, None)
        }
        Packet::SubAck(answer) => {
            let return_codes = answer.codes.iter().map(|code| suback_code(*code)).collect();
            wire::Packet::SubAck(wire::SubAck { pkid: answer.packet_id, return_codes }, None)
        }
        Packet::UnsubAck(answer) => convert_unsuback(answer),
        Packet::PingResp => wire::Packet::PingResp(wire::PingResp),
        Packet::Disconnect(disconnect) => convert_disconnect(disconnect),
        _ => return None,
    })
}

fn convert_connack(connack: &ConnAck) -> wire::Packet {
    let p = &connack.properties;
    let flag = |flag: Option<bool>| flag.map(u8::from);
    let properties = wire::ConnAckProperties {
        session_expiry_interval: p.session_expiry_s,
        receive_max: p.receive_maximum,
        // Absent means 2; the property itself can only say 0 or 1.
        max_qos: p.maximum_qos.filter(|qos| *qos < Qos::ExactlyOnce).map(|qos| qos as u8),
        retain_available: flag(p.retain_available),
        max_packet_size: p.packet_len_max,
        assigned_client_identifier: p.assigned_client_id.clone(),
        topic_alias_max: p.topic_alias_maximum,
        reason_string: p.reason_string.clone(),
        user_properties: Vec::new(),
        wildcard_subscription_available: flag(p.wildcard_available),
        subscription_identifiers_available: flag(p.subscription_ids_available),
        shared_subscription_available: flag(p.shared_available),
        server_keep_alive: p.server_keep_alive_s,
        response_information: None,
        server_reference: p.server_reference.clone(),
        authentication_method: None,
        authentication_data: None,
    };
    let code = connack_code(connack.reason);
    wire::Packet::ConnAck(wire::ConnAck { session_present: connack.session_present, code }, Some(properties))
}

fn connack_code(reason: Reason) -> wire::ConnectReturnCode {
    use wire::ConnectReturnCode as Code;
    match reason {
        Reason::SUCCESS => Code::Success,
        Reason::MALFORMED_PACKET => Code::MalformedPacket,
        Reason::PROTOCOL_ERROR => Code::ProtocolError,
        Reason::IMPLEMENTATION_SPECIFIC => Code::ImplementationSpecificError,
        Reason::UNSUPPORTED_VERSION => Code::UnsupportedProtocolVersion,
        Reason::CLIENT_ID_NOT_VALID => Code::ClientIdentifierNotValid,
        Reason::BAD_USER_NAME_OR_PASSWORD => Code::BadUserNamePassword,
        Reason::NOT_AUTHORIZED => Code::NotAuthorized,
        Reason::SERVER_UNAVAILABLE => Code::ServerUnavailable,
        Reason::SERVER_BUSY => Code::ServerBusy,
        Reason::BANNED => Code::Banned,
        Reason::BAD_AUTHENTICATION_METHOD => Code::BadAuthenticationMethod,
        Reason::TOPIC_NAME_INVALID => Code::TopicNameInvalid,
        Reason::PACKET_TOO_LARGE => Code::PacketTooLarge,
        Reason::QUOTA_EXCEEDED => Code::QuotaExceeded,
        Reason::PAYLOAD_FORMAT_INVALID => Code::PayloadFormatInvalid,
        Reason::RETAIN_NOT_SUPPORTED => Code::RetainNotSupported,
        Reason::QOS_NOT_SUPPORTED => Code::QoSNotSupported,
        Reason::USE_ANOTHER_SERVER => Code::UseAnotherServer,
        Reason::SERVER_MOVED => Code::ServerMoved,
        Reason::CONNECTION_RATE_EXCEEDED => Code::ConnectionRateExceeded,
        _ => Code::UnspecifiedError,
    }
}

fn puback_reason(reason: Reason) -> wire::PubAckReason {
    match reason {
        Reason::SUCCESS => wire::PubAckReason::Success,
        Reason::NO_MATCHING_SUBSCRIBERS => wire::PubAckReason::NoMatchingSubscribers,
        Reason::IMPLEMENTATION_SPECIFIC => wire::PubAckReason::ImplementationSpecificError,
        Reason::NOT_AUTHORIZED => wire::PubAckReason::NotAuthorized,
        Reason::TOPIC_NAME_INVALID => wire::PubAckReason::TopicNameInvalid,
        Reason::PACKET_ID_IN_USE => wire::PubAckReason::PacketIdentifierInUse,
        Reason::QUOTA_EXCEEDED => wire::PubAckReason::QuotaExceeded,
        Reason::PAYLOAD_FORMAT_INVALID => wire::PubAckReason::PayloadFormatInvalid,
        _ => wire::PubAckReason::UnspecifiedError,
    }
}

fn convert_pubrec(ack: &Ack) -> wire::Packet {
    let reason = if ack.reason.is_error() {
        wire::PubRecReason::UnspecifiedError
    } else {
        wire::PubRecReason::Success
    };
    wire::Packet::PubRec(wire::PubRec { pkid: ack.packet_id, reason }, None)
}

fn suback_code_v4(code: Reason) -> wire::SubscribeReasonCode {
    match code.suback_v3() {
        0 => wire::SubscribeReasonCode::QoS0,
        1 => wire::SubscribeReasonCode::QoS1,
        2 => wire::SubscribeReasonCode::QoS2,
        _ => wire::SubscribeReasonCode::Failure,
    }
}

fn suback_code(code: Reason) -> wire::SubscribeReasonCode {
    use wire::SubscribeReasonCode as Code;
    match code {
        Reason::SUCCESS => Code::QoS0,
        Reason::GRANTED_QOS_1 => Code::QoS1,
        Reason::GRANTED_QOS_2 => Code::QoS2,
        Reason::IMPLEMENTATION_SPECIFIC => Code::ImplementationSpecific,
        Reason::NOT_AUTHORIZED => Code::NotAuthorized,
        Reason::TOPIC_FILTER_INVALID => Code::TopicFilterInvalid,
        Reason::PACKET_ID_IN_USE => Code::PkidInUse,
        Reason::QUOTA_EXCEEDED => Code::QuotaExceeded,
        Reason::SHARED_SUBSCRIPTIONS_NOT_SUPPORTED => Code::SharedSubscriptionsNotSupported,
        Reason::SUBSCRIPTION_IDS_NOT_SUPPORTED => Code::SubscriptionIdNotSupported,
        Reason::WILDCARDS_NOT_SUPPORTED => Code::WildcardSubscriptionsNotSupported,
        _ => Code::Unspecified,
    }
}

fn convert_unsuback(answer: &Codes) -> wire::Packet {
    let reason = |code: &Reason| match *code {
        Reason::SUCCESS => wire::UnsubAckReason::Success,
        Reason::NO_SUBSCRIPTION_EXISTED => wire::UnsubAckReason::NoSubscriptionExisted,
        Reason::IMPLEMENTATION_SPECIFIC => wire::UnsubAckReason::ImplementationSpecificError,
        Reason::NOT_AUTHORIZED => wire::UnsubAckReason::NotAuthorized,
        Reason::TOPIC_FILTER_INVALID => wire::UnsubAckReason::TopicFilterInvalid,
        _ => wire::UnsubAckReason::UnspecifiedError,
    };
    let reasons = answer.codes.iter().map(reason).collect();
    wire::Packet::UnsubAck(wire::UnsubAck { pkid: answer.packet_id, reasons }, None)
}

fn convert_disconnect(disconnect: &Disconnect) -> wire::Packet {
    let properties = wire::DisconnectProperties {
        session_expiry_interval: None,
        reason_string: disconnect.reason_string.clone(),
        user_properties: Vec::new(),
        server_reference: disconnect.server_reference.clone(),
    };
    let reason_code = disconnect_code(disconnect.reason);
    wire::Packet::Disconnect(wire::Disconnect { reason_code }, Some(properties))
}

fn disconnect_code(reason: Reason) -> wire::DisconnectReasonCode {
    use wire::DisconnectReasonCode as Code;
    match reason {
        Reason::SUCCESS => Code::NormalDisconnection,
        Reason::MALFORMED_PACKET => Code::MalformedPacket,
        Reason::PROTOCOL_ERROR => Code::ProtocolError,
        Reason::IMPLEMENTATION_SPECIFIC => Code::ImplementationSpecificError,
        Reason::NOT_AUTHORIZED => Code::NotAuthorized,
        Reason::SERVER_BUSY => Code::ServerBusy,
        Reason::SERVER_SHUTTING_DOWN => Code::ServerShuttingDown,
        Reason::KEEP_ALIVE_TIMEOUT => Code::KeepAliveTimeout,
        Reason::SESSION_TAKEN_OVER => Code::SessionTakenOver,
        Reason::TOPIC_FILTER_INVALID => Code::TopicFilterInvalid,
        Reason::TOPIC_NAME_INVALID => Code::TopicNameInvalid,
        Reason::RECEIVE_MAXIMUM_EXCEEDED => Code::ReceiveMaximumExceeded,
        Reason::TOPIC_ALIAS_INVALID => Code::TopicAliasInvalid,
        Reason::PACKET_TOO_LARGE => Code::PacketTooLarge,
        Reason::MESSAGE_RATE_TOO_HIGH => Code::MessageRateTooHigh,
        Reason::QUOTA_EXCEEDED => Code::QuotaExceeded,
        Reason::ADMINISTRATIVE_ACTION => Code::AdministrativeAction,
        Reason::PAYLOAD_FORMAT_INVALID => Code::PayloadFormatInvalid,
        Reason::RETAIN_NOT_SUPPORTED => Code::RetainNotSupported,
        Reason::QOS_NOT_SUPPORTED => Code::QoSNotSupported,
        Reason::USE_ANOTHER_SERVER => Code::UseAnotherServer,
        Reason::SERVER_MOVED => Code::ServerMoved,
        Reason::SHARED_SUBSCRIPTIONS_NOT_SUPPORTED => Code::SharedSubscriptionNotSupported,
        Reason::CONNECTION_RATE_EXCEEDED => Code::ConnectionRateExceeded,
        Reason::MAXIMUM_CONNECT_TIME => Code::MaximumConnectTime,
        Reason::SUBSCRIPTION_IDS_NOT_SUPPORTED => Code::SubscriptionIdentifiersNotSupported,
        Reason::WILDCARDS_NOT_SUPPORTED => Code::WildcardSubscriptionsNotSupported,
        _ => Code::UnspecifiedError,
    }
}
