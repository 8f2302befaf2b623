//! TLS over TCP towards clients out there: certificates by name, client certificates, and reading all of it again
//! while the node runs. What nodes speak with each other (`setup`) is none of this.

use std::{
    collections::HashMap,
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwap;
use metrics::{describe_gauge, gauge};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring::Ticketer,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{
        ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
        danger::ClientCertVerifier,
    },
    sign::CertifiedKey,
};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

use super::{
    certs::{CertsError, parse_chain, read},
    provider,
};

/// When a certificate expires, Unix seconds. Labels: `listener` (`mqtt`, `api`), `file`.
const EXPIRES: &str = "carillon_certificate_expires_timestamp";
/// A certificate that ends within this time is worth a warning when it is read.
const EXPIRES_SOON: Duration = Duration::from_secs(14 * 86_400);

/// What was read from files.
#[derive(Debug)]
pub struct Loaded {
    /// For new connections.
    pub config: ServerConfig,
    /// The certificates in it.
    pub certificates: Vec<Validity>,
}

/// How long a certificate is good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Validity {
    /// Where it lies.
    pub file: PathBuf,
    /// Unix seconds.
    pub from_s: i64,
    /// Unix seconds.
    pub until_s: i64,
}

type Load = dyn Fn() -> anyhow::Result<Loaded> + Send + Sync;

/// The TLS of a listener, which may change while it listens: each connection takes what is current.
pub struct TlsSlot {
    listener: &'static str,
    current: ArcSwap<ServerConfig>,
    load: Box<Load>,
}

impl TlsSlot {
    /// Reads it for the first time; `listener` is its name in metrics and logs. An expired certificate is served all
    /// the same, with a warning: clients decide.
    pub fn new(
        listener: &'static str,
        load: impl Fn() -> anyhow::Result<Loaded> + Send + Sync + 'static,
    ) -> anyhow::Result<Arc<Self>> {
        let loaded = load()?;
        let now_s = now_s();
        for validity in &loaded.certificates {
            if let Err(error) = validity.check(now_s) {
                tracing::warn!(listener, "{error}");
            }
        }
        tell(listener, &loaded.certificates, now_s);
        let current = ArcSwap::from_pointee(loaded.config);
        Ok(Arc::new(Self { listener, current, load: Box::new(load) }))
    }

    /// For a connection that begins now.
    pub fn current(&self) -> Arc<ServerConfig> {
        self.current.load_full()
    }

    /// Reads everything again. What cannot be used changes nothing: the error says what and where.
    pub fn reload(&self) -> anyhow::Result<()> {
        let loaded = (self.load)()?;
        let now_s = now_s();
        loaded.certificates.iter().try_for_each(|validity| validity.check(now_s))?;
        tell(self.listener, &loaded.certificates, now_s);
        self.current.store(Arc::new(loaded.config));
        Ok(())
    }

    /// Its name in metrics and logs.
    pub fn listener(&self) -> &'static str {
        self.listener
    }
}

impl fmt::Debug for TlsSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsSlot").field("listener", &self.listener).finish_non_exhaustive()
    }
}

