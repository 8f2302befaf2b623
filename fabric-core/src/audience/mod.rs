//! The text form of audiences: what `carillon push --to` and the API's `expression` are written in.
//!
//! ```text
//! or      = and { "or" and }
//! and     = not { "and" not }
//! not     = "not" not | "(" or ")" | leaf
//! leaf    = "terminal:" value { "," value } | "alias:" value { "," value } | "tag:" value "=" value
//!         | "topic" | "all" | "online" | "offline"
//!         | "delivered:" push | "pending:" push | "sample:" percent "-" percent "%" | "seen:" days "d"
//! value   = characters without spaces, parentheses and commas | '"' any characters, \" and \\ '"'
//! percent = digits [ "." digit [ digit ] ]
//! ```
//! [`parse`] reads it, [`Text`] writes it: what was written reads as the same expression.

mod parse;
mod text;

pub use self::{
    parse::{ParseError, parse},
    text::Text,
};

/// What ends a value that is not quoted.
fn ends_value(c: char) -> bool {
    c.is_whitespace() || matches!(c, '(' | ')' | ',')
}
