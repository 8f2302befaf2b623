//! Webhooks: the receipt stream of an app, posted to its URL. The leader delivers, one task per webhook; how far it is
//! stands in the log, at most about a second behind, so that a new leader goes on: at least once, in order.
//!
//! ```text
//!  tables ──► Reader ──► batch ──► POST, signed ──► 2xx ──► place ──► log, once a second
//!                          ▲                         │
//!                          └── back-off, jitter ◄── anything else; 410: nothing more until it is set again
//! ```
//! - `sign`: secrets and signatures, as Standard Webhooks says.
//! - `batch`: what is posted.
//! - `client`: one POST.
//! - `delivery`: the task of one webhook.

mod batch;
mod client;
mod delivery;
mod sign;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use cluster_proto::AppId;
use raft_store::receipts::{PageLimits, ReceiptCursor};
use tokio::{task::JoinHandle, time::MissedTickBehavior};

use self::{client::Client, delivery::Delivery};
pub use self::{client::check_url, sign::Secret};
use crate::{config, control::ControlHandle};

/// The tables are looked at this often for webhooks that were set or removed.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What the config says.
#[derive(Clone, Debug)]
pub struct Settings {
    client: Client,
    allow_http: bool,
    retry_min: Duration,
    retry_max: Duration,
}

impl Settings {
    /// Of these; reads certificates.
    pub fn of(config: &config::Webhook) -> anyhow::Result<Self> {
        Ok(Self {
            client: Client::new(config.ca.as_deref(), config.timeout)?,
            allow_http: config.allow_http,
            retry_min: config.retry_min,
            retry_max: config.retry_max,
        })
    }
}

/// How the delivery to a webhook goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebhookState {
    /// Of which setting.
    pub generation: u64,
    /// Everything before was taken.
    pub place: ReceiptCursor,
    /// Of the last try, if it failed.
    pub last_error: String,
    /// Tries that failed since the last that did not.
    pub failures: u64,
    /// When it is tried again, milliseconds since the epoch; 0: it does not wait.
    pub next_attempt_ms: u64,
}

/// By app; filled while this node leads.
#[derive(Clone, Debug, Default)]
pub struct WebhookStates(Arc<Mutex<BTreeMap<AppId, WebhookState>>>);

impl WebhookStates {
    /// That of one app.
    pub fn of(&self, app: AppId) -> Option<WebhookState> {
        self.lock().get(&app).cloned()
    }

    fn set(&self, app: AppId, state: WebhookState) {
        self.lock().insert(app, state);
    }

    fn forget(&self, app: AppId) {
        self.lock().remove(&app);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<AppId, WebhookState>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Delivers while this node leads; ends with the group.
pub(crate) async fn run(control: ControlHandle, settings: Settings) {
    let mut leadership = control.group().leadership();
    let mut tick = tokio::time::interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut deliveries = Deliveries { control, settings, running: BTreeMap::new() };
    loop {
        let leads = leadership.borrow_and_update().is_leader;
        deliveries.follow(leads);
        tokio::select! {
            _ = tick.tick() => {}
            changed = leadership.changed() => if changed.is_err() {
                return;
            },
        }
    }
}

/// The tasks; they end with it.
struct Deliveries {
    control: ControlHandle,
    settings: Settings,
    /// With the generation each delivers for.
    running: BTreeMap<AppId, (u64, JoinHandle<()>)>,
}

impl Deliveries {
    /// Starts what was set and stops what was removed, by the tables.
    fn follow(&mut self, leads: bool) {
        let tables = self.control.group().tables();
        let (rows, bytes) = tables.receipts_kept();
        metrics::gauge!("carillon_receipts_rows").set(rows as f64);
        metrics::gauge!("carillon_receipts_bytes").set(bytes as f64);
        let wanted: BTreeMap<_, _> = if leads { tables.webhooks() } else { Vec::new() }.into_iter().collect();
        self.running.retain(|app, (generation, task)| {
            let stays = wanted.get(app) == Some(generation) && !task.is_finished();
            if !stays {
                task.abort();
                self.control.webhooks().forget(*app);
            }
            stays
        });
        for app in self.running.keys() {
            let Some(state) = self.control.webhooks().of(*app) else { continue };
            let waits =
                tables.receipts(state.place, PageLimits { rows: 1, bytes: 1 }).rows.into_iter().next();
            let lag_ms = waits.map_or(0, |row| now_ms().saturating_sub(row.at_ms));
            metrics::gauge!("carillon_webhook_lag_ms", "app" => app.to_string()).set(lag_ms as f64);
        }
        for (app, generation) in wanted {
            if self.running.contains_key(&app) {
                continue;
            }
            let Some(delivery) = Delivery::new(&self.control, &self.settings, app, generation) else {
                continue;
            };
            self.running.insert(app, (generation, tokio::spawn(delivery.run())));
        }
    }
}

impl Drop for Deliveries {
    fn drop(&mut self) {
        for (app, (_, task)) in &self.running {
            task.abort();
            self.control.webhooks().forget(*app);
        }
    }
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
