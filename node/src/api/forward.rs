//! Answers a call here, or passes it on to the leader.
//!
//! What the caller is told when the leader is lost meanwhile is decided here, by one question: did any of the
//! request's message leave this node?
//!
//! | | read | write |
//! |---|---|---|
//! | not sent, or answered "not the leader" | tried again until `ROUTE_WITHIN`, then UNAVAILABLE | the same |
//! | sent, and no answer | the same | UNKNOWN: it may have been done |
//!
//! A stream of requests is passed on as it comes, to one leader, and never made again: its caller is told the same, and
//! opens another.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, request::Parts};
use metrics::{counter, histogram};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};
use tonic::{Code, Status, body::Body, transport::Channel};
use tower::{Layer, Service, ServiceExt as _};

use super::{
    Gate,
    auth::{OPERATOR_HEADER, is_operator},
    body::{self, Sent, Watched},
    channels::Channels,
    status,
};
use crate::telemetry::metrics::{API_CALL_SECONDS, API_CALLS_TOTAL, API_FORWARDED_TOTAL, API_UNKNOWN_TOTAL};

/// How long a call looks for a leader: longer than an election takes.
const ROUTE_WITHIN: Duration = Duration::from_secs(5);
/// Between two tries at the same leader.
const RETRY_PAUSE: Duration = Duration::from_millis(25);
/// A leader that was replaced while it had a call may still answer it within this.
const REPLACED_GRACE: Duration = Duration::from_millis(500);
/// Largest request: 100,000 terminal ids of the longest kind, or a push with the largest payload.
pub(super) const REQUEST_LEN_MAX: usize = 32 * 1024 * 1024;
/// How often a call was passed on.
const HOPS_HEADER: &str = "carillon-hops";
/// A node without the control role to a control node, and from there to the leader, and once more for a leader that
/// has just changed.
const HOPS_MAX: u8 = 3;
/// Asks for the answer of this very node.
pub const LOCAL_HEADER: &str = "carillon-local";

/// Where calls are answered, as this node knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Here: this node leads, or the cluster is not founded.
    Here,
    /// At the leader.
    Leader(Remote),
    /// At any of these; they know the leader. For nodes without the control role.
    Any(Vec<Remote>),
    /// No leader is known.
    Nowhere,
}

/// Another node's API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    /// `host:port`.
    pub api: String,
}

/// What a method needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Whatever is asked, this node answers: health, reflection.
    Local,
    /// The leader's view if there is a leader, else this node's.
    View,
    /// Changes nothing: may be made again.
    Read,
    /// May have been done when its answer is lost.
    Write,
    /// As that; and the request is a stream, which is passed on as it comes, once.
    Stream,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Forward {
    target: watch::Receiver<Target>,
    channels: Channels,
    gate: Gate,
}

impl Forward {
    pub(super) fn new(target: watch::Receiver<Target>, channels: Channels, gate: Gate) -> Self {
        Self { target, channels, gate }
    }
}

impl<S> Layer<S> for Forward {
    type Service = Forwarding<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Forwarding { forward: self.clone(), inner }
    }
}

/// The services of this node, with [`Forward`] before them.
#[derive(Clone, Debug)]
pub struct Forwarding<S> {
    forward: Forward,
    inner: S,
}

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl<S> Service<Request<Body>> for Forwarding<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let Self { forward, inner } = self.clone();
        Box::pin(async move {
            let (method, kind) = method(request.uri().path());
            if kind == Kind::Local {
                return inner.oneshot(request).await;
            }
            let began = Instant::now();
            let answer = forward.route(request, kind, inner).await;
            let response = answer.unwrap_or_else(Status::into_http);
            record(method, began, &response);
            Ok(response)
        })
    }
}

/// One call, kept so that it can be made again.
struct Call {
    parts: Parts,
    bytes: Bytes,
    kind: Kind,
    operator: bool,
    hops: u8,
}

/// What became of one try.
enum Try {
    Answer(Response<Body>),
    /// Certainly not done; why.
    NotDone(Status),
    /// It may have been done.
    Lost,
}

