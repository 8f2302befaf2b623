//! `carillon app` and `carillon token`.

use cluster_proto::admin;
use serde_json::json;

use super::{
    Failure,
    args::{AppCommand, QuotaArgs, TokenArgs},
    client::{self, Client, Repeat},
    output::{Out, note, table, time},
};

pub(super) async fn run(command: AppCommand, client: &mut Client, out: &mut Out) -> Result<(), Failure> {
    match command {
        AppCommand::Create { name, quotas } => {
            let request = admin::CreateAppRequest { name, quotas: Some(quotas.into()) };
            let app = client.call(Repeat::Same, request, |channel, request| async move {
                client::apps(channel).create(request).await
            });
            let app = app.await?;
            out.result(&json(&app), || format!("app {} is there", app.name))
        }
        AppCommand::Get { name } => {
            let request = admin::GetAppRequest { name };
            let app = client.call(Repeat::Read, request, |channel, request| async move {
                client::apps(channel).get(request).await
            });
            show(&app.await?, out)
        }
        AppCommand::Update { name, quotas } => {
            let request = admin::UpdateAppRequest { name, quotas: Some(quotas.into()) };
            let app = client.call(Repeat::Same, request, |channel, request| async move {
                client::apps(channel).update(request).await
            });
            show(&app.await?, out)
        }
        AppCommand::Delete { name, confirm } => {
            let request = admin::DeleteAppRequest { name: name.clone(), confirm };
            // Made twice, it does not find the app the second time.
            let deleted = client.call(Repeat::Never, request, |channel, request| async move {
                client::apps(channel).delete(request).await
            });
            deleted.await?;
            out.result(&json!({ "deleted": name }), || {
                format!("app {name} is deleted; its name is free when everything of it is removed")
            })
        }
        AppCommand::List => {
            let request = admin::ListAppsRequest {};
            let answer = client.call(Repeat::Read, request, |channel, request| async move {
                client::apps(channel).list(request).await
            });
            let apps = answer.await?.apps;
            let json: Vec<_> = apps.iter().map(json).collect();
            out.result(&json!({ "apps": json }), || {
                let rows: Vec<_> = apps.iter().map(row).collect();
                table(&["ID", "NAME", "TERMINALS", "CONNECTED", "STORED BYTES"], &rows)
            })
        }
    }
}

impl From<QuotaArgs> for admin::Quotas {
    fn from(given: QuotaArgs) -> Self {
        let QuotaArgs { terminals, connections, pushes_per_s, pushes_burst, stored_bytes } = given;
        Self { terminals, connections, pushes_per_s, pushes_burst, stored_bytes }
    }
}

fn json(app: &admin::App) -> serde_json::Value {
    let quotas = app.quotas.unwrap_or_default();
    json!({
        "id": app.id,
        "name": app.name,
        "terminals": app.terminals,
        "connections": app.connections,
        "stored_bytes": app.stored_bytes,
        "quotas": {
            "terminals": quotas.terminals(),
            "connections": quotas.connections(),
            "pushes_per_s": quotas.pushes_per_s(),
            "pushes_burst": quotas.pushes_burst(),
            "stored_bytes": quotas.stored_bytes(),
        },
    })
}

fn row(app: &admin::App) -> Vec<String> {
    let counts = [app.terminals, app.connections, app.stored_bytes].map(|count| count.to_string());
    [app.id.to_string(), app.name.clone()].into_iter().chain(counts).collect()
}

fn show(app: &admin::App, out: &mut Out) -> Result<(), Failure> {
    let quotas = app.quotas.unwrap_or_default();
    let most = |quota: u64| if quota == 0 { "-".to_owned() } else { quota.to_string() };
    out.result(&json(app), || {
        let of = |what: &str, has: String, quota: u64| vec![what.to_owned(), has, most(quota)];
        let rows = [
            of("terminals", app.terminals.to_string(), quotas.terminals()),
            of("connections", app.connections.to_string(), quotas.connections()),
            of("stored bytes", app.stored_bytes.to_string(), quotas.stored_bytes()),
            of("pushes a second", String::new(), quotas.pushes_per_s()),
            of("pushes at once", String::new(), quotas.pushes_burst()),
        ];
        table(&[&app.name.to_uppercase(), "HAS", "MAY HAVE"], &rows)
    })
}

pub(super) async fn token(args: TokenArgs, client: &mut Client, out: &mut Out) -> Result<(), Failure> {
    let request = admin::IssueTokenRequest {
        name: args.name,
        scopes: args.scopes,
        app: if args.all_apps { String::new() } else { client.app.clone() },
        ttl_s: args.ttl.as_secs().max(1),
    };
    let answer = client.call(Repeat::Read, request, |channel, request| async move {
        client::apps(channel).issue_token(request).await
    });
    let answer = answer.await?;
    out.result(&json!({ "token": answer.token, "expires": answer.expires }), || answer.token.clone())?;
    if !out.is_json() {
        note(&format!("valid until {}", time(answer.expires.saturating_mul(1_000))));
    }
    Ok(())
}
