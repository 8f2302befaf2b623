//! The gRPC client of the run: any node will do, and a call of unknown outcome is repeated.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use cluster_proto::admin::{
    ClusterStatusRequest, ClusterStatusResponse, IssueCredentialsRequest, ListTargetsRequest, PushRequest,
    PushResponse, StatusRequest, StatusResponse, TargetState, cluster_client::ClusterClient,
    pushes_client::PushesClient, terminals_client::TerminalsClient,
};
use tokio::time::{sleep, timeout};
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

use crate::{
    cluster::{Cluster, Node},
    evidence::{Counts, Digest, FinalStatus, State, Terminal},
};

/// One attempt of one call; a paused node answers nothing.
const ATTEMPT_LIMIT: Duration = Duration::from_secs(3);
/// A call is repeated for this long: longer than any fault lasts, restart included.
const CALL_LIMIT: Duration = Duration::from_secs(90);
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(50);
/// The DNS name in every node's certificate.
const TLS_NAME: &str = "carillon";
/// Asks a node for its own view instead of the leader's.
const LOCAL_HEADER: &str = "carillon-local";

/// A client of all nodes.
#[derive(Debug)]
pub struct Api {
    nodes: Vec<(u64, Channel)>,
    token: MetadataValue<Ascii>,
    turn: AtomicUsize,
}

impl Api {
    /// Connects when it is first used, and again whenever a node came back.
    pub fn new(cluster: &Cluster) -> Result<Self> {
        let tls =
            ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&cluster.ca)).domain_name(TLS_NAME);
        let channel = |node: &Node| {
            let uri = format!("https://{}", Node::address(node.ports.api));
            let endpoint = Endpoint::from_shared(uri)?.tls_config(tls.clone())?;
            let endpoint = endpoint.connect_timeout(Duration::from_secs(1)).timeout(ATTEMPT_LIMIT);
            Ok((node.id, endpoint.connect_lazy()))
        };
        let nodes = cluster.nodes.iter().map(channel).collect::<Result<_>>()?;
        let token = format!("Bearer {}", cluster.admin_token)
            .parse()
            .context("the admin token is no header value")?;
        Ok(Self { nodes, token, turn: AtomicUsize::new(0) })
    }

    /// One attempt of a push at one node (by place, not id).
    pub async fn push_at(&self, place: usize, request: PushRequest) -> Result<PushResponse, Status> {
        let channel = self.nodes[place % self.nodes.len()].1.clone();
        Ok(PushesClient::new(channel).push(self.request(request)).await?.into_inner())
    }

    /// Pushes, repeating under the request's idempotency key until an answer says what became of it.
    pub async fn push(&self, request: PushRequest) -> Result<PushResponse> {
        self.repeat("push", |channel| {
            let request = self.request(request.clone());
            async move { Ok(PushesClient::new(channel).push(request).await?.into_inner()) }
        })
        .await
    }

    /// The counts of a push.
    pub async fn status(&self, push: u64) -> Result<Counts> {
        let request = StatusRequest { push, app: String::new() };
        let answer = self.repeat("status", |channel| {
            let request = self.request(request.clone());
            async move { Ok(PushesClient::new(channel).status(request).await?.into_inner()) }
        });
        Ok(counts(&answer.await?))
    }

    /// The terminals of a push in one state.
    pub async fn targets(&self, push: u64, state: State) -> Result<BTreeSet<Terminal>> {
        let request = ListTargetsRequest { push, app: String::new(), state: wire(state).into() };
        let ids = self.repeat("list targets", |channel| {
            let request = self.request(request.clone());
            async move {
                let mut stream = PushesClient::new(channel).list_targets(request).await?.into_inner();
                let mut ids = Vec::new();
                while let Some(page) = stream.message().await? {
                    ids.extend(page.ids);
                }
                Ok(ids)
            }
        });
        let known = |id: String| Terminal::from_id(&id).with_context(|| format!("push {push} lists {id:?}"));
        ids.await?.into_iter().map(known).collect()
    }

    /// Counts and lists of a push nothing happens to any more.
    pub async fn final_status(&self, push: u64) -> Result<FinalStatus> {
        let counts = self.status(push).await?;
        let mut terminals = BTreeMap::new();
        for state in counts.by_state.iter().filter(|(_, count)| **count > 0).map(|(state, _)| *state) {
            terminals.insert(state, self.targets(push, state).await?);
        }
        Ok(FinalStatus { counts, terminals })
    }

    /// Registers terminals and returns their tokens, in order.
    pub async fn credentials(&self, terminals: &[Terminal]) -> Result<Vec<String>> {
        let ids = terminals.iter().map(Terminal::to_string).collect();
        let request =
            IssueCredentialsRequest { app: String::new(), ids, ttl_s: 0, publish: None, subscribe: None };
        let credentials = self.repeat("issue credentials", |channel| {
            let request = self.request(request.clone());
            async move {
                let mut stream = TerminalsClient::new(channel).issue_credentials(request).await?.into_inner();
                let mut all = Vec::new();
                while let Some(page) = stream.message().await? {
                    all.extend(page.credentials);
                }
                Ok(all)
            }
        });
        let tokens: BTreeMap<String, String> = credentials
            .await?
            .into_iter()
            .map(|credential| (credential.terminal, credential.token))
            .collect();
        let token = |terminal: &Terminal| {
            tokens
                .get(&terminal.to_string())
                .cloned()
                .with_context(|| format!("no credential for {terminal}"))
        };
        terminals.iter().map(token).collect()
    }

    /// The node that leads, as soon as one does.
    pub async fn leader(&self) -> Result<u64> {
        let leader = self.repeat("find the leader", |channel| {
            let request = self.request(ClusterStatusRequest {});
            async move {
                cluster_status(channel, request).await?.leader.ok_or_else(|| Status::unavailable("no leader"))
            }
        });
        leader.await
    }

    /// Position and digest of every node that tells its own.
    pub async fn digests(&self) -> Vec<Digest> {
        let mut digests = Vec::new();
        for (id, channel) in &self.nodes {
            let Ok(status) = cluster_status(channel.clone(), self.local()).await else {
                continue;
            };
            let own =
                status.nodes.into_iter().find(|node| node.node.as_ref().is_some_and(|node| node.id == *id));
            let told = own.filter(|node| !node.digest.is_empty());
            digests.extend(told.map(|node| Digest { node: *id, applied: node.applied, digest: node.digest }));
        }
        digests
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", self.token.clone());
        request
    }

    /// A status as the very node that is asked sees it.
    fn local(&self) -> Request<ClusterStatusRequest> {
        let mut request = self.request(ClusterStatusRequest {});
        request.metadata_mut().insert(LOCAL_HEADER, MetadataValue::from_static("1"));
        request
    }

    /// Tries node after node until one answers, or refuses for a reason that another try would not change.
    async fn repeat<T, F>(&self, what: &str, call: impl Fn(Channel) -> F) -> Result<T>
    where
        F: Future<Output = Result<T, Status>>,
    {
        let deadline = Instant::now() + CALL_LIMIT;
        loop {
            let place = self.turn.fetch_add(1, Ordering::Relaxed) % self.nodes.len();
            let (id, channel) = &self.nodes[place];
            let failure = match timeout(ATTEMPT_LIMIT, call(channel.clone())).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded("no answer in time"),
            };
            if is_refusal(failure.code()) {
                bail!("{what} refused by node {id}: {failure}");
            }
            if Instant::now() > deadline {
                bail!("{what}: no answer for {CALL_LIMIT:?}; the last, of node {id}: {failure}");
            }
            sleep(BETWEEN_ATTEMPTS).await;
        }
    }
}

