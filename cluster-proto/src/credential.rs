//! The claims inside tokens. Tokens are JWTs signed by the control group's own keys (EdDSA, `kid` in the header).

use serde::{Deserialize, Serialize};

/// Audience claim of a terminal credential.
pub const AUDIENCE_TERMINAL: &str = "carillon-terminal";
/// Audience claim of an API token.
pub const AUDIENCE_API: &str = "carillon-api";

/// Claims of a terminal credential: the password of MQTT CONNECT.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalClaims {
    /// Always [`AUDIENCE_TERMINAL`].
    pub aud: String,
    /// App name.
    pub app: String,
    /// App number.
    pub app_id: u32,
    /// Terminal id: must equal the MQTT client id.
    pub sub: String,
    /// Terminal number.
    pub no: u32,
    /// Issued at, seconds since the epoch: compared with revocations.
    pub iat: u64,
    /// Expiry, seconds since the epoch: the connection ends then.
    pub exp: u64,
    /// Filters it may publish to and subscribe to; `{terminal}` stands for its id. Absent: everything in its app
    /// but `$SYS`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub publish: Option<Vec<String>>,
    /// See `publish`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subscribe: Option<Vec<String>>,
}

/// Claims of an API token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiClaims {
    /// Always [`AUDIENCE_API`].
    pub aud: String,
    /// Who holds it, for logs.
    pub sub: String,
    /// App it is limited to; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// The number of that app when it was issued: it is not for a later app of the same name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_id: Option<u32>,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// Issued at, seconds since the epoch.
    pub iat: u64,
    /// Expiry, seconds since the epoch.
    pub exp: u64,
}

/// What an API token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Everything, the cluster and apps included.
    Admin,
    /// Push, cancel and read status.
    Push,
    /// Register terminals and issue their credentials.
    Terminals,
    /// Read only.
    Read,
}

/// A public key tokens are verified with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicKey {
    /// Key id, in the header of every token it signed.
    pub kid: String,
    /// The 32 bytes of an Ed25519 public key.
    pub ed25519: [u8; 32],
}
