//! Why one terminal has or has not got a push.

use cluster_proto::{
    AppId, AppReceipt, DropReason, PushId, State, TerminalId, TerminalNo,
    admin::{ExplainResponse, Explanation, TargetState},
    limits::OWED_PER_TERMINAL_MAX,
};
use raft_store::tables::{ReleasePhase, ReleaseRecord};
use tonic::Status;

use super::{Control, backend::Holding, server::Services, status};

impl<C: Control> Services<C> {
    pub(super) async fn explain_to(
        &self,
        app: AppId,
        push: PushId,
        id: TerminalId,
    ) -> Result<ExplainResponse, Status> {
        // Asked first: what it says may be over when the tables are read, and then a state tells.
        let dispatched = |no| self.control.dispatched_to(push, no);
        let dispatched_as = self.control.terminal(app, &id).and_then(|terminal| dispatched(terminal.no));
        let holding = self.control.holding(app, &id, dispatched_as.unwrap_or(push)).await;
        self.control.linearize().await.map_err(status::no_leader)?;
        let log_index = self.control.position().index;
        let view = self.push_of(app, push)?;
        let terminal = self.control.terminal(app, &id).ok_or_else(|| status::no_terminal(&id))?;
        let place = self.place(push, terminal.no);
        let offline_since_ms = match holding.edge {
            Some(_) => None,
            None => self.control.offline_since_ms(terminal.no),
        };
        let dispatched_as = dispatched(terminal.no);
        let owed_before = match (&place, dispatched_as) {
            (Place::Own(State::Pending), Some(id)) => {
                self.control.owed_before(terminal.no, id, OWED_PER_TERMINAL_MAX)
            }
            _ => 0,
        };
        let reported = self.control.reported_by(push, terminal.no);
        let (explanation, mut words) = match (&place, &view.release) {
            (Place::Own(State::Pending), Some(release)) if dispatched_as.is_none() => {
                (Explanation::NotReleased, not_released(release))
            }
            _ => explain(&place, &holding, owed_before),
        };
        if !reported.is_empty() {
            let reported: Vec<_> = reported.iter().map(|what| what.name()).collect();
            words = format!("{words}; its application reported it {}", reported.join(" and "));
        }
        if let (Explanation::Replaced, Some(by)) = (explanation, view.replaced_by) {
            words += &format!("; the newest is push {by}");
        }
        Ok(ExplainResponse {
            push: push.0,
            terminal: id.into(),
            state: place.state().map_or(TargetState::Unspecified, target_state) as i32,
            explanation: explanation as i32,
            words,
            edge: holding.edge.map_or(0, |edge| edge.0),
            offline_since_ms: offline_since_ms.unwrap_or(0),
            owed_before: owed_before as u64,
            expires_at_ms: view.expires_at_ms,
            log_index,
            displayed: reported.contains(&AppReceipt::Displayed),
            opened: reported.contains(&AppReceipt::Opened),
        })
    }

    fn place(&self, push: PushId, no: TerminalNo) -> Place {
        if let Some(state) = self.control.state_of(push, no) {
            return Place::Own(state);
        }
        let group = self.control.group_in_audience(push, no);
        let group = group.and_then(|(group, filter)| Some((self.control.state_of(push, group)?, filter)));
        group.map_or(Place::Nowhere, |(state, filter)| Place::OfGroup(state, filter))
    }
}

/// Where a terminal stands in an audience.
#[derive(Debug)]
enum Place {
    Nowhere,
    Own(State),
    /// One member of this shared subscription gets it.
    OfGroup(State, String),
}

impl Place {
    fn state(&self) -> Option<State> {
        match self {
            Self::Nowhere => None,
            Self::Own(state) | Self::OfGroup(state, _) => Some(*state),
        }
    }
}

fn explain(place: &Place, holding: &Holding, owed_before: usize) -> (Explanation, String) {
    let state = match place {
        Place::Nowhere => {
            let words = "it was not in the audience when the push was accepted: not registered, not subscribed, or otherwise not meant then";
            return (Explanation::NotInAudience, words.to_owned());
        }
        Place::OfGroup(state, filter) => {
            let words = format!("one member of {filter} gets it: for the group it is {}", state.name());
            return (Explanation::GroupChooses, words);
        }
        Place::Own(state) => state,
    };
    let (explanation, words) = match state {
        State::Pending => return pending(holding, owed_before),
        State::Delivered => (Explanation::Acknowledged, "the terminal acknowledged it"),
        State::Sent => (
            Explanation::WrittenUnanswered,
            "it was written to its connection, and no acknowledgement will come: QoS 0, or recalled, replaced \
             or expired before it was answered",
        ),
        State::Expired => {
            (Explanation::TimeToLiveOver, "its time to live was over before it could be handed out")
        }
        State::Cancelled => (Explanation::Recalled, "it was recalled before it was handed out"),
        State::Collapsed => (Explanation::Replaced, "a newer push with its collapse key took its place"),
        State::Dropped(reason) => dropped(*reason),
    };
    (explanation, words.to_owned())
}

