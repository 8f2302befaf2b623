//! The clients of others that every checkout has: mosquitto's, and rumqttc.

use std::time::Duration;

use conformance_tests::{
    nodes::{Nodes, nodes},
    programs::{passes, script},
    unique,
};
use rumqttc::{QoS, v5};
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(15);

#[test]
fn mosquittos_clients_work() {
    let nodes = nodes();
    let _steady = nodes.steady();
    for (version, checks) in [
        ("3.1", &["qos_both_ways", "retained", "will", "session"][..]),
        ("3.1.1", &["qos_both_ways", "retained", "will", "session"]),
        ("5", &["qos_both_ways", "retained", "will", "session", "shared", "request"]),
    ] {
        let mut arguments = vec![version.to_owned()];
        arguments.extend((1..=3).map(|id| nodes.mqtt(id).to_string()));
        passes(&script("mosquitto_checks.sh"), &arguments, checks);
    }
}

/// What the checks need of a client, whatever its version.
enum Terminal {
    V4(rumqttc::AsyncClient, Box<rumqttc::EventLoop>),
    V5(v5::AsyncClient, Box<v5::EventLoop>),
}

/// What comes.
#[derive(Debug, PartialEq, Eq)]
enum Event {
    Connected {
        present: bool,
    },
    Subscribed,
    /// PUBACK or PUBCOMP.
    Published,
    Message {
        text: String,
        qos: u8,
        retain: bool,
    },
}

impl Terminal {
    async fn open(new: bool, id: &str, port: u16, lasting: bool, will: Option<&str>) -> (Self, bool) {
        let mut terminal = if new {
            let mut options = v5::MqttOptions::new(id, "127.0.0.1", port);
            options.set_clean_start(!lasting).set_session_expiry_interval(lasting.then_some(600));
            if let Some(topic) = will {
                let qos = v5::mqttbytes::QoS::AtLeastOnce;
                options.set_last_will(v5::mqttbytes::v5::LastWill::new(topic, "gone", qos, false, None));
            }
            let (client, events) = v5::AsyncClient::new(options, 64);
            Self::V5(client, Box::new(events))
        } else {
            let mut options = rumqttc::MqttOptions::new(id, "127.0.0.1", port);
            options.set_clean_session(!lasting);
            if let Some(topic) = will {
                options.set_last_will(rumqttc::LastWill::new(topic, "gone", QoS::AtLeastOnce, false));
            }
            let (client, events) = rumqttc::AsyncClient::new(options, 64);
            Self::V4(client, Box::new(events))
        };
        let Event::Connected { present } = terminal.next().await else { panic!("CONNACK expected") };
        (terminal, present)
    }

    async fn poll(&mut self) -> Option<Event> {
        match self {
            Self::V4(_, events) => match events.poll().await.expect("a connection") {
                rumqttc::Event::Incoming(rumqttc::Packet::ConnAck(ack)) => {
                    Some(Event::Connected { present: ack.session_present })
                }
                rumqttc::Event::Incoming(rumqttc::Packet::SubAck(_)) => Some(Event::Subscribed),
                rumqttc::Event::Incoming(rumqttc::Packet::PubAck(_) | rumqttc::Packet::PubComp(_)) => {
                    Some(Event::Published)
                }
                rumqttc::Event::Incoming(rumqttc::Packet::Publish(message)) => Some(Event::Message {
                    text: String::from_utf8_lossy(&message.payload).into_owned(),
                    qos: message.qos as u8,
                    retain: message.retain,
                }),
                _ => None,
            },
            Self::V5(_, events) => {
                use v5::mqttbytes::v5::Packet;
                match events.poll().await.expect("a connection") {
                    v5::Event::Incoming(Packet::ConnAck(ack)) => {
                        Some(Event::Connected { present: ack.session_present })
                    }
                    v5::Event::Incoming(Packet::SubAck(_)) => Some(Event::Subscribed),
                    v5::Event::Incoming(Packet::PubAck(_) | Packet::PubComp(_)) => Some(Event::Published),
                    v5::Event::Incoming(Packet::Publish(message)) => Some(Event::Message {
                        text: String::from_utf8_lossy(&message.payload).into_owned(),
                        qos: message.qos as u8,
                        retain: message.retain,
                    }),
                    _ => None,
                }
            }
        }
    }

    async fn next(&mut self) -> Event {
        let next = async {
            loop {
                if let Some(event) = self.poll().await {
                    return event;
                }
            }
        };
        timeout(LIMIT, next).await.expect("something comes within the limit")
    }

