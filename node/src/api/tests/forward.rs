//! Calls through a node that does not lead.

use std::time::Duration;

use cluster_proto::admin::{
    self, cluster_client::ClusterClient, pushes_client::PushesClient, terminals_client::TerminalsClient,
};
use tokio::time::timeout;
use tonic::{Code, Request};

use super::{Fake, Node, admin as with_admin};
use crate::api::{Remote, Target, backend::ProposeError};

/// Nothing here may take longer.
const LIMIT: Duration = Duration::from_secs(20);

fn push() -> admin::PushRequest {
    admin::PushRequest {
        audience: Some(admin::Audience { of: Some(admin::audience::Of::All(admin::Everyone {})) }),
        topic: "news".to_owned(),
        qos: 1,
        ..Default::default()
    }
}

fn status() -> admin::StatusRequest {
    admin::StatusRequest { push: 1, app: String::new() }
}

#[tokio::test]
async fn a_follower_passes_calls_on_streams_included() {
    let leader = Node::leading(Fake::founded());
    let follower = Node::behind(&leader);
    let fake = &leader.fake;
    let mut terminals = TerminalsClient::new(follower.channel().await);
    let ids: Vec<_> = (0..3_000).map(|n| format!("tv-{n}")).collect();
    let request = admin::IssueCredentialsRequest { ids, ..Default::default() };
    let mut stream =
        terminals.issue_credentials(with_admin(fake, request)).await.expect("issue").into_inner();
    let mut issued = 0;
    while let Some(page) = stream.message().await.expect("page") {
        issued += page.credentials.len();
    }
    assert_eq!(issued, 3_000);
    let mut pushes = PushesClient::new(follower.channel().await);
    assert_eq!(pushes.push(with_admin(fake, push())).await.expect("push").into_inner().audience, 3_000);
    // What the leader refuses arrives as it said it.
    let unknown = admin::StatusRequest { push: 9, app: String::new() };
    let refused = pushes.status(with_admin(fake, unknown)).await.expect_err("refused");
    assert_eq!(refused.code(), Code::NotFound);
    assert!(refused.message().contains("push 9"), "{}", refused.message());
}

#[tokio::test]
async fn a_follower_passes_a_stream_on_as_it_comes() {
    let leader = Node::leading(Fake::founded());
    let follower = Node::behind(&leader);
    let mut terminals = TerminalsClient::new(follower.channel().await);
    let message = |n: u32| admin::RegisterRequest {
        app: String::new(),
        terminals: (0..1_000)
            .map(|m| admin::NewTerminal { id: format!("t-{n}-{m}"), ..Default::default() })
            .collect(),
    };
    let messages = futures_util::stream::iter((0..40).map(message).collect::<Vec<_>>());
    let request = with_admin(&leader.fake, ()).map(|()| messages);
    let answer = terminals.register_stream(request).await.expect("register").into_inner();
    assert_eq!((answer.registered, answer.stopped), (40_000, None));
    let stranger = Request::new(futures_util::stream::iter(vec![message(1)]));
    assert_eq!(terminals.register_stream(stranger).await.expect_err("refused").code(), Code::Unauthenticated);
}

#[tokio::test]
async fn strangers_are_not_passed_on() {
    let leader = Node::leading(Fake::founded());
    let follower = Node::behind(&leader);
    let mut pushes = PushesClient::new(follower.channel().await);
    assert_eq!(pushes.push(Request::new(push())).await.expect_err("refused").code(), Code::Unauthenticated);
    assert_eq!(leader.fake.pushes(), 0);
}

#[tokio::test]
async fn a_leader_that_dies_with_a_write_leaves_its_outcome_unknown() {
    let leader = Node::leading(Fake::founded());
    let follower = Node::behind(&leader);
    leader.fake.hold_proposals().await;
    let mut pushes = PushesClient::new(follower.channel().await);
    let request = with_admin(&leader.fake, push());
    let call = tokio::spawn(async move { pushes.push(request).await });
    leader.fake.waiting.acquire().await.expect("open").forget();
    leader.kill();
    let status = timeout(LIMIT, call).await.expect("in time").expect("joined").expect_err("lost");
    assert_eq!(status.code(), Code::Unknown);
    assert!(status.message().contains("same idempotency key"), "{}", status.message());
}

