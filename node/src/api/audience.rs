//! The audience of a request as the expression it stands for. What is wrong is named by its path.

use cluster_proto::{
    Audience, PushId, Sample,
    admin::{self, audience::Of},
    audience::{AudienceTooLarge, check_alias, check_tag_key, check_tag_value},
    limits::{AUDIENCE_NODES_MAX, SEEN_DAYS_MAX},
};
use fabric_core::audience::parse;
use tonic::Status;

use super::validate::{ids, invalid, some};

/// An operator over one member is none, so a small expression may come in some more messages.
const MESSAGES_MAX: usize = 2 * AUDIENCE_NODES_MAX;

/// The audience of a push.
pub(super) fn read(asked: Option<admin::Audience>) -> Result<Audience, Status> {
    let audience = Reader { messages: 0 }.read_at("audience", asked)?;
    audience.check_size().map_err(|error| wrong("audience", error))?;
    Ok(audience)
}

/// Reads a tree of messages, as long as there are no more than an expression may have parts: a request has room for
/// millions.
struct Reader {
    messages: usize,
}

impl Reader {
    /// The depth of the recursion is bounded where the request is decoded (protobuf: 100 messages).
    fn read_at(&mut self, path: &str, asked: Option<admin::Audience>) -> Result<Audience, Status> {
        self.messages += 1;
        if self.messages > MESSAGES_MAX {
            return Err(wrong("audience", AudienceTooLarge::Nodes(self.messages)));
        }
        let Some(of) = asked.and_then(|audience| audience.of) else {
            return Err(invalid(format!(
                "{path} is missing: say who, as terminals, topic, all or an expression"
            )));
        };
        match of {
            Of::Terminals(list) => ids(&format!("{path}.terminals.ids"), list.ids).map(Audience::Terminals),
            Of::All(_) => Ok(Audience::All),
            Of::Topic(_) => Ok(Audience::Topic),
            Of::Aliases(list) => aliases(&format!("{path}.aliases.names"), list.names),
            Of::Tag(tag) => tag_at(&format!("{path}.tag"), tag),
            Of::Online(_) => Ok(Audience::Online),
            Of::Offline(_) => Ok(Audience::Offline),
            Of::Delivered(of) => Ok(Audience::Delivered(PushId(of.push))),
            Of::Pending(of) => Ok(Audience::Pending(PushId(of.push))),
            Of::Seen(seen) => seen_at(&format!("{path}.seen"), seen.days),
            Of::Sample(sample) => sample_at(&format!("{path}.sample"), sample),
            Of::And(and) => self.several(&format!("{path}.and"), and.members, Audience::And),
            Of::Or(or) => self.several(&format!("{path}.or"), or.members, Audience::Or),
            Of::Not(member) => self
                .read_at(&format!("{path}.not"), Some(*member))
                .map(|member| Audience::Not(Box::new(member))),
            Of::Expression(text) => parse(&text).map_err(|error| wrong(&format!("{path}.expression"), error)),
        }
    }

    /// One member alone is what the operator makes of it.
    fn several(
        &mut self,
        path: &str,
        members: Vec<admin::Audience>,
        combine: fn(Vec<Audience>) -> Audience,
    ) -> Result<Audience, Status> {
        let read = |(at, member)| self.read_at(&format!("{path}[{at}]"), Some(member));
        let mut members = members.into_iter().enumerate().map(read).collect::<Result<Vec<_>, _>>()?;
        match members.len() {
            0 => Err(invalid(format!("{path} is empty"))),
            1 => Ok(members.remove(0)),
            _ => Ok(combine(members)),
        }
    }
}

fn aliases(path: &str, names: Vec<String>) -> Result<Audience, Status> {
    some(path, names.len())?;
    for (at, name) in names.iter().enumerate() {
        check_alias(name).map_err(|error| wrong(&format!("{path}[{at}]"), error))?;
    }
    Ok(Audience::Aliases(names))
}

fn tag_at(path: &str, admin::Tag { key, value }: admin::Tag) -> Result<Audience, Status> {
    check_tag_key(&key).map_err(|error| wrong(&format!("{path}.key"), error))?;
    check_tag_value(&value).map_err(|error| wrong(&format!("{path}.value"), error))?;
    Ok(Audience::Tag { key, value })
}

fn seen_at(path: &str, days: u32) -> Result<Audience, Status> {
    let days = u8::try_from(days).ok().filter(|days| (1..=SEEN_DAYS_MAX).contains(days));
    days.map(Audience::Seen).ok_or_else(|| wrong(path, format!("days must be from 1 to {SEEN_DAYS_MAX}")))
}

/// An expression over registered terminals: no push gives a meaning to `topic`.
pub(super) fn of_terminals(asked: Option<admin::Audience>) -> Result<Audience, Status> {
    let audience = read(asked)?;
    if audience.mentions_topic() {
        return Err(wrong("audience", "topic is of a push only: name terminals, tags, all, online or seen"));
    }
    Ok(audience)
}

fn sample_at(path: &str, admin::Sample { from, to }: admin::Sample) -> Result<Audience, Status> {
    let (first, end) = (u16::try_from(from).ok(), u16::try_from(to).ok());
    let sample = first.zip(end).and_then(|(from, to)| Sample::new(from, to));
    sample.map(Audience::Sample).ok_or_else(|| {
        wrong(path, format!("from {from} to {to} is no range of the buckets 0 to {}", Sample::BUCKETS))
    })
}

