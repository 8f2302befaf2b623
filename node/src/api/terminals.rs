//! The service of terminals: registration, credentials, and what is known of one.

use std::collections::BTreeMap;

use cluster_proto::{
    AppId, TerminalId, TerminalNo, TerminalSet,
    admin::{self, terminals_server::Terminals},
    credential::{AUDIENCE_TERMINAL, Scope, TerminalClaims},
    limits::OWED_PER_TERMINAL_MAX,
};
use futures_util::stream::{BoxStream, StreamExt as _, unfold};
use raft_store::{
    Applied, CommandBody,
    command::{NewTerminal, SigningKey},
};
use tonic::{Request, Response, Status, Streaming};

use super::{Control, audience, backend::TerminalView, server::Services, status, validate};
use crate::auth;

/// Credentials in one message; signing that many takes about 40 ms.
const CREDENTIALS_CHUNK: usize = 1_000;
const DAY_MS: u64 = 24 * 3_600 * 1_000;
/// Terminals in one message of a list.
const PAGE_LEN: usize = 500;

#[tonic::async_trait]
impl<C: Control> Terminals for Services<C> {
    type ListStream = BoxStream<'static, Result<admin::ListTerminalsResponse, Status>>;
    type IssueCredentialsStream = BoxStream<'static, Result<admin::IssueCredentialsResponse, Status>>;

    async fn register(
        &self,
        request: Request<admin::RegisterRequest>,
    ) -> Result<Response<admin::RegisterResponse>, Status> {
        let caller = self.gate.allow(&request, Scope::Terminals)?;
        let request = request.into_inner();
        let name = validate::app_name(&request.app);
        caller.in_app(name)?;
        let app = self.app(name).await?;
        let terminals = validate::terminals(request.terminals)?;
        let all = terminals.len() as u64;
        let (_, registered) = self.register_all(app, terminals).await?;
        let updated = all.saturating_sub(registered);
        Ok(Response::new(admin::RegisterResponse { registered, updated }))
    }

    async fn register_stream(
        &self,
        request: Request<Streaming<admin::RegisterRequest>>,
    ) -> Result<Response<admin::RegisterStreamResponse>, Status> {
        let caller = self.gate.allow(&request, Scope::Terminals)?;
        self.register_from(&caller, request.into_inner()).await.map(Response::new)
    }

    async fn update(
        &self,
        request: Request<admin::UpdateTerminalsRequest>,
    ) -> Result<Response<admin::UpdateTerminalsResponse>, Status> {
        let caller = self.gate.allow(&request, Scope::Terminals)?;
        let request = request.into_inner();
        let name = validate::app_name(&request.app).to_owned();
        caller.in_app(&name)?;
        let app = self.app(&name).await?;
        let answer = self.update_terminals(app, request).await?;
        tracing::info!(app = name, changed = answer.changed, caller = caller.name, "update terminals");
        Ok(Response::new(answer))
    }

    async fn delete(
        &self,
        request: Request<admin::DeleteTerminalsRequest>,
    ) -> Result<Response<admin::DeleteTerminalsResponse>, Status> {
        let caller = self.gate.allow(&request, Scope::Terminals)?;
        let request = request.into_inner();
        let name = validate::app_name(&request.app).to_owned();
        caller.in_app(&name)?;
        let app = self.app(&name).await?;
        let answer = self.delete_terminals(app, request).await?;
        tracing::info!(app = name, deleted = answer.deleted, caller = caller.name, "delete terminals");
        Ok(Response::new(answer))
    }

    async fn get(
        &self,
        request: Request<admin::GetTerminalRequest>,
    ) -> Result<Response<admin::Terminal>, Status> {
        let (name, app, id) = self.one(request, Scope::Read).await?;
        self.control.linearize().await.map_err(status::no_leader)?;
        let view = self.control.terminal(app, &id).ok_or_else(|| status::no_terminal(&id))?;
        let last_seen = self.control.last_seen(&TerminalSet::one(view.no));
        Ok(Response::new(self.describe(&name, app, view, &last_seen).await))
    }

    async fn list(
        &self,
        request: Request<admin::ListTerminalsRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let caller = self.gate.allow(&request, Scope::Read)?;
        let request = request.into_inner();
        let name = validate::app_name(&request.app).to_owned();
        caller.in_app(&name)?;
        let app = self.app(&name).await?;
        let after = Some(request.after)
            .filter(|after| !after.is_empty())
            .map(|id| validate::id("id", id))
            .transpose()?;
        let order = match request.audience {
            Some(audience) => {
                let meant = self.meant(app, audience::of_terminals(Some(audience))?).await?;
                let after = match after {
                    Some(id) => self.control.terminal(app, &id).ok_or_else(|| status::no_terminal(&id))?.no,
                    None => TerminalNo(0),
                };
                Order::Of(meant, after)
            }
            None => {
                self.control.linearize().await.map_err(status::no_leader)?;
                Order::All(after)
            }
        };
        let left = if request.limit == 0 { u64::MAX } else { u64::from(request.limit) };
        let pages = Pages { services: self.clone(), name, app, order, left };
        Ok(Response::new(unfold(pages, Pages::next).boxed()))
    }

