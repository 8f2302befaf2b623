//! Calls to a cluster: over several addresses, and made again where that is safe.

use std::{future::Future, net::IpAddr, path::PathBuf, time::Duration};

use tokio::time::{Instant, timeout};
use tonic::{
    Code, Request, Response, Status,
    metadata::{Ascii, MetadataValue},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

use super::{Failure, args::Shared, files};
use crate::{
    api::{server::NODE_NAME, status},
    config::{ADMIN_TOKEN_FILE, DATA_DIR},
};

const CONNECT_WITHIN: Duration = Duration::from_secs(2);
/// One try: longer than a node looks for a leader.
const TRY_WITHIN: Duration = Duration::from_secs(8);
/// Even when little of the time given is left.
const TRY_AT_LEAST: Duration = Duration::from_secs(1);
/// How long to try where no address even accepts a connection: a restarting cluster does by then.
const UNREACHED_WITHIN: Duration = Duration::from_secs(3);
/// Before the same addresses are tried again.
const PAUSE: Duration = Duration::from_millis(50);
/// A stopped node is noticed by unanswered pings.
const KEEP_ALIVE: Duration = Duration::from_secs(2);
/// A page of a list, or 1,000 credentials with many edges.
const ANSWER_LEN_MAX: usize = 64 * 1024 * 1024;

/// Whether a call may be made again when its answer was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Repeat {
    /// It changes nothing.
    Read,
    /// It changes the same thing again: idempotency key, registration.
    Same,
    /// Made twice it may fail the second time, or do more: once only.
    Never,
}

/// A cluster, as the command line names it.
pub(super) struct Client {
    pub app: String,
    nodes: Vec<Node>,
    /// The node that answered last.
    at: usize,
    token: Option<MetadataValue<Ascii>>,
    within: Duration,
    is_clear: bool,
}

struct Node {
    address: String,
    endpoint: Endpoint,
    channel: Option<Channel>,
}

/// What became of one try.
enum Tried<T> {
    Done(T),
    NotReached(String),
    NotDone(String),
    Lost(String),
    Refused(Status),
}

impl Client {
    pub(super) fn new(shared: &Shared) -> Result<Self, Failure> {
        let tls = tls(shared)?;
        let addresses: Vec<_> = shared.api.split(',').map(str::trim).filter(|a| !a.is_empty()).collect();
        if addresses.is_empty() {
            return Err(Failure::Usage("--api names no address".to_owned()));
        }
        let nodes = addresses.iter().map(|address| node(address, tls.as_ref())).collect::<Result<_, _>>()?;
        let token = token(shared, &addresses)?;
        let token = token.map(|token| format!("Bearer {token}").parse()).transpose();
        Ok(Self {
            app: shared.app.clone(),
            nodes,
            at: 0,
            token: token
                .map_err(|_| Failure::Usage("the token has characters that no token has".to_owned()))?,
            within: shared.timeout,
            is_clear: tls.is_none(),
        })
    }

