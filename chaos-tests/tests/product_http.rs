//! The API over HTTP/JSON: a plain HTTP/1.1 client over TLS, against real processes, at the leader, at a follower and
//! at a node that only serves terminals.
#![allow(clippy::unwrap_used, reason = "test code: a panic is a failed test")]

use std::{env, fs, sync::Arc, time::Duration};

use chaos_tests::cluster::{Cluster, Node};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request, Response,
    body::{Bytes, Incoming},
    client::conn::http1::{SendRequest, handshake},
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        ClientConfig, RootCertStore,
        crypto::ring,
        pki_types::{CertificateDer, ServerName, pem::PemObject as _},
    },
};

const LIMIT: Duration = Duration::from_secs(20);

/// One connection to one node.
struct Http {
    send: SendRequest<Full<Bytes>>,
    token: String,
}

/// An answer: its status, its type, and each of its lines.
#[derive(Debug)]
struct Answer {
    status: u16,
    content_type: String,
    lines: Vec<Value>,
}

impl Http {
    async fn connect(cluster: &Cluster, node: usize) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(&cluster.ca).unwrap()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let stream = TcpStream::connect(Node::address(cluster.nodes[node].ports.api)).await.unwrap();
        let name = ServerName::try_from("carillon").unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
        let (send, connection) = handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        Self { send, token: cluster.admin_token.clone() }
    }

    async fn begin(&mut self, method: Method, path: &str, body: &str) -> Response<Incoming> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "carillon")
            .header("authorization", format!("Bearer {}", self.token))
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body.to_owned())))
            .unwrap();
        self.send.ready().await.unwrap();
        timeout(LIMIT, self.send.send_request(request)).await.expect("in time").expect("an answer")
    }

    async fn ask(&mut self, method: Method, path: &str, body: &str) -> Answer {
        let response = self.begin(method, path, body).await;
        let status = response.status().as_u16();
        let content_type = response.headers()["content-type"].to_str().unwrap().to_owned();
        let body = timeout(LIMIT, response.into_body().collect()).await.expect("in time").unwrap().to_bytes();
        let lines = body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let lines = lines.map(|line| serde_json::from_slice(line).expect("JSON")).collect();
        Answer { status, content_type, lines }
    }

    async fn get(&mut self, path: &str) -> Answer {
        self.ask(Method::GET, path, "").await
    }

    async fn post(&mut self, path: &str, body: Value) -> Answer {
        self.ask(Method::POST, path, &body.to_string()).await
    }
}

impl Answer {
    /// The one object of a call that went well.
    fn ok(self) -> Value {
        assert_eq!((self.status, self.content_type.as_str()), (200, "application/json"), "{:?}", self.lines);
        assert_eq!(self.lines.len(), 1);
        self.lines.into_iter().next().unwrap()
    }

    /// The code and sentence of a call that failed.
    fn error(self, status: u16) -> (String, String) {
        assert_eq!(
            (self.status, self.content_type.as_str()),
            (status, "application/json"),
            "{:?}",
            self.lines
        );
        let error = &self.lines[0]["error"];
        (error["code"].as_str().unwrap().to_owned(), error["message"].as_str().unwrap().to_owned())
    }
}

#[tokio::test]
async fn back_ends_without_grpc_push_and_follow_over_json_at_any_node() {
    let dir = env::temp_dir().join(format!("carillon-product-http-{}", std::process::id()));
    let cluster = Cluster::start(&dir, 3, 1).await.unwrap();
    let ids: Vec<String> = (0..1_500).map(|at| format!("tv-{at}")).collect();
    let terminals: Vec<Value> = ids.iter().map(|id| json!({ "id": id, "tags": { "os": "tv" } })).collect();
    let mut first = Http::connect(&cluster, 0).await;
    let registered = first.post("/v1/terminals", json!({ "terminals": terminals })).await.ok();
    assert_eq!(registered["registered"], "1500", "64-bit numbers are texts");
    for node in 0..cluster.nodes.len() {
        let mut http = Http::connect(&cluster, node).await;
        follow_a_push(&mut http, node, &ids).await;
        mistakes_are_named(&mut http).await;
        let document = http.get("/openapi.json").await.ok();
        assert_eq!(document["openapi"], "3.1.0");
        assert!(document["paths"]["/v1/pushes/{push}:cancel"]["post"].is_object());
        http.token = "nobody".to_owned();
        assert_eq!(http.get("/v1/pushes/1").await.error(401).0, "UNAUTHENTICATED");
        assert_eq!(http.post("/v1/pushes", json!({})).await.error(401).0, "UNAUTHENTICATED");
    }
    a_stream_goes_on_while_its_push_does(&cluster).await;
    cluster.stop().await.unwrap();
    fs::remove_dir_all(dir).unwrap();
}

