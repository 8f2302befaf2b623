//! Floods and slow starts: turned away early, in bounded time, and nobody else notices.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use carillon::edge::Kind;
use tokio::task::block_in_place;

use super::{
    Fixture, GateLimits, KINDS, Setting,
    wire::{PING, PONG, connect, expect, expect_end, join, open, tcp},
};

/// Short, so that a test waits for it; long enough for a handshake on a busy machine.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_its_rate_a_listener_closes_before_tls() {
    let gate = GateLimits { connect_rate: 1, ..GateLimits::default() };
    let fixture = Fixture::with(Setting { gate, ..Setting::default() }).await;
    block_in_place(|| {
        let address = fixture.address(Kind::Tls);
        let first = tcp(address);
        // Not a byte was sent. One of these may come a second later.
        let mut flood: Vec<_> = (0..20).map(|_| tcp(address)).collect();
        flood
            .iter()
            .for_each(|stream| stream.set_read_timeout(Some(Duration::from_secs(1))).expect("timeout"));
        let is_closed = |stream: &mut TcpStream| matches!(stream.read(&mut [0]), Ok(0));
        let closed = flood.iter_mut().map(is_closed).filter(|closed| *closed).count();
        assert!(closed >= 15, "{closed}");
        drop(first);
        // The other listeners have their own.
        join(&mut open(Kind::Tcp, fixture.address(Kind::Tcp), &fixture.ca()), "elsewhere");
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_open_handshakes_are_bounded_and_end_in_time() {
    let gate = GateLimits { handshakes_max: 2, ..GateLimits::default() };
    let setting = Setting { gate, connect_timeout: Some(CONNECT_TIMEOUT), ..Setting::default() };
    let fixture = Fixture::with(setting).await;
    block_in_place(|| {
        for kind in [Kind::Tls, Kind::Ws] {
            let address = fixture.address(kind);
            let mut silent = [tcp(address), tcp(address)];
            // Their tasks run before this one is accepted or after: one of the three is over the limit.
            let mut third = tcp(address);
            expect_end(&mut third);
            silent.iter_mut().for_each(expect_end);
            join(&mut open(kind, address, &fixture.ca()), "afterwards");
        }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_byte_and_then_nothing_is_closed_in_time_on_every_transport() {
    let setting = Setting { connect_timeout: Some(CONNECT_TIMEOUT), ..Setting::default() };
    let fixture = Fixture::with(setting).await;
    block_in_place(|| {
        let mut witness = open(Kind::Tcp, fixture.address(Kind::Tcp), &fixture.ca());
        join(&mut witness, "witness");
        // Before the handshakes.
        let mut slow: Vec<_> = KINDS.map(|kind| (kind, tcp(fixture.address(kind)))).into_iter().collect();
        for (kind, stream) in &mut slow {
            let first = match kind {
                Kind::Tcp => 0x10,
                Kind::Ws => b'G',
                Kind::Tls | Kind::Wss => 0x16,
            };
            stream.write_all(&[first]).expect("write");
        }
        // After them: the time they took counts.
        let mut opened = KINDS.map(|kind| open(kind, fixture.address(kind), &fixture.ca()));
        for wire in &mut opened {
            wire.write_all(&connect("slow")[..1]).expect("write");
        }
        slow.iter_mut().for_each(|(_, stream)| expect_end(stream));
        opened.iter_mut().for_each(expect_end);
        witness.write_all(PING).expect("write");
        expect(&mut witness, PONG);
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_terminal_that_sends_byte_by_byte_is_served() {
    let fixture = Fixture::new().await;
    block_in_place(|| {
        for kind in KINDS {
            let mut wire = open(kind, fixture.address(kind), &fixture.ca());
            for byte in [&connect("slow")[..], PING].concat() {
                wire.write_all(&[byte]).expect("write");
            }
            expect(&mut wire, super::wire::CONNACK);
            expect(&mut wire, PONG);
        }
    });
}
