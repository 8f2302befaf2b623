//! Certificates: who counts as an operator, and what other nodes verify.

use std::path::Path;

use cluster_proto::{
    NodeId,
    admin::{self, apps_client::AppsClient},
    credential::Scope,
};
use tonic::{
    Code, Request, Status,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

use super::{Fake, Node, ServerTls, admin, with};
use crate::{
    api::{Target, auth::OPERATOR_HEADER},
    transport::{
        Roles,
        certs::{self, CertificatePaths},
    },
};

struct Authority(tempfile::TempDir);

impl Authority {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("dir");
        certs::write_authority(dir.path()).expect("authority");
        Self(dir)
    }

    fn node(&self, id: u64, roles: Roles) -> CertificatePaths {
        certs::write_node(self.0.path(), NodeId(id), roles, &[]).expect("node")
    }

    fn operator(&self) -> CertificatePaths {
        certs::write_operator(self.0.path()).expect("operator")
    }

    fn server(&self, id: u64) -> ServerTls {
        let paths = self.node(id, Roles::CONTROL);
        let (ca, node_cert, node_key) = (read(&paths.ca), read(&paths.cert), read(&paths.key));
        ServerTls { ca, node_cert, node_key, public: None }
    }
}

fn read(path: &Path) -> Vec<u8> {
    std::fs::read(path).expect("read")
}

async fn connect(node: &Node, ca: &Path, identity: Option<&CertificatePaths>) -> Channel {
    let mut tls =
        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(ca))).domain_name("carillon");
    if let Some(paths) = identity {
        tls = tls.identity(Identity::from_pem(read(&paths.cert), read(&paths.key)));
    }
    let endpoint = Endpoint::from_shared(format!("https://{}", node.address)).expect("endpoint");
    endpoint.tls_config(tls).expect("tls").connect().await.expect("connect")
}

async fn create(channel: Channel, request: Request<admin::CreateAppRequest>) -> Result<u32, Status> {
    AppsClient::new(channel).create(request).await.map(|app| app.into_inner().id)
}

fn app(name: &str) -> admin::CreateAppRequest {
    admin::CreateAppRequest { name: name.to_owned(), quotas: None }
}

#[tokio::test]
async fn an_operators_certificate_is_enough_at_any_control_node() {
    let authority = Authority::new();
    let leader = Node::start_with(Fake::founded(), Target::Here, Some(authority.server(1)));
    let follower = Node::start_with(leader.fake.other(), leader.remote(), Some(authority.server(2)));
    let operator = authority.operator();
    for node in [&leader, &follower] {
        let channel = connect(node, &operator.ca, Some(&operator)).await;
        create(channel, Request::new(app("new"))).await.expect("allowed");
    }
    // With a token instead, over the same connections between nodes.
    let channel = connect(&follower, &operator.ca, None).await;
    assert_eq!(
        create(channel.clone(), Request::new(app("new"))).await.expect_err("nobody").code(),
        Code::Unauthenticated
    );
    create(channel.clone(), admin(&leader.fake, app("new"))).await.expect("allowed");
    let reader = with(&leader.fake, &[Scope::Read], None, app("new"));
    assert_eq!(create(channel, reader).await.expect_err("reader").code(), Code::PermissionDenied);
}

#[tokio::test]
async fn an_edge_cannot_make_itself_an_operator() {
    let authority = Authority::new();
    let leader = Node::start_with(Fake::founded(), Target::Here, Some(authority.server(1)));
    for (roles, expected) in [(Roles::EDGE, Code::Unauthenticated), (Roles::BOTH, Code::Ok)] {
        let paths = authority.node(9, roles);
        let mut request = Request::new(app("new"));
        request.metadata_mut().insert(OPERATOR_HEADER, "1".parse().expect("ascii"));
        let answer = create(connect(&leader, &paths.ca, Some(&paths)).await, request).await;
        assert_eq!(answer.err().map_or(Code::Ok, |status| status.code()), expected, "{roles}");
    }
    // Nor can anybody without a certificate.
    let ca = authority.operator().ca;
    let mut request = Request::new(app("new"));
    request.metadata_mut().insert(OPERATOR_HEADER, "1".parse().expect("ascii"));
    let answer = create(connect(&leader, &ca, None).await, request).await;
    assert_eq!(answer.expect_err("nobody").code(), Code::Unauthenticated);
}

#[tokio::test]
async fn a_certificate_of_another_authority_is_no_certificate() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let leader = Node::start_with(Fake::founded(), Target::Here, Some(ours.server(1)));
    let (trusted, stranger) = (ours.operator(), theirs.operator());
    let tls = ClientTlsConfig::new()
        .ca_certificate(Certificate::from_pem(read(&trusted.ca)))
        .domain_name("carillon")
        .identity(Identity::from_pem(read(&stranger.cert), read(&stranger.key)));
    let endpoint = Endpoint::from_shared(format!("https://{}", leader.address)).expect("endpoint");
    // TLS 1.3 lets the client find out with the first answer.
    let failed = match endpoint.tls_config(tls).expect("tls").connect().await {
        Ok(channel) => create(channel, Request::new(app("new"))).await.is_err(),
        Err(_) => true,
    };
    assert!(failed);
}
