//! The task of one webhook: reads on, posts, tries again, and has its place committed.

use std::time::Duration;

use cluster_proto::AppId;
use http::Uri;
use raft_store::{Command, CommandBody, Positions, receipts::ReceiptCursor};
use tokio::{sync::watch, time::Instant};

use super::{
    Settings, WebhookState,
    batch::{Batch, Post},
    client::{Answer, check_url},
    now_ms,
    sign::Secret,
};
use crate::{
    control::ControlHandle,
    receipts::{GoingDown, Reader},
};

/// Once something happened, what follows is gathered for so long.
const GATHER: Duration = Duration::from_millis(100);
/// A place is committed at most this often.
const COMMIT_EVERY: Duration = Duration::from_secs(1);

pub(super) struct Delivery {
    control: ControlHandle,
    settings: Settings,
    app: AppId,
    app_name: String,
    url: Result<Uri, String>,
    secret: Secret,
    reader: Reader<ControlHandle>,
    positions: watch::Receiver<Positions>,
    state: WebhookState,
    committed: ReceiptCursor,
    committed_at: Instant,
}

/// The delivery is over: the webhook wants nothing more, or this node cannot go on.
struct Over;

impl Delivery {
    /// `None` if the webhook was set anew or removed meanwhile.
    pub(super) fn new(
        control: &ControlHandle,
        settings: &Settings,
        app: AppId,
        generation: u64,
    ) -> Option<Self> {
        let tables = control.group().tables();
        let record = tables.webhook(app).filter(|record| record.generation == generation)?;
        let (_, app_name) = tables.apps().into_iter().find(|(of, _)| *of == app)?;
        let state = WebhookState {
            generation,
            place: record.place,
            last_error: String::new(),
            failures: 0,
            next_attempt_ms: 0,
        };
        let webhook = record.webhook;
        Some(Self {
            url: check_url(&webhook.url, settings.allow_http),
            secret: Secret(webhook.secret.to_vec()),
            reader: Reader::new(control.clone(), record.place, webhook.expand, webhook.kinds),
            positions: control.group().positions(),
            committed: record.place,
            committed_at: Instant::now(),
            control: control.clone(),
            settings: settings.clone(),
            app,
            app_name,
            state,
        })
    }

    pub(super) async fn run(mut self) {
        tracing::info!(app = self.app_name, "posting receipts to the webhook");
        self.tell();
        // Why it is over has been said where it happened.
        while self.step().await.is_ok() {}
    }

    /// One post, or one wait for something to post.
    async fn step(&mut self) -> Result<(), Over> {
        // Marked before the tables are read, so that nothing in between is slept through.
        self.positions.borrow_and_update();
        let from = self.reader.place();
        let mut batch = Batch::default();
        while !batch.is_full() {
            match self.reader.next().await {
                Ok(Some(told)) => batch.add(told),
                Ok(None) => break,
                Err(GoingDown) => return Err(Over),
            }
        }
        match batch.post(&self.app_name, self.state.generation, from) {
            Some(post) => self.deliver(post).await?,
            None => {
                // What it does not want counts as taken.
                self.state.place = self.reader.place();
                self.wait().await?;
            }
        }
        self.tell();
        if self.state.place != self.committed && self.committed_at.elapsed() >= COMMIT_EVERY {
            self.commit(false).await;
        }
        Ok(())
    }

    async fn wait(&mut self) -> Result<(), Over> {
        let due = match self.state.place == self.committed {
            true => None,
            false => Some(self.committed_at + COMMIT_EVERY),
        };
        let commit = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            moved = self.positions.changed() => {
                moved.map_err(|_| Over)?;
                tokio::time::sleep(GATHER).await;
            }
            () = commit => {}
        }
        Ok(())
    }

    /// Until it is taken; for ever, since the place stays and what is removed meanwhile is told coalesced.
    async fn deliver(&mut self, post: Post) -> Result<(), Over> {
        loop {
            let answer = match &self.url {
                Ok(url) => self.settings.client.post(url, &self.secret, &post).await,
                Err(why) => Answer::Failed(why.clone()),
            };
            let outcome = match &answer {
                Answer::Taken => "taken",
                Answer::Gone => "gone",
                Answer::Failed(_) => "failed",
            };
            metrics::counter!("carillon_webhook_posts_total", "app" => self.app.to_string(), "outcome" => outcome)
                .increment(1);
            match answer {
                Answer::Taken => {
                    let WebhookState { generation, .. } = self.state;
                    let last_error = String::new();
                    self.state = WebhookState {
                        generation,
                        place: post.next,
                        last_error,
                        failures: 0,
                        next_attempt_ms: 0,
                    };
                    return Ok(());
                }
                Answer::Gone => {
                    tracing::warn!(
                        app = self.app_name,
                        "the webhook answered 410: nothing more is posted to it"
                    );
                    self.commit(true).await;
                    return Err(Over);
                }
                Answer::Failed(why) => self.back_off(why).await,
            }
        }
    }

    async fn back_off(&mut self, why: String) {
        let pause = self.pause();
        tracing::debug!(app = self.app_name, why, ?pause, "a post to the webhook failed");
        self.state.failures += 1;
        self.state.last_error = why;
        self.state.next_attempt_ms = now_ms().saturating_add(pause.as_millis() as u64);
        self.tell();
        if self.state.place != self.committed {
            self.commit(false).await;
        }
        tokio::time::sleep(pause).await;
    }

    /// Doubles with every failure; between half of it and all of it, so that receivers are not called all at once.
    fn pause(&self) -> Duration {
        let doublings = u32::try_from(self.state.failures.min(30)).unwrap_or(30);
        let longest = self.settings.retry_min.saturating_mul(1 << doublings).min(self.settings.retry_max);
        longest.mul_f64(rand::random_range(0.5..=1.0))
    }

    /// A failure costs nothing: the place is committed the next time, or receipts are told twice.
    async fn commit(&mut self, is_gone: bool) {
        let (app, generation, place) = (self.app, self.state.generation, self.state.place);
        let body = CommandBody::AdvanceWebhook { app, generation, place, is_gone };
        self.committed_at = Instant::now();
        match self.control.group().propose(Command::own(body)).await {
            Ok(_) => self.committed = place,
            Err(error) => {
                tracing::debug!(app = self.app_name, %error, "the place of a webhook was not committed")
            }
        }
    }

    /// What `GetWebhook` and the metrics tell.
    fn tell(&self) {
        self.control.webhooks().set(self.app, self.state.clone());
        let app = self.app.to_string();
        metrics::gauge!("carillon_webhook_failures", "app" => app).set(self.state.failures as f64);
    }
}
