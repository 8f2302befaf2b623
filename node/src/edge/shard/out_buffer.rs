//! Bytes on their way to one terminal.

use std::io;

/// Buffers kept for reuse by a shard; beyond, they are freed.
const POOL_MAX: usize = 64;
/// A buffer that grew beyond this is freed rather than kept.
const POOLED_CAPACITY_MAX: usize = 64 * 1024;

/// What could not be written yet. Holds no memory while empty: an idle terminal costs nothing here.
#[derive(Debug, Default)]
pub(crate) struct OutBuffer {
    bytes: Vec<u8>,
    written: usize,
}

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
pub(crate) struct BufferPool(Vec<Vec<u8>>);

impl OutBuffer {
    /// Bytes that wait.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len() - self.written
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The buffer to append to.
    pub(crate) fn tail(&mut self, pool: &mut BufferPool) -> &mut Vec<u8> {
        if self.bytes.capacity() == 0 {
            self.bytes = pool.0.pop().unwrap_or_default();
        } else if self.written > 0 && self.written >= self.bytes.len() / 2 {
            // Amortized: at most as many bytes move as were written before.
            self.bytes.drain(..self.written);
            self.written = 0;
        }
        &mut self.bytes
    }

    /// Writes until everything is written or the socket blocks; then counts the bytes written.
    pub(crate) fn write(
        &mut self,
        pool: &mut BufferPool,
        mut write: impl FnMut(&[u8]) -> io::Result<usize>,
    ) -> io::Result<(Written, usize)> {
        let before = self.written;
        while self.written < self.bytes.len() {
            match write(&self.bytes[self.written..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => self.written += n,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    return Ok((Written::Blocked, self.written - before));
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        let count = self.written - before;
        self.free(pool);
        Ok((Written::All, count))
    }

    /// Drops what waits.
    pub(crate) fn free(&mut self, pool: &mut BufferPool) {
        let mut bytes = std::mem::take(&mut self.bytes);
        self.written = 0;
        bytes.clear();
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
        assert_eq!(out.bytes.capacity(), 0);
    }

    #[test]
    fn a_socket_that_takes_nothing_is_an_error_not_a_loop() {
        let (mut out, mut pool) = (OutBuffer::default(), BufferPool::default());
        out.tail(&mut pool).push(1);
        assert!(out.write(&mut pool, |_| Ok(0)).is_err());
    }
}
