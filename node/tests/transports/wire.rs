//! Clients that block, so that a test reads like what is sent and received.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::Arc,
    time::Duration,
};

use carillon::{edge::Kind, transport::certs::CertificatePaths};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tungstenite::{Message, WebSocket, client::IntoClientRequest, http::HeaderValue};

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) trait Wire: Read + Write + Send {}

impl<T: Read + Write + Send> Wire for T {}

pub(crate) type Tls = StreamOwned<ClientConnection, TcpStream>;

pub(crate) fn tcp(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("connect");
    stream.set_nodelay(true).expect("nodelay");
    stream.set_read_timeout(Some(PATIENCE)).expect("timeout");
    stream
}

/// What a TLS client believes and shows.
pub(crate) struct TlsClient<'a> {
    pub(crate) ca: &'a Path,
    pub(crate) name: &'a str,
    pub(crate) versions: &'a [&'static SupportedProtocolVersion],
    pub(crate) shows: Option<&'a CertificatePaths>,
}

impl<'a> TlsClient<'a> {
    pub(crate) fn new(ca: &'a Path) -> Self {
        Self { ca, name: "localhost", versions: rustls::ALL_VERSIONS, shows: None }
    }

    /// Connects and does the handshake.
    pub(crate) fn connect(&self, address: SocketAddr) -> io::Result<Tls> {
        self.over(tcp(address))
    }

    pub(crate) fn over(&self, tcp: TcpStream) -> io::Result<Tls> {
        let name = ServerName::try_from(self.name.to_owned()).expect("name");
        let client = ClientConnection::new(Arc::new(self.config()), name).expect("client");
        let mut stream = StreamOwned::new(client, tcp);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(stream)
    }

    fn config(&self) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.ca).expect("PEM")).expect("authority");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(self.versions)
            .expect("versions")
            .with_root_certificates(roots);
        match self.shows {
            None => builder.with_no_client_auth(),
            Some(paths) => {
                let chain = vec![CertificateDer::from_pem_file(&paths.cert).expect("certificate")];
                let key = PrivateKeyDer::from_pem_file(&paths.key).expect("key");
                builder.with_client_auth_cert(chain, key).expect("client certificate")
            }
        }
    }
}

/// A WebSocket as a stream of bytes: each write is a message.
pub(crate) struct Ws<S> {
    pub(crate) socket: WebSocket<S>,
    unread: Vec<u8>,
}

pub(crate) fn websocket<S: Read + Write>(stream: S) -> Ws<S> {
    let mut request = "ws://localhost/mqtt".into_client_request().expect("request");
    request.headers_mut().insert("Sec-WebSocket-Protocol", HeaderValue::from_static("mqtt"));
    let (socket, response) = match tungstenite::client(request, stream) {
        Ok(opened) => opened,
        Err(error) => panic!("handshake: {error}"),
    };
    assert_eq!(response.headers()["Sec-WebSocket-Protocol"], "mqtt");
    Ws { socket, unread: Vec::new() }
}

impl<S: Read + Write> Read for Ws<S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.unread.is_empty() {
            match self.socket.read().map_err(io::Error::other)? {
                Message::Binary(bytes) => self.unread.extend_from_slice(&bytes),
                Message::Close(_) => return Ok(0),
                _ => {}
            }
        }
        let count = self.unread.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.unread[..count]);
        self.unread.drain(..count);
        Ok(count)
    }
}

impl<S: Read + Write> Write for Ws<S> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.send(Message::binary(bytes.to_vec())).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A client on a listener of this kind, handshakes done.
pub(crate) fn open(kind: Kind, address: SocketAddr, ca: &Path) -> Box<dyn Wire> {
    let tls = || TlsClient::new(ca).connect(address).expect("TLS");
    match kind {
        Kind::Tcp => Box::new(tcp(address)),
        Kind::Tls => Box::new(tls()),
        Kind::Ws => Box::new(websocket(tcp(address))),
        Kind::Wss => Box::new(websocket(tls())),
    }
}

/// CONNECT of a 3.1.1 client with a clean session.
pub(crate) fn connect(id: &str) -> Vec<u8> {
    let len = (12 + id.len()) as u8;
    [&[0x10, len, 0, 4][..], b"MQTT", &[4, 2, 0, 60, 0, id.len() as u8], id.as_bytes()].concat()
}

/// SUBSCRIBE at QoS 0.
pub(crate) fn subscribe(filter: &str) -> Vec<u8> {
    let len = (5 + filter.len()) as u8;
    [&[0x82, len, 0, 1, 0, filter.len() as u8], filter.as_bytes(), &[0]].concat()
}

/// PUBLISH at QoS 0.
pub(crate) fn publish(topic: &str, payload: &[u8]) -> Vec<u8> {
    let mut len = 2 + topic.len() + payload.len();
    let mut packet = vec![0x30];
    while len > 0x7F {
        packet.push(0x80 | (len & 0x7F) as u8);
        len >>= 7;
    }
    packet.push(len as u8);
    packet.extend_from_slice(&[0, topic.len() as u8]);
    [&packet[..], topic.as_bytes(), payload].concat()
}

pub(crate) const PING: &[u8] = &[0xC0, 0];
pub(crate) const PONG: &[u8] = &[0xD0, 0];
pub(crate) const CONNACK: &[u8] = &[0x20, 2, 0, 0];
pub(crate) const SUBACK: &[u8] = &[0x90, 3, 0, 1, 0];

/// The next bytes have to be these.
pub(crate) fn expect(wire: &mut (impl Read + ?Sized), bytes: &[u8]) {
    let mut read = vec![0; bytes.len()];
    wire.read_exact(&mut read).expect("bytes, not the end");
    assert!(read == bytes, "{:?}", &read[..read.len().min(100)]);
}

/// Connects, and is answered.
pub(crate) fn join(wire: &mut (impl Read + Write + ?Sized), id: &str) {
    wire.write_all(&connect(id)).expect("write");
    expect(wire, CONNACK);
}

/// Nothing comes any more: the edge closed the connection.
pub(crate) fn expect_end(wire: &mut (impl Read + ?Sized)) {
    let mut rest = Vec::new();
    match wire.read_to_end(&mut rest) {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
        // Without a good-bye of TLS: the gate spends none.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
        Err(error) => panic!("not the end: {error}"),
    }
}
