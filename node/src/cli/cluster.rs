//! `carillon cluster`.

use std::{
    io::Write as _,
    path::PathBuf,
    time::{Duration, Instant},
};

use cluster_proto::admin;
use serde::Serialize;
use serde_json::json;
use tonic::Request;

use super::{
    Failure,
    args::{ClusterCommand, NodeSpec},
    client::{self, Client, Repeat},
    files::PrivateFile,
    output::{Out, table},
};
use crate::api::forward::LOCAL_HEADER;

/// An election after a transfer of leadership takes well under a second.
const NEW_LEADER_WITHIN: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_millis(50);

pub(super) async fn run(command: ClusterCommand, client: &mut Client, out: &mut Out) -> Result<(), Failure> {
    match command {
        ClusterCommand::Init { nodes, token_out } => init(nodes, token_out, client, out).await,
        ClusterCommand::Status { local } => {
            let request = admin::ClusterStatusRequest {};
            let status = client.call(Repeat::Read, request, |channel, request| async move {
                let request = if local { here(request) } else { request };
                client::cluster(channel).status(request).await
            });
            show(status.await?, out)
        }
        ClusterCommand::Add { node } => {
            let request = admin::AddNodeRequest { node: Some(node.into_proto()) };
            let status = client.call(Repeat::Never, request, |channel, request| async move {
                client::cluster(channel).add_node(request).await
            });
            show(status.await?, out)
        }
        ClusterCommand::Promote { id } => {
            let status =
                client.call(Repeat::Never, admin::NodeRequest { id }, |channel, request| async move {
                    client::cluster(channel).promote(request).await
                });
            show(status.await?, out)
        }
        ClusterCommand::Remove { id } => {
            let status =
                client.call(Repeat::Never, admin::NodeRequest { id }, |channel, request| async move {
                    client::cluster(channel).remove_node(request).await
                });
            show(status.await?, out)
        }
        ClusterCommand::TransferLeader { id } => {
            let before = status(client).await?;
            let request = admin::NodeRequest { id: id.unwrap_or(0) };
            let asked = client.call(Repeat::Never, request, |channel, request| async move {
                client::cluster(channel).transfer_leader(request).await
            });
            asked.await?;
            show(next_leader(before.term, client).await?, out)
        }
    }
}

async fn status(client: &mut Client) -> Result<admin::ClusterStatusResponse, Failure> {
    let request = admin::ClusterStatusRequest {};
    let answer = client.call(Repeat::Read, request, |channel, request| async move {
        client::cluster(channel).status(request).await
    });
    answer.await
}

/// The status once a leader of a later term is known; after [`NEW_LEADER_WITHIN`] as it then is.
async fn next_leader(term: u64, client: &mut Client) -> Result<admin::ClusterStatusResponse, Failure> {
    let asked = Instant::now();
    loop {
        let now = status(client).await?;
        if (now.term > term && now.leader.is_some()) || asked.elapsed() >= NEW_LEADER_WITHIN {
            return Ok(now);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The token's file is made first: a cluster must not be founded for a token that cannot be kept.
async fn init(
    nodes: Vec<NodeSpec>,
    token_out: Option<PathBuf>,
    client: &mut Client,
    out: &mut Out,
) -> Result<(), Failure> {
    let file = token_out.as_deref().map(PrivateFile::create).transpose()?;
    let nodes: Vec<_> = match nodes.is_empty() {
        true => discover(client).await?,
        false => nodes.into_iter().map(NodeSpec::into_proto).collect(),
    };
    let count = nodes.len();
    // Founding can be repeated until it has answered.
    let answer = client.call(Repeat::Same, admin::InitRequest { nodes }, |channel, request| async move {
        client::cluster(channel).init(request).await
    });
    let token = answer.await?.admin_token;
    match (file, token_out) {
        (Some(mut file), Some(path)) => {
            writeln!(file, "{token}")?;
            file.finish()?;
            let json = json!({ "nodes": count, "token_file": path });
            out.result(&json, || {
                format!("the cluster of {count} nodes is founded; the admin token is in {}", path.display())
            })
        }
        _ => out.result(&json!({ "nodes": count, "admin_token": token }), || token.clone()),
    }
}

/// Asks every node at --api who it is.
async fn discover(client: &mut Client) -> Result<Vec<admin::Node>, Failure> {
    let answers = client.each(admin::ClusterStatusRequest {}, |channel, request| async move {
        client::cluster(channel).status(here(request)).await
    });
    let own = |status: admin::ClusterStatusResponse| {
        status.nodes.into_iter().find(|node| !node.digest.is_empty()).and_then(|node| node.node)
    };
    let nodes: Vec<_> = answers.await?.into_iter().filter_map(own).collect();
    if nodes.is_empty() {
        return Err(Failure::Refused("no node says who it is: name them with --node".to_owned()));
    }
    Ok(nodes)
}

fn here<M>(mut request: Request<M>) -> Request<M> {
    request.metadata_mut().insert(LOCAL_HEADER, tonic::metadata::MetadataValue::from_static("1"));
    request
}

impl NodeSpec {
    fn into_proto(self) -> admin::Node {
        admin::Node { id: self.id, link: self.link, api: self.api, mqtt: self.mqtt }
    }
}

fn show(status: admin::ClusterStatusResponse, out: &mut Out) -> Result<(), Failure> {
    let json = Json::from(status);
    out.result(&json, || {
        let rows: Vec<_> = json.nodes.iter().map(|node| node.row(json.leader)).collect();
        let head =
            json.leader.map_or_else(|| "no leader".to_owned(), |leader| format!("leader: node {leader}"));
        let columns = ["NODE", "MEMBER", "EDGE", "TERMINALS", "LOG", "API", "LINK", "MQTT"];
        format!("{head}, term {}\n{}", json.term, table(&columns, &rows))
    })
}

#[derive(Debug, Serialize)]
struct Json {
    leader: Option<u64>,
    term: u64,
    nodes: Vec<NodeJson>,
}

#[derive(Debug, Serialize)]
struct NodeJson {
    id: u64,
    link: String,
    api: String,
    mqtt: String,
    member: String,
    edge_linked: bool,
    terminals: u64,
    matched: u64,
    applied: u64,
    digest: String,
}

impl From<admin::ClusterStatusResponse> for Json {
    fn from(status: admin::ClusterStatusResponse) -> Self {
        let nodes = status.nodes.into_iter().map(NodeJson::from).collect();
        Self { leader: status.leader, term: status.term, nodes }
    }
}

impl From<admin::NodeStatus> for NodeJson {
    fn from(status: admin::NodeStatus) -> Self {
        let node = status.node.unwrap_or_default();
        Self {
            id: node.id,
            link: node.link,
            api: node.api,
            mqtt: node.mqtt,
            member: status.member,
            edge_linked: status.edge_linked,
            terminals: status.terminals,
            matched: status.matched,
            applied: status.applied,
            digest: status.digest,
        }
    }
}

impl NodeJson {
    fn row(&self, leader: Option<u64>) -> Vec<String> {
        let member = if leader == Some(self.id) { "leader".to_owned() } else { self.member.clone() };
        vec![
            self.id.to_string(),
            member,
            if self.edge_linked { "linked" } else { "-" }.to_owned(),
            self.terminals.to_string(),
            self.matched.max(self.applied).to_string(),
            self.api.clone(),
            self.link.clone(),
            self.mqtt.clone(),
        ]
    }
}
