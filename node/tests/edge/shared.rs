//! Shared subscriptions: what a member gets for its group.

use cluster_proto::{
    AppId, NodeId, Outcome, PushId, Qos, TerminalNo,
    link::{SharedInFlight, Transient},
};

use super::{Fixture, support::leader::message};
use cluster_proto::Message;

const GROUP: TerminalNo = TerminalNo(1_000);

fn held(push: u64, member: TerminalNo) -> SharedInFlight {
    SharedInFlight { push: PushId(push), group: GROUP, member }
}

impl Fixture {
    async fn answered(&self, push: u64, outcome: Outcome) {
        let expected = (PushId(push), outcome, GROUP);
        self.leader.until("the receipt", |log| log.receipts.contains(&expected)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_gets_its_groups_push_and_the_receipt_names_the_group() {
    let fixture = Fixture::new().await;
    let mut member = fixture.join_live("member").await;
    assert_eq!(member.subscribe("$share/g/news", 1).await, 1);
    fixture.leader.share(held(500, fixture.leader.no("member")), message("news", "x"));
    let received = member.next_publish().await;
    assert_eq!((received.payload.as_str(), received.qos), ("x", 1));
    member.ack(received.packet_id).await;
    fixture.answered(500, Outcome::Delivered).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_is_not_here_or_not_live_is_answered_for_at_once() {
    let fixture = Fixture::new().await;
    fixture.leader.share(held(500, TerminalNo(77)), message("news", "x"));
    fixture.answered(500, Outcome::NotWritten).await;

    let member = fixture.join_live("member").await;
    drop(member);
    fixture.leader.until("the unbind", |log| log.unbinds.len() == 1).await;
    fixture.leader.share(held(501, fixture.leader.no("member")), message("news", "x"));
    fixture.answered(501, Outcome::NotWritten).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_member_holds_is_told_again_to_a_new_leader_and_can_be_taken_back() {
    let fixture = Fixture::new().await;
    let mut member = fixture.join_live("member").await;
    member.subscribe("$share/g/news", 1).await;
    let no = fixture.leader.no("member");
    fixture.leader.share(held(500, no), message("news", "x"));
    let received = member.next_publish().await;
    fixture.leader.drop_link();
    fixture.leader.until("the resume", |log| log.shared_in_flight == [held(500, no)]).await;
    fixture.leader.withdraw_shared(held(500, no));
    fixture.leader.withdraw_shared(held(501, no));
    fixture.answered(501, Outcome::NotWritten).await;
    member.ack(received.packet_id).await;
    fixture.answered(500, Outcome::Delivered).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_qos_0_message_for_members_reaches_them_alone() {
    let fixture = Fixture::new().await;
    let (mut member, mut other) = (fixture.join("member").await, fixture.join("other").await);
    for client in [&mut member, &mut other] {
        client.subscribe("$share/g/news", 0).await;
    }
    let mut plain = fixture.join("plain").await;
    plain.subscribe("news", 0).await;
    let to = |payload: &str, members: Option<Vec<TerminalNo>>| {
        let message = Message { qos: Qos::AtMostOnce, ..message("news", payload) };
        let body = postcard::to_allocvec(&message).expect("encode").into();
        let (origin, app, topic) = (NodeId(3), AppId::DEFAULT, "news".to_owned());
        Transient { origin, app, topic, ttl_ms: Some(60_000), members, body }
    };
    let no = fixture.leader.no("member");
    fixture.leader.transient(to("for one", Some(vec![no, TerminalNo(77)])));
    fixture.leader.transient(to("for all", None));
    assert_eq!(member.take().await, "for one");
    assert_eq!(plain.take().await, "for all");
    other.ping().await;
    member.ping().await;
}
