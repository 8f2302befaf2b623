//! Ports for listeners: below the range Linux hands out for outgoing connections, so that a restarted node finds
//! its own still free.

use std::{
    net::{Ipv4Addr, TcpListener, UdpSocket},
    ops::Range,
    sync::atomic::{AtomicU16, Ordering},
};

use anyhow::{Context, Result};

const RANGE: Range<u16> = 23_000..32_000;

static NEXT: AtomicU16 = AtomicU16::new(0);

/// The ports of one node.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// MQTT.
    pub mqtt: u16,
    /// MQTT over WebSocket.
    pub ws: u16,
    /// gRPC.
    pub api: u16,
    /// Health and metrics.
    pub http: u16,
    /// QUIC.
    pub link: u16,
}

impl Ports {
    /// Free ones; other processes search from elsewhere (by process id), this one never gives the same twice.
    pub fn allocate() -> Result<Self> {
        let mut free = std::iter::repeat_with(next).take(RANGE.len()).filter(|port| is_free(*port));
        let mut port = || free.next().context("no free ports between 23000 and 32000");
        Ok(Self { mqtt: port()?, ws: port()?, api: port()?, http: port()?, link: port()? })
    }
}

fn next() -> u16 {
    let span = RANGE.end - RANGE.start;
    let start = (std::process::id().wrapping_mul(97) % u32::from(span)) as u16;
    let step = NEXT.fetch_add(1, Ordering::Relaxed) % span;
    RANGE.start + (start + step) % span
}

fn is_free(port: u16) -> bool {
    let address = (Ipv4Addr::LOCALHOST, port);
    TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_given_twice() {
        let (a, b) = (Ports::allocate().unwrap(), Ports::allocate().unwrap());
        let mut all = vec![a.mqtt, a.ws, a.api, a.http, a.link, b.mqtt, b.ws, b.api, b.http, b.link];
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 10);
        assert!(all.iter().all(|port| RANGE.contains(port)));
    }
}
