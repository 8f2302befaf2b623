//! From text to an audience. Every error has a place.

use std::fmt;

use cluster_proto::{
    Audience, PushId, Sample, TerminalId,
    audience::{LabelError, check_alias, check_tag_key, check_tag_value},
    limits::{AUDIENCE_DEPTH_MAX, AUDIENCE_NODES_MAX, SEEN_DAYS_MAX, TERMINALS_PER_CALL_MAX},
};

use super::ends_value;

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    /// The text around the place.
    shown: String,
    /// Where in `shown`, in characters.
    column: usize,
    /// Where in the whole text, in characters.
    character: usize,
    at: usize,
    why: String,
}

/// Characters shown on each side of the place.
const SHOWN_MAX: usize = 60;
const LEAVES: [&str; 11] = [
    "terminal:",
    "alias:",
    "tag:",
    "topic",
    "all",
    "online",
    "offline",
    "delivered:",
    "pending:",
    "sample:",
    "seen:",
];

/// Reads an audience expression.
pub fn parse(text: &str) -> Result<Audience, ParseError> {
    let mut parser = Parser { text, at: 0, nesting: 0, leaves: 0, names: 0 };
    let audience = parser.any_of()?;
    if parser.at < text.len() {
        return Err(parser.error("expected `and`, `or` or the end"));
    }
    audience.check_size().map_err(|error| parser.error_at(0, error))?;
    Ok(audience)
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
    /// How many parentheses and `not`s are open: the depth of the recursion.
    nesting: usize,
    leaves: usize,
    names: usize,
}

impl<'a> Parser<'a> {
    fn any_of(&mut self) -> Result<Audience, ParseError> {
        self.several("or", Self::all_of, Audience::Or)
    }

    fn all_of(&mut self) -> Result<Audience, ParseError> {
        self.several("and", Self::one, Audience::And)
    }

    fn several(
        &mut self,
        operator: &str,
        member: fn(&mut Self) -> Result<Audience, ParseError>,
        combine: fn(Vec<Audience>) -> Audience,
    ) -> Result<Audience, ParseError> {
        let first = member(self)?;
        if !self.takes_word(operator) {
            return Ok(first);
        }
        let mut members = vec![first, member(self)?];
        while self.takes_word(operator) {
            members.push(member(self)?);
        }
        Ok(combine(members))
    }

    /// A leaf, or what `not` and parentheses hold together. Takes the spaces around it.
    fn one(&mut self) -> Result<Audience, ParseError> {
        self.skip_spaces();
        let start = self.at;
        let one = if self.takes("(") {
            self.nested(start, Self::parenthesised)?
        } else if self.takes_word("not") {
            Audience::Not(Box::new(self.nested(start, Self::one)?))
        } else {
            self.leaf()?
        };
        self.skip_spaces();
        Ok(one)
    }

    fn nested(
        &mut self,
        start: usize,
        inside: fn(&mut Self) -> Result<Audience, ParseError>,
    ) -> Result<Audience, ParseError> {
        self.nesting += 1;
        if self.nesting > AUDIENCE_DEPTH_MAX {
            return Err(self.error_at(start, format!("nested more than {AUDIENCE_DEPTH_MAX} deep")));
        }
        let inside = inside(self)?;
        self.nesting -= 1;
        Ok(inside)
    }

    fn parenthesised(&mut self) -> Result<Audience, ParseError> {
        let inside = self.any_of()?;
        if self.takes(")") { Ok(inside) } else { Err(self.error("expected `and`, `or` or `)`")) }
    }

    fn leaf(&mut self) -> Result<Audience, ParseError> {
        let start = self.at;
        self.leaves += 1;
        if self.leaves > AUDIENCE_NODES_MAX {
            return Err(self.error(format!("more than {AUDIENCE_NODES_MAX} parts")));
        }
        let word = self.word();
        let bare = match word {
            "topic" => Some(Audience::Topic),
            "all" => Some(Audience::All),
            "online" => Some(Audience::Online),
            "offline" => Some(Audience::Offline),
            _ => None,
        };
        self.at += word.len();
        if let Some(bare) = bare {
            return if self.is_at_boundary() {
                Ok(bare)
            } else {
                Err(self.error(format!("nothing may follow {word:?}")))
            };
        }
        if !self.takes(":") {
            return Err(self.error_at(start, expected()));
        }
        match word {
            "terminal" => self.list(TerminalId::new).map(Audience::Terminals),
            "alias" => {
                let alias = |name: String| check_alias(&name).map(|()| name);
                self.list::<_, LabelError>(alias).map(Audience::Aliases)
            }
            "tag" => self.tag(),
            "delivered" => self.push().map(Audience::Delivered),
            "pending" => self.push().map(Audience::Pending),
            "sample" => self.sample().map(Audience::Sample),
            "seen" => self.seen().map(Audience::Seen),
            _ => Err(self.unknown(start, word)),
        }
    }

