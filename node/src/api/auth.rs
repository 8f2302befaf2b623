//! Who calls, and what they may do.
//!
//! A caller is known by an API token (`authorization: Bearer …`) or by an operator's client certificate. A control
//! node that passes on an operator's call says so in a header, which counts only with that node's own certificate:
//! an edge cannot make itself an operator.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use cluster_proto::{AppId, credential::Scope};
use http::{Extensions, HeaderMap, header::AUTHORIZATION};
use tonic::{
    Request, Status,
    transport::server::{TcpConnectInfo, TlsConnectInfo},
};

use super::status;
use crate::{
    auth::Keyring,
    transport::identity::{Identity, Peer},
};

/// Set by a control node on the call of an operator that it passes on.
pub const OPERATOR_HEADER: &str = "carillon-operator";

/// Verifies callers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Gate {
    keyring: Keyring,
    clock: Arc<dyn Clock>,
    /// Where services are.
    apps: Option<AppNumbers>,
}

type FindApp = dyn Fn(&str) -> Option<AppId> + Send + Sync;

/// Finds the number of an app by its name.
#[derive(Clone)]
struct AppNumbers(Arc<FindApp>);

impl std::fmt::Debug for AppNumbers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AppNumbers")
    }
}

/// The time tokens are compared with.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// Milliseconds since the epoch.
    fn now_ms(&self) -> u64;
}

/// The clock of this machine.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock;

/// A verified caller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// For logs.
    pub name: String,
    /// App it is limited to.
    app: Option<String>,
    app_id: Option<u32>,
    scopes: Vec<Scope>,
    /// Came with an operator's certificate.
    pub operator: bool,
}

impl Clock for SystemClock {
    fn now_ms(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }
}

impl Gate {
    /// Verifies with these keys.
    pub fn new(keyring: Keyring) -> Self {
        Self::with_clock(keyring, Arc::new(SystemClock))
    }

    /// With another clock.
    pub fn with_clock(keyring: Keyring, clock: Arc<dyn Clock>) -> Self {
        Self { keyring, clock, apps: None }
    }

    /// The same gate, which tells tokens of an app from those of an earlier one of its name.
    pub fn knowing_apps(self, find: impl Fn(&str) -> Option<AppId> + Send + Sync + 'static) -> Self {
        Self { apps: Some(AppNumbers(Arc::new(find))), ..self }
    }

    /// Milliseconds since the epoch.
    pub fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    /// Whether tokens can be verified here at all.
    pub fn has_keys(&self) -> bool {
        !self.keyring.is_empty()
    }

    /// The caller of a request, if it may do `scope`.
    pub fn allow<T>(&self, request: &Request<T>, scope: Scope) -> Result<Caller, Status> {
        self.allow_still(request.metadata().as_ref(), request.extensions(), scope)
    }

    /// The same of a call that lasts, looked at again: its token may have expired, its app may be deleted.
    pub fn allow_still(
        &self,
        headers: &HeaderMap,
        extensions: &Extensions,
        scope: Scope,
    ) -> Result<Caller, Status> {
        let caller = self.caller(headers, extensions)?;
        self.check_app(&caller)?;
        if caller.may(scope) { Ok(caller) } else { Err(lacks(&caller, scope)) }
    }

    /// A name may be given again when its app is deleted; a number never is.
    fn check_app(&self, caller: &Caller) -> Result<(), Status> {
        let (Some(apps), Some(name), Some(id)) = (&self.apps, &caller.app, caller.app_id) else {
            return Ok(());
        };
        match (apps.0)(name) {
            Some(now) if now.0 == id => Ok(()),
            _ => Err(Status::unauthenticated(format!(
                "the app {name:?} this token was issued for is deleted: ask for a new token"
            ))),
        }
    }

    /// The caller of a raw request, whatever it may do.
    pub fn caller(&self, headers: &HeaderMap, extensions: &Extensions) -> Result<Caller, Status> {
        if is_operator(headers, extensions) {
            return Ok(Caller::operator());
        }
        if !self.has_keys() {
            return Err(status::not_initialised());
        }
        let claims = self
            .keyring
            .verify_api(bearer(headers)?, self.now_ms() / 1_000)
            .map_err(|error| status::auth(&error))?;
        Ok(Caller {
            name: claims.sub,
            app: claims.app,
            app_id: claims.app_id,
            scopes: claims.scopes,
            operator: false,
        })
    }
}

impl Caller {
    fn operator() -> Self {
        Self {
            name: "operator".to_owned(),
            app: None,
            app_id: None,
            scopes: vec![Scope::Admin],
            operator: true,
        }
    }

    /// Admin may everything; everybody may read.
    fn may(&self, scope: Scope) -> bool {
        let has = |scope| self.scopes.contains(&scope);
        match scope {
            Scope::Read => !self.scopes.is_empty(),
            scope => has(scope) || has(Scope::Admin),
        }
    }

    /// Checks that it may act in this app.
    pub fn in_app(&self, name: &str) -> Result<(), Status> {
        match &self.app {
            Some(own) if own != name => {
                Err(Status::permission_denied(format!("this token is for app {own:?}, not {name:?}")))
            }
            _ => Ok(()),
        }
    }

    /// Checks that it is not limited to an app.
    pub fn everywhere(&self) -> Result<(), Status> {
        match &self.app {
            Some(own) => Err(Status::permission_denied(format!("this token is for app {own:?} only"))),
            None => Ok(()),
        }
    }
}

/// Whether the call comes from an operator, directly or through a control node.
pub(super) fn is_operator(headers: &HeaderMap, extensions: &Extensions) -> bool {
    match peer(extensions) {
        Some(Peer::Operator) => true,
        Some(Peer::Node(Identity { roles, .. })) => roles.control && headers.contains_key(OPERATOR_HEADER),
        None => false,
    }
}

/// Whom the verified client certificate names.
fn peer(extensions: &Extensions) -> Option<Peer> {
    let certificates = extensions.get::<TlsConnectInfo<TcpConnectInfo>>()?.peer_certs()?;
    Peer::from_certificate(certificates.first()?).ok()
}

fn bearer(headers: &HeaderMap) -> Result<&str, Status> {
    let missing = || {
        Status::unauthenticated(
            "no token: send `authorization: Bearer TOKEN` (the CLI: --token or CARILLON_TOKEN)",
        )
    };
    let value = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()).ok_or_else(missing)?;
    let (scheme, token) = value.split_once(' ').ok_or_else(missing)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(token.trim()) } else { Err(missing()) }
}

fn lacks(caller: &Caller, scope: Scope) -> Status {
    let scope = match scope {
        Scope::Admin => "admin",
        Scope::Push => "push",
        Scope::Terminals => "terminals",
        Scope::Read => "read",
    };
    Status::permission_denied(format!("the token of {:?} lacks the scope {scope:?}", caller.name))
}
