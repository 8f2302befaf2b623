//! Section 4.7: topic names and filters.

use crate::prelude::*;

/// Whether a message to `topic` reaches a subscriber of `filter`. Both below a prefix of their own, unless they begin
/// with `$` or a wildcard.
fn reaches(version: Version, topic: &str, filter: &str) -> bool {
    let fence = unique("fence");
    let mut subscriber = open(version);
    subscriber.subscribe(filter, 1);
    subscriber.subscribe(&fence, 1);
    let mut publisher = open(version);
    publisher.publish(topic, "x", 1);
    publisher.publish(&fence, "fence", 1);
    // Filters that begin with a wildcard match what other tests publish.
    subscriber.until("fence").iter().any(|message| message.topic == topic)
}

// Sections 4.7.1.1 to 4.7.1.3: the examples of the specification, and more.
#[test]
fn filters_match_as_the_specification_says() {
    let root = unique("match");
    let cases = [
        ("sport/tennis/player1", "sport/tennis/player1/#", true),
        ("sport/tennis/player1/ranking", "sport/tennis/player1/#", true),
        ("sport/tennis/player1/score/wimbledon", "sport/tennis/player1/#", true),
        ("sport", "sport/#", true),
        ("sport/tennis/player1", "sport/tennis/+", true),
        ("sport/tennis/player1/ranking", "sport/tennis/+", false),
        ("sport", "sport/+", false),
        ("sport/", "sport/+", true),
        ("sport/tennis/player1", "sport/+/player1", true),
        ("/finance", "+/+", true),
        ("/finance", "/+", true),
        ("/finance", "+", false),
        ("a//b", "a/+/b", true),
        ("a//b", "a/b", false),
        ("a/b", "a/b/", false),
        ("a/b/", "a/b", false),
        ("a/b/", "a/b/+", true),
        ("A/b", "a/b", false),
        ("a/b/c", "+/+/+", true),
        ("a/b/c", "+/#", true),
        ("a/b/c", "#", true),
        ("a/ b", "a/ b", true),
        ("a/b", "a/ b", false),
    ];
    for version in BOTH {
        for (topic, filter, matches) in cases {
            let under = |tail: &str| format!("{root}/{tail}");
            assert_eq!(reaches(version, &under(topic), &under(filter)), matches, "{topic} by {filter}");
        }
    }
}

// [MQTT-4.7.2-1], 3.1.1 [MQTT-4.7.2-1].
#[test]
fn a_leading_wildcard_does_not_match_dollar_topics() {
    for version in BOTH {
        let mut client = open(version);
        // These match what other tests publish, before SUBACK too.
        let filters = [("#", 0), ("+/broker/version", 0), ("+/#", 0)];
        client.send(&build::subscribe(version, 1, &filters, &[]));
        loop {
            match client.receive() {
                Packet::Suback(answer) => break assert_eq!(answer.reasons, [0, 0, 0]),
                Packet::Publish(message) => assert!(!message.topic.starts_with('$'), "{}", message.topic),
                other => panic!("{other:?}"),
            }
        }
        let fence = unique("dollar-fence");
        client.send(&Publish::new(&fence, "fence").bytes(version));
        loop {
            let message = client.take();
            assert!(!message.topic.starts_with('$'), "{}", message.topic);
            if message.topic == fence {
                break;
            }
        }
    }
}

// [MQTT-4.7.3-4], 3.1.1 [MQTT-4.7.3-4]: no normalisation.
#[test]
fn topics_are_compared_without_normalisation() {
    // The same letter, composed and decomposed.
    let root = unique("unicode");
    let (composed, decomposed) = (format!("{root}/\u{e9}"), format!("{root}/e\u{301}"));
    for version in BOTH {
        assert!(reaches(version, &composed, &composed));
        assert!(!reaches(version, &composed, &decomposed));
        assert!(!reaches(version, &format!("{root}/a/./b"), &format!("{root}/a/b")));
        assert!(!reaches(version, &format!("{root}/A"), &format!("{root}/a")));
    }
}

// Sections 4.7.1.2 and 4.7.3: "/" alone is a topic, spaces are characters, empty levels are levels.
#[test]
fn slashes_and_spaces_are_topics_as_well() {
    for version in BOTH {
        for topic in ["/", "//", " ", "/ /"] {
            assert!(reaches(version, topic, topic), "{topic:?}");
        }
    }
}

// [MQTT-4.7.3-3], 3.1.1 [MQTT-4.7.3-3]: long ones are served or refused, never cut.
#[test]
fn a_long_topic_is_served_whole_or_refused() {
    for version in BOTH {
        for len in [1_000, 10_000, 65_535] {
            let topic = format!("{}/{}", unique("long"), "x".repeat(len));
            let topic = &topic[..len];
            let mut client = open(version);
            client.send(&build::subscribe(version, 1, &[(topic, 0)], &[]));
            match client.next(Instant::now() + Duration::from_secs(5)) {
                Some(Packet::Suback(answer)) if answer.reasons[0] < 0x80 => {
                    client.send(&Publish::new(topic, "x").bytes(version));
                    assert_eq!(client.message().topic, topic);
                }
                Some(Packet::Suback(_) | Packet::Disconnect(_)) | None => {
                    assert!(len > 1_000, "{len} is served")
                }
                Some(other) => panic!("{other:?}"),
            }
        }
    }
}

// Section 4.7.2: topics below $ are the server's own; filters that name them need a permission.
#[test]
fn sys_topics_are_denied_to_anonymous_clients() {
    for (version, refused) in [(V311, 0x80), (V5, 0x87)] {
        let mut client = open(version);
        for filter in ["$SYS/#", "$SYS/broker/version"] {
            assert_eq!(client.subscribe(filter, 0), refused);
        }
    }
}
