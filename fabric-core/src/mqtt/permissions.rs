//! What a terminal may publish and subscribe to.

use cluster_proto::TerminalId;

use crate::subscriptions::filter;

/// What a terminal may publish and subscribe to, from its credential.
///
/// Filters are expanded once: `{terminal}` stands for the terminal id. An id with a character that has a meaning in
/// filters would widen them (`+`, `#`) or shift them (`/`): filters that name it are then left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permissions {
    /// `None`: everything but `$SYS`.
    publish: Option<Box<[Box<str>]>>,
    subscribe: Option<Box<[Box<str>]>>,
}

const TERMINAL: &str = "{terminal}";

impl Permissions {
    /// Everything but `$SYS`.
    pub fn everything() -> Self {
        Self::default()
    }

    /// As a credential's claims say. Invalid filters permit nothing.
    pub fn new(terminal: &TerminalId, publish: Option<&[String]>, subscribe: Option<&[String]>) -> Self {
        Self {
            publish: publish.map(|filters| expand(terminal, filters)),
            subscribe: subscribe.map(|filters| expand(terminal, filters)),
        }
    }

    /// Whether it may publish to a valid topic.
    pub fn may_publish(&self, topic: &str) -> bool {
        match &self.publish {
            None => !filter::is_sys_topic(topic),
            Some(filters) => filters.iter().any(|allowed| filter::matches(topic, allowed)),
        }
    }

    /// Whether it may subscribe to a valid, plain filter: all of it must be permitted.
    pub fn may_subscribe(&self, wanted: &str) -> bool {
        match &self.subscribe {
            None => !filter::is_sys_topic(wanted),
            Some(filters) => filters.iter().any(|allowed| filter::covers(allowed, wanted)),
        }
    }
}

fn expand(terminal: &TerminalId, filters: &[String]) -> Box<[Box<str>]> {
    let safe = !terminal.as_str().contains(['+', '#', '/']);
    filters
        .iter()
        .filter(|filter| safe || !filter.contains(TERMINAL))
        .map(|filter| filter.replace(TERMINAL, terminal.as_str()))
        .filter(|filter| filter::validate_filter(filter).is_ok())
        .map(String::into_boxed_str)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permissions(terminal: &str, filters: &[&str]) -> Permissions {
        let filters: Vec<String> = filters.iter().map(|f| (*f).to_owned()).collect();
        Permissions::new(&TerminalId::new(terminal).unwrap(), Some(&filters), Some(&filters))
    }

    #[test]
    fn a_terminal_stays_below_its_own_id() {
        let own = permissions("tv-1", &["devices/{terminal}/#"]);
        assert!(own.may_publish("devices/tv-1/state") && own.may_subscribe("devices/tv-1/+"));
        assert!(!own.may_publish("devices/tv-2/state") && !own.may_subscribe("devices/+/state"));
    }

    #[test]
    fn an_id_with_wildcards_does_not_widen_its_filters() {
        for id in ["+", "#", "a/b"] {
            let own = permissions(id, &["devices/{terminal}/#", "news"]);
            assert!(!own.may_publish("devices/a/b/c") && own.may_publish("news"), "{id}");
        }
    }

    #[test]
    fn without_filters_everything_but_sys_topics_is_allowed() {
        let all = Permissions::everything();
        assert!(all.may_publish("a/b") && all.may_subscribe("#") && all.may_publish("$own/x"));
        for sys in ["$SYS/#", "$SYS", "$SYS/+/x"] {
            assert!(!all.may_subscribe(sys), "{sys}");
        }
        assert!(!all.may_publish("$SYS/x"));
    }
}
