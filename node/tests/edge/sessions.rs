//! What goes with a session: its will, its credential.

use std::time::Duration;

use cluster_proto::{
    AppId, TerminalId,
    link::{LeaderControl, UnbindReason, WillFate},
};

use super::{
    Fixture, Setting,
    support::mqtt::{Client, Connect, put_properties, put_property},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_will_goes_to_the_leader_and_is_discarded_only_by_a_good_bye() {
    let fixture = Fixture::new().await;
    let connect = Connect { id: "tv", will: Some(("gone", "tv")), ..Connect::default() };
    let (client, code) = Client::connect(fixture.mqtt, &connect).await;
    assert_eq!(code, 0);
    let will = fixture.leader.with(|log| log.binds[0].will.clone()).expect("a will");
    assert_eq!(
        (will.message.topic.as_str(), &will.message.payload[..], will.delay_s),
        ("gone", &b"tv"[..], 0)
    );
    drop(client);
    fixture.leader.until("the unbind", |log| log.unbinds.len() == 1).await;
    let (client, _) = Client::connect(fixture.mqtt, &connect).await;
    client.disconnect().await;
    fixture.leader.until("the unbind", |log| log.unbinds.len() == 2).await;
    let fates: Vec<WillFate> =
        fixture.leader.with(|log| log.unbinds.iter().map(|unbind| unbind.will).collect());
    assert_eq!(fates, [WillFate::Publish, WillFate::Discard]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_later_bind_has_a_larger_number_whatever_shard_its_connection_is_on() {
    let fixture = Fixture::with(Setting { shards: 4, ..Setting::default() }).await;
    for _ in 0..30 {
        fixture.join("tv").await.ping().await;
    }
    let numbers: Vec<u64> = fixture.leader.with(|log| log.binds.iter().map(|bind| bind.connection).collect());
    assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
}

/// Control and session frames have streams of their own, so the end of a binding may come before the binding.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_binding_whose_end_came_first_is_not_kept() {
    let fixture = Fixture::new().await;
    fixture.leader.with(|log| log.ends_at_once = true);
    let connect = Connect { id: "tv", v5: true, ..Connect::default() };
    let (mut client, code) = Client::connect(fixture.mqtt, &connect).await;
    assert_ne!(code, 0, "the leader has given the terminal to somebody else");
    assert_eq!(client.next().await, None);
    // It was to be the session's: the leader is told that this connection has ended.
    fixture.leader.until("the end", |log| !log.unbinds.is_empty()).await;
    let end = fixture.leader.with(|log| log.unbinds.remove(0));
    assert_eq!((end.connection, end.will), (1, WillFate::Discard));
    fixture.leader.with(|log| log.ends_at_once = false);
    let (_client, code) = Client::connect(fixture.mqtt, &connect).await;
    assert_eq!(code, 0);
}

/// What the leader does once a binding is gone must not come before what its end says of will and session.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_binding_that_ended_by_itself_is_given_up_only_when_its_end_is_committed() {
    let fixture = Fixture::new().await;
    let connect = Connect { id: "tv", will: Some(("gone", "tv")), ..Connect::default() };
    let (client, _) = Client::connect(fixture.mqtt, &connect).await;
    let terminal = TerminalId::new("tv").expect("id");
    let epoch = fixture.leader.with(|log| {
        log.hold_unbinds = true;
        log.bound[&terminal]
    });
    client.disconnect().await;
    fixture.leader.until("the end", |log| log.unbinds.len() == 1).await;
    let reason = UnbindReason::TakenOver;
    fixture.leader.control(LeaderControl::Unbind { terminal, app: AppId::DEFAULT, epoch, reason });
    fixture.join("another").await.ping().await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(fixture.leader.with(|log| log.unbound.clone()), []);
    fixture.leader.answer_unbinds();
    fixture.leader.until("the binding to be given up", |log| log.unbound == [(epoch, Vec::new())]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fresh_credential_takes_the_place_of_the_old_without_a_new_connection() {
    let fixture = Fixture::with(Setting { anonymous: false, ..Setting::default() }).await;
    let (old, new) = (fixture.token("tv", 7, 1_000), fixture.token("tv", 7, 2_000));
    let connect = Connect { id: "tv", v5: true, method: Some(("JWT", &old)), ..Connect::default() };
    let (mut client, code) = Client::connect(fixture.mqtt, &connect).await;
    assert_eq!(code, 0);
    client.send(0xF0, &auth(&new)).await;
    let auth = client.next().await.expect("AUTH");
    assert_eq!((auth.first, auth.body[0]), (0xF0, 0x00));

    let terminal = Some(TerminalId::new("tv").expect("id"));
    fixture.leader.control(LeaderControl::Revoke { app: AppId::DEFAULT, terminal, issued_until: 1_500 });
    fixture.leader.drop_link();
    fixture.leader.until("a resume", |log| log.resumes.len() == 2).await;
    let issued_at = fixture.leader.with(|log| log.resumes[1][0].credential_issued_at);
    assert_eq!(issued_at, 2_000);
    client.ping().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_credential_of_another_terminal_ends_the_connection() {
    let fixture = Fixture::with(Setting { anonymous: false, ..Setting::default() }).await;
    let (own, foreign) = (fixture.token("tv", 7, 1_000), fixture.token("radio", 8, 2_000));
    let connect = Connect { id: "tv", v5: true, method: Some(("JWT", &own)), ..Connect::default() };
    let (mut client, _) = Client::connect(fixture.mqtt, &connect).await;
    client.send(0xF0, &auth(&foreign)).await;
    let disconnect = client.next().await.expect("DISCONNECT");
    assert_eq!((disconnect.first, disconnect.body[0]), (0xE0, 0x87));
}

/// AUTH 0x19, Re-authenticate.
fn auth(token: &str) -> Vec<u8> {
    let (mut body, mut properties) = (vec![0x19], Vec::new());
    put_property(&mut properties, 0x15, "JWT");
    put_property(&mut properties, 0x16, token);
    put_properties(&mut body, &properties);
    body
}
