//! What hub and shards both look at. Written by the hub only, read without locks.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use arc_swap::ArcSwap;
use cluster_proto::{AppId, NodeId, link::Stats};
use fabric_core::mqtt::SessionConfig;

use super::{Limits, gate::Gate};
use crate::auth::Keyring;

#[derive(Debug)]
pub(crate) struct EdgeShared {
    pub(crate) node: NodeId,
    pub(crate) anonymous: bool,
    pub(crate) keyring: Arc<Keyring>,
    pub(crate) session_config: Arc<SessionConfig>,
    pub(crate) limits: Limits,
    pub(crate) gate: Arc<Gate>,
    lease_until_ms: AtomicU64,
    forward_transient: AtomicBool,
    draining: AtomicBool,
    /// MQTT user names choose an app.
    apps: ArcSwap<HashMap<String, AppId>>,
    /// Filters with subscribers, by shard: QoS 0 messages are not sent to a shard without any.
    filters: Vec<AtomicUsize>,
    /// By shard, each written by its shard alone.
    stats: Vec<ShardStats>,
    /// Where else terminals may go, and whose turn it is.
    peers: ArcSwap<Vec<String>>,
    next_peer: AtomicUsize,
    connections: AtomicUsize,
    bound: AtomicUsize,
}

/// Counters of one shard, on a cache line that no other shard writes to.
#[derive(Debug, Default)]
#[repr(align(128))]
struct ShardStats([AtomicU64; 10]);

impl ShardStats {
    fn store(&self, stats: &Stats) {
        let values = [
            stats.connected,
            stats.subscriptions,
            stats.packets_received,
            stats.packets_sent,
            stats.publishes_received,
            stats.publishes_sent,
            stats.publishes_dropped,
            stats.bytes_received,
            stats.bytes_sent,
            stats.connects,
        ];
        self.0.iter().zip(values).for_each(|(counter, value)| counter.store(value, Ordering::Relaxed));
    }

    fn load(&self) -> Stats {
        let value = |at: usize| self.0[at].load(Ordering::Relaxed);
        Stats {
            connected: value(0),
            subscriptions: value(1),
            packets_received: value(2),
            packets_sent: value(3),
            publishes_received: value(4),
            publishes_sent: value(5),
            publishes_dropped: value(6),
            bytes_received: value(7),
            bytes_sent: value(8),
            connects: value(9),
            ..Stats::default()
        }
    }
}

impl EdgeShared {
    pub(crate) fn new(
        node: NodeId,
        anonymous: bool,
        keyring: Arc<Keyring>,
        limits: Limits,
        shards: usize,
    ) -> Self {
        let session_config = SessionConfig {
            bind_timeout_ms: limits.bind_timeout.as_millis() as u64,
            keep_alive_s_max: limits.keep_alive_s_max,
            ..limits.session.clone()
        };
        Self {
            node,
            anonymous,
            keyring,
            session_config: Arc::new(session_config),
            gate: Gate::new(limits.gate),
            limits,
            lease_until_ms: AtomicU64::new(0),
            forward_transient: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            apps: ArcSwap::default(),
            filters: (0..shards).map(|_| AtomicUsize::new(0)).collect(),
            stats: (0..shards).map(|_| ShardStats::default()).collect(),
            peers: ArcSwap::default(),
            next_peer: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
            bound: AtomicUsize::new(0),
        }
    }

    pub(crate) fn has_lease(&self, now_ms: u64) -> bool {
        now_ms < self.lease_until_ms.load(Ordering::Acquire)
    }

    pub(crate) fn set_lease(&self, until_ms: u64) {
        self.lease_until_ms.store(until_ms, Ordering::Release);
    }

    pub(crate) fn forwards_transient(&self) -> bool {
        self.forward_transient.load(Ordering::Relaxed)
    }

    pub(crate) fn set_forward_transient(&self, forward: bool) {
        self.forward_transient.store(forward, Ordering::Relaxed);
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    pub(crate) fn set_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub(crate) fn app(&self, name: &str) -> Option<AppId> {
        self.apps.load().get(name).copied()
    }

    pub(crate) fn set_apps(&self, apps: Vec<(AppId, String)>) {
        self.apps.store(Arc::new(apps.into_iter().map(|(id, name)| (name, id)).collect()));
    }

    pub(crate) fn set_filters(&self, shard: u16, filters: usize) {
        self.filters[usize::from(shard)].store(filters, Ordering::Relaxed);
    }

    pub(crate) fn has_filters(&self, shard: u16) -> bool {
        self.filters[usize::from(shard)].load(Ordering::Relaxed) > 0
    }

    /// What a shard has counted; told by itself.
    pub(crate) fn set_stats(&self, shard: u16, stats: &Stats) {
        self.stats[usize::from(shard)].store(stats);
    }

    /// What all shards have counted.
    pub(crate) fn stats(&self) -> Stats {
        let mut sum = Stats::default();
        self.stats.iter().for_each(|shard| sum += shard.load());
        sum
    }

    pub(crate) fn set_peers(&self, peers: Vec<String>) {
        self.peers.store(Arc::new(peers));
    }

    /// Another edge a terminal may go to: each in its turn. `None`: there is no other.
    pub(crate) fn next_peer(&self) -> Option<String> {
        let peers = self.peers.load();
        let turn = self.next_peer.fetch_add(1, Ordering::Relaxed);
        peers.get(turn.checked_rem(peers.len())?).cloned()
    }

    /// Takes a place for a connection; `false`: all are taken.
    pub(crate) fn enter(&self) -> bool {
        let before = self.connections.fetch_add(1, Ordering::Relaxed);
        let room = before < self.limits.connections_max;
        if !room {
            self.leave();
        }
        room
    }

    /// Whether a connection could take a place now.
    pub(crate) fn has_room(&self) -> bool {
        self.connections() < self.limits.connections_max && !self.is_draining()
    }

    pub(crate) fn leave(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    pub(crate) fn set_bound(&self, bound: usize) {
        self.bound.store(bound, Ordering::Relaxed);
    }

    pub(crate) fn bound(&self) -> usize {
        self.bound.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_all_shards_are_summed_and_peers_take_turns() {
        let shared = EdgeShared::new(NodeId(1), false, Arc::default(), Limits::default(), 2);
        shared.set_stats(0, &Stats { connected: 1, bytes_sent: 10, connects: 5, ..Stats::default() });
        shared.set_stats(1, &Stats { connected: 2, bytes_sent: 20, connects: 6, ..Stats::default() });
        let stats = shared.stats();
        assert_eq!((stats.connected, stats.bytes_sent, stats.connects), (3, 30, 11));
        assert_eq!(shared.next_peer(), None);
        shared.set_peers(vec!["a:1".to_owned(), "b:1".to_owned()]);
        let first = shared.next_peer();
        assert_ne!(first, shared.next_peer());
        assert_eq!(first, shared.next_peer());
    }
}