impl Validity {
    /// Of the first certificate of a chain.
    pub fn of(file: &Path, chain: &[CertificateDer<'_>]) -> Result<Self, CertsError> {
        let unusable = || CertsError::Pem { path: file.to_owned(), what: "certificate" };
        let (_, certificate) =
            X509Certificate::from_der(chain.first().ok_or_else(unusable)?).map_err(|_| unusable())?;
        let validity = certificate.validity();
        let (from_s, until_s) = (validity.not_before.timestamp(), validity.not_after.timestamp());
        Ok(Self { file: file.to_owned(), from_s, until_s })
    }

    fn check(&self, now_s: i64) -> Result<(), CertsError> {
        let path = self.file.clone();
        match now_s {
            now_s if now_s >= self.until_s => Err(CertsError::Expired { path }),
            now_s if now_s < self.from_s => Err(CertsError::NotYetValid { path }),
            _ => Ok(()),
        }
    }
}

fn tell(listener: &'static str, certificates: &[Validity], now_s: i64) {
    describe_gauge!(EXPIRES, "when a certificate expires, Unix seconds");
    for Validity { file, until_s, .. } in certificates {
        let file = file.display().to_string();
        let left_s = until_s - now_s;
        if (0..EXPIRES_SOON.as_secs() as i64).contains(&left_s) {
            tracing::warn!(listener, file, days = left_s / 86_400, "a certificate expires soon");
        }
        gauge!(EXPIRES, "listener" => listener, "file" => file).set(*until_s as f64);
    }
}

fn now_s() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

// ------------------------------------------------------------ terminals

/// The certificates of the listeners for terminals, as files.
#[derive(Clone, Debug)]
pub struct TerminalTls {
    /// Shown to whoever asks for no name, or for one that nobody has: chain and key.
    pub default: (PathBuf, PathBuf),
    /// Shown to whoever asks for one of their names.
    pub by_name: Vec<(PathBuf, PathBuf)>,
    /// Terminals are asked for certificates.
    pub clients: Option<Clients>,
}

/// Which certificates terminals may show.
#[derive(Clone, Debug)]
pub struct Clients {
    /// Who signed them.
    pub ca: PathBuf,
    /// Without one the handshake fails.
    pub required: bool,
}

impl TerminalTls {
    /// Reads all files.
    pub fn load(&self) -> anyhow::Result<Loaded> {
        let mut certificates = Vec::new();
        let mut certified = |(cert, key): &(PathBuf, PathBuf)| -> Result<_, CertsError> {
            let (certified, validity) = certified(cert, key)?;
            certificates.push(validity);
            Ok(certified)
        };
        let default = certified(&self.default)?;
        let mut resolver = ByName { default: Arc::clone(&default), names: HashMap::new() };
        // Its own names stay its own; it may have none (an address alone).
        resolver.add(names(&self.default.0, &default.cert).unwrap_or_default(), &default);
        for pair in &self.by_name {
            let certified = certified(pair)?;
            resolver.add(names(&pair.0, &certified.cert)?, &certified);
        }
        let builder =
            ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
        let builder = match &self.clients {
            None => builder.with_no_client_auth(),
            Some(clients) => builder.with_client_cert_verifier(verifier(clients)?),
        };
        let mut config = builder.with_cert_resolver(Arc::new(resolver));
        if self.clients.is_some() {
            // Every connection proves its certificate anew: an expired one must not live on in tickets.
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        } else {
            // A reconnect storm costs no signature for who has been here. Keys of tickets end with the config.
            config.ticketer = Ticketer::new()?;
        }
        Ok(Loaded { config, certificates })
    }
}

/// A chain with its key, which must belong together.
pub fn certified(cert: &Path, key: &Path) -> Result<(Arc<CertifiedKey>, Validity), CertsError> {
    let chain = parse_chain(cert, &read(cert)?)?;
    let validity = Validity::of(cert, &chain)?;
    let unusable = || CertsError::Pem { path: key.to_owned(), what: "private key for its certificate" };
    let private = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|_| unusable())?;
    let certified = CertifiedKey::from_der(chain, private, &provider()).map_err(|_| unusable())?;
    Ok((Arc::new(certified), validity))
}

fn verifier(clients: &Clients) -> anyhow::Result<Arc<dyn ClientCertVerifier>> {
    let mut roots = RootCertStore::empty();
    for ca in parse_chain(&clients.ca, &read(&clients.ca)?)? {
        let unusable = |_| CertsError::Pem { path: clients.ca.clone(), what: "authority certificate" };
        roots.add(ca).map_err(unusable)?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
    let builder = if clients.required { builder } else { builder.allow_unauthenticated() };
    Ok(builder.build()?)
}

/// The certificate for the name that a client asks for (SNI).
#[derive(Debug)]
struct ByName {
    default: Arc<CertifiedKey>,
    /// In lower case; `*.example.org` stands for one label more.
    names: HashMap<String, Arc<CertifiedKey>>,
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(self.find(hello.server_name())))
    }
}

impl ByName {
    /// Of several certificates with one name, the first is shown.
    fn add(&mut self, names: Vec<String>, certified: &Arc<CertifiedKey>) {
        for name in names {
            self.names.entry(name).or_insert_with(|| Arc::clone(certified));
        }
    }

    fn find(&self, name: Option<&str>) -> &Arc<CertifiedKey> {
        let named = || {
            let name = name?.to_ascii_lowercase();
            let wildcard = || Some(format!("*.{}", name.split_once('.')?.1));
            self.names.get(&name).or_else(|| self.names.get(&wildcard()?))
        };
        named().unwrap_or(&self.default)
    }
}

/// The DNS names a certificate is for.
fn names(file: &Path, chain: &[CertificateDer<'_>]) -> Result<Vec<String>, CertsError> {
    let unusable = || CertsError::Pem { path: file.to_owned(), what: "certificate with DNS names" };
    let (_, certificate) =
        X509Certificate::from_der(chain.first().ok_or_else(unusable)?).map_err(|_| unusable())?;
    let alternative = certificate.subject_alternative_name().map_err(|_| unusable())?.ok_or_else(unusable)?;
    let names: Vec<String> = alternative
        .value
        .general_names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        })
        .collect();
    if names.is_empty() { Err(unusable()) } else { Ok(names) }
}

/// The common name of a client's certificate, which the handshake has verified.
pub(crate) fn common_name(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let name = certificate.subject().iter_common_name().next()?;
    name.as_str().ok().map(str::to_owned)
}

/// A TLS error as one of I/O.
pub(crate) fn io_error(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_is_good_between_its_dates() {
        let validity = Validity { file: "a.pem".into(), from_s: 10, until_s: 20 };
        assert!(matches!(validity.check(9), Err(CertsError::NotYetValid { .. })));
        assert!(validity.check(10).is_ok() && validity.check(19).is_ok());
        let error = validity.check(20).expect_err("expired").to_string();
        assert!(error.contains("a.pem"), "{error}");
    }
}
