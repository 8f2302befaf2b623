//! The service of pushes: accept, try, recall, status.

use std::time::Duration;

use cluster_proto::{
    AppId, AppReceipt, Audience, DropReason, PushId, State, TerminalId, TerminalNo, TerminalSet,
    admin::{self, TargetState, pushes_server::Pushes},
    credential::Scope,
};
use futures_util::stream::{BoxStream, StreamExt as _, unfold};
use raft_store::{Applied, CommandBody};
use tokio::time::{Interval, MissedTickBehavior};
use tonic::{Request, Response, Status, Streaming};

use super::{
    Control, Gate,
    backend::{Counts, PushView},
    release,
    server::Services,
    status,
    validate::{self, PushLimits},
};

/// A watcher is told at most this often.
const WATCH_EVERY: Duration = Duration::from_millis(100);
/// Ids in one message of a list.
const PAGE_LEN: usize = 1_000;

#[tonic::async_trait]
impl<C: Control> Pushes for Services<C> {
    type PushStreamStream = BoxStream<'static, Result<admin::PushResult, Status>>;
    type WatchStream = BoxStream<'static, Result<admin::StatusResponse, Status>>;
    type ListTargetsStream = BoxStream<'static, Result<admin::ListTargetsResponse, Status>>;
    type ReceiptsStream = BoxStream<'static, Result<admin::ReceiptsResponse, Status>>;

    async fn push(
        &self,
        request: Request<admin::PushRequest>,
    ) -> Result<Response<admin::PushResponse>, Status> {
        let caller = self.gate.allow(&request, Scope::Push)?;
        self.push_one(&caller, request.into_inner()).await.map(Response::new)
    }

    async fn push_batch(
        &self,
        request: Request<admin::PushBatchRequest>,
    ) -> Result<Response<admin::PushBatchResponse>, Status> {
        self.batch(request).await.map(Response::new)
    }

    async fn push_stream(
        &self,
        request: Request<Streaming<admin::PushRequest>>,
    ) -> Result<Response<Self::PushStreamStream>, Status> {
        self.streamed(request).map(|answers| Response::new(answers.boxed()))
    }

    async fn dry_run(
        &self,
        request: Request<admin::DryRunRequest>,
    ) -> Result<Response<admin::DryRunResponse>, Status> {
        let caller = self.gate.allow(&request, Scope::Read)?;
        let request = request.into_inner();
        let name = validate::app_name(&request.app);
        caller.in_app(name)?;
        let app = self.app(name).await?;
        let trial = validate::trial(request)?;
        let online = self.online_for(&trial.audience).await?;
        self.control.linearize().await.map_err(status::no_leader)?;
        let control = self.control.clone();
        let resolved = tokio::task::spawn_blocking(move || {
            let meant = control.resolve(&trial.audience, app, &trial.topic, online.as_ref());
            meant.map(|meant| admin::DryRunResponse {
                audience: meant.len(),
                sample: shown(&control, &spread(&meant, trial.sample).collect::<Vec<_>>()),
            })
        });
        let resolved = resolved.await.map_err(|_| status::unavailable("this node is going down"))?;
        resolved.map(Response::new).map_err(|refusal| status::refusal(&refusal))
    }

    async fn cancel(
        &self,
        request: Request<admin::CancelRequest>,
    ) -> Result<Response<admin::StatusResponse>, Status> {
        let (app, push) = self.named_push(request, Scope::Push, |asked| (asked.app, asked.push)).await?;
        match self.control.cancel(app, push).await.map_err(status::propose)? {
            Applied::Done => self.status_of(app, push).await.map(Response::new).map_err(status::done_but),
            other => Err(status::unexpected(&other)),
        }
    }

    async fn hold(
        &self,
        request: Request<admin::HoldRequest>,
    ) -> Result<Response<admin::StatusResponse>, Status> {
        self.change_release(request, |app, push| CommandBody::HoldPush { app, push }).await
    }

    async fn resume(
        &self,
        request: Request<admin::HoldRequest>,
    ) -> Result<Response<admin::StatusResponse>, Status> {
        self.change_release(request, |app, push| CommandBody::ResumePush { app, push }).await
    }

    async fn status(
        &self,
        request: Request<admin::StatusRequest>,
    ) -> Result<Response<admin::StatusResponse>, Status> {
        let (app, push) = self.asked(request).await?;
        self.status_of(app, push).await.map(Response::new)
    }

    async fn watch(
        &self,
        request: Request<admin::StatusRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (app, push) = self.asked(request).await?;
        let first = self.status_of(app, push).await?;
        let watch = Watch::new(self.clone(), app, push, first);
        Ok(Response::new(unfold(watch, Watch::next).boxed()))
    }

    async fn explain(
        &self,
        request: Request<admin::ExplainRequest>,
    ) -> Result<Response<admin::ExplainResponse>, Status> {
        let caller = self.gate.allow(&request, Scope::Read)?;
        let request = request.into_inner();
        let name = validate::app_name(&request.app);
        caller.in_app(name)?;
        let terminal = validate::id("terminal", request.terminal)?;
        let (app, push) = (self.app(name).await?, PushId(request.push));
        self.explain_to(app, push, terminal).await.map(Response::new)
    }

