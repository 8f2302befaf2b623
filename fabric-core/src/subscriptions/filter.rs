//! What a topic and a filter may look like, and when one matches the other (MQTT section 4.7).

use cluster_proto::limits::{TOPIC_LEN_MAX, TOPIC_LEVELS_MAX};
use thiserror::Error;

/// Why a topic is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum TopicError {
    /// [MQTT-4.7.3-1]: at least one character.
    #[error("topic is empty")]
    Empty,
    /// Over [`TOPIC_LEN_MAX`].
    #[error("topic has {0} bytes, the most is {TOPIC_LEN_MAX}")]
    TooLong(usize),
    /// Over [`TOPIC_LEVELS_MAX`].
    #[error("topic has {0} levels, the most is {TOPIC_LEVELS_MAX}")]
    TooManyLevels(usize),
    /// [MQTT-4.7.3-2]: no U+0000.
    #[error("topic has the character U+0000 at byte {0}")]
    Nul(usize),
    /// [MQTT-3.3.2-2]: a topic of a message has no wildcards.
    #[error("topic has a wildcard at byte {0}")]
    Wildcard(usize),
}

/// Why a filter is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum FilterError {
    /// [MQTT-4.7.3-1]: at least one character.
    #[error("filter is empty")]
    Empty,
    /// Over [`TOPIC_LEN_MAX`].
    #[error("filter has {0} bytes, the most is {TOPIC_LEN_MAX}")]
    TooLong(usize),
    /// Over [`TOPIC_LEVELS_MAX`].
    #[error("filter has {0} levels, the most is {TOPIC_LEVELS_MAX}")]
    TooManyLevels(usize),
    /// [MQTT-4.7.3-2]: no U+0000.
    #[error("filter has the character U+0000 at byte {0}")]
    Nul(usize),
    /// [MQTT-4.7.1-1]: `#` is a whole level, and the last.
    #[error("filter has '#' where it is not the whole last level")]
    MultiLevelWildcard,
    /// [MQTT-4.7.1-2]: `+` is a whole level.
    #[error("filter has '+' where it is not a whole level")]
    SingleLevelWildcard,
    /// [MQTT-4.8.2-1] and [MQTT-4.8.2-2]: `$share/{name}/{filter}`, the name not empty and without wildcards.
    #[error("shared subscription is not of the form $share/name/filter")]
    Share,
}

/// A valid filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter<'a> {
    /// An ordinary subscription.
    Plain(&'a str),
    /// `$share/{group}/{filter}`.
    Shared {
        /// The group's name.
        group: &'a str,
        /// What it subscribes to.
        filter: &'a str,
    },
}

/// Refuses what no message may be published to.
pub fn validate_topic(topic: &str) -> Result<(), TopicError> {
    if topic.is_empty() {
        return Err(TopicError::Empty);
    }
    if topic.len() > TOPIC_LEN_MAX {
        return Err(TopicError::TooLong(topic.len()));
    }
    let mut levels = 1;
    for (at, byte) in topic.bytes().enumerate() {
        match byte {
            b'/' => levels += 1,
            b'+' | b'#' => return Err(TopicError::Wildcard(at)),
            0 => return Err(TopicError::Nul(at)),
            _ => {}
        }
    }
    if levels > TOPIC_LEVELS_MAX {
        return Err(TopicError::TooManyLevels(levels));
    }
    Ok(())
}

/// Refuses what nobody may subscribe to, and recognises shared subscriptions.
pub fn validate_filter(filter: &str) -> Result<Filter<'_>, FilterError> {
    if filter.is_empty() {
        return Err(FilterError::Empty);
    }
    if filter.len() > TOPIC_LEN_MAX {
        return Err(FilterError::TooLong(filter.len()));
    }
    if let Some(at) = filter.bytes().position(|byte| byte == 0) {
        return Err(FilterError::Nul(at));
    }
    match filter.strip_prefix("$share/").or((filter == "$share").then_some("")) {
        Some(rest) => validate_shared(rest),
        None => validate_levels(filter).map(|()| Filter::Plain(filter)),
    }
}

fn validate_shared(rest: &str) -> Result<Filter<'_>, FilterError> {
    let Some((group, filter)) = rest.split_once('/') else { return Err(FilterError::Share) };
    if group.is_empty() || filter.is_empty() || is_wildcard(group) {
        return Err(FilterError::Share);
    }
    validate_levels(filter).map(|()| Filter::Shared { group, filter })
}

fn validate_levels(filter: &str) -> Result<(), FilterError> {
    let mut levels = 0;
    let mut ended = false;
    for level in filter.split('/') {
        levels += 1;
        if ended || (level.len() > 1 && level.contains('#')) {
            return Err(FilterError::MultiLevelWildcard);
        }
        if level.len() > 1 && level.contains('+') {
            return Err(FilterError::SingleLevelWildcard);
        }
        ended = level == "#";
    }
    if levels > TOPIC_LEVELS_MAX {
        return Err(FilterError::TooManyLevels(levels));
    }
    Ok(())
}

/// Whether a valid filter has a wildcard. One without matches exactly the topic that reads the same.
pub fn is_wildcard(filter: &str) -> bool {
    filter.bytes().any(|byte| byte == b'+' || byte == b'#')
}

/// Whether a topic, or a plain filter, is one of those the servers themselves publish to.
pub fn is_sys_topic(topic: &str) -> bool {
    first_level(topic) == "$SYS"
}

/// The first level of the topics that terminals report to; nothing is ever delivered there.
pub const OWN_LEVEL: &str = "$carillon";

/// Whether a topic, or a plain filter, is one of those that terminals report to.
pub fn is_own_topic(topic: &str) -> bool {
    first_level(topic) == OWN_LEVEL
}

