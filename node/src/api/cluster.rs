//! The service of the cluster: founding, membership, who is where.

use std::{collections::BTreeSet, time::Duration};

use cluster_proto::{
    NodeId,
    admin::{self, cluster_server::Cluster},
    credential::{AUDIENCE_API, ApiClaims, Scope},
    link::NodeAddresses,
};
use raft_store::{
    Applied, CommandBody,
    command::{Quotas, SigningKey},
};
use tonic::{Request, Response, Status};

use super::{
    Control,
    backend::{Edge, Member},
    server::Services,
    status, validate,
};
use crate::auth::{self, IssueError};

/// The app that exists from the start.
const APP_DEFAULT: &str = "default";
/// How long a founder waits for the first election.
const FIRST_LEADER_WITHIN: Duration = Duration::from_secs(5);
/// How far behind a new node counts as caught up: replication of so many entries takes a moment.
const CAUGHT_UP_WITHIN_ENTRIES: u64 = 1_000;
/// How long a new node may take for a snapshot and the log behind it.
const CATCH_UP_WITHIN: Duration = Duration::from_secs(3_600);
const CATCH_UP_LOOK_EVERY: Duration = Duration::from_millis(100);
/// The first admin token; operators make more with their certificate.
const ADMIN_TOKEN_TTL_S: u64 = 366 * 24 * 3_600;

#[tonic::async_trait]
impl<C: Control> Cluster for Services<C> {
    async fn init(
        &self,
        request: Request<admin::InitRequest>,
    ) -> Result<Response<admin::InitResponse>, Status> {
        let caller = self.gate.allow(&request, Scope::Admin)?;
        if !caller.operator {
            return Err(Status::permission_denied(
                "founding a cluster needs an operator certificate: `carillon certs operator` makes one",
            ));
        }
        let nodes = request.into_inner().nodes.into_iter().map(node).collect::<Result<Vec<_>, _>>()?;
        let admin_token = found(&self.control, nodes, self.gate.now_ms() / 1_000).await?;
        Ok(Response::new(admin::InitResponse { admin_token }))
    }

    async fn status(
        &self,
        request: Request<admin::ClusterStatusRequest>,
    ) -> Result<Response<admin::ClusterStatusResponse>, Status> {
        self.gate.allow(&request, Scope::Read)?;
        Ok(Response::new(self.cluster_status().await))
    }

    async fn add_node(
        &self,
        request: Request<admin::AddNodeRequest>,
    ) -> Result<Response<admin::ClusterStatusResponse>, Status> {
        self.gate.allow(&request, Scope::Admin)?.everywhere()?;
        let asked = request.into_inner().node.ok_or_else(|| validate::invalid("node is missing"))?;
        let (id, addresses) = node(asked)?;
        tracing::info!(node = %id, link = addresses.link, "add node");
        self.control.add_learner(id, addresses).await.map_err(status::membership)?;
        caught_up(&self.control, id).await?;
        Ok(Response::new(self.cluster_status().await))
    }

    async fn promote(
        &self,
        request: Request<admin::NodeRequest>,
    ) -> Result<Response<admin::ClusterStatusResponse>, Status> {
        let id = self.named(request)?;
        tracing::info!(node = %id, "promote node");
        self.control.promote(id).await.map_err(status::membership)?;
        Ok(Response::new(self.cluster_status().await))
    }

    async fn remove_node(
        &self,
        request: Request<admin::NodeRequest>,
    ) -> Result<Response<admin::ClusterStatusResponse>, Status> {
        let id = self.named(request)?;
        tracing::info!(node = %id, "remove node");
        self.control.remove(id).await.map_err(status::membership)?;
        Ok(Response::new(self.cluster_status().await))
    }

    async fn transfer_leader(
        &self,
        request: Request<admin::NodeRequest>,
    ) -> Result<Response<admin::ClusterStatusResponse>, Status> {
        self.gate.allow(&request, Scope::Admin)?.everywhere()?;
        let to = Some(request.into_inner().id).filter(|id| *id != 0).map(NodeId);
        tracing::info!(?to, "transfer leadership");
        self.control.transfer_leader(to).await.map_err(status::membership)?;
        Ok(Response::new(self.cluster_status().await))
    }
}

impl<C: Control> Services<C> {
    fn named(&self, request: Request<admin::NodeRequest>) -> Result<NodeId, Status> {
        self.gate.allow(&request, Scope::Admin)?.everywhere()?;
        match request.into_inner().id {
            0 => Err(validate::invalid("id is missing: which node?")),
            id => Ok(NodeId(id)),
        }
    }

    async fn cluster_status(&self) -> admin::ClusterStatusResponse {
        let leadership = *self.control.leadership().borrow();
        let (members, edges) = (self.control.members(), self.control.edges().await);
        let own = self.control.own();
        let mut ids: BTreeSet<_> = members.iter().map(|member| member.id).collect();
        ids.extend(edges.iter().map(|edge| edge.node));
        ids.insert(own.0);
        let describe = |id: NodeId| {
            let member = members.iter().find(|member| member.id == id);
            self.node_status(id, member, edges.iter().find(|edge| edge.node == id), &own)
        };
        admin::ClusterStatusResponse {
            leader: leadership.leader.map(|leader| leader.0),
            term: leadership.term,
            nodes: ids.into_iter().map(describe).collect(),
        }
    }

