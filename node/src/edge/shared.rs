//! What hub and shards both look at. Written by the hub only, read without locks.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use arc_swap::ArcSwap;
use cluster_proto::{AppId, NodeId};
use fabric_core::mqtt::SessionConfig;

use super::Limits;
use crate::auth::Keyring;

#[derive(Debug)]
pub(crate) struct EdgeShared {
    pub(crate) node: NodeId,
    pub(crate) anonymous: bool,
    pub(crate) keyring: Arc<Keyring>,
    pub(crate) session_config: Arc<SessionConfig>,
    pub(crate) limits: Limits,
    lease_until_ms: AtomicU64,
    forward_transient: AtomicBool,
    draining: AtomicBool,
    /// MQTT user names choose an app.
    apps: ArcSwap<HashMap<String, AppId>>,
    /// Filters with subscribers, by shard: QoS 0 messages are not sent to a shard without any.
    filters: Vec<AtomicUsize>,
    connections: AtomicUsize,
    bound: AtomicUsize,
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
            limits,
            lease_until_ms: AtomicU64::new(0),
            forward_transient: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            apps: ArcSwap::default(),
            filters: (0..shards).map(|_| AtomicUsize::new(0)).collect(),
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

    /// Takes a place for a connection; `false`: all are taken.
    pub(crate) fn enter(&self) -> bool {
        let before = self.connections.fetch_add(1, Ordering::Relaxed);
        let room = before < self.limits.connections_max;
        if !room {
            self.leave();
        }
        room
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
