//! The service of apps.

use cluster_proto::{
    AppId,
    admin::{self, apps_server::Apps},
    credential::{AUDIENCE_API, ApiClaims, Scope},
};
use raft_store::{
    Applied, CommandBody,
    command::{QuotaChange, Quotas},
    tables::AppRecord,
};
use tonic::{Request, Response, Status};

use super::{Control, server::Services, status, validate};
use crate::auth;

/// A token for a back-end is renewed at least this often.
const API_TOKEN_TTL_MAX_S: u64 = 366 * 24 * 3_600;
const API_TOKEN_TTL_DEFAULT_S: u64 = 90 * 24 * 3_600;

#[tonic::async_trait]
impl<C: Control> Apps for Services<C> {
    async fn create(
        &self,
        request: Request<admin::CreateAppRequest>,
    ) -> Result<Response<admin::App>, Status> {
        self.gate.allow(&request, Scope::Admin)?.everywhere()?;
        let admin::CreateAppRequest { name, quotas } = request.into_inner();
        validate::new_app(&name)?;
        let quotas = Quotas::default().changed(&change(quotas));
        let body = CommandBody::CreateApp { name: name.clone(), quotas };
        match self.control.propose(body).await.map_err(status::propose)? {
            Applied::App(id) => self.describe_app(id, name).await.map(Response::new),
            other => Err(status::unexpected(&other)),
        }
    }

    async fn get(&self, request: Request<admin::GetAppRequest>) -> Result<Response<admin::App>, Status> {
        let caller = self.gate.allow(&request, Scope::Read)?;
        let name = validate::app_name(&request.into_inner().name).to_owned();
        caller.in_app(&name)?;
        self.control.linearize().await.map_err(status::no_leader)?;
        let app = self.app(&name).await?;
        self.describe_app(app, name).await.map(Response::new)
    }

    async fn update(
        &self,
        request: Request<admin::UpdateAppRequest>,
    ) -> Result<Response<admin::App>, Status> {
        self.gate.allow(&request, Scope::Admin)?.everywhere()?;
        let admin::UpdateAppRequest { name, quotas } = request.into_inner();
        let name = validate::app_name(&name).to_owned();
        let app = self.app(&name).await?;
        let body = CommandBody::SetQuotas { app, change: change(quotas) };
        match self.control.propose(body).await.map_err(status::propose)? {
            Applied::Done => self.describe_app(app, name).await.map(Response::new),
            other => Err(status::unexpected(&other)),
        }
    }

    async fn delete(
        &self,
        request: Request<admin::DeleteAppRequest>,
    ) -> Result<Response<admin::DeleteAppResponse>, Status> {
        let caller = self.gate.allow(&request, Scope::Admin)?;
        caller.everywhere()?;
        let admin::DeleteAppRequest { name, confirm } = request.into_inner();
        if name.is_empty() || confirm != name {
            return Err(validate::invalid(format!(
                "confirm is {confirm:?}: repeat the name of the app, {name:?}, to delete everything of it"
            )));
        }
        let app = self.app(&name).await?;
        match self.control.propose(CommandBody::DeleteApp { app }).await.map_err(status::propose)? {
            Applied::Done => {
                tracing::info!(app = name, caller = caller.name, "delete app");
                Ok(Response::new(admin::DeleteAppResponse {}))
            }
            other => Err(status::unexpected(&other)),
        }
    }

    async fn list(
        &self,
        request: Request<admin::ListAppsRequest>,
    ) -> Result<Response<admin::ListAppsResponse>, Status> {
        let caller = self.gate.allow(&request, Scope::Read)?;
        self.control.linearize().await.map_err(status::no_leader)?;
        let apps = self.control.apps().into_iter().filter(|(_, name)| caller.in_app(name).is_ok());
        let mut described = Vec::new();
        for (id, name) in apps {
            // One may be deleted meanwhile.
            described.extend(self.describe_app(id, name).await.ok());
        }
        Ok(Response::new(admin::ListAppsResponse { apps: described }))
    }

    async fn set_webhook(
        &self,
        request: Request<admin::SetWebhookRequest>,
    ) -> Result<Response<admin::SetWebhookResponse>, Status> {
        let caller = self.gate.allow(&request, Scope::Admin)?;
        let request = request.into_inner();
        let name = validate::app_name(&request.app).to_owned();
        caller.in_app(&name)?;
        let app = self.app(&name).await?;
        let answer = self.put_webhook(app, request).await?;
        tracing::info!(app = name, caller = caller.name, "set webhook");
        Ok(Response::new(answer))
    }

