use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use cluster_proto::{NodeId, link::NodeAddresses, raft_rpc::RaftCall};
use raft_store::transport::{BoxFuture, SnapshotStream, Transport, TransportError};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Semaphore,
    task::JoinSet,
};

use super::{QuicTransport, RaftHandler, RaftServer};
use crate::transport::{
    Endpoint,
    identity::Roles,
    tests::{Authority, address},
};

/// No test waits for this: it is what a broken test runs into.
const PATIENCE: Duration = Duration::from_secs(60);

/// Answers with the caller and what it said; reads snapshots only as far as it is let.
struct Echo {
    /// Chunks of a snapshot it may read.
    snapshot_reads: Semaphore,
    snapshot_len: AtomicUsize,
}

impl RaftHandler for Echo {
    fn call(&self, from: NodeId, call: RaftCall, body: Bytes) -> BoxFuture<'_, Result<Bytes, String>> {
        Box::pin(async move {
            match call {
                RaftCall::InstallSnapshot => Err("not like this".to_owned()),
                _ => Ok([format!("{from}:").as_bytes(), &body].concat().into()),
            }
        })
    }

    fn snapshot(&self, mut stream: SnapshotStream) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            let mut buffer = vec![0; 64 * 1024];
            loop {
                self.snapshot_reads.acquire().await.map_err(|e| e.to_string())?.forget();
                match stream.reader.read(&mut buffer).await.map_err(|e| e.to_string())? {
                    0 => break,
                    len => self.snapshot_len.fetch_add(len, Ordering::SeqCst),
                };
            }
            stream.writer.write_all(b"received").await.map_err(|e| e.to_string())?;
            stream.writer.shutdown().await.map_err(|e| e.to_string())
        })
    }

    fn members(&self) -> Vec<NodeId> {
        vec![NodeId(1), NodeId(2)]
    }
}

/// Node 1 answers, node 2 calls.
struct Pair {
    authority: Authority,
    echo: Arc<Echo>,
    server: Endpoint,
    transport: Arc<QuicTransport>,
    addresses: NodeAddresses,
    _serving: JoinSet<()>,
}

impl Pair {
    fn new() -> Self {
        let authority = Authority::new();
        let server = authority.endpoint(1, Roles::CONTROL);
        let echo = Arc::new(Echo { snapshot_reads: Semaphore::new(0), snapshot_len: AtomicUsize::new(0) });
        let transport = Arc::new(QuicTransport::new(authority.endpoint(2, Roles::CONTROL)));
        let addresses = NodeAddresses { link: address(&server), ..NodeAddresses::default() };
        let mut serving = JoinSet::new();
        serving.spawn(serve(server.clone(), RaftServer::new(echo.clone())));
        Self { authority, echo, server, transport, addresses, _serving: serving }
    }

    async fn call(&self, call: RaftCall, body: impl Into<Bytes>) -> Result<Bytes, TransportError> {
        self.transport.call(NodeId(1), &self.addresses, call, body.into(), PATIENCE).await
    }
}

async fn serve(endpoint: Endpoint, server: RaftServer) {
    let mut connections = JoinSet::new();
    while let Some(connection) = endpoint.accept().await {
        let server = server.clone();
        connections.spawn(async move { server.serve(connection).await });
    }
}

#[tokio::test]
async fn a_call_is_answered_and_the_handler_knows_who_called() {
    let pair = Pair::new();
    for call in [RaftCall::AppendEntries, RaftCall::Vote, RaftCall::PreVote, RaftCall::TransferLeader] {
        assert_eq!(pair.call(call, "hello").await.expect("answer"), "2:hello");
    }
}

#[tokio::test]
async fn many_calls_at_once_get_their_own_answers() {
    let pair = Arc::new(Pair::new());
    let mut calls = JoinSet::new();
    for n in 0..1_000u32 {
        let pair = Arc::clone(&pair);
        calls.spawn(async move {
            let body = vec![n as u8; (n as usize % 40) * 100];
            let answer = pair.call(RaftCall::AppendEntries, body.clone()).await.expect("answer");
            assert_eq!(answer[2..], body[..]);
        });
    }
    while let Some(call) = calls.join_next().await {
        call.expect("call");
    }
}

#[tokio::test]
async fn a_refusal_of_the_handler_reaches_the_caller_as_it_is() {
    let pair = Pair::new();
    let error = pair.call(RaftCall::InstallSnapshot, "").await.expect_err("refused");
    assert!(matches!(&error, TransportError::Broken { reason, .. } if reason == "not like this"), "{error}");
}

#[tokio::test]
async fn a_call_too_long_for_a_frame_fails_alone() {
    let pair = Pair::new();
    let body = vec![0; cluster_proto::limits::FRAME_LEN_MAX + 1];
    let error = pair.call(RaftCall::AppendEntries, body).await.expect_err("refused");
    assert!(error.to_string().contains("the most is"), "{error}");
    assert!(pair.call(RaftCall::AppendEntries, "short").await.is_ok());
}