fn dropped(reason: DropReason) -> (Explanation, &'static str) {
    match reason {
        DropReason::SessionGone => {
            (Explanation::SessionEnded, "its session ended, and with it the subscription the push was for")
        }
        DropReason::Offline => {
            (Explanation::WasOffline, "it was not connected, and a QoS 0 push is for those who are")
        }
        DropReason::Refused => {
            (Explanation::RefusedByTerminal, "the terminal answered with a reason code that refuses it")
        }
        DropReason::TooLarge => {
            (Explanation::TooLargeForTerminal, "it is larger than the Maximum Packet Size of the terminal")
        }
        DropReason::OverQuota => {
            (Explanation::OwedTooMuch, "the terminal was owed as many pushes as it may be")
        }
        DropReason::TerminalDeleted => (Explanation::TerminalWasDeleted, "the terminal was deleted"),
    }
}

fn pending(holding: &Holding, owed_before: usize) -> (Explanation, String) {
    match holding {
        Holding { edge: Some(edge), holds: true, .. } => (
            Explanation::InFlight,
            format!("edge {edge} has it for the terminal, which has not acknowledged it yet"),
        ),
        Holding { edge: Some(edge), .. } => (
            Explanation::Waiting,
            format!("connected to edge {edge}; {owed_before} pushes before it are not acknowledged yet"),
        ),
        Holding { known: true, .. } => {
            (Explanation::NotConnected, "not connected; it gets it when it connects in time".to_owned())
        }
        Holding { .. } => (
            Explanation::EdgesUnknown,
            "the leader is new, and not every edge has told what it has in flight: ask again".to_owned(),
        ),
    }
}

fn not_released(release: &ReleaseRecord) -> String {
    let percent = |share: u16| f64::from(share) / 100.0;
    match release.phase {
        ReleasePhase::Waiting => {
            "its part of the push is released later: next_at_ms of the status says when the next one is"
                .to_owned()
        }
        ReleasePhase::Held => "the push is held: resume or cancel it".to_owned(),
        ReleasePhase::HeldLow(share) => format!(
            "the push is held, because only {} % of those it was released to had acknowledged: resume or cancel it",
            percent(share)
        ),
        ReleasePhase::Halted(share) => {
            format!("the push is being recalled, because only {} % had acknowledged", percent(share))
        }
        ReleasePhase::Done => "the push is withdrawn".to_owned(),
    }
}

fn target_state(state: State) -> TargetState {
    match state {
        State::Pending => TargetState::Pending,
        State::Delivered => TargetState::Delivered,
        State::Sent => TargetState::Sent,
        State::Expired => TargetState::Expired,
        State::Cancelled => TargetState::Cancelled,
        State::Collapsed => TargetState::Collapsed,
        State::Dropped(_) => TargetState::Dropped,
    }
}

#[cfg(test)]
mod tests {
    use cluster_proto::NodeId;

    use super::*;

    #[test]
    fn every_state_has_a_code_of_its_own() {
        let holding = Holding { edge: None, holds: false, known: true };
        let codes: std::collections::BTreeSet<i32> =
            State::ALL.iter().map(|state| explain(&Place::Own(*state), &holding, 0).0 as i32).collect();
        assert_eq!(codes.len(), State::ALL.len());
    }

    #[test]
    fn what_is_pending_is_explained_by_where_the_terminal_is() {
        let edge = Some(NodeId(3));
        let pending = |holding: Holding| explain(&Place::Own(State::Pending), &holding, 7);
        assert_eq!(pending(Holding { edge, holds: true, known: true }).0, Explanation::InFlight);
        let (waiting, words) = pending(Holding { edge, holds: false, known: true });
        assert_eq!(waiting, Explanation::Waiting);
        assert!(words.contains("edge 3") && words.contains("7 pushes"), "{words}");
        assert_eq!(pending(Holding { edge: None, holds: false, known: true }).0, Explanation::NotConnected);
        assert_eq!(pending(Holding::default()).0, Explanation::EdgesUnknown);
    }
}