impl Forward {
    async fn route<S>(
        mut self,
        request: Request<Body>,
        kind: Kind,
        inner: S,
    ) -> Result<Response<Body>, Status>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send,
    {
        let (parts, body) = request.into_parts();
        let operator = is_operator(&parts.headers, &parts.extensions);
        let target = self.target.borrow().clone();
        // Who is nobody is told here: the leader's time and this node's memory are for callers.
        if self.gate.has_keys() {
            self.gate.caller(&parts.headers, &parts.extensions)?;
        }
        let local = parts.headers.contains_key(LOCAL_HEADER) || target == Target::Nowhere;
        if kind == Kind::View && local && !matches!(target, Target::Any(_)) {
            return answer_here(inner, Request::from_parts(parts, body)).await;
        }
        let hops = hops(&parts.headers);
        if kind == Kind::Stream {
            let call = Call { parts, bytes: Bytes::new(), kind, operator, hops };
            return self.stream(call, body, inner).await;
        }
        let bytes = body::collect(body, REQUEST_LEN_MAX).await?;
        let call = Call { parts, bytes, kind, operator, hops };
        match self.try_until_answered(&call, inner.clone()).await {
            Err(_) if kind == Kind::View && !matches!(target, Target::Any(_)) => {
                let body = Body::new(Watched::new(call.bytes.clone(), Sent::default()));
                answer_here(inner, call.request(body)).await
            }
            answer => answer,
        }
    }

    /// A stream cannot be sent again: a leader is looked for before any of it is taken.
    async fn stream<S>(&mut self, call: Call, body: Body, inner: S) -> Result<Response<Body>, Status>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send,
    {
        if call.hops >= HOPS_MAX {
            return Err(status::unavailable("the nodes do not agree on the leader yet"));
        }
        let deadline = Instant::now() + if call.hops == 0 { ROUTE_WITHIN } else { Duration::ZERO };
        let mut tries = 0;
        loop {
            let target = self.target.borrow_and_update().clone();
            let (remote, why) = match &target {
                Target::Here => return answer_here(inner, Request::from_parts(call.parts, body)).await,
                Target::Leader(remote) => (Some(remote), ""),
                Target::Any(remotes) => {
                    (remotes.get(tries % remotes.len().max(1)), "no control node is known")
                }
                Target::Nowhere => (None, "there is no leader now"),
            };
            let mut last = status::unavailable(why);
            if let Some(remote) = remote {
                match self.ready(remote).await {
                    Ok(mut channel) => {
                        counter!(API_FORWARDED_TOTAL).increment(1);
                        let sent = Sent::default();
                        let body = body::watched(body, sent.clone());
                        let mut request = Request::from_parts(call.parts.clone(), body);
                        call.mark(request.headers_mut());
                        let answer = tokio::select! {
                            answer = channel.call(request) => answer.map_err(|error| chain(&error)),
                            () = replaced(self.target.clone(), remote) => Err("it was replaced".to_owned()),
                        };
                        return answer
                            .map(|response| response.map(|body| body::answer(body, call.broken())))
                            .map_err(|why| {
                                let why = format!("the leader at {}: {why}", remote.api);
                                if sent.is_sent() { status::unknown(&why) } else { status::unavailable(&why) }
                            });
                    }
                    Err(why) => last = why,
                }
            }
            tries += 1;
            if Instant::now() >= deadline {
                return Err(last);
            }
            self.pause(&target, deadline).await;
        }
    }

    /// A connection to another node.
    async fn ready(&mut self, remote: &Remote) -> Result<Channel, Status> {
        let unreached = |why: String| status::unavailable(&format!("the leader at {}: {why}", remote.api));
        let mut channel = self.channels.to(&remote.api).map_err(|error| unreached(error.to_string()))?;
        channel.ready().await.map_err(|error| unreached(chain(&error)))?;
        Ok(channel)
    }

    async fn try_until_answered<S>(&mut self, call: &Call, inner: S) -> Result<Response<Body>, Status>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
        S::Future: Send,
    {
        // Only the node that was called waits for a leader; the others say at once that they know none.
        let deadline = Instant::now() + if call.hops == 0 { ROUTE_WITHIN } else { Duration::ZERO };
        let mut last = status::unavailable("there is no leader now");
        let mut tries = 0;
        loop {
            let target = self.target.borrow_and_update().clone();
            let tried = match &target {
                Target::Here => self.here(call, inner.clone()).await,
                Target::Leader(remote) => self.there(call, remote).await?,
                Target::Any(remotes) if !remotes.is_empty() => {
                    self.there(call, &remotes[tries % remotes.len()]).await?
                }
                Target::Any(_) => Try::NotDone(status::unavailable(
                    "this node does not know a control node: set cluster.control_api in its config",
                )),
                Target::Nowhere => Try::NotDone(last.clone()),
            };
            match tried {
                Try::Answer(response) => return Ok(response),
                Try::NotDone(why) => last = why,
                Try::Lost if call.kind == Kind::Write => {
                    counter!(API_UNKNOWN_TOTAL).increment(1);
                    return Err(status::unknown("the leader was lost while the call was in flight"));
                }
                Try::Lost => last = status::unavailable("the leader was lost"),
            }
            tries += 1;
            if Instant::now() >= deadline {
                return Err(last);
            }
            self.pause(&target, deadline).await;
        }
    }

