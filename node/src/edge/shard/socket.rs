//! A terminal's socket: TCP, perhaps TLS on it, perhaps WebSocket on that. Used without waiting: whoever would block
//! comes back on readiness.

use std::{
    io::{self, IoSlice, Read, Write},
    net::{Shutdown, SocketAddr},
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use rustls::{ServerConfig, ServerConnection};
use tokio::{net::TcpStream, task::coop};
use tungstenite::protocol::frame::coding::CloseCode;

use super::websocket::WebSocket;
use crate::{edge::gate::Place, transport::tls};

/// Plaintext rustls may hold for a socket that takes no more; the rest stays in our own, bounded, buffer.
const TLS_BUFFER_LEN_MAX: usize = 64 * 1024;
/// Reads in a row that bring frames and nothing of MQTT.
const READS_MAX: usize = 4;

/// TCP, plain or with TLS. Readiness is TCP's; TLS is driven by hand between, so that a shard can write to any
/// connection at any time without a task switch.
#[derive(Debug)]
pub(super) struct Link {
    tcp: TcpStream,
    tls: Option<Box<ServerConnection>>,
}

/// What MQTT is spoken over.
#[derive(Debug)]
pub(crate) struct Socket {
    link: Link,
    websocket: Option<Box<WebSocket>>,
    /// The last read stopped for its limit: there may be more than TCP knows of.
    has_more: bool,
    /// Who it is, as a proxy says where one does.
    peer: SocketAddr,
    /// The common name of the certificate the terminal showed.
    client_name: Option<Box<str>>,
    /// Held for as long as the connection lives.
    _place: Place,
}

impl Link {
    pub(super) fn plain(tcp: TcpStream) -> Self {
        Self { tcp, tls: None }
    }

    /// Begins TLS; [`Link::handshake`] follows.
    pub(super) fn tls(tcp: TcpStream, config: Arc<ServerConfig>) -> io::Result<Self> {
        let mut tls = ServerConnection::new(config).map_err(tls::io_error)?;
        tls.set_buffer_limit(Some(TLS_BUFFER_LEN_MAX));
        Ok(Self { tcp, tls: Some(Box::new(tls)) })
    }

    /// Until bytes of the terminal can be read.
    pub(super) async fn handshake(&mut self) -> io::Result<()> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        while tls.is_handshaking() {
            if tls.wants_write() {
                match flush_tls(tls, &self.tcp) {
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.tcp.writable().await?,
                    result => result?,
                }
                continue;
            }
            self.tcp.readable().await?;
            match tls.read_tls(&mut Nonblocking(&self.tcp)) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(_) => {
                    let state = tls.process_new_packets();
                    // An alert says why; a peer that does not read does not hear it.
                    if state.is_err() {
                        let _ = flush_tls(tls, &self.tcp);
                    }
                    state.map_err(tls::io_error)?;
                }
                Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Appends what comes next, up to `len_max` or a little more. Nothing is the end.
    pub(super) async fn read(&mut self, buffer: &mut BytesMut, len_max: usize) -> io::Result<usize> {
        loop {
            match self.try_read(buffer, len_max) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.tcp.readable().await?,
                result => return result,
            }
        }
    }

    pub(super) async fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.try_write(&[], bytes) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => bytes = &bytes[count..],
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.tcp.writable().await?,
                Err(e) => return Err(e),
            }
        }
        while self.wants_write() {
            match self.try_flush() {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => self.tcp.writable().await?,
                result => result?,
            }
        }
        Ok(())
    }

    fn client_name(&self) -> Option<Box<str>> {
        let certificates = self.tls.as_ref()?.peer_certificates()?;
        tls::common_name(certificates.first()?).map(String::into_boxed_str)
    }

    /// Appends what can be read at once, up to `len_max` or a little more. `Ok(0)` is the end.
    fn try_read(&mut self, buffer: &mut BytesMut, len_max: usize) -> io::Result<usize> {
        match &mut self.tls {
            None => {
                buffer.reserve(len_max);
                self.tcp.try_read_buf(buffer)
            }
            Some(tls) => read_tls(tls, &self.tcp, buffer, len_max),
        }
    }

    /// Writes what the socket takes at once, of both together.
    fn try_write(&mut self, head: &[u8], bytes: &[u8]) -> io::Result<usize> {
        match &mut self.tls {
            None if head.is_empty() => self.tcp.try_write(bytes),
            None => self.tcp.try_write_vectored(&[IoSlice::new(head), IoSlice::new(bytes)]),
            Some(tls) => write_tls(tls, &self.tcp, head, bytes),
        }
    }

    /// Writes what TLS still holds. `WouldBlock` when some is left.
    fn try_flush(&mut self) -> io::Result<()> {
        match &mut self.tls {
            None => Ok(()),
            Some(tls) => flush_tls(tls, &self.tcp),
        }
    }

    fn wants_write(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    /// Says good-bye where TLS has one. Best effort: a peer that does not read does not hear it.
    pub(super) fn close(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            let _ = flush_tls(tls, &self.tcp);
        }
    }
}

