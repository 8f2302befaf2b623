//! Application receipts: terminals of both protocol versions report what became of pushes on them, through an edge that
//! keeps no log, and back-ends read it.
#![allow(clippy::unwrap_used, reason = "test code: a panic is a failed test")]

use std::{collections::BTreeMap, env, fs, time::Duration};

use chaos_tests::cluster::{Cluster, Node};
use cluster_proto::admin::{
    Audience, ExplainRequest, IssueCredentialsRequest, ListTargetsRequest, PushRequest, StatusRequest,
    StatusResponse, TargetState, audience::Of, pushes_client::PushesClient,
    terminals_client::TerminalsClient,
};
use rumqttc::v5::{self, mqttbytes::v5::PubAckReason};
use tokio::time::{Instant, sleep, timeout};
use tonic::{
    Code, Request, Status,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

const LIMIT: Duration = Duration::from_secs(20);
const DISPLAYED: &str = "$carillon/displayed";
const OPENED: &str = "$carillon/opened";

/// The back-end.
struct BackEnd {
    channel: Channel,
    token: String,
}

impl BackEnd {
    fn new(cluster: &Cluster) -> Self {
        let tls =
            ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&cluster.ca)).domain_name("carillon");
        let uri = format!("https://{}", Node::address(cluster.nodes[0].ports.api));
        let endpoint = Endpoint::from_shared(uri).unwrap().tls_config(tls).unwrap();
        Self { channel: endpoint.connect_lazy(), token: format!("Bearer {}", cluster.admin_token) }
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", self.token.parse().unwrap());
        request
    }

    fn pushes(&self) -> PushesClient<Channel> {
        PushesClient::new(self.channel.clone())
    }

    async fn credentials(&self, ids: Vec<String>) -> BTreeMap<String, String> {
        let request = IssueCredentialsRequest { ids, ..Default::default() };
        let mut client = TerminalsClient::new(self.channel.clone());
        let mut pages = client.issue_credentials(self.request(request)).await.unwrap().into_inner();
        let mut tokens = BTreeMap::new();
        while let Some(page) = pages.message().await.unwrap() {
            tokens.extend(page.credentials.into_iter().map(|c| (c.terminal, c.token)));
        }
        tokens
    }

    async fn push(&self, to: &str, key: &str) -> u64 {
        let request = PushRequest {
            audience: Some(Audience { of: Some(Of::Expression(to.to_owned())) }),
            topic: "orders".to_owned(),
            payload: key.as_bytes().to_vec(),
            qos: 1,
            idempotency_key: key.to_owned(),
            ..Default::default()
        };
        // A busy machine may be between two leaders.
        loop {
            match self.pushes().push(self.request(request.clone())).await {
                Ok(answer) => return answer.into_inner().push,
                Err(status) => assert!(may_repeat(&status), "{status}"),
            }
        }
    }

    async fn status(&self, push: u64) -> StatusResponse {
        let request = self.request(StatusRequest { push, app: String::new() });
        self.pushes().status(request).await.unwrap().into_inner()
    }

    /// Waits until it is so.
    async fn status_when(&self, push: u64, so: impl Fn(&StatusResponse) -> bool) -> StatusResponse {
        let deadline = Instant::now() + LIMIT;
        loop {
            let status = self.status(push).await;
            if so(&status) {
                return status;
            }
            assert!(Instant::now() < deadline, "{status:?}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn listed(&self, push: u64, state: TargetState) -> Vec<String> {
        let request = ListTargetsRequest { push, app: String::new(), state: state as i32 };
        let mut pages = self.pushes().list_targets(self.request(request)).await.unwrap().into_inner();
        let mut ids = Vec::new();
        while let Some(page) = pages.message().await.unwrap() {
            ids.extend(page.ids);
        }
        ids
    }
}

fn may_repeat(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Unknown)
}

/// A terminal that speaks MQTT 3.1.1.
struct Old(rumqttc::AsyncClient, rumqttc::EventLoop);

impl Old {
    fn connect(id: &str, token: &str, port: u16) -> Self {
        let mut options = rumqttc::MqttOptions::new(id, "127.0.0.1", port);
        options.set_credentials("default", token);
        let (client, events) = rumqttc::AsyncClient::new(options, 64);
        Self(client, events)
    }

    /// The next packet of this kind.
    async fn next<T>(&mut self, wanted: impl Fn(rumqttc::Packet) -> Option<T>) -> T {
        let found = async {
            loop {
                if let rumqttc::Event::Incoming(packet) = self.1.poll().await.expect("connected")
                    && let Some(found) = wanted(packet)
                {
                    return found;
                }
            }
        };
        timeout(LIMIT, found).await.expect("in time")
    }

    async fn message(&mut self) -> Vec<u8> {
        self.next(|packet| match packet {
            rumqttc::Packet::Publish(message) => Some(message.payload.to_vec()),
            _ => None,
        })
        .await
    }

    async fn report(&mut self, topic: &str, qos: rumqttc::QoS, payload: &str) {
        self.0.publish(topic, qos, false, payload).await.unwrap();
        if qos == rumqttc::QoS::AtMostOnce {
            // Written before the PINGREQ or SUBSCRIBE behind it is answered.
            self.0.subscribe("own", rumqttc::QoS::AtMostOnce).await.unwrap();
            return self.next(|packet| matches!(packet, rumqttc::Packet::SubAck(_)).then_some(())).await;
        }
        self.next(|packet| {
            matches!(packet, rumqttc::Packet::PubAck(_) | rumqttc::Packet::PubComp(_)).then_some(())
        })
        .await;
    }
}

/// A terminal that speaks MQTT 5, and asks for push ids.
struct New(v5::AsyncClient, v5::EventLoop);

