//! Verifies tokens with the public keys of the control group.

use std::{collections::HashMap, fmt, sync::Arc};

use arc_swap::ArcSwap;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use cluster_proto::credential::{AUDIENCE_API, AUDIENCE_TERMINAL, ApiClaims, PublicKey, TerminalClaims};
use jsonwebtoken::{Algorithm, DecodingKey, Validation, errors::ErrorKind};
use serde::de::DeserializeOwned;

/// Longest token looked at, bytes: ours have a few hundred; permissions make them longer.
const TOKEN_LEN_MAX: usize = 16 * 1024;

/// The keys tokens are verified with. Cheap to clone; every clone sees a replacement at once, without a lock.
#[derive(Clone)]
pub struct Keyring {
    keys: Arc<ArcSwap<Keys>>,
}

#[derive(Default)]
struct Keys {
    /// Counts replacements, so that caches notice them.
    generation: u64,
    by_kid: HashMap<String, DecodingKey>,
}

/// Why a token is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// Not a token of ours at all.
    #[error("the token is malformed")]
    Malformed,
    /// Signed with a key that this cluster does not have (or not yet here).
    #[error(
        "the token is signed with the unknown key {0:?}: it is from another cluster, or its key was retired"
    )]
    UnknownKey(String),
    /// The signature is wrong.
    #[error("the token's signature is wrong")]
    Signature,
    /// A terminal credential where an API token belongs, or the other way round.
    #[error("the token is not meant for this use")]
    Audience,
    /// Over since then, seconds since the epoch.
    #[error("the token expired at {0} (seconds since the epoch)")]
    Expired(u64),
}

impl Keyring {
    /// A keyring of these keys.
    pub fn new(keys: Vec<PublicKey>) -> Self {
        let ring = Self { keys: Arc::new(ArcSwap::from_pointee(Keys::default())) };
        ring.replace(keys);
        ring
    }

    /// Replaces all keys. A key that is not 32 bytes on the curve verifies nothing.
    pub fn replace(&self, keys: Vec<PublicKey>) {
        let by_kid: HashMap<_, _> = keys
            .into_iter()
            .filter_map(|key| {
                let x = URL_SAFE_NO_PAD.encode(key.ed25519);
                DecodingKey::from_ed_components(&x).ok().map(|decoding| (key.kid, decoding))
            })
            .collect();
        self.keys.rcu(|old| Keys { generation: old.generation + 1, by_kid: by_kid.clone() });
    }

    /// Whether there is no key: nothing can be verified yet.
    pub fn is_empty(&self) -> bool {
        self.keys.load().by_kid.is_empty()
    }

    /// Grows with every replacement.
    pub(crate) fn generation(&self) -> u64 {
        self.keys.load().generation
    }

    /// The claims of a terminal credential, if it is valid at `now` (seconds since the epoch).
    pub fn verify_terminal(&self, token: &str, now: u64) -> Result<TerminalClaims, AuthError> {
        let claims: TerminalClaims = self.verify(token, AUDIENCE_TERMINAL)?;
        not_expired(claims.exp, now).map(|()| claims)
    }

    /// The claims of an API token, if it is valid at `now` (seconds since the epoch).
    pub fn verify_api(&self, token: &str, now: u64) -> Result<ApiClaims, AuthError> {
        let claims: ApiClaims = self.verify(token, AUDIENCE_API)?;
        not_expired(claims.exp, now).map(|()| claims)
    }

    fn verify<C: DeserializeOwned>(&self, token: &str, audience: &str) -> Result<C, AuthError> {
        if token.len() > TOKEN_LEN_MAX {
            return Err(AuthError::Malformed);
        }
        let header = jsonwebtoken::decode_header(token).map_err(|_| AuthError::Malformed)?;
        let kid = header.kid.ok_or(AuthError::Malformed)?;
        let keys = self.keys.load();
        let Some(key) = keys.by_kid.get(&kid) else { return Err(AuthError::UnknownKey(kid)) };
        let data = jsonwebtoken::decode(token, key, &validation(audience)).map_err(|e| refused(e.kind()))?;
        Ok(data.claims)
    }
}

impl Default for Keyring {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys = self.keys.load();
        f.debug_struct("Keyring").field("kids", &keys.by_kid.keys().collect::<Vec<_>>()).finish()
    }
}

pub(super) fn not_expired(exp: u64, now: u64) -> Result<(), AuthError> {
    if now < exp { Ok(()) } else { Err(AuthError::Expired(exp)) }
}

/// Only EdDSA: the `alg` of the header must not choose. Expiry is compared by us with the caller's clock.
fn validation(audience: &str) -> Validation {
    let mut validation = Validation::new(Algorithm::EdDSA);
    validation.set_audience(&[audience]);
    validation.set_required_spec_claims(&["exp", "aud"]);
    validation.validate_exp = false;
    validation
}

fn refused(kind: &ErrorKind) -> AuthError {
    match kind {
        ErrorKind::InvalidSignature => AuthError::Signature,
        ErrorKind::InvalidAudience => AuthError::Audience,
        _ => AuthError::Malformed,
    }
}

