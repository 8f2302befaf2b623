//! A snapshot's stream, as `raft-store` wants it: plain bytes both ways.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use quinn::{RecvStream, SendStream, VarInt};
use raft_store::transport::SnapshotStream;
use tokio::io::{AsyncReadExt, AsyncWrite};

use crate::transport::frames::{FrameReceiver, FrameSender};

/// Below every call: a snapshot takes what bandwidth is left.
const PRIORITY: i32 = -1;
/// What a transfer that was dropped half-way ends with.
const ABORTED: VarInt = VarInt::from_u32(1);

/// Both halves, at the end that opened the stream and at the end that accepted it alike.
pub(super) fn stream(sender: FrameSender<()>, receiver: FrameReceiver<()>) -> SnapshotStream {
    sender.set_priority(PRIORITY);
    let (recv, read_already) = receiver.into_parts();
    SnapshotStream {
        writer: Box::new(Writer { stream: sender.into_inner(), finished: false }),
        reader: Box::new(reader(recv, read_already)),
    }
}

/// What came in one packet with the header belongs to the snapshot.
fn reader(recv: RecvStream, read_already: Bytes) -> impl tokio::io::AsyncRead + Send + Unpin {
    io::Cursor::new(read_already).chain(recv)
}

/// Resets the stream when dropped unfinished. quinn would end it cleanly, and half a snapshot must not look whole.
struct Writer {
    stream: SendStream,
    finished: bool,
}

impl AsyncWrite for Writer {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(&mut self.stream), cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shutdown = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.finished |= matches!(shutdown, Poll::Ready(Ok(())));
        shutdown
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if !self.finished {
            // Fails if the stream is over anyway.
            let _ = self.stream.reset(ABORTED);
        }
    }
}
