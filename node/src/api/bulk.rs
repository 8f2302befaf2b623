//! Terminals by expression: changed, deleted, listed. What an expression means is resolved once, into a set of numbers;
//! then the set is gone through in bounded steps, each of which passes over whoever is deleted meanwhile.

use cluster_proto::{AppId, Audience, TerminalNo, TerminalSet, admin};
use raft_store::{Applied, CommandBody, command::LabelChange};
use tonic::Status;

use super::{Control, audience, server::Services, status, validate};

/// Terminals whose labels one command changes.
const UPDATED_AT_ONCE: usize = 10_000;
/// Terminals one command deletes: each may have a session and be owed much.
const DELETED_AT_ONCE: usize = 200;

impl<C: Control> Services<C> {
    pub(super) async fn update_terminals(
        &self,
        app: AppId,
        mut request: admin::UpdateTerminalsRequest,
    ) -> Result<admin::UpdateTerminalsResponse, Status> {
        let change = validate::label_change(&mut request)?;
        let audience = audience::of_terminals(request.audience)?;
        let meant = self.meant(app, audience).await?;
        let body = |terminals| {
            let change = LabelChange::clone(&change);
            CommandBody::UpdateTerminals { app, terminals, change }
        };
        let (changed, left) = self.in_steps(&meant, UPDATED_AT_ONCE, "changed", body).await?;
        Ok(admin::UpdateTerminalsResponse { changed, left })
    }

    pub(super) async fn delete_terminals(
        &self,
        app: AppId,
        request: admin::DeleteTerminalsRequest,
    ) -> Result<admin::DeleteTerminalsResponse, Status> {
        let audience = match (request.ids.is_empty(), request.audience) {
            (false, None) => Audience::Terminals(validate::ids("ids", request.ids)?),
            (true, audience @ Some(_)) => audience::of_terminals(audience)?,
            _ => return Err(validate::invalid("name either ids or an audience")),
        };
        let meant = self.meant(app, audience).await?;
        let body = |terminals| CommandBody::DeleteTerminals { app, terminals };
        let (deleted, _) = self.in_steps(&meant, DELETED_AT_ONCE, "deleted", body).await?;
        Ok(admin::DeleteTerminalsResponse { deleted })
    }

    /// The registered terminals an expression means now.
    pub(super) async fn meant(&self, app: AppId, audience: Audience) -> Result<TerminalSet, Status> {
        let online = self.online_for(&audience).await?;
        self.control.linearize().await.map_err(status::no_leader)?;
        let control = self.control.clone();
        let resolved =
            tokio::task::spawn_blocking(move || control.resolve(&audience, app, "", online.as_ref()));
        let resolved = resolved.await.map_err(|_| status::unavailable("this node is going down"))?;
        resolved.map_err(|refusal| status::refusal(&refusal))
    }

    /// One command after the other; how many terminals were changed, and how many left. Making the call again does the
    /// rest.
    async fn in_steps(
        &self,
        meant: &TerminalSet,
        at_once: usize,
        done: &str,
        body: impl Fn(TerminalSet) -> CommandBody,
    ) -> Result<(u64, u64), Status> {
        let (mut all_changed, mut all_full) = (0, 0);
        let mut rest = meant.iter();
        loop {
            let step: TerminalSet = rest.by_ref().take(at_once).collect();
            if step.is_empty() {
                return Ok((all_changed, all_full));
            }
            let failed = match self.control.propose(body(step)).await {
                Ok(Applied::Changed { changed, full }) => {
                    all_changed += changed;
                    all_full += full;
                    continue;
                }
                Ok(other) => status::unexpected(&other),
                Err(error) => status::propose(error),
            };
            return Err(match all_changed {
                0 => failed,
                n => status::after(
                    &format!(
                        "{n} terminals are {done}; call again for the rest, by id without those that are not there any more"
                    ),
                    &failed,
                ),
            });
        }
    }

    /// The next page of a set, after a number; at most `limit`. Whoever is deleted meanwhile is left out.
    pub(super) fn page_of(
        &self,
        meant: &TerminalSet,
        after: TerminalNo,
        limit: usize,
    ) -> Vec<super::backend::TerminalView> {
        let next = meant.0.range(after.0.saturating_add(1)..);
        next.filter_map(|no| self.control.terminal_by_no(TerminalNo(no))).take(limit).collect()
    }
}
