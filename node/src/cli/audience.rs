//! The audience of `carillon push --to`.

use std::fmt;

use cluster_proto::{TerminalId, admin};

/// For whom a push is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Audience {
    /// These.
    Terminals(Vec<String>),
    /// Everyone subscribed to the push's topic.
    Topic,
    /// Every registered terminal.
    All,
}

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AudienceError {
    text: String,
    /// In bytes.
    at: usize,
    why: String,
}

const TERMINALS: &str = "terminal:";

impl Audience {
    /// Reads `terminal:ID[,ID...]`, `topic` or `all`.
    pub(crate) fn parse(text: &str) -> Result<Self, AudienceError> {
        match text {
            "topic" => Ok(Self::Topic),
            "all" => Ok(Self::All),
            _ => match text.strip_prefix(TERMINALS) {
                Some(list) => terminals(text, list),
                None => Err(unknown(text)),
            },
        }
    }

    pub(crate) fn into_proto(self) -> admin::Audience {
        use admin::audience::Of;
        let of = match self {
            Self::Terminals(ids) => Of::Terminals(admin::TerminalList { ids }),
            Self::Topic => Of::Topic(admin::Subscribers {}),
            Self::All => Of::All(admin::Everyone {}),
        };
        admin::Audience { of: Some(of) }
    }
}

fn terminals(text: &str, list: &str) -> Result<Audience, AudienceError> {
    let mut at = TERMINALS.len();
    let mut ids = Vec::new();
    for id in list.split(',') {
        if let Err(error) = TerminalId::new(id) {
            return Err(AudienceError { text: text.to_owned(), at, why: error.to_string() });
        }
        ids.push(id.to_owned());
        at += id.len() + 1;
    }
    Ok(Audience::Terminals(ids))
}

fn unknown(text: &str) -> AudienceError {
    let forms = "expected terminal:ID[,ID...], topic or all";
    // The part that was right is not what is wrong.
    let known = ["topic", "all"].into_iter().find(|known| text.starts_with(known));
    let (at, why) = match known {
        Some(known) => (known.len(), format!("nothing may follow {known:?}")),
        None if text.starts_with("terminals:") => (8, "it is written terminal:".to_owned()),
        None => (0, forms.to_owned()),
    };
    AudienceError { text: text.to_owned(), at, why }
}

impl fmt::Display for AudienceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let column = self.text.get(..self.at).map_or(self.at, |before| before.chars().count());
        writeln!(f, "{} at character {}", self.why, column + 1)?;
        // A control character would break the picture.
        let shown: String = self.text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
        writeln!(f, "  {shown}")?;
        write!(f, "  {:column$}^", "")
    }
}

impl std::error::Error for AudienceError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn wrong(text: &str) -> String {
        Audience::parse(text).expect_err(text).to_string()
    }

    #[test]
    fn the_three_forms_are_read() {
        assert_eq!(Audience::parse("all"), Ok(Audience::All));
        assert_eq!(Audience::parse("topic"), Ok(Audience::Topic));
        let two = Audience::Terminals(vec!["tv-1".to_owned(), "tv:2".to_owned()]);
        assert_eq!(Audience::parse("terminal:tv-1,tv:2"), Ok(two));
    }

    #[test]
    fn an_error_points_at_its_place() {
        assert_eq!(
            wrong("terminal:tv-1,,tv-2"),
            "terminal id is empty at character 15\n  terminal:tv-1,,tv-2\n                ^"
        );
        assert!(wrong("terminal:").starts_with("terminal id is empty at character 10"));
        assert!(wrong("terminal:ä,").starts_with("terminal id is empty at character 12"));
        assert!(wrong("terminal:a\nb").contains("terminal:a\u{fffd}b"));
        assert!(wrong("everyone").starts_with("expected terminal:"));
        assert!(wrong("topic:news").starts_with("nothing may follow \"topic\" at character 6"));
        assert!(wrong("terminals:a").starts_with("it is written terminal: at character 9"));
        assert!(wrong("").contains("at character 1"));
    }
}
