//! The states of one (push, terminal).
//!
//! ```text
//!                  ┌─► Delivered   the terminal acknowledged
//!                  │       ▲ a late acknowledgement may still arrive
//!  Pending ────────┼─► Sent        written to its connection, and no acknowledgement will come
//!  (owed; may be   ├─► Expired     time to live over before it was handed out
//!   in flight)     ├─► Cancelled   recalled before it was handed out
//!                  ├─► Collapsed   a newer push with its collapse key replaced it
//!                  └─► Dropped     with a reason
//! ```
//! Everything but `Pending` is final; only `Sent → Delivered` may follow.

use serde::{Deserialize, Serialize};

/// Where one (push, terminal) stands. The conservation law: an audience is the disjoint union of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum State {
    /// Owed; may be in flight.
    Pending,
    /// The terminal acknowledged.
    Delivered,
    /// Written to the terminal's connection; no acknowledgement will come.
    Sent,
    /// The time to live was over before it was handed out.
    Expired,
    /// Recalled before it was handed out.
    Cancelled,
    /// Replaced by a newer push with the same collapse key.
    Collapsed,
    /// Will not be delivered, for the reason given.
    Dropped(DropReason),
}

/// Why a push will not be delivered to a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum DropReason {
    /// A topic push whose session ended first.
    SessionGone,
    /// A QoS 0 push, and the terminal was not online.
    Offline,
    /// The terminal answered with a refusing reason code (MQTT 5).
    Refused,
    /// Larger than the terminal's Maximum Packet Size.
    TooLarge,
    /// The terminal was already owed the most it may be.
    OverQuota,
    /// The terminal was deleted.
    TerminalDeleted,
}

impl DropReason {
    /// All reasons, in stored order.
    pub const ALL: [Self; 6] = [
        Self::SessionGone,
        Self::Offline,
        Self::Refused,
        Self::TooLarge,
        Self::OverQuota,
        Self::TerminalDeleted,
    ];

    /// The name used in the CLI, metrics and docs.
    pub fn name(self) -> &'static str {
        match self {
            Self::SessionGone => "session-gone",
            Self::Offline => "offline",
            Self::Refused => "refused",
            Self::TooLarge => "too-large",
            Self::OverQuota => "over-quota",
            Self::TerminalDeleted => "terminal-deleted",
        }
    }
}

impl State {
    /// All states, in stored order; `Dropped` once per reason.
    pub const ALL: [Self; 12] = [
        Self::Pending,
        Self::Delivered,
        Self::Sent,
        Self::Expired,
        Self::Cancelled,
        Self::Collapsed,
        Self::Dropped(DropReason::SessionGone),
        Self::Dropped(DropReason::Offline),
        Self::Dropped(DropReason::Refused),
        Self::Dropped(DropReason::TooLarge),
        Self::Dropped(DropReason::OverQuota),
        Self::Dropped(DropReason::TerminalDeleted),
    ];

    /// The byte under which tables keep this state. Never changes meaning.
    pub fn code(self) -> u8 {
        match self {
            Self::Pending => 0,
            Self::Delivered => 1,
            Self::Sent => 2,
            Self::Expired => 3,
            Self::Cancelled => 4,
            Self::Collapsed => 5,
            Self::Dropped(DropReason::SessionGone) => 16,
            Self::Dropped(DropReason::Offline) => 17,
            Self::Dropped(DropReason::Refused) => 18,
            Self::Dropped(DropReason::TooLarge) => 19,
            Self::Dropped(DropReason::OverQuota) => 20,
            Self::Dropped(DropReason::TerminalDeleted) => 21,
        }
    }

    /// The state of a stored byte; `None` for a byte of a newer version.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.code() == code)
    }

    /// The name used in the CLI, metrics and docs (`dropped` whatever the reason).
    pub fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Sent => "sent",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
            Self::Collapsed => "collapsed",
            Self::Dropped(_) => "dropped",
        }
    }

    /// Whether a (push, terminal) may go from `self` to `next` (I4).
    pub fn may_become(self, next: Self) -> bool {
        match (self, next) {
            (Self::Pending, next) => next != Self::Pending,
            (Self::Sent, Self::Delivered) => true,
            _ => false,
        }
    }
}

/// What the application on a terminal reports of a push it got. Kept beside the states and outside the conservation law:
/// neither implies the other, and neither makes a push delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum AppReceipt {
    /// It was shown to somebody.
    Displayed,
    /// Somebody opened it.
    Opened,
}

impl AppReceipt {
    /// All of them, in stored order.
    pub const ALL: [Self; 2] = [Self::Displayed, Self::Opened];

    /// The byte under which tables keep it; never one of [`State::code`], and never changes meaning.
    pub fn code(self) -> u8 {
        match self {
            Self::Displayed => 0xf0,
            Self::Opened => 0xf1,
        }
    }

    /// The name used in topics, the CLI, metrics and docs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Displayed => "displayed",
            Self::Opened => "opened",
        }
    }
}

/// What an edge reports about (push, terminals): a final state it witnessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Outcome {
    /// The terminal acknowledged (I2: never reported otherwise).
    Delivered,
    /// Written, and no acknowledgement will come.
    Sent,
    /// The edge or the terminal will not take it.
    Dropped(DropReason),
    /// Withdrawn by the leader before it was written: becomes what it was withdrawn for.
    NotWritten,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_has_its_own_code() {
        for state in State::ALL {
            assert_eq!(State::from_code(state.code()), Some(state));
        }
    }

    #[test]
    fn what_applications_report_is_no_state() {
        for what in AppReceipt::ALL {
            assert_eq!(State::from_code(what.code()), None);
        }
    }

    #[test]
    fn only_sent_to_delivered_follows_a_final_state() {
        for from in State::ALL.into_iter().filter(|s| *s != State::Pending) {
            for to in State::ALL {
                let allowed = from == State::Sent && to == State::Delivered;
                assert_eq!(from.may_become(to), allowed, "{from:?} -> {to:?}");
            }
        }
    }
}
