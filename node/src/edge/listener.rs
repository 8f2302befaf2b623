//! MQTT listeners: one socket per shard on the same address, so that the kernel spreads connections.

use std::{
    io,
    net::{SocketAddr, TcpListener},
};

use socket2::{Domain, Protocol, Socket, Type};

/// Connections the kernel keeps for a shard that is busy: a reconnect storm is tens of thousands within seconds.
const BACKLOG: i32 = 4_096;

/// Why an edge cannot listen.
#[derive(Debug, thiserror::Error)]
#[error("listen for MQTT on {address}: {source}{}", hint(.source))]
pub struct ListenError {
    /// Where.
    pub address: SocketAddr,
    /// Why not.
    pub source: io::Error,
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => " (is another node or broker running there? choose another port)",
        io::ErrorKind::PermissionDenied => " (ports below 1024 need a privilege)",
        _ => "",
    }
}

/// `shards` sockets on `address`. Port 0: one free port for all of them.
pub(crate) fn bind_all(address: SocketAddr, shards: usize) -> Result<Vec<TcpListener>, ListenError> {
    let failed = |source| ListenError { address, source };
    let first = bind_first(address).map_err(failed)?;
    let address = first.local_addr().map_err(failed)?;
    let mut listeners = vec![first];
    while listeners.len() < shards {
        listeners.push(bind(address, true).map_err(|source| ListenError { address, source })?);
    }
    Ok(listeners)
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

    #[test]
    fn all_shards_listen_on_one_port() {
        let listeners = bind_all(localhost(), 3).expect("bind");
        let ports: Vec<u16> = listeners.iter().map(|l| l.local_addr().expect("address").port()).collect();
        assert_eq!(ports, [ports[0]; 3]);
    }

    #[test]
    fn a_port_that_another_edge_shares_among_its_shards_is_still_taken() {
        let listeners = bind_all(localhost(), 2).expect("bind");
        let address = listeners[0].local_addr().expect("address");
        let error = bind_all(address, 2).expect_err("taken");
        assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains("choose another port"), "{error}");
    }
}