    async fn subscriptions(
        &self,
        request: Request<admin::GetTerminalRequest>,
    ) -> Result<Response<admin::SubscriptionsResponse>, Status> {
        let (_, app, id) = self.one(request, Scope::Read).await?;
        self.control.linearize().await.map_err(status::no_leader)?;
        let view = self.control.terminal(app, &id).ok_or_else(|| status::no_terminal(&id))?;
        let subscriptions = self.control.subscriptions(view.no).into_iter();
        let subscriptions =
            subscriptions.map(|(filter, qos)| admin::Subscription { filter, qos: u32::from(qos) }).collect();
        Ok(Response::new(admin::SubscriptionsResponse { subscriptions }))
    }

    async fn kick(
        &self,
        request: Request<admin::GetTerminalRequest>,
    ) -> Result<Response<admin::KickResponse>, Status> {
        let (_, app, id) = self.one(request, Scope::Terminals).await?;
        // No check of registration: an anonymous client can be ended too.
        let was_online = self.control.kick(app, &id).await;
        let was_online =
            was_online.ok_or_else(|| status::unavailable("the leader does not know yet who is online"))?;
        Ok(Response::new(admin::KickResponse { was_online }))
    }

    async fn issue_credentials(
        &self,
        request: Request<admin::IssueCredentialsRequest>,
    ) -> Result<Response<Self::IssueCredentialsStream>, Status> {
        let caller = self.gate.allow(&request, Scope::Terminals)?;
        let request = request.into_inner();
        let name = validate::app_name(&request.app).to_owned();
        caller.in_app(&name)?;
        let ttl_s = validate::credential_ttl(request.ttl_s)?;
        let publish = validate::permissions("publish", request.publish)?;
        let subscribe = validate::permissions("subscribe", request.subscribe)?;
        let ids = validate::ids("ids", request.ids)?;
        let app = self.app(&name).await?;
        let numbered = self.numbered(app, ids).await?;
        let key = self.control.signing_key().ok_or_else(status::not_initialised)?;
        let edges = self.control.edges().await;
        let edges: Vec<_> =
            edges.into_iter().map(|e| e.addresses.mqtt).filter(|mqtt| !mqtt.is_empty()).collect();
        tracing::info!(app = name, count = numbered.len(), caller = caller.name, "issue credentials");
        let now_s = self.gate.now_ms() / 1_000;
        let issuer = Issuer { name, app, ttl_s, publish, subscribe, key, edges, now_s };
        let issue = Issue { control: self.control.clone(), issuer, rest: numbered.into_iter() };
        Ok(Response::new(unfold(issue, Issue::next).boxed()))
    }

    async fn revoke(
        &self,
        request: Request<admin::GetTerminalRequest>,
    ) -> Result<Response<admin::RevokeResponse>, Status> {
        let (_, app, id) = self.one(request, Scope::Terminals).await?;
        // A credential issued in the second of the last revocation is dated after it, and must be void too.
        let issued_until = (self.gate.now_ms() / 1_000).max(self.control.revoked_until(app, &id) + 1);
        let body = CommandBody::Revoke { app, terminal: Some(id), issued_until };
        match self.control.propose(body).await.map_err(status::propose)? {
            Applied::Done => Ok(Response::new(admin::RevokeResponse { issued_until })),
            other => Err(status::unexpected(&other)),
        }
    }
}

impl<C: Control> Services<C> {
    async fn one(
        &self,
        request: Request<admin::GetTerminalRequest>,
        scope: Scope,
    ) -> Result<(String, AppId, TerminalId), Status> {
        let caller = self.gate.allow(&request, scope)?;
        let request = request.into_inner();
        let name = validate::app_name(&request.app).to_owned();
        caller.in_app(&name)?;
        let app = self.app(&name).await?;
        Ok((name, app, validate::id("id", request.id)?))
    }

    /// The numbers of these terminals; registers those that have none.
    async fn numbered(
        &self,
        app: AppId,
        ids: Vec<TerminalId>,
    ) -> Result<Vec<(TerminalId, TerminalNo)>, Status> {
        // A client that is merely connected has a lent number: it is registered now.
        let known = |id: &TerminalId| {
            self.control.terminal(app, id).map(|view| view.no).filter(|no| no.is_registered())
        };
        let missing: Vec<_> = ids.iter().filter(|id| known(id).is_none()).cloned().collect();
        let new = missing.iter().map(|id| NewTerminal { id: id.clone(), tags: None, alias: None }).collect();
        let (nos, _) = self.register_all(app, new).await?;
        let new: std::collections::HashMap<_, _> = missing.into_iter().zip(nos).collect();
        let number = |id: TerminalId| {
            let no = new.get(&id).copied().or_else(|| known(&id)).ok_or_else(|| status::no_terminal(&id))?;
            Ok((id, no))
        };
        ids.into_iter().map(number).collect()
    }

