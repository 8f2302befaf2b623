//! Many pushes in one call: each with an outcome of its own, which is what `Push` would have answered.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::Poll,
    time::{Duration, Instant},
};

use cluster_proto::{
    TerminalSet,
    admin::{self, PushResult},
    credential::Scope,
};
use futures_util::{
    future::{MaybeDone, join_all, maybe_done},
    stream::{FuturesUnordered, StreamExt as _, unfold},
};
use raft_store::{Applied, CommandBody, command::AcceptPush};
use tokio::{
    sync::mpsc,
    task::{Unconstrained, unconstrained},
};
use tonic::{Code, Request, Status, Streaming};

use super::{Control, auth::Caller, server::Services, status, validate};

/// Pushes of one stream that are worked on at a time.
const IN_FLIGHT_MAX: usize = 256;
/// Answers of one stream that its caller has not taken.
const ANSWERS_MAX: usize = 64;
/// A stream outlives tokens: its caller is looked at again this often.
const CALLER_EVERY: Duration = Duration::from_secs(1);

/// Who is online, asked at most once for all pushes of a call.
#[derive(Debug, Default)]
pub(super) struct Online(Option<TerminalSet>);

impl<C: Control> Services<C> {
    /// One push, from the request to its answer.
    pub(super) async fn push_one(
        &self,
        caller: &Caller,
        request: admin::PushRequest,
    ) -> Result<admin::PushResponse, Status> {
        let accept = self.checked(caller, request, &mut Online::default()).await?;
        self.accept(caller, accept).await
    }

    /// The command of a request that this caller may make.
    async fn checked(
        &self,
        caller: &Caller,
        request: admin::PushRequest,
        online: &mut Online,
    ) -> Result<AcceptPush, Status> {
        let name = validate::app_name(&request.app).to_owned();
        caller.in_app(&name)?;
        let app = self.app(&name).await?;
        let mut accept = validate::push(request, app, self.limits, self.gate.now_ms())?;
        if self.control.is_disk_full() {
            return Err(status::disk_full());
        }
        self.control.admit(app).await.map_err(status::too_fast)?;
        if accept.audience.mentions_online() {
            if online.0.is_none() {
                online.0 = self.online_for(&accept.audience).await?;
            }
            accept.online.clone_from(&online.0);
        }
        Ok(accept)
    }

    async fn accept(&self, caller: &Caller, accept: AcceptPush) -> Result<admin::PushResponse, Status> {
        let app = accept.message.app;
        match self.control.propose(CommandBody::AcceptPush(accept)).await.map_err(status::propose)? {
            Applied::Accepted { push, audience, repeated } => {
                tracing::debug!(%push, audience, repeated, %app, caller = caller.name, "push accepted");
                Ok(admin::PushResponse { push: push.0, audience, repeated })
            }
            other => Err(status::unexpected(&other)),
        }
    }

    /// All are checked first, and then proposed together in their order: the proposer gathers them into entries.
    pub(super) async fn batch(
        &self,
        request: Request<admin::PushBatchRequest>,
    ) -> Result<admin::PushBatchResponse, Status> {
        let caller = self.gate.allow(&request, Scope::Push)?;
        let requests = validate::batch(request.into_inner())?;
        let (mut online, mut checked) = (Online::default(), Vec::with_capacity(requests.len()));
        for request in requests {
            checked.push(self.checked(&caller, request, &mut online).await);
        }
        let mut accepted = Vec::with_capacity(checked.len());
        for accept in checked {
            accepted.push(begin(async { self.accept(&caller, accept?).await }).await);
        }
        let results = join_all(accepted.into_iter().map(finish)).await;
        if results.iter().all(is_unavailable)
            && let Some(Err(status)) = results.first()
        {
            // Nothing of it was done: so the call is made again at whoever leads now.
            return Err(status.clone());
        }
        let results = (0..).zip(results).map(|(index, answer)| result(index, answer)).collect();
        Ok(admin::PushBatchResponse { results })
    }

