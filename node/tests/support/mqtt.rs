//! A bare MQTT client: it sends and sees bytes, and acknowledges nothing by itself.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio_rustls::TlsConnector;

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Client {
    stream: Box<dyn Stream>,
    v5: bool,
}

/// TCP or TLS.
trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A packet as it came: the first byte and what follows the length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Raw {
    pub(crate) first: u8,
    pub(crate) body: Vec<u8>,
}

/// A PUBLISH.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Received {
    pub(crate) topic: String,
    pub(crate) payload: String,
    pub(crate) qos: u8,
    pub(crate) packet_id: u16,
    pub(crate) dup: bool,
    pub(crate) retain: bool,
}

#[derive(Default, Clone)]
pub(crate) struct Connect<'a> {
    pub(crate) id: &'a str,
    pub(crate) v5: bool,
    pub(crate) persistent: bool,
    pub(crate) user: Option<&'a str>,
    pub(crate) password: Option<&'a str>,
    /// Topic and payload; QoS 1.
    pub(crate) will: Option<(&'a str, &'a str)>,
    /// MQTT 5: the method and data of enhanced authentication.
    pub(crate) method: Option<(&'a str, &'a str)>,
}

impl Client {
    /// Sends CONNECT and does not wait.
    pub(crate) async fn open(address: SocketAddr, connect: &Connect<'_>) -> Self {
        let stream = TcpStream::connect(address).await.expect("connect");
        stream.set_nodelay(true).expect("nodelay");
        let mut client = Self { stream: Box::new(stream), v5: connect.v5 };
        client.send(0x10, &connect_body(connect)).await;
        client
    }

    /// Connects over TLS as a 3.1.1 client with a clean session.
    pub(crate) async fn connect_tls(address: SocketAddr, ca_pem: &[u8], id: &str) -> Self {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(ca_pem).expect("PEM")).expect("authority");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let tcp = TcpStream::connect(address).await.expect("connect");
        let name = ServerName::try_from("localhost").expect("name");
        let stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await.expect("TLS");
        let mut client = Self { stream: Box::new(stream), v5: false };
        client.send(0x10, &connect_body(&Connect { id, ..Connect::default() })).await;
        assert_eq!(client.next().await.map(|raw| (raw.first, raw.body)), Some((0x20, vec![0, 0])));
        client
    }

    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.expect("write");
        self.stream.flush().await.expect("flush");
    }

    /// Connects; answers the client and what CONNACK said.
    pub(crate) async fn connect(address: SocketAddr, connect: &Connect<'_>) -> (Self, u8) {
        let mut client = Self::open(address, connect).await;
        let connack = client.next().await.expect("CONNACK");
        assert_eq!(connack.first, 0x20, "{connack:?}");
        (client, connack.body[1])
    }

    /// Connects as a 3.1.1 client with a clean session.
    pub(crate) async fn join(address: SocketAddr, id: &str) -> Self {
        let (client, code) = Self::connect(address, &Connect { id, ..Connect::default() }).await;
        assert_eq!(code, 0, "CONNACK of {id}");
        client
    }

    pub(crate) async fn send(&mut self, first: u8, body: &[u8]) {
        let mut packet = vec![first];
        let mut len = body.len();
        loop {
            let byte = (len & 0x7f) as u8;
            len >>= 7;
            packet.push(if len > 0 { byte | 0x80 } else { byte });
            if len == 0 {
                break;
            }
        }
        packet.extend_from_slice(body);
        self.send_bytes(&packet).await;
    }

    /// The next packet; `None` when the edge closed the connection.
    pub(crate) async fn next(&mut self) -> Option<Raw> {
        timeout(PATIENCE, self.read()).await.expect("a packet in time")
    }

    async fn read(&mut self) -> Option<Raw> {
        let first = self.stream.read_u8().await.ok()?;
        let (mut len, mut shift) = (0usize, 0);
        loop {
            let byte = self.stream.read_u8().await.ok()?;
            len |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let mut body = vec![0; len];
        self.stream.read_exact(&mut body).await.ok()?;
        Some(Raw { first, body })
    }

    pub(crate) async fn next_publish(&mut self) -> Received {
        let raw = self.next().await.expect("PUBLISH, not the end");
        assert_eq!(raw.first >> 4, 3, "{raw:?}");
        let qos = (raw.first >> 1) & 3;
        let topic_len = usize::from(u16::from_be_bytes([raw.body[0], raw.body[1]]));
        let topic = String::from_utf8(raw.body[2..2 + topic_len].to_vec()).expect("topic");
        let mut at = 2 + topic_len;
        let mut packet_id = 0;
        if qos > 0 {
            packet_id = u16::from_be_bytes([raw.body[at], raw.body[at + 1]]);
            at += 2;
        }
        if self.v5 {
            at += 1 + usize::from(raw.body[at]);
        }
        let payload = String::from_utf8(raw.body[at..].to_vec()).expect("payload");
        Received { topic, payload, qos, packet_id, dup: raw.first & 8 > 0, retain: raw.first & 1 > 0 }
    }

    /// PUBREC, PUBREL and PUBCOMP.
    pub(crate) async fn pubrec(&mut self, packet_id: u16) {
        self.send(0x50, &packet_id.to_be_bytes()).await;
    }

    pub(crate) async fn pubrel(&mut self, packet_id: u16) {
        self.send(0x62, &packet_id.to_be_bytes()).await;
    }

    pub(crate) async fn pubcomp(&mut self, packet_id: u16) {
        self.send(0x70, &packet_id.to_be_bytes()).await;
    }

    /// The next packet is an acknowledgement of this kind for this packet id.
    pub(crate) async fn expect(&mut self, first: u8, packet_id: u16) {
        let raw = self.next().await.expect("a packet, not the end");
        assert_eq!((raw.first, &raw.body[..2]), (first, &packet_id.to_be_bytes()[..]), "{raw:?}");
    }

    pub(crate) async fn disconnect(mut self) {
        self.send(0xE0, &[]).await;
        assert_eq!(self.next().await, None);
    }

    pub(crate) async fn ack(&mut self, packet_id: u16) {
        self.send(0x40, &packet_id.to_be_bytes()).await;
    }

    /// Receives and acknowledges one PUBLISH; answers its payload.
    pub(crate) async fn take(&mut self) -> String {
        let received = self.next_publish().await;
        if received.qos > 0 {
            self.ack(received.packet_id).await;
        }
        received.payload
    }

    pub(crate) async fn subscribe(&mut self, filter: &str, qos: u8) -> u8 {
        self.send_subscribe(filter, qos).await;
        let suback = self.next().await.expect("SUBACK");
        assert_eq!(suback.first, 0x90, "{suback:?}");
        *suback.body.last().expect("a code")
    }

    pub(crate) async fn send_subscribe(&mut self, filter: &str, qos: u8) {
        let mut body = vec![0, 7];
        if self.v5 {
            body.push(0);
        }
        put_text(&mut body, filter);
        body.push(qos);
        self.send(0x82, &body).await;
    }

    pub(crate) async fn publish(&mut self, topic: &str, payload: &str, qos: u8, packet_id: u16) {
        self.publish_with(0x30 | (qos << 1), topic, payload, packet_id).await;
    }

    /// `first`: with the flags.
    pub(crate) async fn publish_with(&mut self, first: u8, topic: &str, payload: &str, packet_id: u16) {
        let mut body = Vec::new();
        put_text(&mut body, topic);
        if first & 0x06 > 0 {
            body.extend_from_slice(&packet_id.to_be_bytes());
        }
        if self.v5 {
            body.push(0);
        }
        body.extend_from_slice(payload.as_bytes());
        self.send(first, &body).await;
    }

    pub(crate) async fn ping(&mut self) {
        self.send(0xC0, &[]).await;
        assert_eq!(self.next().await.map(|raw| raw.first), Some(0xD0));
    }
}