    async fn get_webhook(
        &self,
        request: Request<admin::WebhookRequest>,
    ) -> Result<Response<admin::Webhook>, Status> {
        let caller = self.gate.allow(&request, Scope::Admin)?;
        let request = request.into_inner();
        let name = validate::app_name(&request.app);
        caller.in_app(name)?;
        let app = self.app(name).await?;
        self.show_webhook(app, name).await.map(Response::new)
    }

    async fn remove_webhook(
        &self,
        request: Request<admin::WebhookRequest>,
    ) -> Result<Response<admin::RemoveWebhookResponse>, Status> {
        let caller = self.gate.allow(&request, Scope::Admin)?;
        let request = request.into_inner();
        let name = validate::app_name(&request.app).to_owned();
        caller.in_app(&name)?;
        let app = self.app(&name).await?;
        let was_set = self.drop_webhook(app).await?;
        tracing::info!(app = name, caller = caller.name, "removed webhook");
        Ok(Response::new(admin::RemoveWebhookResponse { was_set }))
    }

    async fn issue_token(
        &self,
        request: Request<admin::IssueTokenRequest>,
    ) -> Result<Response<admin::IssueTokenResponse>, Status> {
        let caller = self.gate.allow(&request, Scope::Admin)?;
        let request = request.into_inner();
        let app = match request.app.as_str() {
            "" => {
                caller.everywhere()?;
                None
            }
            app => {
                caller.in_app(app)?;
                Some(self.app(app).await?)
            }
        };
        let claims = claims(request, app, self.gate.now_ms() / 1_000)?;
        let key = self.control.signing_key().ok_or_else(status::not_initialised)?;
        let token = auth::issue_api(&key, &claims).map_err(|error| status::issue(&error))?;
        tracing::info!(holder = claims.sub, app = ?claims.app, scopes = ?claims.scopes, caller = caller.name, "issue API token");
        Ok(Response::new(admin::IssueTokenResponse { token, expires: claims.exp }))
    }
}

impl<C: Control> Services<C> {
    async fn describe_app(&self, app: AppId, name: String) -> Result<admin::App, Status> {
        let connections = self.control.connected(app).await;
        let AppRecord { quotas, terminals, stored_bytes } =
            self.control.app_record(app).ok_or_else(|| status::no_app(&name))?;
        let quotas = admin::Quotas {
            terminals: Some(quotas.terminals),
            connections: Some(quotas.connections),
            pushes_per_s: Some(quotas.pushes_per_s),
            pushes_burst: Some(quotas.pushes_burst),
            stored_bytes: Some(quotas.stored_bytes),
        };
        Ok(admin::App { id: app.0, name, quotas: Some(quotas), terminals, stored_bytes, connections })
    }
}

fn change(quotas: Option<admin::Quotas>) -> QuotaChange {
    let quotas = quotas.unwrap_or_default();
    QuotaChange {
        terminals: quotas.terminals,
        connections: quotas.connections,
        pushes_per_s: quotas.pushes_per_s,
        pushes_burst: quotas.pushes_burst,
        stored_bytes: quotas.stored_bytes,
    }
}

fn claims(request: admin::IssueTokenRequest, app: Option<AppId>, now_s: u64) -> Result<ApiClaims, Status> {
    let scopes = request.scopes.iter().map(|scope| self::scope(scope)).collect::<Result<Vec<_>, _>>()?;
    if scopes.is_empty() {
        return Err(validate::invalid("scopes is empty: name admin, push, terminals or read"));
    }
    if request.name.is_empty() || request.name.len() > 256 || request.name.contains(char::is_control) {
        return Err(validate::invalid("name must have 1 to 256 bytes: who holds the token, for logs"));
    }
    let ttl_s = match request.ttl_s {
        0 => API_TOKEN_TTL_DEFAULT_S,
        asked if asked > API_TOKEN_TTL_MAX_S => {
            return Err(validate::invalid(format!("ttl_s is {asked}: the most is {API_TOKEN_TTL_MAX_S}")));
        }
        asked => asked,
    };
    Ok(ApiClaims {
        aud: AUDIENCE_API.to_owned(),
        sub: request.name,
        app: Some(request.app).filter(|app| !app.is_empty()),
        app_id: app.map(|app| app.0),
        scopes,
        iat: now_s,
        exp: now_s + ttl_s,
    })
}

fn scope(name: &str) -> Result<Scope, Status> {
    match name {
        "admin" => Ok(Scope::Admin),
        "push" => Ok(Scope::Push),
        "terminals" => Ok(Scope::Terminals),
        "read" => Ok(Scope::Read),
        other => {
            Err(validate::invalid(format!("there is no scope {other:?}: admin, push, terminals or read")))
        }
    }
}
