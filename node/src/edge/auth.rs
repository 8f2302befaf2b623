//! Who a terminal is: the answer to CONNECT, decided on the shard with keys and revocations the leader sent.

use std::collections::HashMap;

use cluster_proto::{AppId, TerminalId, TerminalNo, credential::TerminalClaims};
use fabric_core::mqtt::{AuthRefusal, Credentials, Grant, Permissions};

use super::shared::EdgeShared;
use crate::auth::{AuthError, TokenCache};

/// Verified credentials remembered by a shard.
const TOKENS_MAX: usize = 32 * 1024;
/// Revocations remembered by a shard. Beyond, the leader alone refuses (it checks every Bind), and connections that
/// exist are closed all the same: that happens when the revocation comes.
const REVOCATIONS_MAX: usize = 64 * 1024;

/// Terminal credentials on one shard.
#[derive(Debug)]
pub(crate) struct Authenticator {
    tokens: TokenCache,
    revocations: Revocations,
}

/// Credentials issued at or before a time are void, by terminal or for a whole app.
#[derive(Debug, Default)]
pub(crate) struct Revocations(HashMap<(AppId, Option<TerminalId>), u64>);

impl Authenticator {
    pub(crate) fn new() -> Self {
        Self { tokens: TokenCache::new(TOKENS_MAX), revocations: Revocations::default() }
    }

    pub(crate) fn revoke(&mut self, app: AppId, terminal: Option<TerminalId>, issued_until: u64) {
        self.revocations.add(app, terminal, issued_until);
    }

    /// Whether these credentials let somebody in, and as whom. `certified` is the name in the certificate that the
    /// terminal showed, where it lets somebody in by itself.
    pub(crate) fn authenticate(
        &mut self,
        shared: &EdgeShared,
        credentials: Credentials,
        certified: Option<&str>,
        now_ms: u64,
        wall_s: u64,
    ) -> Result<Grant, AuthRefusal> {
        match &credentials.password {
            Some(token) => self.by_token(shared, token, credentials.user_name.as_deref(), now_ms, wall_s),
            None if certified.is_some() => by_certificate(certified, credentials.user_name.as_deref()),
            None if shared.anonymous => anonymous(shared, credentials),
            None => Err(AuthRefusal::BadCredential),
        }
    }

    /// Whether a fresh credential takes the place of the one a terminal connected with, and as whom.
    pub(crate) fn reauthenticate(
        &mut self,
        shared: &EdgeShared,
        token: &[u8],
        now_ms: u64,
        wall_s: u64,
    ) -> Result<Grant, AuthRefusal> {
        self.by_token(shared, token, None, now_ms, wall_s)
    }

    fn by_token(
        &mut self,
        shared: &EdgeShared,
        token: &[u8],
        user_name: Option<&str>,
        now_ms: u64,
        wall_s: u64,
    ) -> Result<Grant, AuthRefusal> {
        if shared.keyring.is_empty() {
            // No leader has been heard yet: nothing is wrong with the credential.
            return Err(AuthRefusal::Unavailable);
        }
        let token = std::str::from_utf8(token).map_err(|_| AuthRefusal::BadCredential)?;
        let claims = self.tokens.verify_terminal(&shared.keyring, token, wall_s).map_err(|error| {
            tracing::debug!("credential refused: {error}");
            refusal(&error)
        })?;
        if user_name.is_some_and(|name| name != claims.app) {
            return Err(AuthRefusal::NotAuthorized);
        }
        let grant = grant_of(claims, now_ms, wall_s)?;
        if self.revocations.is_void(grant.app, &grant.terminal, grant.credential_issued_at) {
            return Err(AuthRefusal::NotAuthorized);
        }
        Ok(grant)
    }
}

impl Revocations {
    fn add(&mut self, app: AppId, terminal: Option<TerminalId>, issued_until: u64) {
        let key = (app, terminal);
        if self.0.len() >= REVOCATIONS_MAX && !self.0.contains_key(&key) {
            return;
        }
        let until = self.0.entry(key).or_insert(0);
        *until = issued_until.max(*until);
    }

    fn is_void(&self, app: AppId, terminal: &TerminalId, issued_at: u64) -> bool {
        let until = |terminal| self.0.get(&(app, terminal)).copied().unwrap_or(0);
        !self.0.is_empty() && issued_at <= until(None).max(until(Some(terminal.clone())))
    }
}

