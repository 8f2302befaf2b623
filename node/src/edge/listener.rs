//! MQTT listeners: one socket per shard on the same address, so that the kernel spreads connections.

use std::{
    io,
    net::{SocketAddr, TcpListener},
    sync::Arc,
};

use socket2::{Domain, Protocol, Socket, Type};

use crate::transport::tls::TlsSlot;

/// Connections the kernel keeps for a shard that is busy: a reconnect storm is tens of thousands within seconds.
const BACKLOG: i32 = 4_096;

/// What carries MQTT on a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// TCP.
    Tcp,
    /// TLS.
    Tls,
    /// WebSocket.
    Ws,
    /// WebSocket over TLS.
    Wss,
}

impl Kind {
    pub(crate) const COUNT: usize = 4;

    /// As in the config and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Tls => "tls",
            Self::Ws => "ws",
            Self::Wss => "wss",
        }
    }

    pub(crate) fn has_tls(self) -> bool {
        matches!(self, Self::Tls | Self::Wss)
    }

    pub(crate) fn is_websocket(self) -> bool {
        matches!(self, Self::Ws | Self::Wss)
    }
}

/// One address where terminals connect.
#[derive(Clone, Debug)]
pub struct Listener {
    /// What is spoken there.
    pub kind: Kind,
    /// Where. Port 0: a free one.
    pub address: SocketAddr,
    /// Every connection begins with a PROXY protocol header.
    pub proxy_protocol: bool,
}

/// Where terminals connect.
#[derive(Clone, Debug, Default)]
pub struct Listeners {
    /// At most one of each kind.
    pub listeners: Vec<Listener>,
    /// Certificates; needed where a kind has TLS.
    pub tls: Option<Arc<TlsSlot>>,
}

/// A listener as one shard has it.
#[derive(Debug)]
pub(crate) struct Bound {
    pub(crate) kind: Kind,
    pub(crate) socket: TcpListener,
    pub(crate) proxy_protocol: bool,
    /// Present where the kind has TLS.
    pub(crate) tls: Option<Arc<TlsSlot>>,
}

/// Why an edge cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The system refuses.
    #[error("listen for MQTT on {address}: {source}{}", hint(.source))]
    Bind {
        /// Where.
        address: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// An edge that nobody could connect to.
    #[error("an edge needs a listener for MQTT")]
    None,
    /// A listener with TLS, and no certificate.
    #[error("MQTT over {} needs a certificate", .0.name())]
    NoCertificate(Kind),
}

/// Listeners that are open.
#[derive(Debug)]
pub(crate) struct Open {
    /// For each shard its sockets.
    pub(crate) by_shard: Vec<Vec<Bound>>,
    /// Where each kind is listened for; at least one.
    pub(crate) addresses: Vec<(Kind, SocketAddr)>,
}

impl Listeners {
    /// Opens all of them.
    pub(crate) fn open(&self, shards: usize) -> Result<Open, ListenError> {
        let mut by_shard: Vec<Vec<Bound>> = (0..shards).map(|_| Vec::new()).collect();
        let mut addresses = Vec::new();
        for Listener { kind, address, proxy_protocol } in self.listeners.iter().cloned() {
            let tls = self.tls.clone().filter(|_| kind.has_tls());
            if kind.has_tls() && tls.is_none() {
                return Err(ListenError::NoCertificate(kind));
            }
            let (sockets, address) = bind_all(address, shards)?;
            addresses.push((kind, address));
            for (bound, socket) in by_shard.iter_mut().zip(sockets) {
                bound.push(Bound { kind, socket, proxy_protocol, tls: tls.clone() });
            }
        }
        if addresses.is_empty() { Err(ListenError::None) } else { Ok(Open { by_shard, addresses }) }
    }
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => " (is another node or broker running there? choose another port)",
        io::ErrorKind::PermissionDenied => " (ports below 1024 need a privilege)",
        _ => "",
    }
}

/// `shards` sockets on `address`. Port 0: one free port for all of them.
fn bind_all(address: SocketAddr, shards: usize) -> Result<(Vec<TcpListener>, SocketAddr), ListenError> {
    let failed = |source| ListenError::Bind { address, source };
    let first = bind_first(address).map_err(failed)?;
    let address = first.local_addr().map_err(failed)?;
    let mut sockets = vec![first];
    while sockets.len() < shards {
        sockets.push(bind(address, true).map_err(|source| ListenError::Bind { address, source })?);
    }
    Ok((sockets, address))
}

/// Sockets that share a port do not notice each other, not even those of another process. So the port is taken once
/// without sharing, to see that it is free.
fn bind_first(address: SocketAddr) -> io::Result<TcpListener> {
    let probe = bind(address, false)?;
    let address = probe.local_addr()?;
    drop(probe);
    bind(address, true)
}

fn bind(address: SocketAddr, share: bool) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(share)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn localhost() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    fn listeners(address: SocketAddr) -> Listeners {
        let listener = |kind| Listener { kind, address, proxy_protocol: false };
        Listeners { listeners: vec![listener(Kind::Tcp)], tls: None }
    }

    #[test]
    fn all_shards_listen_on_one_port() {
        let Open { by_shard, addresses } = listeners(localhost()).open(3).expect("bind");
        let port = |bound: &Vec<Bound>| bound[0].socket.local_addr().expect("address").port();
        let ports: Vec<u16> = by_shard.iter().map(port).collect();
        assert_eq!(ports, [addresses[0].1.port(); 3]);
    }

    #[test]
    fn a_port_that_another_edge_shares_among_its_shards_is_still_taken() {
        let open = listeners(localhost()).open(2).expect("bind");
        let error = listeners(open.addresses[0].1).open(2).expect_err("taken");
        assert!(
            matches!(&error, ListenError::Bind { source, .. } if source.kind() == io::ErrorKind::AddrInUse)
        );
        assert!(error.to_string().contains("choose another port"), "{error}");
    }

    #[test]
    fn an_edge_without_a_listener_or_a_certificate_says_so() {
        assert!(matches!(Listeners::default().open(1), Err(ListenError::None)));
        let mut tls = listeners(localhost());
        tls.listeners[0].kind = Kind::Tls;
        assert!(matches!(tls.open(1), Err(ListenError::NoCertificate(Kind::Tls))));
    }
}