impl Socket {
    /// `link` has done its handshakes; `frame_len_max` is given where it carries WebSocket frames.
    pub(super) fn new(link: Link, peer: SocketAddr, place: Place, frame_len_max: Option<u64>) -> Self {
        let client_name = link.client_name();
        let websocket = frame_len_max.map(|len| Box::new(WebSocket::new(len)));
        // What came with the end of a handshake is in TLS already.
        let has_more = link.tls.is_some();
        Self { link, websocket, has_more, peer, client_name, _place: place }
    }

    /// Where it comes from.
    pub(crate) fn peer(&self) -> SocketAddr {
        self.peer
    }

    /// The common name of the terminal's certificate, verified in the handshake.
    pub(crate) fn client_name(&self) -> Option<&str> {
        self.client_name.as_deref()
    }

    /// Appends what can be read at once, up to `len_max` or a little more. `Ok(0)` is the end.
    pub(crate) fn try_read(&mut self, buffer: &mut BytesMut, len_max: usize) -> io::Result<usize> {
        self.has_more = false;
        let count = match &mut self.websocket {
            None => self.link.try_read(buffer, len_max)?,
            Some(websocket) => match read_frames(websocket, &mut self.link, buffer, len_max)? {
                Some(count) => count,
                None => {
                    self.has_more = true;
                    return Err(io::ErrorKind::WouldBlock.into());
                }
            },
        };
        self.has_more = count >= len_max && self.link.tls.is_some();
        Ok(count)
    }

    /// Writes what the socket takes at once. What it does not take has to be given again, before anything else.
    pub(crate) fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let link = &mut self.link;
        match &mut self.websocket {
            None => link.try_write(&[], bytes),
            Some(websocket) => websocket.write(bytes, |head, bytes| link.try_write(head, bytes)),
        }
    }

    /// Writes what is held back here. `WouldBlock` when some is left.
    pub(crate) fn try_flush(&mut self) -> io::Result<()> {
        let link = &mut self.link;
        if let Some(websocket) = &mut self.websocket {
            websocket.flush(|head| link.try_write(&[], head))?;
        }
        link.try_flush()
    }

    /// Says good-bye where there is one. Best effort.
    pub(crate) fn close(&mut self) {
        if let Some(websocket) = &mut self.websocket {
            websocket.close(CloseCode::Normal);
            let _ = self.try_flush();
        }
        self.link.close();
    }

    /// Ends our direction, after everything was written.
    pub(crate) fn shutdown(&mut self) {
        self.close();
        // Fails where the peer has closed already.
        let _ = socket2::SockRef::from(&self.link.tcp).shutdown(Shutdown::Write);
    }

    /// Whether bytes are held back here that must be written when the socket takes more.
    pub(crate) fn wants_write(&self) -> bool {
        self.link.wants_write() || self.websocket.as_ref().is_some_and(|websocket| websocket.wants_write())
    }

    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.has_more || self.websocket.as_ref().is_some_and(|websocket| websocket.has_ended()) {
            // Not TCP's to tell. The budget keeps one busy connection from holding up the others.
            ready!(coop::poll_proceed(cx)).made_progress();
            return Poll::Ready(Ok(()));
        }
        self.link.tcp.poll_read_ready(cx)
    }

    pub(crate) fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.link.tcp.poll_write_ready(cx)
    }
}

