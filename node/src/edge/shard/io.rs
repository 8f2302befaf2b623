//! Bytes ⇄ packets, and the sockets.

use std::io;

use bytes::BytesMut;
use fabric_core::mqtt::Packet;

use super::{READ_LEN, Shard, out_buffer::Written};
use crate::edge::codec;

/// Reads from one socket in a row before others get their turn.
const READS_MAX: usize = 4;
/// Rounds of writing what sessions hand out because there was room again.
const ROUNDS_MAX: usize = 8;

impl Shard {
    // ------------------------------------------------------------ reading

    pub(super) fn read_ready(&mut self, slot: u32, id: u64) {
        self.begin();
        for _ in 0..READS_MAX {
            let wants = self.connection(slot, id).is_some_and(|connection| connection.wants_read());
            if !wants || !self.read_once(slot, id) {
                break;
            }
        }
        self.finish();
    }

    /// Reads once and handles what came; says whether there may be more.
    fn read_once(&mut self, slot: u32, id: u64) -> bool {
        let mut shared = std::mem::take(&mut self.read_buffer);
        let Some(connection) = self.connection(slot, id) else { return false };
        // A packet that began in an earlier read goes on in the connection's own buffer.
        let own = !connection.unread.is_empty();
        let mut buffer =
            if own { std::mem::take(&mut connection.unread) } else { std::mem::take(&mut shared) };
        buffer.reserve(READ_LEN);
        let before = buffer.len();
        let result = connection.socket.try_read(&mut buffer, READ_LEN);
        let count = buffer.len() - before;
        self.counters.bytes_in.increment(count as u64);
        self.stats.bytes_received += count as u64;
        self.handle_bytes(slot, id, &mut buffer);
        if own {
            self.read_buffer = shared;
        } else {
            buffer.clear();
            self.read_buffer = buffer;
        }
        match result {
            Ok(0) => {
                self.connection_lost(slot, id);
                false
            }
            Ok(count) => count >= READ_LEN / 2,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => false,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => true,
            Err(error) => {
                tracing::debug!("read: {error}");
                self.connection_lost(slot, id);
                false
            }
        }
    }

    /// Decodes and handles what is complete; the rest is kept with the connection.
    fn handle_bytes(&mut self, slot: u32, id: u64, buffer: &mut BytesMut) {
        while self.decode_one(slot, id, buffer) {}
        let Some(connection) = self.connection(slot, id) else { return };
        if connection.closing_until_ms.is_some() {
            return buffer.clear();
        }
        if !buffer.is_empty() {
            // Of a large packet the buffer is taken as it is; of a small one a copy, so that the shared one stays.
            connection.unread = if buffer.len() > READ_LEN / 4 {
                std::mem::take(buffer)
            } else {
                BytesMut::from(&buffer[..])
            };
        }
    }

    fn decode_one(&mut self, slot: u32, id: u64, buffer: &mut BytesMut) -> bool {
        let len_max = self.shared.session_config.packet_len_max as usize;
        let Some(connection) = self.connection(slot, id) else { return false };
        if buffer.is_empty() || !connection.may_decode() {
            return false;
        }
        let before = buffer.len();
        match codec::decode(buffer, connection.session.decode_version(), len_max) {
            Ok(Some(packet)) => {
                self.stats.packets_received += 1;
                if let Packet::Publish(_) = packet {
                    self.stats.publishes_received += 1;
                    self.meter(slot, before - buffer.len());
                }
                self.with_session(slot, |session, at, out| session.handle_packet(at, packet, out));
                true
            }
            Ok(None) => false,
            Err(malformed) => {
                let peer = connection.socket.peer();
                tracing::debug!(%peer, reason = %malformed.reason, "malformed packet: {malformed}");
                self.with_session(slot, |session, _, out| session.handle_malformed(malformed, out));
                false
            }
        }
    }

    /// An answer came: packets that had to wait for it go on.
    pub(super) fn read_on(&mut self, slot: u32) {
        let Some(connection) = self.connections.get_mut(slot as usize) else { return };
        if !connection.may_decode() {
            return;
        }
        // The task did not wait for the socket meanwhile.
        connection.wake();
        if !connection.unread.is_empty() {
            let id = connection.id;
            let mut unread = std::mem::take(&mut connection.unread);
            self.handle_bytes(slot, id, &mut unread);
        }
    }

