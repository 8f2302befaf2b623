//! QoS 1 and 2: what is committed before what is written, and what a session goes on with.

use cluster_proto::{
    Outcome, PushId, Qos,
    link::{Step, WillFate},
};

use super::{
    Fixture,
    support::{
        leader::{Log, identity},
        mqtt::{Client, Connect},
    },
};

const PERSISTENT: Connect<'static> =
    Connect { id: "tv", v5: false, persistent: true, user: None, password: None, will: None, method: None };

impl Fixture {
    async fn resume(&self) -> Client {
        let (client, code) = Client::connect(self.mqtt, &PERSISTENT).await;
        assert_eq!(code, 0);
        client
    }

    fn push_qos2(&self, payload: &str) -> PushId {
        let no = self.leader.no("tv");
        self.leader.push_message(&[no], identity(payload, Qos::ExactlyOnce), true, false)
    }

    async fn steps(&self, count: usize) -> Vec<Step> {
        self.leader.until("the steps", |log| log.steps.len() == count).await;
        self.leader.with(|log| log.steps.iter().map(|step| step.step).collect())
    }

    /// Drops the client and waits until the leader knows.
    async fn lose(&self, client: Client) {
        let before = self.leader.with(|log| log.unbinds.len());
        drop(client);
        self.leader.until("the unbind", |log| log.unbinds.len() > before).await;
    }
}

