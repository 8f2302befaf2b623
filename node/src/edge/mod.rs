//! The push edge: MQTT towards terminals, the link towards the leader. Holds nothing that cannot be lost.
//!
//! ```text
//!  terminals ══TCP/TLS══ shard 0 ─┐ batches          ┌─ streams by duty ── leader
//!  terminals ══════════  shard 1 ─┼────────── hub ───┤  (QUIC)
//!  terminals ══════════  shard n ─┘                  └─
//! ```
//! - `shard`: one thread each, with its own listener, connections, sessions and subscriptions.
//! - `hub`: one thread: the link machine, bindings, payloads, receipts.
//! - `link`: the streams of one link.
//! - [`codec`]: MQTT bytes ⇄ packets.
//! - `messages`: what hub and shards tell each other; `shared`: the few words both look at.
//! - `auth`: who a terminal is.
//! - `metrics`: every metric of an edge; `notices`: what is said when a limit is enforced.
//!
//! Decisions live in `fabric_core`: `mqtt::Session` for a terminal, `link::EdgeLink` for the link.

mod auth;
mod clock;
pub mod codec;
mod gate;
mod hub;
mod link;
mod listener;
mod messages;
mod metrics;
mod notices;
mod shard;
mod shared;

use std::{net::SocketAddr, sync::Arc, thread, time::Duration};

use anyhow::{Context as _, Result};
use cluster_proto::{NodeId, link::NodeAddresses};
use fabric_core::mqtt::SessionConfig;
use tokio::{
    runtime,
    sync::{mpsc, oneshot, watch},
    time::timeout,
};

pub use self::{
    gate::GateLimits,
    listener::{Kind, ListenError, Listener, Listeners},
};
use self::{
    hub::{Hub, HubParts, Order},
    listener::Open,
    messages::ToShard,
    shard::ShardParts,
    shared::EdgeShared,
};
use crate::{auth::Keyring, transport::Endpoint};

/// Batches in a shard's inbox. When full, the hub gathers, and then stops taking deliveries from the leader; other
/// shards drop their QoS 0 messages.
const INBOX_MAX: usize = 1_024;
/// Batches of all shards that the hub has not taken. When full, shards gather.
const HUB_INBOX_MAX: usize = 1_024;

/// What an operator may lower.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections at once; beyond, they are closed at once. One file descriptor each.
    pub connections_max: usize,
    /// Connections of one app at once; 0: any number.
    pub connections_per_app: usize,
    /// Who may connect how often.
    pub gate: GateLimits,
    /// A verified client certificate lets somebody in, as the terminal of its common name.
    pub certificates_let_in: bool,
    /// PUBLISH packets per second of one connection; 0: any number.
    pub publish_rate: u32,
    /// Bytes of PUBLISH packets per second of one connection; 0: any number.
    pub publish_bytes_rate: u64,
    /// Longest keep alive, seconds; 0: any.
    pub keep_alive_s_max: u16,
    /// A CONNECT waits this long for a leader.
    pub bind_timeout: Duration,
    /// An edge that has not heard any control node for this long sends its terminals elsewhere.
    pub isolation_grace: Duration,
    /// Between two rounds of `$SYS` topics; zero: never.
    pub sys_interval: Duration,
    /// Clients without credentials may read `$SYS` topics.
    pub anonymous_sys: bool,
    /// What one session may use.
    pub session: SessionConfig,
    /// Payloads kept for deliveries to come.
    pub payload_cache_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 1_000_000,
            connections_per_app: 0,
            gate: GateLimits::default(),
            certificates_let_in: false,
            publish_rate: 0,
            publish_bytes_rate: 0,
            keep_alive_s_max: 0,
            bind_timeout: Duration::from_secs(5),
            isolation_grace: Duration::from_secs(60),
            sys_interval: Duration::from_secs(10),
            anonymous_sys: false,
            session: SessionConfig::default(),
            payload_cache_bytes: 64 * 1024 * 1024,
        }
    }
}

/// What an edge is.
#[derive(Clone, Debug)]
pub struct EdgeOptions {
    /// Its node.
    pub node: NodeId,
    /// Where it is reached; told to the leader. An empty `mqtt` becomes the address of the first listener.
    pub addresses: NodeAddresses,
    /// Where it listens.
    pub listeners: Listeners,
    /// Link addresses of control nodes, `host:port`; at least one.
    pub control_seeds: Vec<String>,
    /// Threads that serve terminals; 0: one per processor.
    pub shards: usize,
    /// Whether clients without a credential are let in.
    pub anonymous: bool,
    /// Bounds.
    pub limits: Limits,
}

