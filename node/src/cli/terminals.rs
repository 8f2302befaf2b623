//! `carillon terminal`.

use std::{io::Write as _, path::Path, time::Duration};

use cluster_proto::{Audience, admin};
use fabric_core::audience::Text;
use serde::Serialize;
use serde_json::json;

use super::{
    Failure,
    args::{Permissions, TerminalCommand},
    client::{self, Client, Repeat, refused},
    files::{self, PrivateFile},
    output::{Out, note, table, time},
    registration,
};

/// Ids in one call of a long list: bounded memory, and little to repeat when a call breaks.
const CREDENTIALS_PER_CALL: usize = 2_000;

pub(super) async fn run(command: TerminalCommand, client: &mut Client, out: &mut Out) -> Result<(), Failure> {
    match command {
        TerminalCommand::Register { from_file: Some(file), .. } => {
            registration::register_all(&file, client, out).await
        }
        TerminalCommand::Register { id, tags, alias, .. } => {
            let (id, tags) = (id.unwrap_or_default(), tags.into_iter().collect());
            register(admin::NewTerminal { id, tags, alias }, client, out).await
        }
        TerminalCommand::Update { meant, tags, remove_tags, alias } => {
            let request = admin::UpdateTerminalsRequest {
                app: client.app.clone(),
                audience: Some(written(&meant)),
                set_tags: tags.into_iter().collect(),
                remove_tags,
                alias,
            };
            update(request, client, out).await
        }
        TerminalCommand::Delete { meant: Some(meant), yes: false, .. } => how_many(&meant, client, out).await,
        TerminalCommand::Delete { ids, meant, .. } => {
            let audience = meant.as_ref().map(written);
            delete(admin::DeleteTerminalsRequest { app: client.app.clone(), ids, audience }, client, out)
                .await
        }
        TerminalCommand::Get { id } => get(id, client, out).await,
        TerminalCommand::List { meant, after, limit } => {
            list(meant.as_ref(), after, limit, client, out).await
        }
        TerminalCommand::Subscriptions { id } => subscriptions(id, client, out).await,
        TerminalCommand::Kick { id } => kick(id, client, out).await,
        TerminalCommand::Revoke { id } => revoke(id, client, out).await,
        TerminalCommand::Credential { id: Some(id), ttl, may, .. } => {
            credential(id, &Asked { ttl, may }, client, out).await
        }
        TerminalCommand::Credential { ttl, may, from_file: Some(ids), out: Some(file), .. } => {
            credentials(&ids, &file, &Asked { ttl, may }, client, out).await
        }
        TerminalCommand::Credential { .. } => {
            Err(Failure::Usage("name a terminal, or --from-file and --out".to_owned()))
        }
    }
}

async fn register(terminal: admin::NewTerminal, client: &mut Client, out: &mut Out) -> Result<(), Failure> {
    let id = terminal.id.clone();
    let request = admin::RegisterRequest { app: client.app.clone(), terminals: vec![terminal] };
    let answer = client.call(Repeat::Same, request, |channel, request| async move {
        client::terminals(channel).register(request).await
    });
    let answer = answer.await?;
    out.result(&json!({ "terminal": id, "registered": answer.registered, "updated": answer.updated }), || {
        let what = if answer.registered == 1 { "is registered" } else { "was registered before" };
        format!("terminal {id} {what}")
    })
}

async fn get(id: String, client: &mut Client, out: &mut Out) -> Result<(), Failure> {
    let request = one(id, client);
    let answer = client.call(Repeat::Read, request, |channel, request| async move {
        client::terminals(channel).get(request).await
    });
    let terminal = Known::from(answer.await?);
    out.result(&terminal, || {
        let rows = [
            vec!["terminal".to_owned(), terminal.id.clone()],
            vec!["app".to_owned(), terminal.app.clone()],
            vec!["number".to_owned(), terminal.no.to_string()],
            vec!["alias".to_owned(), terminal.alias.clone().unwrap_or_default()],
            vec!["tags".to_owned(), terminal.tags()],
            vec!["online".to_owned(), terminal.place()],
            vec!["session".to_owned(), if terminal.session { "yes" } else { "no" }.to_owned()],
            vec!["owed".to_owned(), terminal.owed.to_string()],
            vec!["registered".to_owned(), time(terminal.registered_at_ms)],
            vec!["last seen".to_owned(), terminal.last_seen.clone().unwrap_or_else(|| "long ago".to_owned())],
        ];
        table(&["", ""], &rows).trim_start().to_owned()
    })
}

async fn update(
    request: admin::UpdateTerminalsRequest,
    client: &mut Client,
    out: &mut Out,
) -> Result<(), Failure> {
    let answer = client.call(Repeat::Same, request, |channel, request| async move {
        client::terminals(channel).update(request).await
    });
    let admin::UpdateTerminalsResponse { changed, left } = answer.await?;
    out.result(&json!({ "changed": changed, "left": left }), || match left {
        0 => format!("{changed} terminals are changed"),
        left => format!("{changed} terminals are changed; {left} are not: they would have more than 64 tags"),
    })
}

