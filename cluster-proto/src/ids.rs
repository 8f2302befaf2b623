//! Identities. All are newtypes, even where several are the same integer.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::limits::TERMINAL_ID_LEN_MAX;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($int:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $int);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    };
}

id! {
    /// A node of the cluster, whatever its roles. Stable over restarts, never reused for another machine.
    NodeId(u64)
}
id! {
    /// One life of an edge process: larger for every later start of the same node.
    Incarnation(u64)
}
id! {
    /// An app (tenant). [`AppId::DEFAULT`] exists from the start.
    AppId(u32)
}
id! {
    /// Dense number of a terminal: what bitmaps hold. Below [`TerminalNo::UNREGISTERED_FIRST`] given once at
    /// registration; above, lent to clients that are not registered, and returned.
    TerminalNo(u32)
}
id! {
    /// A push: the group in the upper 8 bits, a counter in log order in the lower 56.
    PushId(u64)
}
id! {
    /// One session of a terminal; a new one after every clean start or expiry. In log order.
    SessionId(u64)
}

impl AppId {
    /// The app named `default`.
    pub const DEFAULT: Self = Self(1);
}

impl TerminalNo {
    /// First number of the range lent to clients that are not registered.
    pub const UNREGISTERED_FIRST: Self = Self(1 << 31);

    /// Whether this number was given at registration.
    pub fn is_registered(self) -> bool {
        self < Self::UNREGISTERED_FIRST
    }

    /// The block of 65,536 terminals this number lies in: one bitmap container.
    pub fn block(self) -> u16 {
        (self.0 >> 16) as u16
    }
}

impl PushId {
    const COUNTER_BITS: u32 = 56;

    /// Composes an id; `counter` must fit 56 bits.
    pub fn new(group: u8, counter: u64) -> Self {
        debug_assert!(counter < 1 << Self::COUNTER_BITS);
        Self((u64::from(group) << Self::COUNTER_BITS) | counter)
    }

    /// No Raft group has it: the ids of retained messages, which are delivered beside the pushes.
    const RETAINED_GROUP: u8 = u8::MAX;

    /// The id under which a session holds a retained message. A message that replaces it has another one.
    pub fn retained(counter: u64) -> Self {
        Self::new(Self::RETAINED_GROUP, counter)
    }

    /// Whether this names a retained message, and no push.
    pub fn is_retained(self) -> bool {
        self.group() == Self::RETAINED_GROUP
    }

    /// The Raft group that accepted this push.
    pub fn group(self) -> u8 {
        (self.0 >> Self::COUNTER_BITS) as u8
    }
}

/// Fences bindings: a newer leader always wins, and within a term the later binding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Epoch {
    /// Raft term of the leader that made the binding.
    pub term: u64,
    /// Counts bindings within the term.
    pub counter: u64,
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.term, self.counter)
    }
}

/// A terminal's own name: its MQTT client id. 1 to [`TERMINAL_ID_LEN_MAX`] bytes, no control characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TerminalId(Box<str>);

/// Why a string is not a terminal id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TerminalIdError {
    /// No characters at all.
    #[error("terminal id is empty")]
    Empty,
    /// Longer than [`TERMINAL_ID_LEN_MAX`].
    #[error("terminal id has {0} bytes, the most is {TERMINAL_ID_LEN_MAX}")]
    TooLong(usize),
    /// A control character, which would break logs, topics and lists.
    #[error("terminal id has a control character at byte {0}")]
    Control(usize),
}

impl TerminalId {
    /// Checks and wraps `id`.
    pub fn new(id: impl Into<String>) -> Result<Self, TerminalIdError> {
        let id = id.into();
        if id.is_empty() {
            return Err(TerminalIdError::Empty);
        }
        if id.len() > TERMINAL_ID_LEN_MAX {
            return Err(TerminalIdError::TooLong(id.len()));
        }
        if let Some((at, _)) = id.char_indices().find(|(_, c)| c.is_control()) {
            return Err(TerminalIdError::Control(at));
        }
        Ok(Self(id.into_boxed_str()))
    }

    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for TerminalId {
    type Error = TerminalIdError;

    fn try_from(id: String) -> Result<Self, Self::Error> {
        Self::new(id)
    }
}

impl From<TerminalId> for String {
    fn from(id: TerminalId) -> Self {
        id.0.into()
    }
}

impl fmt::Display for TerminalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TerminalId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TerminalId({:?})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_id_with_a_control_character_is_refused_with_its_position() {
        assert_eq!(TerminalId::new("tv\n1"), Err(TerminalIdError::Control(2)));
        assert_eq!(TerminalId::new(""), Err(TerminalIdError::Empty));
        assert!(TerminalId::new("tv-1").is_ok());
    }

    #[test]
    fn push_ids_of_one_group_are_ordered_by_counter() {
        assert!(PushId::new(0, 1) < PushId::new(0, 2));
        assert_eq!(PushId::new(3, 9).group(), 3);
    }

    #[test]
    fn epochs_of_a_newer_term_win_whatever_the_counter() {
        assert!(Epoch { term: 2, counter: 0 } > Epoch { term: 1, counter: 99 });
    }
}