    fn unknown(&self, start: usize, word: &str) -> ParseError {
        let singular = [("terminals", "terminal:"), ("aliases", "alias:"), ("tags", "tag:")];
        match singular.into_iter().find(|(plural, _)| *plural == word) {
            Some((_, right)) => self.error_at(start + right.len() - 1, format!("it is written {right}")),
            None => self.error_at(start, expected()),
        }
    }

    fn list<T, E: fmt::Display>(
        &mut self,
        check: impl Fn(String) -> Result<T, E>,
    ) -> Result<Vec<T>, ParseError> {
        let mut list = Vec::new();
        loop {
            let at = self.at;
            self.names += 1;
            if self.names > TERMINALS_PER_CALL_MAX {
                return Err(self.error(format!("more than {TERMINALS_PER_CALL_MAX} names")));
            }
            let (value, _) = self.value(&[])?;
            list.push(check(value).map_err(|error| self.error_at(at, error))?);
            if !self.takes(",") {
                return Ok(list);
            }
        }
    }

    fn tag(&mut self) -> Result<Audience, ParseError> {
        let at = self.at;
        let (key, _) = self.value(&['='])?;
        check_tag_key(&key).map_err(|error| self.error_at(at, error))?;
        if !self.takes("=") {
            return Err(self.error("expected `=` and the value of the tag"));
        }
        let at = self.at;
        let (value, quoted) = self.value(&[])?;
        if value.is_empty() && !quoted {
            return Err(self.error_at(at, "the value is missing; an empty one is written \"\""));
        }
        check_tag_value(&value).map_err(|error| self.error_at(at, error))?;
        Ok(Audience::Tag { key, value })
    }

    fn push(&mut self) -> Result<PushId, ParseError> {
        let at = self.at;
        let digits = self.digits();
        let push = digits.parse().map_err(|_| self.error_at(at, "expected the id of a push"))?;
        Ok(PushId(push))
    }

    fn sample(&mut self) -> Result<Sample, ParseError> {
        let from = self.percent()?;
        if !self.takes("-") {
            return Err(self.error("expected `-`: a slice is written sample:A-B%"));
        }
        let at = self.at;
        let to = self.percent()?;
        if !self.takes("%") {
            return Err(self.error("expected `%`: a slice is written sample:A-B%"));
        }
        Sample::new(from, to).ok_or_else(|| self.error_at(at, "the slice is empty: its end must be more"))
    }

    /// Whole days.
    fn seen(&mut self) -> Result<u8, ParseError> {
        let at = self.at;
        let days = self.digits().parse::<u8>().ok().filter(|days| (1..=SEEN_DAYS_MAX).contains(days));
        let days =
            days.ok_or_else(|| self.error_at(at, format!("expected days from 1 to {SEEN_DAYS_MAX}")))?;
        if !self.takes("d") {
            return Err(self.error("expected `d`: days are written seen:30d"));
        }
        Ok(days)
    }

    /// In hundredths.
    fn percent(&mut self) -> Result<u16, ParseError> {
        let at = self.at;
        let whole = self.digits();
        let mut hundredths = whole.parse::<u16>().ok().and_then(|whole| whole.checked_mul(100));
        if self.takes(".") {
            let decimals = self.digits();
            let part = match decimals.len() {
                1 => decimals.parse::<u16>().ok().map(|tenths| tenths * 10),
                2 => decimals.parse().ok(),
                _ => return Err(self.error_at(at, "a percentage has one or two decimals")),
            };
            hundredths = hundredths.zip(part).and_then(|(whole, part)| whole.checked_add(part));
        }
        let percentage = hundredths.filter(|hundredths| *hundredths <= Sample::BUCKETS);
        percentage.ok_or_else(|| self.error_at(at, "expected a percentage from 0 to 100"))
    }

    /// A value, and whether it was quoted.
    fn value(&mut self, ends: &[char]) -> Result<(String, bool), ParseError> {
        let start = self.at;
        if self.takes("\"") {
            return Ok((self.quoted(start)?, true));
        }
        let is_end = |c: char| ends_value(c) || ends.contains(&c);
        let value = self.rest().split(is_end).next().unwrap_or_default();
        self.at += value.len();
        Ok((value.to_owned(), false))
    }

