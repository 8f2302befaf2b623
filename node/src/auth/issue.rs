//! Makes signing keys and signs tokens with them.

use cluster_proto::credential::{ApiClaims, PublicKey, TerminalClaims};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use raft_store::command::SigningKey;
use rand::{CryptoRng, RngCore};
use serde::Serialize;

/// PKCS#8 version 1 of an Ed25519 private key (RFC 8410, section 7), up to the 32 bytes of the seed.
const PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];

/// A signing key does not work. It comes from the tables, so this is damage, not input.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The private key cannot be read.
    #[error("read signing key: {0}")]
    Key(String),
    /// Signing failed.
    #[error("sign token with key {kid}: {reason}")]
    Sign {
        /// Which key.
        kid: String,
        /// Why.
        reason: String,
    },
}

/// A new Ed25519 key from `rng`; its id is random too, so that keys made by two leaders never share one.
pub fn generate_key<R: RngCore + CryptoRng>(rng: &mut R) -> Result<SigningKey, IssueError> {
    let mut pkcs8 = [0; 48];
    pkcs8[..16].copy_from_slice(&PKCS8_PREFIX);
    rng.fill_bytes(&mut pkcs8[16..]);
    let kid = format!("{:016x}", rng.next_u64());
    let ed25519 = public_half(&pkcs8)?;
    Ok(SigningKey { kid, pkcs8: pkcs8.to_vec().into(), ed25519 })
}

/// What verifies the tokens that `key` signs.
pub fn public_key(key: &SigningKey) -> PublicKey {
    PublicKey { kid: key.kid.clone(), ed25519: key.ed25519 }
}

/// Signs a terminal credential.
pub fn issue_terminal(key: &SigningKey, claims: &TerminalClaims) -> Result<String, IssueError> {
    sign(key, claims)
}

/// Signs an API token.
pub fn issue_api(key: &SigningKey, claims: &ApiClaims) -> Result<String, IssueError> {
    sign(key, claims)
}

fn sign<C: Serialize>(key: &SigningKey, claims: &C) -> Result<String, IssueError> {
    let mut header = Header::new(Algorithm::EdDSA);
    header.kid = Some(key.kid.clone());
    jsonwebtoken::encode(&header, claims, &EncodingKey::from_ed_der(&key.pkcs8))
        .map_err(|e| IssueError::Sign { kid: key.kid.clone(), reason: e.to_string() })
}

fn public_half(pkcs8: &[u8]) -> Result<[u8; 32], IssueError> {
    let pair = rcgen::KeyPair::try_from(pkcs8).map_err(|e| IssueError::Key(e.to_string()))?;
    pair.public_key_raw()
        .try_into()
        .map_err(|_| IssueError::Key("the public half is not 32 bytes".to_owned()))
}
