//! `carillon webhook`.

use cluster_proto::admin;
use serde_json::json;

use super::{
    Failure,
    args::WebhookCommand,
    client::{self, Client, Repeat},
    files,
    output::{Out, note, time},
};

pub(super) async fn run(command: WebhookCommand, client: &mut Client, out: &mut Out) -> Result<(), Failure> {
    let app = client.app.clone();
    match command {
        WebhookCommand::Set { url, secret, new_secret, expand, states, from } => {
            let secret = secret.filter(|secret| !secret.is_empty()).map(read_secret).transpose()?;
            let secret = secret.unwrap_or_default();
            let cursor = from.unwrap_or_default();
            let request = admin::SetWebhookRequest { app, url, secret, expand, states, cursor, new_secret };
            // Made twice, the second answer would not show the secret that the first one made.
            let answer = client.call(Repeat::Never, request, |channel, request| async move {
                client::apps(channel).set_webhook(request).await
            });
            let secret = answer.await?.secret;
            let shown = Some(&secret).filter(|secret| !secret.is_empty());
            out.result(&json!({ "secret": shown }), || match shown {
                Some(secret) => secret.clone(),
                None => "the webhook is set".to_owned(),
            })?;
            if shown.is_some() && !out.is_json() {
                note("the webhook is set; above is its secret, which is not shown again");
            }
            Ok(())
        }
        WebhookCommand::Show => {
            let request = admin::WebhookRequest { app };
            let answer = client.call(Repeat::Read, request, |channel, request| async move {
                client::apps(channel).get_webhook(request).await
            });
            let webhook = answer.await?;
            let json = json!({
                "app": webhook.app,
                "url": webhook.url,
                "expand": webhook.expand,
                "states": webhook.states,
                "cursor": webhook.cursor,
                "lag_ms": webhook.lag_ms,
                "last_error": webhook.last_error,
                "failures": webhook.failures,
                "next_attempt_ms": webhook.next_attempt_ms,
                "gone": webhook.gone,
                "set_at_ms": webhook.set_at_ms,
            });
            out.result(&json, || text(&webhook))
        }
        WebhookCommand::Remove => {
            let request = admin::WebhookRequest { app };
            let answer = client.call(Repeat::Same, request, |channel, request| async move {
                client::apps(channel).remove_webhook(request).await
            });
            let was_set = answer.await?.was_set;
            out.result(&json!({ "was_set": was_set }), || {
                if was_set { "the webhook is removed" } else { "there was no webhook" }.to_owned()
            })
        }
    }
}

fn text(webhook: &admin::Webhook) -> String {
    let what = if webhook.expand { "ids of terminals" } else { "sets of terminal numbers" };
    let states = if webhook.states.is_empty() { "every state".to_owned() } else { webhook.states.join(", ") };
    let mut text = format!("{}\n{what}, {states}; set {}", webhook.url, time(webhook.set_at_ms));
    text += &match (webhook.gone, webhook.lag_ms) {
        (true, _) => "\nit answered 410: nothing is posted until it is set again".to_owned(),
        (false, 0) => "\nit has everything".to_owned(),
        (false, lag_ms) => format!("\nit is {:.1} s behind", lag_ms as f64 / 1_000.0),
    };
    if webhook.failures > 0 {
        let (n, why, at) = (webhook.failures, &webhook.last_error, time(webhook.next_attempt_ms));
        text += &format!("\n{n} tries failed, the last: {why}; it is tried again {at}");
    }
    text + &format!("\ncommitted cursor {}", webhook.cursor)
}

/// As typed, or from a file.
fn read_secret(text: String) -> Result<String, Failure> {
    match text.strip_prefix('@') {
        Some(path) => {
            let bytes = files::read(std::path::Path::new(path))?;
            Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
        }
        None => Ok(text),
    }
}