    /// Until another node leads; or, where this target may do better the next time, a moment.
    async fn pause(&mut self, tried: &Target, deadline: Instant) {
        let pause = match tried {
            Target::Nowhere => deadline,
            _ => deadline.min(Instant::now() + RETRY_PAUSE),
        };
        // Both ends of this wait mean the same: look again.
        let _ = timeout_at(pause, self.target.changed()).await;
    }

    async fn here<S>(&self, call: &Call, inner: S) -> Try
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Send + 'static,
        S::Future: Send,
    {
        let request = call.request(Body::new(Watched::new(call.bytes.clone(), Sent::default())));
        match answer_here(inner, request).await {
            Ok(response) => judge(response),
            Err(status) => Try::NotDone(status),
        }
    }

    async fn there(&mut self, call: &Call, remote: &Remote) -> Result<Try, Status> {
        if call.hops >= HOPS_MAX {
            return Ok(Try::NotDone(status::unavailable("the nodes do not agree on the leader yet")));
        }
        let mut channel = self.channels.to(&remote.api).map_err(|error| {
            status::unavailable(&format!("the leader's address {:?}: {error}", remote.api))
        })?;
        counter!(API_FORWARDED_TOTAL).increment(1);
        let sent = Sent::default();
        let body = Body::new(Watched::new(call.bytes.clone(), sent.clone()));
        let mut request = call.request(body);
        call.mark(request.headers_mut());
        let answered = async {
            channel.ready().await?;
            channel.call(request).await
        };
        let answer = tokio::select! {
            answer = answered => answer.map_err(|error| format!("the leader at {}: {}", remote.api, chain(&error))),
            () = replaced(self.target.clone(), remote) => Err(format!("the leader at {} was replaced", remote.api)),
        };
        Ok(match answer {
            Ok(response) => judge(response.map(|body| body::answer(body, call.broken()))),
            Err(_) if sent.is_sent() => Try::Lost,
            Err(why) => Try::NotDone(status::unavailable(&why)),
        })
    }
}

impl Call {
    fn request(&self, body: Body) -> Request<Body> {
        Request::from_parts(self.parts.clone(), body)
    }

    /// What the next node must know.
    fn mark(&self, headers: &mut HeaderMap) {
        headers.insert(HeaderName::from_static(HOPS_HEADER), HeaderValue::from(u16::from(self.hops) + 1));
        headers.remove(OPERATOR_HEADER);
        if self.operator {
            headers.insert(HeaderName::from_static(OPERATOR_HEADER), HeaderValue::from_static("1"));
        }
    }

    /// The call's status where its answer breaks off.
    fn broken(&self) -> Status {
        match self.kind {
            Kind::Write | Kind::Stream => status::unknown("the leader was lost while it answered"),
            _ => Status::unavailable("the leader was lost while it answered; try again"),
        }
    }
}

async fn answer_here<S>(inner: S, request: Request<Body>) -> Result<Response<Body>, Status>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Send + 'static,
    S::Future: Send,
{
    match inner.oneshot(request).await {
        Ok(response) => Ok(response),
        Err(never) => match never {},
    }
}

/// UNAVAILABLE means that nothing was done: another try, at whoever leads then, is right.
fn judge(response: Response<Body>) -> Try {
    match Status::from_header_map(response.headers()) {
        Some(status) if status.code() == Code::Unavailable => Try::NotDone(status),
        _ => Try::Answer(response),
    }
}

/// Resolves some time after another node became the leader: a stopped machine never answers, and never closes.
async fn replaced(mut target: watch::Receiver<Target>, by_then: &Remote) {
    let other = |now: &Target| match now {
        Target::Leader(remote) => remote != by_then,
        Target::Here => true,
        Target::Any(_) | Target::Nowhere => false,
    };
    let told = target.wait_for(other).await.is_ok();
    if !told {
        // This node goes down; the call ends with its connection.
        std::future::pending::<()>().await;
    }
    tokio::time::sleep(REPLACED_GRACE).await;
}

fn hops(headers: &HeaderMap) -> u8 {
    let value = headers.get(HOPS_HEADER).and_then(|value| value.to_str().ok());
    value.map_or(0, |value| value.parse().unwrap_or(HOPS_MAX))
}

