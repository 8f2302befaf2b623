//! Topic aliases of one connection, both ways (MQTT 5, section 3.3.2.3.4).

use super::{action::Alias, reason::Reason};

/// Most aliases we give, whatever the terminal allows: bounds what a connection remembers and the search in it.
pub(super) const GIVEN_MAX: u16 = 16;
/// A topic up to this length is not longer than its alias.
const TOPIC_LEN_SHORT: usize = 3;

/// Both directions; made when one is first used.
#[derive(Clone, Debug, Default)]
pub(super) struct Aliases {
    /// By number, from 1: what the terminal gave.
    taken: Vec<Option<Box<str>>>,
    /// By number, from 1: the first topics that were sent.
    given: Vec<Box<str>>,
}

impl Aliases {
    /// The topic of a PUBLISH with an alias; a topic beside it becomes what the alias stands for.
    pub(super) fn take(&mut self, alias: u16, topic: String, maximum: u16) -> Result<String, Reason> {
        if alias == 0 || alias > maximum {
            // [MQTT-3.3.2-8], [MQTT-3.3.2-9].
            return Err(Reason::TOPIC_ALIAS_INVALID);
        }
        let place = usize::from(alias) - 1;
        if topic.is_empty() {
            let known = self.taken.get(place).and_then(Option::as_deref);
            return known.map(str::to_owned).ok_or(Reason::PROTOCOL_ERROR);
        }
        if self.taken.len() <= place {
            self.taken.resize(place + 1, None);
        }
        self.taken[place] = Some(topic.as_str().into());
        Ok(topic)
    }

    /// The alias `topic` has or would get; at most `maximum` are given.
    fn find(&self, topic: &str, maximum: u16) -> Option<Alias> {
        if let Some(place) = self.given.iter().position(|given| **given == *topic) {
            return Some(Alias { number: place as u16 + 1, known: true });
        }
        let number = self.given.len() as u16 + 1;
        (number <= maximum && topic.len() > TOPIC_LEN_SHORT).then_some(Alias { number, known: false })
    }
}

/// The alias a PUBLISH of `topic` would carry. Nothing is remembered before [`give`]: it may not be sent.
pub(super) fn find(aliases: Option<&Aliases>, topic: &str, maximum: u16) -> Option<Alias> {
    match aliases {
        _ if maximum == 0 => None,
        Some(aliases) => aliases.find(topic, maximum),
        None => Aliases::default().find(topic, maximum),
    }
}

/// `topic` was sent with `alias`.
pub(super) fn give(aliases: &mut Option<Box<Aliases>>, alias: Option<Alias>, topic: &str) {
    if alias.is_some_and(|alias| !alias.known) {
        aliases.get_or_insert_default().given.push(topic.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alias_stands_for_the_topic_it_came_with_last() {
        let mut aliases = Aliases::default();
        let topic = |text: &str| text.to_owned();
        assert_eq!(aliases.take(2, String::new(), 2), Err(Reason::PROTOCOL_ERROR));
        assert_eq!(aliases.take(2, topic("a"), 2), Ok(topic("a")));
        assert_eq!(aliases.take(2, String::new(), 2), Ok(topic("a")));
        assert_eq!(aliases.take(2, topic("b"), 2), Ok(topic("b")));
        assert_eq!(aliases.take(2, String::new(), 2), Ok(topic("b")));
        for alias in [0, 3] {
            assert_eq!(aliases.take(alias, topic("a"), 2), Err(Reason::TOPIC_ALIAS_INVALID));
        }
    }

    #[test]
    fn the_first_topics_get_an_alias_and_no_more_than_allowed() {
        let mut aliases = None;
        let mut send = |topic: &str| {
            let alias = find(aliases.as_deref(), topic, 2);
            give(&mut aliases, alias, topic);
            alias.map(|alias| (alias.number, alias.known))
        };
        assert_eq!(send("news"), Some((1, false)));
        assert_eq!(send("news"), Some((1, true)));
        assert_eq!(send("weather"), Some((2, false)));
        assert_eq!(send("traffic"), None);
        assert_eq!(send("weather"), Some((2, true)));
        assert_eq!(find(None, "news", 0), None);
    }
}
