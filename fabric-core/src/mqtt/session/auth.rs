//! Enhanced authentication: a fresh credential without a new connection (MQTT 5, section 4.12).

use bytes::Bytes;

use super::{Context, Live, Session, Stage};
use crate::mqtt::{
    action::{Action, Grant, MessageHandle, Moment},
    packet::{Auth, Connect, Packet},
    reason::{self, AuthRefusal, CloseCause, Reason},
};

/// The one Authentication Method we know: Authentication Data is a terminal credential.
pub const AUTH_METHOD: &str = "JWT";

/// The credential of a CONNECT: the data of enhanced authentication, or the password.
pub(super) fn credential(connect: &mut Connect) -> Result<Option<Bytes>, Reason> {
    let properties = &mut connect.properties;
    match properties.authentication_method.as_deref() {
        None => Ok(connect.password.take()),
        // [MQTT-4.12.0-1].
        Some(method) if method != AUTH_METHOD => Err(Reason::BAD_AUTHENTICATION_METHOD),
        Some(_) => match properties.authentication_data.take() {
            Some(data) => Ok(Some(data)),
            None => Err(Reason::NOT_AUTHORIZED),
        },
    }
}

impl<M: MessageHandle> Session<M> {
    /// The answer to [`Action::Reauthenticate`].
    pub fn handle_reauthenticated(
        &mut self,
        at: Moment,
        result: Result<Grant, AuthRefusal>,
        out: &mut Vec<Action<M>>,
    ) {
        let Stage::Live(live) = &mut self.stage else { return };
        if !std::mem::take(&mut live.reauthenticating) {
            return;
        }
        let ended = match result {
            Ok(grant) => self.cx.renew(at, grant),
            Err(refused) => Err(CloseCause::Peer(reason::refused_reauthentication(refused))),
        };
        match ended {
            Ok(()) => {
                let method = Some(AUTH_METHOD.to_owned());
                let auth = Auth { reason: Reason::SUCCESS, method, ..Auth::default() };
                out.push(Action::Send(Packet::Auth(Box::new(auth))));
                live.give_up_forbidden(&self.cx, out);
            }
            Err(cause) => self.end(cause, out),
        }
    }
}

impl<M: MessageHandle> Live<M> {
    pub(super) fn handle_auth(
        &mut self,
        cx: &Context,
        auth: Auth,
        out: &mut Vec<Action<M>>,
    ) -> Result<(), CloseCause> {
        // [MQTT-4.12.0-7], [MQTT-4.12.1-1]: only with the method of CONNECT, and only this begins anything.
        if !cx.enhanced || auth.reason != Reason::REAUTHENTICATE || self.reauthenticating {
            return Err(CloseCause::Peer(Reason::PROTOCOL_ERROR));
        }
        match (auth.method.as_deref(), auth.data) {
            (None, _) => Err(CloseCause::Peer(Reason::PROTOCOL_ERROR)),
            (Some(method), _) if method != AUTH_METHOD => {
                Err(CloseCause::Peer(Reason::BAD_AUTHENTICATION_METHOD))
            }
            (Some(_), None) => Err(CloseCause::Peer(Reason::NOT_AUTHORIZED)),
            (Some(_), Some(data)) => {
                self.reauthenticating = true;
                out.push(Action::Reauthenticate(data));
                Ok(())
            }
        }
    }
}

impl Context {
    /// The fresh credential takes the place of the old one; it has to be of the same terminal.
    fn renew(&mut self, at: Moment, grant: Grant) -> Result<(), CloseCause> {
        let same = self
            .grant
            .as_ref()
            .is_some_and(|old| (old.app, &old.terminal, old.no) == (grant.app, &grant.terminal, grant.no));
        if !same {
            return Err(CloseCause::Peer(Reason::NOT_AUTHORIZED));
        }
        self.grant = Some(Box::new(grant));
        if self.credential_expired(at.ms) { Err(CloseCause::CredentialExpired) } else { Ok(()) }
    }
}