fn delivered(log: &Log, push: PushId) -> usize {
    log.receipts.iter().filter(|(p, outcome, _)| *p == push && *outcome == Outcome::Delivered).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_step_is_committed_before_the_packet_that_follows_from_it() {
    let fixture = Fixture::new().await;
    let mut client = fixture.resume().await;
    let (no, hold) = (fixture.leader.no("tv"), |fixture: &Fixture| {
        fixture.leader.with(|log| log.hold_receipts = true);
    });
    hold(&fixture);
    let push = fixture.push_qos2("x");
    assert_eq!(fixture.steps(1).await, [Step::Begin { push, target: no }]);
    client.ping().await;
    fixture.leader.commit_receipts();
    let received = client.next_publish().await;
    assert_eq!((received.payload.as_str(), received.qos, received.dup), ("x", 2, false));

    hold(&fixture);
    client.pubrec(received.packet_id).await;
    assert_eq!(fixture.steps(2).await[1], Step::Receive);
    assert_eq!(
        fixture.leader.with(|log| delivered(log, push)),
        1,
        "the receipt comes with the step or before it"
    );
    client.ping().await;
    fixture.leader.commit_receipts();
    client.expect(0x62, received.packet_id).await;
    client.pubcomp(received.packet_id).await;
    assert_eq!(fixture.steps(3).await[2], Step::Complete);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exchange_goes_on_from_where_it_was_whatever_is_lost() {
    let fixture = Fixture::new().await;
    let mut client = fixture.resume().await;
    let push = fixture.push_qos2("x");
    let first = client.next_publish().await;
    fixture.lose(client).await;

    let mut client = fixture.resume().await;
    let again = client.next_publish().await;
    assert_eq!((again.packet_id, again.dup, again.payload.as_str()), (first.packet_id, true, "x"));
    client.pubrec(again.packet_id).await;
    client.expect(0x62, again.packet_id).await;
    fixture.lose(client).await;

    let mut client = fixture.resume().await;
    client.expect(0x62, first.packet_id).await;
    client.pubcomp(first.packet_id).await;
    fixture.steps(3).await;
    fixture.lose(client).await;

    fixture.resume().await.ping().await;
    assert_eq!(fixture.leader.with(|log| delivered(log, push)), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_that_was_under_way_when_the_link_was_lost_is_recorded_once() {
    let fixture = Fixture::new().await;
    let mut client = fixture.resume().await;
    fixture.leader.with(|log| log.hold_receipts = true);
    fixture.push_qos2("x");
    fixture.steps(1).await;
    fixture.leader.with(|log| log.hold_receipts = false);
    fixture.leader.drop_link();
    let received = client.next_publish().await;
    client.pubrec(received.packet_id).await;
    client.expect(0x62, received.packet_id).await;
    client.pubcomp(received.packet_id).await;
    fixture.steps(3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_ends_with_its_connection_costs_no_step() {
    let fixture = Fixture::new().await;
    let mut client = fixture.join("tv").await;
    let push = fixture.push_qos2("x");
    let received = client.next_publish().await;
    assert_eq!(received.qos, 2);
    client.pubrec(received.packet_id).await;
    client.expect(0x62, received.packet_id).await;
    client.pubcomp(received.packet_id).await;
    fixture.leader.until("the receipt", |log| delivered(log, push) == 1).await;
    client.ping().await;
    assert!(fixture.leader.with(|log| log.steps.is_empty()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_payload_is_fetched_again_for_the_exchange_that_needs_it() {
    let fixture = Fixture::new().await;
    let mut client = fixture.resume().await;
    let no = fixture.leader.no("tv");
    let large = "x".repeat(100_000);
    fixture.leader.push_message(&[no], identity(&large, Qos::ExactlyOnce), false, false);
    let first = client.next_publish().await;
    fixture.lose(client).await;
    // A new life has an empty cache, and the leader keeps the exchange.
    let mut client = fixture.resume().await;
    let again = client.next_publish().await;
    assert_eq!((again.packet_id, again.dup, again.payload == large), (first.packet_id, true, true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_acknowledged_comes_again_with_its_packet_id() {
    let fixture = Fixture::new().await;
    let mut client = fixture.resume().await;
    let no = fixture.leader.no("tv");
    for i in 0..3 {
        fixture.leader.push(&[no], &i.to_string(), true);
    }
    let first: Vec<_> =
        [client.next_publish().await, client.next_publish().await, client.next_publish().await]
            .map(|received| (received.packet_id, received.payload))
            .into();
    client.ack(first[1].0).await;
    client.ping().await;
    fixture.lose(client).await;
    let told = fixture.leader.with(|log| log.unbinds[0].unacknowledged.len());
    assert_eq!(told, 2);

    let mut client = fixture.resume().await;
    for expected in [&first[0], &first[2]] {
        let again = client.next_publish().await;
        assert_eq!(
            (again.packet_id, again.payload.as_str(), again.dup),
            (expected.0, expected.1.as_str(), true)
        );
        client.ack(again.packet_id).await;
    }
    fixture.leader.push(&[no], "new", true);
    let new = client.next_publish().await;
    assert_eq!((new.payload.as_str(), new.dup), ("new", false));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_takeover_on_the_same_edge_hands_over_what_was_not_acknowledged() {
    let fixture = Fixture::new().await;
    let mut first = fixture.resume().await;
    fixture.leader.push(&[fixture.leader.no("tv")], "x", true);
    let received = first.next_publish().await;
    let mut second = fixture.resume().await;
    assert_eq!(first.next().await, None);
    let again = second.next_publish().await;
    assert_eq!((again.packet_id, again.payload.as_str(), again.dup), (received.packet_id, "x", true));
    second.ack(again.packet_id).await;
    fixture.delivered("tv", 1).await;
    second.ping().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_qos_2_publish_is_taken_once_until_its_release_is_committed() {
    let fixture = Fixture::new().await;
    let mut client = fixture.resume().await;
    client.publish("a", "x", 2, 5).await;
    client.expect(0x50, 5).await;
    fixture.lose(client).await;

    let mut client = fixture.resume().await;
    client.publish_with(0x3C, "a", "x", 5).await;
    client.expect(0x50, 5).await;
    fixture.leader.with(|log| log.hold_publishes = true);
    client.pubrel(5).await;
    fixture.leader.until("the release", |log| log.released == [5]).await;
    client.ping().await;
    assert_eq!(fixture.leader.with(|log| log.published.len()), 1);
    let seq = fixture.leader.last_publish();
    fixture.leader.commit_publish(seq);
    client.expect(0x70, 5).await;
    fixture.leader.with(|log| log.hold_publishes = false);
    client.publish("a", "y", 2, 5).await;
    client.expect(0x50, 5).await;
    assert_eq!(fixture.leader.with(|log| log.published.len()), 2, "the packet id is free again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_expiry_the_edge_alone_remembers_an_inbound_exchange() {
    let fixture = Fixture::new().await;
    let mut client = fixture.join("tv").await;
    client.publish("a", "x", 2, 5).await;
    client.expect(0x50, 5).await;
    client.publish_with(0x3C, "a", "x", 5).await;
    client.expect(0x50, 5).await;
    client.pubrel(5).await;
    client.expect(0x70, 5).await;
    fixture.leader.with(|log| {
        assert_eq!((log.published.len(), log.released.len()), (1, 0));
        assert!(log.unbinds.iter().all(|unbind| unbind.will == WillFate::Publish));
    });
}