/// Codes that the API's documentation calls an answer. Everything else is nothing done, or unknown.
fn is_refusal(code: Code) -> bool {
    matches!(
        code,
        Code::InvalidArgument
            | Code::Unauthenticated
            | Code::PermissionDenied
            | Code::NotFound
            | Code::AlreadyExists
            | Code::Unimplemented
    )
}

async fn cluster_status(
    channel: Channel,
    request: Request<ClusterStatusRequest>,
) -> Result<ClusterStatusResponse, Status> {
    Ok(ClusterClient::new(channel).status(request).await?.into_inner())
}

fn counts(answer: &StatusResponse) -> Counts {
    let by_state = [
        (State::Pending, answer.pending),
        (State::Delivered, answer.delivered),
        (State::Sent, answer.sent),
        (State::Expired, answer.expired),
        (State::Cancelled, answer.cancelled),
        (State::Collapsed, answer.collapsed),
        (State::Dropped, answer.dropped),
    ];
    Counts { audience: answer.audience, by_state: by_state.into() }
}

fn wire(state: State) -> TargetState {
    match state {
        State::Pending => TargetState::Pending,
        State::Delivered => TargetState::Delivered,
        State::Sent => TargetState::Sent,
        State::Expired => TargetState::Expired,
        State::Cancelled => TargetState::Cancelled,
        State::Collapsed => TargetState::Collapsed,
        State::Dropped => TargetState::Dropped,
    }
}