#[tokio::test]
async fn a_call_to_a_dead_node_fails_in_its_time_and_says_which() {
    let authority = Authority::new();
    let transport = QuicTransport::new(authority.endpoint(2, Roles::CONTROL));
    // Bound, so that nobody else takes the port, and silent.
    let dead = std::net::UdpSocket::bind("127.0.0.1:0").expect("bind");
    let link = dead.local_addr().expect("address").to_string();
    let addresses = NodeAddresses { link: link.clone(), ..NodeAddresses::default() };
    let timeout = Duration::from_millis(50);
    let called = transport.call(NodeId(7), &addresses, RaftCall::Vote, Bytes::new(), timeout).await;
    let error = called.expect_err("unreachable").to_string();
    assert!(error.contains("node 7") && error.contains(&link), "{error}");
}

#[tokio::test]
async fn another_node_at_the_targets_address_is_not_called() {
    let pair = Pair::new();
    let called =
        pair.transport.call(NodeId(3), &pair.addresses, RaftCall::Vote, Bytes::new(), PATIENCE).await;
    let error = called.expect_err("unreachable").to_string();
    assert!(error.contains("node 3") && error.contains("answered as node 1"), "{error}");
}

#[tokio::test]
async fn a_node_that_comes_back_is_called_again() {
    let mut pair = Pair::new();
    assert!(pair.call(RaftCall::Vote, "").await.is_ok());
    pair.server.close().await;
    pair.server = pair.authority.endpoint(1, Roles::CONTROL);
    pair.addresses.link = address(&pair.server);
    pair._serving.spawn(serve(pair.server.clone(), RaftServer::new(pair.echo.clone())));
    assert_eq!(pair.call(RaftCall::Vote, "again").await.expect("answer"), "2:again");
}

#[tokio::test]
async fn calls_go_on_while_a_snapshot_nobody_reads_fills_its_stream() {
    const SNAPSHOT_LEN: usize = 8 * 1024 * 1024;
    let pair = Pair::new();
    let mut stream = pair.transport.open_snapshot(NodeId(1), &pair.addresses).await.expect("open");
    let sending = tokio::spawn(async move {
        let chunk = vec![7; 64 * 1024];
        for _ in 0..SNAPSHOT_LEN / chunk.len() {
            stream.writer.write_all(&chunk).await.expect("write");
        }
        stream.writer.shutdown().await.expect("finish");
        let mut answer = String::new();
        stream.reader.read_to_string(&mut answer).await.expect("answer");
        answer
    });
    for call in [RaftCall::Vote, RaftCall::AppendEntries] {
        for _ in 0..50 {
            pair.call(call, vec![1; 1_000]).await.expect("answer");
        }
    }
    assert!(!sending.is_finished());
    pair.echo.snapshot_reads.add_permits(Semaphore::MAX_PERMITS / 2);
    assert_eq!(sending.await.expect("sending"), "received");
    assert_eq!(pair.echo.snapshot_len.load(Ordering::SeqCst), SNAPSHOT_LEN);
}

#[tokio::test]
async fn a_snapshot_given_up_before_it_began_ends_nothing_else() {
    let pair = Pair::new();
    for _ in 0..20 {
        drop(pair.transport.open_snapshot(NodeId(1), &pair.addresses).await.expect("open"));
    }
    assert!(pair.call(RaftCall::Vote, "").await.is_ok());
    let link = pair.transport.open_snapshot(NodeId(1), &pair.addresses).await;
    assert!(link.is_ok(), "{link:?}");
}

#[tokio::test]
async fn half_a_snapshot_does_not_look_whole() {
    let authority = Authority::new();
    let server = authority.endpoint(1, Roles::CONTROL);
    let transport = QuicTransport::new(authority.endpoint(2, Roles::CONTROL));
    let (seen, mut outcome) = tokio::sync::mpsc::channel(1);
    let raft = RaftServer::new(Arc::new(Reader(seen)));
    let _serving = tokio::spawn(serve(server.clone(), raft));
    let addresses = NodeAddresses { link: address(&server), ..NodeAddresses::default() };
    let mut stream = transport.open_snapshot(NodeId(1), &addresses).await.expect("open");
    stream.writer.write_all(b"half").await.expect("write");
    let begun = outcome.recv().await.expect("the handler");
    assert_eq!(begun.expect("read"), 4);
    drop(stream);
    let read = outcome.recv().await.expect("the handler");
    assert!(read.is_err(), "{read:?}");
}

/// Reports what reading the first four bytes of a snapshot, then the rest, ended with.
struct Reader(tokio::sync::mpsc::Sender<std::io::Result<usize>>);

impl RaftHandler for Reader {
    fn call(&self, _: NodeId, _: RaftCall, _: Bytes) -> BoxFuture<'_, Result<Bytes, String>> {
        Box::pin(async { Err("none expected".to_owned()) })
    }

    fn snapshot(&self, mut stream: SnapshotStream) -> BoxFuture<'_, Result<(), String>> {
        Box::pin(async move {
            let begun = stream.reader.read_exact(&mut [0; 4]).await;
            self.0.send(begun).await.map_err(|e| e.to_string())?;
            let read = stream.reader.read_to_end(&mut Vec::new()).await;
            self.0.send(read).await.map_err(|e| e.to_string())
        })
    }

    fn members(&self) -> Vec<NodeId> {
        Vec::new()
    }
}