async fn delete(
    request: admin::DeleteTerminalsRequest,
    client: &mut Client,
    out: &mut Out,
) -> Result<(), Failure> {
    // By expression it may be made again; ids are not found the second time.
    let repeat = if request.ids.is_empty() { Repeat::Same } else { Repeat::Never };
    let answer = client.call(repeat, request, |channel, request| async move {
        client::terminals(channel).delete(request).await
    });
    let deleted = answer.await?.deleted;
    out.result(&json!({ "deleted": deleted }), || format!("{deleted} terminals are deleted"))
}

/// What a deletion by expression would do.
async fn how_many(meant: &Audience, client: &mut Client, out: &mut Out) -> Result<(), Failure> {
    let request = admin::DryRunRequest {
        app: client.app.clone(),
        audience: Some(written(meant)),
        topic: String::new(),
        sample: 10,
    };
    let answer = client.call(Repeat::Read, request, |channel, request| async move {
        client::pushes(channel).dry_run(request).await
    });
    let admin::DryRunResponse { audience, sample } = answer.await?;
    out.result(&json!({ "deleted": 0, "meant": audience, "sample": sample }), || {
        format!("{audience} terminals would be deleted, such as {}: add --yes", sample.join(", "))
    })
}

fn written(audience: &Audience) -> admin::Audience {
    admin::Audience { of: Some(admin::audience::Of::Expression(Text(audience).to_string())) }
}

async fn list(
    meant: Option<&Audience>,
    after: String,
    limit: u32,
    client: &mut Client,
    out: &mut Out,
) -> Result<(), Failure> {
    let audience = meant.map(written);
    let request = admin::ListTerminalsRequest { app: client.app.clone(), after, limit, audience };
    let stream = client.call(Repeat::Read, request, |channel, request| async move {
        client::terminals(channel).list(request).await
    });
    let mut stream = stream.await?;
    let mut all = Vec::new();
    while let Some(page) = stream.message().await.map_err(|status| refused(&status))? {
        all.extend(page.terminals.into_iter().map(Known::from));
    }
    out.result(&json!({ "terminals": all }), || {
        let rows: Vec<_> = all.iter().map(Known::row).collect();
        table(&["TERMINAL", "NUMBER", "ONLINE", "LAST SEEN", "OWED", "TAGS"], &rows)
    })?;
    if let Some(last) = all.last().filter(|_| !out.is_json() && limit != 0 && all.len() >= limit as usize) {
        note(&format!("There may be more: --after {} or --limit 0", last.id));
    }
    Ok(())
}

async fn subscriptions(id: String, client: &mut Client, out: &mut Out) -> Result<(), Failure> {
    let request = one(id, client);
    let answer = client.call(Repeat::Read, request, |channel, request| async move {
        client::terminals(channel).subscriptions(request).await
    });
    let subscriptions = answer.await?.subscriptions;
    let json: Vec<_> = subscriptions.iter().map(|s| json!({ "filter": s.filter, "qos": s.qos })).collect();
    out.result(&json!({ "subscriptions": json }), || {
        let rows: Vec<_> = subscriptions.iter().map(|s| vec![s.filter.clone(), s.qos.to_string()]).collect();
        table(&["FILTER", "QOS"], &rows)
    })
}

async fn kick(id: String, client: &mut Client, out: &mut Out) -> Result<(), Failure> {
    let request = one(id.clone(), client);
    let answer = client.call(Repeat::Same, request, |channel, request| async move {
        client::terminals(channel).kick(request).await
    });
    let was_online = answer.await?.was_online;
    out.result(&json!({ "terminal": id, "was_online": was_online }), || {
        format!("terminal {id} {}", if was_online { "is disconnected" } else { "was not connected" })
    })
}

async fn revoke(id: String, client: &mut Client, out: &mut Out) -> Result<(), Failure> {
    let request = one(id.clone(), client);
    let answer = client.call(Repeat::Same, request, |channel, request| async move {
        client::terminals(channel).revoke(request).await
    });
    let until = answer.await?.issued_until;
    out.result(&json!({ "terminal": id, "issued_until": until }), || {
        format!("credentials of terminal {id} issued until {} are void", time(until.saturating_mul(1_000)))
    })
}

/// What credentials are asked for.
struct Asked {
    ttl: Duration,
    may: Permissions,
}

/// Not given: everything. The empty filter, which matches no topic, is how nothing is said.
fn filters(given: &[String]) -> Option<admin::Filters> {
    let filters = given.iter().filter(|filter| !filter.is_empty()).cloned().collect();
    (!given.is_empty()).then_some(admin::Filters { filters })
}

