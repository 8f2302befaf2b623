//! SUBSCRIBE and UNSUBSCRIBE (sections 3.8 to 3.11).

use super::support::*;

#[test]
fn a_subscription_is_committed_before_suback() {
    let mut terminal = Terminal::live(V5);
    let out = terminal.send(subscribe(5, &[("a/+", QOS2), ("b", QOS0)]));
    let subscriptions = vec![replicated("a/+", QOS2), replicated("b", QOS0)];
    assert_eq!(out, [Action::Subscribe { request: request(&out), subscriptions }]);
    let request = request(&out);
    let out = terminal.answer(|session, at, out| session.handle_changed(at, request, Ok(changed()), out));
    assert!(matches!(&out[0], Action::Subscribed { filter, best_effort: false } if &**filter == "a/+"));
    assert_eq!(codes(&out), [Reason::GRANTED_QOS_2, Reason::SUCCESS]);
}

#[test]
fn each_refused_filter_has_its_own_code() {
    let mut terminal = Terminal::live(V5);
    let filters = [("a/#/b", QOS0), ("$share/g/", QOS0), ("$share/+/a", QOS0), ("$SYS/#", QOS0)];
    let out = terminal.send(subscribe(1, &filters));
    let invalid = Reason::TOPIC_FILTER_INVALID;
    let expected = [invalid, invalid, invalid, Reason::NOT_AUTHORIZED];
    assert_eq!(codes(&out), expected);
}

#[test]
fn a_qos_0_subscription_of_a_session_that_ends_with_its_connection_costs_no_commit() {
    let mut terminal = Terminal::live_with(connect(V311), bound_clean());
    let out = terminal.send(subscribe(1, &[("a", QOS0)]));
    assert!(matches!(
        &out[..],
        [
            Action::Subscribed { best_effort: true, .. },
            Action::Send(Packet::SubAck(_)),
            Action::Retained { .. }
        ]
    ));
    // Raised to QoS 1 it is replicated, and back again it stays so.
    for qos in [QOS1, QOS0] {
        let out = terminal.send(subscribe(2, &[("a", qos)]));
        let request = request(&out);
        terminal.answer(|session, at, out| session.handle_changed(at, request, Ok(changed()), out));
        assert_eq!(terminal.session.subscriptions().collect::<Vec<_>>(), [("a", false)]);
    }
}

#[test]
fn a_first_replicated_subscription_gives_a_number_and_begins_to_catch_up() {
    let mut terminal = Terminal::live_with(connect(V311), bound_clean());
    assert_eq!(terminal.session.no(), None);
    let out = terminal.send(subscribe(1, &[("a", QOS1)]));
    let request = request(&out);
    let out = terminal.answer(|session, at, out| session.handle_changed(at, request, Ok(changed()), out));
    assert!(out.contains(&Action::Pull { after: ordinary(0), max: OWED_PER_PULL_MAX as u16 }), "{out:?}");
    assert_eq!(terminal.session.no(), Some(changed().no));
    assert_eq!(terminal.session.session(), Some(changed().session));
}

#[test]
fn a_refused_subscription_is_told_per_filter() {
    let mut terminal = Terminal::live(V5);
    let out = terminal.send(subscribe(1, &[("$SYS/#", QOS0), ("a", QOS1)]));
    let request = request(&out);
    let out = terminal
        .answer(|session, at, out| session.handle_changed(at, request, Err(RefuseReason::Quota), out));
    assert_eq!(codes(&out), [Reason::NOT_AUTHORIZED, Reason::QUOTA_EXCEEDED]);
    assert_eq!(terminal.session.subscriptions().count(), 0);
}

#[test]
fn unsubscribe_tells_what_existed_and_keeps_it_until_the_commit() {
    let bound = Bound { subscriptions: vec![replicated("a", QOS1)], ..bound() };
    let mut terminal = Terminal::live_with(connect(V5), bound);
    let out = terminal.send(unsubscribe(3, &["a", "b", "#/x"]));
    let request = request(&out);
    assert_eq!(terminal.session.subscriptions().count(), 1);
    let out = terminal.answer(|session, at, out| session.handle_changed(at, request, Ok(changed()), out));
    let expected = [Reason::SUCCESS, Reason::NO_SUBSCRIPTION_EXISTED, Reason::TOPIC_FILTER_INVALID];
    assert_eq!(codes(&out), expected);
    assert_eq!(terminal.session.subscriptions().count(), 0);
}