    async fn receipts(
        &self,
        request: Request<admin::ReceiptsRequest>,
    ) -> Result<Response<Self::ReceiptsStream>, Status> {
        let caller = self.gate.allow(&request, Scope::Read)?;
        let (metadata, extensions, request) = request.into_parts();
        let name = validate::app_name(&request.app).to_owned();
        caller.in_app(&name)?;
        let app = self.app(&name).await?;
        let (gate, control) = (self.gate.clone(), self.control.clone());
        let still = move || {
            gate.allow_still(metadata.as_ref(), &extensions, Scope::Read)?;
            if control.app(&name) == Some(app) { Ok(()) } else { Err(status::no_app(&name)) }
        };
        self.stream_receipts(app, request, Box::new(still)).await.map(Response::new)
    }

    async fn list_targets(
        &self,
        request: Request<admin::ListTargetsRequest>,
    ) -> Result<Response<Self::ListTargetsStream>, Status> {
        let caller = self.gate.allow(&request, Scope::Read)?;
        let request = request.into_inner();
        let name = validate::app_name(&request.app);
        caller.in_app(name)?;
        let listed = listed(request.state())?;
        let (app, push) = (self.app(name).await?, PushId(request.push));
        self.control.linearize().await.map_err(status::no_leader)?;
        self.push_of(app, push)?;
        let targets = match listed {
            Listed::States(states) => {
                let targets = states.iter().filter_map(|state| self.control.targets(push, *state));
                targets.fold(TerminalSet::new(), |all, some| TerminalSet(all.0 | some.0))
            }
            Listed::Reported(what) => self.control.reported(push, what).unwrap_or_default(),
        };
        Ok(Response::new(pages(self.control.clone(), targets).boxed()))
    }
}

impl<C: Control> Services<C> {
    /// Who is connected, where an audience depends on it.
    pub(super) async fn online_for(&self, audience: &Audience) -> Result<Option<TerminalSet>, Status> {
        if !audience.mentions_online() {
            return Ok(None);
        }
        let online = self.control.online().await;
        online.map(Some).ok_or_else(|| status::unavailable("the leader does not know yet who is online"))
    }

    async fn change_release(
        &self,
        request: Request<admin::HoldRequest>,
        command: impl FnOnce(AppId, PushId) -> CommandBody,
    ) -> Result<Response<admin::StatusResponse>, Status> {
        let (app, push) = self.named_push(request, Scope::Push, |asked| (asked.app, asked.push)).await?;
        match self.control.propose(command(app, push)).await.map_err(status::propose)? {
            Applied::Done => self.status_of(app, push).await.map(Response::new).map_err(status::done_but),
            other => Err(status::unexpected(&other)),
        }
    }

    async fn asked(&self, request: Request<admin::StatusRequest>) -> Result<(AppId, PushId), Status> {
        self.named_push(request, Scope::Read, |asked| (asked.app, asked.push)).await
    }

    /// The push that a request names, if its caller may do `scope` in its app.
    async fn named_push<T>(
        &self,
        request: Request<T>,
        scope: Scope,
        named: impl FnOnce(T) -> (String, u64),
    ) -> Result<(AppId, PushId), Status> {
        let caller = self.gate.allow(&request, scope)?;
        let (name, push) = named(request.into_inner());
        let name = validate::app_name(&name);
        caller.in_app(name)?;
        Ok((self.app(name).await?, PushId(push)))
    }

    pub(super) fn push_of(&self, app: AppId, push: PushId) -> Result<PushView, Status> {
        let view = self.control.push(push).filter(|view| view.app == app);
        view.ok_or_else(|| status::no_push(push))
    }

    async fn status_of(&self, app: AppId, push: PushId) -> Result<admin::StatusResponse, Status> {
        self.control.linearize().await.map_err(status::no_leader)?;
        // Taken first: the counts are of this position or a later one.
        let position = self.control.position();
        let view = self.push_of(app, push)?;
        let counts = self.control.counts(push).ok_or_else(|| status::no_push(push))?;
        Ok(response(push, view, &counts, position.index))
    }
}

fn response(push: PushId, view: PushView, counts: &Counts, log_index: u64) -> admin::StatusResponse {
    let mut answer = admin::StatusResponse {
        push: push.0,
        audience: counts.audience,
        topic: view.topic,
        accepted_at_ms: view.accepted_at_ms,
        expires_at_ms: view.expires_at_ms,
        log_index,
        displayed: counts.reported[AppReceipt::Displayed as usize],
        opened: counts.reported[AppReceipt::Opened as usize],
        release: view.release.as_ref().map(release::status),
        ..Default::default()
    };
    for (state, n) in counts.by_state.iter().filter(|(_, n)| *n > 0) {
        match state {
            State::Pending => answer.pending += n,
            State::Delivered => answer.delivered += n,
            State::Sent => answer.sent += n,
            State::Expired => answer.expired += n,
            State::Cancelled => answer.cancelled += n,
            State::Collapsed => answer.collapsed += n,
            State::Dropped(reason) => {
                answer.dropped += n;
                *answer.dropped_by_reason.entry(reason.name().to_owned()).or_default() += n;
            }
        }
    }
    answer
}

