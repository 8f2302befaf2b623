//! The config file: TOML, with the line of every setting for error messages.

use std::{ops::Range, path::Path};

use toml::de::{DeTable, DeValue};

use super::{Problem, value::Raw};

/// A setting as found, with where.
#[derive(Debug)]
pub(super) struct Found {
    /// `section.key`.
    pub key: String,
    pub raw: Raw,
    /// `carillon.toml:7`, or the name of a variable.
    pub origin: String,
}

/// All settings of a file, known or not.
pub(super) fn settings(path: &Path, text: &str) -> Result<Vec<Found>, Problem> {
    let file = File { name: path.display().to_string(), text };
    let table = DeTable::parse(text).map_err(|error| {
        let at = error.span().unwrap_or(0..0);
        Problem::new(format!("{} at {}", error.message().trim(), file.line(&at)))
    })?;
    let mut found = Vec::new();
    file.walk("", table.get_ref(), &mut found)?;
    Ok(found)
}

struct File<'a> {
    name: String,
    text: &'a str,
}

impl File<'_> {
    fn walk(&self, prefix: &str, table: &DeTable<'_>, found: &mut Vec<Found>) -> Result<(), Problem> {
        for (name, value) in table {
            let key = match prefix {
                "" => name.get_ref().to_string(),
                prefix => format!("{prefix}.{}", name.get_ref()),
            };
            let origin = self.line(&name.span());
            match value.get_ref() {
                DeValue::Table(table) => self.walk(&key, table, found)?,
                value => {
                    let raw = raw(value).ok_or_else(|| {
                        Problem::new(format!("`{key}` at {origin} has a value of a kind that no setting has"))
                    })?;
                    found.push(Found { key, raw, origin });
                }
            }
        }
        Ok(())
    }

    fn line(&self, span: &Range<usize>) -> String {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        format!("{}:{}", self.name, before.matches('\n').count() + 1)
    }
}

fn raw(value: &DeValue<'_>) -> Option<Raw> {
    Some(match value {
        DeValue::String(text) => Raw::Text(text.to_string()),
        DeValue::Integer(number) => Raw::Word(number.as_str().to_owned()),
        DeValue::Float(number) => Raw::Word(number.as_str().to_owned()),
        DeValue::Boolean(yes) => Raw::Word(yes.to_string()),
        DeValue::Array(items) => {
            Raw::List(items.iter().map(|item| raw(item.get_ref())).collect::<Option<Vec<_>>>()?)
        }
        DeValue::Datetime(_) | DeValue::Table(_) => return None,
    })
}