#[test]
fn too_many_requests_at_a_time_stop_reading_and_the_keep_alive_with_it() {
    let mut terminal = Terminal::live(V311);
    let mut last = Vec::new();
    let mut packet_id = 0;
    while terminal.session.may_read() {
        packet_id += 1;
        last = terminal.send(subscribe(packet_id, &[(&format!("a/{packet_id}"), QOS1)]));
    }
    assert_eq!(terminal.session.deadline(), None, "we do not read: silence is not the terminal's");
    terminal.now = 500_000;
    let request = request(&last);
    terminal.answer(|session, at, out| session.handle_changed(at, request, Ok(changed()), out));
    assert!(terminal.session.may_read());
    assert_eq!(terminal.session.deadline(), Some(590_000));
}

/// Section 3.8.4: MQTT 5 has a code for it, 3.1.1 has not.
#[test]
fn a_packet_id_in_use_is_told_to_version_5() {
    for version in [V5, V311] {
        let mut terminal = Terminal::live(version);
        terminal.publish(publish(QOS1, 3, "a"));
        terminal.send(subscribe(4, &[("a", QOS1)]));
        for packet_id in [3, 4] {
            let out = terminal.send(subscribe(packet_id, &[("b", QOS1)]));
            assert_eq!(out.iter().any(|action| matches!(action, Action::Subscribe { .. })), version == V311);
        }
        if version == V5 {
            assert_eq!(codes(&terminal.send(unsubscribe(3, &["a"]))), [Reason::PACKET_ID_IN_USE]);
        }
    }
}

/// [MQTT-3.8.4-5], [MQTT-3.9.3-1]: one code per filter, in order.
#[test]
fn a_filter_over_the_limit_is_refused_and_the_others_are_not() {
    let mut terminal = Terminal::new(SessionConfig { subscriptions_max: 2, ..SessionConfig::default() });
    terminal.connect(connect(V5));
    terminal.authenticate();
    terminal.bind(bound());
    let out = terminal.send(subscribe(1, &[("a", QOS1), ("b", QOS1), ("c", QOS1)]));
    let out = terminal.changed(&out);
    assert_eq!(codes(&out), [Reason::GRANTED_QOS_1, Reason::GRANTED_QOS_1, Reason::QUOTA_EXCEEDED]);
    let out = terminal.send(subscribe(2, &[("a", QOS2)]));
    assert_eq!(codes(&terminal.changed(&out)), [Reason::GRANTED_QOS_2], "a replaced one takes no room");
}

/// [MQTT-3.8.3-3] needs to know who published: of a client without a number that is known once it has one.
#[test]
fn no_local_gives_a_number() {
    let mut terminal = Terminal::live_with(connect(V5), bound_clean());
    let options = SubscriptionOptions { no_local: true, ..SubscriptionOptions::default() };
    let out = terminal
        .send(Packet::Subscribe(Subscribe { packet_id: 1, filters: vec![subscription("a", QOS0, options)] }));
    assert!(matches!(&out[..], [Action::Subscribe { .. }]), "{out:?}");
}

/// A session may be resumed with a credential that allows less than the one that subscribed.
#[test]
fn a_resumed_subscription_that_is_not_allowed_any_more_is_given_up() {
    let subscriptions = ["a/b", "$share/g/b", "b"].map(|filter| replicated(filter, QOS1)).into();
    let mut terminal =
        Terminal::opened(connect(V5), Grant { permissions: permissions(&[], &["a/#"]), ..grant() });
    let out = terminal.bind(Bound { session_present: true, subscriptions, ..bound() });
    assert_eq!(terminal.session.subscriptions().collect::<Vec<_>>(), [("a/b", false)]);
    let filters = vec!["$share/g/b".to_owned(), "b".to_owned()];
    let request = request(&out);
    assert!(out.contains(&Action::Unsubscribe { request, filters }), "{out:?}");
    let out = terminal.changed(&out);
    assert_eq!(out, [], "the terminal asked for nothing");
}

/// [MQTT-3.1.2-24].
#[test]
fn what_could_not_be_answered_within_the_maximum_packet_size_is_not_done() {
    let connect = || connect_with(|properties| properties.packet_len_max = Some(32));
    let filters = |count| (0..count).map(|i| format!("a/{i}")).collect::<Vec<_>>();
    for (count, fits) in [(27, true), (28, false)] {
        let names = filters(count);
        let asked: Vec<_> = names.iter().map(|name| (name.as_str(), QOS1)).collect();
        let out = Terminal::live_with(connect(), bound()).send(subscribe(1, &asked));
        assert_eq!(matches!(out[..], [Action::Subscribe { .. }]), fits, "{out:?}");
        let plain: Vec<_> = names.iter().map(String::as_str).collect();
        let unsubscribed = Terminal::live_with(connect(), bound()).send(unsubscribe(1, &plain));
        for out in [out, unsubscribed] {
            let told = disconnect(&out).map(|disconnect| disconnect.reason);
            assert_eq!(told, (!fits).then_some(Reason::PACKET_TOO_LARGE), "{out:?}");
        }
    }
}
