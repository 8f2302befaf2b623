//! A shard: one thread that owns its connections, their sessions and subscriptions.
//!
//! Everything here runs on the shard's thread and shares one [`Shard`] behind a `RefCell` that is never borrowed
//! across a wait, so there are no locks. Other threads are reached by bounded channels, in batches.
//!
//! - [`connection`]: one terminal.
//! - [`io`]: bytes ⇄ packets, reading and writing sockets.
//! - [`act`]: carrying out what sessions ask.
//! - [`fanout`]: deliveries and QoS 0 messages.
//! - [`inbox`]: what the hub and other shards say.
//! - [`meter`]: how fast terminals may publish.
//! - [`run`]: the thread and its tasks.
//! - [`opening`]: from TCP to the first byte of MQTT: [`proxy`], TLS, [`websocket`].
//! - [`socket`]: what MQTT is spoken over.

mod act;
mod connection;
mod fanout;
mod inbox;
mod index;
mod io;
mod meter;
mod opening;
mod out_buffer;
mod proxy;
mod run;
mod socket;
#[cfg(test)]
mod tests;
mod websocket;
mod wheel;

use std::{collections::HashMap, rc::Rc, sync::Arc};

use bytes::BytesMut;
use cluster_proto::{PushId, TerminalNo, limits::MQTT_PACKET_LEN_MAX, link::Stats};
use fabric_core::mqtt::{Action, Moment, Session};
use slab::Slab;
use tokio::sync::{Notify, mpsc};

pub(crate) use self::run::{ShardParts, spawn};
use self::{
    connection::Connection,
    index::Index,
    meter::Rates,
    out_buffer::{BufferPool, OutBuffer},
    socket::Socket,
    wheel::Wheel,
};
use super::{
    auth::Authenticator,
    clock,
    codec::Outgoing,
    messages::{ConnId, LinkNo, ToHub, ToShard},
    metrics::ShardCounters,
    notices::Notices,
    shared::EdgeShared,
};

/// Bytes read from a socket at once.
const READ_LEN: usize = 64 * 1024;
/// Output up to which deliveries are handed to a connection. Above, its session queues, and then falls behind.
const OUT_ROOM: usize = 64 * 1024;
/// Output at which nothing more is read from a connection: it does not read what it is told. Above what deliveries
/// fill (one packet may go beyond their room).
const OUT_PAUSE: usize = MQTT_PACKET_LEN_MAX + 2 * OUT_ROOM;
/// Output at which a connection is closed. Not reached by what it may have under way when reading pauses.
const OUT_LEN_MAX: usize = 2 * OUT_PAUSE;
/// A terminal that was told good-bye has this long to hear it.
const CLOSING_MS: u64 = 2_000;
/// Resolution of time-outs.
const TICK_MS: u64 = 1_000;
/// QoS 0 messages gathered for the hub while it is busy; then they are dropped and counted.
const GATHERED_TRANSIENT_MAX: usize = 16 * 1024;

type Actions = Vec<Action<Outgoing>>;

/// See the module.
pub(crate) struct Shard {
    index: u16,
    shared: Arc<EdgeShared>,
    connections: Slab<Connection>,
    next_connection: u64,
    by_no: HashMap<TerminalNo, u32>,
    subscriptions: Index,
    authenticator: Authenticator,
    wheel: Wheel<(u32, u64)>,
    /// Deliveries that wait for a payload.
    waiting: HashMap<PushId, Waiting>,
    /// Deliveries of this link are taken; of any other they are void.
    link: LinkNo,
    now_ms: u64,

    /// Connections with output that was not written yet.
    dirty: Vec<u32>,
    read_buffer: BytesMut,
    pool: BufferPool,
    /// Emptied vectors, kept for reuse.
    spare_actions: Vec<Actions>,
    spare_slots: Vec<u32>,

    /// For the hub. Not bounded by itself: every connection has a bounded number of requests and receipts under way,
    /// and QoS 0 messages are dropped beyond [`GATHERED_TRANSIENT_MAX`].
    to_hub: Vec<ToHub>,
    hub_news: Rc<Notify>,
    /// QoS 0 messages for the other shards, sent at the end of a batch. A full inbox drops them (counted).
    peers: Vec<(u16, mpsc::Sender<Vec<ToShard>>)>,
    to_peers: Vec<ToShard>,
    counters: ShardCounters,
    /// The same for `$SYS`; handed on at the end of every batch.
    stats: Stats,
    rates: Rates,
    notices: Notices,
}