/// One credential: always JSON, because nobody reads a token.
async fn credential(id: String, asked: &Asked, client: &mut Client, out: &mut Out) -> Result<(), Failure> {
    let mut issued = issue(vec![id], asked, client).await?;
    let credential =
        issued.pop().ok_or_else(|| Failure::Refused("the node answered no credential".to_owned()))?;
    out.json(&json!({
        "terminal": credential.terminal,
        "username": credential.username,
        "token": credential.token,
        "expires": credential.expires,
        "edges": credential.edges,
    }))
}

async fn credentials(
    ids: &Path,
    file: &Path,
    asked: &Asked,
    client: &mut Client,
    out: &mut Out,
) -> Result<(), Failure> {
    let text = String::from_utf8(files::read(ids)?)
        .map_err(|_| Failure::Refused(format!("{} is not UTF-8 text", ids.display())))?;
    let all = id_lines(&text).map_err(|why| Failure::Refused(format!("{}: {why}", ids.display())))?;
    let mut written = PrivateFile::create(file)?;
    for chunk in all.chunks(CREDENTIALS_PER_CALL) {
        for credential in issue(chunk.to_vec(), asked, client).await? {
            writeln!(written, "{} {} {}", credential.terminal, credential.username, credential.token)?;
        }
    }
    written.finish()?;
    out.result(&json!({ "credentials": all.len(), "file": file }), || {
        format!("{} credentials are in {}", all.len(), file.display())
    })
}

/// Ids, one a line; empty lines are skipped. The output is split at spaces, so an id must have none.
fn id_lines(text: &str) -> Result<Vec<String>, String> {
    let mut ids = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let id = line.trim();
        if id.contains(char::is_whitespace) {
            return Err(format!("line {}: an id with a space cannot be written to this file", at + 1));
        }
        if !id.is_empty() {
            ids.push(id.to_owned());
        }
    }
    if ids.is_empty() { Err("no id in it".to_owned()) } else { Ok(ids) }
}

/// A call's credentials, complete: one that breaks in the middle is made again.
async fn issue(
    ids: Vec<String>,
    asked: &Asked,
    client: &mut Client,
) -> Result<Vec<admin::Credential>, Failure> {
    let request = admin::IssueCredentialsRequest {
        app: client.app.clone(),
        ids,
        ttl_s: asked.ttl.as_secs().max(1),
        publish: filters(&asked.may.publish),
        subscribe: filters(&asked.may.subscribe),
    };
    let issued = client.call(Repeat::Same, request, |channel, request| async move {
        let mut stream = client::terminals(channel).issue_credentials(request).await?.into_inner();
        let mut issued = Vec::new();
        while let Some(page) = stream.message().await? {
            issued.extend(page.credentials);
        }
        Ok(tonic::Response::new(issued))
    });
    issued.await
}

fn one(id: String, client: &Client) -> admin::GetTerminalRequest {
    admin::GetTerminalRequest { app: client.app.clone(), id }
}

#[derive(Debug, Serialize)]
struct Known {
    id: String,
    app: String,
    no: u32,
    alias: Option<String>,
    tags: std::collections::BTreeMap<String, String>,
    online: bool,
    edge: Option<u64>,
    session: bool,
    owed: u64,
    registered_at_ms: u64,
    /// The day, UTC; absent: longer ago than is kept.
    last_seen: Option<String>,
}

impl From<admin::Terminal> for Known {
    fn from(terminal: admin::Terminal) -> Self {
        Self {
            id: terminal.id,
            app: terminal.app,
            no: terminal.no,
            alias: Some(terminal.alias).filter(|alias| !alias.is_empty()),
            tags: terminal.tags.into_iter().collect(),
            online: terminal.online,
            edge: Some(terminal.edge).filter(|_| terminal.online),
            session: terminal.session,
            owed: terminal.owed,
            registered_at_ms: terminal.registered_at_ms,
            last_seen: (terminal.last_seen_ms > 0)
                .then(|| time(terminal.last_seen_ms).chars().take(10).collect()),
        }
    }
}

impl Known {
    fn tags(&self) -> String {
        self.tags.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(" ")
    }

    fn place(&self) -> String {
        self.edge.map_or_else(|| "no".to_owned(), |edge| format!("node {edge}"))
    }

    fn row(&self) -> Vec<String> {
        let seen = self.last_seen.clone().unwrap_or_default();
        vec![self.id.clone(), self.no.to_string(), self.place(), seen, self.owed.to_string(), self.tags()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_one_a_line() {
        assert_eq!(id_lines("tv-1\r\n\n  tv-2\n"), Ok(vec!["tv-1".to_owned(), "tv-2".to_owned()]));
        assert!(id_lines("tv-1\ntv 2").expect_err("space").starts_with("line 2:"));
        assert!(id_lines("\n").is_err());
    }
}