fn refusal(error: &AuthError) -> AuthRefusal {
    match error {
        AuthError::Expired(_) => AuthRefusal::NotAuthorized,
        _ => AuthRefusal::BadCredential,
    }
}

fn grant_of(claims: TerminalClaims, now_ms: u64, wall_s: u64) -> Result<Grant, AuthRefusal> {
    let terminal = TerminalId::new(claims.sub).map_err(|_| AuthRefusal::BadCredential)?;
    let remaining_ms = claims.exp.saturating_sub(wall_s).saturating_mul(1_000);
    Ok(Grant {
        app: AppId(claims.app_id),
        permissions: Permissions::new(&terminal, claims.publish.as_deref(), claims.subscribe.as_deref()),
        terminal,
        no: Some(TerminalNo(claims.no)),
        credential_issued_at: claims.iat,
        expires_at_ms: Some(now_ms.saturating_add(remaining_ms)),
    })
}

/// A certificate names a terminal and no app.
fn by_certificate(name: Option<&str>, user_name: Option<&str>) -> Result<Grant, AuthRefusal> {
    let terminal = TerminalId::new(name.unwrap_or_default()).map_err(|_| AuthRefusal::BadCredential)?;
    if !matches!(user_name, None | Some("" | "default")) {
        return Err(AuthRefusal::NotAuthorized);
    }
    let permissions = Permissions::everything();
    let app = AppId::DEFAULT;
    Ok(Grant { app, terminal, no: None, credential_issued_at: 0, expires_at_ms: None, permissions })
}