#[tokio::test]
async fn a_write_held_by_a_replaced_leader_is_unknown_too() {
    let leader = Node::leading(Fake::founded());
    let next = Node::leading(leader.fake.other());
    let follower = Node::behind(&leader);
    leader.fake.hold_proposals().await;
    let mut pushes = PushesClient::new(follower.channel().await);
    let request = with_admin(&leader.fake, push());
    let call = tokio::spawn(async move { pushes.push(request).await });
    leader.fake.waiting.acquire().await.expect("open").forget();
    // The old leader is stopped: it neither answers nor closes.
    follower.target.send_replace(next.remote());
    let status = timeout(LIMIT, call).await.expect("in time").expect("joined").expect_err("lost");
    assert_eq!(status.code(), Code::Unknown);
}

#[tokio::test]
async fn a_read_goes_on_at_the_next_leader() {
    let leader = Node::leading(Fake::founded());
    let follower = Node::behind(&leader);
    let mut pushes = PushesClient::new(follower.channel().await);
    pushes.push(with_admin(&leader.fake, push())).await.expect("push");
    let next = Node::leading(leader.fake.other());
    let fake = leader.kill();
    let request = with_admin(&fake, status());
    let call = tokio::spawn(async move { pushes.status(request).await });
    follower.target.send_replace(next.remote());
    let answer = timeout(LIMIT, call).await.expect("in time").expect("joined");
    assert_eq!(answer.expect("answered").into_inner().push, 1);
}

#[tokio::test]
async fn a_write_that_never_left_goes_to_the_next_leader_and_is_done_once() {
    let leader = Node::leading(Fake::founded());
    let next = Node::leading(leader.fake.other());
    let follower = Node::behind(&leader);
    let fake = leader.kill();
    let mut pushes = PushesClient::new(follower.channel().await);
    let request = with_admin(&fake, push());
    let call = tokio::spawn(async move { pushes.push(request).await });
    follower.target.send_replace(next.remote());
    timeout(LIMIT, call).await.expect("in time").expect("joined").expect("accepted");
    assert_eq!(fake.pushes(), 1);
}

#[tokio::test]
async fn a_leader_that_says_it_is_none_is_asked_again() {
    let leader = Node::leading(Fake::founded());
    let follower = Node::behind(&leader);
    leader.fake.fail(Some(ProposeError::NotLeader));
    let mut pushes = PushesClient::new(follower.channel().await);
    let request = with_admin(&leader.fake, push());
    let call = tokio::spawn(async move { pushes.push(request).await });
    leader.fake.waiting.acquire_many(2).await.expect("open").forget();
    leader.fake.fail(None);
    timeout(LIMIT, call).await.expect("in time").expect("joined").expect("accepted");
    assert_eq!(leader.fake.pushes(), 1);
}

#[tokio::test]
async fn nodes_that_point_at_each_other_do_not_pass_a_call_round_for_ever() {
    let fake = Fake::founded();
    let one = Node::start(fake.clone(), Target::Nowhere);
    let two = Node::start(fake.clone(), one.remote());
    one.target.send_replace(two.remote());
    let mut pushes = PushesClient::new(one.channel().await);
    let status = timeout(LIMIT, pushes.push(with_admin(&fake, push()))).await.expect("in time");
    assert_eq!(status.expect_err("refused").code(), Code::Unavailable);
    assert_eq!(fake.pushes(), 0);
}

#[tokio::test]
async fn a_node_without_a_leader_still_shows_what_it_knows() {
    let fake = Fake::founded();
    let node = Node::start(fake.clone(), Target::Nowhere);
    let mut cluster = ClusterClient::new(node.channel().await);
    let answer = timeout(LIMIT, cluster.status(with_admin(&fake, admin::ClusterStatusRequest {}))).await;
    assert!(!answer.expect("at once").expect("answered").into_inner().nodes.is_empty());
}

#[tokio::test]
async fn a_node_without_the_control_role_finds_a_control_node_that_lives() {
    let leader = Node::leading(Fake::founded());
    let gone = Remote { api: "127.0.0.1:1".to_owned() };
    let Target::Leader(alive) = leader.remote() else { panic!("remote") };
    let edge = Node::start(leader.fake.other(), Target::Any(vec![gone, alive]));
    let mut pushes = PushesClient::new(edge.channel().await);
    timeout(LIMIT, pushes.push(with_admin(&leader.fake, push()))).await.expect("in time").expect("accepted");
    assert_eq!(leader.fake.pushes(), 1);
}
