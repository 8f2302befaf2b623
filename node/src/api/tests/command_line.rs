//! The command line against servers.

use cluster_proto::credential::Scope;

use super::{Fake, Node, token};
use crate::cli::{Failure, run_line};

fn admin_token(fake: &Fake) -> String {
    token(fake, &[Scope::Admin], None)
}

#[tokio::test]
async fn an_address_that_does_not_answer_is_passed_over() {
    let leader = Node::leading(Fake::founded());
    let (api, token) = (format!("127.0.0.1:1,{}", leader.address), admin_token(&leader.fake));
    let push =
        ["carillon", "push", "--to", "all", "--topic", "news", "--api", &api, "--token", &token, "--json"];
    run_line(&push).await.expect("accepted");
    assert_eq!(leader.fake.pushes(), 1);
    let status = ["carillon", "status", "1", "--watch", "--api", &api, "--token", &token, "--json"];
    run_line(&status).await.expect("status");
}

#[tokio::test]
async fn a_dry_run_pushes_nothing() {
    let leader = Node::leading(Fake::founded());
    let (api, token) = (leader.address.to_string(), admin_token(&leader.fake));
    let shared = ["--api", &api, "--token", &token];
    let register = ["carillon", "terminal", "register", "tv-1", "--tag", "os=tv", "--alias", "user-7"];
    run_line(&[&register[..], &shared].concat()).await.expect("registered");
    let push = ["carillon", "push", "--to", "terminal:tv-1", "--topic", "news"];
    run_line(&[&push[..], &["--dry-run"], &shared].concat()).await.expect("answered");
    assert_eq!(leader.fake.pushes(), 0);
    run_line(&[&push[..], &shared].concat()).await.expect("accepted");
    assert_eq!(leader.fake.pushes(), 1);
}

#[tokio::test]
async fn a_refusal_ends_with_status_1_and_its_reason() {
    let leader = Node::leading(Fake::founded());
    let (api, token) = (leader.address.to_string(), admin_token(&leader.fake));
    let status = ["carillon", "status", "9", "--api", &api, "--token", &token];
    let Err(Failure::Refused(why)) = run_line(&status).await else { panic!("not refused") };
    assert!(why.contains("no push 9") && why.contains("NOT_FOUND"), "{why}");
    let nobody = ["carillon", "status", "9", "--api", "127.0.0.1:1", "--timeout", "0s"];
    let Err(Failure::Refused(why)) = run_line(&nobody).await else { panic!("not refused") };
    assert!(why.contains("127.0.0.1:1"), "{why}");
}

#[tokio::test]
async fn a_push_whose_answer_is_lost_ends_with_status_3_and_its_key() {
    let leader = Node::leading(Fake::founded());
    leader.fake.hold_proposals().await;
    let (api, token) = (leader.address.to_string(), admin_token(&leader.fake));
    let call = tokio::spawn(async move {
        let push = [
            "carillon",
            "push",
            "--to",
            "all",
            "--topic",
            "news",
            "--api",
            &api,
            "--token",
            &token,
            "--timeout",
            "1s",
            "--idempotency-key",
            "order-1",
        ];
        run_line(&push).await
    });
    leader.fake.waiting.acquire().await.expect("open").forget();
    leader.kill();
    let Err(Failure::Unknown(why)) = call.await.expect("joined") else { panic!("not unknown") };
    assert!(why.contains("--idempotency-key order-1"), "{why}");
}

#[tokio::test]
async fn credentials_of_a_file_are_one_line_each_and_their_owners_alone() {
    use std::os::unix::fs::PermissionsExt as _;
    let leader = Node::leading(Fake::founded());
    let (api, token) = (leader.address.to_string(), admin_token(&leader.fake));
    let dir = tempfile::tempdir().expect("dir");
    let (ids, out) = (dir.path().join("ids"), dir.path().join("credentials"));
    std::fs::write(&ids, (0..1_500).map(|n| format!("tv-{n}\n")).collect::<String>()).expect("write");
    let (ids, out) = (ids.to_str().expect("utf-8"), out.to_str().expect("utf-8"));
    let line = [
        "carillon",
        "terminal",
        "credential",
        "--from-file",
        ids,
        "--out",
        out,
        "--api",
        &api,
        "--token",
        &token,
        "--json",
    ];
    run_line(&line).await.expect("issued");
    let text = std::fs::read_to_string(out).expect("read");
    assert_eq!(text.lines().count(), 1_500);
    assert!(text.lines().all(|line| line.split(' ').count() == 3));
    assert!(text.starts_with("tv-0 default eyJ"), "{}", &text[..40]);
    assert_eq!(std::fs::metadata(out).expect("metadata").permissions().mode() & 0o777, 0o600);
}