fn wrong(path: &str, why: impl std::fmt::Display) -> Status {
    invalid(format!("{path}: {why}"))
}

#[cfg(test)]
mod tests {
    use cluster_proto::limits::{AUDIENCE_DEPTH_MAX, AUDIENCE_SCANS_MAX};

    use super::*;

    fn of(of: Of) -> admin::Audience {
        admin::Audience { of: Some(of) }
    }

    fn tag(key: &str, value: &str) -> admin::Audience {
        of(Of::Tag(admin::Tag { key: key.to_owned(), value: value.to_owned() }))
    }

    fn and(members: Vec<admin::Audience>) -> admin::Audience {
        of(Of::And(admin::And { members }))
    }

    fn text(expression: &str) -> admin::Audience {
        of(Of::Expression(expression.to_owned()))
    }

    fn refused(asked: admin::Audience) -> String {
        let status = read(Some(asked)).expect_err("refused");
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        status.message().to_owned()
    }

    #[test]
    fn messages_and_text_are_two_forms_of_one_audience() {
        let aliases = admin::AliasList { names: vec!["user-7".to_owned(), "user 8".to_owned()] };
        let or = admin::Or {
            members: vec![
                of(Of::Aliases(aliases)),
                of(Of::Sample(admin::Sample { from: 0, to: 1_050 })),
                of(Of::Delivered(admin::DeliveredOf { push: 7 })),
                of(Of::Pending(admin::PendingOf { push: 8 })),
            ],
        };
        let messages = and(vec![
            tag("os", "tv"),
            of(Of::Not(Box::new(of(Of::Online(admin::Online {}))))),
            of(Of::Or(or)),
            of(Of::Offline(admin::Offline {})),
            of(Of::Seen(admin::SeenWithin { days: 30 })),
        ]);
        let written = "tag:os=tv and not online \
            and (alias:user-7,\"user 8\" or sample:0-10.5% or delivered:7 or pending:8) and offline and seen:30d";
        let audience = read(Some(messages)).expect("valid");
        assert_eq!(read(Some(text(written))).expect("valid"), audience);
        let nested = and(vec![text("tag:os=tv"), text("not online")]);
        assert_eq!(read(Some(nested)).expect("valid"), parse("tag:os=tv and not online").expect("valid"));
    }

    #[test]
    fn an_operator_over_one_is_that_one_and_over_none_is_refused() {
        assert_eq!(read(Some(and(vec![text("all")]))).expect("valid"), Audience::All);
        assert_eq!(refused(and(vec![and(Vec::new())])), "audience.and[0].and is empty");
    }

    #[test]
    fn what_is_wrong_is_named_by_its_path() {
        let empty = admin::Audience { of: None };
        let no_names = of(Of::Aliases(admin::AliasList { names: Vec::new() }));
        let control = of(Of::Aliases(admin::AliasList { names: vec!["a".to_owned(), "\n".to_owned()] }));
        let backwards = of(Of::Sample(admin::Sample { from: 7, to: 7 }));
        let too_far = of(Of::Sample(admin::Sample { from: 0, to: 70_000 }));
        for (asked, place) in [
            (and(vec![text("all"), tag("", "x")]), "audience.and[1].tag.key: tag key is empty"),
            (tag("os", "a\n"), "audience.tag.value: tag value has a control character"),
            (of(Of::Not(Box::new(empty.clone()))), "audience.not is missing: "),
            (of(Of::Or(admin::Or { members: vec![empty] })), "audience.or[0] is missing: "),
            (no_names, "audience.aliases.names is empty"),
            (control, "audience.aliases.names[1]: alias has a control character"),
            (backwards, "audience.sample: from 7 to 7 is no range"),
            (too_far, "audience.sample: from 0 to 70000 is no range"),
            (of(Of::Seen(admin::SeenWithin { days: 0 })), "audience.seen: days must be from 1 to 90"),
            (of(Of::Seen(admin::SeenWithin { days: 300 })), "audience.seen: days must be from 1 to 90"),
            (text("seen:91d"), "audience.expression: expected days from 1 to 90"),
            (text("seen:30"), "audience.expression: expected `d`"),
            (and(vec![text("all"), text("all or")]), "audience.and[1].expression: expected "),
        ] {
            let said = refused(asked);
            assert!(said.starts_with(place), "{said}");
        }
        assert!(refused(text("all or")).contains(" at character 7\n"));
    }

    #[test]
    fn an_audience_that_is_too_large_is_refused_in_either_form() {
        let wide = vec![text("all"); AUDIENCE_NODES_MAX];
        assert!(refused(and(wide)).starts_with("audience: the expression has 257 parts"));
        // Not read to its end.
        let huge = refused(and(vec![of(Of::All(admin::Everyone {})); 100_000]));
        assert!(
            huge.starts_with(&format!("audience: the expression has {} parts", MESSAGES_MAX + 1)),
            "{huge}"
        );
        let slices = vec![text("sample:0-1% or delivered:7"); AUDIENCE_SCANS_MAX];
        assert!(
            refused(and(slices))
                .starts_with("audience: the expression has 32 of sample, delivered, pending and seen")
        );
        let not = |inner, _| of(Of::Not(Box::new(inner)));
        let deep = (0..AUDIENCE_DEPTH_MAX).fold(text("all"), not);
        assert!(refused(deep).starts_with("audience: the expression is nested 17 deep"));
        let sixteen = vec![text(&vec!["all"; 20].join(" or ")); 16];
        assert!(refused(and(sixteen)).starts_with("audience: the expression has 337 parts"));
    }
}
