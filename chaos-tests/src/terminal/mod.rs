//! Terminals of the run: they write down what they receive before they acknowledge it, and come back after every loss.

mod connection;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};

use self::connection::{Connection, Incoming, Login, Receipt};
use crate::{
    evidence::{Key, Origin, Push, Reception, Terminal, now_ms},
    load::World,
};

/// Topics that back-ends push to.
pub const NEWS_TOPICS: u32 = 3;
/// The topic that terminals publish to.
pub const CHAT: &str = "chat/room";

const CONNACK_LIMIT: Duration = Duration::from_secs(6);
const BETWEEN_PUBLISHES: Duration = Duration::from_millis(300);
/// One in so many messages is not acknowledged: the terminal hangs up instead.
const HANG_UP_ONE_IN: u32 = 40;

/// What kind of terminal it is: a pure function of its number.
#[derive(Clone, Debug)]
pub struct Profile {
    /// Which.
    pub terminal: Terminal,
    /// Whether its session outlives its connection.
    pub persistent: bool,
    /// MQTT 5, or else 3.1.1.
    pub v5: bool,
    /// What it subscribes to.
    pub filters: Vec<String>,
    /// Whether it publishes.
    pub publishes: bool,
}

impl Profile {
    /// Three in four persistent; both versions; most subscribe to one topic, some to none; one in eight publishes.
    pub fn of(terminal: Terminal) -> Self {
        let n = terminal.0;
        let persistent = n % 4 != 3;
        let mut filters = Vec::new();
        if n % 5 != 4 {
            filters.push(news_topic(n));
        }
        if persistent && n.is_multiple_of(6) {
            filters.push(CHAT.into());
        }
        Self { terminal, persistent, v5: (n / 2).is_multiple_of(2), filters, publishes: n % 8 == 1 }
    }
}

/// One of the topics that back-ends push to.
pub fn news_topic(n: u32) -> String {
    format!("news/{}", n % NEWS_TOPICS)
}

/// A running terminal. Dropping it ends its task.
#[derive(Debug)]
pub struct Handle {
    /// Which.
    pub terminal: Terminal,
    wanted: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Handle {
    /// Starts a terminal that wants to be online.
    pub fn start(profile: Profile, token: String, ports: Vec<u16>, world: Arc<World>, seed: u64) -> Self {
        let terminal = profile.terminal;
        let (wanted, wants) = watch::channel(true);
        let rng = StdRng::seed_from_u64(seed ^ u64::from(terminal.0).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let actor = Actor { profile, token, ports, world, wants, rng, subscribed: false, publishing: None };
        Self { terminal, wanted, task: tokio::spawn(actor.live()) }
    }

    /// Switches it on or off (without a DISCONNECT).
    pub fn set_online(&self, online: bool) {
        self.wanted.send_replace(online);
    }

    /// Whether it wants to be online.
    pub fn wants_online(&self) -> bool {
        *self.wanted.borrow()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Actor {
    profile: Profile,
    token: String,
    ports: Vec<u16>,
    world: Arc<World>,
    wants: watch::Receiver<bool>,
    rng: StdRng,
    /// Its persistent session exists and has its subscriptions: from now on it must never be gone.
    subscribed: bool,
    /// The PUBLISH that waits for its PUBACK, and when the last one was sent.
    publishing: Option<(Option<Key>, Instant)>,
}

impl Actor {
    async fn live(mut self) {
        loop {
            if self.wants.wait_for(|wanted| *wanted).await.is_err() {
                return;
            }
            self.connect().await;
            self.world.went_offline(self.profile.terminal);
            let pause = self.rng.random_range(50..250);
            sleep(Duration::from_millis(pause)).await;
        }
    }

    /// One connection, from CONNECT to whatever ends it. Why it ended is not interesting: the oracle looks at what
    /// arrived, not at how.
    async fn connect(&mut self) {
        let port = self.ports[self.rng.random_range(0..self.ports.len())];
        let (id, token) = (self.profile.terminal.to_string(), self.token.clone());
        let login = Login { id, token, port, persistent: self.profile.persistent };
        let mut connection = if self.profile.v5 { Connection::v5(&login) } else { Connection::v4(&login) };
        let Ok(Ok(Incoming::Connected { session_present })) = timeout(CONNACK_LIMIT, connection.next()).await
        else {
            return;
        };
        if !self.begin(&connection, session_present) {
            return;
        }
        let number = self.world.went_online(self.profile.terminal);
        if let Some((key, _)) = &mut self.publishing {
            // Its outcome stays unknown: a new client does not repeat what an old one sent.
            *key = None;
        }
        let mut wants = self.wants.clone();
        loop {
            tokio::select! {
                incoming = connection.next() => {
                    let Ok(incoming) = incoming else { return };
                    if !self.take(&connection, number, incoming) { return }
                }
                _ = wants.wait_for(|wanted| !*wanted) => return,
            }
        }
    }

    /// After CONNACK. False: hang up.
    fn begin(&mut self, connection: &Connection, session_present: bool) -> bool {
        if self.profile.persistent && self.subscribed && !session_present {
            self.world.lost_session(self.profile.terminal);
        }
        let has_them = session_present && self.subscribed;
        has_them || self.profile.filters.is_empty() || connection.subscribe(&self.profile.filters).is_ok()
    }

    /// False: hang up.
    fn take(&mut self, connection: &Connection, number: u64, incoming: Incoming) -> bool {
        match incoming {
            Incoming::Subscribed => {
                self.subscribed = true;
                if self.profile.persistent {
                    self.world.subscribed(&self.profile);
                }
                true
            }
            Incoming::Published => {
                if let Some(key) = self.publishing.as_mut().and_then(|(key, _)| key.take()) {
                    self.world.accepted(key, None, None);
                }
                true
            }
            Incoming::Message { payload, receipt } => self.receive(connection, number, &payload, &receipt),
            Incoming::Connected { .. } | Incoming::Other => true,
        }
    }

    fn receive(
        &mut self,
        connection: &Connection,
        connection_number: u64,
        payload: &[u8],
        receipt: &Receipt,
    ) -> bool {
        let hangs_up = !self.world.is_calm() && self.rng.random_ratio(1, HANG_UP_ONE_IN);
        self.world.received(Reception {
            terminal: self.profile.terminal,
            connection: connection_number,
            key: Key::from_payload(payload).unwrap_or(Key(u64::MAX)),
            at_ms: now_ms(),
            acknowledged: !hangs_up,
        });
        !hangs_up && connection.acknowledge(receipt).is_ok() && self.publish(connection)
    }

    /// Publishes now and then, one at a time.
    fn publish(&mut self, connection: &Connection) -> bool {
        let busy = self
            .publishing
            .as_ref()
            .is_some_and(|(key, at)| key.is_some() || at.elapsed() < BETWEEN_PUBLISHES);
        if !self.profile.publishes || busy || self.world.is_calm() {
            return true;
        }
        let promised = self.world.subscribers(CHAT);
        let push = Push {
            origin: Origin::Publish(self.profile.terminal),
            ids: [].into(),
            accepted: false,
            promised,
            expires_at_ms: None,
        };
        let key = self.world.propose(push);
        self.publishing = Some((Some(key), Instant::now()));
        connection.publish(CHAT, key.payload()).is_ok()
    }
}
