//! One MQTT connection, of either protocol version.
//!
//! Every connection gets a client of its own: rumqttc keeps requests over its own reconnections, and an
//! acknowledgement of one connection must never leave on the next.

use std::time::Duration;

use anyhow::{Result, anyhow};
use rumqttc::{NetworkOptions, Packet, QoS, v5};

const KEEP_ALIVE: Duration = Duration::from_secs(5);
const CONNECT_LIMIT_S: u64 = 3;
/// Requests that wait for the socket: more than a terminal's in-flight window.
const REQUESTS: usize = 1_024;
const SESSION_EXPIRY_S: u32 = 24 * 3_600;

/// How to connect.
#[derive(Clone, Debug)]
pub(super) struct Login {
    pub(super) id: String,
    pub(super) token: String,
    pub(super) port: u16,
    pub(super) persistent: bool,
}

/// What arrived.
#[derive(Debug)]
pub(super) enum Incoming {
    Connected { session_present: bool },
    Subscribed,
    Published,
    Message { payload: Vec<u8>, receipt: Box<Receipt> },
    Other,
}

/// What is needed to acknowledge a message.
#[derive(Debug)]
pub(super) enum Receipt {
    V4(rumqttc::Publish),
    V5(v5::mqttbytes::v5::Publish),
}

/// The connection. Dropping it closes the socket without a DISCONNECT.
pub(super) enum Connection {
    V4(rumqttc::AsyncClient, Box<rumqttc::EventLoop>),
    V5(v5::AsyncClient, Box<v5::EventLoop>),
}

impl Connection {
    pub(super) fn v4(login: &Login) -> Self {
        let mut options = rumqttc::MqttOptions::new(&login.id, "127.0.0.1", login.port);
        options.set_credentials("default", &login.token).set_clean_session(!login.persistent);
        options.set_keep_alive(KEEP_ALIVE).set_manual_acks(true);
        let (client, mut events) = rumqttc::AsyncClient::new(options, REQUESTS);
        let mut network = NetworkOptions::new();
        network.set_connection_timeout(CONNECT_LIMIT_S);
        events.set_network_options(network);
        Self::V4(client, Box::new(events))
    }

    pub(super) fn v5(login: &Login) -> Self {
        let mut options = v5::MqttOptions::new(&login.id, "127.0.0.1", login.port);
        options.set_credentials("default", &login.token).set_clean_start(!login.persistent);
        options.set_session_expiry_interval(login.persistent.then_some(SESSION_EXPIRY_S));
        options.set_keep_alive(KEEP_ALIVE).set_manual_acks(true).set_connection_timeout(CONNECT_LIMIT_S);
        let (client, events) = v5::AsyncClient::new(options, REQUESTS);
        Self::V5(client, Box::new(events))
    }

    /// The next thing that happens; an error ends the connection. The first is CONNACK.
    pub(super) async fn next(&mut self) -> Result<Incoming> {
        match self {
            Self::V4(_, events) => match events.poll().await? {
                rumqttc::Event::Incoming(packet) => incoming_v4(packet),
                rumqttc::Event::Outgoing(_) => Ok(Incoming::Other),
            },
            Self::V5(_, events) => match events.poll().await? {
                v5::Event::Incoming(packet) => incoming_v5(packet),
                v5::Event::Outgoing(_) => Ok(Incoming::Other),
            },
        }
    }

    pub(super) fn subscribe(&self, filters: &[String]) -> Result<()> {
        match self {
            Self::V4(client, _) => {
                let filters =
                    filters.iter().map(|f| rumqttc::SubscribeFilter::new(f.clone(), QoS::AtLeastOnce));
                client.try_subscribe_many(filters)?;
            }
            Self::V5(client, _) => {
                let filters = filters
                    .iter()
                    .map(|f| v5::mqttbytes::v5::Filter::new(f.clone(), v5::mqttbytes::QoS::AtLeastOnce));
                client.try_subscribe_many(filters)?;
            }
        }
        Ok(())
    }

    pub(super) fn publish(&self, topic: &str, payload: Vec<u8>) -> Result<()> {
        match self {
            Self::V4(client, _) => client.try_publish(topic, QoS::AtLeastOnce, false, payload)?,
            Self::V5(client, _) => {
                client.try_publish(topic, v5::mqttbytes::QoS::AtLeastOnce, false, payload)?
            }
        }
        Ok(())
    }

    pub(super) fn acknowledge(&self, receipt: &Receipt) -> Result<()> {
        match (self, receipt) {
            (Self::V4(client, _), Receipt::V4(publish)) => Ok(client.try_ack(publish)?),
            (Self::V5(client, _), Receipt::V5(publish)) => Ok(client.try_ack(publish)?),
            _ => Err(anyhow!("a receipt of another connection")),
        }
    }
}

fn incoming_v4(packet: Packet) -> Result<Incoming> {
    let granted = rumqttc::SubscribeReasonCode::Success(QoS::AtLeastOnce);
    Ok(match packet {
        Packet::ConnAck(ack) => Incoming::Connected { session_present: ack.session_present },
        Packet::SubAck(ack) if ack.return_codes.iter().all(|code| *code == granted) => Incoming::Subscribed,
        Packet::PubAck(_) => Incoming::Published,
        Packet::Publish(publish) => {
            Incoming::Message { payload: publish.payload.to_vec(), receipt: Box::new(Receipt::V4(publish)) }
        }
        Packet::SubAck(ack) => return Err(anyhow!("SUBSCRIBE refused: {:?}", ack.return_codes)),
        _ => Incoming::Other,
    })
}

fn incoming_v5(packet: v5::mqttbytes::v5::Packet) -> Result<Incoming> {
    use v5::mqttbytes::v5::{Packet, PubAckReason, SubscribeReasonCode};
    let granted = SubscribeReasonCode::Success(v5::mqttbytes::QoS::AtLeastOnce);
    Ok(match packet {
        Packet::ConnAck(ack) => Incoming::Connected { session_present: ack.session_present },
        Packet::SubAck(ack) if ack.return_codes.iter().all(|code| *code == granted) => Incoming::Subscribed,
        Packet::SubAck(ack) => return Err(anyhow!("SUBSCRIBE refused: {:?}", ack.return_codes)),
        Packet::PubAck(ack)
            if matches!(ack.reason, PubAckReason::Success | PubAckReason::NoMatchingSubscribers) =>
        {
            Incoming::Published
        }
        Packet::PubAck(ack) => return Err(anyhow!("PUBLISH refused: {:?}", ack.reason)),
        Packet::Publish(publish) => {
            Incoming::Message { payload: publish.payload.to_vec(), receipt: Box::new(Receipt::V5(publish)) }
        }
        _ => Incoming::Other,
    })
}