/// Who waits for a payload.
#[derive(Debug, Default)]
struct Waiting {
    connections: Vec<(u32, u64)>,
    /// Also to be shown to best-effort subscribers, until this time.
    best_effort: Option<Option<u64>>,
}

impl Shard {
    fn new(
        index: u16,
        shared: Arc<EdgeShared>,
        peers: Vec<(u16, mpsc::Sender<Vec<ToShard>>)>,
        hub_news: Rc<Notify>,
    ) -> Self {
        let now_ms = clock::now_ms();
        Self {
            index,
            rates: Rates::new(&shared.limits),
            shared,
            connections: Slab::new(),
            next_connection: 0,
            by_no: HashMap::new(),
            subscriptions: Index::default(),
            authenticator: Authenticator::new(),
            wheel: Wheel::new(TICK_MS, now_ms),
            waiting: HashMap::new(),
            link: LinkNo::default(),
            now_ms,
            dirty: Vec::new(),
            read_buffer: BytesMut::new(),
            pool: BufferPool::default(),
            spare_actions: Vec::new(),
            spare_slots: Vec::new(),
            to_hub: Vec::new(),
            hub_news,
            peers,
            to_peers: Vec::new(),
            counters: ShardCounters::new(),
            stats: Stats::default(),
            notices: Notices::default(),
        }
    }

    /// Takes in a connection that was accepted at `since_ms`; its slot and id are what its task serves. `None`: the edge
    /// is full.
    fn insert(&mut self, socket: Socket, since_ms: u64) -> Option<(u32, u64)> {
        if self.shared.is_draining() || !self.shared.enter() {
            return None;
        }
        self.begin();
        self.next_connection += 1;
        // Unique over all shards: each counts in its own residue class.
        let id = self.next_connection * (u64::from(u16::MAX) + 1) + u64::from(self.index);
        let session = Session::new(Arc::clone(&self.shared.session_config), since_ms, rand::random());
        let slot = self.connections.insert(Connection {
            id,
            socket,
            session,
            epoch: None,
            holder: 0,
            no: None,
            unread: BytesMut::new(),
            out: OutBuffer::default(),
            meter: None,
            counted: false,
            blocked: false,
            write_failed: false,
            dirty: false,
            closing_until_ms: None,
            armed_ms: u64::MAX,
            waker: None,
        }) as u32;
        self.counters.connections.increment(1.0);
        self.arm(slot);
        Some((slot, id))
    }

    /// Takes a connection out. Its task ends, and the socket closes.
    fn remove(&mut self, slot: u32) {
        let Some(mut connection) = self.connections.try_remove(slot as usize) else { return };
        connection.socket.close();
        connection.out.free(&mut self.pool);
        connection.wake();
        self.shared.leave();
        self.counters.connections.decrement(1.0);
    }

    fn connection(&mut self, slot: u32, id: u64) -> Option<&mut Connection> {
        self.connections.get_mut(slot as usize).filter(|connection| connection.id == id)
    }

    fn conn_id(&self, slot: u32) -> Option<ConnId> {
        let connection = self.connections.get(slot as usize)?;
        Some(ConnId { shard: self.index, slot, connection: connection.id })
    }

    /// Every batch of work begins with a look at the clock and ends with [`Shard::finish`].
    fn begin(&mut self) {
        self.now_ms = clock::now_ms();
    }

    /// What a session may do now. Deliveries need the lease; without it they are queued.
    fn moment(&self, slot: u32) -> Moment {
        let room = if self.shared.has_lease(self.now_ms) { self.room(slot) } else { 0 };
        Moment { ms: self.now_ms, room }
    }

    fn room(&self, slot: u32) -> usize {
        let connection = self.connections.get(slot as usize);
        let hearing = connection.filter(|connection| !connection.write_failed);
        hearing.map_or(0, |connection| OUT_ROOM.saturating_sub(connection.out.len()))
    }

    /// Has the wheel look at a connection in time.
    fn arm(&mut self, slot: u32) {
        let Some(connection) = self.connections.get_mut(slot as usize) else { return };
        let deadline = connection.deadline();
        let Some(deadline) = deadline.filter(|deadline| *deadline < connection.armed_ms) else { return };
        connection.armed_ms = self.wheel.arm((slot, connection.id), deadline);
    }

    fn take_actions(&mut self) -> Actions {
        self.spare_actions.pop().unwrap_or_default()
    }

    fn return_actions(&mut self, actions: Actions) {
        debug_assert!(actions.is_empty());
        if self.spare_actions.len() < 8 {
            self.spare_actions.push(actions);
        }
    }
}