/// Pushes, asks in every way, recalls.
async fn follow_a_push(http: &mut Http, node: usize, ids: &[String]) {
    let request = json!({
        "audience": { "expression": "tag:os=tv" },
        "topic": "news", "text": "héllo", "qos": 1, "idempotencyKey": format!("at {node}"),
    });
    let accepted = http.post("/v1/pushes", request.clone()).await.ok();
    assert_eq!((&accepted["audience"], &accepted["repeated"]), (&json!("1500"), &json!(false)));
    let push = accepted["push"].as_str().unwrap().to_owned();
    let again = http.post("/v1/pushes", request).await.ok();
    assert_eq!((&again["push"], &again["repeated"]), (&json!(push), &json!(true)));
    let in_bytes = json!({
        "audience": { "expression": "tag:os=tv" },
        "topic": "news", "payload": "aMOpbGxv", "qos": 1, "idempotency_key": format!("at {node}"),
    });
    assert_eq!(
        http.post("/v1/pushes", in_bytes).await.ok()["push"],
        json!(push),
        "text is payload, spelt else"
    );
    let status = http.get(&format!("/v1/pushes/{push}")).await.ok();
    assert_eq!((&status["pending"], &status["delivered"]), (&json!("1500"), &json!("0")), "zeroes are there");
    let listed = http.get(&format!("/v1/pushes/{push}/targets?state=PENDING&app=default")).await;
    assert_eq!((listed.status, listed.content_type.as_str()), (200, "application/x-ndjson"));
    assert!(listed.lines.len() > 1, "more than a page");
    let named = listed.lines.iter().flat_map(|line| line["ids"].as_array().unwrap());
    assert!(named.map(|id| id.as_str().unwrap()).eq(ids.iter().map(String::as_str)));
    let explained = http.get(&format!("/v1/pushes/{push}/terminals/tv-7")).await.ok();
    assert_eq!(explained["explanation"], "NOT_CONNECTED");
    let cancelled = http.post(&format!("/v1/pushes/{push}:cancel"), json!({})).await.ok();
    assert_eq!((&cancelled["cancelled"], &cancelled["pending"]), (&json!("1500"), &json!("0")));
    let watched = http.get(&format!("/v1/pushes/{push}:watch")).await;
    assert_eq!(watched.lines.last().unwrap()["cancelled"], "1500");
    let trial = http.post("/v1/pushes:dryRun", json!({ "audience": { "all": {} }, "sample": 2 })).await.ok();
    assert_eq!((&trial["audience"], trial["sample"].as_array().unwrap().len()), (&json!("1500"), 2));
}

async fn mistakes_are_named(http: &mut Http) {
    let refused = http.ask(Method::POST, "/v1/pushes", r#"{"topic": "#).await.error(400);
    assert!(refused.0 == "INVALID_ARGUMENT" && refused.1.contains("EOF"), "{refused:?}");
    let refused = http.post("/v1/pushes", json!({ "topik": "news" })).await.error(400);
    assert!(refused.1.contains("'topik'"), "{refused:?}");
    let both = json!({ "audience": { "all": {} }, "topic": "news", "text": "a", "payload": "YQ==" });
    let refused = http.post("/v1/pushes", both).await.error(400);
    assert!(refused.1.contains("payload and text"), "{refused:?}");
    let refused =
        http.post("/v1/pushes", json!({ "audience": { "expression": "tag:" }, "topic": "news" })).await;
    assert!(refused.error(400).1.contains("audience"));
    assert_eq!(http.get("/v1/pushes/77777").await.error(404).0, "NOT_FOUND");
    assert_eq!(http.get("/v1/terminals/nobody").await.error(404).0, "NOT_FOUND");
    assert_eq!(http.get("/v1/pushes/x").await.error(400).1, "push is \"x\": uint64 is expected");
    assert_eq!(http.get("/v2").await.error(404).0, "NOT_FOUND");
    assert_eq!(http.ask(Method::DELETE, "/v1/pushes", "").await.error(405).0, "UNIMPLEMENTED");
    let large = format!(r#"{{"text": "{}"}}"#, "x".repeat(2 * 1024 * 1024));
    assert!(http.ask(Method::POST, "/v1/pushes", &large).await.error(400).1.contains("audience"));
}

/// Line by line, as it happens.
async fn a_stream_goes_on_while_its_push_does(cluster: &Cluster) {
    let request =
        json!({ "audience": { "terminals": { "ids": ["tv-0", "tv-1"] } }, "topic": "news", "qos": 1 });
    let mut http = Http::connect(cluster, 1).await;
    let push = http.post("/v1/pushes", request).await.ok()["push"].as_str().unwrap().to_owned();
    let mut watching = Http::connect(cluster, 3).await;
    let mut body = watching.begin(Method::GET, &format!("/v1/pushes/{push}:watch"), "").await.into_body();
    let mut next = async || {
        let frame = timeout(LIMIT, body.frame()).await.expect("in time")?.expect("a line");
        let line = frame.into_data().expect("data");
        Some(serde_json::from_slice::<Value>(&line).expect("JSON"))
    };
    assert_eq!(next().await.expect("now")["pending"], "2");
    http.post(&format!("/v1/pushes/{push}:cancel"), json!({})).await.ok();
    assert_eq!(next().await.expect("when it changes")["cancelled"], "2");
    assert_eq!(next().await, None, "nothing more can happen");
}
