//! From an audience to its text.

use std::fmt::{self, Write as _};

use cluster_proto::{Audience, TerminalId};

use super::ends_value;

/// An audience as it is written.
#[derive(Clone, Copy, Debug)]
pub struct Text<'a>(pub &'a Audience);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Audience::Terminals(ids) => list(f, "terminal:", ids.iter().map(TerminalId::as_str)),
            Audience::All => f.write_str("all"),
            Audience::Topic => f.write_str("topic"),
            Audience::Aliases(names) => list(f, "alias:", names.iter().map(String::as_str)),
            Audience::Tag { key, value: of } => {
                f.write_str("tag:")?;
                value(f, key)?;
                f.write_char('=')?;
                value(f, of)
            }
            Audience::Online => f.write_str("online"),
            Audience::Offline => f.write_str("offline"),
            Audience::Delivered(push) => write!(f, "delivered:{push}"),
            Audience::Pending(push) => write!(f, "pending:{push}"),
            Audience::Sample(sample) => {
                f.write_str("sample:")?;
                percent(f, sample.from())?;
                f.write_char('-')?;
                percent(f, sample.to())?;
                f.write_char('%')
            }
            Audience::Seen(days) => write!(f, "seen:{days}d"),
            Audience::Or(members) => several(f, " or ", members, |member| matches!(member, Audience::Or(_))),
            Audience::And(members) => several(f, " and ", members, binds_looser_than_not),
            Audience::Not(member) => {
                f.write_str("not ")?;
                grouped(f, member, binds_looser_than_not(member))
            }
        }
    }
}

fn binds_looser_than_not(member: &Audience) -> bool {
    matches!(member, Audience::Or(_) | Audience::And(_))
}

fn several(
    f: &mut fmt::Formatter<'_>,
    operator: &str,
    members: &[Audience],
    is_grouped: fn(&Audience) -> bool,
) -> fmt::Result {
    for (n, member) in members.iter().enumerate() {
        if n > 0 {
            f.write_str(operator)?;
        }
        grouped(f, member, is_grouped(member))?;
    }
    Ok(())
}

fn grouped(f: &mut fmt::Formatter<'_>, member: &Audience, is_grouped: bool) -> fmt::Result {
    if is_grouped { write!(f, "({})", Text(member)) } else { write!(f, "{}", Text(member)) }
}

fn list<'a>(f: &mut fmt::Formatter<'_>, what: &str, values: impl Iterator<Item = &'a str>) -> fmt::Result {
    f.write_str(what)?;
    for (n, one) in values.enumerate() {
        if n > 0 {
            f.write_char(',')?;
        }
        value(f, one)?;
    }
    Ok(())
}

fn value(f: &mut fmt::Formatter<'_>, value: &str) -> fmt::Result {
    if !value.is_empty() && !value.starts_with('"') && !value.contains(ends_value) {
        return f.write_str(value);
    }
    f.write_char('"')?;
    for c in value.chars() {
        if matches!(c, '"' | '\\') {
            f.write_char('\\')?;
        }
        f.write_char(c)?;
    }
    f.write_char('"')
}

/// With no more decimals than it needs.
fn percent(f: &mut fmt::Formatter<'_>, hundredths: u16) -> fmt::Result {
    let (whole, part) = (hundredths / 100, hundredths % 100);
    match part {
        0 => write!(f, "{whole}"),
        part if part.is_multiple_of(10) => write!(f, "{whole}.{}", part / 10),
        part => write!(f, "{whole}.{part:02}"),
    }
}
