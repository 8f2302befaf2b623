//! Topic aliases both ways (section 3.3.2.3.4).

use super::support::*;

fn aliased(alias: u16, topic: &str) -> Publish {
    Publish { topic_alias: Some(alias), ..publish(QOS0, 0, topic) }
}

fn relayed(out: &[Out]) -> &str {
    match out {
        [Action::Relay(relay)] => &relay.message.topic,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_alias_of_the_terminal_stands_for_its_topic() {
    let mut terminal = Terminal::live(V5);
    assert_eq!(relayed(&terminal.publish(aliased(32, "news"))), "news");
    assert_eq!(relayed(&terminal.publish(aliased(32, ""))), "news");
    assert_eq!(relayed(&terminal.publish(aliased(32, "weather"))), "weather");
    assert_eq!(relayed(&terminal.publish(aliased(32, ""))), "weather");
}

/// [MQTT-3.3.2-8], [MQTT-3.3.2-9], [MQTT-3.3.2-10]; and [MQTT-3.3.2-7]: nothing is known on a new connection.
#[test]
fn an_alias_that_is_not_allowed_or_not_known_closes() {
    for (publish, reason) in [
        (aliased(0, "a"), Reason::TOPIC_ALIAS_INVALID),
        (aliased(33, "a"), Reason::TOPIC_ALIAS_INVALID),
        (aliased(1, ""), Reason::PROTOCOL_ERROR),
        (aliased(1, "a/#"), Reason::TOPIC_NAME_INVALID),
    ] {
        let out = Terminal::live(V5).publish(publish);
        assert_eq!(disconnected(&out).0, Some(reason));
    }
}

/// [MQTT-3.1.2-26], [MQTT-3.1.2-27]: no more than the terminal takes, and none without asking.
#[test]
fn the_first_topics_to_a_terminal_get_an_alias_as_far_as_it_allows() {
    let connect = connect_with(|properties| properties.topic_alias_maximum = Some(1));
    let mut terminal = Terminal::live_with(connect, bound());
    let mut alias = |id, topic| {
        let out = terminal.queue(queued(id, message_on(topic, QOS0)));
        deliveries(&out)[0].alias
    };
    assert_eq!(alias(1, "news"), Some(Alias { number: 1, known: false }));
    assert_eq!(alias(2, "news"), Some(Alias { number: 1, known: true }));
    assert_eq!(alias(3, "weather"), None);
    let out = Terminal::live(V5).queue(queued(1, message_on("news", QOS0)));
    assert_eq!(deliveries(&out)[0].alias, None);
}

#[test]
fn an_alias_is_known_only_after_it_was_sent() {
    let connect = connect_with(|properties| {
        properties.topic_alias_maximum = Some(9);
        properties.packet_len_max = Some(20);
    });
    let mut terminal = Terminal::live_with(connect, bound());
    let long = Message { payload: vec![0; 90].into(), ..(*message_on("news", QOS0)).clone() };
    assert_eq!(deliveries(&terminal.queue(queued(1, long.into()))).len(), 0);
    let out = terminal.queue(queued(2, message_on("news", QOS0)));
    assert_eq!(deliveries(&out)[0].alias, Some(Alias { number: 1, known: false }));
}
