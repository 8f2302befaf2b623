//! Bytes on their way to one terminal.

use std::io;

use bytes::{Buf, BytesMut};

/// Buffers kept for reuse by a shard; beyond, they are freed.
const POOL_MAX: usize = 64;
/// A buffer that grew beyond this is freed rather than kept.
const POOLED_CAPACITY_MAX: usize = 64 * 1024;

/// What could not be written yet. Holds no memory while empty: an idle terminal costs nothing here.
#[derive(Debug, Default)]
pub(crate) struct OutBuffer(BytesMut);

/// What a write achieved.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Written {
    /// Nothing is left.
    All,
    /// The socket takes no more for now.
    Blocked,
}

/// Empty buffers of one shard: a fan-out touches many connections for an instant each.
#[derive(Debug, Default)]
pub(crate) struct BufferPool(Vec<BytesMut>);

impl OutBuffer {
    /// Bytes that wait.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The buffer to append to.
    pub(crate) fn tail(&mut self, pool: &mut BufferPool) -> &mut BytesMut {
        if self.0.capacity() == 0
            && let Some(pooled) = pool.0.pop()
        {
            self.0 = pooled;
        }
        &mut self.0
    }

    /// Writes until everything is written or the socket blocks; with the count of bytes written.
    pub(crate) fn write(
        &mut self,
        pool: &mut BufferPool,
        mut write: impl FnMut(&[u8]) -> io::Result<usize>,
    ) -> io::Result<(Written, usize)> {
        let before = self.0.len();
        while !self.0.is_empty() {
            match write(&self.0) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => self.0.advance(n),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    return Ok((Written::Blocked, before - self.0.len()));
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        self.free(pool);
        Ok((Written::All, before))
    }

    /// Drops what waits.
    pub(crate) fn free(&mut self, pool: &mut BufferPool) {
        let mut bytes = std::mem::take(&mut self.0);
        bytes.clear();
        // The front that was written is regained by the next reserve, since nobody else holds the buffer.
        if bytes.capacity() > 0 && bytes.capacity() <= POOLED_CAPACITY_MAX && pool.0.len() < POOL_MAX {
            pool.0.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_leave_in_order_over_partial_writes_and_an_empty_buffer_holds_no_memory() {
        let (mut out, mut pool) = (OutBuffer::default(), BufferPool::default());
        let mut sent = Vec::new();
        let mut expected = Vec::new();
        for round in 0..100u8 {
            out.tail(&mut pool).extend_from_slice(&[round; 10]);
            expected.extend_from_slice(&[round; 10]);
            let mut budget = 7;
            let written = out.write(&mut pool, |bytes| {
                if budget == 0 {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                let n = bytes.len().min(budget);
                budget -= n;
                sent.extend_from_slice(&bytes[..n]);
                Ok(n)
            });
            assert_eq!(written.unwrap(), (Written::Blocked, 7));
        }
        let (all, _) = out
            .write(&mut pool, |bytes| {
                sent.extend_from_slice(bytes);
                Ok(bytes.len())
            })
            .unwrap();
        assert_eq!(all, Written::All);
        assert_eq!(sent, expected);
        assert_eq!(out.0.capacity(), 0);
    }

    #[test]
    fn a_socket_that_takes_nothing_is_an_error_not_a_loop() {
        let (mut out, mut pool) = (OutBuffer::default(), BufferPool::default());
        out.tail(&mut pool).extend_from_slice(&[1]);
        assert!(out.write(&mut pool, |_| Ok(0)).is_err());
    }
}