    /// Works on a stream in a task of its own, which ends with the stream, its caller's patience, or this leadership.
    pub(super) fn streamed(
        &self,
        request: Request<Streaming<admin::PushRequest>>,
    ) -> Result<impl futures_util::Stream<Item = Result<PushResult, Status>> + Send + 'static, Status> {
        let caller = self.gate.allow(&request, Scope::Push)?;
        let (answers, taken) = mpsc::channel(ANSWERS_MAX);
        let services = self.clone();
        tokio::spawn(async move {
            if let Err(status) = services.work_on(caller, request, &answers).await {
                // A caller that is gone needs no status.
                let _ = answers.send(Err(status)).await;
            }
        });
        Ok(unfold(taken, |mut taken| async move { taken.recv().await.map(|answer| (answer, taken)) }))
    }

    async fn work_on(
        &self,
        mut caller: Caller,
        request: Request<Streaming<admin::PushRequest>>,
        answers: &mpsc::Sender<Result<PushResult, Status>>,
    ) -> Result<(), Status> {
        let (metadata, extensions, mut requests) = request.into_parts();
        let (mut looked_at, mut count) = (Instant::now(), 0);
        let mut in_flight = FuturesUnordered::new();
        // Why nothing more is taken; what was taken is answered first.
        let mut end = None;
        loop {
            tokio::select! {
                biased;
                Some(answer) = in_flight.next() => {
                    let answer: PushResult = answer;
                    if answer.code == Code::Unavailable as u32 && !self.control.leadership().borrow().is_leader {
                        end = Some(Err(status::unavailable("the leader changed: open another stream")));
                    }
                    if answers.send(Ok(answer)).await.is_err() {
                        return Ok(()); // what is in flight is done or not, as for any call whose caller left
                    }
                }
                request = requests.next(), if end.is_none() && in_flight.len() < IN_FLIGHT_MAX => match request {
                    Some(Ok(request)) => {
                        if looked_at.elapsed() >= CALLER_EVERY {
                            looked_at = Instant::now();
                            match self.gate.allow_still(metadata.as_ref(), &extensions, Scope::Push) {
                                Ok(now) => caller = now,
                                Err(status) => {
                                    end = Some(Err(status));
                                    continue;
                                }
                            }
                        }
                        let (services, caller, index) = (self, caller.clone(), count);
                        count += 1;
                        let answer = async move { services.push_one(&caller, request).await };
                        let begun = begin(answer).await;
                        in_flight.push(async move { result(index, finish(begun).await) });
                    }
                    Some(Err(status)) => end = Some(Err(status)),
                    None => end = Some(Ok(())),
                },
                else => return end.unwrap_or(Ok(())),
            }
        }
    }
}

type Begun<F> = MaybeDone<Pin<Box<Unconstrained<F>>>>;

/// Polled once, a push is proposed: behind what was begun before it. Unconstrained, because a task whose budget is used
/// up would otherwise come to it later.
async fn begin<F: Future + Send>(push: F) -> Begun<F> {
    let mut begun = maybe_done(Box::pin(unconstrained(push)));
    poll_fn(|cx| {
        // Its end is looked for later.
        let _ = Pin::new(&mut begun).poll(cx);
        Poll::Ready(())
    })
    .await;
    begun
}

async fn finish<F, T>(mut begun: Begun<F>) -> Result<T, Status>
where
    F: Future<Output = Result<T, Status>> + Send,
{
    (&mut begun).await;
    let answer = Pin::new(&mut begun).take_output();
    answer.unwrap_or_else(|| Err(Status::internal("a push was answered twice")))
}

fn is_unavailable(answer: &Result<admin::PushResponse, Status>) -> bool {
    matches!(answer, Err(status) if status.code() == Code::Unavailable)
}

fn result(index: u64, answer: Result<admin::PushResponse, Status>) -> PushResult {
    match answer {
        Ok(response) => PushResult { index, response: Some(response), code: 0, message: String::new() },
        Err(status) => PushResult {
            index,
            response: None,
            code: status.code() as u32,
            message: status.message().to_owned(),
        },
    }
}
