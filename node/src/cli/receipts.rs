//! `carillon receipts`.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use cluster_proto::admin;
use serde::Serialize;
use tonic::Code;

use super::{
    Failure,
    args::ReceiptsArgs,
    client::{self, Client, Repeat, refused},
    output::{Out, note, time},
};

/// One line per push and state for people, one object per message for machines. A stream that breaks (the leader
/// changed) is taken up again after the last message.
pub(super) async fn run(args: ReceiptsArgs, client: &mut Client, out: &mut Out) -> Result<(), Failure> {
    let mut request = admin::ReceiptsRequest {
        app: client.app.clone(),
        cursor: args.from.unwrap_or_default(),
        from_now: args.from_now,
        expand: args.expand,
        until_now: !args.follow,
    };
    let mut is_first = true;
    loop {
        let stream = client.call(Repeat::Read, request.clone(), |channel, request| async move {
            client::pushes(channel).receipts(request).await
        });
        let mut stream = stream.await?;
        loop {
            match stream.message().await {
                Ok(Some(message)) => {
                    (request.cursor, request.from_now) = (message.cursor.clone(), false);
                    show(message, is_first, out)?;
                    is_first = false;
                }
                Ok(None) if !args.follow => {
                    if !out.is_json() {
                        note(&format!("go on with --from {}", request.cursor));
                    }
                    return Ok(());
                }
                Ok(None) => break,
                Err(status) if is_broken(status.code()) => break,
                Err(status) => return Err(refused(&status)),
            }
        }
    }
}

/// The connection, not the request.
fn is_broken(code: Code) -> bool {
    matches!(code, Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal)
}

#[derive(Serialize)]
struct Message {
    cursor: String,
    log_index: u64,
    at_ms: u64,
    coalesced: bool,
    began_at: u64,
    deltas: Vec<Delta>,
}

#[derive(Serialize)]
struct Delta {
    push: u64,
    state: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
    terminals: u64,
    /// Base64.
    #[serde(skip_serializing_if = "String::is_empty")]
    set: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ids: Vec<String>,
}

fn show(message: admin::ReceiptsResponse, is_first: bool, out: &mut Out) -> Result<(), Failure> {
    if out.is_json() {
        let deltas = message.deltas.into_iter().map(|delta| Delta {
            push: delta.push,
            state: delta.state,
            reason: delta.reason,
            terminals: delta.terminals,
            set: STANDARD.encode(&delta.set),
            ids: delta.ids,
        });
        return out.json(&Message {
            cursor: message.cursor,
            log_index: message.log_index,
            at_ms: message.at_ms,
            coalesced: message.coalesced,
            began_at: message.began_at,
            deltas: deltas.collect(),
        });
    }
    if message.deltas.is_empty() && is_first && message.began_at > 0 {
        note(&format!("what is older than log index {} is not kept any more", message.began_at));
    }
    let (at, how) = (time(message.at_ms), if message.coalesced { " (as it stood)" } else { "" });
    for delta in message.deltas {
        let reason = if delta.reason.is_empty() { String::new() } else { format!(" ({})", delta.reason) };
        let ids = if delta.ids.is_empty() { String::new() } else { format!(": {}", delta.ids.join(" ")) };
        let (push, state, terminals) = (delta.push, delta.state, delta.terminals);
        out.text(&format!("{at}  push {push}  {state}{reason} {terminals}{ids}{how}"));
    }
    Ok(())
}
