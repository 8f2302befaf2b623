//! One terminal's place in a shard, and the loop that waits for its socket.

use std::{
    cell::RefCell,
    future::poll_fn,
    io,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use bytes::BytesMut;
use cluster_proto::{Epoch, TerminalNo};
use fabric_core::mqtt::Session;

use super::{OUT_PAUSE, Shard, meter::Meter, out_buffer::OutBuffer, socket::Socket};
use crate::edge::codec::Outgoing;

/// A terminal's connection. While idle it holds its session and socket, and no buffers.
#[derive(Debug)]
pub(crate) struct Connection {
    /// Never given twice: tells this connection from a later one in the same slot.
    pub(super) id: u64,
    pub(super) socket: Socket,
    pub(super) session: Session<Outgoing>,
    pub(super) epoch: Option<Epoch>,
    /// What the leader knows it by (`Bind::connection`), once it is bound.
    pub(super) holder: u64,
    /// Kept here too: the last receipts are told when the session has ended.
    pub(super) no: Option<TerminalNo>,
    /// Bytes received and not decoded: part of a packet, or what must wait for an answer.
    pub(super) unread: BytesMut,
    pub(super) out: OutBuffer,
    /// From the first PUBLISH on, where there are limits.
    pub(super) meter: Option<Box<Meter>>,
    /// In the count of terminals connected.
    pub(super) counted: bool,
    /// The socket took less than there was: its task waits until it takes more.
    pub(super) blocked: bool,
    /// The terminal hears nothing any more: nothing is written, and the connection ends when everything it said is read.
    pub(super) write_failed: bool,
    /// Listed in [`Shard::dirty`].
    pub(super) dirty: bool,
    /// The session is over; what was said is still being written, until this time.
    pub(super) closing_until_ms: Option<u64>,
    /// The wheel looks at it no later than this.
    pub(super) armed_ms: u64,
    pub(super) waker: Option<Waker>,
}

/// What a connection's task is woken for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ready {
    Read,
    Write,
    /// The connection has been removed.
    Gone,
}

/// Serves the connection in `slot` until it is gone. The only task of a terminal: everything else reaches it through
/// the shard, and writes to its socket directly.
pub(super) async fn serve(shard: Rc<RefCell<Shard>>, slot: u32, id: u64) {
    loop {
        match poll_fn(|cx| shard.borrow_mut().poll_connection(slot, id, cx)).await {
            Ready::Gone => return,
            Ready::Read => shard.borrow_mut().read_ready(slot, id),
            Ready::Write => shard.borrow_mut().write_ready(slot, id),
        }
    }
}

impl Connection {
    /// Whether bytes may be taken from the socket. Not while packets have to wait for the leader or because the terminal
    /// publishes too fast, nor while so many answers are unread that more would only pile up: then TCP slows the
    /// terminal down. A closing connection is read, and what comes is dropped, to see the end.
    pub(super) fn wants_read(&self) -> bool {
        self.closing_until_ms.is_some() || (self.may_decode() && self.out.len() < OUT_PAUSE)
    }

    /// Whether the next packet may be taken.
    pub(super) fn may_decode(&self) -> bool {
        self.closing_until_ms.is_none() && self.paused_until_ms().is_none() && self.session.may_read()
    }

    /// It published too fast, and is not read from until then.
    pub(super) fn paused_until_ms(&self) -> Option<u64> {
        self.meter.as_ref().and_then(|meter| meter.paused_until_ms())
    }

    /// When the wheel has to look at it. While it is not read from, its silence is not the terminal's: the session's own
    /// deadlines wait for the end of the pause.
    pub(super) fn deadline(&self) -> Option<u64> {
        self.closing_until_ms.or_else(|| self.paused_until_ms()).or_else(|| self.session.deadline())
    }

    pub(super) fn wants_write(&self) -> bool {
        !self.write_failed && (self.blocked || self.socket.wants_write())
    }

    pub(super) fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Ready>> {
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
        if self.wants_write()
            && let Poll::Ready(result) = self.socket.poll_writable(cx)
        {
            return Poll::Ready(result.map(|()| Ready::Write));
        }
        if self.wants_read()
            && let Poll::Ready(result) = self.socket.poll_readable(cx)
        {
            return Poll::Ready(result.map(|()| Ready::Read));
        }
        Poll::Pending
    }
}

impl Shard {
    fn poll_connection(&mut self, slot: u32, id: u64, cx: &mut Context<'_>) -> Poll<Ready> {
        let Some(connection) = self.connection(slot, id) else { return Poll::Ready(Ready::Gone) };
        // An error of the socket shows itself to whoever reads.
        connection.poll(cx).map(|result| result.unwrap_or(Ready::Read))
    }
}