    /// Makes a call until it is answered, within the time given.
    pub(super) async fn call<M, T, F, Fut>(
        &mut self,
        repeat: Repeat,
        message: M,
        send: F,
    ) -> Result<T, Failure>
    where
        M: Clone,
        F: Fn(Channel, Request<M>) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let began = Instant::now();
        let (mut lost, mut failed, mut reached) = (None, 0, false);
        loop {
            let request = self.request(message.clone());
            let left = self.within.saturating_sub(began.elapsed());
            let within = match repeat {
                Repeat::Never => Duration::MAX,
                _ => left.clamp(TRY_AT_LEAST, TRY_WITHIN),
            };
            let last = match self.attempt(within, request, &send).await {
                Tried::Done(answer) => return Ok(answer),
                Tried::Refused(status) => return Err(refused(&status)),
                Tried::Lost(why) if repeat == Repeat::Never => return Err(unknown(&why)),
                Tried::Lost(why) => {
                    (lost, reached) = (Some(why.clone()), true);
                    why
                }
                Tried::NotDone(why) => {
                    reached = true;
                    why
                }
                Tried::NotReached(why) => why,
            };
            self.at = (self.at + 1) % self.nodes.len();
            failed += 1;
            // Where nobody listens at all, there is nothing to wait for.
            let patience = if reached { self.within } else { self.within.min(UNREACHED_WITHIN) };
            if began.elapsed() >= patience {
                return Err(match lost {
                    Some(why) if repeat == Repeat::Same => unknown(&why),
                    _ => Failure::Refused(format!("{last}{}", self.advice())),
                });
            }
            if failed % self.nodes.len() == 0 {
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    /// How long it may be tried.
    pub(super) fn within(&self) -> Duration {
        self.within
    }

    /// Every address by itself, for what each node says of itself.
    pub(super) async fn each<M, T, F, Fut>(&mut self, message: M, send: F) -> Result<Vec<T>, Failure>
    where
        M: Clone,
        F: Fn(Channel, Request<M>) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let mut answers = Vec::new();
        for at in 0..self.nodes.len() {
            self.at = at;
            let request = self.request(message.clone());
            match self.attempt(TRY_WITHIN, request, &send).await {
                Tried::Done(answer) => answers.push(answer),
                Tried::Refused(status) => return Err(refused(&status)),
                Tried::NotReached(why) | Tried::NotDone(why) | Tried::Lost(why) => {
                    return Err(Failure::Refused(format!("{why}{}", self.advice())));
                }
            }
        }
        self.at = 0;
        Ok(answers)
    }

    async fn attempt<M, T, F, Fut>(&mut self, within: Duration, request: Request<M>, send: &F) -> Tried<T>
    where
        F: Fn(Channel, Request<M>) -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let node = &mut self.nodes[self.at];
        let channel = match node.channel().await {
            Ok(channel) => channel,
            Err(why) => return Tried::NotReached(why),
        };
        let tried = match timeout(within, send(channel, request)).await {
            Ok(Ok(response)) => return Tried::Done(response.into_inner()),
            Ok(Err(status)) => judge(&node.address, status),
            Err(_) => Tried::Lost(format!("{} did not answer in {} s", node.address, within.as_secs())),
        };
        if !matches!(tried, Tried::Refused(_)) {
            node.channel = None;
        }
        tried
    }

    fn request<M>(&self, message: M) -> Request<M> {
        let mut request = Request::new(message);
        if let Some(token) = &self.token {
            request.metadata_mut().insert("authorization", token.clone());
        }
        request
    }

    fn advice(&self) -> &'static str {
        if self.is_clear {
            " (calls are made in clear: a cluster outside `carillon dev` needs --ca)"
        } else {
            ""
        }
    }
}

impl Node {
    async fn channel(&mut self) -> Result<Channel, String> {
        if let Some(channel) = &self.channel {
            return Ok(channel.clone());
        }
        let channel = self.endpoint.connect().await;
        let channel =
            channel.map_err(|error| format!("cannot connect to {}: {}", self.address, causes(&error)))?;
        self.channel = Some(channel.clone());
        Ok(channel)
    }
}

/// Answers of the server are taken as they are; errors of the connection leave open what was done.
fn judge<T>(address: &str, status: Status) -> Tried<T> {
    let from_here = std::error::Error::source(&status).is_some();
    let why = || format!("{address}: {}", status.message());
    match status.code() {
        Code::Unavailable if !from_here => Tried::NotDone(why()),
        Code::Unknown | Code::DeadlineExceeded | Code::Cancelled => Tried::Lost(why()),
        _ if from_here => Tried::Lost(why()),
        _ => Tried::Refused(status),
    }
}

/// A refusal, as people read it.
pub(super) fn refused(status: &Status) -> Failure {
    Failure::Refused(format!("{} ({})", status.message(), status::code_name(status.code())))
}

fn unknown(why: &str) -> Failure {
    Failure::Unknown(format!("the outcome is unknown: {why}"))
}

fn tls(shared: &Shared) -> Result<Option<ClientTlsConfig>, Failure> {
    let Some(ca) = &shared.ca else {
        if shared.cert.is_some() {
            return Err(Failure::Usage("--cert needs --ca: the authority of the cluster".to_owned()));
        }
        return Ok(None);
    };
    // Every node's certificate carries this name, so that an address may change.
    let mut tls =
        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(files::read(ca)?)).domain_name(NODE_NAME);
    if let (Some(cert), Some(key)) = (&shared.cert, &shared.key) {
        tls = tls.identity(Identity::from_pem(files::read(cert)?, files::read(key)?));
    }
    Ok(Some(tls))
}

