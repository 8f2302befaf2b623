//! The cluster's certificate authority and the certificates it signs.
//!
//! One node certificate serves everything the node listens on: QUIC, the gRPC API over TLS, and MQTT over TLS
//! where no other is configured. Nodes verify each other against the fixed DNS name [`SERVER_NAME`], never
//! against an address, so a certificate outlives every change of address.

use std::{
    fmt, fs,
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use cluster_proto::NodeId;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, string::Ia5String,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use super::identity::{Identity, IdentityError, Peer, Roles};

/// The DNS name every node certificate carries and every dialling node verifies.
pub const SERVER_NAME: &str = "carillon";
/// The authority's certificate, inside its directory.
pub const AUTHORITY_FILE: &str = "ca.pem";
/// The authority's private key: needed to sign, never on a node.
pub const AUTHORITY_KEY_FILE: &str = "ca.key";

/// Validity of what `carillon certs` writes. A node reads its own certificate at start: renewal is a restart.
pub const VALIDITY_DEFAULT: Duration = Duration::from_secs(2 * 365 * 86_400);
/// Validity of the authority, and of everything in a development directory, which nobody renews.
pub const VALIDITY_LONG: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Certificates begin this long ago: clocks of machines differ.
const CLOCK_SKEW: Duration = Duration::from_secs(86_400);

/// Where a certificate lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificatePaths {
    /// The authority's certificate.
    pub ca: PathBuf,
    /// The certificate chain, own certificate first.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// A node's own certificate, its key, and the authority it trusts. PEM as read, for gRPC; DER for rustls.
pub struct Certificates {
    /// The authority, PEM.
    pub ca_pem: Vec<u8>,
    /// The chain, PEM.
    pub cert_pem: Vec<u8>,
    /// The key, PEM.
    pub key_pem: Vec<u8>,
    pub(super) ca: Vec<CertificateDer<'static>>,
    pub(super) chain: Vec<CertificateDer<'static>>,
    pub(super) key: PrivateKeyDer<'static>,
    peer: Peer,
}

/// Why certificates cannot be made or read.
#[derive(Debug, thiserror::Error)]
pub enum CertsError {
    /// A file cannot be read or written.
    #[error("{path}: {source}", path = .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Not PEM, or not of the kind that belongs there.
    #[error("{path} holds no usable {what}", path = .path.display())]
    Pem {
        /// Which.
        path: PathBuf,
        /// What was expected.
        what: &'static str,
    },
    /// A second authority would make every certificate of the first worthless.
    #[error("{path} exists: a cluster has one authority", path = .0.display())]
    AuthorityExists(PathBuf),
    /// A host that cannot stand in a certificate.
    #[error("{0:?} is neither a host name nor an address")]
    BadHost(String),
    /// The certificate of a node says nothing about a node.
    #[error("{path}: {source}", path = .path.display())]
    Identity {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        source: IdentityError,
    },
    /// Good no more.
    #[error("the certificate of {path} has expired", path = .path.display())]
    Expired {
        /// Which.
        path: PathBuf,
    },
    /// Not good yet.
    #[error("the certificate of {path} is not valid yet", path = .path.display())]
    NotYetValid {
        /// Which.
        path: PathBuf,
    },
    /// The cryptography refused.
    #[error("make a certificate: {0}")]
    Make(#[from] rcgen::Error),
}

/// Makes the cluster's authority in `dir`: [`AUTHORITY_FILE`] and [`AUTHORITY_KEY_FILE`]. Refuses to replace one.
pub fn write_authority(dir: &Path) -> Result<(), CertsError> {
    let path = dir.join(AUTHORITY_KEY_FILE);
    if path.exists() {
        return Err(CertsError::AuthorityExists(path));
    }
    let key = KeyPair::generate()?;
    let mut params = params("Carillon cluster authority", VALIDITY_LONG);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let certificate = params.self_signed(&key)?;
    write_private(&path, &key.serialize_pem())?;
    write_public(&dir.join(AUTHORITY_FILE), &certificate.pem())
}

/// Signs a certificate for a node with the authority in `dir`: `node-<id>.pem` and `node-<id>.key` beside it.
/// `hosts` are the names and addresses under which clients of the API and terminals reach it. Replaces an older
/// certificate of the node, with a new key.
pub fn write_node(
    dir: &Path,
    id: NodeId,
    roles: Roles,
    hosts: &[String],
) -> Result<CertificatePaths, CertsError> {
    sign_node(dir, id, roles, hosts, VALIDITY_DEFAULT)
}

/// Signs a client certificate for an operator with the authority in `dir`: `operator.pem` and `operator.key`.
pub fn write_operator(dir: &Path) -> Result<CertificatePaths, CertsError> {
    let mut params = params("Carillon operator", VALIDITY_DEFAULT);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names = vec![SanType::URI(ia5(&Peer::Operator.to_string())?)];
    sign(dir, "operator", params)
}

impl Certificates {
    /// Reads a certificate of a node and checks that it is one.
    pub fn load(paths: &CertificatePaths) -> Result<Self, CertsError> {
        let (ca_pem, cert_pem, key_pem) = (read(&paths.ca)?, read(&paths.cert)?, read(&paths.key)?);
        let chain = parse_chain(&paths.cert, &cert_pem)?;
        let peer = Peer::from_certificate(&chain[0])
            .map_err(|source| CertsError::Identity { path: paths.cert.clone(), source })?;
        Ok(Self {
            ca: parse_chain(&paths.ca, &ca_pem)?,
            key: PrivateKeyDer::from_pem_slice(&key_pem)
                .map_err(|_| CertsError::Pem { path: paths.key.clone(), what: "private key" })?,
            ca_pem,
            cert_pem,
            key_pem,
            chain,
            peer,
        })
    }

    /// For development: an authority and one certificate with both roles in `dir`, made once and reused.
    pub fn ephemeral(dir: &Path, id: NodeId) -> Result<Self, CertsError> {
        fs::create_dir_all(dir).map_err(|source| CertsError::File { path: dir.to_owned(), source })?;
        if !dir.join(AUTHORITY_KEY_FILE).exists() {
            write_authority(dir)?;
        }
        let mut paths = CertificatePaths::in_dir(dir, &node_name(id));
        if !paths.cert.exists() {
            paths = sign_node(dir, id, Roles::BOTH, &[], VALIDITY_LONG)?;
        }
        Self::load(&paths)
    }

    /// The node this certificate is for; `None` for an operator's, which no endpoint can use.
    pub fn identity(&self) -> Option<Identity> {
        match self.peer {
            Peer::Node(identity) => Some(identity),
            Peer::Operator => None,
        }
    }
}

impl fmt::Debug for Certificates {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl CertificatePaths {
    /// `<name>.pem` and `<name>.key` beside the authority.
    pub fn in_dir(dir: &Path, name: &str) -> Self {
        Self {
            ca: dir.join(AUTHORITY_FILE),
            cert: dir.join(format!("{name}.pem")),
            key: dir.join(format!("{name}.key")),
        }
    }
}

fn node_name(id: NodeId) -> String {
    format!("node-{id}")
}

fn sign_node(
    dir: &Path,
    id: NodeId,
    roles: Roles,
    hosts: &[String],
    validity: Duration,
) -> Result<CertificatePaths, CertsError> {
    let mut params = params(&format!("Carillon node {id}"), validity);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let name = Peer::Node(Identity { node: id, roles }).to_string();
    params.subject_alt_names = vec![
        SanType::URI(ia5(&name)?),
        SanType::DnsName(ia5(SERVER_NAME)?),
        SanType::DnsName(ia5("localhost")?),
        SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        SanType::IpAddress(IpAddr::V6(Ipv6Addr::LOCALHOST)),
    ];
    for host in hosts {
        params.subject_alt_names.push(alt_name(host)?);
    }
    sign(dir, &node_name(id), params)
}

fn sign(dir: &Path, name: &str, mut params: CertificateParams) -> Result<CertificatePaths, CertsError> {
    let paths = CertificatePaths::in_dir(dir, name);
    let ca_key_path = dir.join(AUTHORITY_KEY_FILE);
    let ca_key = KeyPair::from_pem(&read_text(&ca_key_path)?)
        .map_err(|_| CertsError::Pem { path: ca_key_path, what: "private key" })?;
    let issuer = Issuer::from_ca_cert_pem(&read_text(&paths.ca)?, ca_key)
        .map_err(|_| CertsError::Pem { path: paths.ca.clone(), what: "authority certificate" })?;
    params.use_authority_key_identifier_extension = true;
    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?;
    write_private(&paths.key, &key.serialize_pem())?;
    write_public(&paths.cert, &certificate.pem())?;
    Ok(paths)
}

fn params(common_name: &str, validity: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    let now = SystemTime::now();
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + validity).into();
    params
}

fn alt_name(host: &str) -> Result<SanType, CertsError> {
    if let Ok(address) = host.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '*');
    if host.is_empty() || !host.chars().all(allowed) {
        return Err(CertsError::BadHost(host.to_owned()));
    }
    Ok(SanType::DnsName(ia5(host)?))
}

fn ia5(text: &str) -> Result<Ia5String, CertsError> {
    Ia5String::try_from(text).map_err(|_| CertsError::BadHost(text.to_owned()))
}

pub(super) fn parse_chain(path: &Path, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertsError> {
    let bad = || CertsError::Pem { path: path.to_owned(), what: "certificate" };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|_| bad())?;
    if chain.is_empty() { Err(bad()) } else { Ok(chain) }
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, CertsError> {
    fs::read(path).map_err(|source| CertsError::File { path: path.to_owned(), source })
}

fn read_text(path: &Path) -> Result<String, CertsError> {
    fs::read_to_string(path).map_err(|source| CertsError::File { path: path.to_owned(), source })
}

fn write_private(path: &Path, text: &str) -> Result<(), CertsError> {
    write_file(path, text, 0o600)
}

fn write_public(path: &Path, text: &str) -> Result<(), CertsError> {
    write_file(path, text, 0o644)
}

/// Writes beside and renames, so that a reader sees the old file or the new one, and a key never has a wider mode.
fn write_file(path: &Path, text: &str, mode: u32) -> Result<(), CertsError> {
    use std::os::unix::fs::OpenOptionsExt;
    let fail = |source| CertsError::File { path: path.to_owned(), source };
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    // Left over from a crash, perhaps with another mode.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fail(error)),
        _ => {}
    }
    let mut file =
        fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside).map_err(fail)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(fail)?;
    fs::rename(&beside, path).map_err(fail)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_node_certificate_reads_back_as_that_node_with_those_roles() {
        let dir = tempfile::tempdir().expect("directory");
        write_authority(dir.path()).expect("authority");
        let hosts = ["edge-7.example.com".to_owned(), "10.0.0.7".to_owned()];
        let paths = write_node(dir.path(), NodeId(7), Roles::EDGE, &hosts).expect("node");
        let certificates = Certificates::load(&paths).expect("load");
        assert_eq!(certificates.identity(), Some(Identity { node: NodeId(7), roles: Roles::EDGE }));
    }

    #[test]
    fn an_operator_certificate_is_nobodys_node() {
        let dir = tempfile::tempdir().expect("directory");
        write_authority(dir.path()).expect("authority");
        let paths = write_operator(dir.path()).expect("operator");
        assert_eq!(Certificates::load(&paths).expect("load").identity(), None);
    }

    #[test]
    fn private_keys_are_readable_by_their_owner_only() {
        let dir = tempfile::tempdir().expect("directory");
        write_authority(dir.path()).expect("authority");
        let paths = write_node(dir.path(), NodeId(1), Roles::BOTH, &[]).expect("node");
        for key in [paths.key, dir.path().join(AUTHORITY_KEY_FILE)] {
            assert_eq!(fs::metadata(&key).expect("metadata").permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn an_authority_is_never_replaced() {
        let dir = tempfile::tempdir().expect("directory");
        write_authority(dir.path()).expect("authority");
        assert!(matches!(write_authority(dir.path()), Err(CertsError::AuthorityExists(_))));
    }

    #[test]
    fn a_development_certificate_is_made_once_and_reused() {
        let dir = tempfile::tempdir().expect("directory");
        let first = Certificates::ephemeral(dir.path(), NodeId(1)).expect("first");
        let second = Certificates::ephemeral(dir.path(), NodeId(1)).expect("second");
        assert_eq!(first.cert_pem, second.cert_pem);
        assert_eq!(first.identity(), Some(Identity { node: NodeId(1), roles: Roles::BOTH }));
    }

    #[test]
    fn a_host_that_cannot_stand_in_a_certificate_is_named_in_the_error() {
        let dir = tempfile::tempdir().expect("directory");
        write_authority(dir.path()).expect("authority");
        let error = write_node(dir.path(), NodeId(1), Roles::BOTH, &["a b".to_owned()]).expect_err("refused");
        assert!(error.to_string().contains("a b"), "{error}");
    }
}