    async fn describe(
        &self,
        name: &str,
        app: AppId,
        view: TerminalView,
        last_seen: &BTreeMap<TerminalNo, u32>,
    ) -> admin::Terminal {
        let edge = self.control.presence(app, &view.id).await;
        admin::Terminal {
            app: name.to_owned(),
            no: view.no.0,
            tags: view.tags.into_iter().collect(),
            online: edge.is_some(),
            edge: edge.map_or(0, |edge| edge.0),
            registered_at_ms: view.registered_at_ms,
            owed: self.control.owed_len(view.no, OWED_PER_TERMINAL_MAX) as u64,
            session: self.control.has_session(view.no),
            alias: view.alias.unwrap_or_default(),
            last_seen_ms: match (edge, last_seen.get(&view.no)) {
                // Connected, and not recorded yet.
                (Some(_), _) => self.gate.now_ms() / DAY_MS * DAY_MS,
                (None, day) => day.map_or(0, |day| u64::from(*day) * DAY_MS),
            },
            id: view.id.into(),
        }
    }
}

/// A list in progress.
struct Pages<C> {
    services: Services<C>,
    name: String,
    app: AppId,
    order: Order,
    left: u64,
}

/// What is listed, and after which.
enum Order {
    All(Option<TerminalId>),
    Of(TerminalSet, TerminalNo),
}

impl<C: Control> Pages<C> {
    async fn next(mut self) -> Option<(Result<admin::ListTerminalsResponse, Status>, Self)> {
        let limit = usize::try_from(self.left).unwrap_or(usize::MAX).min(PAGE_LEN);
        let views = match &self.order {
            Order::All(after) => self.services.control.list_terminals(self.app, after.as_ref(), limit),
            Order::Of(meant, after) => self.services.page_of(meant, *after, limit),
        };
        let last = views.last()?;
        match &mut self.order {
            Order::All(after) => *after = Some(last.id.clone()),
            Order::Of(_, after) => *after = last.no,
        }
        self.left -= views.len() as u64;
        let last_seen = self.services.control.last_seen(&views.iter().map(|view| view.no).collect());
        let mut terminals = Vec::with_capacity(views.len());
        for view in views {
            terminals.push(self.services.describe(&self.name, self.app, view, &last_seen).await);
        }
        Some((Ok(admin::ListTerminalsResponse { terminals }), self))
    }
}

/// What every credential of a call shares.
#[derive(Clone)]
struct Issuer {
    name: String,
    app: AppId,
    ttl_s: u64,
    publish: Option<Vec<String>>,
    subscribe: Option<Vec<String>>,
    key: SigningKey,
    edges: Vec<String>,
    now_s: u64,
}

/// Credentials in progress.
struct Issue<C> {
    control: C,
    issuer: Issuer,
    rest: std::vec::IntoIter<(TerminalId, TerminalNo)>,
}

impl<C: Control> Issue<C> {
    /// Signing is work for a core: done outside the runtime's own threads, a message at a time, and only as fast as
    /// the caller reads.
    async fn next(mut self) -> Option<(Result<admin::IssueCredentialsResponse, Status>, Self)> {
        let chunk: Vec<_> = self.rest.by_ref().take(CREDENTIALS_CHUNK).collect();
        if chunk.is_empty() {
            return None;
        }
        let (control, issuer) = (self.control.clone(), self.issuer.clone());
        let signed = tokio::task::spawn_blocking(move || {
            let sign = |(id, no): (TerminalId, TerminalNo)| {
                let revoked_until = control.revoked_until(issuer.app, &id);
                issuer.credential(id, no, revoked_until)
            };
            chunk.into_iter().map(sign).collect::<Result<Vec<_>, _>>()
        });
        let answer = match signed.await {
            Ok(Ok(credentials)) => Ok(admin::IssueCredentialsResponse { credentials }),
            Ok(Err(error)) => Err(status::issue(&error)),
            Err(_) => Err(status::unavailable("this node is going down")),
        };
        Some((answer, self))
    }
}

impl Issuer {
    fn credential(
        &self,
        id: TerminalId,
        no: TerminalNo,
        revoked_until: u64,
    ) -> Result<admin::Credential, auth::IssueError> {
        // One issued in the very second of a revocation is meant to be valid.
        let iat = self.now_s.max(revoked_until + 1);
        let claims = TerminalClaims {
            aud: AUDIENCE_TERMINAL.to_owned(),
            app: self.name.clone(),
            app_id: self.app.0,
            sub: id.into(),
            no: no.0,
            iat,
            exp: iat + self.ttl_s,
            publish: self.publish.clone(),
            subscribe: self.subscribe.clone(),
        };
        Ok(admin::Credential {
            token: auth::issue_terminal(&self.key, &claims)?,
            terminal: claims.sub,
            username: claims.app,
            expires: claims.exp,
            edges: self.edges.clone(),
        })
    }
}