    fn quoted(&mut self, start: usize) -> Result<String, ParseError> {
        let mut value = String::new();
        let mut chars = self.rest().char_indices();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => {
                    self.at += at + 1;
                    return Ok(value);
                }
                '\\' => match chars.next() {
                    Some((_, escaped @ ('"' | '\\'))) => value.push(escaped),
                    _ => {
                        return Err(self.error_at(self.at + at, "only \\\" and \\\\ may follow a backslash"));
                    }
                },
                c => value.push(c),
            }
        }
        Err(self.error_at(start, "the quote is not closed"))
    }

    fn digits(&mut self) -> &'a str {
        let rest = self.rest();
        let digits = &rest[..rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len()];
        self.at += digits.len();
        digits
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    /// The letters that come next.
    fn word(&self) -> &'a str {
        self.rest().split(|c: char| !c.is_alphabetic()).next().unwrap_or_default()
    }

    fn takes(&mut self, token: &str) -> bool {
        let is_next = self.rest().starts_with(token);
        self.at += if is_next { token.len() } else { 0 };
        is_next
    }

    /// An operator, which is a whole word.
    fn takes_word(&mut self, operator: &str) -> bool {
        self.word() == operator && self.takes(operator)
    }

    fn is_at_boundary(&self) -> bool {
        self.rest().chars().next().is_none_or(ends_value)
    }

    fn skip_spaces(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    fn error(&self, why: impl fmt::Display) -> ParseError {
        self.error_at(self.at, why)
    }

    fn error_at(&self, at: usize, why: impl fmt::Display) -> ParseError {
        let (before, after) = self.text.split_at(at);
        let character = before.chars().count();
        let skipped = character.saturating_sub(SHOWN_MAX);
        let ellipsis = if skipped > 0 { "…" } else { "" };
        // A control character would break the picture.
        let visible = |c: char| if c.is_control() { '\u{fffd}' } else { c };
        let around = before.chars().skip(skipped).chain(after.chars().take(SHOWN_MAX)).map(visible);
        let shown = ellipsis.chars().chain(around).collect();
        let column = character - skipped + ellipsis.chars().count();
        ParseError { shown, column, character, at, why: why.to_string() }
    }
}

fn expected() -> String {
    format!("expected {}, not or (", LEAVES.join(", "))
}

impl ParseError {
    /// The byte the error is at.
    pub fn at(&self) -> usize {
        self.at
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { shown, column, character, why, .. } = self;
        write!(f, "{why} at character {}\n  {shown}\n  {:column$}^", character + 1, "")
    }
}

