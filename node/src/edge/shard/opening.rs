//! From a TCP connection to the first byte of MQTT.
//!
//! ```text
//!  accept ─► gate ─► [PROXY header] ─► gate, by address ─► [TLS] ─► [WebSocket] ─► shard: CONNECT …
//!            └───────────── one time-out (`connect_timeout`), CONNECT included ─────────────┘
//! ```

use std::{cell::RefCell, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use bytes::BytesMut;
use tokio::{net::TcpStream, task::spawn_local, time::timeout};

use super::{
    Shard,
    connection::serve,
    proxy,
    socket::{Link, Socket},
    websocket::Request,
};
use crate::{
    edge::{
        clock,
        gate::{Handshake, Place, Turned},
        listener::Kind,
        shared::EdgeShared,
    },
    transport::tls::TlsSlot,
};

/// Bytes of a WebSocket's request read at once.
const REQUEST_READ_LEN: usize = 2 * 1024;
/// Frames up to this length are taken, however small packets have to be: a frame may hold many.
const FRAME_LEN_MIN: u64 = 64 * 1024;

/// The way of a listener's connections into a shard.
#[derive(Clone)]
pub(super) struct Entrance {
    pub(super) shard: Rc<RefCell<Shard>>,
    pub(super) shared: Arc<EdgeShared>,
    pub(super) kind: Kind,
    pub(super) proxy_protocol: bool,
    pub(super) tls: Option<Arc<TlsSlot>>,
}

impl Entrance {
    /// A connection was accepted.
    pub(super) fn admit(&self, tcp: TcpStream, peer: SocketAddr) {
        let since_ms = clock::now_ms();
        if let Err(why) = self.try_admit(tcp, peer, since_ms) {
            self.turned(why, peer);
        }
    }

    /// No connection could be accepted.
    pub(super) fn failed(&self, error: &std::io::Error) {
        tracing::debug!(listener = self.kind.name(), "accept: {error}");
        self.shared.gate.turned(self.kind, Turned::Accept, None, clock::now_ms());
    }

    fn try_admit(&self, tcp: TcpStream, peer: SocketAddr, since_ms: u64) -> Result<(), Turned> {
        if !self.shared.has_room() {
            return Err(Turned::Full);
        }
        let handshake = self.shared.gate.knock(self.kind, since_ms)?;
        // Small answers must not wait for more. A socket that refuses is about to fail anyway.
        let _ = tcp.set_nodelay(true);
        if self.kind == Kind::Tcp && !self.proxy_protocol {
            let place = self.shared.gate.enter(peer.ip(), since_ms)?;
            return self.seat(Socket::new(Link::plain(tcp), peer, place, None), since_ms);
        }
        spawn_local(self.clone().open(tcp, peer, since_ms, handshake));
        Ok(())
    }

    async fn open(self, tcp: TcpStream, peer: SocketAddr, since_ms: u64, handshake: Handshake) {
        let within = Duration::from_millis(self.shared.session_config.connect_timeout_ms);
        let opened = timeout(within, self.handshakes(tcp, peer)).await.unwrap_or(Err(Turned::TimedOut));
        drop(handshake);
        if let Err(why) = opened.and_then(|socket| self.seat(socket, since_ms)) {
            self.turned(why, peer);
        }
    }

    async fn handshakes(&self, mut tcp: TcpStream, peer: SocketAddr) -> Result<Socket, Turned> {
        let failed = |why, error: &dyn std::fmt::Display| {
            tracing::debug!(listener = self.kind.name(), %peer, "{why:?}: {error}");
            why
        };
        let peer = match self.proxy_protocol {
            true => proxy::read(&mut tcp).await.map_err(|e| failed(Turned::ProxyHeader, &e))?.unwrap_or(peer),
            false => peer,
        };
        let place: Place = self.shared.gate.enter(peer.ip(), clock::now_ms())?;
        let mut link = match &self.tls {
            Some(tls) => Link::tls(tcp, tls.current()).map_err(|e| failed(Turned::Tls, &e))?,
            None => Link::plain(tcp),
        };
        link.handshake().await.map_err(|e| failed(Turned::Tls, &e))?;
        if !self.kind.is_websocket() {
            return Ok(Socket::new(link, peer, place, None));
        }
        upgrade(&mut link).await.map_err(|e| failed(Turned::WebSocket, &e))?;
        let frame_len_max = u64::from(self.shared.session_config.packet_len_max).max(FRAME_LEN_MIN);
        Ok(Socket::new(link, peer, place, Some(frame_len_max)))
    }

    /// Hands it to the shard; its session waits for CONNECT from here on.
    fn seat(&self, socket: Socket, since_ms: u64) -> Result<(), Turned> {
        let (slot, id) = self.shard.borrow_mut().insert(socket, since_ms).ok_or(Turned::Full)?;
        spawn_local(serve(Rc::clone(&self.shard), slot, id));
        Ok(())
    }

    fn turned(&self, why: Turned, peer: SocketAddr) {
        self.shared.gate.turned(self.kind, why, Some(peer.ip()), clock::now_ms());
    }
}

/// The HTTP request that begins a WebSocket, and its answer.
async fn upgrade(link: &mut Link) -> anyhow::Result<()> {
    let (mut request, mut buffer) = (Request::default(), BytesMut::new());
    loop {
        buffer.clear();
        let count = link.read(&mut buffer, REQUEST_READ_LEN).await?;
        anyhow::ensure!(count > 0, "the connection ended before the request did");
        match request.push(&buffer) {
            None => {}
            Some(Ok(answer)) => return Ok(link.write_all(&answer).await?),
            Some(Err(refused)) => {
                link.write_all(&refused.response()).await?;
                link.close();
                return Err(refused.into());
            }
        }
    }
}