/// The methods by path, and what they need; any other path is refused by the services here.
fn method(path: &str) -> (&'static str, Kind) {
    const METHODS: [(&str, Kind); 38] = [
        ("/carillon.v1.Pushes/Push", Kind::Write),
        ("/carillon.v1.Pushes/PushBatch", Kind::Write),
        ("/carillon.v1.Pushes/PushStream", Kind::Stream),
        ("/carillon.v1.Pushes/DryRun", Kind::Read),
        ("/carillon.v1.Pushes/Cancel", Kind::Write),
        ("/carillon.v1.Pushes/Hold", Kind::Write),
        ("/carillon.v1.Pushes/Resume", Kind::Write),
        ("/carillon.v1.Pushes/Status", Kind::Read),
        ("/carillon.v1.Pushes/Watch", Kind::Read),
        ("/carillon.v1.Pushes/ListTargets", Kind::Read),
        ("/carillon.v1.Pushes/Explain", Kind::Read),
        ("/carillon.v1.Pushes/Receipts", Kind::Read),
        ("/carillon.v1.Terminals/Register", Kind::Write),
        ("/carillon.v1.Terminals/RegisterStream", Kind::Stream),
        ("/carillon.v1.Terminals/Update", Kind::Write),
        ("/carillon.v1.Terminals/Delete", Kind::Write),
        ("/carillon.v1.Terminals/Get", Kind::Read),
        ("/carillon.v1.Terminals/List", Kind::Read),
        ("/carillon.v1.Terminals/Subscriptions", Kind::Read),
        ("/carillon.v1.Terminals/Kick", Kind::Write),
        ("/carillon.v1.Terminals/IssueCredentials", Kind::Write),
        ("/carillon.v1.Terminals/Revoke", Kind::Write),
        ("/carillon.v1.Apps/Create", Kind::Write),
        ("/carillon.v1.Apps/Get", Kind::Read),
        ("/carillon.v1.Apps/Update", Kind::Write),
        ("/carillon.v1.Apps/Delete", Kind::Write),
        ("/carillon.v1.Apps/List", Kind::Read),
        // A token that nobody received harms nobody: as good as a read.
        ("/carillon.v1.Apps/IssueToken", Kind::Read),
        ("/carillon.v1.Apps/SetWebhook", Kind::Write),
        ("/carillon.v1.Apps/GetWebhook", Kind::Read),
        ("/carillon.v1.Apps/RemoveWebhook", Kind::Write),
        // Repeatable until it has answered.
        ("/carillon.v1.Cluster/Init", Kind::Read),
        ("/carillon.v1.Cluster/Status", Kind::View),
        ("/carillon.v1.Cluster/AddNode", Kind::Write),
        ("/carillon.v1.Cluster/Promote", Kind::Write),
        ("/carillon.v1.Cluster/RemoveNode", Kind::Write),
        ("/carillon.v1.Cluster/TransferLeader", Kind::Write),
        ("", Kind::Local),
    ];
    METHODS.into_iter().find(|(known, _)| *known == path).unwrap_or(("", Kind::Local))
}

fn record(method: &'static str, began: Instant, response: &Response<Body>) {
    // A streamed answer's last word comes later; counted is how it began.
    let code = Status::from_header_map(response.headers()).map_or(Code::Ok, |status| status.code());
    counter!(API_CALLS_TOTAL, "method" => method, "code" => format!("{code:?}")).increment(1);
    histogram!(API_CALL_SECONDS, "method" => method).record(began.elapsed());
}

/// An error and its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use cluster_proto::admin::DESCRIPTORS;
    use prost::Message as _;

    use super::*;

    #[test]
    fn every_method_of_the_api_is_routed() {
        let set = prost_types::FileDescriptorSet::decode(DESCRIPTORS).expect("descriptors");
        let file = set.file.iter().find(|file| file.package() == "carillon.v1").expect("file");
        for service in &file.service {
            for rpc in &service.method {
                let path = format!("/carillon.v1.{}/{}", service.name(), rpc.name());
                let (known, kind) = method(&path);
                assert_eq!(known, path, "is not routed");
                // Other requests are kept whole, to be sent again.
                assert_eq!(rpc.client_streaming(), kind == Kind::Stream, "{path}");
            }
        }
    }

    #[test]
    fn hops_that_cannot_be_read_end_the_call() {
        let headers = |value: &'static str| {
            HeaderMap::from_iter([(HeaderName::from_static(HOPS_HEADER), HeaderValue::from_static(value))])
        };
        assert_eq!(hops(&HeaderMap::new()), 0);
        assert_eq!(hops(&headers("2")), 2);
        assert_eq!(hops(&headers("x")), HOPS_MAX);
        assert_eq!(hops(&headers("300")), HOPS_MAX);
    }
}
