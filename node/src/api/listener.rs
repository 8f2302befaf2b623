//! Accepts connections for the API, with TLS outside `dev`.
//!
//! The listener has two certificates: the node's own, which other nodes and our command line verify by its fixed
//! name, and possibly another for clients out there, chosen by the name the client asks for.

use std::{sync::Arc, time::Duration};

use futures_util::Stream;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;

use super::server::{NODE_NAME, ServerTls, TlsError};
use crate::transport::tls::TlsSlot;

/// A client that needs longer for its handshake holds a place for nothing.
const HANDSHAKE_WITHIN: Duration = Duration::from_secs(10);
/// Handshakes at a time; over it, connections wait in the listener's backlog.
const HANDSHAKES_MAX: usize = 256;
/// Accepted connections waiting for the server, which takes them at once.
const ACCEPTED_MAX: usize = 16;
/// After a failed accept (no file descriptors left), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections with TLS, as they finish their handshakes. Ends when dropped.
pub(super) fn tls(
    listener: TcpListener,
    slot: Arc<TlsSlot>,
) -> impl Stream<Item = std::io::Result<TlsStream<TcpStream>>> {
    let (ready, accepted) = mpsc::channel(ACCEPTED_MAX);
    tokio::spawn(async move {
        let room = Arc::new(Semaphore::new(HANDSHAKES_MAX));
        loop {
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
            let stream = tokio::select! {
                stream = accept(&listener) => stream,
                () = ready.closed() => return,
            };
            let (acceptor, ready) = (TlsAcceptor::from(slot.current()), ready.clone());
            tokio::spawn(async move {
                match tokio::time::timeout(HANDSHAKE_WITHIN, acceptor.accept(stream)).await {
                    // The server is gone when nobody takes it: so is the client.
                    Ok(Ok(stream)) => drop(ready.send(Ok(stream)).await),
                    Ok(Err(error)) => tracing::debug!(%error, "TLS handshake"),
                    Err(_) => tracing::debug!("TLS handshake took too long"),
                }
                drop(permit);
            });
        }
    });
    ReceiverStream::new(accepted)
}

/// Connections in clear.
pub(super) fn plain(listener: TcpListener) -> impl Stream<Item = std::io::Result<TcpStream>> {
    futures_util::stream::unfold(listener, |listener| async move {
        let stream = accept(&listener).await;
        Some((Ok(stream), listener))
    })
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Small answers must not wait for more. A socket that refuses is about to fail anyway.
                let _ = stream.set_nodelay(true);
                return stream;
            }
            Err(error) => {
                tracing::warn!(%error, "accept API connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Client certificates are optional: nodes and operators have one, back-ends have tokens.
pub(super) fn config(tls: &ServerTls) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    for ca in certificates("cluster authority", &tls.ca)? {
        roots.add(ca).map_err(|e| TlsError("cluster authority", e.to_string()))?;
    }
    let clients = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .allow_unauthenticated()
        .build()
        .map_err(|e| TlsError("cluster authority", e.to_string()))?;
    let node = certified("node certificate", &tls.node_cert, &tls.node_key, &provider)?;
    let public = match &tls.public {
        Some((cert, key)) => certified("API certificate", cert, key, &provider)?,
        None => Arc::clone(&node),
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| TlsError("TLS", e.to_string()))?
        .with_client_cert_verifier(clients)
        .with_cert_resolver(Arc::new(ByName { node, public }));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

#[derive(Debug)]
struct ByName {
    node: Arc<CertifiedKey>,
    public: Arc<CertifiedKey>,
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let ours = hello.server_name() == Some(NODE_NAME);
        Some(Arc::clone(if ours { &self.node } else { &self.public }))
    }
}

fn certified(
    what: &'static str,
    cert: &[u8],
    key: &[u8],
    provider: &CryptoProvider,
) -> Result<Arc<CertifiedKey>, TlsError> {
    let chain = certificates(what, cert)?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| TlsError(what, format!("its key: {e}")))?;
    let certified =
        CertifiedKey::from_der(chain, key, provider).map_err(|e| TlsError(what, e.to_string()))?;
    Ok(Arc::new(certified))
}

fn certificates(what: &'static str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match chain {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        Ok(_) => Err(TlsError(what, "no certificate in the file".to_owned())),
        Err(error) => Err(TlsError(what, error.to_string())),
    }
}