    fn connection_lost(&mut self, slot: u32, id: u64) {
        let Some(connection) = self.connection(slot, id) else { return };
        if connection.closing_until_ms.is_none() {
            self.with_session(slot, |session, _, out| session.handle_connection_lost(out));
        }
        self.remove(slot);
    }

    // ------------------------------------------------------------ writing

    pub(super) fn write_ready(&mut self, slot: u32, id: u64) {
        self.begin();
        if let Some(connection) = self.connection(slot, id) {
            connection.blocked = false;
            self.mark_dirty(slot);
        }
        self.finish();
    }

    pub(super) fn mark_dirty(&mut self, slot: u32) {
        let Some(connection) = self.connections.get_mut(slot as usize) else { return };
        if !connection.dirty {
            connection.dirty = true;
            self.dirty.push(slot);
        }
    }

    /// Ends a batch of work: each socket that got something is written once, and the other threads get their news.
    pub(super) fn finish(&mut self) {
        for _ in 0..ROUNDS_MAX {
            if self.dirty.is_empty() {
                break;
            }
            for slot in std::mem::take(&mut self.dirty) {
                self.write(slot);
            }
        }
        // Whoever still has output after so many rounds goes on in the next batch.
        for slot in std::mem::take(&mut self.dirty) {
            if let Some(connection) = self.connections.get_mut(slot as usize) {
                connection.dirty = false;
                connection.blocked = true;
                connection.wake();
            }
        }
        self.send_to_peers();
        self.shared.set_stats(self.index, &self.stats);
    }

    fn write(&mut self, slot: u32) {
        let Some(connection) = self.connections.get_mut(slot as usize) else { return };
        connection.dirty = false;
        if connection.write_failed {
            return connection.out.free(&mut self.pool);
        }
        if connection.blocked {
            return;
        }
        let socket = &mut connection.socket;
        let result =
            connection.out.write(&mut self.pool, |bytes| socket.try_write(bytes)).and_then(|written| {
                match socket.try_flush() {
                    Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(error),
                    _ => Ok(written),
                }
            });
        match result {
            Ok((written, count)) => self.written(slot, written, count),
            Err(error) => {
                tracing::debug!("write: {error}");
                // What the terminal said before it went is still there to be read, DISCONNECT perhaps: reading ends it.
                connection.write_failed = true;
                connection.out.free(&mut self.pool);
                connection.wake();
            }
        }
    }

    fn written(&mut self, slot: u32, written: Written, count: usize) {
        self.counters.bytes_out.increment(count as u64);
        self.stats.bytes_sent += count as u64;
        let Some(connection) = self.connections.get_mut(slot as usize) else { return };
        connection.blocked = written == Written::Blocked;
        if connection.wants_write() {
            // Its task waits for the socket from here on.
            return connection.wake();
        }
        if connection.closing_until_ms.is_some() {
            return self.said_good_bye(slot);
        }
        if connection.session.has_waiting() {
            self.with_session(slot, |session, at, out| session.handle_writable(at, out));
        }
    }

    /// Everything is written. Our direction is ended, and the terminal is given a moment to read it: closing a socket
    /// with unread input would throw away what it has not read yet.
    fn said_good_bye(&mut self, slot: u32) {
        let Some(connection) = self.connections.get_mut(slot as usize) else { return };
        connection.socket.shutdown();
        connection.wake();
        self.arm(slot);
    }

    // ------------------------------------------------------------ time

    /// Looks at the connections whose time may have come.
    pub(super) fn tick(&mut self) {
        self.begin();
        for (slot, id) in self.wheel.advance(self.now_ms) {
            let now_ms = self.now_ms;
            let Some(connection) = self.connection(slot, id) else { continue };
            if connection.armed_ms > now_ms {
                continue; // from before it was last armed: another look is coming
            }
            connection.armed_ms = u64::MAX;
            if connection.closing_until_ms.is_some_and(|until_ms| until_ms <= now_ms) {
                self.remove(slot);
                continue;
            }
            if connection.paused_until_ms().is_some() {
                let is_over = connection.meter.as_mut().is_some_and(|meter| meter.end_pause(now_ms));
                if is_over {
                    self.read_on(slot);
                }
                self.arm(slot);
                continue;
            }
            self.with_session(slot, |session, at, out| session.handle_timeout(at, out));
            self.arm(slot);
        }
        self.finish();
    }
}