impl std::error::Error for ParseError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(id: &str) -> TerminalId {
        TerminalId::new(id).expect("valid")
    }

    fn tag(key: &str, value: &str) -> Audience {
        Audience::Tag { key: key.to_owned(), value: value.to_owned() }
    }

    fn not(member: Audience) -> Audience {
        Audience::Not(Box::new(member))
    }

    fn sample(from: u16, to: u16) -> Audience {
        Audience::Sample(Sample::new(from, to).expect("a range"))
    }

    fn reads(text: &str, expected: Audience) {
        assert_eq!(parse(text), Ok(expected), "{text}");
    }

    fn wrong(text: &str) -> String {
        parse(text).expect_err(text).to_string()
    }

    #[test]
    fn every_leaf_is_read() {
        reads("all", Audience::All);
        reads("topic", Audience::Topic);
        reads("online", Audience::Online);
        reads("offline", Audience::Offline);
        reads("terminal:tv-1,tv:2", Audience::Terminals(vec![id("tv-1"), id("tv:2")]));
        reads("alias:user-7,user-8", Audience::Aliases(vec!["user-7".into(), "user-8".into()]));
        reads("tag:os=android", tag("os", "android"));
        reads("tag:expr=a=b", tag("expr", "a=b"));
        reads("delivered:7", Audience::Delivered(PushId(7)));
        reads("pending:18446744073709551615", Audience::Pending(PushId(u64::MAX)));
        reads("sample:0-100%", sample(0, 10_000));
        reads("sample:12.5-33.33%", sample(1_250, 3_333));
    }

    #[test]
    fn not_binds_closer_than_and_and_and_closer_than_or() {
        let (a, b, c) = (tag("k", "a"), tag("k", "b"), tag("k", "c"));
        reads(
            "not tag:k=a and tag:k=b or tag:k=c",
            Audience::Or(vec![Audience::And(vec![not(a.clone()), b.clone()]), c.clone()]),
        );
        reads(
            "not (tag:k=a or tag:k=b) and tag:k=c",
            Audience::And(vec![not(Audience::Or(vec![a.clone(), b.clone()])), c.clone()]),
        );
        reads("tag:k=a and tag:k=b and tag:k=c", Audience::And(vec![a.clone(), b, c]));
        reads(" ( ( tag:k=a ) ) ", a.clone());
        reads("not not tag:k=a", not(not(a)));
        reads("all and(not(topic))", Audience::And(vec![Audience::All, not(Audience::Topic)]));
    }

    #[test]
    fn a_quoted_value_holds_any_character() {
        reads("terminal:\"tv (1), or so\",tv-2", Audience::Terminals(vec![id("tv (1), or so"), id("tv-2")]));
        reads("tag:\"a key\"=\"say \\\"hi\\\" \\\\\"", tag("a key", "say \"hi\" \\"));
        reads("tag:k=\"\"", tag("k", ""));
        // Only at the beginning is a quote a quote.
        reads("terminal:tv-19\"", Audience::Terminals(vec![id("tv-19\"")]));
    }

    #[test]
    fn an_error_points_at_its_place() {
        assert_eq!(
            wrong("terminal:tv-1,,tv-2"),
            "terminal id is empty at character 15\n  terminal:tv-1,,tv-2\n                ^"
        );
        for (text, why, character) in [
            ("", "expected terminal:, ", 1),
            ("everyone", "expected terminal:, ", 1),
            ("terminal:", "terminal id is empty", 10),
            ("terminal:ä,", "terminal id is empty", 12),
            ("terminal:a b", "expected `and`, `or` or the end", 12),
            ("topic:news", "nothing may follow \"topic\"", 6),
            ("terminals:a", "it is written terminal:", 9),
            ("all and tags:a=b", "it is written tag:", 12),
            ("all or (topic", "expected `and`, `or` or `)`", 14),
            ("all or topic)", "expected `and`, `or` or the end", 13),
            ("all AND topic", "expected `and`, `or` or the end", 5),
            ("all and", "expected terminal:, ", 8),
            ("not", "expected terminal:, ", 4),
            ("tag:os", "expected `=`", 7),
            ("tag:=x", "tag key is empty", 5),
            ("tag:os= and all", "the value is missing", 8),
            ("alias:\"user 1", "the quote is not closed", 7),
            ("alias:\"user\\1\"", "only \\\" and \\\\ may follow", 12),
            ("delivered:x", "expected the id of a push", 11),
            ("sample:5", "expected `-`", 9),
            ("sample:5-10", "expected `%`", 12),
            ("sample:10-5%", "the slice is empty", 11),
            ("sample:1.234-5%", "a percentage has one or two decimals", 8),
            ("sample:1-100.01%", "expected a percentage from 0 to 100", 10),
            ("sample:99999999-3%", "expected a percentage from 0 to 100", 8),
        ] {
            let said = wrong(text);
            assert!(said.starts_with(why), "{text:?}: {said}");
            assert!(said.contains(&format!(" at character {character}\n")), "{text:?}: {said}");
        }
        assert_eq!(parse("terminal:ä,").expect_err("empty").at(), 12, "in bytes");
        assert!(wrong("terminal:a\nb").contains("terminal:a\u{fffd}b"));
    }

    #[test]
    fn of_a_long_text_only_the_surroundings_of_the_error_are_shown() {
        let said = wrong(&format!("{}x", "all or ".repeat(200)));
        assert!(said.contains(" at character 1401\n  … or all or "), "{said}");
        let caret = said.lines().last().expect("a line").chars().count();
        assert_eq!(said.lines().nth(1).expect("a line").chars().nth(caret - 1), Some('x'));
    }

    #[test]
    fn an_expression_that_is_too_large_is_refused_where_it_gets_so() {
        let deep = |len: usize| format!("{}all{}", "(".repeat(len), ")".repeat(len));
        assert!(parse(&deep(AUDIENCE_DEPTH_MAX)).is_ok());
        assert!(wrong(&deep(AUDIENCE_DEPTH_MAX + 1)).contains("deep at character 17"));
        assert!(wrong(&"(".repeat(1_000_000)).contains("deep at character 17"));
        assert!(wrong(&"not ".repeat(1_000_000)).contains("deep at character 65"));
        let wide = vec!["all"; AUDIENCE_NODES_MAX].join(" or ");
        assert!(wrong(&wide).starts_with("the expression has 257 parts, the most is 256 at character 1"));
        assert!(wrong(&format!("{wide} or all")).starts_with("more than 256 parts at character 1793"));
        let names = vec!["a"; TERMINALS_PER_CALL_MAX + 1].join(",");
        assert!(wrong(&format!("alias:{names}")).starts_with("more than 100000 names"));
    }
}