/// What terminals are listed by.
enum Listed {
    States(Vec<State>),
    Reported(AppReceipt),
}

fn listed(asked: TargetState) -> Result<Listed, Status> {
    Ok(Listed::States(match asked {
        TargetState::Displayed => return Ok(Listed::Reported(AppReceipt::Displayed)),
        TargetState::Opened => return Ok(Listed::Reported(AppReceipt::Opened)),
        TargetState::Unspecified => return Err(validate::invalid("state is missing: name one")),
        TargetState::Pending => vec![State::Pending],
        TargetState::Delivered => vec![State::Delivered],
        TargetState::Sent => vec![State::Sent],
        TargetState::Expired => vec![State::Expired],
        TargetState::Cancelled => vec![State::Cancelled],
        TargetState::Collapsed => vec![State::Collapsed],
        TargetState::Dropped => DropReason::ALL.into_iter().map(State::Dropped).collect(),
    }))
}

/// Some of a set, at most `count`, at equal distances.
fn spread(set: &TerminalSet, count: usize) -> impl Iterator<Item = TerminalNo> + '_ {
    let (len, count) = (set.len(), (count as u64).min(set.len()));
    (0..count).filter_map(move |n| set.0.select((n * len / count) as u32).map(TerminalNo))
}

/// How terminals in ascending order are listed.
fn shown<C: Control>(control: &C, nos: &[TerminalNo]) -> Vec<String> {
    let shown = |(no, id): (_, Option<TerminalId>)| id.map_or_else(|| format!("#{no}"), Into::into);
    nos.iter().zip(control.terminal_ids(nos)).map(shown).collect()
}

/// The ids of a set, a page at a time: a broad audience is never in memory as text.
fn pages<C: Control>(
    control: C,
    targets: TerminalSet,
) -> impl futures_util::Stream<Item = Result<admin::ListTargetsResponse, Status>> + Send {
    unfold((control, targets.0.into_iter()), |(control, mut rest)| async move {
        let nos: Vec<_> = rest.by_ref().take(PAGE_LEN).map(TerminalNo).collect();
        let ids = shown(&control, &nos);
        if ids.is_empty() { None } else { Some((Ok(admin::ListTargetsResponse { ids }), (control, rest))) }
    })
}

/// One watcher: the counts when they change, until nothing is pending.
struct Watch<C> {
    services: Services<C>,
    app: AppId,
    push: PushId,
    tick: Interval,
    next: Next,
    last: admin::StatusResponse,
}

enum Next {
    First,
    Changes,
    End,
}

impl<C: Control> Watch<C> {
    fn new(services: Services<C>, app: AppId, push: PushId, first: admin::StatusResponse) -> Self {
        let mut tick = tokio::time::interval(WATCH_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { services, app, push, tick, next: Next::First, last: first }
    }

    async fn next(mut self) -> Option<(Result<admin::StatusResponse, Status>, Self)> {
        let answer = match self.next {
            Next::First => Ok(self.last.clone()),
            Next::Changes => self.change().await,
            Next::End => return None,
        };
        let more = matches!(&answer, Ok(status) if status.pending > 0);
        self.next = if more { Next::Changes } else { Next::End };
        Some((answer, self))
    }

    /// The position moves with every entry of anybody; only then is it worth to ask again.
    async fn change(&mut self) -> Result<admin::StatusResponse, Status> {
        loop {
            self.tick.tick().await;
            if !self.services.control.leadership().borrow().is_leader {
                return Err(status::unavailable("the leader changed: watch again"));
            }
            if self.services.control.position().index == self.last.log_index {
                continue;
            }
            let now = self.services.status_of(self.app, self.push).await?;
            let changed =
                admin::StatusResponse { log_index: self.last.log_index, ..now.clone() } != self.last;
            self.last = now;
            if changed {
                return Ok(self.last.clone());
            }
        }
    }
}

// What every service shares.
impl<C: Control> Services<C> {
    /// Services over this group.
    pub fn new(control: C, gate: Gate, limits: PushLimits) -> Self {
        let tables = control.clone();
        let gate = gate.knowing_apps(move |name| tables.app(name));
        Self { control, gate, limits, allow_http: false }
    }

    /// Webhooks may be posted to without TLS.
    #[must_use]
    pub fn allowing_http(self, allow_http: bool) -> Self {
        Self { allow_http, ..self }
    }

    /// The number of an app. An app made on another leader a moment ago may not be applied here yet: looked for
    /// again after a linearizable read.
    pub(super) async fn app(&self, name: &str) -> Result<AppId, Status> {
        if let Some(app) = self.control.app(name) {
            return Ok(app);
        }
        self.control.linearize().await.map_err(status::no_leader)?;
        self.control.app(name).ok_or_else(|| status::no_app(name))
    }
}
