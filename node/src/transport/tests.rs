use std::net::{Ipv4Addr, SocketAddr};

use cluster_proto::{NodeId, link::StreamHeader};
use tempfile::TempDir;
use tokio::{net::UdpSocket, sync::watch};

use super::{
    certs::{self, Certificates},
    frames::{self, FrameError, FrameReceiver, FrameSender},
    identity::Roles,
    quic::{Alpn, ConnectError, Connection, Endpoint},
};

/// A cluster's authority in a directory of its own.
pub(crate) struct Authority(TempDir);

impl Authority {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().expect("directory");
        certs::write_authority(dir.path()).expect("authority");
        Self(dir)
    }

    pub(crate) fn certificates(&self, node: u64, roles: Roles) -> Certificates {
        let paths = certs::write_node(self.0.path(), NodeId(node), roles, &[]).expect("certificate");
        Certificates::load(&paths).expect("load")
    }

    pub(crate) fn endpoint(&self, node: u64, roles: Roles) -> Endpoint {
        bind(&self.certificates(node, roles))
    }
}

pub(crate) fn address(endpoint: &Endpoint) -> String {
    endpoint.local_addr().expect("address").to_string()
}

fn bind(certificates: &Certificates) -> Endpoint {
    let any = (Ipv4Addr::LOCALHOST, 0).into();
    Endpoint::bind(any, certificates, &[Alpn::Raft, Alpn::Link]).expect("bind")
}

/// Two control nodes and the connection between them, at both ends.
async fn connected(authority: &Authority) -> (Endpoint, Endpoint, Connection, Connection) {
    let (server, client) = (authority.endpoint(1, Roles::CONTROL), authority.endpoint(2, Roles::BOTH));
    let dialled = client.connect(&address(&server), Alpn::Raft).await.expect("connect");
    let accepted = server.accept().await.expect("accept");
    (server, client, dialled, accepted)
}

#[tokio::test]
async fn both_ends_learn_who_the_other_is() {
    let authority = Authority::new();
    let (_server, _client, dialled, accepted) = connected(&authority).await;
    assert_eq!((dialled.peer.node, dialled.peer.roles), (NodeId(1), Roles::CONTROL));
    assert_eq!((accepted.peer.node, accepted.peer.roles), (NodeId(2), Roles::BOTH));
    assert_eq!((dialled.alpn, accepted.alpn), (Alpn::Raft, Alpn::Raft));
}

#[tokio::test]
async fn a_server_of_another_cluster_is_not_believed() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let (server, client) = (theirs.endpoint(1, Roles::BOTH), ours.endpoint(2, Roles::BOTH));
    let error = client.connect(&address(&server), Alpn::Raft).await.expect_err("refused");
    assert!(matches!(error, ConnectError::Failed { .. }), "{error}");
}

#[tokio::test]
async fn a_client_without_a_certificate_of_the_cluster_is_refused() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let server = ours.endpoint(1, Roles::BOTH);
    // Trusts our authority, and shows what another one signed.
    let mut mixed = theirs.certificates(2, Roles::BOTH);
    mixed.ca = ours.certificates(9, Roles::BOTH).ca;
    assert_refused(&bind(&mixed), &server, Alpn::Raft).await;
}

#[tokio::test]
async fn an_edge_certificate_cannot_speak_raft() {
    let authority = Authority::new();
    let (server, edge) = (authority.endpoint(1, Roles::CONTROL), authority.endpoint(2, Roles::EDGE));
    let _link = edge.connect(&address(&server), Alpn::Link).await.expect("link");
    assert_eq!(server.accept().await.expect("accept").alpn, Alpn::Link);
    assert_refused(&edge, &server, Alpn::Raft).await;
}

#[tokio::test]
async fn an_edge_cannot_pose_as_a_control_node() {
    let authority = Authority::new();
    let (posing, client) = (authority.endpoint(1, Roles::EDGE), authority.endpoint(2, Roles::BOTH));
    let error = client.connect(&address(&posing), Alpn::Link).await.expect_err("refused");
    assert!(matches!(error, ConnectError::NotControl { .. }), "{error}");
}

/// In TLS 1.3 the client is through before the server has looked at its certificate: the refusal is a close.
async fn assert_refused(client: &Endpoint, server: &Endpoint, alpn: Alpn) {
    if let Ok(connection) = client.connect(&address(server), alpn).await {
        connection.quic.closed().await;
    }
    server.close().await;
    assert!(server.accept().await.is_none(), "the server accepted the connection");
}

