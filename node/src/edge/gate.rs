//! The gate every new connection passes before anything is spent on it: before its TLS handshake, and before a byte
//! of it is read unless a PROXY header says who it is.
//!
//! ```text
//!  accept ► listener's rate, handshakes under way ► [PROXY header] ► address's rate and connections ► TLS, WebSocket, MQTT
//!              knock: Handshake                                        enter: Place
//! ```
//! Whoever is turned away is counted, and told of in the log now and then.
//!
//! This is the one lock that shards share. It is taken twice per connection and held for a look into a table; nothing
//! that an open connection does passes here.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use fabric_core::token_bucket::{Rate, TokenBucket};
use metrics::counter;

use super::{listener::Kind, metrics::TURNED_AWAY, notices::Notice};

/// Addresses remembered. Beyond, new ones share the rate of one address.
const ADDRESSES_MAX: usize = 64 * 1024;
/// A full table is searched for addresses to forget no more often than this.
const SWEEP_EVERY_MS: u64 = 1_000;
/// Who may connect how often. In all of them 0 is "any number", except for `handshakes_max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GateLimits {
    /// New connections per second and listener, after a burst of as many.
    pub connect_rate: u32,
    /// The same per source address.
    pub connect_rate_per_address: u32,
    /// Connections at once per source address.
    pub connections_per_address: usize,
    /// Connections per listener before their first MQTT byte: PROXY header, TLS, WebSocket.
    pub handshakes_max: usize,
}

impl Default for GateLimits {
    fn default() -> Self {
        Self {
            connect_rate: 20_000,
            connect_rate_per_address: 2_000,
            connections_per_address: 0,
            handshakes_max: 4_096,
        }
    }
}

/// Why a connection was closed before it could say CONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Turned {
    /// The listener's rate.
    ConnectRate,
    /// Handshakes under way on the listener.
    Handshakes,
    /// The rate of its address.
    AddressRate,
    /// Connections of its address.
    AddressConnections,
    /// Connections of the edge.
    Full,
    /// Its PROXY header.
    ProxyHeader,
    /// Its TLS handshake.
    Tls,
    /// Its WebSocket handshake.
    WebSocket,
    /// Handshakes that took too long.
    TimedOut,
    /// The system: no file descriptors, no memory. Whoever connects waits in the backlog.
    Accept,
}

