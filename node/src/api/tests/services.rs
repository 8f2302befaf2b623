//! The services, as a caller sees them.

use cluster_proto::{
    NodeId,
    admin::{
        self, Explanation, TargetState, apps_client::AppsClient, cluster_client::ClusterClient,
        pushes_client::PushesClient, terminals_client::TerminalsClient,
    },
    credential::Scope,
    link::NodeAddresses,
};
use tonic::{Code, Request, Status};

use super::{Fake, Node, admin, with};
use crate::{
    api::{backend::ProposeError, found},
    auth::{Keyring, public_key},
};

fn to_all(key: &str) -> admin::PushRequest {
    admin::PushRequest {
        audience: Some(admin::Audience { of: Some(admin::audience::Of::All(admin::Everyone {})) }),
        topic: "news".to_owned(),
        payload: b"hello".to_vec(),
        qos: 1,
        idempotency_key: key.to_owned(),
        ..Default::default()
    }
}

async fn register(node: &Node, ids: &[&str]) {
    let new = |id: &&str| admin::NewTerminal { id: (*id).to_owned(), tags: Default::default(), alias: None };
    let request = admin::RegisterRequest { app: String::new(), terminals: ids.iter().map(new).collect() };
    let mut client = TerminalsClient::new(node.channel().await);
    client.register(admin(&node.fake, request)).await.expect("register");
}

fn written(expression: &str) -> Option<admin::Audience> {
    Some(admin::Audience { of: Some(admin::audience::Of::Expression(expression.to_owned())) })
}

fn trial(expression: &str, sample: u32) -> admin::DryRunRequest {
    admin::DryRunRequest { audience: written(expression), sample, ..Default::default() }
}

fn code<T>(result: Result<T, Status>) -> Code {
    result.err().map_or(Code::Ok, |status| status.code())
}

#[tokio::test]
async fn a_terminal_is_told_apart_by_where_it_stands() {
    let node = Node::leading(Fake::founded());
    register(&node, &["tv-1", "online"]).await;
    let mut client = PushesClient::new(node.channel().await);
    client.push(admin(&node.fake, to_all("k"))).await.expect("push");
    register(&node, &["late"]).await;
    node.fake.deliver(1, 1);
    let mut explain = async |terminal: &str| {
        let request = admin::ExplainRequest { push: 1, app: String::new(), terminal: terminal.to_owned() };
        client.explain(admin(&node.fake, request)).await.map(tonic::Response::into_inner)
    };
    let found = explain("tv-1").await.expect("explain");
    assert_eq!((found.state(), found.explanation()), (TargetState::Delivered, Explanation::Acknowledged));
    let found = explain("online").await.expect("explain");
    assert_eq!((found.state(), found.explanation()), (TargetState::Pending, Explanation::Waiting));
    assert_eq!((found.edge, found.owed_before, found.offline_since_ms), (3, 4, 0));
    let found = explain("late").await.expect("explain");
    assert_eq!((found.state(), found.explanation()), (TargetState::Unspecified, Explanation::NotInAudience));
    assert_eq!(found.offline_since_ms, 77);
    assert_eq!(code(explain("nobody").await), Code::NotFound);
    assert_eq!(code(explain("").await), Code::InvalidArgument);
}

#[tokio::test]
async fn a_push_is_accepted_once_and_its_status_adds_up() {
    let node = Node::leading(Fake::founded());
    register(&node, &["tv-1", "tv-2"]).await;
    let mut client = PushesClient::new(node.channel().await);
    let first = client.push(admin(&node.fake, to_all("k"))).await.expect("push").into_inner();
    assert_eq!((first.push, first.audience, first.repeated), (1, 2, false));
    let again = client.push(admin(&node.fake, to_all("k"))).await.expect("push").into_inner();
    assert_eq!((again.push, again.repeated), (1, true));
    let other = admin::PushRequest { topic: "other".to_owned(), ..to_all("k") };
    assert_eq!(code(client.push(admin(&node.fake, other)).await), Code::AlreadyExists);

    node.fake.deliver(1, 2);
    let status = admin::StatusRequest { push: 1, app: String::new() };
    let status = client.status(admin(&node.fake, status)).await.expect("status").into_inner();
    assert_eq!((status.audience, status.pending, status.delivered), (2, 1, 1));
    let pending =
        admin::ListTargetsRequest { push: 1, app: String::new(), state: TargetState::Pending as i32 };
    let mut pages = client.list_targets(admin(&node.fake, pending)).await.expect("list").into_inner();
    assert_eq!(pages.message().await.expect("page").expect("one").ids, ["tv-1"]);
    assert_eq!(pages.message().await.expect("end"), None);
}