fn anonymous(shared: &EdgeShared, credentials: Credentials) -> Result<Grant, AuthRefusal> {
    let app = match credentials.user_name.as_deref() {
        None | Some("" | "default") => AppId::DEFAULT,
        Some(name) => shared.app(name).ok_or(AuthRefusal::NotAuthorized)?,
    };
    let terminal = credentials.client_id.unwrap_or(credentials.assigned_id);
    let sys = || Permissions::new(&terminal, None, Some(&["#".to_owned(), "$SYS/#".to_owned()]));
    let permissions = if shared.limits.anonymous_sys { sys() } else { Permissions::everything() };
    Ok(Grant { app, terminal, no: None, credential_issued_at: 0, expires_at_ms: None, permissions })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use cluster_proto::{NodeId, credential::AUDIENCE_TERMINAL};
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;
    use crate::{
        auth::{Keyring, generate_key, issue_terminal, public_key},
        edge::Limits,
    };

    struct Fixture {
        shared: EdgeShared,
        token: String,
        authenticator: Authenticator,
    }

    fn fixture(anonymous: bool) -> Fixture {
        let key = generate_key(&mut StdRng::seed_from_u64(1)).expect("key");
        let keyring = Arc::new(Keyring::new(vec![public_key(&key)]));
        let claims = TerminalClaims {
            aud: AUDIENCE_TERMINAL.to_owned(),
            app: "default".to_owned(),
            app_id: 1,
            sub: "tv-1".to_owned(),
            no: 7,
            iat: 1_000,
            exp: 2_000,
            publish: None,
            subscribe: None,
        };
        Fixture {
            shared: EdgeShared::new(NodeId(1), anonymous, keyring, Limits::default(), 1),
            token: issue_terminal(&key, &claims).expect("token"),
            authenticator: Authenticator::new(),
        }
    }

    fn credentials(user_name: Option<&str>, password: Option<&str>) -> Credentials {
        Credentials {
            client_id: Some(TerminalId::new("tv-1").expect("id")),
            assigned_id: TerminalId::new("auto-1").expect("id"),
            user_name: user_name.map(str::to_owned),
            password: password.map(|p| bytes::Bytes::copy_from_slice(p.as_bytes())),
        }
    }

    impl Fixture {
        fn ask(
            &mut self,
            user: Option<&str>,
            password: Option<&str>,
            wall_s: u64,
        ) -> Result<Grant, AuthRefusal> {
            self.authenticator.authenticate(&self.shared, credentials(user, password), None, 50, wall_s)
        }
    }

    #[test]
    fn a_genuine_credential_is_granted_until_it_expires() {
        let mut fixture = fixture(false);
        let token = fixture.token.clone();
        let grant = fixture.ask(Some("default"), Some(&token), 1_500).expect("granted");
        assert_eq!((grant.terminal.as_str(), grant.no), ("tv-1", Some(TerminalNo(7))));
        assert_eq!(grant.expires_at_ms, Some(500_050));
        assert_eq!(fixture.ask(None, Some(&token), 2_000), Err(AuthRefusal::NotAuthorized));
    }

    #[test]
    fn foreign_apps_and_forged_credentials_are_told_apart() {
        let mut fixture = fixture(false);
        let token = fixture.token.clone();
        assert_eq!(fixture.ask(Some("other"), Some(&token), 1_500), Err(AuthRefusal::NotAuthorized));
        assert_eq!(fixture.ask(None, Some("x.y.z"), 1_500), Err(AuthRefusal::BadCredential));
        assert_eq!(fixture.ask(None, None, 1_500), Err(AuthRefusal::BadCredential));
    }

    #[test]
    fn a_revoked_credential_is_refused_and_a_later_one_is_not() {
        let mut fixture = fixture(false);
        let token = fixture.token.clone();
        fixture.authenticator.revoke(AppId(1), None, 999);
        assert!(fixture.ask(None, Some(&token), 1_500).is_ok());
        fixture.authenticator.revoke(AppId(1), Some(TerminalId::new("tv-1").expect("id")), 1_000);
        assert_eq!(fixture.ask(None, Some(&token), 1_500), Err(AuthRefusal::NotAuthorized));
    }

    #[test]
    fn anonymous_clients_get_in_only_where_that_is_named() {
        assert_eq!(fixture(false).ask(None, None, 1_500), Err(AuthRefusal::BadCredential));
        let grant = fixture(true).ask(None, None, 1_500).expect("granted");
        assert_eq!((grant.app, grant.no, grant.credential_issued_at), (AppId::DEFAULT, None, 0));
        assert_eq!(fixture(true).ask(Some("nowhere"), None, 1_500), Err(AuthRefusal::NotAuthorized));
        assert_eq!(
            fixture(true).ask(None, Some("bad"), 1_500),
            Err(AuthRefusal::BadCredential),
            "a bad credential is not forgiven"
        );
    }

    #[test]
    fn anonymous_clients_read_sys_topics_only_where_that_is_named() {
        let mut fixture = fixture(true);
        let granted = fixture.ask(None, None, 1_500).expect("granted");
        assert!(!granted.permissions.may_subscribe("$SYS/#"));
        let limits = Limits { anonymous_sys: true, ..Limits::default() };
        fixture.shared = EdgeShared::new(NodeId(1), true, Arc::default(), limits, 1);
        let granted = fixture.ask(None, None, 1_500).expect("granted");
        assert!(
            granted.permissions.may_subscribe("$SYS/broker/+") && granted.permissions.may_subscribe("a/#")
        );
        assert!(granted.permissions.may_publish("a") && !granted.permissions.may_publish("$SYS/broker/a"));
    }

    #[test]
    fn a_certificate_that_lets_somebody_in_names_the_terminal_and_a_bad_credential_beside_it_is_not_forgiven()
    {
        let mut fixture = fixture(false);
        let mut ask = |name, user, password| {
            let credentials = credentials(user, password);
            fixture.authenticator.authenticate(&fixture.shared, credentials, Some(name), 50, 1_500)
        };
        let grant = ask("tv-9", None, None).expect("granted");
        assert_eq!((grant.app, grant.terminal.as_str(), grant.no), (AppId::DEFAULT, "tv-9", None));
        assert_eq!(ask("tv-9", Some("another-app"), None), Err(AuthRefusal::NotAuthorized));
        assert_eq!(ask("tv-9", None, Some("bad")), Err(AuthRefusal::BadCredential));
        assert_eq!(ask("", None, None), Err(AuthRefusal::BadCredential));
    }

    #[test]
    fn a_fresh_credential_is_checked_like_the_first() {
        let mut fixture = fixture(false);
        let token = fixture.token.clone();
        let mut again = |token: &str, wall_s| {
            fixture.authenticator.reauthenticate(&fixture.shared, token.as_bytes(), 50, wall_s)
        };
        assert_eq!(again(&token, 1_500).map(|grant| grant.credential_issued_at), Ok(1_000));
        assert_eq!(again(&token, 2_000), Err(AuthRefusal::NotAuthorized));
        assert_eq!(again("x.y.z", 1_500), Err(AuthRefusal::BadCredential));
    }

    #[test]
    fn before_a_leader_was_heard_nothing_can_be_verified() {
        let mut fixture = fixture(false);
        fixture.shared.keyring.replace(Vec::new());
        let token = fixture.token.clone();
        assert_eq!(fixture.ask(None, Some(&token), 1_500), Err(AuthRefusal::Unavailable));
    }
}