    async fn message(&mut self) -> (String, u8, bool) {
        match self.next().await {
            Event::Message { text, qos, retain } => (text, qos, retain),
            other => panic!("a message expected, not {other:?}"),
        }
    }

    async fn subscribe(&mut self, topic: &str) {
        match self {
            Self::V4(client, _) => client.subscribe(topic, QoS::ExactlyOnce).await.expect("subscribe"),
            Self::V5(client, _) => {
                client.subscribe(topic, v5::mqttbytes::QoS::ExactlyOnce).await.expect("subscribe");
            }
        }
        assert_eq!(self.next().await, Event::Subscribed);
    }

    /// Publishes; for QoS 1 and 2, to the end of the exchange.
    async fn publish(&mut self, topic: &str, text: &str, qos: u8, retain: bool) {
        match self {
            Self::V4(client, _) => {
                let qos = rumqttc::qos(qos).expect("a QoS");
                client.publish(topic, qos, retain, text).await.expect("publish");
            }
            Self::V5(client, _) => {
                let qos = v5::mqttbytes::qos(qos).expect("a QoS");
                client.publish(topic, qos, retain, text.to_owned()).await.expect("publish");
            }
        }
        if qos > 0 {
            assert_eq!(self.next().await, Event::Published);
        }
    }

    async fn bye(mut self) {
        match &self {
            Self::V4(client, _) => client.disconnect().await.expect("disconnect"),
            Self::V5(client, _) => client.disconnect().await.expect("disconnect"),
        }
        // Until it has left: then the event loop has nothing to do but to fail.
        let _ = timeout(Duration::from_millis(200), async {
            loop {
                let gone = match &mut self {
                    Self::V4(_, events) => events.poll().await.is_err(),
                    Self::V5(_, events) => events.poll().await.is_err(),
                };
                if gone {
                    break;
                }
            }
        })
        .await;
    }
}

#[test]
fn rumqttc_works() {
    let nodes = nodes();
    let _steady = nodes.steady();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    for new in [false, true] {
        runtime.block_on(qos_both_ways(&nodes, new));
        runtime.block_on(retained_and_will(&nodes, new));
        runtime.block_on(session_moves(&nodes, new));
    }
}

async fn qos_both_ways(nodes: &Nodes, new: bool) {
    let topic = unique("rumqttc");
    let (mut here, _) = Terminal::open(new, &unique("here"), nodes.mqtt(1).port(), false, None).await;
    let (mut there, _) = Terminal::open(new, &unique("there"), nodes.mqtt(2).port(), false, None).await;
    there.subscribe(&topic).await;
    for qos in [1, 2] {
        here.publish(&topic, "x", qos, false).await;
        assert_eq!(there.message().await, ("x".to_owned(), qos, false));
    }
    // QoS 0 on one node: between nodes it waits for filters to be told.
    there.publish(&topic, "zero", 0, false).await;
    assert_eq!(there.message().await, ("zero".to_owned(), 0, false));
}

async fn retained_and_will(nodes: &Nodes, new: bool) {
    let topic = unique("rumqttc");
    let (mut dying, _) =
        Terminal::open(new, &unique("dying"), nodes.mqtt(1).port(), false, Some(&topic)).await;
    dying.publish(&topic, "kept", 1, true).await;
    let (mut listener, _) = Terminal::open(new, &unique("later"), nodes.mqtt(3).port(), false, None).await;
    listener.subscribe(&topic).await;
    assert_eq!(listener.message().await, ("kept".to_owned(), 1, true));
    drop(dying);
    assert_eq!(listener.message().await, ("gone".to_owned(), 1, false));
}

async fn session_moves(nodes: &Nodes, new: bool) {
    let (topic, id) = (unique("rumqttc"), unique("moving"));
    let (mut terminal, present) = Terminal::open(new, &id, nodes.mqtt(1).port(), true, None).await;
    assert!(!present);
    terminal.subscribe(&topic).await;
    terminal.bye().await;
    let (mut publisher, _) =
        Terminal::open(new, &unique("publisher"), nodes.mqtt(2).port(), false, None).await;
    for (text, qos) in [("one", 1), ("two", 2), ("three", 1)] {
        publisher.publish(&topic, text, qos, false).await;
    }
    let (mut terminal, present) = Terminal::open(new, &id, nodes.mqtt(3).port(), true, None).await;
    assert!(present);
    for expected in ["one", "two", "three"] {
        assert_eq!(terminal.message().await.0, expected);
    }
}
