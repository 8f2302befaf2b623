//! Pushes by the stream, against real processes, at a node that passes them on.

use std::{env, fs, time::Duration};

use chaos_tests::cluster::{Cluster, Node};
use cluster_proto::admin::{
    Audience, Everyone, PushRequest, PushResult, StatusRequest, audience::Of, pushes_client::PushesClient,
};
use tokio::time::timeout;
use tonic::{
    Code, Request,
    codegen::tokio_stream,
    transport::{Certificate, ClientTlsConfig, Endpoint},
};

const LIMIT: Duration = Duration::from_secs(30);

fn request(n: usize) -> PushRequest {
    PushRequest {
        audience: Some(Audience { of: Some(Of::All(Everyone {})) }),
        // Every tenth is wrong.
        topic: if n % 10 == 9 { "a/#" } else { "a" }.to_owned(),
        payload: vec![b'x'; 200],
        qos: 1,
        idempotency_key: format!("stream-{n}"),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_push_of_a_stream_is_answered_by_its_place_through_any_node_and_keys_make_it_one() {
    let dir = env::temp_dir().join(format!("carillon-stream-{}", std::process::id()));
    let cluster = Cluster::start(&dir, 1, 1).await.unwrap();
    let tls =
        ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&cluster.ca)).domain_name("carillon");
    let uri = format!("https://{}", Node::address(cluster.nodes[1].ports.api));
    let channel = Endpoint::from_shared(uri).unwrap().tls_config(tls).unwrap().connect_lazy();
    let authorised = |channel| {
        let token = format!("Bearer {}", cluster.admin_token);
        PushesClient::with_interceptor(channel, move |mut request: Request<()>| {
            request.metadata_mut().insert("authorization", token.parse().unwrap());
            Ok(request)
        })
    };
    let mut client = authorised(channel);
    let mut first: Vec<u64> = Vec::new();
    for repeated in [false, true] {
        let requests = tokio_stream::iter((0..500).map(request));
        let mut answers = client.push_stream(requests).await.unwrap().into_inner();
        let mut results: Vec<PushResult> = Vec::new();
        while let Some(result) = timeout(LIMIT, answers.message()).await.expect("in time").unwrap() {
            results.push(result);
        }
        results.sort_by_key(|result| result.index);
        assert!((0..500).eq(results.iter().map(|result| result.index)));
        for result in &results {
            let expected = if result.index % 10 == 9 { Code::InvalidArgument } else { Code::Ok };
            assert_eq!(Code::from(result.code as i32), expected, "{result:?}");
            assert!(result.response.is_none_or(|response| response.repeated == repeated));
        }
        let ids: Vec<u64> = results.iter().filter_map(|r| r.response).map(|r| r.push).collect();
        assert!(ids.len() == 450 && ids.is_sorted(), "accepted in their order");
        if repeated {
            assert_eq!(ids, first);
        }
        first = ids;
    }
    let status = client.status(StatusRequest { push: first[449], app: String::new() }).await.unwrap();
    assert_eq!(status.into_inner().topic, "a");
    cluster.stop().await.unwrap();
    fs::remove_dir_all(dir).unwrap();
}