#[tokio::test]
async fn a_watch_tells_every_change_and_ends_when_all_are_settled() {
    let node = Node::leading(Fake::founded());
    register(&node, &["tv-1", "tv-2"]).await;
    let mut client = PushesClient::new(node.channel().await);
    client.push(admin(&node.fake, to_all(""))).await.expect("push");
    let watch = admin::StatusRequest { push: 1, app: String::new() };
    let mut watch = client.watch(admin(&node.fake, watch)).await.expect("watch").into_inner();
    let mut seen = Vec::new();
    while let Some(status) = watch.message().await.expect("status") {
        seen.push((status.pending, status.delivered));
        if let Some(no) = u32::try_from(seen.len()).ok().filter(|no| *no <= 2) {
            node.fake.deliver(1, no);
        }
    }
    assert_eq!(seen, [(2, 0), (1, 1), (0, 2)]);
}

#[tokio::test]
async fn what_a_token_does_not_allow_is_refused() {
    let node = Node::leading(Fake::founded());
    let mut pushes = PushesClient::new(node.channel().await);
    let mut apps = AppsClient::new(node.channel().await);
    let status = || admin::StatusRequest { push: 1, app: String::new() };

    assert_eq!(code(pushes.push(Request::new(to_all(""))).await), Code::Unauthenticated);
    let mut junk = Request::new(to_all(""));
    junk.metadata_mut().insert("authorization", "Bearer a.b.c".parse().expect("ascii"));
    assert_eq!(code(pushes.push(junk).await), Code::Unauthenticated);

    let read = |message| with(&node.fake, &[Scope::Read], None, message);
    assert_eq!(code(pushes.push(read(to_all(""))).await), Code::PermissionDenied);
    // Anybody with a token may read, and here there is nothing to read.
    assert_eq!(code(pushes.status(with(&node.fake, &[Scope::Push], None, status())).await), Code::NotFound);

    let shop = |message| with(&node.fake, &[Scope::Admin], Some("shop"), message);
    assert_eq!(code(pushes.push(shop(to_all(""))).await), Code::PermissionDenied);
    let own = admin::PushRequest { app: "shop".to_owned(), ..to_all("") };
    assert_eq!(code(pushes.push(shop(own)).await), Code::Ok);
    let create =
        with(&node.fake, &[Scope::Admin], Some("shop"), admin::CreateAppRequest { name: "x".to_owned() });
    assert_eq!(code(apps.create(create).await), Code::PermissionDenied);
}

#[tokio::test]
async fn a_push_of_one_app_is_not_there_for_another() {
    let node = Node::leading(Fake::founded());
    let mut client = PushesClient::new(node.channel().await);
    client.push(admin(&node.fake, to_all(""))).await.expect("push");
    let status = admin::StatusRequest { push: 1, app: "shop".to_owned() };
    assert_eq!(code(client.status(admin(&node.fake, status)).await), Code::NotFound);
    let unknown = admin::StatusRequest { push: 1, app: "nobody".to_owned() };
    assert_eq!(code(client.status(admin(&node.fake, unknown)).await), Code::NotFound);
}

#[tokio::test]
async fn credentials_register_whom_they_are_for_and_verify() {
    let node = Node::leading(Fake::founded());
    register(&node, &["tv-1"]).await;
    let ids: Vec<_> = (0..2_500).map(|n| format!("tv-{n}")).collect();
    let request = admin::IssueCredentialsRequest {
        app: String::new(),
        ids: ids.clone(),
        ttl_s: 60,
        publish: None,
        subscribe: None,
    };
    let mut client = TerminalsClient::new(node.channel().await);
    let mut stream = client.issue_credentials(admin(&node.fake, request)).await.expect("issue").into_inner();
    let mut issued = Vec::new();
    while let Some(page) = stream.message().await.expect("page") {
        issued.extend(page.credentials);
    }
    assert_eq!(issued.iter().map(|c| c.terminal.clone()).collect::<Vec<_>>(), ids);
    let ring = Keyring::new(vec![public_key(&node.fake.key())]);
    let last = issued.last().expect("some");
    let claims = ring.verify_terminal(&last.token, last.expires - 1).expect("valid");
    assert_eq!(
        (claims.sub.as_str(), claims.app.as_str(), last.username.as_str()),
        ("tv-2499", "default", "default")
    );
    assert_eq!(last.edges, ["n3:3"]);
    // The one that was registered before keeps its number.
    let first = ring.verify_terminal(&issued[1].token, issued[1].expires - 1).expect("valid");
    assert_eq!(first.no, 1);
}