/// Whether a topic begins like a shared subscription: no plain filter could ever be subscribed to for it.
pub fn is_share_topic(topic: &str) -> bool {
    first_level(topic) == "$share"
}

fn first_level(topic: &str) -> &str {
    topic.split_once('/').map_or(topic, |(level, _)| level)
}

/// Whether a valid topic matches a valid, plain filter. The definition: [`super::FilterTree`] is the fast way.
pub fn matches(topic: &str, filter: &str) -> bool {
    if hidden_from_leading_wildcard(topic) && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut topic = topic.split('/');
    for level in filter.split('/') {
        match (level, topic.next()) {
            // `a/#` matches `a` too ([MQTT-4.7.1-2] text: the parent and any number of child levels).
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (level, Some(name)) if level == name => {}
            _ => return false,
        }
    }
    topic.next().is_none()
}

/// Whether every topic that matches `inner` matches `outer` too, so that a permission for `outer` permits
/// subscribing to `inner`. Both valid and plain. Errs on the side of "no" for filters that are equal in
/// meaning only (`#` and `+/#`).
pub fn covers(outer: &str, inner: &str) -> bool {
    if hidden_from_leading_wildcard(inner) && outer.starts_with(['+', '#']) {
        return false;
    }
    let mut inner = inner.split('/');
    for level in outer.split('/') {
        match (level, inner.next()) {
            ("#", _) => return true,
            (_, Some("#")) => return false,
            ("+", Some(_)) => {}
            (level, Some(name)) if level == name => {}
            _ => return false,
        }
    }
    inner.next().is_none()
}

/// [MQTT-4.7.2-1]: a filter that begins with a wildcard does not match topics that begin with `$`.
pub(super) fn hidden_from_leading_wildcard(topic: &str) -> bool {
    topic.starts_with('$')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_specification_match() {
        for (filter, topic) in [
            ("sport/tennis/player1/#", "sport/tennis/player1"),
            ("sport/tennis/player1/#", "sport/tennis/player1/ranking"),
            ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon"),
            ("sport/#", "sport"),
            ("#", "sport/x"),
            ("sport/tennis/+", "sport/tennis/player1"),
            ("+/+", "/finance"),
            ("/+", "/finance"),
            ("sport/+", "sport/"),
            ("$SYS/#", "$SYS/monitor/Clients"),
            ("$SYS/monitor/+", "$SYS/monitor/Clients"),
            ("é/+", "é/ü"),
        ] {
            assert!(matches(topic, filter), "{filter} should match {topic}");
        }
    }

    #[test]
    fn the_counterexamples_of_the_specification_do_not_match() {
        for (filter, topic) in [
            ("sport/tennis/+", "sport/tennis/player1/ranking"),
            ("sport/+", "sport"),
            ("+", "/finance"),
            ("#", "$SYS/monitor"),
            ("+/monitor/Clients", "$SYS/monitor/Clients"),
            ("a/b", "a/b/"),
            ("ACCOUNTS", "Accounts"),
        ] {
            assert!(!matches(topic, filter), "{filter} should not match {topic}");
        }
    }

    #[test]
    fn wildcards_stand_for_whole_levels_and_hash_comes_last() {
        for bad in ["sport/tennis#", "sport/tennis/#/ranking", "##", "#/"] {
            assert_eq!(validate_filter(bad), Err(FilterError::MultiLevelWildcard), "{bad}");
        }
        assert_eq!(validate_filter("sport+"), Err(FilterError::SingleLevelWildcard));
        assert_eq!(validate_filter("+/tennis/#"), Ok(Filter::Plain("+/tennis/#")));
        assert_eq!(validate_topic("a/+"), Err(TopicError::Wildcard(2)));
    }

    #[test]
    fn shared_subscriptions_are_recognised() {
        let shared = Filter::Shared { group: "g", filter: "a/+" };
        assert_eq!(validate_filter("$share/g/a/+"), Ok(shared));
        for bad in ["$share", "$share/", "$share/g", "$share/g/", "$share//a", "$share/+/a"] {
            assert_eq!(validate_filter(bad), Err(FilterError::Share), "{bad}");
        }
    }

    #[test]
    fn length_levels_and_nul_are_bounded() {
        let long = "x".repeat(TOPIC_LEN_MAX + 1);
        let deep = "/".repeat(TOPIC_LEVELS_MAX);
        assert_eq!(validate_topic(&long), Err(TopicError::TooLong(TOPIC_LEN_MAX + 1)));
        assert_eq!(validate_filter(&long), Err(FilterError::TooLong(TOPIC_LEN_MAX + 1)));
        assert_eq!(validate_topic(&deep), Err(TopicError::TooManyLevels(TOPIC_LEVELS_MAX + 1)));
        assert_eq!(validate_filter(&deep), Err(FilterError::TooManyLevels(TOPIC_LEVELS_MAX + 1)));
        assert_eq!(validate_topic("a\0"), Err(TopicError::Nul(1)));
        assert_eq!(validate_filter("\0"), Err(FilterError::Nul(0)));
        assert_eq!(validate_topic(""), Err(TopicError::Empty));
        assert_eq!(validate_filter(""), Err(FilterError::Empty));
    }

    #[test]
    fn a_filter_covers_narrower_ones_only() {
        for (outer, inner) in
            [("#", "a/#"), ("a/#", "a"), ("a/+", "a/b"), ("a/+/c", "a/+/c"), ("$x/#", "$x/+")]
        {
            assert!(covers(outer, inner), "{outer} should cover {inner}");
        }
        for (outer, inner) in
            [("a/+", "a/#"), ("a/b", "a/+"), ("#", "$x/a"), ("+/a", "$x/a"), ("a/b", "a/b/c")]
        {
            assert!(!covers(outer, inner), "{outer} should not cover {inner}");
        }
    }
}
