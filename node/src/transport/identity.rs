//! Who a certificate says its holder is. The cluster's authority signs only what `carillon certs` writes, so a
//! name in a verified certificate is the truth.
//!
//! A node carries the URI `carillon://node/<id>?roles=control,edge`, an operator `carillon://operator`.

use std::{fmt, str::FromStr};

use cluster_proto::NodeId;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

const SCHEME: &str = "carillon://";
const OPERATOR: &str = "carillon://operator";
const NODE: &str = "carillon://node/";

/// A node, by its certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The node.
    pub node: NodeId,
    /// What it may do.
    pub roles: Roles,
}

/// The roles a certificate allows; at least one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roles {
    /// May speak Raft, and answer as a control node.
    pub control: bool,
    /// May open a link and hold terminals.
    pub edge: bool,
}

/// The holder of a verified certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A node of the cluster.
    Node(Identity),
    /// A person or tool that may use the API as administrator, and nothing else.
    Operator,
}

/// Why a certificate or its name says nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Not X.509.
    #[error("certificate is not valid X.509: {0}")]
    Malformed(String),
    /// No name of ours: signed by the cluster's authority, but not written by `carillon certs`.
    #[error("certificate has no {SCHEME} name")]
    NoName,
    /// More than one: nobody is two nodes.
    #[error("certificate has two carillon names: {0} and {1}")]
    TwoNames(String, String),
    /// A name of ours that cannot be read.
    #[error("certificate name {0:?} is neither carillon://node/<id>?roles=<roles> nor carillon://operator")]
    BadName(String),
    /// A role nobody knows, or none at all.
    #[error(transparent)]
    BadRoles(#[from] RolesError),
}

/// Why a text is not a list of roles.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RolesError {
    /// Not `control` or `edge`.
    #[error("unknown role {0:?}, expected control or edge")]
    Unknown(String),
    /// An empty list.
    #[error("no role given, expected control, edge or both")]
    Empty,
}

impl Roles {
    /// Both roles.
    pub const BOTH: Self = Self { control: true, edge: true };
    /// A control node without terminals.
    pub const CONTROL: Self = Self { control: true, edge: false };
    /// A push edge.
    pub const EDGE: Self = Self { control: false, edge: true };
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.control, self.edge) {
            (true, true) => "control,edge",
            (true, false) => "control",
            (false, true) => "edge",
            (false, false) => "",
        })
    }
}

impl FromStr for Roles {
    type Err = RolesError;

    fn from_str(list: &str) -> Result<Self, RolesError> {
        let mut roles = Self { control: false, edge: false };
        for role in list.split(',').filter(|role| !role.is_empty()) {
            match role {
                "control" => roles.control = true,
                "edge" => roles.edge = true,
                _ => return Err(RolesError::Unknown(role.to_owned())),
            }
        }
        if !roles.control && !roles.edge { Err(RolesError::Empty) } else { Ok(roles) }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {} ({})", self.node, self.roles)
    }
}

impl Peer {
    /// Reads the name out of a certificate. The caller has verified that the cluster's authority signed it.
    pub fn from_certificate(der: &[u8]) -> Result<Self, IdentityError> {
        let (_, certificate) =
            X509Certificate::from_der(der).map_err(|e| IdentityError::Malformed(e.to_string()))?;
        let names = certificate.subject_alternative_name();
        let names =
            names.map_err(|e| IdentityError::Malformed(e.to_string()))?.ok_or(IdentityError::NoName)?;
        let mut ours = names.value.general_names.iter().filter_map(|name| match name {
            GeneralName::URI(uri) if uri.starts_with(SCHEME) => Some(*uri),
            _ => None,
        });
        let name = ours.next().ok_or(IdentityError::NoName)?;
        match ours.next() {
            Some(second) => Err(IdentityError::TwoNames(name.to_owned(), second.to_owned())),
            None => Self::from_name(name),
        }
    }

    /// Reads a name such as `carillon://node/7?roles=edge`.
    pub fn from_name(name: &str) -> Result<Self, IdentityError> {
        if name == OPERATOR {
            return Ok(Self::Operator);
        }
        let bad = || IdentityError::BadName(name.to_owned());
        let (id, roles) =
            name.strip_prefix(NODE).and_then(|rest| rest.split_once("?roles=")).ok_or_else(bad)?;
        // `u64::from_str` accepts a sign; a node has one spelling only.
        let node = id.parse().ok().filter(|node: &u64| node.to_string() == id).ok_or_else(bad)?;
        Ok(Self::Node(Identity { node: NodeId(node), roles: roles.parse()? }))
    }
}

impl fmt::Display for Peer {
    /// The name as it stands in the certificate.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(identity) => write!(f, "{NODE}{}?roles={}", identity.node, identity.roles),
            Self::Operator => f.write_str(OPERATOR),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_the_round_trip() {
        for roles in [Roles::BOTH, Roles::CONTROL, Roles::EDGE] {
            let peer = Peer::Node(Identity { node: NodeId(7), roles });
            assert_eq!(Peer::from_name(&peer.to_string()), Ok(peer));
        }
        assert_eq!(Peer::from_name("carillon://operator"), Ok(Peer::Operator));
    }

    #[test]
    fn a_name_that_is_not_exactly_ours_is_refused() {
        for name in
            ["carillon://node/7", "carillon://node/+7?roles=edge", "carillon://node/07?roles=edge", "x"]
        {
            assert_eq!(Peer::from_name(name), Err(IdentityError::BadName(name.to_owned())), "{name}");
        }
        let unknown = RolesError::Unknown("root".to_owned());
        assert_eq!(Peer::from_name("carillon://node/7?roles=root"), Err(unknown.into()));
        assert_eq!(Peer::from_name("carillon://node/7?roles="), Err(RolesError::Empty.into()));
    }

    #[test]
    fn bytes_that_are_no_certificate_are_an_error() {
        assert!(matches!(Peer::from_certificate(b"junk"), Err(IdentityError::Malformed(_))));
    }
}
