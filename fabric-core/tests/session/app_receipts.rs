//! What applications report of pushes, to `$carillon/displayed` and `$carillon/opened`; and how they learn push ids.

use bytes::Bytes;
use cluster_proto::{
    AppReceipt,
    link::{AppReceipts, PushName},
};

use super::support::*;

fn report(qos: Qos, packet_id: u16, payload: &'static str) -> Publish {
    Publish { payload: Bytes::from_static(payload.as_bytes()), ..publish(qos, packet_id, "$carillon/opened") }
}

fn puback(reason: Reason) -> Out {
    Action::Send(Packet::PubAck(Ack { packet_id: 1, reason }))
}

const IGNORED: Out = Action::AppReceipts { request: None, receipts: None };

#[test]
fn a_report_is_acknowledged_when_it_is_committed_and_needs_no_permission() {
    for version in [V311, V5] {
        let mut terminal = Terminal::restricted(
            version,
            Permissions::new(&TerminalId::new("t").unwrap(), Some(&[]), Some(&[])),
        );
        let asked = terminal.publish(report(QOS1, 1, "4\nkey:k"));
        let pushes = vec![PushName::Id(PushId(4)), PushName::Key("k".to_owned())];
        let expected = AppReceipts { app: AppId::DEFAULT, no: NO, what: AppReceipt::Opened, pushes };
        let [Action::AppReceipts { request: Some(request), receipts: Some(receipts) }] = &asked[..] else {
            panic!("{asked:?}")
        };
        assert_eq!(**receipts, expected);
        let out = terminal.published(*request, PublishOutcome::NoSubscribers);
        assert_eq!(out, [puback(Reason::NO_MATCHING_SUBSCRIBERS)], "nobody waits for it");
    }
}

#[test]
fn a_qos_0_report_is_answered_by_nothing_and_qos_2_goes_on_with_pubrel() {
    let mut terminal = Terminal::live(V5);
    let asked = terminal.publish(report(QOS0, 0, "4"));
    assert!(matches!(&asked[..], [Action::AppReceipts { request: None, receipts: Some(_) }]), "{asked:?}");
    let asked = terminal.publish(report(QOS2, 1, "4"));
    let [Action::AppReceipts { request: Some(request), .. }] = &asked[..] else { panic!("{asked:?}") };
    let pubrec = Action::Send(Packet::PubRec(Ack { packet_id: 1, reason: Reason::SUCCESS }));
    assert_eq!(terminal.published(*request, PublishOutcome::Accepted), [pubrec]);
    assert!(matches!(&terminal.pubrel(1)[..], [Action::Release { packet_id: 1, .. }]));
}

#[test]
fn a_report_that_says_nothing_is_ignored_and_only_mqtt_5_is_told() {
    let mut terminal = Terminal::live(V311);
    assert_eq!(terminal.publish(report(QOS1, 1, "4 5")), [IGNORED, puback(Reason::SUCCESS)]);
    let mut terminal = Terminal::live(V5);
    assert_eq!(terminal.publish(report(QOS1, 1, "")), [IGNORED, puback(Reason::IMPLEMENTATION_SPECIFIC)]);
    assert_eq!(terminal.publish(report(QOS0, 0, "x")), [IGNORED]);
    let mut unnumbered = Terminal::live_with(connect(V5), bound_clean());
    let out = unnumbered.publish(report(QOS1, 1, "4"));
    assert_eq!(out, [IGNORED, puback(Reason::NO_MATCHING_SUBSCRIBERS)], "in no audience");
}

#[test]
fn nothing_else_is_published_or_subscribed_to_there() {
    let mut terminal = Terminal::live(V5);
    assert_eq!(terminal.publish(publish(QOS1, 1, "$carillon/x")), [puback(Reason::NOT_AUTHORIZED)]);
    for filter in ["$carillon/#", "$carillon/opened", "$share/g/$carillon/opened"] {
        let out = terminal.send(subscribe(2, &[(filter, QOS1)]));
        let [Action::Send(Packet::SubAck(answer)), ..] = &out[..] else { panic!("{out:?}") };
        assert_eq!(answer.codes, [Reason::NOT_AUTHORIZED], "{filter}");
    }
    let out = Terminal::live(V311).publish(publish(QOS0, 0, "$carillon/opened/x"));
    assert_eq!(closed(&out).cause, CloseCause::Peer(Reason::NOT_AUTHORIZED));
}

#[test]
fn a_terminal_that_asks_is_told_push_ids() {
    let asks = |value: &str| {
        let user_properties = vec![("carillon-push-id".to_owned(), value.to_owned())];
        let properties = ConnectProperties { user_properties, ..ConnectProperties::default() };
        let mut terminal = Terminal::live_with(Connect { properties, ..connect(V5) }, bound());
        let out = terminal.queue(identity(9, QOS1));
        let [Action::Deliver(delivery)] = &out[..] else { panic!("{out:?}") };
        delivery.push
    };
    assert_eq!(asks("1"), Some(PushId(9)));
    assert_eq!(asks("0"), None);
}