fn connect_body(connect: &Connect<'_>) -> Vec<u8> {
    let mut body = Vec::new();
    put_text(&mut body, "MQTT");
    body.push(if connect.v5 { 5 } else { 4 });
    let flag = |on: bool, bits: u8| if on { bits } else { 0 };
    let flags = flag(!connect.persistent, 0x02)
        | flag(connect.will.is_some(), 0x0C)
        | flag(connect.password.is_some(), 0x40)
        | flag(connect.user.is_some(), 0x80);
    body.push(flags);
    body.extend_from_slice(&[0, 60]);
    if connect.v5 {
        let mut properties = Vec::new();
        if connect.persistent {
            properties.extend_from_slice(&[0x11, 0, 0, 0, 100]);
        }
        if let Some((method, data)) = connect.method {
            put_property(&mut properties, 0x15, method);
            put_property(&mut properties, 0x16, data);
        }
        put_properties(&mut body, &properties);
    }
    put_text(&mut body, connect.id);
    if let Some((topic, payload)) = connect.will {
        if connect.v5 {
            body.push(0);
        }
        put_text(&mut body, topic);
        put_text(&mut body, payload);
    }
    for text in [connect.user, connect.password].into_iter().flatten() {
        put_text(&mut body, text);
    }
    body
}

/// A text property with its identifier.
pub(crate) fn put_property(properties: &mut Vec<u8>, identifier: u8, text: &str) {
    properties.push(identifier);
    put_text(properties, text);
}

/// Properties behind their length, which is below 16 KiB.
pub(crate) fn put_properties(body: &mut Vec<u8>, properties: &[u8]) {
    let len = properties.len();
    if len > 127 {
        body.extend_from_slice(&[(len & 0x7f) as u8 | 0x80, (len >> 7) as u8]);
    } else {
        body.push(len as u8);
    }
    body.extend_from_slice(properties);
}

fn put_text(body: &mut Vec<u8>, text: &str) {
    body.extend_from_slice(&(text.len() as u16).to_be_bytes());
    body.extend_from_slice(text.as_bytes());
}