#[tokio::test]
async fn a_credential_issued_right_after_a_revocation_is_valid() {
    let node = Node::leading(Fake::founded());
    let mut client = TerminalsClient::new(node.channel().await);
    let id = || admin::GetTerminalRequest { app: String::new(), id: "tv-1".to_owned() };
    let until = client.revoke(admin(&node.fake, id())).await.expect("revoke").into_inner().issued_until;
    let request = admin::IssueCredentialsRequest { ids: vec!["tv-1".to_owned()], ..Default::default() };
    let mut stream = client.issue_credentials(admin(&node.fake, request)).await.expect("issue").into_inner();
    let page = stream.message().await.expect("page").expect("one");
    let ring = Keyring::new(vec![public_key(&node.fake.key())]);
    let claims = ring.verify_terminal(&page.credentials[0].token, until).expect("valid");
    assert!(claims.iat > until);
}

#[tokio::test]
async fn requests_that_are_wrong_say_where() {
    let node = Node::leading(Fake::founded());
    let mut pushes = PushesClient::new(node.channel().await);
    let wildcard = admin::PushRequest { topic: "a/#".to_owned(), ..to_all("") };
    let status = pushes.push(admin(&node.fake, wildcard)).await.expect_err("refused");
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().starts_with("topic: "), "{}", status.message());
    let of = Some(admin::audience::Of::Terminals(admin::TerminalList { ids: vec!["ghost".to_owned()] }));
    let ghost = admin::PushRequest { audience: Some(admin::Audience { of }), ..to_all("") };
    let status = pushes.push(admin(&node.fake, ghost)).await.expect_err("refused");
    assert_eq!(status.code(), Code::NotFound);
    assert!(status.message().contains("ghost"), "{}", status.message());
}

#[tokio::test]
async fn a_dry_run_tells_how_many_and_some_of_them_and_pushes_nothing() {
    let node = Node::leading(Fake::founded());
    register(&node, &["tv-1", "tv-2", "tv-3", "tv-4", "online"]).await;
    let mut client = PushesClient::new(node.channel().await);
    let answer = client.dry_run(admin(&node.fake, trial("all", 2))).await.expect("answer").into_inner();
    assert_eq!((answer.audience, answer.sample), (5, vec!["tv-1".to_owned(), "tv-3".to_owned()]));
    let answer = client.dry_run(admin(&node.fake, trial("online", 9))).await.expect("answer").into_inner();
    assert_eq!((answer.audience, answer.sample), (1, vec!["online".to_owned()]));
    let answer = client.dry_run(admin(&node.fake, trial("all", 0))).await.expect("answer").into_inner();
    assert_eq!((answer.audience, answer.sample.len()), (5, 0));
    assert_eq!(node.fake.pushes(), 0);

    let reader = with(&node.fake, &[Scope::Read], None, trial("all", 0));
    assert_eq!(code(client.dry_run(reader).await), Code::Ok);
    let of_another_app = with(&node.fake, &[Scope::Read], Some("shop"), trial("all", 0));
    assert_eq!(code(client.dry_run(of_another_app).await), Code::PermissionDenied);
    for (wrong, expected) in [
        (trial("all or", 0), Code::InvalidArgument),
        (trial("topic", 0), Code::InvalidArgument),
        (trial("all", 1_001), Code::InvalidArgument),
        (trial("terminal:ghost", 0), Code::NotFound),
        (trial("delivered:9", 0), Code::NotFound),
    ] {
        assert_eq!(code(client.dry_run(admin(&node.fake, wrong)).await), expected);
    }
}

