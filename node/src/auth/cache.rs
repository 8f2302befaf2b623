//! Remembers verified credentials.

use std::collections::HashMap;

use cluster_proto::credential::TerminalClaims;
use sha2::{Digest, Sha256};

use super::{
    Keyring,
    keyring::{AuthError, not_expired},
};

/// Verified terminal credentials by hash, for one owner (an edge shard): no lock. A signature check costs about
/// 45 µs, a look-up here about 2 µs, and after the loss of an edge everybody reconnects with the same token.
///
/// Bounded: a full cache forgets half of its entries, whichever, and they are checked again. A cryptographic hash,
/// because whoever finds a second token with the same hash would be let in.
#[derive(Debug)]
pub struct TokenCache {
    capacity: usize,
    generation: u64,
    verified: HashMap<[u8; 32], TerminalClaims>,
}

impl TokenCache {
    /// Remembers at most `capacity` credentials.
    pub fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(2), generation: 0, verified: HashMap::new() }
    }

    /// As [`Keyring::verify_terminal`]. A replaced keyring empties the cache.
    pub fn verify_terminal(
        &mut self,
        ring: &Keyring,
        token: &str,
        now: u64,
    ) -> Result<TerminalClaims, AuthError> {
        let generation = ring.generation();
        if generation != self.generation {
            self.verified.clear();
            self.generation = generation;
        }
        let hash: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        if let Some(claims) = self.verified.get(&hash) {
            return not_expired(claims.exp, now).map(|()| claims.clone());
        }
        let claims = ring.verify_terminal(token, now)?;
        self.make_room();
        self.verified.insert(hash, claims.clone());
        Ok(claims)
    }

    fn make_room(&mut self) {
        if self.verified.len() < self.capacity {
            return;
        }
        let mut keep = false;
        self.verified.retain(|_, _| {
            keep = !keep;
            keep
        });
    }
}

#[cfg(test)]
mod tests {
    use cluster_proto::credential::AUDIENCE_TERMINAL;
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;
    use crate::auth::{generate_key, issue_terminal, public_key};

    fn claims(sub: &str) -> TerminalClaims {
        TerminalClaims {
            aud: AUDIENCE_TERMINAL.to_owned(),
            app: "default".to_owned(),
            app_id: 1,
            sub: sub.to_owned(),
            no: 7,
            iat: 1_000,
            exp: 2_000,
            publish: None,
            subscribe: None,
        }
    }

    #[test]
    fn a_cached_token_still_expires_and_falls_with_its_key() {
        let key = generate_key(&mut StdRng::seed_from_u64(1)).expect("key");
        let ring = Keyring::new(vec![public_key(&key)]);
        let token = issue_terminal(&key, &claims("tv-1")).expect("issue");
        let mut cache = TokenCache::new(8);
        for _ in 0..2 {
            assert_eq!(cache.verify_terminal(&ring, &token, 1_500), Ok(claims("tv-1")));
        }
        assert_eq!(cache.verify_terminal(&ring, &token, 2_000), Err(AuthError::Expired(2_000)));
        ring.replace(Vec::new());
        assert_eq!(cache.verify_terminal(&ring, &token, 1_500), Err(AuthError::UnknownKey(key.kid)));
    }

    #[test]
    fn a_full_cache_stays_within_its_bound() {
        let key = generate_key(&mut StdRng::seed_from_u64(1)).expect("key");
        let ring = Keyring::new(vec![public_key(&key)]);
        let mut cache = TokenCache::new(4);
        for i in 0..20 {
            let token = issue_terminal(&key, &claims(&format!("tv-{i}"))).expect("issue");
            assert!(cache.verify_terminal(&ring, &token, 1_500).is_ok());
            assert!(cache.verified.len() <= 4);
        }
    }
}