    fn node_status(
        &self,
        id: NodeId,
        member: Option<&Member>,
        edge: Option<&Edge>,
        own: &(NodeId, NodeAddresses),
    ) -> admin::NodeStatus {
        let here = own.0 == id;
        let addresses = member.map(|member| &member.addresses).or(edge.map(|edge| &edge.addresses));
        let addresses = addresses.cloned().unwrap_or_else(|| own.1.clone());
        let position = self.control.position();
        admin::NodeStatus {
            member: match member {
                Some(member) if member.voter => "voter",
                Some(_) => "learner",
                None => "none",
            }
            .to_owned(),
            node: Some(admin::Node {
                id: id.0,
                link: addresses.link,
                api: addresses.api,
                mqtt: addresses.mqtt,
            }),
            edge_linked: edge.is_some(),
            terminals: edge.map_or(0, |edge| edge.terminals),
            matched: member.and_then(|member| member.matched).unwrap_or(0),
            applied: if here { position.index } else { 0 },
            digest: if here { format!("{:032x}", position.digest) } else { String::new() },
        }
    }
}

/// Founds a cluster of `nodes`, once: the group, the default app, the first signing key. Answers an admin token.
///
/// May be repeated until it has answered: what an earlier try left undone is done then. The rest of the work is the
/// leader's, which need not be this node: then the answer is UNAVAILABLE, and a repeated call finds the leader.
pub async fn found<C: Control>(
    control: &C,
    nodes: Vec<(NodeId, NodeAddresses)>,
    now_s: u64,
) -> Result<String, Status> {
    if control.signing_key().is_some() {
        return Err(Status::already_exists("the cluster is initialised already"));
    }
    if control.members().is_empty() {
        check_founders(&nodes, control.own().0)?;
        control.initialize(nodes).await.map_err(status::membership)?;
    }
    wait_for_leader(control).await?;
    if control.app(APP_DEFAULT).is_none() {
        let body = CommandBody::CreateApp { name: APP_DEFAULT.to_owned(), quotas: Quotas::default() };
        control.propose(body).await.map_err(status::propose)?;
    }
    let key = auth::generate_key(&mut rand::rng()).map_err(|error| status::issue(&error))?;
    match control.propose(CommandBody::InstallKey(key.clone())).await.map_err(status::propose)? {
        Applied::Done => admin_token(&key, now_s).map_err(|error| status::issue(&error)),
        other => Err(status::unexpected(&other)),
    }
}

/// A token that may do everything, for `cluster init` and for `carillon dev`.
pub fn admin_token(key: &SigningKey, now_s: u64) -> Result<String, IssueError> {
    let claims = ApiClaims {
        aud: AUDIENCE_API.to_owned(),
        sub: "admin".to_owned(),
        app: None,
        app_id: None,
        scopes: vec![Scope::Admin],
        iat: now_s,
        exp: now_s + ADMIN_TOKEN_TTL_S,
    };
    auth::issue_api(key, &claims)
}

/// Until this node leads, or another one does.
async fn wait_for_leader<C: Control>(control: &C) -> Result<(), Status> {
    let mut leadership = control.leadership();
    let own = control.own().0;
    let settled = leadership.wait_for(|now| now.is_leader || now.leader.is_some_and(|leader| leader != own));
    match tokio::time::timeout(FIRST_LEADER_WITHIN, settled).await {
        Ok(Ok(now)) if now.is_leader => Ok(()),
        Ok(Ok(_)) => Err(status::unavailable("another node became the leader")),
        Ok(Err(_)) => Err(status::unavailable("this node is going down")),
        Err(_) => Err(status::unavailable(
            "no leader was elected in 5 s: are all nodes running, and do their link addresses reach each other?",
        )),
    }
}

/// Waits until a new node has (nearly) all that is applied here.
async fn caught_up<C: Control>(control: &C, id: NodeId) -> Result<(), Status> {
    let deadline = tokio::time::Instant::now() + CATCH_UP_WITHIN;
    loop {
        if !control.leadership().borrow().is_leader {
            return Err(Status::unknown(format!(
                "the leader changed while node {id} was catching up: it is added, look with `carillon cluster status`"
            )));
        }
        let member = control.members().into_iter().find(|member| member.id == id);
        let behind =
            member.and_then(|member| member.matched).map(|at| control.position().index.saturating_sub(at));
        if behind.is_some_and(|entries| entries <= CAUGHT_UP_WITHIN_ENTRIES) {
            return Ok(());
        }
        if tokio::time::Instant::now() >= deadline {
            return Err(Status::failed_precondition(format!(
                "node {id} is added and has not caught up in an hour: is it running, and is its link address right?"
            )));
        }
        tokio::time::sleep(CATCH_UP_LOOK_EVERY).await;
    }
}

fn check_founders(nodes: &[(NodeId, NodeAddresses)], own: NodeId) -> Result<(), Status> {
    let ids: BTreeSet<_> = nodes.iter().map(|(id, _)| *id).collect();
    if ids.len() != nodes.len() {
        return Err(validate::invalid("two nodes have the same id"));
    }
    if !ids.contains(&own) {
        return Err(validate::invalid(format!("nodes does not contain the node that is asked, {own}")));
    }
    Ok(())
}

fn node(asked: admin::Node) -> Result<(NodeId, NodeAddresses), Status> {
    if asked.id == 0 {
        return Err(validate::invalid("node id is missing"));
    }
    for (name, address, needed) in
        [("link", &asked.link, true), ("api", &asked.api, true), ("mqtt", &asked.mqtt, false)]
    {
        if !is_host_port(address) && (needed || !address.is_empty()) {
            return Err(validate::invalid(format!(
                "node {}: {name} must be host:port, not {address:?}",
                asked.id
            )));
        }
    }
    Ok((NodeId(asked.id), NodeAddresses { link: asked.link, api: asked.api, mqtt: asked.mqtt }))
}

fn is_host_port(address: &str) -> bool {
    address
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p > 0))
}