#[tokio::test]
async fn an_audience_of_who_is_online_waits_for_a_leader_who_knows() {
    let node = Node::leading(Fake::founded());
    register(&node, &["tv-1", "online"]).await;
    let mut client = PushesClient::new(node.channel().await);
    let push = || admin::PushRequest { audience: written("online"), ..to_all("") };
    let accepted = client.push(admin(&node.fake, push())).await.expect("push").into_inner();
    assert_eq!(accepted.audience, 1);
    node.fake.forget_online();
    assert_eq!(code(client.push(admin(&node.fake, push())).await), Code::Unavailable);
    assert_eq!(node.fake.pushes(), 1, "nothing was done");
    assert_eq!(
        code(client.push(admin(&node.fake, to_all(""))).await),
        Code::Ok,
        "who is online does not matter"
    );
}

#[tokio::test]
async fn a_terminal_s_alias_and_tags_are_replaced_only_where_they_are_given() {
    let node = Node::leading(Fake::founded());
    let mut client = TerminalsClient::new(node.channel().await);
    let get = || admin::GetTerminalRequest { app: String::new(), id: "tv-1".to_owned() };
    for (tags, alias, expected) in [
        (&[("os", "tv"), ("vip", "yes")][..], Some("user-7"), (2, "user-7")),
        (&[], None, (2, "user-7")),
        (&[("os", "phone")], None, (1, "user-7")),
        (&[], Some(""), (1, "")),
    ] {
        let tags = tags.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let new = admin::NewTerminal { id: "tv-1".to_owned(), tags, alias: alias.map(str::to_owned) };
        let request = admin::RegisterRequest { app: String::new(), terminals: vec![new] };
        client.register(admin(&node.fake, request)).await.expect("register");
        let known = client.get(admin(&node.fake, get())).await.expect("get").into_inner();
        assert_eq!((known.tags.len(), known.alias.as_str()), expected);
    }
}

#[tokio::test]
async fn failures_of_the_log_have_their_own_codes() {
    let node = Node::leading(Fake::founded());
    let mut client = PushesClient::new(node.channel().await);
    for (error, expected) in [
        (ProposeError::Unknown, Code::Unknown),
        (ProposeError::Full, Code::ResourceExhausted),
        (ProposeError::DiskFull, Code::ResourceExhausted),
    ] {
        node.fake.fail(Some(error));
        assert_eq!(code(client.push(admin(&node.fake, to_all(""))).await), expected, "{error:?}");
    }
    node.fake.fail(None);
    assert_eq!(code(client.push(admin(&node.fake, to_all(""))).await), Code::Ok);
}

#[tokio::test]
async fn a_cluster_is_founded_once_and_its_token_works() {
    let fake = Fake::new();
    let address =
        |n: u64| NodeAddresses { link: format!("n{n}:1"), api: format!("n{n}:2"), mqtt: String::new() };
    let strangers = vec![(NodeId(8), address(8))];
    assert_eq!(code(found(&fake, strangers, 100).await), Code::InvalidArgument);
    let token = found(&fake, vec![(NodeId(1), address(1))], 100).await.expect("founded");
    let claims = Keyring::new(vec![public_key(&fake.key())]).verify_api(&token, 101).expect("valid");
    assert_eq!(claims.scopes, [Scope::Admin]);
    assert_eq!(code(found(&fake, vec![(NodeId(1), address(1))], 100).await), Code::AlreadyExists);
    // An answer that was lost before the key was installed: founding goes on where it stopped.
    fake.unfound();
    assert!(found(&fake, Vec::new(), 100).await.is_ok());
}

#[tokio::test]
async fn founding_needs_an_operator_and_membership_an_admin() {
    let node = Node::leading(Fake::founded());
    let mut client = ClusterClient::new(node.channel().await);
    assert_eq!(
        code(client.init(admin(&node.fake, admin::InitRequest::default())).await),
        Code::PermissionDenied
    );
    let four = admin::Node { id: 4, link: "n4:1".to_owned(), api: "n4:2".to_owned(), mqtt: String::new() };
    let add = || admin::AddNodeRequest { node: Some(four.clone()) };
    assert_eq!(
        code(client.add_node(with(&node.fake, &[Scope::Push], None, add())).await),
        Code::PermissionDenied
    );
    let status = client.add_node(admin(&node.fake, add())).await.expect("added").into_inner();
    let added = status.nodes.iter().find(|node| node.node.as_ref().is_some_and(|node| node.id == 4));
    assert_eq!(added.expect("listed").member, "learner");
    assert_eq!(code(client.promote(admin(&node.fake, admin::NodeRequest { id: 9 })).await), Code::NotFound);
    let to_any = admin::NodeRequest { id: 0 };
    assert_eq!(code(client.transfer_leader(admin(&node.fake, to_any)).await), Code::FailedPrecondition);
    let bad = admin::Node { id: 5, link: "nowhere".to_owned(), ..four.clone() };
    let bad = admin::AddNodeRequest { node: Some(bad) };
    assert_eq!(code(client.add_node(admin(&node.fake, bad)).await), Code::InvalidArgument);
}