/// Reads until there is something of MQTT among the frames; `None`: not yet, and others have to get their turn. What
/// control frames ask for is answered on the way.
fn read_frames(
    websocket: &mut WebSocket,
    link: &mut Link,
    buffer: &mut BytesMut,
    len_max: usize,
) -> io::Result<Option<usize>> {
    let start = buffer.len();
    for _ in 0..READS_MAX {
        let ended = websocket.has_ended() || link.try_read(buffer, len_max)? == 0;
        if ended {
            return Ok(Some(0));
        }
        let decoded = websocket.decode(&mut buffer[start..]);
        // What is left is written when the socket takes it, or the peer does not hear it: it is gone then.
        let _ = websocket.flush(|head| link.try_write(&[], head)).and_then(|()| link.try_flush());
        buffer.truncate(start + decoded.as_ref().unwrap_or(&0));
        let count = decoded?;
        if count > 0 {
            return Ok(Some(count));
        }
    }
    Ok(None)
}

fn read_tls(
    tls: &mut ServerConnection,
    tcp: &TcpStream,
    buffer: &mut BytesMut,
    len_max: usize,
) -> io::Result<usize> {
    let start = buffer.len();
    loop {
        let taken = take_plaintext(tls, buffer, len_max)?;
        match taken {
            Plaintext::Some if buffer.len() - start >= len_max => return Ok(buffer.len() - start),
            Plaintext::End => return Ok(buffer.len() - start),
            _ => {}
        }
        match tls.read_tls(&mut Nonblocking(tcp)) {
            Ok(0) => return Ok(buffer.len() - start),
            Ok(_) => {
                let state = tls.process_new_packets();
                // Handshake answers and alerts leave at once; what does not fit leaves on writability. An error says
                // nothing of what was received before it: reading comes to its end, too.
                let _ = flush_tls(tls, tcp);
                state.map_err(tls::io_error)?;
            }
            // An error shows itself to the next read.
            Err(_) if buffer.len() > start => return Ok(buffer.len() - start),
            Err(e) => return Err(e),
        }
    }
}

enum Plaintext {
    /// Something, or nothing more for now.
    Some,
    /// The peer said good-bye.
    End,
}

fn take_plaintext(
    tls: &mut ServerConnection,
    buffer: &mut BytesMut,
    len_max: usize,
) -> io::Result<Plaintext> {
    let mut chunk = [0; 4096];
    let start = buffer.len();
    while buffer.len() - start < len_max {
        match tls.reader().read(&mut chunk) {
            Ok(0) => return Ok(Plaintext::End),
            Ok(n) => buffer.extend_from_slice(&chunk[..n]),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
            // Gone without good-bye: MQTT has its own framing, so a cut is noticed there.
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(Plaintext::End),
            Err(e) => return Err(e),
        }
    }
    Ok(Plaintext::Some)
}

fn write_tls(tls: &mut ServerConnection, tcp: &TcpStream, head: &[u8], bytes: &[u8]) -> io::Result<usize> {
    let taken = tls.writer().write_vectored(&[IoSlice::new(head), IoSlice::new(bytes)])?;
    match flush_tls(tls, tcp) {
        Err(e) if e.kind() == io::ErrorKind::WouldBlock && taken > 0 => Ok(taken),
        Err(e) => Err(e),
        // Full, and nothing could be flushed: the same as a socket that blocks.
        Ok(()) if taken == 0 => Err(io::ErrorKind::WouldBlock.into()),
        Ok(()) => Ok(taken),
    }
}

fn flush_tls(tls: &mut ServerConnection, tcp: &TcpStream) -> io::Result<()> {
    while tls.wants_write() {
        if tls.write_tls(&mut Nonblocking(tcp))? == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
    }
    Ok(())
}

struct Nonblocking<'a>(&'a TcpStream);

impl Read for Nonblocking<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(bytes)
    }
}

impl Write for Nonblocking<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