#[cfg(test)]
mod tests {
    use cluster_proto::credential::Scope;
    use raft_store::command::SigningKey;
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;
    use crate::auth::{generate_key, issue_api, issue_terminal, public_key};

    fn key(seed: u64) -> SigningKey {
        generate_key(&mut StdRng::seed_from_u64(seed)).expect("key")
    }

    fn terminal(exp: u64) -> TerminalClaims {
        TerminalClaims {
            aud: AUDIENCE_TERMINAL.to_owned(),
            app: "default".to_owned(),
            app_id: 1,
            sub: "tv-1".to_owned(),
            no: 7,
            iat: 1_000,
            exp,
            publish: None,
            subscribe: Some(vec!["tv/{terminal}/#".to_owned()]),
        }
    }

    fn api(exp: u64) -> ApiClaims {
        ApiClaims {
            aud: AUDIENCE_API.to_owned(),
            sub: "back-end".to_owned(),
            app: None,
            app_id: None,
            scopes: vec![Scope::Push],
            iat: 1_000,
            exp,
        }
    }

    #[test]
    fn an_issued_credential_verifies_and_keeps_its_claims() {
        let key = key(1);
        let ring = Keyring::new(vec![public_key(&key)]);
        let token = issue_terminal(&key, &terminal(2_000)).expect("issue");
        assert_eq!(ring.verify_terminal(&token, 1_500), Ok(terminal(2_000)));
        let token = issue_api(&key, &api(2_000)).expect("issue");
        assert_eq!(ring.verify_api(&token, 1_500), Ok(api(2_000)));
    }

    #[test]
    fn a_token_is_over_at_its_expiry_without_leeway() {
        let key = key(1);
        let ring = Keyring::new(vec![public_key(&key)]);
        let token = issue_terminal(&key, &terminal(2_000)).expect("issue");
        assert!(ring.verify_terminal(&token, 1_999).is_ok());
        assert_eq!(ring.verify_terminal(&token, 2_000), Err(AuthError::Expired(2_000)));
    }

    #[test]
    fn a_token_of_another_cluster_is_refused() {
        let ours = key(1);
        let theirs = key(2);
        let ring = Keyring::new(vec![public_key(&ours)]);
        let token = issue_terminal(&theirs, &terminal(2_000)).expect("issue");
        assert_eq!(ring.verify_terminal(&token, 1_500), Err(AuthError::UnknownKey(theirs.kid.clone())));
        // Even one that claims our key id.
        let forged = SigningKey { kid: ours.kid, ..theirs };
        let token = issue_terminal(&forged, &terminal(2_000)).expect("issue");
        assert_eq!(ring.verify_terminal(&token, 1_500), Err(AuthError::Signature));
    }

    #[test]
    fn a_terminal_credential_is_no_api_token_and_the_other_way_round() {
        let key = key(1);
        let ring = Keyring::new(vec![public_key(&key)]);
        let credential = issue_terminal(&key, &terminal(2_000)).expect("issue");
        let token = issue_api(&key, &api(2_000)).expect("issue");
        assert!(ring.verify_api(&credential, 1_500).is_err());
        assert!(ring.verify_terminal(&token, 1_500).is_err());
        // Nor with all the claims of the other kind.
        let disguised =
            issue_terminal(&key, &TerminalClaims { aud: AUDIENCE_API.to_owned(), ..terminal(2_000) });
        assert_eq!(ring.verify_terminal(&disguised.expect("issue"), 1_500), Err(AuthError::Audience));
    }

    #[test]
    fn a_symmetric_or_missing_algorithm_is_refused() {
        let key = key(1);
        let ring = Keyring::new(vec![public_key(&key)]);
        let mut header = jsonwebtoken::Header::new(Algorithm::HS256);
        header.kid = Some(key.kid.clone());
        // The classic confusion: the public key taken as an HMAC secret.
        let secret = jsonwebtoken::EncodingKey::from_secret(&key.ed25519);
        let token = jsonwebtoken::encode(&header, &terminal(2_000), &secret).expect("encode");
        assert_eq!(ring.verify_terminal(&token, 1_500), Err(AuthError::Malformed));
        for junk in ["", ".", "..", "a.b.c", "eyJhbGciOiJub25lIn0.e30."] {
            assert_eq!(ring.verify_terminal(junk, 1_500), Err(AuthError::Malformed), "{junk}");
        }
    }

    #[test]
    fn a_replaced_key_stops_verifying_in_every_clone() {
        let (old, new) = (key(1), key(2));
        let ring = Keyring::new(vec![public_key(&old)]);
        let clone = ring.clone();
        let token = issue_terminal(&old, &terminal(2_000)).expect("issue");
        ring.replace(vec![public_key(&new)]);
        assert_eq!(clone.verify_terminal(&token, 1_500), Err(AuthError::UnknownKey(old.kid)));
    }
}
