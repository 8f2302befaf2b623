//! PROXY headers: who a connection is, where a proxy says so.

use std::{
    io::Write,
    net::{Ipv4Addr, TcpStream},
};

use carillon::edge::Kind;
use tokio::task::block_in_place;

use super::{
    Fixture, GateLimits, KINDS, Setting,
    wire::{TlsClient, Wire, expect_end, join, tcp, websocket},
};

fn text(last: u8) -> Vec<u8> {
    format!("PROXY TCP4 198.51.100.{last} 203.0.113.1 40000 1883\r\n").into_bytes()
}

fn binary(last: u8) -> Vec<u8> {
    let from = Ipv4Addr::new(198, 51, 100, last).octets();
    let head = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c";
    [&head[..], &from, &[203, 0, 113, 1, 0x9C, 0x40, 0x07, 0x5B]].concat()
}

/// A connection that began with this header.
fn proxied(fixture: &Fixture, kind: Kind, header: &[u8]) -> TcpStream {
    let mut stream = tcp(fixture.address(kind));
    stream.write_all(header).expect("write");
    stream
}

fn setting() -> Setting {
    let gate = GateLimits { connections_per_address: 2, ..GateLimits::default() };
    Setting { gate, proxy_protocol: true, ..Setting::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_comes_before_everything_else_on_every_transport() {
    let fixture = Fixture::with(setting()).await;
    block_in_place(|| {
        let ca = fixture.ca();
        let tls = |stream| TlsClient::new(&ca).over(stream).expect("TLS");
        for (kind, header) in KINDS.into_iter().zip([text(1), binary(1), text(2), binary(2)]) {
            let stream = proxied(&fixture, kind, &header);
            let mut wire: Box<dyn Wire> = match kind {
                Kind::Tcp => Box::new(stream),
                Kind::Tls => Box::new(tls(stream)),
                Kind::Ws => Box::new(websocket(stream)),
                Kind::Wss => Box::new(websocket(tls(stream))),
            };
            join(&mut wire, "proxied");
        }
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn limits_are_those_of_the_address_the_proxy_names() {
    let fixture = Fixture::with(setting()).await;
    block_in_place(|| {
        let mut places: Vec<_> =
            [text(1), binary(1)].iter().map(|header| proxied(&fixture, Kind::Tcp, header)).collect();
        for (i, place) in places.iter_mut().enumerate() {
            join(place, &format!("place-{i}"));
        }
        expect_end(&mut proxied(&fixture, Kind::Tcp, &text(1)));
        join(&mut proxied(&fixture, Kind::Tcp, &text(2)), "another");
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_without_a_header_is_closed() {
    let fixture = Fixture::with(setting()).await;
    block_in_place(|| {
        let mut stream = proxied(&fixture, Kind::Tcp, &super::wire::connect("no-header"));
        expect_end(&mut stream);
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_where_none_is_configured_is_no_mqtt() {
    let fixture = Fixture::new().await;
    block_in_place(|| expect_end(&mut proxied(&fixture, Kind::Tcp, &text(1))));
}
