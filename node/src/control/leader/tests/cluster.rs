use super::*;

fn peers(sent: &[Sent]) -> Vec<Vec<String>> {
    let peers = |frame: LeaderControl| match frame {
        LeaderControl::Peers(peers) => Some(peers),
        _ => None,
    };
    controls(sent).into_iter().filter_map(peers).collect()
}

fn forwards(sent: &[Sent]) -> Vec<bool> {
    let forward = |frame: LeaderControl| match frame {
        LeaderControl::ForwardTransient(forward) => Some(forward),
        _ => None,
    };
    controls(sent).into_iter().filter_map(forward).collect()
}

#[test]
fn edges_are_told_where_else_their_terminals_may_go() {
    let mut w = World::new();
    let a = w.link_edge(1);
    assert_eq!(peers(&w.take(a)), Vec::<Vec<String>>::new());
    let b = w.link_edge(2);
    assert_eq!(peers(&w.take(a)), [["edge-2:1883".to_owned()]]);
    assert_eq!(peers(&w.take(b)), [["edge-1:1883".to_owned()]]);
    w.event(Event::Control(b, EdgeControl::Draining));
    assert_eq!(peers(&w.take(a)), [Vec::<String>::new()], "nobody else takes terminals");
    assert_eq!(peers(&w.take(b)), Vec::<Vec<String>>::new(), "nothing has changed for it");
}

#[test]
fn heartbeats_are_answered_with_the_counters_of_all_edges() {
    let mut w = World::new();
    let (a, b) = (w.link_edge(1), w.link_edge(2));
    let client = w.connect(a, w.lasting("guest"));
    w.publish(
        a,
        PublishBody::Retain {
            message: Message { retain: true, ..published("news", Qos::AtMostOnce) },
            ttl_ms: None,
        },
    )
    .expect("kept");
    let heartbeat = |nonce, connected| {
        let stats = Stats { connected, bytes_sent: 100, ..Stats::default() };
        EdgeControl::Heartbeat { nonce, stats }
    };
    w.event(Event::Control(a, heartbeat(1, 1)));
    w.event(Event::Control(b, heartbeat(1, 0)));
    w.pass(1_000);
    let now = w.now.mono_ms;
    w.event(Event::Confirmed(now));
    w.take(b);
    w.event(Event::Control(b, heartbeat(2, 0)));
    let expected = Stats { connected: 1, bytes_sent: 200, sessions: 1, retained: 1, ..Stats::default() };
    let acks = controls(&w.take(b));
    assert!(
        matches!(&acks[..], [LeaderControl::HeartbeatAck { nonce: 2, cluster, .. }] if *cluster == expected),
        "{acks:?}"
    );
    w.event(Event::LinkClosed(a));
    w.pass(200);
    w.event(Event::Control(b, heartbeat(3, 0)));
    let acks = controls(&w.take(b));
    assert!(
        matches!(&acks[..], [.., LeaderControl::HeartbeatAck { cluster, .. }] if cluster.connected == 0),
        "{acks:?}"
    );
    drop(client);
}

#[test]
fn qos_0_messages_are_forwarded_while_there_is_a_shared_group() {
    let mut w = World::new();
    let a = w.link_edge(1);
    let mut client = w.connect(a, w.bind("guest"));
    w.take(a);
    w.subscribe(&mut client, "$share/g/news", Qos::AtMostOnce);
    assert_eq!(forwards(&w.take(a)), [true]);
    w.unsubscribe(&client, "$share/g/news");
    w.pass(200);
    assert_eq!(forwards(&w.take(a)), [false]);
}