#[tokio::test]
async fn issued_tokens_have_the_scopes_asked_for() {
    let node = Node::leading(Fake::founded());
    let mut apps = AppsClient::new(node.channel().await);
    let request = |app: &str| admin::IssueTokenRequest {
        name: "back-end".to_owned(),
        scopes: vec!["push".to_owned()],
        app: app.to_owned(),
        ttl_s: 60,
    };
    let issued = apps.issue_token(admin(&node.fake, request("shop"))).await.expect("issued").into_inner();
    let ring = Keyring::new(vec![public_key(&node.fake.key())]);
    let claims = ring.verify_api(&issued.token, issued.expires - 1).expect("valid");
    assert_eq!((claims.app.as_deref(), claims.scopes), (Some("shop"), vec![Scope::Push]));
    assert_eq!(code(apps.issue_token(admin(&node.fake, request("nobody"))).await), Code::NotFound);
    let pusher = with(&node.fake, &[Scope::Push], None, request("shop"));
    assert_eq!(code(apps.issue_token(pusher).await), Code::PermissionDenied);
    let shop_admin = with(&node.fake, &[Scope::Admin], Some("shop"), request(""));
    assert_eq!(code(apps.issue_token(shop_admin).await), Code::PermissionDenied);
}

#[tokio::test]
async fn the_receipts_of_an_app_are_for_its_callers_and_its_webhook_for_its_admins() {
    let node = Node::leading(Fake::founded());
    let mut pushes = PushesClient::new(node.channel().await);
    let mut apps = AppsClient::new(node.channel().await);
    let receipts =
        || admin::ReceiptsRequest { app: "shop".to_owned(), until_now: true, ..Default::default() };
    let of = |scope, app| with(&node.fake, &[scope], Some(app), receipts());
    assert_eq!(code(pushes.receipts(of(Scope::Read, "default")).await), Code::PermissionDenied);
    let mut told = pushes.receipts(of(Scope::Read, "shop")).await.expect("allowed").into_inner();
    let first = told.message().await.expect("a message").expect("the first");
    assert!(first.deltas.is_empty() && !first.cursor.is_empty() && first.began_at == 0);
    assert_eq!(told.message().await.expect("the end"), None);
    let set = || admin::SetWebhookRequest {
        app: "shop".to_owned(),
        url: "https://example.org/".to_owned(),
        ..Default::default()
    };
    for scope in [Scope::Read, Scope::Push, Scope::Terminals] {
        let refused = apps.set_webhook(with(&node.fake, &[scope], None, set())).await;
        assert_eq!(code(refused), Code::PermissionDenied, "{scope:?}");
        let which = admin::WebhookRequest { app: "shop".to_owned() };
        let refused = apps.get_webhook(with(&node.fake, &[scope], None, which.clone())).await;
        assert_eq!(code(refused), Code::PermissionDenied, "{scope:?}");
        let refused = apps.remove_webhook(with(&node.fake, &[scope], None, which)).await;
        assert_eq!(code(refused), Code::PermissionDenied, "{scope:?}");
    }
    let elsewhere = with(&node.fake, &[Scope::Admin], Some("default"), set());
    assert_eq!(code(apps.set_webhook(elsewhere).await), Code::PermissionDenied);
    let wrong = [
        admin::SetWebhookRequest { url: "http://10.0.0.1/".to_owned(), ..set() },
        admin::SetWebhookRequest { states: vec!["pending".to_owned()], ..set() },
        admin::SetWebhookRequest { secret: "whsec_short".to_owned(), ..set() },
        admin::SetWebhookRequest { cursor: "garbage".to_owned(), ..set() },
    ];
    for (request, named) in wrong.into_iter().zip(["url", "states", "secret", "cursor"]) {
        let refused = apps.set_webhook(admin(&node.fake, request)).await.expect_err("refused");
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().starts_with(named), "{refused}");
    }
}