fn node(address: &str, tls: Option<&ClientTlsConfig>) -> Result<Node, Failure> {
    let bare = address.trim_start_matches("http://").trim_start_matches("https://").trim_end_matches('/');
    let scheme = if tls.is_some() { "https" } else { "http" };
    let wrong =
        |error: tonic::transport::Error| Failure::Usage(format!("--api {address:?}: {}", causes(&error)));
    let mut endpoint = Endpoint::from_shared(format!("{scheme}://{bare}"))
        .map_err(wrong)?
        .connect_timeout(CONNECT_WITHIN)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .initial_stream_window_size(1 << 20)
        .initial_connection_window_size(1 << 22);
    if let Some(tls) = tls {
        endpoint = endpoint.tls_config(tls.clone()).map_err(wrong)?;
    }
    Ok(Node { address: bare.to_owned(), endpoint, channel: None })
}

/// The token given; or that of `carillon dev`, which is for this machine only and never sent elsewhere.
fn token(shared: &Shared, addresses: &[&str]) -> Result<Option<String>, Failure> {
    if let Some(token) = shared.token.as_deref().filter(|token| !token.is_empty()) {
        return match token.strip_prefix('@') {
            Some(path) => read_token(&PathBuf::from(path)).map(Some),
            None => Ok(Some(token.trim().to_owned())),
        };
    }
    if shared.cert.is_some() || !addresses.iter().all(|address| is_this_machine(address)) {
        return Ok(None);
    }
    let dirs = std::env::var_os("CARILLON_DATA_DIR").into_iter().chain([DATA_DIR.into()]);
    let found = dirs.map(|dir| PathBuf::from(dir).join(ADMIN_TOKEN_FILE)).find(|path| path.exists());
    found.map(|path| read_token(&path)).transpose()
}

fn read_token(path: &std::path::Path) -> Result<String, Failure> {
    let text = std::fs::read_to_string(path).map_err(|error| files::named(path, &error))?;
    Ok(text.trim().to_owned())
}

fn is_this_machine(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host).trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn causes(error: &dyn std::error::Error) -> String {
    let mut texts = vec![error.to_string()];
    let mut cause = error.source();
    while let Some(error) = cause {
        texts.push(error.to_string());
        cause = error.source();
    }
    // The transport's errors say the same at every level, and first of all that they are of the transport.
    texts.retain(|text| text != "transport error");
    texts.dedup();
    texts.join(": ")
}

macro_rules! clients {
    ($($name:ident: $client:path;)*) => {$(
        pub(super) fn $name(channel: Channel) -> $client {
            <$client>::new(channel).max_decoding_message_size(ANSWER_LEN_MAX)
        }
    )*};
}

type Pushes = cluster_proto::admin::pushes_client::PushesClient<Channel>;
type Terminals = cluster_proto::admin::terminals_client::TerminalsClient<Channel>;
type Apps = cluster_proto::admin::apps_client::AppsClient<Channel>;
type Cluster = cluster_proto::admin::cluster_client::ClusterClient<Channel>;

clients! {
    pushes: Pushes;
    terminals: Terminals;
    apps: Apps;
    cluster: Cluster;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_of_dev_is_for_this_machine() {
        assert!(
            is_this_machine("127.0.0.1:7400") && is_this_machine("localhost:1") && is_this_machine("[::1]:1")
        );
        assert!(!is_this_machine("10.0.0.1:7400") && !is_this_machine("127.0.0.1.example.org:1"));
    }

    #[test]
    fn only_an_answer_of_the_server_says_that_nothing_was_done() {
        let judged = |status| judge::<()>("a:1", status);
        assert!(matches!(judged(Status::unavailable("x")), Tried::NotDone(_)));
        assert!(matches!(judged(Status::unknown("x")), Tried::Lost(_)));
        assert!(matches!(judged(Status::not_found("x")), Tried::Refused(_)));
        let broken = Status::from_error(Box::new(std::io::Error::other("connection reset")));
        assert!(matches!(judged(broken), Tried::Lost(_)));
    }
}