/// A running edge. Dropping it stops it without good-bye; see [`EdgeHandle::drain`].
#[derive(Debug)]
pub struct EdgeHandle {
    listeners: Vec<(Kind, SocketAddr)>,
    shared: Arc<EdgeShared>,
    ready: watch::Receiver<bool>,
    orders: mpsc::Sender<Order>,
    threads: Vec<thread::JoinHandle<()>>,
}

/// An edge in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EdgeStats {
    /// Connections open.
    pub connections: usize,
    /// Terminals bound, as of the last second.
    pub bound: usize,
}

/// Opens the listeners and starts the threads. The edge looks for its leader from then on.
pub async fn start(options: EdgeOptions, endpoint: Endpoint, keyring: Arc<Keyring>) -> Result<EdgeHandle> {
    anyhow::ensure!(!options.control_seeds.is_empty(), "an edge needs the address of a control node");
    metrics::describe();
    let shards = shard_count(options.shards);
    let Open { by_shard, addresses: listeners } = options.listeners.open(shards)?;
    let shared =
        Arc::new(EdgeShared::new(options.node, options.anonymous, keyring, options.limits.clone(), shards));
    let (inboxes, receivers): (Vec<_>, Vec<_>) = (0..shards).map(|_| mpsc::channel(INBOX_MAX)).unzip();
    let (hub_inbox, from_shards) = mpsc::channel(HUB_INBOX_MAX);
    let mut threads = Vec::new();
    for ((index, listeners), inbox) in (0u16..).zip(by_shard).zip(receivers) {
        threads.push(shard::spawn(ShardParts {
            index,
            shared: Arc::clone(&shared),
            listeners,
            inbox,
            hub: hub_inbox.clone(),
            peers: peers_of(index, &inboxes),
        })?);
    }
    let mut addresses = options.addresses;
    if addresses.mqtt.is_empty() {
        addresses.mqtt = listeners[0].1.to_string();
    }
    let (orders, orders_rx) = mpsc::channel(4);
    let (ready_tx, ready) = watch::channel(false);
    threads.push(spawn_hub(HubParts {
        shared: Arc::clone(&shared),
        endpoint,
        addresses,
        control_seeds: options.control_seeds,
        inboxes,
        from_shards,
        orders: orders_rx,
        ready: ready_tx,
    })?);
    for (kind, address) in &listeners {
        tracing::info!(listener = kind.name(), %address, shards, "edge listens");
    }
    Ok(EdgeHandle { listeners, shared, ready, orders, threads })
}

impl EdgeHandle {
    /// True while the edge has resumed with a leader: terminals can connect, and pushes reach them.
    pub fn ready(&self) -> watch::Receiver<bool> {
        self.ready.clone()
    }

    /// Where this kind is listened for.
    pub fn address(&self, kind: Kind) -> Option<SocketAddr> {
        self.listeners.iter().find(|(other, _)| *other == kind).map(|(_, address)| *address)
    }

    /// The edge in numbers.
    pub fn stats(&self) -> EdgeStats {
        EdgeStats { connections: self.shared.connections(), bound: self.shared.bound() }
    }

    /// Stops listening, tells every terminal that the edge goes down, has what they left committed, and ends the
    /// threads; after `deadline` it ends them anyway.
    pub async fn drain(self, deadline: Duration) {
        let (done, drained) = oneshot::channel();
        // An error on either way is a hub that has ended.
        if self.orders.send(Order::Drain(done)).await.is_ok() && timeout(deadline, drained).await.is_err() {
            tracing::warn!("the edge did not drain in time: what was not committed will be delivered again");
        }
        let _ = self.orders.send(Order::Stop).await;
        let joined = tokio::task::spawn_blocking(move || {
            self.threads.into_iter().filter_map(|thread| thread.join().err()).count()
        });
        if !matches!(joined.await, Ok(0)) {
            tracing::error!("a thread of the edge panicked");
        }
    }
}

fn shard_count(wanted: usize) -> usize {
    let processors = || thread::available_parallelism().map_or(1, std::num::NonZero::get);
    if wanted == 0 { processors() } else { wanted }.clamp(1, 1_024)
}

fn peers_of(index: u16, inboxes: &[mpsc::Sender<Vec<ToShard>>]) -> Vec<(u16, mpsc::Sender<Vec<ToShard>>)> {
    (0u16..).zip(inboxes.iter().cloned()).filter(|(peer, _)| *peer != index).collect()
}

fn spawn_hub(parts: HubParts) -> Result<thread::JoinHandle<()>> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build()?;
    let thread = thread::Builder::new().name("edge-hub".to_owned());
    thread.spawn(move || runtime.block_on(Hub::new(parts).run())).context("start the hub's thread")
}