impl Turned {
    /// The label of the metric.
    fn name(self) -> &'static str {
        match self {
            Self::ConnectRate => "connect-rate",
            Self::Handshakes => "handshakes",
            Self::AddressRate => "address-rate",
            Self::AddressConnections => "address-connections",
            Self::Full => "full",
            Self::ProxyHeader => "proxy-header",
            Self::Tls => "tls",
            Self::WebSocket => "websocket",
            Self::TimedOut => "handshake-timeout",
            Self::Accept => "accept",
        }
    }

    /// Limits are the operator's business; bad handshakes are what every public port sees.
    fn is_limit(self) -> bool {
        !matches!(self, Self::ProxyHeader | Self::Tls | Self::WebSocket | Self::TimedOut)
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Gate {
    limits: GateLimits,
    handshakes: [Arc<AtomicUsize>; Kind::COUNT],
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    listeners: [Option<TokenBucket>; Kind::COUNT],
    addresses: Addresses,
    notices: HashMap<(Kind, Turned), Notice>,
}

/// A connection on its way through its handshakes. Dropped when they are done.
#[derive(Debug)]
pub(crate) struct Handshake(Arc<AtomicUsize>);

/// A connection's place among those of its address. Dropped with the connection.
#[derive(Debug, Default)]
pub(crate) struct Place(Option<(Arc<Gate>, IpAddr)>);

impl Gate {
    pub(crate) fn new(limits: GateLimits) -> Arc<Self> {
        Arc::new(Self { limits, handshakes: Default::default(), state: Mutex::default() })
    }

    /// A connection to `listener` was accepted.
    pub(crate) fn knock(&self, listener: Kind, now_ms: u64) -> Result<Handshake, Turned> {
        let count = &self.handshakes[listener as usize];
        // Held from here on, so that every early return gives it back.
        let handshake = Handshake(Arc::clone(count));
        if count.fetch_add(1, Ordering::Relaxed) >= self.limits.handshakes_max {
            return Err(Turned::Handshakes);
        }
        let bucket = &mut self.state().listeners[listener as usize];
        if take(bucket, rate(self.limits.connect_rate), now_ms) {
            Ok(handshake)
        } else {
            Err(Turned::ConnectRate)
        }
    }

    /// It comes from `address`.
    pub(crate) fn enter(self: &Arc<Self>, address: IpAddr, now_ms: u64) -> Result<Place, Turned> {
        let unlimited = self.limits.connect_rate_per_address == 0 && self.limits.connections_per_address == 0;
        let address = address.to_canonical();
        // Of this machine: a proxy without PROXY headers, or a test.
        if unlimited || address.is_loopback() {
            return Ok(Place(None));
        }
        let network = network(address);
        let is_counted = self.state().addresses.enter(network, &self.limits, now_ms)?;
        Ok(Place(is_counted.then(|| (Arc::clone(self), network))))
    }

    /// Counts a connection that was turned away, and now and then tells of it. `peer` is absent where there is none yet.
    pub(crate) fn turned(&self, listener: Kind, why: Turned, peer: Option<IpAddr>, now_ms: u64) {
        counter!(TURNED_AWAY, "listener" => listener.name(), "reason" => why.name()).increment(1);
        let notice = self.state().notices.entry((listener, why)).or_default().take(now_ms);
        let Some(silent) = notice else { return };
        let (listener, reason, peer) = (listener.name(), why.name(), peer.map(tracing::field::display));
        if why.is_limit() {
            tracing::warn!(listener, reason, peer, silent, "a connection is turned away");
        } else {
            tracing::info!(listener, reason, peer, silent, "a connection fails before CONNECT");
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing here can be left half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Handshake {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some((gate, network)) = self.0.take() {
            gate.state().addresses.leave(network);
        }
    }
}

/// What one owner of addresses has: an IPv4 address, an IPv6 /64.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

/// So many per second, after a burst of as many. `None`: any number.
fn rate(per_s: u32) -> Option<Rate> {
    Rate::new(per_s.into(), per_s.into())
}

/// Takes one if it may be taken now; a bucket that is used for the first time is full.
fn take(bucket: &mut Option<TokenBucket>, rate: Option<Rate>, now_ms: u64) -> bool {
    let Some(rate) = rate else { return true };
    let bucket = bucket.get_or_insert(TokenBucket::full(rate, now_ms));
    let may = bucket.wait_ms(rate, now_ms) == 0;
    if may {
        bucket.take(rate, now_ms, 1);
    }
    may
}

/// What is remembered of addresses.
#[derive(Debug, Default)]
struct Addresses {
    known: HashMap<IpAddr, Known>,
    /// Shared by addresses that found no place in the table.
    others: Option<TokenBucket>,
    sweep_at_ms: u64,
}

#[derive(Debug, Default)]
struct Known {
    bucket: Option<TokenBucket>,
    connections: usize,
}

impl Addresses {
    /// Whether the connection is counted, and has to [`Addresses::leave`].
    fn enter(&mut self, network: IpAddr, limits: &GateLimits, now_ms: u64) -> Result<bool, Turned> {
        let rate = rate(limits.connect_rate_per_address);
        if !self.known.contains_key(&network) && !self.has_room(rate, now_ms) {
            let may = take(&mut self.others, rate, now_ms);
            return if may { Ok(false) } else { Err(Turned::AddressRate) };
        }
        let known = self.known.entry(network).or_default();
        if !take(&mut known.bucket, rate, now_ms) {
            return Err(Turned::AddressRate);
        }
        if limits.connections_per_address > 0 && known.connections >= limits.connections_per_address {
            return Err(Turned::AddressConnections);
        }
        known.connections += 1;
        Ok(true)
    }

    fn leave(&mut self, network: IpAddr) {
        if let Some(known) = self.known.get_mut(&network) {
            known.connections = known.connections.saturating_sub(1);
        }
    }

    /// A full table forgets who has no connection and may connect as often as anybody.
    fn has_room(&mut self, rate: Option<Rate>, now_ms: u64) -> bool {
        if self.known.len() >= ADDRESSES_MAX && now_ms >= self.sweep_at_ms {
            self.sweep_at_ms = now_ms + SWEEP_EVERY_MS;
            let is_quiet = |bucket: TokenBucket| rate.is_none_or(|rate| bucket.is_full(rate, now_ms));
            self.known.retain(|_, known| known.connections > 0 || !known.bucket.is_none_or(is_quiet));
        }
        self.known.len() < ADDRESSES_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: GateLimits = GateLimits {
        connect_rate: 10,
        connect_rate_per_address: 2,
        connections_per_address: 3,
        handshakes_max: 4,
    };

    fn address(last: u8) -> IpAddr {
        IpAddr::from([198, 51, 100, last])
    }

    #[test]
    fn a_listener_takes_its_rate_after_a_burst_of_as_many() {
        let gate = Gate::new(LIMITS);
        let taken = |now_ms| (0..20).filter(|_| gate.knock(Kind::Tcp, now_ms).is_ok()).count();
        assert_eq!(taken(0), 10);
        assert_eq!(taken(500), 5);
        assert_eq!(taken(10_000), 10);
        assert!(gate.knock(Kind::Tls, 10_000).is_ok(), "another listener has its own rate");
    }

    #[test]
    fn a_listener_has_so_many_handshakes_and_one_that_ends_makes_room() {
        let gate = Gate::new(LIMITS);
        let mut under_way: Vec<_> = (0..4).map(|_| gate.knock(Kind::Tls, 0).expect("room")).collect();
        assert_eq!(gate.knock(Kind::Tls, 0).err(), Some(Turned::Handshakes));
        under_way.pop();
        assert!(gate.knock(Kind::Tls, 0).is_ok());
    }

    #[test]
    fn one_address_cannot_take_the_share_of_others() {
        let gate = Gate::new(LIMITS);
        let mut places: Vec<_> = (0..2).map(|_| gate.enter(address(1), 0).expect("place")).collect();
        assert_eq!(gate.enter(address(1), 0).err(), Some(Turned::AddressRate));
        assert!(gate.enter(address(2), 0).is_ok());
        places.push(gate.enter(address(1), 1_000).expect("after a second"));
        assert_eq!(gate.enter(address(1), 1_000).err(), Some(Turned::AddressConnections));
        places.clear();
        assert!(gate.enter(address(1), 2_000).is_ok(), "places of closed connections are free");
    }

    #[test]
    fn a_network_of_ipv6_counts_as_one_address_and_a_mapped_one_as_ipv4() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("address");
        let gate = Gate::new(LIMITS);
        let places: Vec<_> = ["2001:db8::1", "2001:db8::2"]
            .iter()
            .map(|text| gate.enter(ip(text), 0).expect("place"))
            .collect();
        assert_eq!(gate.enter(ip("2001:db8::ffff"), 0).err(), Some(Turned::AddressRate));
        assert!(gate.enter(ip("2001:db8:0:1::1"), 0).is_ok());
        let mapped: Vec<_> =
            (0..2).map(|_| gate.enter(ip("::ffff:198.51.100.9"), 0).expect("place")).collect();
        assert_eq!(gate.enter(address(9), 0).err(), Some(Turned::AddressRate));
        drop((places, mapped));
    }

    #[test]
    fn this_machine_is_not_limited_by_address() {
        let gate = Gate::new(LIMITS);
        let places: Vec<_> = (0..100).map(|_| gate.enter(IpAddr::from([127, 0, 0, 1]), 0)).collect();
        assert!(places.iter().all(Result::is_ok));
    }

    #[test]
    fn a_full_table_forgets_quiet_addresses_and_what_finds_no_place_shares_one_rate() {
        let gate = Gate::new(LIMITS);
        let many = |i: u32| IpAddr::from(std::net::Ipv4Addr::from(0x0a00_0000 + i));
        for i in 0..ADDRESSES_MAX as u32 {
            drop(gate.enter(many(i), 0));
        }
        let strangers = |now_ms| (0..10).filter(|i| gate.enter(address(*i), now_ms).is_ok()).count();
        assert_eq!(strangers(1), 2, "all remembered have connected just now");
        assert_eq!(strangers(SWEEP_EVERY_MS + 1), 10, "these are quiet, and forgotten");
        assert!(gate.state().addresses.known.len() <= 10);
    }
}
