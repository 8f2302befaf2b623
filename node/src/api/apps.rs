//! The service of apps.

use cluster_proto::{
    admin::{self, apps_server::Apps},
    credential::{AUDIENCE_API, ApiClaims, Scope},
};
use raft_store::{Applied, CommandBody};
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
        let name = request.into_inner().name;
        validate::new_app(&name)?;
        let body = CommandBody::CreateApp { name: name.clone() };
        match self.control.propose(body).await.map_err(status::propose)? {
            Applied::App(id) => Ok(Response::new(admin::App { id: id.0, name })),
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
        let apps = apps.map(|(id, name)| admin::App { id: id.0, name }).collect();
        Ok(Response::new(admin::ListAppsResponse { apps }))
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
        match request.app.as_str() {
            "" => caller.everywhere()?,
            app => {
                caller.in_app(app)?;
                self.app(app).await?;
            }
        }
        let claims = claims(request, self.gate.now_ms() / 1_000)?;
        let key = self.control.signing_key().ok_or_else(status::not_initialised)?;
        let token = auth::issue_api(&key, &claims).map_err(|error| status::issue(&error))?;
        tracing::info!(holder = claims.sub, app = ?claims.app, scopes = ?claims.scopes, caller = caller.name, "issue API token");
        Ok(Response::new(admin::IssueTokenResponse { token, expires: claims.exp }))
    }
}

fn claims(request: admin::IssueTokenRequest, now_s: u64) -> Result<ApiClaims, Status> {
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
