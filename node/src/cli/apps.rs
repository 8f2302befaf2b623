//! `carillon app` and `carillon token`.

use cluster_proto::admin;
use serde_json::json;

use super::{
    Failure,
    args::{AppCommand, TokenArgs},
    client::{self, Client, Repeat},
    output::{Out, note, table, time},
};

pub(super) async fn run(command: AppCommand, client: &mut Client, out: &mut Out) -> Result<(), Failure> {
    match command {
        AppCommand::Create { name } => {
            let request = admin::CreateAppRequest { name };
            let app = client.call(Repeat::Same, request, |channel, request| async move {
                client::apps(channel).create(request).await
            });
            let app = app.await?;
            out.result(&json!({ "id": app.id, "name": app.name }), || format!("app {} is there", app.name))
        }
        AppCommand::List => {
            let request = admin::ListAppsRequest {};
            let answer = client.call(Repeat::Read, request, |channel, request| async move {
                client::apps(channel).list(request).await
            });
            let apps = answer.await?.apps;
            let json: Vec<_> = apps.iter().map(|app| json!({ "id": app.id, "name": app.name })).collect();
            out.result(&json!({ "apps": json }), || {
                let rows: Vec<_> =
                    apps.iter().map(|app| vec![app.id.to_string(), app.name.clone()]).collect();
                table(&["ID", "NAME"], &rows)
            })
        }
    }
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
