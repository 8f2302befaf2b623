//! Many pushes in one call.

use std::time::Duration;

use cluster_proto::{
    admin::{self, pushes_client::PushesClient},
    credential::Scope,
};
use futures_util::stream;
use tokio::time::timeout;
use tonic::Code;

use super::{Fake, Node, admin as with_admin, with};
use crate::{
    api::backend::ProposeError,
    cli::{Failure, run_line},
};

/// Nothing here may take longer.
const LIMIT: Duration = Duration::from_secs(20);

fn push(topic: &str) -> admin::PushRequest {
    admin::PushRequest {
        audience: Some(admin::Audience { of: Some(admin::audience::Of::All(admin::Everyone {})) }),
        topic: topic.to_owned(),
        ..Default::default()
    }
}

fn codes(results: &[admin::PushResult]) -> Vec<Code> {
    results.iter().map(|result| Code::from(result.code as i32)).collect()
}

#[tokio::test]
async fn each_push_of_a_batch_is_answered_in_its_place() {
    let leader = Node::leading(Fake::founded());
    let follower = Node::behind(&leader);
    let mut client = PushesClient::new(follower.channel().await);
    let keyed = |topic: &str| admin::PushRequest { idempotency_key: "k".to_owned(), ..push(topic) };
    let urgent = admin::PushRequest { priority: 7, ..push("c") };
    let of_other = admin::PushRequest { app: "nowhere".to_owned(), ..push("d") };
    let requests =
        vec![push("a"), push("a/#"), keyed("b"), keyed("b"), keyed("other"), urgent, of_other, push("e")];
    let request = with_admin(&leader.fake, admin::PushBatchRequest { requests });
    let results = client.push_batch(request).await.expect("answered").into_inner().results;
    let expected = [
        Code::Ok,
        Code::InvalidArgument,
        Code::Ok,
        Code::Ok,
        Code::AlreadyExists,
        Code::InvalidArgument,
        Code::NotFound,
        Code::Ok,
    ];
    assert_eq!(codes(&results), expected);
    let pushes: Vec<_> = results.iter().filter_map(|result| result.response).map(|r| r.push).collect();
    assert_eq!(pushes, [1, 2, 2, 3], "in their order; a key is answered once more");
    assert!(results.iter().all(|r| r.response.is_some() == r.message.is_empty()));
    assert_eq!(results.iter().map(|r| r.index).collect::<Vec<_>>(), (0..8).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_large_batch_and_a_stream_are_accepted_in_their_order() {
    let node = Node::leading(Fake::founded());
    let mut client = PushesClient::new(node.channel().await);
    let requests = vec![push("a"); 1_000];
    let request = with_admin(&node.fake, admin::PushBatchRequest { requests: requests.clone() });
    let results = client.push_batch(request).await.expect("answered").into_inner().results;
    let pushes = results.iter().filter_map(|result| result.response).map(|r| r.push);
    assert!(pushes.eq(1..=1_000));
    let request = with_admin(&node.fake, stream::iter(requests));
    let mut answers = client.push_stream(request).await.expect("open").into_inner();
    while let Some(result) = answers.message().await.expect("answer") {
        assert_eq!(result.response.map(|r| r.push), Some(1_001 + result.index));
    }
}

#[tokio::test]
async fn a_batch_has_a_bound_and_an_app_of_its_own_for_each() {
    let node = Node::leading(Fake::founded());
    let mut client = PushesClient::new(node.channel().await);
    for requests in [
        Vec::new(),
        vec![push("a"); 1_001],
        vec![admin::PushRequest { payload: vec![0; 1 << 20], ..push("a") }; 5],
    ] {
        let request = with_admin(&node.fake, admin::PushBatchRequest { requests });
        assert_eq!(client.push_batch(request).await.expect_err("refused").code(), Code::InvalidArgument);
    }
    let in_shop = admin::PushRequest { app: "shop".to_owned(), ..push("a") };
    let request = admin::PushBatchRequest { requests: vec![push("a"), in_shop] };
    let request = with(&node.fake, &[Scope::Push], Some("shop"), request);
    let results = client.push_batch(request).await.expect("answered").into_inner().results;
    assert_eq!(codes(&results), [Code::PermissionDenied, Code::Ok]);
    let request = admin::PushBatchRequest { requests: vec![push("a")] };
    let request = with(&node.fake, &[Scope::Terminals], None, request);
    assert_eq!(client.push_batch(request).await.expect_err("refused").code(), Code::PermissionDenied);
}

#[tokio::test]
async fn an_unknown_outcome_is_that_of_its_push_and_of_no_other() {
    let node = Node::leading(Fake::founded());
    let mut client = PushesClient::new(node.channel().await);
    node.fake.fail(Some(ProposeError::Unknown));
    let request = with_admin(&node.fake, admin::PushBatchRequest { requests: vec![push("a/#"), push("a")] });
    let results = client.push_batch(request).await.expect("answered").into_inner().results;
    assert_eq!(codes(&results), [Code::InvalidArgument, Code::Unknown]);
}

#[tokio::test]
async fn a_batch_of_which_nothing_was_done_goes_to_the_next_leader() {
    let leader = Node::leading(Fake::founded());
    let follower = Node::behind(&leader);
    leader.fake.fail(Some(ProposeError::NotLeader));
    let mut client = PushesClient::new(follower.channel().await);
    let requests = vec![push("a"), push("b")];
    let request = with_admin(&leader.fake, admin::PushBatchRequest { requests });
    let call = tokio::spawn(async move { client.push_batch(request).await });
    leader.fake.waiting.acquire_many(4).await.expect("open").forget();
    leader.fake.fail(None);
    let answer = timeout(LIMIT, call).await.expect("in time").expect("joined").expect("answered");
    assert!(!codes(&answer.into_inner().results).contains(&Code::Unknown));
}

#[tokio::test]
async fn a_stream_answers_every_push_and_ends_with_its_caller_on_every_node() {
    let leader = Node::leading(Fake::founded());
    let follower = Node::behind(&leader);
    for node in [&leader, &follower] {
        let before = leader.fake.pushes();
        let mut client = PushesClient::new(node.channel().await);
        let requests: Vec<_> = (0..1_000).map(|n| push(if n % 10 == 3 { "a/#" } else { "a" })).collect();
        let request = with_admin(&leader.fake, stream::iter(requests));
        let mut answers = client.push_stream(request).await.expect("open").into_inner();
        let mut results = Vec::new();
        while let Some(result) = timeout(LIMIT, answers.message()).await.expect("in time").expect("answer") {
            results.push(result);
        }
        results.sort_by_key(|result| result.index);
        assert_eq!(results.len(), 1_000);
        assert!((0..).zip(&results).all(|(index, result)| result.index == index));
        let refused = results.iter().filter(|result| result.index % 10 == 3);
        assert!(refused.clone().all(|r| Code::from(r.code as i32) == Code::InvalidArgument));
        assert_eq!(leader.fake.pushes() - before, 900);
    }
}

#[tokio::test]
async fn a_stream_works_on_so_many_and_no_more() {
    let node = Node::leading(Fake::founded());
    node.fake.hold_proposals().await;
    let mut client = PushesClient::new(node.channel().await);
    let request = with_admin(&node.fake, stream::iter(vec![push("a"); 400]));
    let call = tokio::spawn(async move { client.push_stream(request).await });
    node.fake.waiting.acquire_many(256).await.expect("open").forget();
    assert!(timeout(Duration::from_millis(200), node.fake.waiting.acquire()).await.is_err());
    call.abort();
}

#[tokio::test]
async fn a_stream_whose_leader_dies_leaves_what_is_not_answered_unknown() {
    let leader = Node::leading(Fake::founded());
    let follower = Node::behind(&leader);
    leader.fake.hold_proposals().await;
    let mut client = PushesClient::new(follower.channel().await);
    let request = with_admin(&leader.fake, stream::iter(vec![push("a"); 3]));
    let mut answers = client.push_stream(request).await.expect("open").into_inner();
    leader.fake.waiting.acquire_many(3).await.expect("open").forget();
    leader.kill();
    let status = timeout(LIMIT, answers.message()).await.expect("in time").expect_err("lost");
    assert_eq!(status.code(), Code::Unknown);
}

#[tokio::test]
async fn a_stream_ends_when_its_leader_leads_no_more() {
    let node = Node::leading(Fake::founded());
    node.fake.step_down();
    node.fake.fail(Some(ProposeError::NotLeader));
    let mut client = PushesClient::new(node.channel().await);
    let (requests, taken) = tokio::sync::mpsc::channel(1);
    let taken = stream::unfold(taken, |mut taken| async move { taken.recv().await.map(|r| (r, taken)) });
    requests.send(push("a")).await.expect("open");
    let mut answers = client.push_stream(with_admin(&node.fake, taken)).await.expect("open").into_inner();
    let first = timeout(LIMIT, answers.message()).await.expect("in time").expect("answer").expect("one");
    assert_eq!(codes(&[first]), [Code::Unavailable]);
    let status = timeout(LIMIT, answers.message()).await.expect("in time").expect_err("over");
    assert_eq!(status.code(), Code::Unavailable);
}

#[tokio::test]
async fn the_command_line_pushes_a_file_and_tells_what_was_refused() {
    let node = Node::leading(Fake::founded());
    let (api, token) = (node.address.to_string(), super::token(&node.fake, &[Scope::Admin], None));
    let dir = tempfile::tempdir().expect("dir");
    let file = dir.path().join("pushes");
    let line = |topic: &str| format!("{{\"to\": \"all\", \"topic\": \"{topic}\", \"urgent\": true}}\n");
    let path = file.to_str().expect("utf-8");
    let command = ["carillon", "push", "--batch", path, "--api", &api, "--token", &token, "--json"];
    std::fs::write(&file, line("a").repeat(1_200)).expect("write");
    run_line(&command).await.expect("accepted");
    assert_eq!(node.fake.pushes(), 1_200);
    assert!(node.fake.options().iter().all(|options| options.urgent));
    std::fs::write(&file, [line("a"), line("a/#"), line("b")].concat()).expect("write");
    let Err(Failure::Refused(why)) = run_line(&command).await else { panic!("not refused") };
    assert!(why.contains("2 accepted, 1 refused"), "{why}");
    std::fs::write(&file, [line("a"), "{}".to_owned()].concat()).expect("write");
    let Err(Failure::Usage(why)) = run_line(&command).await else { panic!("not refused") };
    assert!(why.contains("line 2"), "{why}");
    assert_eq!(node.fake.pushes(), 1_203);
}
