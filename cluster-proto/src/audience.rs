//! Whom a push is for: an expression over what is known of terminals.
//!
//! It has a text form, `fabric_core::audience`, and a form in the API; both become this, and this is what the log
//! holds. What it means is decided when the push is applied, and is frozen then.

use serde::{Deserialize, Serialize};

use crate::{
    PushId, PushKind, TerminalId, TerminalNo,
    limits::{
        ALIAS_LEN_MAX, AUDIENCE_DEPTH_MAX, AUDIENCE_NODES_MAX, AUDIENCE_SCANS_MAX, TAG_KEY_LEN_MAX,
        TAG_VALUE_LEN_MAX, TERMINALS_PER_CALL_MAX,
    },
};

/// An audience expression.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Audience {
    /// These terminals; an unknown one refuses the push.
    Terminals(Vec<TerminalId>),
    /// Every registered terminal of the app.
    All,
    /// Every session with a replicated subscription that matches the push's topic.
    Topic,
    /// The terminals of these aliases; an alias may have many, or none.
    Aliases(Vec<String>),
    /// The terminals with this tag.
    Tag {
        /// Its key.
        key: String,
        /// Its value.
        value: String,
    },
    /// The terminals connected when the push is proposed.
    Online,
    /// The others.
    Offline,
    /// Who acknowledged that push of the same app.
    Delivered(PushId),
    /// Who must still get it.
    Pending(PushId),
    /// A slice of everyone, the same at every time.
    Sample(Sample),
    /// Who is in all of them. At least two.
    And(Vec<Self>),
    /// Who is in any of them. At least two.
    Or(Vec<Self>),
    /// Who is not in it.
    Not(Box<Self>),
    /// Who was connected within so many days, 1 to [`crate::limits::SEEN_DAYS_MAX`], or registered: counted by days of UTC, the day
    /// it is now and as many before it.
    Seen(u8),
}

/// A range of the [`Sample::BUCKETS`] buckets that terminals fall into by their numbers. Ranges that do not overlap
/// share no terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    from: u16,
    to: u16,
}

/// The expression is larger than an expression may be; what it means may be of any size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AudienceTooLarge {
    /// Over [`AUDIENCE_NODES_MAX`].
    #[error("the expression has {0} parts, the most is {AUDIENCE_NODES_MAX}")]
    Nodes(usize),
    /// Over [`AUDIENCE_DEPTH_MAX`].
    #[error("the expression is nested {0} deep, the most is {AUDIENCE_DEPTH_MAX}")]
    Depth(usize),
    /// Over [`AUDIENCE_SCANS_MAX`].
    #[error(
        "the expression has {0} of sample, delivered, pending and seen (which counts {SEEN_SCANS}), the most is \
         {AUDIENCE_SCANS_MAX}"
    )]
    Scans(usize),
    /// Over [`TERMINALS_PER_CALL_MAX`].
    #[error("the expression names {0} terminals and aliases, the most is {TERMINALS_PER_CALL_MAX}")]
    Names(usize),
}

/// What a `seen` counts among what is scanned: for each block of terminals it reads a set for each of its days.
const SEEN_SCANS: usize = 4;