#[tokio::test]
async fn frames_cross_a_connection_in_order_and_end_cleanly() {
    let authority = Authority::new();
    let (_server, _client, dialled, accepted) = connected(&authority).await;
    let (mut sender, _replies): (FrameSender<(u32, Vec<u8>)>, FrameReceiver<()>) =
        frames::open_bi(&dialled.quic, &StreamHeader::Receipts).await.expect("open");
    let sending = async {
        for n in 0..2_000u32 {
            sender.feed(&(n, vec![n as u8; 500])).await.expect("feed");
        }
        sender.finish().await.expect("finish");
    };
    let receiving = async {
        let stream = frames::accept_bi::<StreamHeader>(&accepted.quic).await.expect("accept");
        assert_eq!(stream.header, StreamHeader::Receipts);
        let (_answers, mut receiver) = stream.into_bi::<(), (u32, Vec<u8>)>().expect("both halves");
        let mut next = 0;
        while let Some((n, bytes)) = receiver.recv().await.expect("recv") {
            assert_eq!((n, bytes.len()), (next, 500));
            next += 1;
        }
        assert_eq!(next, 2_000);
    };
    tokio::join!(sending, receiving);
}

#[tokio::test]
async fn a_receiver_cancelled_at_every_step_loses_nothing() {
    let authority = Authority::new();
    let (_server, _client, dialled, accepted) = connected(&authority).await;
    let mut sender: FrameSender<u64> =
        frames::open_uni(&dialled.quic, &StreamHeader::Deliver).await.expect("open");
    let stream = frames::accept_uni::<StreamHeader>(&accepted.quic).await.expect("accept");
    let mut receiver = stream.into_uni::<u64>();
    for n in 0..200 {
        sender.send(&n).await.expect("send");
    }
    sender.finish().await.expect("finish");
    let mut received = Vec::new();
    loop {
        tokio::select! {
            biased;
            frame = receiver.recv() => match frame.expect("recv") {
                Some(n) => received.push(n),
                None => break,
            },
            // Ready at once: whenever `recv` is pending, it is dropped.
            () = tokio::task::yield_now() => {}
        }
    }
    assert_eq!(received, (0..200).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_stream_that_ends_inside_a_frame_is_an_error() {
    let authority = Authority::new();
    let (_server, _client, dialled, accepted) = connected(&authority).await;
    let (mut send, _recv) = dialled.quic.open_bi().await.expect("open");
    send.write_all(&[0, 0, 0, 9, 1]).await.expect("write");
    send.finish().expect("finish");
    let (_send, recv) = accepted.quic.accept_bi().await.expect("accept");
    let received = FrameReceiver::<u64>::new(recv).recv().await;
    assert!(matches!(received, Err(FrameError::Truncated(5))), "{received:?}");
}

#[tokio::test]
async fn a_restarted_node_is_noticed_by_its_peers_before_the_idle_time_is_over() {
    let authority = Authority::new();
    let certificates = authority.certificates(1, Roles::CONTROL);
    let (first_life, second_life) = (bind(&certificates), bind(&certificates));
    let (reached, mut relay) = Relay::to(first_life.local_addr().expect("address")).await;
    let at = relay.address.to_string();
    let _running = tokio::spawn(async move { relay.run().await });
    let client = authority.endpoint(2, Roles::BOTH);
    let dialled = client.connect(&at, Alpn::Link).await.expect("connect");
    // A crash: the same certificate answers at the same address, and knows nothing of the connection.
    reached.send(second_life.local_addr().expect("address")).expect("relay");
    let (mut send, _recv) = dialled.quic.open_bi().await.expect("open");
    send.write_all(b"anybody there?").await.expect("write");
    assert_eq!(dialled.quic.closed().await, quinn::ConnectionError::Reset);
}

/// An address behind which the server can be exchanged.
struct Relay {
    address: SocketAddr,
    front: UdpSocket,
    back: UdpSocket,
    server: watch::Receiver<SocketAddr>,
}

impl Relay {
    async fn to(server: SocketAddr) -> (watch::Sender<SocketAddr>, Self) {
        let front = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("front");
        let back = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("back");
        let address = front.local_addr().expect("address");
        let (reached, server) = watch::channel(server);
        (reached, Self { address, front, back, server })
    }

    async fn run(&mut self) {
        let (mut to_server, mut to_client) = (vec![0; 65_536], vec![0; 65_536]);
        let mut client = self.address;
        loop {
            tokio::select! {
                received = self.front.recv_from(&mut to_server) => {
                    let (len, from) = received.expect("front");
                    client = from;
                    let server = *self.server.borrow();
                    self.back.send_to(&to_server[..len], server).await.expect("to server");
                }
                received = self.back.recv_from(&mut to_client) => {
                    let (len, from) = received.expect("back");
                    if from == *self.server.borrow() {
                        self.front.send_to(&to_client[..len], client).await.expect("to client");
                    }
                }
            }
        }
    }
}