impl New {
    fn connect(id: &str, token: &str, port: u16) -> Self {
        let mut options = v5::MqttOptions::new(id, "127.0.0.1", port);
        options.set_credentials("default", token);
        let asks = ("carillon-push-id".to_owned(), "1".to_owned());
        let properties = v5::mqttbytes::v5::ConnectProperties {
            user_properties: vec![asks],
            ..v5::mqttbytes::v5::ConnectProperties::new()
        };
        options.set_connect_properties(properties);
        let (client, events) = v5::AsyncClient::new(options, 64);
        Self(client, events)
    }

    async fn next<T>(&mut self, wanted: impl Fn(v5::mqttbytes::v5::Packet) -> Option<T>) -> T {
        let found = async {
            loop {
                if let v5::Event::Incoming(packet) = self.1.poll().await.expect("connected")
                    && let Some(found) = wanted(packet)
                {
                    return found;
                }
            }
        };
        timeout(LIMIT, found).await.expect("in time")
    }

    /// The push id that comes with the next message.
    async fn told(&mut self) -> u64 {
        let properties = self
            .next(|packet| match packet {
                v5::mqttbytes::v5::Packet::Publish(message) => Some(message.properties.unwrap_or_default()),
                _ => None,
            })
            .await;
        let told = properties.user_properties.into_iter().find(|(name, _)| name == "carillon-push");
        told.expect("the push id").1.parse().unwrap()
    }

    async fn report(&mut self, topic: &str, payload: String) -> PubAckReason {
        self.0.publish(topic, v5::mqttbytes::QoS::AtLeastOnce, false, payload).await.unwrap();
        self.next(|packet| match packet {
            v5::mqttbytes::v5::Packet::PubAck(ack) => Some(ack.reason),
            _ => None,
        })
        .await
    }
}

#[tokio::test]
async fn terminals_report_what_became_of_pushes_on_them() {
    let dir = env::temp_dir().join(format!("carillon-product-app-receipts-{}", std::process::id()));
    let cluster = Cluster::start(&dir, 1, 1).await.unwrap();
    let edge = cluster.nodes[1].ports.mqtt;
    let back_end = BackEnd::new(&cluster);
    let ids: Vec<String> = (0..100).map(|n| format!("tv-{n}")).collect();
    let tokens = back_end.credentials(ids).await;
    let mut old = Old::connect("tv-1", &tokens["tv-1"], edge);
    let mut new = New::connect("tv-2", &tokens["tv-2"], edge);

    // A small audience: by key from a terminal that cannot be told the id, by id from one that is.
    let push = back_end.push("terminal:tv-1,tv-2,tv-3", "order-1").await;
    let key = String::from_utf8(old.message().await).unwrap();
    old.report(DISPLAYED, rumqttc::QoS::AtLeastOnce, &format!("key:{key}")).await;
    assert_eq!(new.told().await, push);
    assert_eq!(new.report(OPENED, push.to_string()).await, PubAckReason::Success);
    let status = back_end.status_when(push, |status| status.delivered == 2).await;
    assert_eq!((status.displayed, status.opened, status.pending), (1, 1, 1), "beside the states");
    assert_eq!(back_end.listed(push, TargetState::Displayed).await, ["tv-1"]);
    assert_eq!(back_end.listed(push, TargetState::Opened).await, ["tv-2"]);
    let explain = ExplainRequest { push, terminal: "tv-2".to_owned(), ..Default::default() };
    let explained = back_end.pushes().explain(back_end.request(explain)).await.unwrap().into_inner();
    assert_eq!(
        (explained.displayed, explained.opened, explained.state()),
        (false, true, TargetState::Delivered)
    );
    assert!(explained.words.ends_with("reported it opened"), "{}", explained.words);

    // A broad one, several pushes in a report, again and again, with every QoS.
    let broad = back_end.push("all", "order-2").await;
    assert_eq!(old.message().await, b"order-2");
    assert_eq!(new.told().await, broad);
    for _ in 0..2 {
        old.report(OPENED, rumqttc::QoS::ExactlyOnce, "key:order-1\nkey:order-2").await;
        old.report(DISPLAYED, rumqttc::QoS::AtMostOnce, "key:order-2").await;
    }
    let status = back_end.status_when(broad, |status| status.displayed == 1 && status.opened == 1).await;
    assert_eq!((status.audience, status.delivered), (100, 2));
    assert_eq!(back_end.status(push).await.opened, 2);

    // What means nothing is counted by nobody, and MQTT 5 is told.
    let not_for_it = back_end.push("terminal:tv-1", "order-3").await;
    for (payload, told) in [
        (not_for_it.to_string(), PubAckReason::NoMatchingSubscribers),
        ("key:nobody's".to_owned(), PubAckReason::NoMatchingSubscribers),
        ("not a push".to_owned(), PubAckReason::ImplementationSpecificError),
    ] {
        assert_eq!(new.report(OPENED, payload).await, told);
    }
    assert_eq!(new.report("$carillon/else", "1".to_owned()).await, PubAckReason::NotAuthorized);
    old.report(OPENED, rumqttc::QoS::AtLeastOnce, "not a push").await;
    assert_eq!(back_end.status(not_for_it).await.opened, 0);
    new.0.subscribe("$carillon/#", v5::mqttbytes::QoS::AtLeastOnce).await.unwrap();
    let codes = new.next(|packet| match packet {
        v5::mqttbytes::v5::Packet::SubAck(ack) => Some(ack.return_codes),
        _ => None,
    });
    assert_eq!(codes.await, [v5::mqttbytes::v5::SubscribeReasonCode::NotAuthorized]);
    cluster.stop().await.unwrap();
    fs::remove_dir_all(dir).unwrap();
}