/// Why a text is not an alias, or not a part of a tag.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabelError {
    /// No characters at all.
    #[error("{0} is empty")]
    Empty(&'static str),
    /// Longer than it may be.
    #[error("{what} has {len} bytes, the most is {max}")]
    TooLong {
        /// What the text was to be.
        what: &'static str,
        /// Bytes.
        len: usize,
        /// The most.
        max: usize,
    },
    /// A control character, which would break logs and lists.
    #[error("{0} has a control character at byte {1}")]
    Control(&'static str, usize),
    /// Would be read as the end of the key.
    #[error("tag key has a `=` at byte {0}")]
    Equals(usize),
}

impl Audience {
    /// A push to an audience that nobody is in without subscribing to the topic is owed to sessions, at the QoS of
    /// their subscriptions. Any other is owed to terminals.
    pub fn kind(&self) -> PushKind {
        if self.implies_subscriber() { PushKind::Topic } else { PushKind::Identity }
    }

    fn implies_subscriber(&self) -> bool {
        match self {
            Self::Topic => true,
            Self::And(members) => members.iter().any(Self::implies_subscriber),
            Self::Or(members) => !members.is_empty() && members.iter().all(Self::implies_subscriber),
            _ => false,
        }
    }

    /// Whether it depends on who is connected.
    pub fn mentions_online(&self) -> bool {
        matches!(self, Self::Online | Self::Offline) || self.members().iter().any(Self::mentions_online)
    }

    /// Whether it depends on who subscribes to the push's topic.
    pub fn mentions_topic(&self) -> bool {
        *self == Self::Topic || self.members().iter().any(Self::mentions_topic)
    }

    /// Refuses an expression that is too large.
    pub fn check_size(&self) -> Result<(), AudienceTooLarge> {
        match (self.nodes(), self.depth(), self.scans(), self.names()) {
            (nodes, ..) if nodes > AUDIENCE_NODES_MAX => Err(AudienceTooLarge::Nodes(nodes)),
            (_, _, scans, _) if scans > AUDIENCE_SCANS_MAX => Err(AudienceTooLarge::Scans(scans)),
            (_, depth, ..) if depth > AUDIENCE_DEPTH_MAX => Err(AudienceTooLarge::Depth(depth)),
            (.., names) if names > TERMINALS_PER_CALL_MAX => Err(AudienceTooLarge::Names(names)),
            _ => Ok(()),
        }
    }

    /// What an operator combines.
    fn members(&self) -> &[Self] {
        match self {
            Self::And(members) | Self::Or(members) => members,
            Self::Not(member) => std::slice::from_ref(member),
            _ => &[],
        }
    }

    fn nodes(&self) -> usize {
        1 + self.members().iter().map(Self::nodes).sum::<usize>()
    }

    fn depth(&self) -> usize {
        1 + self.members().iter().map(Self::depth).max().unwrap_or(0)
    }

    fn scans(&self) -> usize {
        match self {
            Self::Sample(_) | Self::Delivered(_) | Self::Pending(_) => 1,
            Self::Seen(_) => SEEN_SCANS,
            _ => self.members().iter().map(Self::scans).sum(),
        }
    }

    fn names(&self) -> usize {
        match self {
            Self::Terminals(ids) => ids.len(),
            Self::Aliases(names) => names.len(),
            _ => self.members().iter().map(Self::names).sum(),
        }
    }
}

impl Sample {
    /// Into how many buckets terminals fall: hundredths of a percent.
    pub const BUCKETS: u16 = 10_000;

    /// The buckets `from..to`; `None` if there are none, or no such buckets.
    pub fn new(from: u16, to: u16) -> Option<Self> {
        (from < to && to <= Self::BUCKETS).then_some(Self { from, to })
    }

    /// The first bucket in it.
    pub fn from(self) -> u16 {
        self.from
    }

    /// The first bucket that is not in it any more.
    pub fn to(self) -> u16 {
        self.to
    }

    /// Whether it leaves nobody out.
    pub fn is_everyone(self) -> bool {
        (self.from, self.to) == (0, Self::BUCKETS)
    }

    /// Whether a terminal is in the slice.
    pub fn contains(self, no: TerminalNo) -> bool {
        (self.from..self.to).contains(&Self::bucket(no))
    }

    /// The bucket of a terminal. Never changes: a later push to the next slice must not meet the same terminals.
    pub fn bucket(no: TerminalNo) -> u16 {
        // The finalizer of MurmurHash3: every bit of the number changes half of the bits.
        let mut hash = no.0;
        hash ^= hash >> 16;
        hash = hash.wrapping_mul(0x85eb_ca6b);
        hash ^= hash >> 13;
        hash = hash.wrapping_mul(0xc2b2_ae35);
        hash ^= hash >> 16;
        ((u64::from(hash) * u64::from(Self::BUCKETS)) >> 32) as u16
    }
}

/// Refuses what is no alias.
pub fn check_alias(alias: &str) -> Result<(), LabelError> {
    check_label("alias", alias, ALIAS_LEN_MAX)
}

/// Refuses what is no key of a tag.
pub fn check_tag_key(key: &str) -> Result<(), LabelError> {
    check_label("tag key", key, TAG_KEY_LEN_MAX)?;
    key.find('=').map_or(Ok(()), |at| Err(LabelError::Equals(at)))
}

/// Refuses what is no value of a tag. It may be empty.
pub fn check_tag_value(value: &str) -> Result<(), LabelError> {
    if value.is_empty() { Ok(()) } else { check_label("tag value", value, TAG_VALUE_LEN_MAX) }
}

fn check_label(what: &'static str, text: &str, max: usize) -> Result<(), LabelError> {
    if text.is_empty() {
        return Err(LabelError::Empty(what));
    }
    if text.len() > max {
        return Err(LabelError::TooLong { what, len: text.len(), max });
    }
    match text.char_indices().find(|(_, c)| c.is_control()) {
        Some((at, _)) => Err(LabelError::Control(what, at)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag() -> Audience {
        Audience::Tag { key: "os".into(), value: "tv".into() }
    }

    fn not(member: Audience) -> Audience {
        Audience::Not(Box::new(member))
    }

    #[test]
    fn only_an_audience_of_subscribers_makes_a_topic_push() {
        let topic = [
            Audience::Topic,
            Audience::And(vec![tag(), Audience::Topic]),
            Audience::And(vec![not(tag()), Audience::Or(vec![Audience::Topic, Audience::Topic])]),
            Audience::Or(vec![Audience::Topic, Audience::And(vec![Audience::Topic, tag()])]),
        ];
        let identity = [
            Audience::All,
            not(Audience::Topic),
            not(not(Audience::Topic)),
            Audience::Or(vec![Audience::Topic, tag()]),
            Audience::And(vec![tag(), not(Audience::Topic)]),
        ];
        assert!(topic.iter().all(|audience| audience.kind() == PushKind::Topic));
        assert!(identity.iter().all(|audience| audience.kind() == PushKind::Identity));
    }

    #[test]
    fn what_an_audience_depends_on_is_found_at_any_depth() {
        let deep = not(Audience::Or(vec![tag(), Audience::And(vec![Audience::Offline, Audience::Topic])]));
        assert!(deep.mentions_online() && deep.mentions_topic());
        assert!(!tag().mentions_online() && !tag().mentions_topic());
    }

    #[test]
    fn an_expression_is_bounded_and_what_it_means_is_not() {
        let wide = |len| Audience::Or(vec![tag(); len]);
        assert_eq!(wide(AUDIENCE_NODES_MAX - 1).check_size(), Ok(()));
        let nodes = AUDIENCE_NODES_MAX + 1;
        assert_eq!(wide(AUDIENCE_NODES_MAX).check_size(), Err(AudienceTooLarge::Nodes(nodes)));
        let deep = |len| (1..len).fold(Audience::All, |inner, _| not(inner));
        assert_eq!(deep(AUDIENCE_DEPTH_MAX).check_size(), Ok(()));
        let depth = AUDIENCE_DEPTH_MAX + 1;
        assert_eq!(deep(depth).check_size(), Err(AudienceTooLarge::Depth(depth)));
        let half = Audience::Aliases(vec!["a".into(); TERMINALS_PER_CALL_MAX / 2 + 1]);
        assert_eq!(half.check_size(), Ok(()));
        let names = TERMINALS_PER_CALL_MAX + 2;
        let both = Audience::Or(vec![half.clone(), half]);
        assert_eq!(both.check_size(), Err(AudienceTooLarge::Names(names)));
    }

    #[test]
    fn slices_that_do_not_overlap_share_nobody_and_all_together_are_everyone() {
        let cuts = [0, 1, 100, 2_550, 5_000, Sample::BUCKETS];
        let slices: Vec<_> =
            cuts.windows(2).map(|cut| Sample::new(cut[0], cut[1]).expect("a range")).collect();
        for no in (0..50_000).map(TerminalNo) {
            assert_eq!(slices.iter().filter(|slice| slice.contains(no)).count(), 1);
        }
        assert_eq!((Sample::new(5, 5), Sample::new(0, Sample::BUCKETS + 1)), (None, None));
    }

    #[test]
    fn a_slice_is_about_as_large_as_it_says() {
        let tenth = Sample::new(3_000, 4_000).expect("a range");
        let found = (1..=100_000).filter(|no| tenth.contains(TerminalNo(*no))).count();
        assert!((9_500..10_500).contains(&found), "{found} of 100,000");
    }

    /// A back-end that pushed to one slice yesterday pushes to the next one today.
    #[test]
    fn buckets_stay_as_they_are() {
        let buckets = [1, 2, 3, 65_536, 1 << 31].map(|no| Sample::bucket(TerminalNo(no)));
        assert_eq!(buckets, [3_175, 1_912, 5_232, 571, 4_267]);
    }

    #[test]
    fn labels_have_a_length_and_no_control_characters() {
        assert_eq!(check_alias(""), Err(LabelError::Empty("alias")));
        assert_eq!(check_alias("user\n"), Err(LabelError::Control("alias", 4)));
        assert_eq!(check_alias(&"a".repeat(ALIAS_LEN_MAX)), Ok(()));
        assert!(check_alias(&"a".repeat(ALIAS_LEN_MAX + 1)).is_err());
        assert_eq!(check_tag_key("a=b"), Err(LabelError::Equals(1)));
        assert_eq!(
            (check_tag_key("os"), check_tag_value(""), check_tag_value("a=b")),
            (Ok(()), Ok(()), Ok(()))
        );
    }
}
