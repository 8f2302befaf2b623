//! A shard driven by hand: no tasks, no hub, and a real socket for each terminal.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use cluster_proto::{
    AppId, Epoch, Message, MessageProperties, NodeId, PushKind, Qos,
    link::{Bound, WillFate},
};
use tokio::time::sleep;

use super::{socket::Link, *};
use crate::edge::{
    Limits,
    gate::Place,
    messages::{BoundPart, ClosedPart, OwedPart, ShardDelivery},
};

/// A 3.1.1 CONNECT of `tv`, with a keep-alive of an hour and a will of QoS 0.
const CONNECT: &[u8] = b"\x10\x16\x00\x04MQTT\x04\x06\x0e\x10\x00\x02tv\x00\x01w\x00\x03off";

const NO: TerminalNo = TerminalNo(1);
const EPOCH: Epoch = Epoch { term: 1, counter: 1 };

fn shard(limits: Limits) -> Shard {
    let shared = EdgeShared::new(NodeId(1), true, Arc::default(), limits, 1);
    Shard::new(0, Arc::new(shared), Vec::new(), Rc::default())
}

/// Long enough for what one end of a local socket does to be seen by the other.
async fn settle() {
    sleep(Duration::from_millis(50)).await;
}

/// A client and the socket it is served by.
async fn open(frame_len_max: Option<u64>) -> (TcpStream, Socket) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let client = TcpStream::connect(listener.local_addr().expect("address")).expect("connect");
    let (tcp, peer) = listener.accept().await.expect("accept");
    (client, Socket::new(Link::plain(tcp), peer, Place::default(), frame_len_max))
}

/// A terminal with number 1 that has its CONNACK, and its place in the shard.
async fn join(shard: &mut Shard) -> (TcpStream, u32, u64) {
    let (mut client, socket) = open(None).await;
    let (slot, id) = shard.insert(socket, clock::now_ms()).expect("room");
    client.write_all(CONNECT).expect("write");
    settle().await;
    shard.read_ready(slot, id);
    let Some(ToHub::Bind(ask)) = shard.to_hub.pop() else { panic!("no CONNECT") };
    let bound = Bound {
        no: Some(NO),
        epoch: EPOCH,
        session_present: false,
        session: None,
        session_expiry_s: 0,
        subscriptions: Vec::new(),
        outbound: Vec::new(),
        inbound: Vec::new(),
    };
    let part = BoundPart { bound, holder: 1, outbound: Vec::new() };
    shard.handle(ToShard::Bound(ask.conn, Ok(Box::new(part))));
    shard.finish();
    assert!(shard.connections[slot as usize].session.is_live());
    (client, slot, id)
}

fn closed(shard: &mut Shard) -> Option<ClosedPart> {
    shard.to_hub.drain(..).find_map(|message| match message {
        ToHub::Closed(part) => Some(*part),
        _ => None,
    })
}

#[tokio::test]
async fn a_disconnect_that_came_before_a_failed_write_discards_the_will() {
    let mut shard = shard(Limits::default());
    let (mut client, slot, id) = join(&mut shard).await;
    client.write_all(b"\xe0\x00").expect("write");
    // It resets the connection: what is written to it fails from now on.
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).expect("linger");
    drop(client);
    settle().await;
    shard.connections[slot as usize].out.tail(&mut shard.pool).extend_from_slice(b"\xd0\x00");
    shard.mark_dirty(slot);
    shard.finish();
    let connection = shard.connection(slot, id).expect("it is read first");
    assert!(connection.write_failed && !connection.wants_write() && connection.out.len() == 0);
    shard.read_ready(slot, id);
    assert_eq!(closed(&mut shard).map(|part| part.will), Some(WillFate::Discard));
    shard.read_ready(slot, id);
    assert!(shard.connection(slot, id).is_none(), "read to its end");
}

#[tokio::test]
async fn however_often_a_connection_was_armed_a_look_at_it_arms_it_once() {
    let mut shard = shard(Limits::default());
    let (_client, slot, id) = join(&mut shard).await;
    let before = shard.wheel.len();
    for _ in 0..10 {
        shard.connections[slot as usize].armed_ms = shard.wheel.arm((slot, id), 0);
    }
    sleep(Duration::from_millis(TICK_MS)).await;
    shard.tick();
    assert_eq!(shard.wheel.len(), before + 1);
}

#[tokio::test]
async fn what_was_queued_without_a_lease_is_handed_out_when_there_is_one() {
    let mut shard = shard(Limits::default());
    let (mut client, slot, _) = join(&mut shard).await;
    let link = LinkNo(1);
    shard.shared.set_lease(u64::MAX);
    shard.handle(ToShard::LinkLive(link));
    shard.finish();
    // No room: it is queued.
    shard.connections[slot as usize].out.tail(&mut shard.pool).resize(OUT_ROOM, 0);
    let message = Message {
        app: AppId::DEFAULT,
        kind: PushKind::Identity,
        topic: "t".to_owned(),
        qos: Qos::AtLeastOnce,
        payload: "late".into(),
        properties: MessageProperties::default(),
        retain: false,
        tells_expiry: false,
        publisher: None,
    };
    let push = OwedPart {
        push: PushId(1),
        expires_at_ms: u64::MAX,
        qos0: false,
        dup: false,
        message: Some(Outgoing::new(message)),
        urgent: false,
    };
    let page = ShardDelivery::Owed { no: NO, epoch: EPOCH, pushes: vec![push], live: true };
    shard.handle(ToShard::Deliver(link, page));
    assert!(shard.connections[slot as usize].session.has_waiting());
    // The link is lost and found, and its lease comes behind it.
    shard.handle(ToShard::LinkLost);
    shard.shared.set_lease(0);
    shard.connections[slot as usize].out.free(&mut shard.pool);
    shard.handle(ToShard::LinkLive(LinkNo(2)));
    shard.finish();
    assert!(shard.connections[slot as usize].session.has_waiting());
    shard.shared.set_lease(u64::MAX);
    shard.handle(ToShard::Leased);
    shard.finish();
    let mut received = vec![0; 4 + 11];
    client.read_exact(&mut received).expect("CONNACK and PUBLISH");
    assert!(received.ends_with(b"late"));
}

#[tokio::test]
async fn pings_without_end_do_not_hold_up_others_and_what_follows_them_is_read() {
    let (mut client, mut socket) = open(Some(1 << 20)).await;
    let ping = [0x89, 0x80, 0, 0, 0, 0];
    client.write_all(&ping.repeat(1_000)).expect("write");
    client.write_all(&[0x82, 0x81, 0, 0, 0, 0, b'!']).expect("write");
    settle().await;
    let (mut buffer, mut turns) = (BytesMut::new(), 0);
    while let Err(error) = socket.try_read(&mut buffer, 64) {
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
        // Its task is woken again.
        std::future::poll_fn(|cx| socket.poll_readable(cx)).await.expect("more");
        turns += 1;
    }
    assert_eq!(&buffer[..], b"!");
    assert!(turns > 10, "{turns}");
}
