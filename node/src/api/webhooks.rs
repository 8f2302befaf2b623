//! `Apps/SetWebhook`, `GetWebhook`, `RemoveWebhook`.

use cluster_proto::{AppId, admin};
use raft_store::{
    Applied, CommandBody,
    command::Webhook,
    receipts::{PageLimits, ReceiptKind},
};
use tonic::Status;

use super::{Control, server::Services, status, validate};
use crate::webhook::{Secret, check_url};

const STATES: &str = "accepted, delivered, sent, expired, cancelled, collapsed, dropped, displayed, opened";

impl<C: Control> Services<C> {
    pub(super) async fn put_webhook(
        &self,
        app: AppId,
        request: admin::SetWebhookRequest,
    ) -> Result<admin::SetWebhookResponse, Status> {
        check_url(&request.url, self.allow_http).map_err(|why| validate::invalid(format!("url: {why}")))?;
        let kinds = kinds(&request.states)?;
        self.control.linearize().await.map_err(status::no_leader)?;
        let from = match request.cursor.as_str() {
            "" => None,
            text => Some(self.cursor(app, text)?),
        };
        let stays = self.control.webhook(app).is_some() && !request.new_secret;
        let (secret, shown) = match request.secret.as_str() {
            "" if stays => (Vec::new(), String::new()),
            "" => {
                let secret = Secret::generate();
                let text = secret.text();
                (secret.0, text)
            }
            text => {
                let secret = Secret::parse(text);
                (secret.map_err(|why| validate::invalid(format!("secret: {why}")))?.0, String::new())
            }
        };
        let webhook = Webhook { url: request.url, secret: secret.into(), expand: request.expand, kinds };
        let body = CommandBody::SetWebhook { app, webhook, from };
        match self.control.propose(body).await.map_err(status::propose)? {
            Applied::Done => Ok(admin::SetWebhookResponse { secret: shown }),
            other => Err(status::unexpected(&other)),
        }
    }

    pub(super) async fn show_webhook(&self, app: AppId, name: &str) -> Result<admin::Webhook, Status> {
        self.control.linearize().await.map_err(status::no_leader)?;
        let record = self.control.webhook(app).ok_or_else(|| no_webhook(name))?;
        let state = self.control.webhook_state(app).filter(|state| state.generation == record.generation);
        // What was taken may not be committed yet.
        let place = state.as_ref().map_or(record.place, |state| state.place);
        let first = self.control.receipts(place, PageLimits { rows: 1, bytes: 1 }).rows.into_iter().next();
        let now_ms = self.gate.now_ms();
        let mut states: Vec<_> =
            record.webhook.kinds.iter().map(|code| ReceiptKind::from_code(*code).names().0).collect();
        states.dedup();
        Ok(admin::Webhook {
            app: name.to_owned(),
            url: record.webhook.url,
            expand: record.webhook.expand,
            states,
            cursor: record.place.to_string(),
            lag_ms: first.map_or(0, |row| now_ms.saturating_sub(row.at_ms).max(1)),
            last_error: state.as_ref().map(|state| state.last_error.clone()).unwrap_or_default(),
            failures: state.as_ref().map_or(0, |state| state.failures),
            next_attempt_ms: state.as_ref().map_or(0, |state| state.next_attempt_ms),
            gone: record.is_gone,
            set_at_ms: record.set_at_ms,
        })
    }

    /// Says whether there was one.
    pub(super) async fn drop_webhook(&self, app: AppId) -> Result<bool, Status> {
        self.control.linearize().await.map_err(status::no_leader)?;
        let was_set = self.control.webhook(app).is_some();
        match self.control.propose(CommandBody::RemoveWebhook { app }).await.map_err(status::propose)? {
            Applied::Done => Ok(was_set),
            other => Err(status::unexpected(&other)),
        }
    }
}

fn no_webhook(app: &str) -> Status {
    Status::not_found(format!("app {app:?} has no webhook: `carillon webhook set URL` sets one"))
}

/// The codes of the states named.
fn kinds(states: &[String]) -> Result<Vec<u8>, Status> {
    let mut kinds = Vec::new();
    for name in states {
        let named = ReceiptKind::named(name);
        if named.is_empty() {
            return Err(validate::invalid(format!("states: there is no {name:?}; there are {STATES}")));
        }
        kinds.extend(named.into_iter().map(ReceiptKind::code));
    }
    kinds.sort_unstable();
    kinds.dedup();
    Ok(kinds)
}
