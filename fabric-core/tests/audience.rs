//! Text and expression are two forms of one thing.

use cluster_proto::{Audience, PushId, Sample, TerminalId, limits::SEEN_DAYS_MAX};
use fabric_core::audience::{Text, parse};
use proptest::{collection::vec, prelude::*};

/// With everything that has a meaning of its own.
fn label() -> impl Strategy<Value = String> {
    prop_oneof!["[a-zA-Z0-9:=.-]{1,8}", "[ \"\\\\(),a-zäß\u{a0}]{1,8}", "and|or|not|topic|all|tag"]
}

fn key() -> impl Strategy<Value = String> {
    label().prop_map(|label| label.replace('=', "-"))
}

fn leaf() -> impl Strategy<Value = Audience> {
    let sample = (0..Sample::BUCKETS, 1..=Sample::BUCKETS)
        .prop_filter_map("an empty slice", |(from, to)| Sample::new(from, to).map(Audience::Sample));
    let id = label().prop_map(|id| TerminalId::new(id).expect("valid"));
    prop_oneof![
        vec(id, 1..4).prop_map(Audience::Terminals),
        vec(label(), 1..4).prop_map(Audience::Aliases),
        (key(), prop_oneof![label(), Just(String::new())])
            .prop_map(|(key, value)| Audience::Tag { key, value }),
        Just(Audience::All),
        Just(Audience::Topic),
        Just(Audience::Online),
        Just(Audience::Offline),
        any::<u64>().prop_map(|push| Audience::Delivered(PushId(push))),
        any::<u64>().prop_map(|push| Audience::Pending(PushId(push))),
        sample,
        (1..=SEEN_DAYS_MAX).prop_map(Audience::Seen),
    ]
}

fn audience() -> impl Strategy<Value = Audience> {
    leaf().prop_recursive(6, 60, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 2..4).prop_map(Audience::And),
            vec(inner.clone(), 2..4).prop_map(Audience::Or),
            inner.prop_map(|member| Audience::Not(Box::new(member))),
        ]
    })
}

proptest! {
    #[test]
    fn what_is_written_reads_as_the_same_audience(audience in audience()) {
        let text = Text(&audience).to_string();
        prop_assert_eq!(parse(&text), Ok(audience), "{}", text);
    }

    #[test]
    fn any_text_is_read_or_refused_at_a_place_in_it(text in "([a-z]{0,3}|and|or|not|tag:|terminal:|sample:|seen:|[ \"\\\\(),=0-9.%ä-]){0,24}") {
        match parse(&text) {
            Ok(audience) => prop_assert_eq!(parse(&Text(&audience).to_string()), Ok(audience)),
            Err(error) => {
                prop_assert!(text.is_char_boundary(error.at()), "{}", error);
                prop_assert_eq!(error.to_string().lines().count(), 3);
            }
        }
    }
}
