//! A terminal's socket, plain or TLS, used without waiting: whoever would block comes back on readiness.

use std::{
    io::{self, Read, Write},
    net::Shutdown,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::BytesMut;
use rustls::{ServerConfig, ServerConnection};
use tokio::net::TcpStream;

/// Plaintext rustls may hold for a socket that takes no more; the rest stays in our own, bounded, buffer.
const TLS_BUFFER_LEN_MAX: usize = 64 * 1024;

/// The socket. Readiness is TCP's; TLS is driven by hand between, so that a shard can write to any connection at
/// any time without a task switch.
#[derive(Debug)]
pub(crate) struct Socket {
    tcp: TcpStream,
    tls: Option<Box<ServerConnection>>,
}

impl Socket {
    pub(crate) fn plain(tcp: TcpStream) -> Self {
        Self { tcp, tls: None }
    }

    pub(crate) fn tls(tcp: TcpStream, config: Arc<ServerConfig>) -> Result<Self, rustls::Error> {
        let mut tls = ServerConnection::new(config)?;
        tls.set_buffer_limit(Some(TLS_BUFFER_LEN_MAX));
        Ok(Self { tcp, tls: Some(Box::new(tls)) })
    }

    /// Appends what can be read at once, up to the spare capacity of `buffer` or a little more. `Ok(0)` is the end.
    pub(crate) fn try_read(&mut self, buffer: &mut BytesMut, len_max: usize) -> io::Result<usize> {
        match &mut self.tls {
            None => {
                buffer.reserve(len_max);
                self.tcp.try_read_buf(buffer)
            }
            Some(tls) => read_tls(tls, &self.tcp, buffer, len_max),
        }
    }

    /// Writes what the socket takes at once.
    pub(crate) fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.tls {
            None => self.tcp.try_write(bytes),
            Some(tls) => write_tls(tls, &self.tcp, bytes),
        }
    }

    /// Writes what TLS still holds. `WouldBlock` when some is left.
    pub(crate) fn try_flush(&mut self) -> io::Result<()> {
        match &mut self.tls {
            None => Ok(()),
            Some(tls) => flush_tls(tls, &self.tcp),
        }
    }

    /// Says good-bye where TLS has one. Best effort.
    pub(crate) fn close(&mut self) {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            // A peer that does not read does not hear it; the socket is closed anyway.
            let _ = flush_tls(tls, &self.tcp);
        }
    }

    /// Ends our direction, after everything was written.
    pub(crate) fn shutdown(&mut self) {
        self.close();
        // Fails where the peer has closed already.
        let _ = socket2::SockRef::from(&self.tcp).shutdown(Shutdown::Write);
    }

    /// Whether TLS holds bytes that must be written when the socket takes more.
    pub(crate) fn wants_write(&self) -> bool {
        self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    pub(crate) fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tcp.poll_read_ready(cx)
    }

    pub(crate) fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tcp.poll_write_ready(cx)
    }
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
                // Handshake answers and alerts leave at once; what does not fit leaves on writability.
                match flush_tls(tls, tcp) {
                    Err(e) if e.kind() != io::ErrorKind::WouldBlock => return Err(e),
                    _ => {}
                }
                state.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock && buffer.len() > start => {
                return Ok(buffer.len() - start);
            }
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

fn write_tls(tls: &mut ServerConnection, tcp: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let taken = tls.writer().write(bytes)?;
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
