//! What was promised and what was seen, as plain data: the checks read nothing else.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

/// A terminal of the run, by number; its terminal id is its [`fmt::Display`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Terminal(pub u32);

impl Terminal {
    /// The terminal of this id.
    pub fn from_id(id: &str) -> Option<Self> {
        id.strip_prefix("terminal-")?.parse().ok().map(Self)
    }
}

impl fmt::Display for Terminal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "terminal-{}", self.0)
    }
}

/// Our own number of a push, written in its payload: it identifies the push even when nobody learned its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub u64);

impl Key {
    /// The payload of this push.
    pub fn payload(self) -> Vec<u8> {
        format!("push {}", self.0).into_bytes()
    }

    /// Every fifth push of a back-end overtakes the ordinary ones.
    pub fn is_urgent(self) -> bool {
        self.0 % 5 == 2
    }

    /// The push of this payload.
    pub fn from_payload(payload: &[u8]) -> Option<Self> {
        std::str::from_utf8(payload).ok()?.strip_prefix("push ")?.parse().ok().map(Self)
    }
}

/// A state of the conservation law (`dropped` whatever the reason).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Still owed.
    Pending,
    /// The terminal acknowledged.
    Delivered,
    /// Written, and no acknowledgement will come.
    Sent,
    /// Time to live over first.
    Expired,
    /// Recalled.
    Cancelled,
    /// Replaced.
    Collapsed,
    /// Will not be delivered.
    Dropped,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Pending,
        Self::Delivered,
        Self::Sent,
        Self::Expired,
        Self::Cancelled,
        Self::Collapsed,
        Self::Dropped,
    ];
}

/// Who made a push.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A back-end, naming terminals: owed to them whatever becomes of their sessions.
    Identity,
    /// A back-end, to a topic: owed to sessions.
    Topic,
    /// A terminal's QoS 1 PUBLISH: a topic push whose id nobody learns.
    Publish(Terminal),
}

/// A push that was proposed, and what is known of it.
#[derive(Clone, Debug)]
pub struct Push {
    /// Who made it.
    pub origin: Origin,
    /// Every push id answered for it: one, or the cluster accepted it twice.
    pub ids: BTreeSet<u64>,
    /// Whether it was answered as accepted (PUBACK, for a PUBLISH).
    pub accepted: bool,
    /// Terminals that must be in its audience.
    pub promised: BTreeSet<Terminal>,
    /// Nobody may receive it for the first time after this moment, ms since the epoch.
    pub expires_at_ms: Option<u64>,
}

/// One PUBLISH as a terminal received it, written down before the acknowledgement was sent.
#[derive(Clone, Copy, Debug)]
pub struct Reception {
    /// Who received it.
    pub terminal: Terminal,
    /// On which of the run's connections.
    pub connection: u64,
    /// Which push.
    pub key: Key,
    /// When, ms since the epoch.
    pub at_ms: u64,
    /// Whether the terminal then acknowledged (some are told to hang up instead).
    pub acknowledged: bool,
}

/// The answer of `Status` for a push.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Terminals it is for.
    pub audience: u64,
    /// By state.
    pub by_state: BTreeMap<State, u64>,
}

/// Where every terminal of a push stands, when all is quiet.
#[derive(Clone, Debug, Default)]
pub struct FinalStatus {
    /// The counts.
    pub counts: Counts,
    /// The lists behind them.
    pub terminals: BTreeMap<State, BTreeSet<Terminal>>,
}

/// Terminals listed as delivered at some moment of the run; receptions up to `receptions` had been written down when
/// the answer arrived.
#[derive(Clone, Debug)]
pub struct Observation {
    /// Which push.
    pub key: Key,
    /// Its counts then.
    pub counts: Counts,
    /// Who is listed as delivered.
    pub delivered: BTreeSet<Terminal>,
    /// How much of [`Evidence::receptions`] there was.
    pub receptions: usize,
}

/// A push made while every node was ready, to terminals that had their CONNACK.
#[derive(Clone, Debug)]
pub struct Probe {
    /// Which push.
    pub key: Key,
    /// When it was accepted, ms since the epoch.
    pub accepted_at_ms: u64,
    /// Who was connected.
    pub connected: BTreeSet<Terminal>,
}

/// A node's applied position and the digest of its tables there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    /// The node.
    pub node: u64,
    /// Its applied log position.
    pub applied: u64,
    /// The digest.
    pub digest: String,
}

/// Everything a run leaves.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// All pushes.
    pub pushes: BTreeMap<Key, Push>,
    /// All receptions, in order of time.
    pub receptions: Vec<Reception>,
    /// Made while faults went on.
    pub observations: Vec<Observation>,
    /// Made in the calm after each fault.
    pub probes: Vec<Probe>,
    /// Of pushes with a known id, at the end.
    pub finals: BTreeMap<Key, FinalStatus>,
    /// Of replicas, whenever asked.
    pub digests: Vec<Digest>,
    /// Persistent sessions that were gone at a CONNECT: (terminal, when).
    pub lost_sessions: Vec<(Terminal, u64)>,
}

/// Milliseconds since the epoch.
pub fn now_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis().try_into().unwrap_or(u64::MAX))
}
